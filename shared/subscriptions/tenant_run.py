"""One tenant's part of a run: renew, take stock, plan, act, remember.

What is remembered and due is renewed at once, by its id: that needs neither a list nor a group, nor anybody's turn, nor
storage to write to. Everything else follows from a plan, which is made once all of these renewals have ended and the
list is whole; so what became of them is known to it, and nothing is both renewed and replaced.

`tenant_view` is what the run knows, `tenant_actions` what it can do, and this module the order in which it does that.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Final

from shared.subscriptions.actions import Outcome, Result
from shared.subscriptions.listing import Picture
from shared.subscriptions.memory import Creation, Memory, Names, believed, recalled
from shared.subscriptions.planned import Action, Course, Reason, Verb
from shared.subscriptions.scheduler import GRACE
from shared.subscriptions.tenant_actions import TenantActions, needs_turn
from shared.subscriptions.tenant_contract import Stage
from shared.subscriptions.tenant_view import Wanted
from shared.values import graph
from shared.values.errors import NoTurnError, SettingsError, SwitchboardError, UnavailableError, UnexpectedError
from shared.values.graph import GraphError, Subscription

_ROUNDS: Final = 3  # lists per run: one to plan by, the others for creations of unknown outcome

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TenantRun(TenantActions):
    """The part of one tenant in one run."""

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
        """Do some work. The turn is kept meanwhile, and afterwards what was learned is saved."""
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
        if not self._mine and any(needs_turn(action) for action in actions) and await self._wait_for_turn():
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

    async def _renew_without_list(self, wanted: Wanted) -> None:
        """Renew what is nearly over, even though the list could not be read."""
        planned = self._plan(wanted, self._course())
        actions = [self._instead(action, refused=False) if needs_turn(action) else action for action in planned]
        self.results += self._renewed.values()
        await self._perform(action for action in actions if action.verb is Verb.RENEW)

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
            except graph.NotFoundError:
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
        for result in await self.scheduler.look(subscriptions):
            one = result.subscription
            if result.outcome is not Outcome.LEFT or one is None:
                if result.outcome is Outcome.GONE:
                    self._take_in(result)
                self.results.append(result)
                continue
            one = believed(one, memory.known.get(one.id))
            if self.context.endpoint.owns(one.notification_url) and is_unwanted(one):
                doomed.append(
                    Action(Verb.DELETE, Reason.UNWANTED, one.tenant_id, one.kind, result.action.deadline, None, one)
                )
            else:
                self.results.append(result)
        await self._perform(doomed)

    # Creations of unknown outcome

    async def _settle(self, memory: Memory, wanted: Wanted) -> None:
        """Find out by fresh lists what became of creations that Graph answered with a conflict or not at all.

        The plan is made with all that is desired: what is left out of it would be taken for unwanted, and superseded.
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
                and (self._shows_all or not (_is_unanswered(result) and needs_turn(action)))
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
        results = await self.scheduler.perform(actions)
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
        certificate = self.context.certificate
        for identity in self.there.keys() - before - self.changes.gone:
            one = self.there[identity]
            path = names.recognised(one)
            if path is None or not self.context.endpoint.owns(one.notification_url):
                continue
            want = open_[self.tenant_id, path].action.desired
            if want is None:
                continue
            self.there[identity] = replace(
                one,
                resource=want.resource,
                notification_url=self.context.endpoint.url(rich=want.rich),
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
            life = self.context.lifetimes.ask(self.tenant_id, want.kind)
            self.changes.unseen[want.resource].append(Creation(at=now, until=now + life))

    async def _take_stock(self, memory: Memory, *, renewing: bool) -> Picture:
        return await self._listing().take(
            self.tenant_id,
            memory,
            leave_out=self.order.gone,
            see=self._renew if renewing else lambda _: None,
            being_renewed=self._begun.keys,
        )


def _as_we_made_it(one: Subscription, memory: Memory) -> Subscription:
    return one if one.remembered else believed(one, memory.known.get(one.id))


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
