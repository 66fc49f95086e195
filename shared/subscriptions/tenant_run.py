"""One tenant's part of a run: renew, take stock, plan, act, remember.

What is remembered and due is renewed at once, by its id: that needs neither a list nor a group, nor anybody's turn, nor
storage to write to. Everything else follows from a plan, which is made once all of these renewals have ended and the
list is whole; so what became of them is known to it, and nothing is both renewed and replaced.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from shared.clock import Clock
from shared.subscriptions.actions import Outcome, Result, Terms
from shared.subscriptions.desired import DesiredState, Group, call_events_of
from shared.subscriptions.endpoint import Standing
from shared.subscriptions.lifetimes import half_life, last_resort
from shared.subscriptions.listing import Listing, Lists, Picture
from shared.subscriptions.memory import Changes, Creation, Memory, Names, Recollection, believed, held_until, recalled
from shared.subscriptions.plan import is_of_its_own, plan, renewals
from shared.subscriptions.planned import Action, Course, Desired, Reason, Verb
from shared.subscriptions.readings import DESIRED_STATE, NotWholeError, read_again
from shared.subscriptions.scheduler import GRACE, Batches
from shared.values import graph, resources
from shared.values.errors import (
    NoTurnError,
    OutOfTimeError,
    SettingsError,
    SwitchboardError,
    UnavailableError,
    UnexpectedError,
)
from shared.values.graph import GraphError, Subscription

_ROUNDS: Final = 3  # lists per run: one to plan by, the others for creations of unknown outcome
_GROUPS_AT_ONCE: Final = 4
_GROUP_SECONDS: Final = 60.0
_STORAGE_SECONDS: Final = 10.0  # before the list; renewal of what is remembered does not wait for it
_TURN_WAIT: Final = timedelta(seconds=90)  # an owner that has died keeps its turn for a minute
_TURN_POLL: Final = 5.0
_TURN_KEPT_EVERY: Final = 20.0
_SAVE_SECONDS: Final = 30.0

_NO_CONCERNS: Final[Mapping[str, str]] = MappingProxyType({})

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is desired in a tenant; `whole` says whether all of it was read, `sure` whether that is to be deleted by."""

    subscriptions: tuple[Desired, ...]
    whole: bool
    sure: bool


