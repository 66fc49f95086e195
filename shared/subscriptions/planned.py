"""What a run speaks of: what is desired, what is to be done about it and why, and what could not be done."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shared.values.errors import SwitchboardError
from shared.values.graph import Subscription
from shared.values.resource_row import PathForm, ResourceKind


@dataclass(frozen=True, slots=True)
class Desired:
    """A subscription that should exist. Two of them are the same if tenant and resource are, to the letter."""

    tenant_id: str
    kind: ResourceKind = field(hash=False, repr=False)
    resource: str
    rich: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.tenant_id, self.resource

    @property
    def form(self) -> PathForm:
        return self.kind.form(self.resource)


class Verb(StrEnum):
    CREATE = "create"
    RENEW = "renew"
    REPLACE = "replace"
    DELETE = "delete"
    LEAVE = "leave"


class Reason(StrEnum):
    MISSING = "missing"
    HALF_LIFE = "half-life"
    REAUTHORIZATION = "reauthorization"
    CERTIFICATE = "certificate"
    NOTIFICATION_URL = "notification-url"
    CLIENT_STATE = "client-state"
    UNKNOWN_MARK = "unknown-mark"
    RESOURCE_DATA = "resource-data"
    CHANGE_TYPE = "change-type"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    DUPLICATE = "duplicate"
    UNWANTED = "unwanted"
    FRESH = "fresh"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, and why.

    `desired` is None for a subscription that nothing asks for, `subscription` for one that does not exist. `kind` is
    None only where `verb` is LEAVE or DELETE. `deadline` orders actions: the most urgent has the earliest.
    `delete_first` allows a REPLACE to delete the old one before its successor is there, where Graph does not hold both.
    `kept` is what stays when a duplicate is deleted: it is looked at once more before. `probe` has a REPLACE try once
    more first whether a renewal does.
    """

    verb: Verb
    reason: Reason
    tenant_id: str
    kind: ResourceKind | None = field(hash=False, repr=False)
    deadline: datetime
    desired: Desired | None = None
    subscription: Subscription | None = None
    delete_first: bool = False
    kept: Subscription | None = None
    probe: bool = False

    @property
    def needs_turn(self) -> bool:
        """Whether it makes or deletes something, which one run at a time may do."""
        return self.verb in {Verb.CREATE, Verb.REPLACE, Verb.DELETE}


@dataclass(frozen=True, slots=True)
class Course:
    """What a run has found out so far, besides what there is.

    `begun` are the ids that it has renewed or tried to, `refused` those of them that Graph did not renew, and why.
    `refused_kinds` are the tenants and kinds of which Graph refused the last creation. `held` are desired things of
    which nothing more is to be made for now, and `paused` kinds of which nothing is to be made or renewed.
    """

    begun: Collection[str] = frozenset()
    refused: Mapping[str, SwitchboardError] = field(default_factory=dict)
    refused_kinds: Collection[tuple[str, str]] = frozenset()
    held: Collection[tuple[str, str]] = frozenset()
    paused: Collection[str] = frozenset()


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
