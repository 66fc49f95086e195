"""Desired x actual x now -> the actions that make Graph's subscriptions equal the desired ones.

Nothing is stored between runs. Whatever Graph does not give back about a subscription (its clientState, its lifecycle
URL, whether it is rich) is read from a *mark* in the query of its notification URL, which Graph keeps verbatim
("Receive change notifications through webhooks"): a short keyed digest of just those three. So a subscription with the
current mark was made by us with the current secret, and one with another mark has to be made anew, because none of the
three can be changed by PATCH ("Update subscription", "Lifecycle notifications").

*Ours* is a subscription whose notification URL has our scheme, host, port and path; its query decides what it needs.
One with another address was ours if its mark, taken as it would have been at that address, is of one of our secrets:
it gives way to a desired one for the same thing, since Graph would not hold both. Any other subscription, of whatever
application, is never touched; so deployments that share an application need secrets of their own, or the last one to
run would take all.
"""

import hashlib
import hmac
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from shared.domain import resources
from shared.domain.graph import Subscription, format_time
from shared.domain.resources import ResourceKind

_MARK: Final = "mark"
_MARKED: Final = re.compile(rf"[?&]{_MARK}=[0-9a-f]*$")
_RESOURCES: Final = 32_768  # each is compared several times a run, and there may be 10,000 of them
_URLS: Final = 256  # thousands of subscriptions share a handful of notification URLs
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_SKEW: Final = timedelta(minutes=5)  # what Graph lists may seem expired on a clock that is ahead
_SMALLEST_MARGIN: Final = timedelta(minutes=2)
_LEAST_GRANTED: Final = timedelta(minutes=45)  # Graph raises anything shorter to this
_LEAST_ASKED: Final = timedelta(minutes=30)  # on a clock that is ahead, Graph may find 45 minutes too many

PATIENCE: Final = timedelta(minutes=15)
"""A missing subscription waits behind the live ones that would lapse sooner than this: keeping is surer than making."""


@dataclass(frozen=True, slots=True)
class EncryptionCertificate:
    """The public certificate that Graph encrypts resource data for.

    `id` is ``{name}/{version}`` in Key Vault; `der_base64` is the X.509 certificate, DER, base64, on one line.
    """

    id: str
    der_base64: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Desired:
    """A subscription that should exist. Two of them are the same if tenant and resource are."""

    tenant_id: str
    kind: ResourceKind = field(hash=False, repr=False)
    resource: str
    rich: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.tenant_id, resource_key(self.resource)


class Standing(StrEnum):
    """Which secret a subscription of ours carries."""

    CURRENT = "current"
    PREVIOUS = "previous"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where Graph is to deliver, and the secrets by which a delivery is known: the current one first."""

    notification_url: str
    lifecycle_url: str
    client_states: tuple[str, ...] = field(repr=False)

    def url(self, *, rich: bool) -> str:
        """The notification URL of a new subscription, mark included."""
        separator = "&" if urlsplit(self.notification_url).query else "?"
        return f"{self.notification_url}{separator}{_MARK}={self._mark(self.client_states[0], rich=rich)}"

    def owns(self, url: str) -> bool:
        """Whether a subscription with this notification URL is ours."""
        address = _address(url)
        return address is not None and address == _address(self.notification_url)

    @lru_cache(maxsize=_URLS)  # noqa: B019 - there is one endpoint
    def standing(self, url: str) -> tuple[Standing, bool]:
        """Which secret the mark in a notification URL stands for, and whether the subscription is a rich one."""
        mark = dict(parse_qsl(urlsplit(url).query)).get(_MARK, "")
        for standing, secret in zip((Standing.CURRENT, Standing.PREVIOUS), self.client_states, strict=False):
            for rich in (True, False):
                if hmac.compare_digest(mark.encode(), self._mark(secret, rich=rich).encode()):
                    return standing, rich
        return Standing.UNKNOWN, False

    @lru_cache(maxsize=_URLS)  # noqa: B019 - there is one endpoint
    def was_ours(self, url: str) -> bool:
        """Whether a subscription with this notification URL is of our making, from when we had another address."""
        if _address(url) is None:
            return False
        address, own = urlsplit(url), urlsplit(self.lifecycle_url)
        lifecycle_urls = (
            own._replace(scheme=address.scheme, netloc=address.netloc).geturl(),
            _MARKED.sub("", url),  # where the notification URL serves for both
        )
        formers = (replace(self, lifecycle_url=lifecycle_url) for lifecycle_url in lifecycle_urls)
        return any(former.standing(url)[0] is not Standing.UNKNOWN for former in formers)

    @property
    def addresses(self) -> str:
        """What Graph calls, without the queries: they may carry a function key."""
        return " and ".join(dict.fromkeys(url.partition("?")[0] for url in (self.notification_url, self.lifecycle_url)))

    def up_to_date(self, url: str) -> bool:
        """Whether all of a notification URL's query but the mark is what it would be today (a function key, say)."""
        return _query(url) == _query(self.notification_url)

    def _mark(self, secret: str, *, rich: bool) -> str:
        text = f"switchboard\n{self.lifecycle_url}\n{'rich' if rich else 'basic'}"
        return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:12]


