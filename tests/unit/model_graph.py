"""A model of Microsoft Graph's subscriptions, without a wire: the rules, and the faults that a test asks for."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from shared.subscriptions.desired import Desired, DesiredState
from shared.values import graph, graph_errors, resources
from shared.values.endpoint import EncryptionCertificate, Endpoint
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import Call, Reply, Subscription
from shared.values.resource_paths import normal_form
from shared.values.resource_row import UNKNOWN

TENANT = "aaaaaaaa-0000-4000-8000-000000000001"
OTHER_TENANT = "aaaaaaaa-0000-4000-8000-000000000002"
START = datetime(2026, 1, 1, tzinfo=UTC)
URL = "https://calls.example.com/api/notifications?code=key"
ENDPOINT = Endpoint(URL, "https://calls.example.com/api/lifecycleNotifications", ("secret",))
CERTIFICATE = EncryptionCertificate("calls/" + "1" * 32, "TUlJ")
NEXT_CERTIFICATE = EncryptionCertificate("calls/" + "2" * 32, "TUlK")


def user(number: int) -> str:
    return str(UUID(int=number))


def call_events(number: int, tenant_id: str = TENANT) -> Desired:
    return Desired(tenant_id, resources.CALL_EVENTS, resources.call_events_path(user(number)), rich=True)


def policy(name: str) -> Desired:
    return Desired(TENANT, resources.EMERGENCY_CALL_EVENTS, resources.emergency_path(name), rich=True)


def presence(*numbers: int, rich: bool = True) -> Desired:
    path = resources.presence_path(tuple(user(number) for number in numbers))
    return Desired(TENANT, resources.PRESENCE, path, rich=rich)


def call_records(tenant_id: str = TENANT) -> Desired:
    return Desired(tenant_id, resources.CALL_RECORDS, "communications/callRecords", rich=False)


def subscription(want: Desired, **changes: Any) -> Subscription:
    """A subscription as if we had made it."""
    one = Subscription(
        id="old",
        tenant_id=want.tenant_id,
        api_version=want.form.api_version,
        resource=want.resource,
        change_type=want.kind.change_type,
        notification_url=ENDPOINT.url(rich=want.rich),
        expires=START + want.kind.max_lifetime,
        certificate_id=CERTIFICATE.id if want.rich else None,
    )
    return replace(one, **changes)


class VirtualClock:
    """A date that moves as its event loop's time does, and in steps."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def advance(self, step: timedelta) -> None:
        self._now += step

    async def sleep(self, seconds: float) -> None:
        until = self._now + timedelta(seconds=seconds)
        await asyncio.sleep(max(seconds, 0.0))
        self._now = max(self._now, until)


type Fault = Callable[[Callable[[], Reply]], Reply]


def refuse(error: SwitchboardError) -> Fault:
    """Answer with an error, without doing the work."""
    return lambda _: error


def lose_answer(work: Callable[[], Reply]) -> Reply:
    """Do the work; nobody hears of it."""
    work()
    return graph_errors.OutcomeUnknownError()


UNAVAILABLE = refuse(UnavailableError("Graph"))
THROTTLED = refuse(UnavailableError("Graph", reason="throttled", retry_after=3.0))
NOT_DONE = refuse(graph_errors.OutcomeUnknownError())
NOT_FOUND = refuse(graph_errors.NotFoundError("404"))
REJECTED = refuse(graph_errors.RequestRejectedError("400"))
NOT_VALIDATED = refuse(
    graph_errors.EndpointValidationError("400 ValidationError: Subscription validation request failed.")
)
FORBIDDEN = refuse(graph_errors.PermissionDeniedError("403"))
QUOTA = refuse(graph_errors.QuotaExceededError("403"))


def limit_reached(whose: str, limit: int) -> SwitchboardError:
    """How Graph refuses what is more than a limit allows."""
    said = f"The {whose} has reached its limit of '{limit}' subscriptions to this resource."
    message = f"Operation: Create; Exception: [Status Code: Forbidden; Reason: {said}]"
    return graph_errors.error_of(403, {"error": {"code": "ExtensionError", "message": message}})


