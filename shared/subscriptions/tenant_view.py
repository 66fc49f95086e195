"""What a run knows of one tenant, and how it learns it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

import msgspec

from shared.clock import Clock
from shared.subscriptions.actions import Outcome, Result, RunContext
from shared.subscriptions.desired import DesiredState, Group, wanted_of_members
from shared.subscriptions.listing import Listing, Picture
from shared.subscriptions.memory import Changes, Creation, Memory, Recollection
from shared.subscriptions.planned import Desired, Reason
from shared.subscriptions.readings import DESIRED_STATE, NotWholeError, read_again
from shared.subscriptions.scheduler import BatchScheduler
from shared.subscriptions.tenant_contract import Graph, Known, Order, Stage, Trouble, Turn
from shared.values.errors import NoTurnError, OutOfTimeError, SettingsError, SwitchboardError, UnavailableError
from shared.values.graph import GraphError, Subscription

_GROUPS_AT_ONCE: Final = 4
_GROUP_SECONDS: Final = 60.0
_STORAGE_SECONDS: Final = 10.0  # before the list; renewal of what is remembered does not wait for it
_TURN_WAIT: Final = timedelta(seconds=90)  # an owner that has died keeps its turn for a minute
_TURN_POLL: Final = 5.0
_TURN_KEPT_EVERY: Final = 20.0
_SAVE_SECONDS: Final = 30.0
_NO_CONCERNS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is desired in a tenant; `whole` says whether all of it was read, `sure` whether that is to be deleted by."""

    subscriptions: tuple[Desired, ...]
    whole: bool
    sure: bool


