"""What is remembered of the subscriptions that we have made: what we sent, and what Graph granted.

Graph's answers have been seen to spell a resource otherwise, to leave change types or the query of the notification URL
out, and to show a list that is empty. So of an answer about a subscription that is remembered only its id and its
expiration are believed; everything else is what we sent. What is not remembered is recognised by a normal form of its
resource.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final
from urllib.parse import unquote

import msgspec

from shared.subscriptions.readings import Reading
from shared.values import resources
from shared.values.errors import SwitchboardError
from shared.values.graph import Subscription
from shared.values.moment import Moment
from shared.values.resource_row import ResourceKind

SKEW: Final = timedelta(minutes=5)
"""How far the clocks of machines may be apart: what has expired for so long has expired on all of them."""

LONGEST_LIFE: Final = max(kind.max_lifetime for kind in resources.CATALOGUE.values())

_RESOURCES: Final = 32_768  # each is compared several times a run, and there may be 10,000 of them
_DECODINGS: Final = 4  # a joinWebUrl is encoded twice
_KEY_SEGMENT: Final = re.compile(r"(?<![=\w])(\w+)\('([^'=]*)'\)")
_GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_SLASHES: Final = re.compile(r"/{2,}")
_BLANKS: Final = re.compile(r"\s+")
_BLANKS_AROUND: Final = re.compile(r"\s*([(),=])\s*")
_FIRST_HOLD: Final = timedelta(minutes=10)
_DOUBLINGS: Final = 4
type _Life = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]  # what a timedelta holds
_HELD_FROM: Final = 3  # creations of one thing that are not to be seen


class Remembered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A subscription by what we sent; `life` is what Graph granted, in seconds.

    One that we have not made, or of which that is forgotten, is kept by what Graph told of it: then `sent` is False.
    """

    kind: str  # of the catalogue
    resource: str  # the path of the desired thing; where it is not `sent`, it may be Graph's spelling of it
    url: str  # the notification URL; it may carry a function key
    change_type: str
    expires: Moment
    life: _Life
    certificate_id: str | None = None
    kept_certificate: str | None = None
    sent: bool = False  # by a POST, to the letter


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The last POST of a kind, where Graph did not accept it."""

    resource: str
    reason: str


class Creation(msgspec.Struct, frozen=True, kw_only=True):
    """A POST that may have made what nobody sees; if it did, that lives until `until`."""

    at: Moment
    until: Moment


class Memory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is remembered of a tenant.

    `known` is by id. `faceless` are ids of which nothing else is known, each with the time until which it counts.
    `refusals` are by kind, `unseen` by the path of the desired thing, `readings` of what is desired by its source.
    """

    known: Mapping[str, Remembered] = {}
    faceless: Mapping[str, Moment] = {}
    refusals: Mapping[str, Refusal] = {}
    unseen: Mapping[str, Sequence[Creation]] = {}
    readings: Mapping[str, Reading] = {}

    @property
    def has_made_nothing(self) -> bool:
        """Whether no run has left anything but how it read what is desired."""
        return not (self.known or self.faceless or self.refusals or self.unseen)


@dataclass(frozen=True, slots=True)
class Recollection:
    """What is remembered, and what of it could not be read; `is_first`: no run has ever made anything."""

    memory: Memory = field(default_factory=Memory)
    problems: tuple[SwitchboardError, ...] = ()
    is_first: bool = False


@dataclass(slots=True)
class Changes:
    """What a run has learned, to be brought into what is remembered when it is saved: another may have saved too.

    Bringing it in twice changes nothing more, so what could not be saved is kept for the next time.
    """

    known: dict[str, Remembered] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    refusals: dict[str, Refusal | None] = field(default_factory=dict)
    unseen: defaultdict[str, list[Creation]] = field(default_factory=lambda: defaultdict(list))
    seen: set[str] = field(default_factory=set)  # desired things of which a creation has been seen
    wanted: frozenset[str] | None = None  # all that is desired; None where that is not known
    readings: dict[str, Reading] = field(default_factory=dict)
    sources: frozenset[str] | None = None  # what readings there may be of; None where that is not known

    def saw(self, subscription: Subscription) -> None:
        """A subscription of ours is there."""
        if (found := remembered(subscription)) is not None:
            self.known[subscription.id] = found
            self.gone.discard(subscription.id)

    def lost(self, subscription_id: str) -> None:
        """It is there no more."""
        self.known.pop(subscription_id, None)
        self.gone.add(subscription_id)

    def accepted(self, kind: ResourceKind) -> None:
        self.refusals[kind.key] = None

    def refused(self, kind: ResourceKind, resource: str, reason: str) -> None:
        self.refusals[kind.key] = Refusal(resource=resource, reason=reason)

    def add(self, later: "Changes") -> None:
        """Take over what was learned later, but for what was desired then."""
        self.known = {identity: one for identity, one in self.known.items() if identity not in later.gone} | later.known
        self.gone = self.gone.difference(later.known) | later.gone
        self.refusals |= later.refusals
        for resource, creations in later.unseen.items():
            self.unseen[resource] += creations
        self.seen = (self.seen - later.unseen.keys()) | later.seen
        self.readings |= later.readings

    def applied(self, memory: Memory, now: datetime) -> Memory:
        """The memory with these changes, and without what is over."""
        known = {
            identity: one
            for identity, one in (dict(memory.known) | self.known).items()
            if identity not in self.gone and one.expires > now - SKEW
        }
        faceless = {
            identity: until
            for identity, until in memory.faceless.items()
            if until > now and identity not in self.gone and identity not in known
        }
        refusals = {
            kind: found
            for kind, found in (dict(memory.refusals) | self.refusals).items()
            if found is not None and (self.wanted is None or found.resource in self.wanted)
        }
        unseen = {
            resource: found
            for resource in {*memory.unseen, *self.unseen}
            if resource not in self.seen
            and (
                found := [
                    one
                    for one in dict.fromkeys((*memory.unseen.get(resource, ()), *self.unseen.get(resource, ())))
                    if one.until > now
                ]
            )
        }
        readings = {
            source: reading
            for source, reading in (dict(memory.readings) | self.readings).items()
            if self.sources is None or source in self.sources
        }
        return Memory(known=known, faceless=faceless, refusals=refusals, unseen=unseen, readings=readings)


