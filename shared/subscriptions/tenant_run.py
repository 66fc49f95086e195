"""One tenant's part of a run: renew, take stock, plan, act, remember.

What is remembered and due is renewed at once, by its id: that needs neither a list nor a group, nor anybody's turn, nor
storage to write to. Everything else follows from a plan, which is made once all of these renewals have ended and the
list is whole; so what became of them is known to it, and nothing is both renewed and replaced.

The parts, and what they hand on: `listing` takes a picture of what there is, `desired_source` finds out what is wanted,
`tenant_actions` carries out the plan of both, `turn` says whether this run may make and delete, and a `TenantRecord` is
what all of them have found out and done.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from shared.clock import Clock
from shared.subscriptions.actions import Action, Outcome, Reason, Verb
from shared.subscriptions.desired import DesiredState
from shared.subscriptions.desired_source import Stage, Trouble, Wanted, WantedReader
from shared.subscriptions.listing import Listing, Picture, TenantRecord
from shared.subscriptions.plan import Course
from shared.subscriptions.scheduler import BatchScheduler
from shared.subscriptions.state import KnownSubscriptions, Memory, believed, recalled
from shared.subscriptions.tenant_actions import PlanExecution, Renewals, Settlement, TenantPlanner
from shared.subscriptions.turn import TenantTurn
from shared.subscriptions.unwanted import due_for_removal, review_unwanted
from shared.values import graph_errors, resources
from shared.values.endpoint import ClientStateVersion
from shared.values.errors import SettingsError, SwitchboardError, UnavailableError, UnexpectedError
from shared.values.graph import Subscription
from shared.values.graph_errors import GraphError
from shared.values.resource_paths import Names

if TYPE_CHECKING:
    from shared.graph.client import GraphClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What a run was asked for.

    `gone` are ids that Graph said it has removed, should its list still show them. With `review` it looks for what
    nobody desires, and with `unsubscribe` it removes that when its time has come.
    """

    prune: bool = False
    gone: frozenset[str] = frozenset()
    review: bool = False
    unsubscribe: bool = False


