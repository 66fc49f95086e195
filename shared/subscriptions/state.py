"""What is remembered of the subscriptions that we have made, what we sent and what Graph granted; and where.

Graph's answers have been seen to spell a resource otherwise, to leave change types or the query of the notification URL
out, and to show a list that is empty: for days, while each subscription was alive and could be read by its id (issues
5681, 15648 and 17354 of https://github.com/microsoftgraph/microsoft-graph-docs). So of an answer about a subscription
that is remembered only its id and its expiration are believed; everything else is what we sent. What is not remembered
is recognised by a normal form of its resource.

The version before this one kept a list of ids alone, and may run beside it while a deployment rolls: its blob is read
for ids that it has added, and kept up.
"""

import secrets
import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Annotated, Final

import msgspec

from shared.storage.ports import STATE_CONTAINER, Blobs
from shared.subscriptions.desired_source import Reading
from shared.subscriptions.unwanted import Review
from shared.values import resources
from shared.values.errors import MalformedInputError, NoTurnError, SwitchboardError, UnavailableError
from shared.values.graph import Subscription
from shared.values.resource_row import ResourceKind
from shared.values.times import Moment

_NAME: Final = "known/{}.json"
_IDS: Final = "subscriptions-{}.json"
_TURN: Final = "turn/{}"
_LEASE_SECONDS: Final = 60  # the longest that storage lends
_CONFLICTS: Final = 10
SKEW: Final = timedelta(minutes=5)
"""How far the clocks of machines may be apart: what has expired for so long has expired on all of them."""

LONGEST_LIFE: Final = max(kind.max_lifetime for kind in resources.CATALOGUE.values())

_FIRST_HOLD: Final = timedelta(minutes=10)
_DOUBLINGS: Final = 4
type _Life = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]  # what a timedelta holds
_HELD_FROM: Final = 3  # after so many creations of a thing that no list shows, the next one waits


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
    version: str | None = None  # of the API, where it is not the one that the form prefers


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The last POST of a kind, where Graph did not accept it; and when, where it is not to be repeated soon."""

    resource: str
    reason: str
    at: Moment | None = None


class Creation(msgspec.Struct, frozen=True, kw_only=True):
    """A POST that may have made what nobody sees; if it did, that lives until `until`."""

    at: Moment
    until: Moment


class Memory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is remembered of a tenant.

    `known` is by id. `faceless` are ids of which nothing else is known, each with the time until which it counts.
    `refusals` are by kind, `unseen` by the path of the desired thing, `readings` of what is desired by its source.
    `review` is None until a run of the timer has looked for what nobody desires.
    """

    known: Mapping[str, Remembered] = {}
    faceless: Mapping[str, Moment] = {}
    refusals: Mapping[str, Refusal] = {}
    unseen: Mapping[str, Sequence[Creation]] = {}
    readings: Mapping[str, Reading] = {}
    review: Review | None = None

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
    review: Review | None = None  # None where nobody looked

    def saw(self, subscription: Subscription) -> None:
        """A subscription of ours is there."""
        if (entry := remembered(subscription)) is not None:
            self.known[subscription.id] = entry
            self.gone.discard(subscription.id)

    def lost(self, subscription_id: str) -> None:
        """It is there no more."""
        self.known.pop(subscription_id, None)
        self.gone.add(subscription_id)

    def accepted(self, kind: ResourceKind) -> None:
        self.refusals[kind.key] = None

    def refused(self, kind: ResourceKind, resource: str, reason: str, at: datetime | None = None) -> None:
        self.refusals[kind.key] = Refusal(resource=resource, reason=reason, at=at)

    def add(self, later: "Changes") -> None:
        """Take over what was learned later, but for what was desired then."""
        self.known = {identity: one for identity, one in self.known.items() if identity not in later.gone} | later.known
        self.gone = self.gone.difference(later.known) | later.gone
        self.refusals |= later.refusals
        for resource, creations in later.unseen.items():
            self.unseen[resource] += creations
        self.seen = (self.seen - later.unseen.keys()) | later.seen
        self.readings |= later.readings
        if later.review is not None and self.review is not None:
            self.review = msgspec.structs.replace(
                later.review, removals={**self.review.removals, **later.review.removals}
            )
        else:
            self.review = later.review or self.review

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
            kind: refusal
            for kind, refusal in (dict(memory.refusals) | self.refusals).items()
            if refusal is not None and (self.wanted is None or refusal.resource in self.wanted)
        }
        unseen = {
            resource: creations
            for resource in {*memory.unseen, *self.unseen}
            if resource not in self.seen
            and (
                creations := [
                    creation
                    for creation in dict.fromkeys((*memory.unseen.get(resource, ()), *self.unseen.get(resource, ())))
                    if creation.until > now
                ]
            )
        }
        readings = {
            source: reading
            for source, reading in (dict(memory.readings) | self.readings).items()
            if self.sources is None or source in self.sources
        }
        review = self.review or memory.review
        if review is not None and memory.review is not None:  # no run takes back what another has removed
            review = review.with_removals(memory.review.removals, now)
        return Memory(
            known=known,
            faceless=faceless,
            refusals=refusals,
            unseen=unseen,
            readings=readings,
            review=None if review is None else review.without(self.gone),
        )


def remembered(subscription: Subscription) -> Remembered | None:
    """What is to be kept of a subscription of ours; None where its resource is in no row of the catalogue."""
    if subscription.kind is None or subscription.life is None:
        return None
    preferred = subscription.kind.form(subscription.resource).api_version
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
        version=None if subscription.api_version == preferred else subscription.api_version,
    )