@dataclass
class ModelGraph:
    """Subscriptions by id. `faults` decides for each call: a fault, or None to let it pass."""

    clock: VirtualClock
    unique: bool = True
    honours_certificate: bool = True
    tells_certificate: bool = True
    maximum: dict[str, timedelta] = field(default_factory=dict)  # by resource or kind
    quota: int = 10_000
    of_others: Counter[str] = field(default_factory=Counter)  # other applications' subscriptions, by resource
    faults: Callable[[Call], Fault | None] = lambda _: None
    members: dict[str, tuple[str, ...]] = field(default_factory=dict)
    list_errors: dict[str, SwitchboardError] = field(default_factory=dict)
    page: int = 100
    readable_pages: int | None = None
    unlisted: set[str] = field(default_factory=set)
    blind: bool = False  # the list shows nothing
    echo: Callable[[Subscription], Subscription] = lambda one: one  # how Graph tells of one
    grant: timedelta | None = None  # what a PATCH prolongs to, whatever was asked for
    pause: float = 0.0  # seconds between the pages of a list
    delays: Random | None = None  # how many others go first, at each request
    slow: dict[str, float] = field(default_factory=dict)  # seconds that each answer takes, by tenant
    sent: list[tuple[datetime, Call]] = field(default_factory=list)
    reading: Callable[[str], SwitchboardError | None] = lambda _: None  # why a subscription cannot be read now
    all: dict[str, Subscription] = field(default_factory=dict)
    client_states: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    batches: int = 0
    lists: int = 0
    reads: int = 0
    _ids: Any = field(default_factory=lambda: itertools.count(10**6))

    def live(self) -> list[Subscription]:
        return [one for one in self.all.values() if one.expires > self.clock.now()]

    def methods(self) -> Counter[str]:
        return Counter(call.method for call in self.calls)

    def holds(self, want: Desired) -> list[Subscription]:
        form = normal_form(want.resource)
        return [one for one in self.live() if one.tenant_id == want.tenant_id and normal_form(one.resource) == form]

    def add(self, want: Desired, **changes: Any) -> Subscription:
        """Put a subscription in place as if we had made it."""
        expires = self.clock.now() + want.kind.max_lifetime
        one = subscription(want, **{"id": str(UUID(int=next(self._ids))), "expires": expires} | changes)
        self.all[one.id] = one
        return one

    async def subscription_pages(self, tenant_id: str) -> AsyncIterator[Sequence[Subscription]]:
        self.lists += 1
        if tenant_id in self.list_errors:
            raise self.list_errors[tenant_id]
        for number, start in enumerate(itertools.count(step=self.page)):
            await self._be_overtaken(tenant_id)
            if number == self.readable_pages:
                raise UnavailableError("Graph's list")
            # Each page is of what there is when it is read, and so one may be left out, or shown as it was.
            there = [one for one in self.live() if one.tenant_id == tenant_id and one.id not in self.unlisted]
            if self.blind or start >= len(there):
                return
            yield [self._told(one) for one in there[start : start + self.page]]
            await asyncio.sleep(0)
            if self.pause:
                await self.clock.sleep(self.pause)

    async def subscription(self, tenant_id: str, subscription_id: str) -> Subscription:
        self.reads += 1
        await self._be_overtaken(tenant_id)
        if (error := self.reading(subscription_id)) is not None:
            raise error
        found = self.all.get(subscription_id)
        if found is None or found.expires <= self.clock.now() or found.tenant_id != tenant_id:
            raise graph_errors.NotFoundError("404")
        return self._told(found)

    async def group_members(self, tenant_id: str, group_id: str) -> tuple[str, ...]:
        await self._be_overtaken(tenant_id)
        if group_id not in self.members:
            raise graph_errors.NotFoundError("no such group")
        return self.members[group_id]

    async def send(self, calls: Sequence[Call]) -> list[Reply]:
        assert 1 <= len(calls) <= 20
        assert len({call.channel for call in calls}) == 1
        self.batches += 1
        self.sent += [(self.clock.now(), call) for call in calls]
        await self._be_overtaken(calls[0].tenant_id)
        replies = []
        for call in calls:
            replies.append(self._answer(call))
            if self.delays is not None:
                await self._be_overtaken(call.tenant_id)
        return replies

    async def _be_overtaken(self, tenant_id: str) -> None:
        if tenant_id in self.slow:
            await self.clock.sleep(self.slow[tenant_id])
        for _ in range(1 if self.delays is None else self.delays.choice((0, 1, 1, 3, 10, 40))):
            await asyncio.sleep(0)

    def _answer(self, call: Call) -> Reply:
        self.calls.append(call)
        if call.method == "GET":
            self.reads += 1
            if (error := self.reading(call.subscription_id or "")) is not None:
                return error
        fault = self.faults(call)
        return self._work(call) if fault is None else fault(lambda: self._work(call))

    def _work(self, call: Call) -> Reply:
        if call.method == "POST":
            return self._create(call)
        found = self.all.get(call.subscription_id or "")
        if found is None or found.expires <= self.clock.now():
            return graph_errors.NotFoundError("404")
        if call.method == "DELETE":
            del self.all[found.id]
            return None
        if call.method == "PATCH":
            assert call.body
            changes: dict[str, Any] = {"expires": graph.parse_time(call.body["expirationDateTime"])}
            if (refusal := self._too_long(found.resource, changes["expires"])) is not None:
                return refusal
            if self.grant is not None:
                changes["expires"] = self.clock.now() + self.grant
            if "encryptionCertificateId" in call.body and self.honours_certificate:
                changes["certificate_id"] = call.body["encryptionCertificateId"]
            if "notificationUrl" in call.body:
                changes["notification_url"] = call.body["notificationUrl"]
            found = self.all[found.id] = replace(found, **changes)
        return self._told(found)

    def _create(self, call: Call) -> Reply:
        body = call.body
        assert body
        form = normal_form(body["resource"])
        same = [one for one in self.live() if one.tenant_id == call.tenant_id and normal_form(one.resource) == form]
        kind = resources.match(body["resource"]) or UNKNOWN
        if same and self.unique:
            limited = kind.key in {"transcripts", "recordings"}
            return (
                limit_reached("application", 1)
                if limited
                else graph_errors.SubscriptionConflictError("409", same[0].id)
            )
        if len(same) + self.of_others[body["resource"]] >= 10 and "/onlineMeetings/getAll" in body["resource"]:
            return limit_reached("user", 10)
        if len(self.live()) >= self.quota:
            return graph_errors.QuotaExceededError("403")
        if (refusal := self._too_long(body["resource"], graph.parse_time(body["expirationDateTime"]))) is not None:
            return refusal
        one = graph.parse_subscription({**body, "id": str(UUID(int=next(self._ids)))}, call.tenant_id, call.api_version)
        self.all[one.id] = one
        self.client_states[one.id] = body["clientState"]
        return self._told(one)

    def _too_long(self, resource: str, expires: datetime) -> SwitchboardError | None:
        kind = resources.match(resource) or UNKNOWN
        maximum = self.maximum.get(resource) or self.maximum.get(kind.key, kind.max_lifetime)
        if expires - self.clock.now() > maximum:
            return graph_errors.LifetimeExceededError("400", maximum)
        return None

    def _told(self, one: Subscription) -> Subscription:
        return self.echo(one if self.tells_certificate else replace(one, certificate_id=None))


@dataclass
class Certificates:
    certificate: EncryptionCertificate | None = CERTIFICATE

    async def current(self) -> EncryptionCertificate:
        if self.certificate is None:
            raise UnavailableError("Key Vault")
        return self.certificate


@dataclass
class Source:
    state: DesiredState | SwitchboardError

    async def load(self) -> DesiredState:
        if isinstance(self.state, SwitchboardError):
            raise self.state
        return self.state
