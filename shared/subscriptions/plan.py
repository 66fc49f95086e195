"""Desired x actual x now -> the actions that make Graph's subscriptions equal the desired ones.

What Graph does not give back about a subscription (its clientState, its lifecycle URL, whether it is rich) is read
from a *mark* in the query of its notification URL, which Graph keeps verbatim ("Receive change notifications through
webhooks", https://learn.microsoft.com/graph/change-notifications-delivery-webhooks): a short keyed digest of just those
three. So a subscription with the current mark was made by us with the current secret, and one with another mark has to
be made anew, because PATCH changes none of the three ("Update subscription",
https://learn.microsoft.com/graph/api/subscription-update).

*Ours* is a subscription that we remember making (see `memory`), or whose notification URL has our scheme, host, port
and path; its query decides what it needs. One with another address was ours if we remember it, or if its mark, taken as
it would have been at that address, is of one of our secrets: it gives way to a desired one for the same thing, since
Graph would not hold both. Any other subscription, of whatever application, is never touched; so deployments that share
an application need secrets of their own, or the last one to run would take all.

*When something is deleted.* A subscription that delivers nothing usable may be deleted before its successor exists. One
that delivers is deleted first only as a last resort, when no more is left of its life than a quarter or three runs of
the timer, and only if Graph refuses to renew it or if its certificate or secret is an old one. A duplicate is deleted
only after the one that stays has been read from Graph.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from shared.subscriptions.actions import Action, Reason, Verb
from shared.subscriptions.desired import Desired
from shared.subscriptions.state import SKEW
from shared.values.endpoint import CACHED_URLS, ClientStateVersion, Endpoint, is_same_id
from shared.values.errors import SwitchboardError
from shared.values.graph import Subscription
from shared.values.graph_errors import EndpointValidationError, GraphError, OutcomeUnknownError, UnauthorizedError
from shared.values.lifetimes import LEAST_GRANTED, SMALLEST_MARGIN, Lifetimes, half_life, last_resort
from shared.values.resource_paths import Names
from shared.values.resource_row import UNKNOWN

PATIENCE: Final = timedelta(minutes=15)
"""Live subscriptions that lapse sooner than this are renewed before missing ones are created.

