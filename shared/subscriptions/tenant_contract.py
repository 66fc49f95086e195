"""What a tenant's part of a run is asked for, what it asks of others, and what it tells."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from shared.subscriptions.listing import Lists
from shared.subscriptions.memory import Changes, Memory, Recollection
from shared.values.errors import SwitchboardError


class Stage(StrEnum):
    """Where something was not done."""

    DESIRED_STATE = "desired-state"
    CERTIFICATE = "certificate"
    GROUP = "group"
    LIST = "list"
    READ = "read"
    KNOWN = "known"
    TURN = "turn"
    SETTINGS = "settings"
    SUBSCRIPTION = "subscription"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What was not done once, and why."""

    tenant_id: str
    stage: Stage
    error: SwitchboardError
    kind: str | None = None
    identity: str | None = None
    next: str | None = None


class Graph(Lists, Protocol):
    """What a tenant's part asks of Graph; see `shared.subscriptions.graph.GraphClient`."""

    async def group_members(self, tenant_id: str, group_id: str) -> tuple[str, ...]: ...


class Turn(Protocol):
    """The right to make and delete in a tenant; see `shared.subscriptions.state.Turn`."""

    async def take(self) -> None: ...
    async def keep(self) -> None: ...
    async def release(self) -> None: ...


class Known(Protocol):
    """Where what is remembered is kept; see `shared.subscriptions.state`."""

    async def load(self, tenant_id: str) -> Recollection: ...
    async def save(self, tenant_id: str, changes: Changes, now: datetime) -> Memory: ...
    def turn(self, tenant_id: str) -> Turn: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What a run was asked for. `gone` are ids that Graph said it has removed, should its list still show them."""

    prune: bool = False
    gone: frozenset[str] = frozenset()