def remembered(subscription: Subscription) -> Remembered | None:
    """What is to be kept of a subscription of ours; None where its resource is in no row of the catalogue."""
    if subscription.kind is None or subscription.life is None:
        return None
    return Remembered(
        kind=subscription.kind.key,
        resource=subscription.resource,
        url=subscription.notification_url,
        change_type=subscription.change_type,
        expires=subscription.expires,
        life=subscription.life.total_seconds(),
        certificate_id=subscription.certificate_id,
        kept_certificate=subscription.kept_certificate,
        sent=subscription.sent,
    )


def recalled(identity: str, tenant_id: str, known: Remembered) -> Subscription | None:
    """A subscription as it is remembered; None where its kind has left the catalogue."""
    kind = resources.CATALOGUE.get(known.kind)
    if kind is None:
        return None
    return Subscription(
        id=identity,
        tenant_id=tenant_id,
        api_version=kind.form(known.resource).api_version,
        resource=known.resource,
        change_type=known.change_type,
        notification_url=known.url,
        expires=known.expires,
        certificate_id=known.certificate_id,
        life=timedelta(seconds=known.life),
        kept_certificate=known.kept_certificate,
        remembered=True,
        sent=known.sent,
    )


def believed(found: Subscription, known: Remembered | None) -> Subscription:
    """What to make of a subscription that Graph shows: its expiration, and else what we sent, if we remember that."""
    subscription = None if known is None else recalled(found.id, found.tenant_id, known)
    if subscription is None:
        return found
    expires = found.expires if found.expires_told else subscription.expires
    return replace(
        subscription, expires=expires, spelling=found.spelling or found.resource, expires_told=found.expires_told
    )


def held_until(creations: Collection[Creation]) -> datetime | None:
    """Until when nothing more is to be made of a thing whose creations are not to be seen.

    That is twice as long each time, but no longer than what may be lived without: whatever hid them may be over. As
    callRecords live, there are then some thirty of them, of a hundred.
    """
    if len(creations) < _HELD_FROM:
        return None
    times: int = 2 ** min(len(creations) - _HELD_FROM, _DOUBLINGS)
    return max(one.at for one in creations) + _FIRST_HOLD * times


class Names:
    """Which desired thing a subscription is for, however Graph spells it.

    A path that is exactly a desired one is that one. Another, unless it is what we sent, is recognised by its normal
    form, if that of one desired path alone is the same.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._exact = frozenset(paths)
        self._normal: defaultdict[str, list[str]] = defaultdict(list)
        for path in self._exact:
            self._normal[normal_form(path)].append(path)

    def recognised(self, subscription: Subscription) -> str | None:
        """The desired path, or None where there is none or more than one."""
        if subscription.resource in self._exact:
            return subscription.resource
        found = () if subscription.sent else self._normal.get(normal_form(subscription.resource), ())
        return found[0] if len(found) == 1 else None


@lru_cache(maxsize=_RESOURCES)
def normal_form(resource: str) -> str:
    """A resource path for comparing with one that Graph may spell otherwise.

    Outside quotes, case, blanks and ``+`` do not count; nowhere do percent-encoding, doubled slashes, slashes at the
    ends and before the query, the case of a GUID, and whether a key stands in parentheses or in a segment of its own.
    """
    text = resource.strip()
    for _ in range(_DECODINGS):
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    parts = text.split("'")
    parts = [
        _GUID.sub(lambda found: found[0].lower(), part)
        if place % 2
        else _BLANKS_AROUND.sub(r"\1", _BLANKS.sub(" ", part.replace("+", " ").casefold()))
        for place, part in enumerate(parts)
    ]
    text = _KEY_SEGMENT.sub(lambda found: f"{found[1]}/{found[2].casefold()}", "'".join(parts))
    path, mark, query = text.partition("?")
    return _SLASHES.sub("/", path).strip("/ ") + mark + query.strip()