class TenantRun:
    """The part of one tenant in one run."""

    def __init__(
        self,
        tenant_id: str,
        *,
        graph: "GraphClient",
        known: KnownSubscriptions,
        clock: Clock,
        scheduler: BatchScheduler,
        order: Order,
        desired: Callable[[], Awaitable[DesiredState | None]],
        confirmed: Callable[[], Awaitable[Mapping[str, datetime]]],
        remembered: Memory | None,
        concerns: Mapping[str, str],
    ) -> None:
        """Put the parts together.

        Args:
            tenant_id: whose part it is.
            graph: where subscriptions and groups are read.
            known: where what is remembered is kept.
            clock: what time it is.
            scheduler: of the run, for all tenants.
            order: what the run was asked for.
            desired: gives the desired state, or None where it cannot be read.
            confirmed: gives the ids that an operator has confirmed to be unsubscribed, each with when.
            remembered: what this process remembers of the tenant.
            concerns: settings that nothing new is made with, and what to do about them.
        """
        self._graph = graph
        self._scheduler = scheduler
        self._order = order
        self._desired = desired
        self._confirmed = confirmed
        self._remembered = remembered
        self.record = TenantRecord(tenant_id, scheduler.context.lifetimes, clock.now)
        self.turn = TenantTurn(known, self.record, clock, scheduler.deadline, concerns, remembered)
        self._renewals = Renewals(scheduler, self.record)
        self._planner = TenantPlanner(scheduler.context, self.record)
        self._execution = PlanExecution(scheduler, self.record, self.turn, self._renewals)
        self._settlement = Settlement(graph, self._take_stock, self.record, self._planner, self._execution, order.gone)
        self._listing = Listing(graph, scheduler, clock, scheduler.deadline)
        self._wanted_reader = WantedReader(tenant_id, graph, clock, complains=order.prune)

    async def run(self) -> None:
        """Do all that is to be done; what went wrong is among the troubles."""
        await self._through(self._reconcile())

    async def prune(self, ids: Collection[str]) -> None:
        """Delete those of the ids that are ours and not desired, by a plan of its own."""
        await self._through(self._prune(ids))

    async def delete(self, subscriptions: Collection[Subscription]) -> None:
        """Delete these, whatever is desired."""
        await self._through(self._delete(subscriptions))

    async def forecast(self) -> tuple[Action, ...]:
        """What a run would do now; nothing is done."""
        memory = await self.turn.load()
        picture = await self._take_stock(memory)
        wanted = await self._want(memory)
        self._believe(picture)
        if picture.error is not None:
            return ()
        self.record.complain(self.record.switched_off)
        prune = self._order.prune and self._is_all_known(wanted)
        return self._planner.plan(wanted, Course(held=self._planner.held(memory, wanted)), prune=prune)

    async def find(self, ids: Iterable[str]) -> list[Subscription]:
        """Those of the ids that there are in this tenant; those that cannot be read are among the troubles."""
        memory = await self.turn.load()
        subscriptions = []
        for identity in ids:
            known = memory.known.get(identity)
            recollection = None if known is None else recalled(identity, self.record.tenant_id, known)
            try:
                subscriptions.append(recollection or await self._graph.subscription(self.record.tenant_id, identity))
            except graph_errors.NotFoundError:
                continue
            except (UnavailableError, GraphError) as error:
                self.record.add_trouble(Stage.READ, error, identity=identity)
        return subscriptions

    async def _through(self, work: Coroutine[None, None, None]) -> None:
        """Do some work. The turn is kept meanwhile, and afterwards what was learned is saved."""
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self.turn.keep())
                await work
                keeping.cancel()
        except* SwitchboardError as errors:
            for error in errors.exceptions:
                known = error if isinstance(error, SwitchboardError) else _unexpected(error)
                self.record.add_trouble(Stage.SUBSCRIPTION, known)
        except* Exception as errors:
            logger.exception("renewal of tenant %s met with a fault of ours", self.record.tenant_id)
            self.record.add_trouble(Stage.SUBSCRIPTION, _unexpected(errors.exceptions[0]))
        finally:
            await self.turn.end()

    async def _reconcile(self) -> None:
        if self._remembered is not None:
            self._renew_remembered(self._remembered)
        memory = await self.turn.begin()
        self._renew_remembered(memory)
        wanting = asyncio.create_task(self._want(memory))
        try:
            picture = await self._take_stock(memory, see=self._renewals.begin)
            wanted = await wanting
        finally:
            wanting.cancel()
        self._believe(picture)
        if picture.error is not None:
            await self._end_without_list(memory, wanted)
            return
        await self._look_for_refused(picture)
        actions = self._plan(memory, wanted)
        if not self.turn.is_mine and any(action.needs_turn for action in actions) and await self.turn.wait():
            memory = await self.turn.load()
            picture = await self._take_stock(memory, see=self._renewals.begin)
            self._believe(picture)
            if picture.error is not None:
                await self._end_without_list(memory, wanted)
                return
            await self._look_for_refused(picture)
            actions = self._plan(memory, wanted)
        # What is planned for subscriptions whose renewal goes on waits for its end; everything else does not.
        under_way = self._renewals.under_way(wanted)
        await self._execution.carry_out([action for action in actions if not under_way.concerns(action)], wanted)
        await self._renewals.finish()
        if under_way.ids:
            await self._look_for_refused(picture)
            later = [action for action in self._plan(memory, wanted) if under_way.concerns(action)]
            await self._execution.carry_out(later, wanted, under_way.ids)
        await self._settlement.settle(memory, wanted)
        if self._order.review and self.turn.is_mine:
            await self._review(memory, wanted)

    def _renew_remembered(self, memory: Memory) -> None:
        recollections = (recalled(identity, self.record.tenant_id, known) for identity, known in memory.known.items())
        self._renewals.begin(
            subscription
            for subscription in recollections
            if subscription is not None and subscription.id not in self._order.gone
        )

    async def _want(self, memory: Memory) -> Wanted:
        state = await self._desired()
        wanted = Wanted() if state is None else await self._wanted_reader.read(state, memory.readings)
        self.record.take_wanted(wanted)
        return wanted

    async def _take_stock(
        self, memory: Memory, *, see: Callable[[Iterable[Subscription]], None] = lambda _: None
    ) -> Picture:
        return await self._listing.take(
            self.record.tenant_id, memory, leave_out=self._order.gone, see=see, being_renewed=lambda: self._renewals.ids
        )

    def _believe(self, picture: Picture) -> None:
        """Go by a picture, and by what has come of renewals since."""
        self.record.take_picture(picture)
        if picture.error is not None:
            self.record.add_trouble(Stage.LIST, picture.error)
        if picture.without_signed_in is not None:
            for kind in resources.DELEGATED:
                if self._order.prune or any(want.kind is kind for want in self.record.wanted):
                    self.record.add_trouble(Stage.LIST, picture.without_signed_in, kind.key)
        for result in self._renewals.results.values():
            self.record.take_result(result)
        self._renewals.note_ended()

    async def _look_for_refused(self, picture: Picture) -> None:
        """Read what Graph neither lists nor renews, because a refused renewal does not show that it still exists."""
        self._renewals.note_ended()
        hidden = (self._renewals.refused & picture.there.keys() & self.record.there.keys()) - self.record.confirmed
        if hidden:
            lost, unread = set(picture.lost), len(picture.unread)
            await self._listing.read(picture, hidden)
            self.record.note_reads(picture, lost, unread)
            self.record.confirmed |= picture.confirmed & hidden

    def _plan(self, memory: Memory, wanted: Wanted) -> tuple[Action, ...]:
        self.record.complain(self.record.paused)
        held = self._planner.held(memory, wanted)
        refused_kinds = self._planner.refused_kinds(memory)
        return self._planner.plan(wanted, replace(self._renewals.course(), held=held, refused_kinds=refused_kinds))

    async def _end_without_list(self, memory: Memory, wanted: Wanted) -> None:
        """Renew what is nearly over, even though the list could not be read."""
        if self._order.review and self.turn.is_mine:
            self.record.restart_review(memory.review)
        await self._renewals.finish()
        planned = self._planner.plan(wanted, self._renewals.course())
        actions = [
            self._execution.instead(action, refused=False) if action.needs_turn else action for action in planned
        ]
        self.record.results += self._renewals.results.values()
        await self._execution.perform_and_record(action for action in actions if action.verb is Verb.RENEW)

    # Removing what nobody desires

    async def _review(self, memory: Memory, wanted: Wanted) -> None:
        """Note what nobody desires, and remove what nobody has desired for long enough."""
        before, now, record = memory.review, self.record.now(), self.record
        if not wanted.whole:
            record.restart_review(before)
            return
        unwanted = {
            action.subscription.id: action.subscription
            for action in self._planner.plan(wanted, self._renewals.course(), prune=True)
            if action.verb is Verb.DELETE and action.reason is Reason.UNWANTED and action.subscription is not None
            if self._is_known_to_be_ours(action.subscription)
        }
        others = (
            subscription
            for identity, subscription in record.there.items()
            if identity not in unwanted and subscription.expires > now and self._is_known_to_be_ours(subscription)
        )
        confirmed = await self._confirmed() if unwanted else {}
        review = review_unwanted(
            unwanted, others, before, now, confirmed=confirmed, unsubscribes=self._order.unsubscribe
        )
        record.changes.review = review
        held_up = sum(entry.waits is None and entry.since != now for entry in review.unwanted.values())
        if held_up and before is not None and before.whole_since not in {None, review.whole_since}:
            logger.warning(
                "the hour before %d subscriptions of tenant %s go begins anew: the last reading was too long ago",
                held_up,
                record.tenant_id,
            )
        due = due_for_removal(review, now)
        if not (due and wanted.sure) or any(map(_hides_something, record.troubles)):
            return
        unconfirmed = {identity: now for identity in due if not review.unwanted[identity].confirmed}
        record.changes.review = review.with_removals(unconfirmed, now)
        try:
            await self.turn.save()  # before anything goes: a run that dies afterwards must not forget what it removed
        except UnavailableError as error:
            record.add_trouble(Stage.KNOWN, error)
            return
        names = Names(want.resource for want in wanted.subscriptions)
        deleted = await self._look_and_delete(
            (unwanted[identity] for identity in sorted(due)),
            memory,
            lambda subscription: names.recognised(subscription) is None and self._is_known_to_be_ours(subscription),
        )
        for identity in deleted:
            entry = review.unwanted[identity]
            logger.warning(
                "unsubscribed from %s %s, which nobody has desired since %s", entry.kind, identity, entry.since
            )

    def _is_known_to_be_ours(self, subscription: Subscription) -> bool:
        """Whether it has today's address, the mark of one of our secrets, and a kind that this version knows."""
        endpoint, url = self._scheduler.context.endpoint, subscription.notification_url
        is_marked = endpoint.read_mark(url)[0] is not ClientStateVersion.UNKNOWN
        return endpoint.owns(url) and is_marked and subscription.kind is not None

    # Deleting what an operator has named

    async def _prune(self, ids: Collection[str]) -> None:
        memory = await self._await_turn()
        if not self.turn.is_mine:
            return
        wanted = await self._want(memory)
        picture = await self._take_stock(memory)
        self._believe(picture)
        if not self._is_all_known(wanted):
            return
        doomed = [
            action.subscription
            for action in self._planner.plan(wanted, Course(), prune=True)
            if action.verb is Verb.DELETE and action.reason is Reason.UNWANTED and action.subscription is not None
        ]
        names = Names(want.resource for want in wanted.subscriptions)
        await self._look_and_delete(
            (subscription for subscription in doomed if subscription.id in ids),
            memory,
            lambda subscription: names.recognised(subscription) is None,
        )

    def _is_all_known(self, wanted: Wanted) -> bool:
        return wanted.sure and not self.record.troubles

    async def _delete(self, subscriptions: Iterable[Subscription]) -> None:
        memory = await self._await_turn()
        if self.turn.is_mine:
            await self._look_and_delete(subscriptions, memory, lambda _: True)

    async def _await_turn(self) -> Memory:
        """Take the turn, waiting for another run, and what is remembered then; without the turn, that is a trouble."""
        memory = await self.turn.begin()
        if not self.turn.is_mine and await self.turn.wait():
            memory = await self.turn.load()
        if not self.turn.is_mine:
            error = self.turn.refusal
            self.record.add_trouble(Stage.SETTINGS if isinstance(error, SettingsError) else Stage.TURN, error)
        return memory

    async def _look_and_delete(
        self, subscriptions: Iterable[Subscription], memory: Memory, is_unwanted: Callable[[Subscription], bool]
    ) -> set[str]:
        """Read each by its id, and delete it if it is ours and unwanted by what Graph says now; which ids are gone."""
        doomed = []
        for result in await self._scheduler.look(subscriptions):
            told = result.subscription
            if result.outcome is not Outcome.UNCHANGED or told is None:
                if result.outcome is Outcome.GONE:
                    self.record.take_result(result)
                self.record.results.append(result)
                continue
            subscription = believed(told, memory.known.get(told.id))
            if self._scheduler.context.endpoint.owns(subscription.notification_url) and is_unwanted(subscription):
                doomed.append(
                    Action(
                        Verb.DELETE,
                        Reason.UNWANTED,
                        subscription.tenant_id,
                        subscription.kind,
                        result.action.deadline,
                        subscription=subscription,
                    )
                )
            else:
                self.record.results.append(result)
        results = await self._execution.perform_and_record(doomed)
        return {result.removed for result in results if result.removed is not None}


def _hides_something(trouble: Trouble) -> bool:
    """Whether something may be desired or exist otherwise than it seems."""
    return trouble.stage is not Stage.SUBSCRIPTION


def _unexpected(error: BaseException) -> UnexpectedError:
    return UnexpectedError(type(error).__name__)