@dataclass(slots=True)
class TenantView:
    """What is known of a tenant in a run: what there is, what is wanted and remembered, and whose turn it is.

    `remembered` is what this process remembers of the tenant, and then what the run does.
    `changes` may begin with what this process could not save before; if they are not `saved`, they are to be kept.
    """

    tenant_id: str
    graph: Graph
    known: Known
    clock: Clock
    scheduler: BatchScheduler
    deadline: datetime
    order: Order
    desired: Callable[[], Awaitable[DesiredState | None]]
    remembered: Memory | None
    concerns: Mapping[str, str] = _NO_CONCERNS
    troubles: list[Trouble] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    there: dict[str, Subscription] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    wanted: tuple[Desired, ...] = ()
    changes: Changes = field(default_factory=Changes)
    _turn: Turn = field(init=False)
    _taken: bool = False
    _mine: bool = False
    _no_turn: NoTurnError | SettingsError | None = None
    _begun: dict[str, asyncio.Future[Result]] = field(default_factory=dict)
    _renewed: dict[str, Result] = field(default_factory=dict)
    _posted: int = 0
    _shows_all: bool = False
    saved: bool = False

    def __post_init__(self) -> None:
        self._turn = self.known.turn(self.tenant_id)

    @property
    def context(self) -> RunContext:
        return self.scheduler.context

    # What there is

    def _note_reads(self, picture: Picture, lost: Collection[str] = (), unread: int = 0) -> None:
        self._shows_all = picture.shows_all
        for identity in picture.lost.keys() - set(lost):
            self._vanished(identity, picture.lost[identity])
        for error in picture.unread[unread:]:
            self._trouble(Stage.READ, error)

    def _take_in(self, result: Result) -> None:
        if result.removed is not None:
            if result.outcome is Outcome.GONE:
                self._vanished(result.removed, result.action.subscription)
            else:
                self._lose(result.removed)
        subscription = result.subscription
        if subscription is None or result.action.reason is Reason.FOREIGN:
            return
        if subscription.life is None and subscription.kind is not None:
            life = max(
                self.context.lifetimes.ask(subscription.tenant_id, subscription.kind),
                subscription.expires - self.clock.now(),
            )
            subscription = replace(subscription, life=life)
        self.there[subscription.id] = subscription
        self.changes.saw(subscription)
        if result.outcome in {Outcome.CREATED, Outcome.RENEWED, Outcome.REPLACED, Outcome.ADOPTED}:
            self.confirmed.add(subscription.id)
        if subscription.id in self.confirmed and result.outcome not in {Outcome.CREATED, Outcome.REPLACED}:
            self.changes.seen.add(subscription.resource)

    def _vanished(self, identity: str, one: Subscription | None) -> None:
        """Graph does not know one that was made, and was not deleted."""
        now = self.clock.now()
        if one is not None and one.remembered and one.expires > now and identity not in self.changes.gone:
            self.changes.unseen[one.resource].append(Creation(at=now, until=one.expires))
        self._lose(identity)

    def _lose(self, identity: str) -> None:
        self.there.pop(identity, None)
        self.confirmed.discard(identity)
        self.changes.lost(identity)

    def _note_posts(self) -> None:
        posted, self._posted = self.scheduler.posted[self._posted :], len(self.scheduler.posted)
        for post in posted:
            if post.tenant_id != self.tenant_id:
                continue
            if post.error is None:
                self.changes.accepted(post.kind)
            else:
                reason = post.error.reason if isinstance(post.error, SwitchboardError) else "unexpected"
                self.changes.refused(post.kind, post.resource, reason)

    def _listing(self) -> Listing:
        return Listing(self.graph, self.scheduler, self.clock, self.deadline)

    # What is wanted

    async def _want(self, memory: Memory) -> Wanted:
        """What is desired, the members of groups included."""
        state = await self.desired()
        if state is None:
            return Wanted((), whole=False, sure=False)
        wanted = [want for want in state.subscriptions if want.tenant_id == self.tenant_id]
        groups = [group for group in state.groups if group.tenant_id == self.tenant_id]
        sources = [group.group_id for group in groups]
        asked_for = [*(want.resource for want in wanted), *sources]
        members = await self._members(groups)
        for group, of_group in zip(groups, members, strict=True):
            wanted += wanted_of_members(group, of_group or ())
        read = {source: found for source, found in zip(sources, members, strict=True) if found is not None}
        sure = self._note_readings(memory, {DESIRED_STATE: asked_for, **read})
        self.changes.sources = frozenset({DESIRED_STATE, *sources})
        self.wanted = tuple({want.key: want for want in wanted}.values())
        whole = state.refusal is None and all(found is not None for found in members)
        if whole:
            self.changes.wanted = frozenset(want.resource for want in self.wanted)
        if self.order.prune and not (state.subscriptions or state.groups):
            error = NotWholeError("the desired state asks for nothing, of any tenant: nothing is pruned by that")
            self._trouble(Stage.DESIRED_STATE, error)
        return Wanted(self.wanted, whole, sure=whole and sure)

    def _note_readings(self, memory: Memory, read: Mapping[str, Sequence[str]]) -> bool:
        """Note how the file and the groups read now; whether all of that is to be deleted by."""
        now, sure = self.clock.now(), True
        for source, names in read.items():
            reading = self.changes.readings[source] = read_again(names, memory.readings.get(source), now)
            is_file = source == DESIRED_STATE
            if reading.is_settled(now) if is_file else reading.is_whole(now):
                continue
            sure = False
            if self.order.prune:
                error = NotWholeError(
                    f"{'the desired state' if is_file else f'group {source}'} has {reading.size} entries, and may have "
                    f"been cut off: it is believed at {reading.settles:%H:%M} UTC if it reads the same until then"
                )
                self._trouble(Stage.DESIRED_STATE if is_file else Stage.GROUP, error, identity=source)
        return sure

    async def _members(self, groups: Sequence[Group]) -> list[tuple[str, ...] | None]:
        """The members of each group, None where they could not be read in the time that there is for all of them."""
        slots = asyncio.Semaphore(_GROUPS_AT_ONCE)
        end = self.clock.now() + timedelta(seconds=_GROUP_SECONDS)

        async def read(group: Group) -> tuple[str, ...] | None:
            async with slots:
                try:
                    async with asyncio.timeout(max((end - self.clock.now()).total_seconds(), 0.0)):
                        return await self.graph.group_members(group.tenant_id, group.group_id)
                except TimeoutError:
                    self._trouble(Stage.GROUP, OutOfTimeError(), identity=group.group_id)
                except (UnavailableError, GraphError) as error:
                    self._trouble(Stage.GROUP, error, identity=group.group_id)
                return None

        return list(await asyncio.gather(*(read(group) for group in groups)))

    # Memory and turn

    async def _first_look(self) -> Memory:
        """Take the turn if it is free, and what is remembered; without storage, what this process remembers."""
        try:
            async with asyncio.timeout(_STORAGE_SECONDS):
                await self._take_turn()
                return await self._load()
        except TimeoutError:
            self._go_without(UnavailableError("what is remembered", reason="storage-no-answer"))
            return self.remembered or Memory()

    async def _take_turn(self) -> None:
        try:
            await self._turn.take()
        except NoTurnError as error:
            self._no_turn = error
        except UnavailableError as error:
            self._no_turn = _waiting_for_storage(error)
        else:
            self._taken, self._mine, self._no_turn = True, True, None

    async def _load(self) -> Memory:
        try:
            recollection = await self.known.load(self.tenant_id)
        except UnavailableError as error:
            self._go_without(error)
            return self.remembered or Memory()
        for problem in recollection.problems:
            self._trouble(Stage.KNOWN, problem)
        known = self.changes.applied(recollection.memory, self.clock.now()).known
        self.remembered = msgspec.structs.replace(recollection.memory, known=known)
        self._hold_back(recollection)
        return self.remembered

    def _hold_back(self, recollection: Recollection) -> None:
        """Create and delete nothing while a setting is one that Graph changes, or one too weak for a first run."""
        decisive = {name for name in self.concerns if name != "CLIENT_STATE" or recollection.is_first}
        if decisive:
            problems = [f"nothing is made or deleted: {name} {self.concerns[name]}" for name in sorted(decisive)]
            self._mine, self._no_turn = False, SettingsError(problems)

    def _go_without(self, error: UnavailableError) -> None:
        """Create and delete nothing, because what was created before is not known."""
        self._trouble(Stage.KNOWN, error)
        self._mine, self._no_turn = False, _waiting_for_storage(error)

    async def _wait_for_turn(self) -> bool:
        """Wait a while for another run; not for storage."""
        end = min(self.clock.now() + _TURN_WAIT, self.deadline)
        while not self._mine and self._no_turn is not None and self._no_turn.reason == "turn":
            if self.clock.now() >= end:
                break
            await self.clock.sleep(_TURN_POLL)
            await self._take_turn()
        return self._mine

    async def _keep_turn(self) -> None:
        while True:
            await asyncio.sleep(_TURN_KEPT_EVERY)
            if self._mine:
                with suppress(UnavailableError):  # it is asked once more before anything is made or deleted
                    await self._turn.keep()

    async def guard(self) -> None:
        """See that the turn is still this run's.

        Raises:
            UnavailableError: it is not, or that cannot be found out.
        """
        if not self._mine:
            raise self._no_turn or NoTurnError("another run is at work in this tenant")
        await self._turn.keep()

    async def _end(self) -> None:
        """Save what was learned, and give the turn back."""
        now = self.clock.now()
        made = {self.there[identity].resource for identity in self.confirmed}
        for kind, refusal in (self.remembered or Memory()).refusals.items():
            if refusal.resource in made:  # it is there, and so nothing will be made that could be accepted
                self.changes.refusals.setdefault(kind, None)
        self.remembered = self.changes.applied(self.remembered or Memory(), now)
        try:
            async with asyncio.timeout(_SAVE_SECONDS):
                self.remembered = await self.known.save(self.tenant_id, self.changes, now)
                self.saved = True
        except TimeoutError:
            self._trouble(Stage.KNOWN, UnavailableError("what is remembered", reason="storage-no-answer"))
        except UnavailableError as error:
            if all(trouble.stage is not Stage.KNOWN for trouble in self.troubles):
                self._trouble(Stage.KNOWN, error)
        if self._taken:
            with suppress(UnavailableError, TimeoutError):  # it ends by itself
                async with asyncio.timeout(_STORAGE_SECONDS):
                    await self._turn.release()

    def _trouble(
        self, stage: Stage, error: SwitchboardError, kind: str | None = None, identity: str | None = None
    ) -> None:
        self.troubles.append(Trouble(self.tenant_id, stage, error, kind, identity))


def _waiting_for_storage(error: UnavailableError) -> NoTurnError:
    return NoTurnError(f"nothing is made or deleted while storage is away: {error}", reason=error.reason)
