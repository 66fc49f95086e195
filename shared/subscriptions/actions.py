"""An action -> the calls that carry it out, one after another, each decided by the answer to the one before.

Every action is a generator: it yields a `Call`, is sent the `Reply` and ends with a `Result`. It does no I/O and never
waits, so whoever drives it can put the calls of many actions into one batch, and may deliver a transient error only
after having retried what is safe to retry. `BatchScheduler` does so; the simplest driver is

    steps = carry_out(action, context)
    try:
        call = next(steps)
        while True:
            call = steps.send(graph_answers(call))
    except StopIteration as end:
        result = end.value
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from shared.subscriptions.desired import Desired
from shared.values import graph, graph_errors
from shared.values.endpoint import ClientStateVersion, EncryptionCertificate, Endpoint, is_same_id
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import Call, Reply, Subscription
from shared.values.graph_errors import GraphError
from shared.values.lifetimes import LEAST_GRANTED, Lifetimes, half_life, last_resort
from shared.values.resource_row import ResourceKind

_SHORTENINGS: Final = 3  # how often a refused lifetime is made shorter before the refusal is believed
_CREATIONS: Final = _SHORTENINGS + 1  # once more where the endpoint did not answer
_ROUNDING: Final = timedelta(minutes=1)  # two renewals may fall into one second


class Verb(StrEnum):
    CREATE = "create"
    RENEW = "renew"
    REPLACE = "replace"
    DELETE = "delete"
    LEAVE = "leave"


class Reason(StrEnum):
    MISSING = "missing"
    HALF_LIFE = "half-life"
    REAUTHORIZATION = "reauthorization"
    CERTIFICATE = "certificate"
    NOTIFICATION_URL = "notification-url"
    CLIENT_STATE = "client-state"
    UNKNOWN_MARK = "unknown-mark"
    RESOURCE_DATA = "resource-data"
    CHANGE_TYPE = "change-type"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    DUPLICATE = "duplicate"
    UNWANTED = "unwanted"
    FRESH = "fresh"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, and why.

    `desired` is None for a subscription that nothing asks for, `subscription` for one that does not exist. `kind` is
    None only where `verb` is LEAVE or DELETE. `deadline` orders actions: the most urgent has the earliest.
    `delete_first` allows a REPLACE to delete the old one before its successor is there, where Graph does not hold both.
    `kept` is what stays when a duplicate is deleted: it is looked at once more before. `probe` has a REPLACE try once
    more first whether a renewal does.
    """

    verb: Verb
    reason: Reason
    tenant_id: str
    kind: ResourceKind | None = field(hash=False, repr=False)
    deadline: datetime
    desired: Desired | None = None
    subscription: Subscription | None = None
    delete_first: bool = False
    kept: Subscription | None = None
    probe: bool = False

    @property
    def needs_turn(self) -> bool:
        """Whether it makes or deletes something, which one run at a time may do."""
        return self.verb in {Verb.CREATE, Verb.REPLACE, Verb.DELETE}


class Outcome(StrEnum):
    CREATED = "created"
    RENEWED = "renewed"
    REPLACED = "replaced"
    ADOPTED = "adopted"  # a creation found that the subscription exists already
    DELETED = "deleted"
    GONE = "gone"  # Graph no longer has it
    KEPT = "kept"  # Graph does not renew or change it, and it is still there
    UNCHANGED = "unchanged"  # nothing was to be done
    UNSETTLED = "unsettled"  # whether it exists only a fresh list can tell
    FAILED = "failed"
    DEFERRED = "deferred"  # the run's time was over


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an action; `subscription` is the live one after it, `error` what went wrong, even in part.

    `removed` is the id of what was deleted, or found gone.
    """

    action: Action
    outcome: Outcome
    subscription: Subscription | None = None
    error: SwitchboardError | None = None
    removed: str | None = None


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all actions of a run share. `certificate` is None while Key Vault does not give it."""

    endpoint: Endpoint
    certificate: EncryptionCertificate | None
    lifetimes: Lifetimes
    now: Callable[[], datetime]

    @property
    def certificate_id(self) -> str | None:
        return None if self.certificate is None else self.certificate.id


type Steps = Generator[Call, Reply, Result]
type _Exchange = Generator[Call, Reply, Reply]


def carry_out(action: Action, context: RunContext) -> Steps:
    """Start an action."""
    return _Execution(action, context).steps()


