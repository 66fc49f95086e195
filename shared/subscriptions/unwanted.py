"""What nobody desires any more: how long it is kept, what waits for an operator's confirmation, and where that lies."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from shared.storage.ports import Blobs, Version
from shared.values import resources
from shared.values.errors import UnavailableError
from shared.values.graph import Subscription
from shared.values.times import Moment

UNWANTED_FOR: Final = timedelta(hours=1)
"""For how long all readings have to say that nobody desires a subscription before it is removed."""

READINGS_APART: Final = UNWANTED_FOR / 2
"""How far two whole readings may lie apart without the hour beginning anew, clocks that differ aside."""

BRAKE_PERIOD: Final = timedelta(hours=24)
"""Removals within it count together; so much may be removed without anybody's confirmation."""

_MOST_TOGETHER: Final = 5
_TENTH: Final = 10
_EMERGENCIES: Final = frozenset(
    kind.key for kind in resources.CATALOGUE.values() if kind.raw_queue == resources.EMERGENCY_QUEUE
)

CONFIRMATIONS: Final = ("config", "unsubscribe.json")
"""The container and the name of the blob that `manage.py subscriptions confirm` writes."""

CONFIRMED_FOR: Final = timedelta(hours=24)
_CLOCKS_DIFFER: Final = timedelta(minutes=5)
_CONFLICTS: Final = 10  # others who may write in between

_log = logging.getLogger(__name__)


class Waits(StrEnum):
    """Why something that nobody desires is kept until an operator confirms that it goes."""

    FIRST_RECORD = "first-record"  # it was unwanted when somebody looked for the first time
    EMERGENCY = "emergency"
    LAST_OF_ITS_KIND = "last-of-its-kind"
    TOO_MANY = "too-many"
    SWITCHED_OFF = "switched-off"  # by UNSUBSCRIBE=never: a confirmation changes nothing

    @classmethod
    def _missing_(cls, value: object) -> "Waits":
        """A reason of a later version's; each run finds its own, and what is remembered beside it is to be read."""
        return cls.TOO_MANY


class Unwanted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A subscription of ours that nobody desires; `since` the first whole reading of what is desired that said so.

    `inherited`: that reading was the first of all. `waits` is why it is kept until an operator confirms that it goes;
    None where it goes by itself. `confirmed`: an operator has said that it goes, and so it does not count as removed.
    """

    kind: str  # of the catalogue
    resource: str
    since: Moment
    inherited: bool = False
    waits: Waits | None = None
    confirmed: bool = False

    @property
    def needs_confirmation(self) -> bool:
        return self.waits not in {None, Waits.SWITCHED_OFF}


class Review(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What nobody desires, by id, as the last run of the timer found it.

    `whole_since` and `whole_until` are the first and the last of the runs that have all read all that is desired, each
    soon enough after the one before; None where the last one did not, and where nothing is unwanted. `removals` are
    those of the last day that nobody confirmed, each with its time: they are noted before they are tried, so one that
    is still there was none.
    """

    unwanted: Mapping[str, Unwanted] = {}
    whole_since: Moment | None = None
    whole_until: Moment | None = None  # not told by the version before: then nobody knows how long ago that was
    removals: Mapping[str, Moment] = {}

    def without(self, ids: Collection[str]) -> "Review":
        """The same without what is gone."""
        kept = {identity: entry for identity, entry in self.unwanted.items() if identity not in ids}
        return msgspec.structs.replace(self, unwanted=kept)

    def restarted(self) -> "Review":
        """The same with the hour of whole readings beginning with the next one."""
        return msgspec.structs.replace(self, whole_since=None, whole_until=None)

    def with_removals(self, removals: Mapping[str, datetime], now: datetime) -> "Review":
        """The same with more removals, and without those that are older than a day."""
        both = {**removals, **self.removals}
        return msgspec.structs.replace(
            self, removals={identity: at for identity, at in both.items() if at > now - BRAKE_PERIOD}
        )