A live subscription delivers now, whereas a creation may still be refused.
"""


@dataclass(frozen=True, slots=True)
class Course:
    """What a run has found out so far, besides what there is.

    `begun` are the ids that it has renewed or tried to, `refused` those of them that Graph did not renew, and why.
    `refused_kinds` are the tenants and kinds of which Graph refused the last creation. `held` are desired things of
    which nothing more is to be made for now, and `paused` kinds of which nothing is to be made or renewed.
    """

    begun: Collection[str] = frozenset()
    refused: Mapping[str, SwitchboardError] = field(default_factory=dict)
    refused_kinds: Collection[tuple[str, str]] = frozenset()
    held: Collection[tuple[str, str]] = frozenset()
    paused: Collection[str] = frozenset()


def plan(
    desired: Iterable[Desired],
    actual: Iterable[Subscription],
    now: datetime,
    *,
    endpoint: Endpoint,
    certificate_id: str | None,
    lifetimes: Lifetimes,
    prune: bool = False,
    reauthorize: frozenset[str] = frozenset(),
    course: Course | None = None,
) -> tuple[Action, ...]:
    """Decide what to do with every desired and every actual subscription, most urgent first.

    A live subscription is renewed when half of what Graph granted it is left, so an outage shorter than that costs
    nothing. One that nothing asks for is renewed too, and deleted only under `prune`. Of several for the same thing one
    is kept: the same one in every run that sees them, so that two overlapping runs cannot delete both.

    Args:
        actual: what is believed to be there; what expired longer ago than clocks differ counts as absent.
        certificate_id: the current encryption certificate, or None while it is not known; then none is outdated.
        prune: delete what is ours and not desired; of what is not remembered, only while all that is desired is there.
        reauthorize: ids of subscriptions to be renewed now, however long they still have.
        course: what the run that asks has found out already.
    """
    planner = _Planner(now, endpoint, certificate_id, lifetimes, reauthorize, course or Course(), prune=prune)
    actions = (planner.unless_paused(action) for action in planner.actions(desired, actual))
    return tuple(sorted(actions, key=lambda action: action.deadline))


def renewals(
    actual: Iterable[Subscription],
    now: datetime,
    *,
    endpoint: Endpoint,
    certificate_id: str | None,
    lifetimes: Lifetimes,
    paused: Collection[str] = (),
) -> tuple[Action, ...]:
    """What to renew without knowing anything else, most urgent first.

    That is what is due, or has an old certificate or an old function key, and has no fault that only a replacement
    mends. What carries the previous secret is left to the plan, which knows what it has to be replaced by. Of `paused`
    kinds nothing is renewed.
    """
    planner = _Planner(now, endpoint, certificate_id, lifetimes, frozenset(), Course(paused=paused), prune=False)
    actions = (planner.renewal(existing) for existing in actual)
    return tuple(sorted((action for action in actions if action is not None), key=lambda action: action.deadline))


@dataclass(frozen=True, slots=True)
class _Planner:
    now: datetime
    endpoint: Endpoint
    certificate_id: str | None
    lifetimes: Lifetimes
    reauthorize: frozenset[str]
    course: Course
    prune: bool

    def renewal(self, existing: Subscription) -> Action | None:
        kind = existing.kind or UNKNOWN
        if kind.key in self.course.paused or existing.expires <= self.now - SKEW:
            return None
        version, rich = self.endpoint.read_mark(existing.notification_url)
        reason = self._reason_to_renew(existing, version, rich=rich)
        if reason is None:
            return None
        want = Desired(existing.tenant_id, kind, existing.resource, rich)
        return Action(Verb.RENEW, reason, existing.tenant_id, kind, existing.expires, want, existing)

    def unless_paused(self, action: Action) -> Action:
        """The action, or to leave what it is about as it is, where its kind is paused."""
        if action.kind is None or action.kind.key not in self.course.paused or action.verb is Verb.DELETE:
            return action
        return replace(action, verb=Verb.LEAVE, reason=Reason.REFUSED, delete_first=False)

    def _reason_to_renew(self, existing: Subscription, version: ClientStateVersion, *, rich: bool) -> Reason | None:
        if not self.endpoint.is_plain:
            ours = version is not ClientStateVersion.UNKNOWN or self._was_ours(existing)
            return self._due(existing) if ours else None
        if version is not ClientStateVersion.CURRENT or not self.endpoint.owns(existing.notification_url):
            return None
        if self._outdated(existing, rich=rich):
            return None if self._is_kept(existing) else Reason.CERTIFICATE
        if not self.endpoint.up_to_date(existing.notification_url):
            return Reason.NOTIFICATION_URL
        return self._due(existing)

    def actions(self, desired: Iterable[Desired], actual: Iterable[Subscription]) -> Iterable[Action]:
        wanted = {want.key: want for want in desired}
        paths: defaultdict[str, list[str]] = defaultdict(list)
        for tenant_id, path in wanted:
            paths[tenant_id].append(path)
        names = {tenant_id: Names(of_tenant) for tenant_id, of_tenant in paths.items()}
        ours: defaultdict[tuple[str, str], list[Subscription]] = defaultdict(list)
        former: dict[tuple[str, str], Subscription] = {}
        for subscription in actual:
            existing = _recognised(subscription, names)
            if self.endpoint.owns(existing.notification_url):
                if existing.expires > self.now - SKEW:
                    ours[subscription_key(existing)].append(existing)
            elif subscription_key(existing) not in former and self._was_ours(existing):
                former[subscription_key(existing)] = existing
            else:
                yield self._at_leisure(Verb.LEAVE, Reason.FOREIGN, existing)
        missing, all_covered = [], True
        for want in wanted.values():
            candidates = sorted(
                ours.pop(want.key, ()), key=lambda existing: (self._faults(want, existing), existing.id)
            )
            if candidates:
                best, *others = candidates
                all_covered &= best.expires > self.now and not self._is_useless(want, best)
                yield from self._keep_best(want, best, others)
            else:
                all_covered = False
                missing.append(want)
        unwanted = [existing for not_desired in ours.values() for existing in not_desired]
        yield from self._make(missing, unwanted, former)
        for existing in former.values():
            yield self._at_leisure(Verb.LEAVE, Reason.FOREIGN, existing)
        for existing in unwanted:
            # One that we do not remember sending may cover something desired that seems to be missing, under a spelling
            # of Graph's that is not recognised.
            yield self._unwanted(existing, is_sure=existing.sent or all_covered)

    def _was_ours(self, existing: Subscription) -> bool:
        return existing.remembered or self.endpoint.was_ours(existing.notification_url)

    def _keep_best(self, want: Desired, best: Subscription, others: Iterable[Subscription]) -> Iterable[Action]:
        kept = self._keep(want, best)
        usable = not self._is_useless(want, best)
        if others and kept.verb is Verb.REPLACE:
            # A replacement would be the third one. The second is deleted first, and a later run replaces the other.
            due = self._due(best) if usable and best.id not in self.course.begun else None
            verb = Verb.LEAVE if due is None else Verb.RENEW
            kept = replace(kept, verb=verb, reason=due or kept.reason, delete_first=False)
        yield kept
        calm = kept.verb is Verb.LEAVE and best.id not in self.course.begun
        for other in others:
            goes = other.id not in self.course.begun and calm and (usable or self._is_useless(want, other))
            if goes and usable:
                goes = best.expires - self.now > half_life(best, self.lifetimes)
            action = self._at_leisure(Verb.DELETE if goes else Verb.LEAVE, Reason.DUPLICATE, other)
            yield replace(action, kept=best if goes and usable else None)

    def _is_useless(self, want: Desired, existing: Subscription) -> bool:
        """Whether nothing that it delivers is of any use as what is wanted."""
        version, rich = self.endpoint.read_mark(existing.notification_url)
        return version is ClientStateVersion.UNKNOWN or rich != want.rich or not _same_changes(existing, want)

    def _keep(self, want: Desired, existing: Subscription) -> Action:
        version, rich = self.endpoint.read_mark(existing.notification_url)
        due, last = self._due(existing), self._is_last_resort(existing)
        verb, reason, deadline, delete_first = Verb.REPLACE, Reason.FRESH, existing.expires, True
        begun = existing.id in self.course.begun
        if version is ClientStateVersion.UNKNOWN:
            # Its notifications are refused, so it is worth no more than a missing one.
            reason, deadline = Reason.UNKNOWN_MARK, min(existing.expires, self.now + PATIENCE)
        elif rich != want.rich:
            reason = Reason.RESOURCE_DATA
        elif not _same_changes(existing, want):
            reason = Reason.CHANGE_TYPE
        elif version is ClientStateVersion.PREVIOUS and (due is not None or self._outdated(existing, rich=rich)):
            reason, delete_first = Reason.CLIENT_STATE, last
        elif self._outdated(existing, rich=rich) and self._is_kept(existing):
            reason, delete_first = Reason.CERTIFICATE, last
        elif existing.id in self.course.refused:
            return self._refused(want, existing, self.course.refused[existing.id], last=last)
        elif self._outdated(existing, rich=rich) and not begun:
            verb, reason, delete_first = Verb.RENEW, Reason.CERTIFICATE, False
        elif (
            version is ClientStateVersion.CURRENT
            and not self.endpoint.up_to_date(existing.notification_url)
            and not begun
        ):
            verb, reason, delete_first = Verb.RENEW, Reason.NOTIFICATION_URL, False
        elif due is not None and not begun:
            verb, reason, delete_first = Verb.RENEW, due, False
        else:
            return self._at_leisure(Verb.LEAVE, Reason.FRESH, existing, want)
        action = self._action(verb, reason, want, deadline, existing, delete_first=delete_first)
        # Graph raises a shorter life to its least. With less left than that, the probe would prolong the subscription.
        leaves_its_end = existing.expires - self.now > LEAST_GRANTED + SMALLEST_MARGIN
        probe = verb is Verb.REPLACE and reason is Reason.CERTIFICATE and not begun and leaves_its_end
        return replace(action, probe=probe)

    def _refused(self, want: Desired, existing: Subscription, error: SwitchboardError, *, last: bool) -> Action:
        """What Graph does not renew is kept, and replaced when it is nearly over and only itself is to blame."""
        if not (last and is_of_its_own(error)):
            return self._at_leisure(Verb.LEAVE, Reason.REFUSED, existing, want)
        delete_first = isinstance(error, GraphError) and not isinstance(error, EndpointValidationError)
        return self._action(Verb.REPLACE, Reason.REFUSED, want, existing.expires, existing, delete_first=delete_first)

    def _action(
        self,
        verb: Verb,
        reason: Reason,
        want: Desired,
        deadline: datetime,
        existing: Subscription | None,
        *,
        delete_first: bool,
    ) -> Action:
        may = delete_first and (want.tenant_id, want.kind.key) not in self.course.refused_kinds
        return Action(verb, reason, want.tenant_id, want.kind, deadline, want, existing, may)

    def _make(
        self, missing: list[Desired], unwanted: list[Subscription], former: dict[tuple[str, str], Subscription]
    ) -> Iterable[Action]:
        """Create what is missing, in place of what our former address or, of presence, another list of users has left.

        Graph allows an application one presence subscription per signed-in user ("Change notifications overview",
        https://learn.microsoft.com/graph/change-notifications-overview), so a longer list of users is another resource
        that competes with the shorter one.
        """
        for want in missing:
            if want.key in self.course.held or want.kind.key in self.course.paused:
                continue
            verb, reason = Verb.REPLACE, Reason.NOTIFICATION_URL
            old = former.pop(want.key, None)
            if old is None:
                reason = Reason.SUPERSEDED
                old = next((existing for existing in unwanted if _supersedes(want, existing)), None)
                if old is not None:
                    unwanted.remove(old)
                else:
                    verb, reason = Verb.CREATE, Reason.MISSING
            deadline = self.now + PATIENCE
            yield self._action(verb, reason, want, deadline, old, delete_first=old is not None)

    def _unwanted(self, existing: Subscription, *, is_sure: bool) -> Action:
        version, _ = self.endpoint.read_mark(existing.notification_url)
        if self.prune and is_sure:
            return self._at_leisure(Verb.DELETE, Reason.UNWANTED, existing)
        if version is ClientStateVersion.UNKNOWN:
            return self._at_leisure(Verb.LEAVE, Reason.UNKNOWN_MARK, existing)
        due = self._due(existing)
        # A group that cannot be read now may want it. It is to be replaced then, so it is not prolonged before.
        waits = (
            version is ClientStateVersion.PREVIOUS and not self._is_last_resort(existing) and due is Reason.HALF_LIFE
        )
        if due is None or waits or existing.id in self.course.begun:
            return self._at_leisure(Verb.LEAVE, Reason.UNWANTED, existing)
        kind = existing.kind or UNKNOWN
        return Action(Verb.RENEW, due, existing.tenant_id, kind, existing.expires, None, existing)

    def _due(self, existing: Subscription) -> Reason | None:
        if existing.id in self.reauthorize:
            return Reason.REAUTHORIZATION
        return Reason.HALF_LIFE if existing.expires - self.now <= half_life(existing, self.lifetimes) else None

    def _is_last_resort(self, existing: Subscription) -> bool:
        return existing.expires - self.now <= last_resort(existing, self.lifetimes)

    def _outdated(self, existing: Subscription, *, rich: bool) -> bool:
        return rich and self.certificate_id is not None and not is_same_id(existing.certificate_id, self.certificate_id)

    def _is_kept(self, existing: Subscription) -> bool:
        """Whether Graph did not take the current certificate in a renewal."""
        return existing.kept_certificate is not None and existing.kept_certificate == self.certificate_id

    def _faults(self, want: Desired, existing: Subscription) -> tuple[bool, ...]:
        """What is not as wanted, the gravest first, judged only by what no renewal changes back."""
        version, rich = self.endpoint.read_mark(existing.notification_url)
        return (
            existing.expires <= self.now,
            version is ClientStateVersion.UNKNOWN,
            rich != want.rich or not _same_changes(existing, want),
            version is not ClientStateVersion.CURRENT,
            self._outdated(existing, rich=rich),
        )

    def _at_leisure(self, verb: Verb, reason: Reason, existing: Subscription, want: Desired | None = None) -> Action:
        latest = datetime.max.replace(tzinfo=self.now.tzinfo)
        return Action(verb, reason, existing.tenant_id, existing.kind, latest, want, existing)


def is_of_its_own(error: SwitchboardError | None) -> bool:
    """Whether a renewal failed because of the subscription, and not because Graph or something on the way is away."""
    return isinstance(error, GraphError | OutcomeUnknownError | UnauthorizedError)


def subscription_key(existing: Subscription) -> tuple[str, str]:
    """What a subscription is for: the same as the `key` of the `Desired` that it fulfils, once it is recognised."""
    return existing.tenant_id, existing.resource


def _recognised(existing: Subscription, names: Mapping[str, Names]) -> Subscription:
    of_tenant = names.get(existing.tenant_id)
    path = None if of_tenant is None else of_tenant.recognised(existing)
    if path is None or path == existing.resource:
        return existing
    return replace(existing, resource=path, spelling=existing.spelling or existing.resource)


def _supersedes(want: Desired, old: Subscription) -> bool:
    return want.kind.one_per_tenant and old.kind is want.kind and old.tenant_id == want.tenant_id


def _same_changes(existing: Subscription, want: Desired) -> bool:
    """Whether the change types are the wanted ones; where Graph tells none, nothing speaks against it."""
    return not existing.change_type or _change_types(existing.change_type) == _change_types(want.kind.change_type)


@lru_cache(maxsize=CACHED_URLS)
def _change_types(text: str) -> frozenset[str]:
    return frozenset(word.strip().casefold() for word in text.split(","))
