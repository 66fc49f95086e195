"""An action -> the calls that carry it out, one after another, each decided by the answer to the one before.

Every action is a generator: it yields a `Call`, is sent the `Reply` and ends with a `Result`. It does no I/O and never
waits, so whoever drives it can put the calls of many actions into one batch, and may deliver a transient error only
after having retried what is safe to retry.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from shared.domain import graph
from shared.domain.errors import SwitchboardError, UnavailableError
from shared.domain.graph import Call, Reply, Subscription
from shared.domain.resources import ResourceKind
from shared.domain.subscriptions import (
    Action,
    Desired,
    EncryptionCertificate,
    Endpoint,
    Lifetimes,
    Standing,
    Verb,
    certificate_fields,
    creation_body,
)

_SHORTENINGS: Final = 3  # how often a refused lifetime is made shorter before the refusal is believed
_CREATIONS: Final = _SHORTENINGS + 1  # once more where the endpoint did not answer
_ROUNDING: Final = timedelta(minutes=1)  # two renewals may fall into one second


class Outcome(StrEnum):
    CREATED = "created"
    RENEWED = "renewed"
    REPLACED = "replaced"
    ADOPTED = "adopted"  # a creation found that the subscription exists already
    DELETED = "deleted"
    GONE = "gone"  # undesired, and Graph no longer has it
    LEFT = "left"
    UNSETTLED = "unsettled"  # whether it exists only a fresh list can tell
    FAILED = "failed"
    DEFERRED = "deferred"  # the run's time was over


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an action; `subscription` is the live one after it, `error` what went wrong, even in part."""

    action: Action
    outcome: Outcome
    subscription: Subscription | None = None
    error: SwitchboardError | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What all actions of a run share. `certificate` is None while Key Vault does not give it."""

    endpoint: Endpoint
    certificate: EncryptionCertificate | None
    lifetimes: Lifetimes
    now: Callable[[], datetime]


type Steps = Generator[Call, Reply, Result]
type _Exchange = Generator[Call, Reply, Reply]


def carry_out(action: Action, terms: Terms) -> Steps:
    """Start an action."""
    return _Execution(action, terms).steps()


@dataclass(frozen=True, slots=True)
class _Execution:
    action: Action
    terms: Terms

    def steps(self) -> Steps:
        match self.action:
            case Action(verb=Verb.CREATE, desired=Desired() as want):
                return (yield from self._create(want))
            case Action(verb=Verb.RENEW, kind=ResourceKind() as kind, subscription=Subscription() as old):
                return (yield from self._renew(old, kind))
            case Action(verb=Verb.REPLACE, desired=Desired() as want, subscription=Subscription() as old):
                return (yield from self._replace(old, want))
            case Action(verb=Verb.DELETE, subscription=Subscription() as old):
                return (yield from self._delete(old))
        return self._result(Outcome.LEFT, self.action.subscription)

    def _create(self, want: Desired) -> Steps:
        reply = yield from self._post(want)
        return self._made(reply, Outcome.CREATED)

    def _renew(self, old: Subscription, kind: ResourceKind) -> Steps:
        want = self.action.desired
        reply = yield from self._patch(old, kind, self._changes(old))
        if isinstance(reply, graph.SubscriptionNotFoundError):
            reply = yield self._call("GET", old, kind)
            if isinstance(reply, graph.SubscriptionNotFoundError):
                if want is None:
                    return self._result(Outcome.GONE)
                return (yield from self._create(want))
            if isinstance(reply, Subscription):
                reply = yield from self._patch(old, kind, self._changes(old))
        if isinstance(reply, graph.RequestRejectedError) and self._changes(old):
            reply = yield from self._patch(old, kind, {})  # "Update subscription" names expiration and URL alone
        extended = isinstance(reply, Subscription) and self._extended(reply, old, kind)
        if isinstance(reply, Subscription) and extended and not self._outdated(reply):
            return self._result(Outcome.RENEWED, reply)
        if want is None or isinstance(reply, UnavailableError):
            return self._result(Outcome.FAILED, old, _refusal(reply))
        # Graph keeps the old certificate, or does not prolong it: only a new subscription helps.
        result = yield from self._exchange(reply if isinstance(reply, Subscription) else old, want)
        if result.outcome is Outcome.FAILED and extended and isinstance(reply, Subscription):
            return self._result(Outcome.RENEWED, reply, result.error)
        return result

    def _replace(self, old: Subscription, want: Desired) -> Steps:
        result = yield from self._exchange(old, want)
        still_there = result.outcome is Outcome.FAILED and result.subscription is not None
        if still_there and old.expires - self.terms.now() <= self.terms.lifetimes.half(want.kind):
            reply = yield from self._patch(old, want.kind, {})
            if isinstance(reply, Subscription):
                return self._result(Outcome.RENEWED, reply, result.error)
        return result

    def _exchange(self, old: Subscription, want: Desired) -> Steps:
        """Make the new one and then delete the old one; the other way round only where Graph cannot hold both."""
        reply = yield from self._post(want)
        if isinstance(reply, Subscription):
            yield self._call("DELETE", old, want.kind)  # if this fails, the next run sees a duplicate
            return self._result(Outcome.REPLACED, reply)
        holds_the_place = isinstance(reply, graph.SubscriptionConflictError) and reply.holder in {None, old.id}
        useless = self.terms.endpoint.standing(old.notification_url)[0] is Standing.UNKNOWN
        if not (holds_the_place or (useless and isinstance(reply, graph.QuotaExceededError))):
            return self._not_made(reply, old)
        removed = yield self._call("DELETE", old, want.kind)
        if not (removed is None or isinstance(removed, graph.SubscriptionNotFoundError)):
            return self._result(Outcome.FAILED, old, _refusal(removed))
        reply = yield from self._post(want)
        return self._made(reply, Outcome.REPLACED)

    def _delete(self, old: Subscription) -> Steps:
        kind = self.action.kind
        reply = yield Call("DELETE", old.tenant_id, old.api_version, kind is not None and kind.delegated_only, old.id)
        if reply is None or isinstance(reply, graph.SubscriptionNotFoundError):
            return self._result(Outcome.DELETED)
        return self._result(Outcome.FAILED, old, _refusal(reply))

    def _post(self, want: Desired) -> _Exchange:
        certificate = self.terms.certificate
        if want.rich and certificate is None:
            return UnavailableError("Key Vault's certificate", reason="certificate")
        woken = False
        for _ in range(_CREATIONS):
            now, asked = self.terms.now(), self.terms.lifetimes.ask(want.kind)
            body = creation_body(want, now + asked, self.terms.endpoint, certificate)
            reply: Reply = yield Call(
                "POST", want.tenant_id, want.kind.api_version, want.kind.delegated_only, None, body
            )
            if isinstance(reply, graph.EndpointValidationError) and not woken:
                woken = True  # an app that has been scaled in is started by the very call that it answers too late
            elif not self._shortened(reply, want.kind, asked):
                break
        if isinstance(reply, graph.EndpointValidationError):
            return graph.EndpointValidationError(f"{reply} (of {self.terms.endpoint.addresses})")
        if isinstance(reply, Subscription):
            self.terms.lifetimes.granted(want.kind, reply.expires - now)
        return reply

    def _patch(self, old: Subscription, kind: ResourceKind, changes: dict[str, Any]) -> _Exchange:
        for _ in range(_SHORTENINGS):
            now, asked = self.terms.now(), self.terms.lifetimes.ask(kind)
            expiry = {"expirationDateTime": graph.format_time(now + asked)}
            reply: Reply = yield self._call("PATCH", old, kind, expiry | changes)
            if not self._shortened(reply, kind, asked):
                break
        if isinstance(reply, Subscription) and reply.expires > old.expires:
            self.terms.lifetimes.granted(kind, reply.expires - now)
        return reply

    def _shortened(self, reply: Reply, kind: ResourceKind, asked: timedelta) -> bool:
        if not isinstance(reply, graph.LifetimeExceededError):
            return False
        self.terms.lifetimes.refused(kind, asked, reply.maximum)
        return True

    def _changes(self, old: Subscription) -> dict[str, Any]:
        """What a renewal changes besides the expiration: an outdated or undisclosed certificate, the URL's query."""
        standing, rich = self.terms.endpoint.standing(old.notification_url)
        certificate = self.terms.certificate
        changes: dict[str, Any] = (
            dict(certificate_fields(certificate))
            if rich and certificate is not None and old.certificate_id != certificate.id
            else {}
        )
        if standing is Standing.CURRENT and not self.terms.endpoint.up_to_date(old.notification_url):
            changes["notificationUrl"] = self.terms.endpoint.url(rich=rich)
        return changes

    def _extended(self, reply: Subscription, old: Subscription, kind: ResourceKind) -> bool:
        whole_life = self.terms.now() + self.terms.lifetimes.ask(kind) - _ROUNDING
        return reply.expires > old.expires or reply.expires >= whole_life

    def _outdated(self, reply: Subscription) -> bool:
        certificate, want = self.terms.certificate, self.action.desired
        if want is None or not want.rich or certificate is None:
            return False
        return reply.certificate_id not in {None, certificate.id}

    def _call(self, method: Any, old: Subscription, kind: ResourceKind, body: dict[str, Any] | None = None) -> Call:
        return Call(method, old.tenant_id, old.api_version, kind.delegated_only, old.id, body)

    def _made(self, reply: Reply, outcome: Outcome) -> Result:
        return self._result(outcome, reply) if isinstance(reply, Subscription) else self._not_made(reply)

    def _not_made(self, reply: SwitchboardError | None, old: Subscription | None = None) -> Result:
        if isinstance(reply, graph.SubscriptionConflictError | graph.OutcomeUnknownError):
            return self._result(Outcome.UNSETTLED, None, reply)
        return self._result(Outcome.FAILED, old, _refusal(reply))

    def _result(
        self, outcome: Outcome, subscription: Subscription | None = None, error: SwitchboardError | None = None
    ) -> Result:
        return Result(self.action, outcome, subscription, error)


def _refusal(reply: Reply) -> SwitchboardError:
    if isinstance(reply, SwitchboardError):
        return reply
    return graph.RequestRejectedError("Graph answered without doing what was asked")