def look(action: Action, old: Subscription) -> Steps:
    """Read a subscription, and do nothing about it."""
    delegated = action.kind is not None and action.kind.delegated_only
    reply = yield Call("GET", old.tenant_id, old.api_version, delegated, old.id)
    if isinstance(reply, graph_errors.NotFoundError):
        return Result(action, Outcome.GONE, removed=old.id)
    if isinstance(reply, Subscription) and reply.id == old.id:
        return Result(action, Outcome.UNCHANGED, reply)
    return Result(action, Outcome.FAILED, old, _refusal(reply))


@dataclass(frozen=True, slots=True)
class _Execution:
    action: Action
    context: RunContext

    def steps(self) -> Steps:
        match self.action:
            case Action(verb=Verb.CREATE, desired=Desired() as want):
                reply = yield from self._post(want)
                return self._made(reply, Outcome.CREATED)
            case Action(verb=Verb.RENEW, kind=ResourceKind() as kind, subscription=Subscription() as old):
                return (yield from self._renew(old, kind))
            case Action(verb=Verb.REPLACE, desired=Desired() as want, subscription=Subscription() as old):
                return (yield from self._replace(old, want))
            case Action(verb=Verb.DELETE, subscription=Subscription() as old):
                return (yield from self._delete(old))
        return self._result(Outcome.UNCHANGED, self.action.subscription)

    def _renew(self, old: Subscription, kind: ResourceKind) -> Steps:
        """PATCH and nothing else: what is to become of one that is gone or refused is for a plan to decide."""
        reply = yield from self._patch(old, kind, self._changes(old))
        if isinstance(reply, graph_errors.NotFoundError):
            reply = yield self._call("GET", old, kind)
            if isinstance(reply, graph_errors.NotFoundError):
                return self._result(Outcome.GONE, removed=old.id)
            if isinstance(reply, Subscription):
                reply = yield from self._patch(old, kind, self._changes(old))
        if isinstance(reply, graph_errors.RequestRejectedError) and self._changes(old):
            # "Update subscription" names expiration and URL alone
            # (https://learn.microsoft.com/graph/api/subscription-update).
            reply = yield from self._patch(old, kind, {})
            if isinstance(reply, Subscription) and "encryptionCertificateId" in self._changes(old):
                reply = replace(reply, kept_certificate=self._changes(old)["encryptionCertificateId"])
        if isinstance(reply, Subscription):
            if self._extended(reply, old, kind):
                return self._result(Outcome.RENEWED, reply)
            return self._result(Outcome.KEPT, reply, graph_errors.UnchangedError())
        return self._result(Outcome.KEPT if isinstance(reply, GraphError) else Outcome.FAILED, old, _refusal(reply))

    def _replace(self, old: Subscription, want: Desired) -> Steps:
        if self.action.probe:
            told = yield self._call("GET", old, want.kind)
            if isinstance(told, Subscription) and told.expires_told:
                end = max(old.expires, told.expires)  # another run may have prolonged it since it was listed
                reply = yield from self._patch(old, want.kind, self._changes(old), until=end)
                if isinstance(reply, Subscription):
                    if reply.kept_certificate is None or reply.kept_certificate != self.context.certificate_id:
                        return self._result(Outcome.RENEWED, reply)
                    old = reply
        result = yield from self._exchange(old, want)
        if result.subscription is None or result.outcome not in {Outcome.FAILED, Outcome.KEPT}:
            return result
        left = old.expires - self.context.now()
        waits = result.outcome is Outcome.KEPT and left > last_resort(old, self.context.lifetimes)
        if not waits and left <= half_life(old, self.context.lifetimes) and self.action.reason is not Reason.REFUSED:
            reply = yield from self._patch(old, want.kind, {})
            if isinstance(reply, Subscription) and self._extended(reply, old, want.kind):
                return self._result(Outcome.RENEWED, reply, result.error)
        return result

    def _exchange(self, old: Subscription, want: Desired) -> Steps:
        """Make the new one and then delete the old one; the other way round only where Graph cannot hold both."""
        reply = yield from self._post(want)
        if isinstance(reply, Subscription):
            removed = yield self._call("DELETE", old, want.kind)  # if this fails, the next run sees a duplicate
            return self._result(Outcome.REPLACED, reply, removed=old.id if _is_gone(removed) else None)
        if isinstance(reply, graph_errors.SubscriptionConflictError):
            if self._holder_is_another(reply, old, want):
                return self._not_made(reply, old)
            holds_the_place = True
        else:
            useless = self.context.endpoint.read_mark(old.notification_url)[0] is ClientStateVersion.UNKNOWN
            holds_the_place = useless and isinstance(reply, graph_errors.QuotaExceededError)
        if not holds_the_place:
            return self._not_made(reply, old)
        if not self.action.delete_first:
            patient = self.action.reason in {Reason.CERTIFICATE, Reason.CLIENT_STATE}  # its time will come
            return self._result(Outcome.KEPT, old, None if patient else reply)
        removed = yield self._call("DELETE", old, want.kind)
        if not _is_gone(removed):
            return self._result(Outcome.FAILED, old, _refusal(removed))
        reply = yield from self._post(want)
        return replace(self._made(reply, Outcome.REPLACED), removed=old.id)

    @staticmethod
    def _holder_is_another(conflict: graph_errors.SubscriptionConflictError, old: Subscription, want: Desired) -> bool:
        named = [identity for identity in conflict.holders if identity not in want.resource.lower()]
        return bool(named) and old.id.lower() not in named

    def _delete(self, old: Subscription) -> Steps:
        kind, kept = self.action.kind, self.action.kept
        delegated = kind is not None and kind.delegated_only
        if kept is not None:
            reply = yield Call("GET", kept.tenant_id, kept.api_version, delegated, kept.id)
            if not isinstance(reply, Subscription):
                return self._result(Outcome.FAILED, old, _refusal(reply))
            expires = reply.expires if reply.expires_told else kept.expires
            if expires - self.context.now() <= half_life(kept, self.context.lifetimes):
                return self._result(Outcome.UNCHANGED, old)
        reply = yield Call("DELETE", old.tenant_id, old.api_version, delegated, old.id)
        if _is_gone(reply):
            return self._result(Outcome.DELETED, removed=old.id)
        return self._result(Outcome.FAILED, old, _refusal(reply))

    def _post(self, want: Desired) -> _Exchange:
        certificate = self.context.certificate
        if want.rich and certificate is None:
            return UnavailableError("Key Vault's certificate", reason="certificate")
        woken, versions = False, want.form.api_versions
        for _ in range(_CREATIONS + len(versions) - 1):
            now, asked = self.context.now(), self.context.lifetimes.ask(want.tenant_id, want.kind, want.resource)
            body = creation_body(want, now + asked, self.context.endpoint, certificate)
            reply: Reply = yield Call("POST", want.tenant_id, versions[0], want.kind.delegated_only, None, body)
            if isinstance(reply, graph_errors.RequestRejectedError | graph_errors.NotFoundError) and len(versions) > 1:
                versions = versions[1:]  # Graph's pages disagree on which one knows the path
            elif isinstance(reply, graph_errors.EndpointValidationError) and not woken:
                woken = True  # an app that has been scaled in is started by the very call that it answers too late
            elif not self._shortened(reply, want.kind, want.resource, asked):
                break
        if isinstance(reply, graph_errors.EndpointValidationError):
            return graph_errors.EndpointValidationError(f"{reply} (of {self.context.endpoint.addresses})")
        if not isinstance(reply, Subscription):
            return reply
        expires = reply.expires if reply.expires_told else now + min(asked, LEAST_GRANTED)
        return as_sent(replace(reply, expires=expires), want, self.context, now)

    def _patch(
        self, old: Subscription, kind: ResourceKind, changes: dict[str, Any], *, until: datetime | None = None
    ) -> _Exchange:
        """A PATCH, and of its answer the subscription by what was sent; `until` changes nothing about its end."""
        for _ in range(_SHORTENINGS):
            now, asked = self.context.now(), self.context.lifetimes.ask(old.tenant_id, kind, old.resource)
            expiry = {"expirationDateTime": graph.format_time(until or now + asked)}
            reply: Reply = yield self._call("PATCH", old, kind, expiry | changes)
            if until is not None or not self._shortened(reply, kind, old.resource, asked):
                break
        if not isinstance(reply, Subscription):
            return reply
        expires = reply.expires if reply.expires_told else now + min(asked, LEAST_GRANTED)
        certificate_id, kept = old.certificate_id, old.kept_certificate
        if "encryptionCertificateId" in changes:
            sent = changes["encryptionCertificateId"]
            taken = is_same_id(reply.certificate_id, sent)
            certificate_id, kept = (sent, None) if taken else (reply.certificate_id, sent)
        return replace(
            old,
            expires=expires,
            notification_url=changes.get("notificationUrl", old.notification_url),
            certificate_id=certificate_id,
            kept_certificate=kept,
            life=old.life if until is not None or expires == old.expires else expires - now,
            spelling=old.spelling or reply.resource,
            expires_told=True,
            remembered=True,
        )

    def _shortened(self, reply: Reply, kind: ResourceKind, resource: str, asked: timedelta) -> bool:
        if not isinstance(reply, graph_errors.LifetimeExceededError):
            return False
        self.context.lifetimes.refused(self.action.tenant_id, kind, resource, asked, reply.maximum)
        return True

    def _changes(self, old: Subscription) -> dict[str, Any]:
        """What a renewal changes besides the expiration: an outdated or undisclosed certificate, the URL's query."""
        version, rich = self.context.endpoint.read_mark(old.notification_url)
        certificate = self.context.certificate
        changes: dict[str, Any] = {}
        if rich and certificate is not None and old.certificate_id != certificate.id:
            changes |= certificate.fields
        if version is ClientStateVersion.CURRENT and not self.context.endpoint.up_to_date(old.notification_url):
            changes["notificationUrl"] = self.context.endpoint.url(rich=rich)
        return changes

    def _extended(self, reply: Subscription, old: Subscription, kind: ResourceKind) -> bool:
        """Whether Graph has granted anything: another expiration than before, or all that could be asked for."""
        asked = self.context.lifetimes.ask(old.tenant_id, kind, old.resource)
        whole_life = self.context.now() + asked - _ROUNDING
        return reply.expires != old.expires or reply.expires >= whole_life

    def _call(self, method: Any, old: Subscription, kind: ResourceKind, body: dict[str, Any] | None = None) -> Call:
        return Call(method, old.tenant_id, old.api_version, kind.delegated_only, old.id, body, old.expires)

    def _made(self, reply: Reply, outcome: Outcome) -> Result:
        return self._result(outcome, reply) if isinstance(reply, Subscription) else self._not_made(reply)

    def _not_made(self, reply: SwitchboardError | None, old: Subscription | None = None) -> Result:
        # No list of ours would show who holds the places of all applications.
        is_of_others = isinstance(reply, graph_errors.PathLimitError) and reply.all_apps
        unsettled = (graph_errors.SubscriptionConflictError, graph_errors.OutcomeUnknownError)
        if isinstance(reply, unsettled) and not is_of_others:
            return self._result(Outcome.UNSETTLED, None, reply)
        return self._result(Outcome.FAILED, old, _refusal(reply))

    def _result(
        self,
        outcome: Outcome,
        subscription: Subscription | None = None,
        error: SwitchboardError | None = None,
        *,
        removed: str | None = None,
    ) -> Result:
        return Result(self.action, outcome, subscription, error, removed)