def review_unwanted(
    unwanted: Mapping[str, Subscription],
    wanted: Iterable[Subscription],
    before: Review | None,
    now: datetime,
    *,
    confirmed: Mapping[str, datetime],
    unsubscribes: bool = True,
) -> Review:
    """Decide what of all that nobody desires has to wait for a confirmation, by a whole reading of what is desired.

    What has not goes an hour after it was first unwanted; see `due_for_removal`. These wait: what was unwanted when
    somebody looked for the first time, an emergency policy's subscription, the last one of its kind, and all others
    once together with the unconfirmed removals of the last day they are more than five, or more than one and more than
    a tenth of the tenant's. A confirmation that is younger than all that ends the waiting.

    Args:
        unwanted: live subscriptions of ours for which nothing asks, by id, all in one tenant.
        wanted: the tenant's other live subscriptions of ours, whose notifications are taken.
        before: what the run before decided; None if this is the first to look, and then all wait.
        now: the time.
        confirmed: ids that an operator has confirmed to go, each with when.
        unsubscribes: whether anything goes at all.
    """
    known = {} if before is None else before.unwanted
    entries = {
        identity: known.get(identity)
        or Unwanted(kind=_key(existing), resource=existing.resource, since=now, inherited=before is None)
        for identity, existing in unwanted.items()
    }
    others = tuple(wanted)
    there = unwanted.keys() | {existing.id for existing in others}
    removals = {} if before is None else before.with_removals({}, now).removals
    removals = {identity: at for identity, at in removals.items() if identity not in there}
    kinds_left = {_key(existing) for existing in others}
    waits: dict[str, Waits | None] = {}
    to_go = {
        identity
        for identity, entry in entries.items()
        if identity in confirmed and confirmed[identity] >= entry.since - _CLOCKS_DIFFER
    }
    for identity, entry in entries.items():
        if not unsubscribes:
            waits[identity] = Waits.SWITCHED_OFF
        elif identity in to_go:
            waits[identity] = None
        elif entry.inherited:
            waits[identity] = Waits.FIRST_RECORD
        elif entry.kind in _EMERGENCIES:
            waits[identity] = Waits.EMERGENCY
        elif entry.kind not in kinds_left:
            waits[identity] = Waits.LAST_OF_ITS_KIND
    free = entries.keys() - waits.keys()
    together = len(free) + len(removals)
    is_too_many = together > _MOST_TOGETHER or (
        together > 1 and together * _TENTH > len(entries) + len(others) + len(removals)
    )
    # What has once been too many goes on waiting: the others may have ended by themselves, and nobody has confirmed it.
    waits |= {identity: Waits.TOO_MANY for identity in free if is_too_many or entries[identity].waits is Waits.TOO_MANY}
    return Review(
        unwanted={
            identity: msgspec.structs.replace(entry, waits=waits.get(identity), confirmed=identity in to_go)
            for identity, entry in entries.items()
        },
        whole_since=_whole_since(before, now) if entries else None,
        whole_until=now if entries else None,
        removals=removals,
    )


def _whole_since(before: Review | None, now: datetime) -> datetime:
    """Since when one whole reading has followed the other, up to the one of now."""
    if before is None or before.whole_since is None or before.whole_until is None:
        return now
    # A clock that was set back says as little of the time between as too long a time does.
    is_next = -_CLOCKS_DIFFER <= now - before.whole_until <= READINGS_APART + _CLOCKS_DIFFER
    return before.whole_since if is_next else now


def due_for_removal(review: Review, now: datetime) -> set[str]:
    """Ids that nobody has desired for an hour of whole readings, and that wait for no confirmation."""
    if review.whole_since is None or review.whole_since > now - UNWANTED_FOR:
        return set()
    return {
        identity
        for identity, entry in review.unwanted.items()
        if entry.waits is None and entry.since <= now - UNWANTED_FOR
    }


class _Confirmed(msgspec.Struct, frozen=True, kw_only=True):
    """The blob: ids of subscriptions, each with when an operator confirmed that it goes."""

    confirmed: Mapping[str, Moment] = {}


class Confirmations:
    """What an operator has confirmed to be unsubscribed, beside the desired state: for a day, each id by itself.

    Graph gives an id once only, so a confirmation is spent when its subscription has gone.
    """

    def __init__(self, blobs: Blobs, now: Callable[[], datetime]) -> None:
        self._blobs = blobs
        self._now = now

    async def load(self) -> Mapping[str, datetime]:
        """The ids that are confirmed, each with when; a blob that cannot be read confirms nothing.

        Raises:
            UnavailableError: storage did not answer.
        """
        return self._valid(await self._blobs.get_version(*CONFIRMATIONS))

    async def add(self, ids: Collection[str]) -> None:
        """Confirm that these go; what was confirmed within the last day stays so, also by another operator meanwhile.

        Raises:
            UnavailableError: storage did not take it.
        """
        for _ in range(_CONFLICTS):
            version = await self._blobs.get_version(*CONFIRMATIONS)
            confirmed = dict(self._valid(version)) | dict.fromkeys(ids, self._now())
            data = msgspec.json.encode(_Confirmed(confirmed=confirmed))
            if await self._blobs.put_version(*CONFIRMATIONS, data, None if version is None else version.etag):
                return
        raise UnavailableError("the confirmations", reason="state-contended")

    def _valid(self, version: Version | None) -> Mapping[str, datetime]:
        try:
            known = _Confirmed() if version is None else msgspec.json.decode(version.data, type=_Confirmed)
        except (ValueError, RecursionError):
            _log.error("the blob %s/%s cannot be read, and confirms nothing", *CONFIRMATIONS)
            return {}
        now = self._now()
        return {
            identity: at for identity, at in known.confirmed.items() if now - CONFIRMED_FOR < at < now + _CLOCKS_DIFFER
        }


def _key(existing: Subscription) -> str:
    return "" if existing.kind is None else existing.kind.key