def recalled(identity: str, tenant_id: str, known: Remembered) -> Subscription | None:
    """A subscription as it is remembered; None where its kind has left the catalogue."""
    kind = resources.CATALOGUE.get(known.kind)
    if kind is None:
        return None
    return Subscription(
        id=identity,
        tenant_id=tenant_id,
        api_version=kind.form(known.resource).version_near(known.version),
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


def believed(told: Subscription, known: Remembered | None) -> Subscription:
    """What to make of what Graph tells of a subscription: its expiration, and else what we sent, if that is known."""
    recollection = None if known is None or told.remembered else recalled(told.id, told.tenant_id, known)
    if recollection is None:
        return told
    return replace(
        recollection,
        expires=told.expires if told.expires_told else recollection.expires,
        spelling=told.spelling or told.resource,
        expires_told=told.expires_told,
    )


def held_until(creations: Collection[Creation]) -> datetime | None:
    """Until when nothing more is to be made of a thing whose creations are not to be seen.

    Each time that is twice as long, up to 160 minutes, since whatever hid them may be over. By then there are about
    thirty creations within a life of callRecords, whose quota is a hundred.
    """
    if len(creations) < _HELD_FROM:
        return None
    times: int = 2 ** min(len(creations) - _HELD_FROM, _DOUBLINGS)
    return max(one.at for one in creations) + _FIRST_HOLD * times


class KnownSubscriptions:
    """A blob for each tenant."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def load(self, tenant_id: str) -> Recollection:
        """What the last run left; nothing where there was no run, or where it cannot be read.

        Raises:
            UnavailableError: storage did not answer.
        """
        recollection, _, _ = await self._read(tenant_id)
        return recollection

    async def save(self, tenant_id: str, changes: Changes, now: datetime) -> Memory:
        """Bring changes into what is kept; another worker may do so at the same time, and neither is lost.

        Raises:
            UnavailableError: storage did not take them.
        """
        for _ in range(_CONFLICTS):
            before, etag, ids = await self._read(tenant_id)
            changed = changes.applied(before.memory, now)
            if changed != before.memory or before.problems:
                data = msgspec.json.encode(changed)
                if not await self._blobs.put_version(STATE_CONTAINER, _NAME.format(tenant_id), data, etag):
                    continue
            there = frozenset({*changed.known, *changed.faceless})
            if there != ids or before.problems:
                await self._blobs.put(STATE_CONTAINER, _IDS.format(tenant_id), msgspec.json.encode(sorted(there)))
            return changed
        raise UnavailableError("what is known of subscriptions", reason="state-contended")

    def turn(self, tenant_id: str) -> "TurnLease":
        """The right to make and delete subscriptions in a tenant: one run's at a time."""
        return TurnLease(self._blobs, _TURN.format(tenant_id))

    async def _read(self, tenant_id: str) -> tuple[Recollection, str | None, frozenset[str]]:
        whole = await self._blobs.get_version(STATE_CONTAINER, _NAME.format(tenant_id))
        listed = await self._blobs.get_version(STATE_CONTAINER, _IDS.format(tenant_id))
        problems: list[SwitchboardError] = []
        memory, ids = Memory(), frozenset[str]()
        if whole is not None:
            try:
                memory = msgspec.json.decode(whole.data, type=Memory)
            except (ValueError, RecursionError):
                problems.append(_unreadable(_NAME.format(tenant_id)))
        if listed is not None:
            try:
                ids = msgspec.json.decode(listed.data, type=frozenset[str])
            except (ValueError, RecursionError):
                problems.append(_unreadable(_IDS.format(tenant_id)))
        if listed is not None and listed.modified is not None:
            until = listed.modified + LONGEST_LIFE
            others = dict.fromkeys(ids.difference(memory.known), until)
            memory = msgspec.structs.replace(memory, faceless=others | dict(memory.faceless))
        is_first = listed is None and not problems and memory.has_made_nothing
        return Recollection(memory, tuple(problems), is_first), None if whole is None else whole.etag, ids


class TurnLease:
    """Storage's lease of a blob: it ends by itself a minute after its holder has died."""

    def __init__(self, blobs: Blobs, name: str) -> None:
        self._blobs = blobs
        self._name = name
        self._id = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))

    async def take(self) -> None:
        """Take it.

        Raises:
            NoTurnError: another run has it.
            UnavailableError: storage did not answer.
        """
        if not await self._blobs.acquire_lease(STATE_CONTAINER, self._name, self._id, _LEASE_SECONDS):
            raise NoTurnError("another run is at work in this tenant")

    async def keep(self) -> None:
        """Keep it for longer: to be asked again and again, and before anything is made or deleted.

        Raises:
            NoTurnError: it has passed to another run.
            UnavailableError: storage did not answer.
        """
        if not await self._blobs.renew_lease(STATE_CONTAINER, self._name, self._id):
            raise NoTurnError("another run has taken over in this tenant")

    async def release(self) -> None:
        """Give it back.

        Raises:
            UnavailableError: storage did not answer; it ends by itself.
        """
        await self._blobs.release_lease(STATE_CONTAINER, self._name, self._id)


def _unreadable(name: str) -> SwitchboardError:
    message = f"the blob {STATE_CONTAINER}/{name} cannot be read, and counts as empty"
    return MalformedInputError(message, reason="state-unreadable")
