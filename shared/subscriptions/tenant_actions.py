"""Renewing and planning in one tenant, and carrying out what was planned."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, KeysView, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from shared.subscriptions.actions import Action, Outcome, Reason, Result, RunContext, Verb, as_sent
from shared.subscriptions.desired import Desired
from shared.subscriptions.desired_source import Stage, Wanted
from shared.subscriptions.listing import Picture, TenantRecord
from shared.subscriptions.plan import Course, is_of_its_own, plan, renewals
from shared.subscriptions.scheduler import GRACE, BatchScheduler
from shared.subscriptions.state import Creation, Memory, believed, held_until
from shared.subscriptions.turn import TenantTurn
from shared.values import graph_errors
from shared.values.endpoint import ClientStateVersion
from shared.values.errors import UnavailableError
from shared.values.graph import Subscription
from shared.values.graph_errors import GraphError
from shared.values.lifetimes import half_life, last_resort
from shared.values.resource_paths import Names

if TYPE_CHECKING:
    from shared.graph.client import GraphClient

_ROUNDS: Final = 3  # lists per run: one to plan by, the others for creations of unknown outcome


@dataclass(slots=True)
class Renewals:
    """Renewals that need nothing but the id, from when they begin: neither a list nor a plan.

    `results` are those of the ones that have ended.
    """

    scheduler: BatchScheduler
    record: TenantRecord
    results: dict[str, Result] = field(default_factory=dict)
    _begun: dict[str, asyncio.Future[Result]] = field(default_factory=dict)

    @property
    def ids(self) -> KeysView[str]:
        """All that have begun."""
        return self._begun.keys()

    @property
    def refused(self) -> set[str]:
        """What was not renewed because of itself."""
        return {identity for identity, result in self.results.items() if is_of_its_own(result.error)}

    def begin(self, subscriptions: Iterable[Subscription]) -> None:
        """Renew those that are due and need nothing else."""
        context = self.scheduler.context
        actions = renewals(
            (subscription for subscription in subscriptions if subscription.id not in self._begun),
            self.record.now(),
            endpoint=context.endpoint,
            certificate_id=context.certificate_id,
            lifetimes=context.lifetimes,
            paused=self.record.paused,
        )
        for action, result in zip(actions, self.scheduler.begin(actions), strict=True):
            if action.subscription is not None:
                self._begun[action.subscription.id] = result

    def note_ended(self) -> None:
        """Take in the results of those that have ended."""
        for identity, future in self._begun.items():
            if future.done() and identity not in self.results:
                result = self.results[identity] = future.result()
                self.record.take_result(result)

    async def finish(self) -> None:
        """Wait for the end of all of them."""
        await asyncio.gather(*self._begun.values())
        self.note_ended()

    def course(self) -> Course:
        """What the plan has to know of them."""
        refused = {
            identity: result.error
            for identity, result in self.results.items()
            if result.error is not None and result.outcome in {Outcome.KEPT, Outcome.FAILED}
        }
        return Course(begun=self.ids, refused=refused)

    def under_way(self, wanted: Wanted) -> "UnderWay":
        """Those that have not ended."""
        self.note_ended()
        ids = self._begun.keys() - self.results.keys()
        if not ids:
            return UnderWay(frozenset(), frozenset())
        names = Names(want.resource for want in wanted.subscriptions)
        there = self.record.there
        paths = {names.recognised(subscription) for identity, subscription in there.items() if identity in ids}
        return UnderWay(frozenset(ids), frozenset(path for path in paths if path is not None))


@dataclass(frozen=True, slots=True)
class UnderWay:
    """What is still being renewed: the ids, and the desired paths that they are for."""

    ids: frozenset[str]
    paths: frozenset[str]

    def concerns(self, action: Action) -> bool:
        """Whether an action is about one of them, or about what one of them is for."""
        subscription, want = action.subscription, action.desired
        about = {None if subscription is None else subscription.resource, None if want is None else want.resource}
        return (subscription is not None and subscription.id in self.ids) or not self.paths.isdisjoint(about)


@dataclass(frozen=True, slots=True)
class TenantPlanner:
    """Plans by what a run knows of a tenant."""

    context: RunContext
    record: TenantRecord

    def plan(self, wanted: Wanted, course: Course, *, prune: bool = False) -> tuple[Action, ...]:
        return plan(
            wanted.subscriptions,
            self.record.there.values(),
            self.record.now(),
            endpoint=self.context.endpoint,
            certificate_id=self.context.certificate_id,
            lifetimes=self.context.lifetimes,
            prune=prune,
            course=replace(course, paused=self.record.paused),
        )

    def refused_kinds(self, memory: Memory) -> set[tuple[str, str]]:
        """The tenant and each kind of which Graph refused the last creation."""
        changed = self.record.changes.applied(memory, self.record.now())
        return {(self.record.tenant_id, kind) for kind in changed.refusals}

    def held(self, memory: Memory, wanted: Wanted) -> set[tuple[str, str]]:
        """What is not created again for now, because Graph does not show what was created before."""
        now, held = self.record.now(), set()
        unseen = self.record.changes.applied(memory, now).unseen
        for want in wanted.subscriptions:
            until = held_until(unseen.get(want.resource, ()))
            if until is not None and until > now and not self._exists(want):
                held.add(want.key)
                if all(trouble.identity != want.resource for trouble in self.record.troubles):
                    error = graph_errors.UnseenError(until)
                    self.record.add_trouble(Stage.SUBSCRIPTION, error, want.kind.key, want.resource)
        return held

    def _exists(self, want: Desired) -> bool:
        names = Names([want.resource])
        return any(names.recognised(subscription) is not None for subscription in self.record.there.values())


@dataclass(slots=True)
class PlanExecution:
    """Carries plans out, as far as it is this run's turn."""

    scheduler: BatchScheduler
    record: TenantRecord
    turn: TenantTurn
    renewals: Renewals
    _noted: int = 0

    async def perform(self, actions: Iterable[Action]) -> list[Result]:
        """Carry out actions whose results replace others that the record has."""
        results = await self.scheduler.perform(actions)
        for result in results:
            self.record.take_result(result)
        answers, self._noted = self.scheduler.posted[self._noted :], len(self.scheduler.posted)
        for posted in answers:
            if posted.tenant_id == self.record.tenant_id:
                self.record.note_answer(posted)
        return results

    async def perform_and_record(self, actions: Iterable[Action]) -> list[Result]:
        results = await self.perform(actions)
        self.record.results += results
        return results

    async def carry_out(
        self, actions: Sequence[Action], wanted: Wanted, renewed: Collection[str] | None = None
    ) -> None:
        """Carry out a plan: of all replacements of a sort one goes first, and the others only after it succeeded.

        Of the `renewed` (if not given, of all whose renewal has ended) the results are recorded, unless the plan does
        more about them.
        """
        acting = (action.subscription for action in actions if action.verb is not Verb.LEAVE)
        planned = {subscription.id for subscription in acting if subscription is not None}
        self.record.results += self._final_renewals(planned, wanted, renewed)
        left_out = self.renewals.ids - planned
        remaining = []
        for action in actions:
            if action.verb is Verb.LEAVE and action.subscription is not None and action.subscription.id in left_out:
                if action.subscription.id in self.record.there and action.reason is not Reason.FOREIGN:
                    self.record.there[action.subscription.id] = action.subscription  # with its desired path
            else:
                remaining.append(action)
        if not self.turn.is_mine:
            remaining = [kept for action in remaining if (kept := self._without_turn(action)) is not None]
        await self._perform_by_sort(remaining)

    async def _perform_by_sort(self, actions: Iterable[Action]) -> None:
        replacements: defaultdict[tuple[object, ...], list[Action]] = defaultdict(list)
        firsts: list[Action] = []
        for action in actions:
            if action.verb is not Verb.REPLACE or action.kind is None:
                firsts.append(action)
                continue
            sort = (action.kind.key, True) if action.delete_first else (action.kind.key, False, action.reason)
            if not replacements[sort]:
                firsts.append(action)
            replacements[sort].append(action)
        results = {id(result.action): result for result in await self.perform_and_record(firsts)}
        followers = [
            self._after(results[id(first)], follower) for first, *others in replacements.values() for follower in others
        ]
        await self.perform_and_record(followers)

    def instead(self, action: Action, *, refused: bool) -> Action:
        """What to do with a subscription that is not replaced now: it is renewed when it has to be, and else left."""
        subscription = action.subscription
        if subscription is None or action.kind is None:
            return replace(action, verb=Verb.LEAVE)
        context = self.scheduler.context
        usable = context.endpoint.read_mark(subscription.notification_url)[0] is not ClientStateVersion.UNKNOWN
        limit = half_life(subscription, context.lifetimes) if refused else last_resort(subscription, context.lifetimes)
        due = usable and subscription.expires - self.record.now() <= limit and subscription.id not in self.renewals.ids
        return replace(action, verb=Verb.RENEW if due else Verb.LEAVE, delete_first=False)

    def _final_renewals(
        self, planned: Collection[str], wanted: Wanted, renewed: Collection[str] | None
    ) -> list[Result]:
        """Results of renewals after which nothing more is planned."""
        ended = [
            result
            for identity, result in self.renewals.results.items()
            if (renewed is None or identity in renewed) and identity not in planned
        ]
        if any(result.outcome is Outcome.GONE for result in ended):  # the plan makes those that are wanted anew
            names = Names(want.resource for want in wanted.subscriptions)
            ended = [
                result
                for result in ended
                if result.outcome is not Outcome.GONE
                or result.action.subscription is None
                or names.recognised(result.action.subscription) is None
            ]
        return ended

    def _without_turn(self, action: Action) -> Action | None:
        """What becomes of an action that has to wait for another run; None where nothing can be done meanwhile."""
        if not action.needs_turn:
            return action
        if action.subscription is None or action.reason is Reason.UNKNOWN_MARK:
            self.record.results.append(Result(action, Outcome.DEFERRED, action.subscription, self.turn.refusal))
            return None
        return self.instead(action, refused=False)

    def _after(self, first: Result, follower: Action) -> Action:
        succeeded = first.outcome is Outcome.REPLACED or (first.outcome is Outcome.RENEWED and first.error is None)
        return follower if succeeded else self.instead(follower, refused=first.outcome is not Outcome.KEPT)