class Lifetimes:
    """How long a life to ask for, by kind, and what Graph was seen to grant.

    A little less than Graph's documented maximum is asked for: clocks differ, and enforced limits have been seen below
    the documented ones. What is learned lives as long as the process: forgetting it costs one refused request.
    """

    def __init__(self) -> None:
        self._asked: dict[str, timedelta] = {}
        self._granted: dict[str, timedelta] = {}

    def ask(self, kind: ResourceKind) -> timedelta:
        return self._asked.get(kind.key) or _less_a_margin(kind.max_lifetime)

    def half(self, kind: ResourceKind) -> timedelta:
        """With this much or less remaining, renew."""
        return self._granted.get(kind.key, self.ask(kind)) / 2

    def refused(self, kind: ResourceKind, asked: timedelta, maximum: timedelta) -> None:
        """Graph refused what was asked for and named its maximum: ask for less than both from now on."""
        shorter = max(min(_less_a_margin(maximum), asked * 0.9), _LEAST_ASKED)
        self._asked[kind.key] = min(shorter, self.ask(kind))

    def granted(self, kind: ResourceKind, lifetime: timedelta) -> None:
        """Graph granted this much, whatever was asked for."""
        self._granted[kind.key] = max(lifetime, _LEAST_GRANTED)


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
    SUPERSEDED = "superseded"
    DUPLICATE = "duplicate"
    UNWANTED = "unwanted"
    FRESH = "fresh"
    FOREIGN = "foreign"
    UNKNOWN_RESOURCE = "unknown-resource"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, and why.

    `desired` is None for a subscription that nothing asks for, `subscription` for one that does not exist. `kind` is
    None only where `verb` is LEAVE or DELETE. `deadline` orders actions: the most urgent has the earliest.
    """

    verb: Verb
    reason: Reason
    tenant_id: str
    kind: ResourceKind | None = field(hash=False, repr=False)
    deadline: datetime
    desired: Desired | None = None
    subscription: Subscription | None = None


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
) -> tuple[Action, ...]:
    """Decide what to do with every desired and every actual subscription, most urgent first.

    A live subscription is renewed when half of what Graph grants its kind is left, so an outage shorter than that
    costs nothing. One that nothing asks for is renewed too, and deleted only under `prune`. Of several for the same
    thing one is kept: the same one in every run that sees them, so that two overlapping runs cannot delete both.

    Args:
        actual: what Graph lists; what expired longer ago than clocks differ counts as absent.
        certificate_id: the current encryption certificate, or None while it is not known; then none is outdated.
        prune: delete what is ours and not desired.
        reauthorize: ids of subscriptions to be renewed now, however long they still have.
    """
    planner = _Planner(now, endpoint, certificate_id, lifetimes, reauthorize, prune=prune)
    return tuple(sorted(planner.actions(desired, actual), key=lambda action: action.deadline))


@dataclass(frozen=True, slots=True)
class _Planner:
    now: datetime
    endpoint: Endpoint
    certificate_id: str | None
    lifetimes: Lifetimes
    reauthorize: frozenset[str]
    prune: bool

    def actions(self, desired: Iterable[Desired], actual: Iterable[Subscription]) -> Iterable[Action]:
        ours: defaultdict[tuple[str, str], list[Subscription]] = defaultdict(list)
        former: dict[tuple[str, str], Subscription] = {}
        for subscription in actual:
            if self.endpoint.owns(subscription.notification_url):
                if subscription.expires > self.now - _SKEW:
                    ours[subscription_key(subscription)].append(subscription)
            elif subscription_key(subscription) not in former and self.endpoint.was_ours(subscription.notification_url):
                former[subscription_key(subscription)] = subscription
            else:
                yield self._at_leisure(Verb.LEAVE, Reason.FOREIGN, subscription)
        missing = []
        for want in {want.key: want for want in desired}.values():
            found = sorted(ours.pop(want.key, ()), key=lambda one: (self._faults(want, one), one.id))
            if not found:
                missing.append(want)
                continue
            kept = self._keep(want, found[0])
            yield kept
            for duplicate in found[1:]:
                verb = Verb.LEAVE if kept.verb is Verb.REPLACE else Verb.DELETE
                yield self._at_leisure(verb, Reason.DUPLICATE, duplicate)
        unwanted = [subscription for group in ours.values() for subscription in group]
        yield from self._make(missing, unwanted, former)
        for subscription in former.values():
            yield self._at_leisure(Verb.LEAVE, Reason.FOREIGN, subscription)
        for subscription in unwanted:
            yield self._unwanted(subscription)

    def _keep(self, want: Desired, found: Subscription) -> Action:
        standing, rich = self.endpoint.standing(found.notification_url)
        due = self._due(found, want.kind)
        verb, reason, deadline = Verb.REPLACE, Reason.FRESH, found.expires
        if standing is Standing.UNKNOWN:
            # Its notifications are refused: as good as missing.
            reason, deadline = Reason.UNKNOWN_MARK, min(found.expires, self.now + PATIENCE)
        elif rich != want.rich:
            reason = Reason.RESOURCE_DATA
        elif _change_types(found.change_type) != _change_types(want.kind.change_type):
            reason = Reason.CHANGE_TYPE
        elif standing is Standing.PREVIOUS and (due is not None or self._outdated(found, rich=rich)):
            reason = Reason.CLIENT_STATE
        elif self._outdated(found, rich=rich):
            verb, reason = Verb.RENEW, Reason.CERTIFICATE
        elif standing is Standing.CURRENT and not self.endpoint.up_to_date(found.notification_url):
            verb, reason = Verb.RENEW, Reason.NOTIFICATION_URL
        elif due is not None:
            verb, reason = Verb.RENEW, due
        else:
            return self._at_leisure(Verb.LEAVE, Reason.FRESH, found, want)
        return Action(verb, reason, want.tenant_id, want.kind, deadline, want, found)

    def _make(
        self, missing: list[Desired], unwanted: list[Subscription], former: dict[tuple[str, str], Subscription]
    ) -> Iterable[Action]:
        """Create what is missing, in place of what our former address or, of presence, another list of users has left.

        Graph allows an application one presence subscription per signed-in user ("Change notifications overview"), so a
        longer list of users is another resource that competes with the shorter one.
        """
        for want in missing:
            verb, reason = Verb.REPLACE, Reason.NOTIFICATION_URL
            old = former.pop(want.key, None)
            if old is None:
                reason = Reason.SUPERSEDED
                old = next((one for one in unwanted if _supersedes(want, one)), None)
                if old is not None:
                    unwanted.remove(old)
                else:
                    verb, reason = Verb.CREATE, Reason.MISSING
            yield Action(verb, reason, want.tenant_id, want.kind, self.now + PATIENCE, want, old)

    def _unwanted(self, found: Subscription) -> Action:
        kind = found.kind
        standing, _ = self.endpoint.standing(found.notification_url)
        if self.prune:
            return self._at_leisure(Verb.DELETE, Reason.UNWANTED, found)
        if kind is None:
            return self._at_leisure(Verb.LEAVE, Reason.UNKNOWN_RESOURCE, found)
        if standing is Standing.UNKNOWN:
            return self._at_leisure(Verb.LEAVE, Reason.UNKNOWN_MARK, found)
        due = self._due(found, kind)
        if due is None:
            return self._at_leisure(Verb.LEAVE, Reason.UNWANTED, found)
        return Action(Verb.RENEW, due, found.tenant_id, kind, found.expires, None, found)

    def _due(self, found: Subscription, kind: ResourceKind) -> Reason | None:
        if found.id in self.reauthorize:
            return Reason.REAUTHORIZATION
        return Reason.HALF_LIFE if found.expires - self.now <= self.lifetimes.half(kind) else None

    def _outdated(self, found: Subscription, *, rich: bool) -> bool:
        """Whether it is certain that Graph encrypts for another certificate than the current one."""
        return rich and self.certificate_id is not None and found.certificate_id not in {None, self.certificate_id}

    def _faults(self, want: Desired, found: Subscription) -> tuple[bool, ...]:
        """What is not as wanted, the gravest first, judged only by what no renewal changes back."""
        standing, rich = self.endpoint.standing(found.notification_url)
        return (
            found.expires <= self.now,
            standing is Standing.UNKNOWN,
            rich != want.rich or _change_types(found.change_type) != _change_types(want.kind.change_type),
            standing is not Standing.CURRENT,
            self._outdated(found, rich=rich),
        )

    def _at_leisure(self, verb: Verb, reason: Reason, found: Subscription, want: Desired | None = None) -> Action:
        latest = datetime.max.replace(tzinfo=self.now.tzinfo)
        return Action(verb, reason, found.tenant_id, found.kind, latest, want, found)


def creation_body(
    want: Desired, expires: datetime, endpoint: Endpoint, certificate: EncryptionCertificate | None
) -> dict[str, Any]:
    """The body that creates a subscription ("Create subscription"); a rich one needs the certificate."""
    body: dict[str, Any] = {
        "changeType": want.kind.change_type,
        "notificationUrl": endpoint.url(rich=want.rich),
        "lifecycleNotificationUrl": endpoint.lifecycle_url,
        "resource": want.resource,
        "expirationDateTime": format_time(expires),
        "clientState": endpoint.client_states[0],
    }
    if want.rich and certificate is not None:
        body["includeResourceData"] = True
        body |= certificate_fields(certificate)
    return body


def certificate_fields(certificate: EncryptionCertificate) -> Mapping[str, str]:
    """The two fields by which Graph learns a certificate, in POST and in PATCH."""
    return {"encryptionCertificate": certificate.der_base64, "encryptionCertificateId": certificate.id}


def subscription_key(found: Subscription) -> tuple[str, str]:
    """What a subscription is for: the same as the `key` of the `Desired` that it fulfils."""
    return found.tenant_id, resource_key(found.resource)


@lru_cache(maxsize=_RESOURCES)
def resource_key(resource: str) -> str:
    """A resource path for comparing: the same with or without a leading slash, in any case outside quotes."""
    parts = resource.strip().lstrip("/").split("'")
    return "'".join(part if place % 2 else part.lower() for place, part in enumerate(parts))


def _supersedes(want: Desired, old: Subscription) -> bool:
    return want.kind is resources.PRESENCE and old.kind is resources.PRESENCE and old.tenant_id == want.tenant_id


@lru_cache(maxsize=_URLS)
def _change_types(text: str) -> frozenset[str]:
    return frozenset(word.strip().casefold() for word in text.split(","))


def _less_a_margin(lifetime: timedelta) -> timedelta:
    return lifetime - max(_SMALLEST_MARGIN, lifetime / 100)


@lru_cache(maxsize=_URLS)
def _address(url: str) -> tuple[str, str | None, int | None, str] | None:
    """Scheme, host, port and path; None where that cannot be read."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/")


@lru_cache(maxsize=_URLS)
def _query(url: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(pair for pair in parse_qsl(urlsplit(url).query, keep_blank_values=True) if pair[0] != _MARK))
