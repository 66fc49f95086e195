"""Renewing and planning in one tenant, and carrying out what was planned."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from shared.subscriptions.actions import Outcome, Result
from shared.subscriptions.endpoint import ClientStateVersion
from shared.subscriptions.lifetimes import half_life, last_resort
from shared.subscriptions.listing import Picture
from shared.subscriptions.memory import Memory, Names, held_until, recalled
from shared.subscriptions.plan import is_of_its_own, plan, renewals
from shared.subscriptions.planned import Action, Course, Desired, Reason, Verb
from shared.subscriptions.tenant_contract import Stage
from shared.subscriptions.tenant_view import TenantView, Wanted
from shared.values import graph, resources
from shared.values.errors import NoTurnError
from shared.values.graph import Subscription


@dataclass(slots=True)
class TenantActions(TenantView):
    """What a run does in a tenant: it renews what is due, and carries out a plan of the rest."""

    # Renewal

    def _renew_remembered(self, memory: Memory) -> None:
        recalls = (recalled(identity, self.tenant_id, known) for identity, known in memory.known.items())
        self._renew(one for one in recalls if one is not None and one.id not in self.order.gone)

    def _renew(self, subscriptions: Iterable[Subscription]) -> None:
        """Begin to renew what needs nothing else."""
        context = self.context
        actions = renewals(
            (one for one in subscriptions if one.id not in self._begun),
            self.clock.now(),
            endpoint=context.endpoint,
            certificate_id=None if context.certificate is None else context.certificate.id,
            lifetimes=context.lifetimes,
        )
        for action, result in zip(actions, self.scheduler.begin(actions), strict=True):
            if action.subscription is not None:
                self._begun[action.subscription.id] = result

    async def _look_for_refused(self, picture: Picture) -> None:
        """Read what Graph neither lists nor renews, because a refused renewal does not show that it still exists."""
        self._note_renewals()
        refused = {identity for identity, result in self._renewed.items() if is_of_its_own(result.error)}
        hidden = (refused & picture.there.keys() & self.there.keys()) - self.confirmed
        if hidden:
            lost, unread = set(picture.lost), len(picture.unread)
            await self._listing().read(picture, hidden)
            self._note_reads(picture, lost, unread)
            self.confirmed |= picture.confirmed & hidden

    def _believe(self, picture: Picture) -> None:
        """Go by a picture, and by what has come of renewals since."""
        self.there, self.confirmed = dict(picture.there), set(picture.confirmed)
        self._note_reads(picture)
        if picture.error is not None:
            self._trouble(Stage.LIST, picture.error)
        if picture.without_signed_in is not None:
            for kind in resources.DELEGATED:
                if self.order.prune or any(want.kind is kind for want in self.wanted):
                    self._trouble(Stage.LIST, picture.without_signed_in, kind.key)
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

    # Planning

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
            endpoint=self.context.endpoint,
            certificate_id=None if self.context.certificate is None else self.context.certificate.id,
            lifetimes=self.context.lifetimes,
            prune=prune,
            course=course,
        )

    def _held(self, memory: Memory, wanted: Wanted) -> set[tuple[str, str]]:
        """What is not created again for now, because Graph does not show what was created before."""
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

    # Acting

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
        subscription = action.subscription
        if subscription is not None and subscription.id in self.there and action.reason is not Reason.FOREIGN:
            self.there[subscription.id] = subscription
        return False

    def _without_turn(self, action: Action) -> Action | None:
        """What becomes of an action that has to wait for another run; None where nothing can be done meanwhile."""
        if not needs_turn(action):
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
        subscription = action.subscription
        if subscription is None or action.kind is None:
            return replace(action, verb=Verb.LEAVE)
        lifetimes = self.context.lifetimes
        usable = self.context.endpoint.read_mark(subscription.notification_url)[0] is not ClientStateVersion.UNKNOWN
        limit = half_life(subscription, lifetimes) if refused else last_resort(subscription, lifetimes)
        due = usable and subscription.expires - self.clock.now() <= limit and subscription.id not in self._begun
        return replace(action, verb=Verb.RENEW if due else Verb.LEAVE, delete_first=False)

    async def _perform(self, actions: Iterable[Action]) -> list[Result]:
        results = await self.scheduler.perform(actions)
        for result in results:
            self._take_in(result)
        self.results += results
        self._note_posts()
        return results


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What is still being renewed: the ids, and the desired paths that they are for."""

    ids: frozenset[str]
    paths: frozenset[str | None]

    def concerns(self, action: Action) -> bool:
        subscription, want = action.subscription, action.desired
        about = {None if subscription is None else subscription.resource, None if want is None else want.resource}
        return (subscription is not None and subscription.id in self.ids) or not self.paths.isdisjoint(about)


def _acts(action: Action) -> bool:
    return action.verb is not Verb.LEAVE


def needs_turn(action: Action) -> bool:
    return action.verb in {Verb.CREATE, Verb.REPLACE, Verb.DELETE}


def _is_wanted(result: Result, names: Names) -> bool:
    subscription = result.action.subscription
    return subscription is not None and names.recognised(subscription) is not None