@dataclass(slots=True)
class TenantRun:
    """The part of one tenant in one run; `remembered` is what this process remembers of it, and then what it does.

    `changes` may begin with what this process could not save before; if they are not `saved`, they are to be kept.
    """

    tenant_id: str
    graph: Graph
    known: Known
    clock: Clock
    batches: Batches
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
    def terms(self) -> Terms:
        return self.batches.terms

    # The ways through

    async def run(self) -> None:
        """Do all that is to be done; what went wrong is among the troubles."""
        await self._through(self._reconcile())

    async def prune(self, ids: Collection[str]) -> None:
        """Delete those of the ids that are ours and not desired, by a plan of its own."""
        await self._through(self._prune(ids))

    async def delete(self, subscriptions: Collection[Subscription]) -> None:
        """Delete these, whatever is desired."""
        await self._through(self._delete(subscriptions))

    async def _through(self, work: Coroutine[None, None, None]) -> None:
        """Do some work, whose turn is kept meanwhile, and what is learned by it remembered."""
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep_turn())
                await work
                keeping.cancel()
        except* SwitchboardError as errors:
            for error in errors.exceptions:
                self._trouble(Stage.SUBSCRIPTION, error if isinstance(error, SwitchboardError) else _unexpected(error))
        except* Exception as errors:
            logger.exception("renewal of tenant %s met with a fault of ours", self.tenant_id)
            self._trouble(Stage.SUBSCRIPTION, _unexpected(errors.exceptions[0]))
        finally:
            await self._end()

    async def forecast(self) -> tuple[Action, ...]:
        """What a run would do now; nothing is done."""
        memory = await self._load()
        picture = await self._take_stock(memory, renewing=False)
        wanted = await self._want(memory)
        self._believe(picture)
        if picture.error is not None:
            return ()
        prune = self.order.prune and self._is_all_known(wanted)
        return self._plan(wanted, Course(held=self._held(memory, wanted)), prune=prune)

    async def _reconcile(self) -> None:
        if self.remembered is not None:
            self._renew_remembered(self.remembered)
        memory = await self._first_look()
        self._renew_remembered(memory)
        groups = asyncio.create_task(self._want(memory))
        try:
            picture = await self._take_stock(memory, renewing=True)
            wanted = await groups
        finally:
            groups.cancel()
        self._believe(picture)
        if picture.error is not None:
            await self._end_renewals()
            await self._renew_without_list(wanted)
            return
        await self._look_for_refused(picture)
        actions = self._plan_now(memory, wanted)
        if not self._mine and any(_needs_turn(action) for action in actions) and await self._wait_for_turn():
            memory = await self._load()
            picture = await self._take_stock(memory, renewing=True)
            self._believe(picture)
            if picture.error is not None:
                await self._end_renewals()
                self.results += self._renewed.values()
                return
            await self._look_for_refused(picture)
            actions = self._plan_now(memory, wanted)
        # What is still being renewed is out of the plan until that has ended, and holds up nothing else.
        waiting = self._still_renewed(wanted)
        await self._act([action for action in actions if not waiting.concerns(action)], wanted)
        await self._end_renewals()
        if waiting.ids:
            await self._look_for_refused(picture)
            later = [action for action in self._plan_now(memory, wanted) if waiting.concerns(action)]
            await self._act(later, wanted, waiting.ids)
        await self._settle(memory, wanted)

    # Renewal

    def _renew_remembered(self, memory: Memory) -> None:
        recalls = (recalled(identity, self.tenant_id, known) for identity, known in memory.known.items())
        self._renew(one for one in recalls if one is not None and one.id not in self.order.gone)

    def _renew(self, subscriptions: Iterable[Subscription]) -> None:
        """Begin to renew what needs nothing else."""
        terms = self.terms
        actions = renewals(
            (one for one in subscriptions if one.id not in self._begun),
            self.clock.now(),
            endpoint=terms.endpoint,
            certificate_id=None if terms.certificate is None else terms.certificate.id,
            lifetimes=terms.lifetimes,
        )
        for action, result in zip(actions, self.batches.begin(actions), strict=True):
            if action.subscription is not None:
                self._begun[action.subscription.id] = result

    async def _look_for_refused(self, picture: Picture) -> None:
        """Read what Graph neither lists nor renews: that it does not renew it does not tell that it still has it."""
        self._note_renewals()
        refused = {identity for identity, result in self._renewed.items() if is_of_its_own(result.error)}
        hidden = (refused & picture.there.keys() & self.there.keys()) - self.confirmed
        if hidden:
            lost, unread = set(picture.lost), len(picture.unread)
            await self._listing().read(picture, hidden)
            self._note_reads(picture, lost, unread)
            self.confirmed |= picture.confirmed & hidden

    def _note_reads(self, picture: Picture, lost: Collection[str] = (), unread: int = 0) -> None:
        self._shows_all = picture.shows_all
        for identity in picture.lost.keys() - set(lost):
            self._vanished(identity, picture.lost[identity])
        for error in picture.unread[unread:]:
            self._trouble(Stage.READ, error)

    def _believe(self, picture: Picture) -> None:
        """Go by a picture, and by what has come of renewals since."""
        self.there, self.confirmed = dict(picture.there), set(picture.confirmed)
        self._note_reads(picture)
        if picture.error is not None:
            self._trouble(Stage.LIST, picture.error)
        wants_presence = any(want.kind is resources.PRESENCE for want in self.wanted)
        if picture.without_signed_in is not None and (wants_presence or self.order.prune):
            self._trouble(Stage.LIST, picture.without_signed_in, resources.PRESENCE.key)
        for result in self._renewed.values():
            self._take_in(result)
        self._note_renewals()

    def _note_renewals(self) -> None:
        """Take in the renewals that have ended."""
        for identity, future in self._begun.items():
            if future.done() and identity not in self._renewed:
                result = self._renewed[identity] = future.result()
                self._take_in(result)

    async def _end_renewals(self) -> None:
        await asyncio.gather(*self._begun.values())
        self._note_renewals()

    def _still_renewed(self, wanted: Wanted) -> "_Waiting":
        self._note_renewals()
        ids = self._begun.keys() - self._renewed.keys()
        if not ids:
            return _Waiting(frozenset(), frozenset())
        names = Names(want.resource for want in wanted.subscriptions)
        paths = {names.recognised(one) for identity, one in self.there.items() if identity in ids}
        return _Waiting(frozenset(ids), frozenset(path for path in paths if path is not None))

    async def _renew_without_list(self, wanted: Wanted) -> None:
        """What is at its last resort is renewed even though nobody knows what else there is."""
        planned = self._plan(wanted, self._course())
        actions = [self._instead(action, refused=False) if _needs_turn(action) else action for action in planned]
        self.results += self._renewed.values()
        await self._perform(action for action in actions if action.verb is Verb.RENEW)

    # Planning and acting

    def _plan_now(self, memory: Memory, wanted: Wanted) -> tuple[Action, ...]:
        held = self._held(memory, wanted)
        course = replace(self._course(), held=held, refused_kinds=self._refused_kinds(memory))
        return self._plan(wanted, course)

    def _course(self) -> Course:
        refused = {
            identity: result.error
            for identity, result in self._renewed.items()
            if result.error is not None and result.outcome in {Outcome.KEPT, Outcome.FAILED}
        }
        return Course(begun=self._begun.keys(), refused=refused)

    def _refused_kinds(self, memory: Memory) -> set[tuple[str, str]]:
        return {(self.tenant_id, kind) for kind in self.changes.applied(memory, self.clock.now()).refusals}

    def _plan(self, wanted: Wanted, course: Course, *, prune: bool = False) -> tuple[Action, ...]:
        return plan(
            wanted.subscriptions,
            self.there.values(),
            self.clock.now(),
            endpoint=self.terms.endpoint,
            certificate_id=None if self.terms.certificate is None else self.terms.certificate.id,
            lifetimes=self.terms.lifetimes,
            prune=prune,
            course=course,
        )

    def _held(self, memory: Memory, wanted: Wanted) -> set[tuple[str, str]]:
        """Of what nothing more is made for now, because nothing was to be seen of what was made."""
        now, held = self.clock.now(), set()
        unseen = self.changes.applied(memory, now).unseen
        for want in wanted.subscriptions:
            until = held_until(unseen.get(want.resource, ()))
            if until is not None and until > now and not self._there_for(want):
                held.add(want.key)
                if all(trouble.identity != want.resource for trouble in self.troubles):
                    self._trouble(Stage.SUBSCRIPTION, graph.UnseenError(until), want.kind.key, want.resource)
        return held

    def _there_for(self, want: Desired) -> list[Subscription]:
        names = Names([want.resource])
        return [one for one in self.there.values() if names.recognised(one) is not None]

    async def _act(self, actions: Sequence[Action], wanted: Wanted, renewed: Collection[str] | None = None) -> None:
        """Carry out a plan: of all replacements of a sort one goes first, and the others only after it succeeded.

        Of the `renewed` (if not given, of all that have ended) what became of them counts, unless more is done.
        """
        planned = {action.subscription.id for action in actions if action.subscription is not None and _acts(action)}
        ended = [
            result
            for identity, result in self._renewed.items()
            if (renewed is None or identity in renewed) and identity not in planned
        ]
        if any(result.outcome is Outcome.GONE for result in ended):  # what is wanted of these is planned anew
            names = Names(want.resource for want in wanted.subscriptions)
            ended = [result for result in ended if result.outcome is not Outcome.GONE or not _is_wanted(result, names)]
        self.results += ended
        left_out = self._begun.keys() - planned
        actions = [
            action
            for action in actions
            if not (
                action.verb is Verb.LEAVE and action.subscription is not None and action.subscription.id in left_out
            )
            or self._recognise(action)
        ]
        if not self._mine:
            actions = [kept for action in actions if (kept := self._without_turn(action)) is not None]
        groups: defaultdict[tuple[object, ...], list[Action]] = defaultdict(list)
        firsts: list[Action] = []
        for action in actions:
            if action.verb is not Verb.REPLACE or action.kind is None:
                firsts.append(action)
                continue
            sort = (action.kind.key, True) if action.delete_first else (action.kind.key, False, action.reason)
            if not groups[sort]:
                firsts.append(action)
            groups[sort].append(action)
        done = {id(result.action): result for result in await self._perform(firsts)}
        followers = [
            self._followed(follower, done[id(first)]) for first, *others in groups.values() for follower in others
        ]
        await self._perform(followers)

    def _recognise(self, action: Action) -> bool:
        """Take over what the plan has recognised of one that was renewed; nothing is left to be done about it."""
        one = action.subscription
        if one is not None and one.id in self.there and action.reason is not Reason.FOREIGN:
            self.there[one.id] = one
        return False

    def _without_turn(self, action: Action) -> Action | None:
        """What becomes of an action that has to wait for another run; None where nothing can be done meanwhile."""
        if not _needs_turn(action):
            return action
        error = self._no_turn or NoTurnError("another run is at work in this tenant")
        if action.subscription is None or action.reason is Reason.UNKNOWN_MARK:
            self.results.append(Result(action, Outcome.DEFERRED, action.subscription, error))
            return None
        return self._instead(action, refused=False)

    def _followed(self, action: Action, first: Result) -> Action:
        succeeded = first.outcome is Outcome.REPLACED or (first.outcome is Outcome.RENEWED and first.error is None)
        if succeeded:
            return action
        return self._instead(action, refused=first.outcome is not Outcome.KEPT)

    def _instead(self, action: Action, *, refused: bool) -> Action:
        """What to do with a subscription that is not replaced now: it is renewed when it has to be, and else left."""
        one = action.subscription
        if one is None or action.kind is None:
            return replace(action, verb=Verb.LEAVE)
        lifetimes = self.terms.lifetimes
        usable = self.terms.endpoint.standing(one.notification_url)[0] is not Standing.UNKNOWN
        limit = half_life(one, lifetimes) if refused else last_resort(one, lifetimes)
        due = usable and one.expires - self.clock.now() <= limit and one.id not in self._begun
        return replace(action, verb=Verb.RENEW if due else Verb.LEAVE, delete_first=False)

    async def _perform(self, actions: Iterable[Action]) -> list[Result]:
        results = await self.batches.perform(actions)
        for result in results:
            self._take_in(result)
        self.results += results
        self._note_posts()
        return results

    def _take_in(self, result: Result) -> None:
        if result.removed is not None:
            if result.outcome is Outcome.GONE:
                self._vanished(result.removed, result.action.subscription)
            else:
                self._lose(result.removed)
        one = result.subscription
        if one is None or result.action.reason is Reason.FOREIGN:
            return
        if one.life is None and one.kind is not None:
            life = max(self.terms.lifetimes.ask(one.tenant_id, one.kind), one.expires - self.clock.now())
            one = replace(one, life=life)
        self.there[one.id] = one
        self.changes.saw(one)
        if result.outcome in {Outcome.CREATED, Outcome.RENEWED, Outcome.REPLACED, Outcome.ADOPTED}:
            self.confirmed.add(one.id)
        if one.id in self.confirmed and result.outcome not in {Outcome.CREATED, Outcome.REPLACED}:
            self.changes.seen.add(one.resource)

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
        posted, self._posted = self.batches.posted[self._posted :], len(self.batches.posted)
        for post in posted:
            if post.tenant_id != self.tenant_id:
                continue
            if post.error is None:
                self.changes.accepted(post.kind)
            else:
                reason = post.error.reason if isinstance(post.error, SwitchboardError) else "unexpected"
                self.changes.refused(post.kind, post.resource, reason)

    # Deleting what an operator has named

    async def _prune(self, ids: Collection[str]) -> None:
        memory = await self._await_turn()
        if not self._mine:
            return
        wanted = await self._want(memory)
        picture = await self._take_stock(memory, renewing=False)
        self._believe(picture)
        if not self._is_all_known(wanted):
            return
        doomed = [
            action.subscription
            for action in self._plan(wanted, Course(), prune=True)
            if action.verb is Verb.DELETE and action.reason is Reason.UNWANTED and action.subscription is not None
        ]
        names = Names(want.resource for want in wanted.subscriptions)
        await self._look_and_delete(
            (one for one in doomed if one.id in ids), memory, lambda one: names.recognised(one) is None
        )

    def _is_all_known(self, wanted: Wanted) -> bool:
        return wanted.sure and not self.troubles

    async def _delete(self, subscriptions: Iterable[Subscription]) -> None:
        memory = await self._await_turn()
        if self._mine:
            await self._look_and_delete(subscriptions, memory, lambda _: True)

    async def find(self, ids: Iterable[str]) -> list[Subscription]:
        """Those of the ids that there are in this tenant; those that cannot be read are among the troubles."""
        memory = await self._load()
        found = []
        for identity in ids:
            known = memory.known.get(identity)
            one = None if known is None else recalled(identity, self.tenant_id, known)
            try:
                found.append(one or await self.graph.subscription(self.tenant_id, identity))
            except graph.SubscriptionNotFoundError:
                continue
            except (UnavailableError, GraphError) as error:
                self._trouble(Stage.READ, error, identity=identity)
        return found

    async def _await_turn(self) -> Memory:
        """Take the turn, waiting for another run, and what is remembered then; without the turn, that is a trouble."""
        memory = await self._first_look()
        if not self._mine and await self._wait_for_turn():
            memory = await self._load()
        if not self._mine:
            error = self._no_turn or NoTurnError("another run is at work in this tenant")
            self._trouble(Stage.SETTINGS if isinstance(error, SettingsError) else Stage.TURN, error)
        return memory

    async def _look_and_delete(
        self, subscriptions: Iterable[Subscription], memory: Memory, is_unwanted: Callable[[Subscription], bool]
    ) -> None:
        """Read each by its id, and delete it if it is still ours and unwanted by what Graph says now."""
        doomed = []
        for result in await self.batches.look(subscriptions):
            one = result.subscription
            if result.outcome is not Outcome.LEFT or one is None:
                if result.outcome is Outcome.GONE:
                    self._take_in(result)
                self.results.append(result)
                continue
            one = believed(one, memory.known.get(one.id))
            if self.terms.endpoint.owns(one.notification_url) and is_unwanted(one):
                doomed.append(
                    Action(Verb.DELETE, Reason.UNWANTED, one.tenant_id, one.kind, result.action.deadline, None, one)
                )
            else:
                self.results.append(result)
        await self._perform(doomed)

    # Creations of unknown outcome

    async def _settle(self, memory: Memory, wanted: Wanted) -> None:
        """Find out by fresh lists what became of creations that Graph answered with a conflict or not at all.

        Planned is with all that is desired, lest the rest be taken for something to be superseded.
        """
        for _ in range(_ROUNDS - 1):
            open_ = {
                result.action.desired.key: result
                for result in self.results
                if result.outcome is Outcome.UNSETTLED and result.action.desired is not None
            }
            if not open_ or not self._mine or self.clock.now() >= self.deadline + GRACE:
                break
            before = set(self.there)
            picture = await self._take_stock(self._as_remembered(memory), renewing=False)
            if picture.error is not None:
                self._trouble(Stage.LIST, picture.error)
                break
            self._shows_all = picture.shows_all
            for identity, one in picture.lost.items():
                self._vanished(identity, one)
            # What one answer took for gone may be shown by another.
            self.there.update((one.id, _as_we_made_it(one, memory)) for one in picture.there.values())
            self.confirmed |= picture.confirmed
            await self._add_holders(open_.values(), memory)
            self._own_creations(open_, before)
            course = replace(self._course(), begun=before, refused_kinds=self._refused_kinds(memory))
            actions = [
                action
                for action in self._plan(wanted, course)
                if action.desired is not None
                and (result := open_.get(action.desired.key)) is not None
                # Where the list may hide what was made, another would be made with each try.
                and (self._shows_all or not (_is_unanswered(result) and _needs_turn(action)))
            ]
            settled = {
                result.action.desired.key: result
                for result in await self._settled(actions)
                if result.action.desired is not None
            }
            self.results = [_merged(result, settled) for result in self.results]
        for result in self.results:
            if result.outcome is Outcome.UNSETTLED and isinstance(result.error, graph.OutcomeUnknownError):
                self._note_lost_creation(result)
        self.results = [
            replace(result, outcome=Outcome.FAILED) if result.outcome is Outcome.UNSETTLED else result
            for result in self.results
        ]

    async def _settled(self, actions: Iterable[Action]) -> list[Result]:
        results = await self.batches.perform(actions)
        for result in results:
            self._take_in(result)
        self._note_posts()
        return results

    def _as_remembered(self, memory: Memory) -> Memory:
        return self.changes.applied(memory, self.clock.now())

    def _own_creations(self, open_: dict[tuple[str, str], Result], before: Collection[str]) -> None:
        """What is new, and for what was asked for without an answer, is what was sent.

        What Graph did not find and now lists is not new: it is as Graph tells it.
        """
        names = Names(resource for (_, resource), result in open_.items() if _is_unanswered(result))
        certificate = self.terms.certificate
        for identity in self.there.keys() - before - self.changes.gone:
            one = self.there[identity]
            path = names.recognised(one)
            if path is None or not self.terms.endpoint.owns(one.notification_url):
                continue
            want = open_[self.tenant_id, path].action.desired
            if want is None:
                continue
            self.there[identity] = replace(
                one,
                resource=want.resource,
                notification_url=self.terms.endpoint.url(rich=want.rich),
                change_type=want.kind.change_type,
                certificate_id=certificate.id if want.rich and certificate is not None else None,
                life=one.expires - self.clock.now(),
                spelling=one.resource,
                remembered=True,
                sent=True,
            )
            self.changes.accepted(want.kind)

    async def _add_holders(self, results: Iterable[Result], memory: Memory) -> None:
        """What holds a place although no list shows it: whether a list shows everything is not documented."""
        for result in results:
            error, want = result.error, result.action.desired
            if not isinstance(error, graph.SubscriptionConflictError) or want is None:
                continue
            for holder in error.holders:
                if holder in self.there or holder in self.order.gone or holder in want.resource.lower():
                    continue
                if self.clock.now() >= self.deadline:
                    return
                try:
                    one = await self.graph.subscription(self.tenant_id, holder)
                except (UnavailableError, GraphError):
                    continue  # the conflict is what is reported
                self.there[one.id] = _as_we_made_it(one, memory)
                self.confirmed.add(one.id)

    def _note_lost_creation(self, result: Result) -> None:
        """Nobody knows whether it was made; unless a list that is to be trusted does not show it."""
        want = result.action.desired
        if want is not None and not self._shows_all:
            now = self.clock.now()
            life = self.terms.lifetimes.ask(self.tenant_id, want.kind)
            self.changes.unseen[want.resource].append(Creation(at=now, until=now + life))

    # What there is, and what is wanted

    def _listing(self) -> Listing:
        return Listing(self.graph, self.batches, self.clock, self.deadline)

    async def _take_stock(self, memory: Memory, *, renewing: bool) -> Picture:
        return await self._listing().take(
            self.tenant_id,
            memory,
            leave_out=self.order.gone,
            see=self._renew if renewing else lambda _: None,
            being_renewed=self._begun.keys,
        )

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
        for group, found in zip(groups, members, strict=True):
            wanted += call_events_of(group, found or ())
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
            found = await self.known.load(self.tenant_id)
        except UnavailableError as error:
            self._go_without(error)
            return self.remembered or Memory()
        for problem in found.problems:
            self._trouble(Stage.KNOWN, problem)
        known = self.changes.applied(found.memory, self.clock.now()).known
        self.remembered = msgspec.structs.replace(found.memory, known=known)
        self._hold_back(found)
        return self.remembered

    def _hold_back(self, found: Recollection) -> None:
        """Make and delete nothing with settings that Graph would not give back, or that are too weak to begin with."""
        decisive = {name for name in self.concerns if name != "CLIENT_STATE" or found.is_first}
        if decisive:
            problems = [f"nothing is made or deleted: {name} {self.concerns[name]}" for name in sorted(decisive)]
            self._mine, self._no_turn = False, SettingsError(problems)

    def _go_without(self, error: UnavailableError) -> None:
        """Without knowing what was made, nothing is made or deleted."""
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


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What is still being renewed: the ids, and the desired paths that they are for."""

    ids: frozenset[str]
    paths: frozenset[str | None]

    def concerns(self, action: Action) -> bool:
        one, want = action.subscription, action.desired
        about = {None if one is None else one.resource, None if want is None else want.resource}
        return (one is not None and one.id in self.ids) or not self.paths.isdisjoint(about)


def _as_we_made_it(one: Subscription, memory: Memory) -> Subscription:
    return one if one.remembered else believed(one, memory.known.get(one.id))


def _waiting_for_storage(error: UnavailableError) -> NoTurnError:
    return NoTurnError(f"nothing is made or deleted while storage is away: {error}", reason=error.reason)


def _acts(action: Action) -> bool:
    return action.verb is not Verb.LEAVE


def _needs_turn(action: Action) -> bool:
    return action.verb in {Verb.CREATE, Verb.REPLACE, Verb.DELETE}


def _is_wanted(result: Result, names: Names) -> bool:
    one = result.action.subscription
    return one is not None and names.recognised(one) is not None


def _is_unanswered(result: Result) -> bool:
    return isinstance(result.error, graph.OutcomeUnknownError)


def _merged(before: Result, settled: dict[tuple[str, str], Result]) -> Result:
    want = before.action.desired
    after = settled.get(want.key) if want is not None and before.outcome is Outcome.UNSETTLED else None
    if after is None:
        return before
    return replace(after, outcome=Outcome.ADOPTED) if after.outcome is Outcome.LEFT else after


def _unexpected(error: BaseException) -> UnexpectedError:
    return UnexpectedError(type(error).__name__)
