"""What the last renewal run found, kept where every worker can read it."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol

import msgspec

from shared.domain.graph import Subscription
from shared.domain.resources import CATALOGUE
from shared.services.renew import RenewalReport
from shared.services.telemetry import Life

STATE_CONTAINER: Final = "state"
_NAME: Final = "renewal.json"


_LISTED: Final = 50  # one by one; ten thousand would be a megabyte to be read by everybody who asks how things are
_UNKNOWN_KIND: Final = "unknown"


class SubscriptionState(msgspec.Struct, frozen=True, kw_only=True):
    """A live subscription; `kind` is the catalogue's key."""

    id: str
    kind: str
    expires: datetime


class RenewalState(msgspec.Struct, frozen=True, kw_only=True):
    """A finished run. `nearest_expiry` is when the subscription nearest to its end ends; None where there is none."""

    finished: datetime
    desired: int
    live: int
    nearest_expiry: datetime | None
    outcomes: Mapping[str, int]
    failures: tuple[str, ...]  # "{kind}: {reason} x {count}"; ids and names stay out of it
    by_kind: Mapping[str, int] = {}  # live ones
    subscriptions: tuple[SubscriptionState, ...] = ()  # those nearest to their end


class StateBlobs(Protocol):
    async def put(self, container: str, name: str, data: bytes) -> str: ...
    async def get(self, container: str, name: str) -> bytes | None: ...


class RenewalStates:
    """Keeps the state of the last run."""

    def __init__(self, blobs: StateBlobs) -> None:
        self._blobs = blobs

    async def save(self, report: RenewalReport) -> None:
        """Keep what a run found.

        Raises:
            UnavailableError: storage did not take it.
        """
        state = RenewalState(
            finished=report.finished,
            desired=report.desired,
            live=report.live,
            nearest_expiry=None if report.nearest is None else report.finished + report.nearest,
            outcomes={str(outcome): count for outcome, count in report.outcomes.items()},
            by_kind=Counter(_kind(one) for one in report.subscriptions),
            subscriptions=tuple(
                SubscriptionState(id=one.id, kind=_kind(one), expires=one.expires)
                for one in report.subscriptions[:_LISTED]
            ),
            failures=tuple(f"{found.what}: {found.reason} x {found.count}" for found in report.failures),
        )
        await self._blobs.put(STATE_CONTAINER, _NAME, msgspec.json.encode(state))

    async def latest(self) -> RenewalState | None:
        """The last run's state; None where no run has finished yet.

        Raises:
            UnavailableError: storage did not answer.
        """
        data = await self._blobs.get(STATE_CONTAINER, _NAME)
        return None if data is None else msgspec.json.decode(data, type=RenewalState)


def lives_by_kind(report: RenewalReport) -> dict[str, Life]:
    """Of each kind, the subscription that comes first to a quarter of its life; of one that has none left, its end."""
    lives: dict[str, Life] = {}
    for one in report.subscriptions:
        if one.kind is not None:
            life = Life(one.expires, one.life or one.kind.max_lifetime)
            lives[one.kind.key] = min(life, lives.get(one.kind.key, life), key=lambda life: life.quarter)
    for failure in report.failures:
        if (kind := CATALOGUE.get(failure.kind or "")) is not None:
            lives.setdefault(kind.key, Life(report.finished, kind.max_lifetime))
    return lives


def _kind(one: Subscription) -> str:
    return _UNKNOWN_KIND if one.kind is None else one.kind.key