@dataclass(frozen=True, slots=True)
class Settlement:
    """Finds out what became of creations whose outcome is unknown.

    `take_stock` takes a picture of what there is, going by a memory; ids that are `gone` count as absent.
    """

    graph: "GraphClient"
    take_stock: Callable[[Memory], Awaitable[Picture]]
    record: TenantRecord
    planner: TenantPlanner
    execution: PlanExecution
    gone: Collection[str]

    async def settle(self, memory: Memory, wanted: Wanted) -> None:
        """Find out by fresh lists what became of creations that Graph answered with a conflict or not at all.

        They are planned with everything that is desired, since the plan may replace what is not desired.
        """
        for _ in range(_ROUNDS - 1):
            unsettled = self._unsettled()
            is_late = self.record.now() >= self.execution.scheduler.deadline + GRACE
            if not unsettled or is_late or not self.execution.turn.is_mine:
                break
            before = set(self.record.there)
            picture = await self.take_stock(self.record.changes.applied(memory, self.record.now()))
            if picture.error is not None:
                self.record.add_trouble(Stage.LIST, picture.error)
                break
            await self._look_again(picture, unsettled, memory)
            self._adopt_creations(unsettled, before)
            refused_kinds = self.planner.refused_kinds(memory)
            course = replace(self.execution.renewals.course(), begun=before, refused_kinds=refused_kinds)
            actions = [
                action
                for action in self.planner.plan(wanted, course)
                if action.desired is not None
                and (result := unsettled.get(action.desired.key)) is not None
                # Where the list may hide what was made, each try would make another.
                and (self.record.shows_all or not (_is_unanswered(result) and action.needs_turn))
            ]
            settled = {
                result.action.desired.key: result
                for result in await self.execution.perform(actions)
                if result.action.desired is not None
            }
            self.record.results = [_merged(result, settled) for result in self.record.results]
        for result in self.record.results:
            if result.outcome is Outcome.UNSETTLED and _is_unanswered(result):
                self._note_lost_creation(result)
        self.record.results = [
            replace(result, outcome=Outcome.FAILED) if result.outcome is Outcome.UNSETTLED else result
            for result in self.record.results
        ]

    def _unsettled(self) -> dict[tuple[str, str], Result]:
        return {
            result.action.desired.key: result
            for result in self.record.results
            if result.outcome is Outcome.UNSETTLED and result.action.desired is not None
        }

    async def _look_again(self, picture: Picture, unsettled: Mapping[tuple[str, str], Result], memory: Memory) -> None:
        """Add what a fresh picture shows, and what holds the places of creations that met with a conflict."""
        self.record.shows_all = picture.shows_all
        for identity, lost in picture.lost.items():
            self.record.vanish(identity, lost)
        # What is not in this picture stays: Graph's answers may contradict each other from one moment to the next.
        for identity, subscription in picture.there.items():
            self.record.there[identity] = believed(subscription, memory.known.get(identity))
        self.record.confirmed |= picture.confirmed
        await self._add_holders(unsettled.values(), memory)

    def _adopt_creations(self, unsettled: Mapping[tuple[str, str], Result], before: Collection[str]) -> None:
        """Take what is new, and is for what was asked for without an answer, for what was sent.

        What Graph did not find and now lists is not new, and stays as Graph tells it.
        """
        names = Names(resource for (_, resource), result in unsettled.items() if _is_unanswered(result))
        context = self.execution.scheduler.context
        for identity in self.record.there.keys() - before - self.record.changes.gone:
            subscription = self.record.there[identity]
            path = names.recognised(subscription)
            if path is None or not context.endpoint.owns(subscription.notification_url):
                continue
            want = unsettled[self.record.tenant_id, path].action.desired
            if want is not None:
                self.record.there[identity] = as_sent(subscription, want, context, self.record.now())
                self.record.changes.accepted(want.kind)

    async def _add_holders(self, results: Iterable[Result], memory: Memory) -> None:
        """Add what holds a place although no list shows it: whether a list shows everything is not documented."""
        for result in results:
            error, want = result.error, result.action.desired
            if not isinstance(error, graph_errors.SubscriptionConflictError) or want is None:
                continue
            for holder in error.holders:
                if holder in self.record.there or holder in self.gone or holder in want.resource.lower():
                    continue
                if self.record.now() >= self.execution.scheduler.deadline:
                    return
                try:
                    subscription = await self.graph.subscription(self.record.tenant_id, holder)
                except (UnavailableError, GraphError):
                    continue  # the conflict is what is reported
                self.record.there[subscription.id] = believed(subscription, memory.known.get(subscription.id))
                self.record.confirmed.add(subscription.id)

    def _note_lost_creation(self, result: Result) -> None:
        """Note what may have been made and is not shown, unless a list that is to be trusted does not show it."""
        want = result.action.desired
        if want is not None and not self.record.shows_all:
            now = self.record.now()
            lifetimes = self.execution.scheduler.context.lifetimes
            until = now + lifetimes.ask(self.record.tenant_id, want.kind, want.resource)
            self.record.changes.unseen[want.resource].append(Creation(at=now, until=until))


def _is_unanswered(result: Result) -> bool:
    return isinstance(result.error, graph_errors.OutcomeUnknownError)


def _merged(before: Result, settled: Mapping[tuple[str, str], Result]) -> Result:
    want = before.action.desired
    after = settled.get(want.key) if want is not None and before.outcome is Outcome.UNSETTLED else None
    if after is None:
        return before
    return replace(after, outcome=Outcome.ADOPTED) if after.outcome is Outcome.UNCHANGED else after