def _is_gone(reply: Reply) -> bool:
    return reply is None or isinstance(reply, graph_errors.NotFoundError)


def _refusal(reply: Reply) -> SwitchboardError:
    if isinstance(reply, SwitchboardError):
        return reply
    return graph_errors.RequestRejectedError("Graph answered without doing what was asked")


def creation_body(
    want: Desired, expires: datetime, endpoint: Endpoint, certificate: EncryptionCertificate | None
) -> dict[str, Any]:
    """The body that creates a subscription; a rich one needs the certificate.

    Source: "Create subscription" (https://learn.microsoft.com/graph/api/subscription-post-subscriptions).
    """
    body: dict[str, Any] = {
        "changeType": want.kind.change_type,
        "notificationUrl": endpoint.url(rich=want.rich),
        "lifecycleNotificationUrl": endpoint.lifecycle_url,
        "resource": want.resource,
        "expirationDateTime": graph.format_time(expires),
        "clientState": endpoint.client_states[0],
    }
    if want.rich and certificate is not None:
        body["includeResourceData"] = True
        body |= certificate.fields
    return body


def as_sent(told: Subscription, want: Desired, context: RunContext, since: datetime) -> Subscription:
    """A subscription that was made by us `since` then: what we sent, and of Graph's answer its id and expiration."""
    return replace(
        told,
        resource=want.resource,
        notification_url=context.endpoint.url(rich=want.rich),
        change_type=want.kind.change_type,
        certificate_id=context.certificate_id if want.rich else None,
        life=told.expires - since,
        spelling=told.resource,
        remembered=True,
        sent=True,
    )
