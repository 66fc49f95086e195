"""What there is in a tenant: what Graph lists, what it leaves out, what of that is believed, and what a run changes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from shared.clock import Clock
from shared.subscriptions.actions import Outcome, Reason, Result
from shared.subscriptions.desired import Desired
from shared.subscriptions.desired_source import Stage, Trouble, Wanted
from shared.subscriptions.scheduler import BatchScheduler, Posted
from shared.subscriptions.state import SKEW, Changes, Creation, Memory, believed, recalled
from shared.subscriptions.unwanted import Review
from shared.values import graph_errors
from shared.values.errors import OutOfTimeError, SwitchboardError, UnavailableError
from shared.values.graph import Subscription
from shared.values.graph_errors import GraphError
from shared.values.lifetimes import Lifetimes

if TYPE_CHECKING:
    from shared.graph.client import GraphClient

_HIDDEN: Final = 1000  # read by id in a run: two windows of Graph's limit of 500 in 20 seconds
_FACELESS: Final = 100  # each takes up to three requests
_AT_ONCE: Final = 8
_ROTATION: Final = timedelta(minutes=5)
_PAUSE: Final = timedelta(minutes=30)  # what an administrator switches on comes into effect within an hour
_CONFIRMING: Final = frozenset({Outcome.CREATED, Outcome.RENEWED, Outcome.REPLACED, Outcome.ADOPTED})

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Picture:
    """What is believed to be there, by id.

    `confirmed` are those that Graph has shown in this run, `lost` the ids that it does not know any more, with what was
    remembered of them. With an `error`, the list was not read to its end, and there may be others; `without_signed_in`
    says why this is so of presence alone. `unread` says why some could not be read by id. `shows_all` is whether the
    list is to be trusted: it shows something, and leaves out nothing that is known to be there.
    """

    there: dict[str, Subscription] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    lost: dict[str, Subscription | None] = field(default_factory=dict)
    shows_all: bool = False
    error: SwitchboardError | None = None
    without_signed_in: graph_errors.SignedInListError | None = None
    unread: list[SwitchboardError] = field(default_factory=list)


@dataclass(slots=True)
class TenantRecord:
    """What a run finds out and does in one tenant; whoever does something tells it.

    `there` is what exists by all that is known, by id, and `confirmed` the ids that Graph has shown or renewed in this
    run. `wanted` is what is desired, `changes` what is to be remembered. `shows_all`: the last list left out nothing
    that is known to exist. `switched_off` are kinds that an administrator does not allow, and when Graph last said so.
    `review` is the last one of what nobody desires, once the run has ended.
    """

    tenant_id: str
    lifetimes: Lifetimes
    now: Callable[[], datetime]
    changes: Changes = field(default_factory=Changes)
    wanted: tuple[Desired, ...] = ()
    there: dict[str, Subscription] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    shows_all: bool = False
    switched_off: Mapping[str, datetime] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    review: Review | None = None
    troubles: list[Trouble] = field(default_factory=list)

    def add_trouble(
        self, stage: Stage, error: SwitchboardError, kind: str | None = None, identity: str | None = None
    ) -> None:
        self.troubles.append(Trouble(self.tenant_id, stage, error, kind, identity))

    @property
    def paused(self) -> frozenset[str]:
        """The kinds of which nothing is asked for now, because they were switched off a short while ago."""
        now = self.now()
        return frozenset(kind for kind, at in self.switched_off.items() if now < at + _PAUSE)

    def take_memory(self, memory: Memory) -> None:
        """Note what is remembered of switches."""
        self.switched_off = {kind: refusal.at for kind, refusal in memory.refusals.items() if refusal.at is not None}

    def complain(self, kinds: Collection[str]) -> None:
        """Tell of what is wanted of kinds that are switched off, unless that has been told."""
        told = {trouble.identity for trouble in self.troubles}
        for want in self.wanted:
            if want.kind.key in kinds and want.resource not in told:
                self.add_trouble(Stage.SUBSCRIPTION, graph_errors.TranscriptAccessError(), want.kind.key, want.resource)

    def take_wanted(self, wanted: Wanted) -> None:
        """Note what is desired, and how that was read."""
        self.wanted = wanted.subscriptions
        self.troubles += wanted.troubles
        self.changes.readings |= wanted.readings
        if wanted.sources is not None:
            self.changes.sources = wanted.sources
        if wanted.whole:
            self.changes.wanted = frozenset(want.resource for want in wanted.subscriptions)

    def restart_review(self, review: Review | None) -> None:
        """Keep a review, with the hour of whole readings beginning again: this run has not read everything."""
        if review is not None:
            self.changes.review = review.restarted()

    def take_picture(self, picture: Picture) -> None:
        """Go by a picture, whatever was known before."""
        self.there, self.confirmed = dict(picture.there), set(picture.confirmed)
        self.note_reads(picture)

    def note_reads(self, picture: Picture, lost: Collection[str] = (), unread: int = 0) -> None:
        """Note what could not be read, or is gone; but for what was `lost` and the first `unread` ones before."""
        self.shows_all = picture.shows_all
        for identity in picture.lost.keys() - set(lost):
            self.vanish(identity, picture.lost[identity])
        for error in picture.unread[unread:]:
            self.add_trouble(Stage.READ, error)

    def take_result(self, result: Result) -> None:
        """Note what an action has changed."""
        if result.removed is not None:
            if result.outcome is Outcome.GONE:
                self.vanish(result.removed, result.action.subscription)
            else:
                self._lose(result.removed)
        subscription = result.subscription
        if subscription is None or result.action.reason is Reason.FOREIGN:
            return
        if subscription.life is None and subscription.kind is not None:
            asked = self.lifetimes.ask(subscription.tenant_id, subscription.kind, subscription.resource)
            subscription = replace(subscription, life=max(asked, subscription.expires - self.now()))
        if subscription.kind is not None and isinstance(result.error, graph_errors.TranscriptAccessError):
            self.changes.refused(subscription.kind, subscription.resource, result.error.reason, self.now())
        self.there[subscription.id] = subscription
        self.changes.saw(subscription)
        if result.outcome in _CONFIRMING:
            self.confirmed.add(subscription.id)
        if subscription.id in self.confirmed and result.outcome not in {Outcome.CREATED, Outcome.REPLACED}:
            self.changes.seen.add(subscription.resource)

    def vanish(self, identity: str, subscription: Subscription | None) -> None:
        """Graph does not know a subscription that was made and not deleted."""
        now = self.now()
        if (
            subscription is not None
            and subscription.remembered
            and subscription.expires > now
            and identity not in self.changes.gone
        ):
            self.changes.unseen[subscription.resource].append(Creation(at=now, until=subscription.expires))
        self._lose(identity)

    def note_answer(self, posted: Posted) -> None:
        """Note what Graph said to a POST."""
        if posted.error is None:
            self.changes.accepted(posted.kind)
        else:
            reason = posted.error.reason if isinstance(posted.error, SwitchboardError) else "unexpected"
            off = isinstance(posted.error, graph_errors.TranscriptAccessError)
            self.changes.refused(posted.kind, posted.resource, reason, self.now() if off else None)

    def forget_refusals(self, memory: Memory) -> None:
        """Forget the refusals of what exists: no creation of it will follow that Graph could accept."""
        made = {self.there[identity].resource for identity in self.confirmed}
        for kind, refusal in memory.refusals.items():
            if refusal.resource in made and kind not in self.paused:
                self.changes.refusals.setdefault(kind, None)

    def _lose(self, identity: str) -> None:
        self.there.pop(identity, None)
        self.confirmed.discard(identity)
        self.changes.lost(identity)


@dataclass(frozen=True, slots=True)
class Listing:
    """Takes stock of a tenant."""

    graph: "GraphClient"
    scheduler: BatchScheduler
    clock: Clock
    deadline: datetime

    async def take(
        self,
        tenant_id: str,
        memory: Memory,
        *,
        leave_out: Collection[str] = (),
        see: Callable[[Iterable[Subscription]], None] = lambda _: None,
        being_renewed: Callable[[], Collection[str]] = tuple,
    ) -> Picture:
        """List, and read by id what is remembered and not listed.

        Whatever cannot be read counts as there, by what is remembered of it, until its last known end.

        Args:
            tenant_id: whose.
            memory: what is remembered.
            leave_out: ids that count as gone.
            see: shown each page at once, as it is believed.
            being_renewed: ids that need not be read, since a renewal tells.
        """
        picture = Picture()
        now = self.clock.now()
        for identity, known in memory.known.items():
            subscription = recalled(identity, tenant_id, known)
            if subscription is not None and identity not in leave_out and subscription.expires > now - SKEW:
                picture.there[identity] = subscription
        hidden = set(picture.there)
        try:
            async for page in self._pages(tenant_id):
                shown = {
                    told.id: believed(told, memory.known.get(told.id)) for told in page if told.id not in leave_out
                }
                picture.there |= shown
                picture.confirmed |= shown.keys()
                see(shown.values())
        except graph_errors.SignedInListError as error:
            logger.warning("the signed-in user's subscriptions cannot be listed: reason=%s", error.reason)
            picture.without_signed_in = error
        except (UnavailableError, GraphError) as error:
            picture.error = error
            return picture
        picture.shows_all = picture.without_signed_in is None
        await self.read(picture, hidden - picture.confirmed - set(being_renewed()))
        strangers = set(memory.faceless).difference(picture.there, leave_out)
        await self._read_faceless(tenant_id, picture, strangers, see)
        return picture

    async def _pages(self, tenant_id: str) -> AsyncIterator[Sequence[Subscription]]:
        pages = self.graph.subscription_pages(tenant_id)
        while True:
            left = (self.deadline - self.clock.now()).total_seconds()
            if left <= 0:
                raise OutOfTimeError
            try:
                async with asyncio.timeout(left):
                    page = await anext(pages, None)
            except TimeoutError:
                raise OutOfTimeError from None
            if page is None:
                return
            yield page

    async def read(self, picture: Picture, hidden: set[str]) -> None:
        """Read by id some of what is there by all that is known, and is not listed."""
        left_out = 0
        for result in await self.scheduler.look(picture.there[identity] for identity in self._share(hidden, _HIDDEN)):
            told = result.subscription
            if result.outcome is Outcome.GONE and result.removed is not None:
                picture.lost[result.removed] = picture.there.pop(result.removed)
            elif result.outcome is Outcome.UNCHANGED and told is not None:
                if told.expires_told:
                    picture.there[told.id] = replace(picture.there[told.id], expires=told.expires)
                picture.confirmed.add(told.id)
                left_out += 1
            elif result.error is not None:
                picture.unread.append(result.error)
        picture.shows_all = picture.shows_all and bool(picture.confirmed) and not left_out and not picture.unread
        if left_out:
            logger.warning("Graph's list leaves out %d subscriptions that exist", left_out)

    async def _read_faceless(
        self, tenant_id: str, picture: Picture, strangers: set[str], see: Callable[[Iterable[Subscription]], None]
    ) -> None:
        """Read what only an id is known of, from the version before this one."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def read(identity: str) -> None:
            async with slots:
                if self.clock.now() >= self.deadline:
                    return
                try:
                    subscription = await self.graph.subscription(tenant_id, identity)
                except graph_errors.NotFoundError:
                    picture.lost[identity] = None
                except (UnavailableError, GraphError) as error:
                    picture.unread.append(error)
                else:
                    picture.there[subscription.id] = subscription
                    picture.confirmed.add(subscription.id)
                    see((subscription,))

        await asyncio.gather(*(read(identity) for identity in self._share(strangers, _FACELESS)))

    def _share(self, ids: set[str], most: int) -> Iterator[str]:
        """At most so many of the ids, and others in the next run."""
        ordered = sorted(ids)
        if len(ordered) <= most:
            yield from ordered
            return
        start = int(self.clock.now().timestamp() // _ROTATION.total_seconds()) * most
        yield from (ordered[(start + place) % len(ordered)] for place in range(most))
