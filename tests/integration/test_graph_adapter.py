"""The Graph client over TLS, against the simulator."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

import pytest
from azure.core.credentials import AccessToken, TokenCredential
from azure.core.exceptions import ClientAuthenticationError

from dev.fast_forward import FastForwardClient, FastForwardClock
from dev.simulation.known import Known
from dev.simulator import Fault, ManualClock, Simulator
from shared.clock import SystemClock
from shared.graph.client import GraphClient
from shared.subscriptions.actions import Outcome, creation_body
from shared.subscriptions.desired import Desired, DesiredState
from shared.subscriptions.run import Renewal
from shared.values import graph, graph_errors, resources
from shared.values.endpoint import EncryptionCertificate, Endpoint
from shared.values.errors import UnavailableError
from shared.values.graph import Call, Subscription
from shared.values.graph_errors import CredentialError, OutcomeUnknownError
from tests.integration.conftest import be_patient
from tests.unit.model_graph import Source, user

TENANT = "f69f5191-20ae-4093-8dae-3ec09edeb253"
OTHER_TENANT = "909c6581-5130-43e9-88f3-fcb3582cde37"
ENDPOINT = Endpoint(
    "https://switchboard.example/api/notifications?code=key",
    "https://switchboard.example/api/lifecycleNotifications",
    ("secret",),
)
HOUR = timedelta(hours=1)


class Vault:
    """The simulator's certificate, without the way through Key Vault's protocol."""

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim

    async def current(self) -> EncryptionCertificate:
        version = self._sim.vault.certificate()
        assert version.certificate is not None
        return EncryptionCertificate(f"calls/{version.version}", version.certificate.der_base64)


@pytest.fixture
def running() -> Iterator[Simulator]:
    with Simulator.start(tenants=(TENANT, OTHER_TENANT)) as simulator:
        simulator.graph.settings.handshake = False  # there is nobody at the address
        yield simulator


@pytest.fixture
def sim(running: Simulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(running.ca_bundle))
    be_patient(monkeypatch)
    settings = deepcopy(vars(running.graph.settings))
    running.faults.clear()
    running.faults.forget_requests()
    for subscription in running.graph.subscriptions:
        running.graph.remove(subscription.id)
    yield running
    vars(running.graph.settings).update(settings)


class StoppedClock(FastForwardClock):
    """Its time passes in pauses alone, however long everything else takes."""

    def __init__(self) -> None:
        super().__init__()
        self._start = SystemClock().now()

    def now(self) -> datetime:
        return self._start + self._offset


@pytest.fixture
def clock() -> FastForwardClock:
    return StoppedClock()


@pytest.fixture
def client(sim: Simulator, clock: FastForwardClock) -> Iterator[GraphClient]:
    with closing(client_of(sim, clock, read_seconds=60.0)) as graph_client:
        yield graph_client


def client_of(sim: Simulator, clock: FastForwardClock, *, read_seconds: float) -> GraphClient:
    def credentials(tenant_id: str, *, delegated: bool) -> TokenCredential:
        if delegated:
            raise graph_errors.SignInRequiredError
        return _Credential(sim, tenant_id)

    return FastForwardClient(sim.graph_url, credentials, clock, read_seconds=read_seconds)


class _Credential:
    def __init__(self, sim: Simulator, tenant_id: str) -> None:
        self._sim, self._tenant_id = sim, tenant_id

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert scopes == (f"{self._sim.graph_url}/.default",)
        token, expires = self._sim.entra.app_token(
            audience=self._sim.graph_url, client_id=self._sim.app_id, tenant_id=self._tenant_id
        )
        return AccessToken(token, int(expires.timestamp()))


def records(tenant_id: str = TENANT, participant: int | None = None) -> Desired:
    path = "communications/callRecords"
    if participant is not None:
        path += f"?$filter=participants/any(p:p/id eq '{user(participant)}')"
    return Desired(tenant_id, resources.CALL_RECORDS, path, rich=False)


def events(number: int, tenant_id: str = TENANT) -> Desired:
    return Desired(tenant_id, resources.CALL_EVENTS, resources.call_events_path(user(number)), rich=True)


def post(want: Desired, clock: FastForwardClock, lifetime: timedelta = HOUR) -> Call:
    body = creation_body(want, clock.now() + lifetime, ENDPOINT, None)
    return Call("POST", want.tenant_id, want.form.api_version, want.kind.delegated_only, None, body)


def on(method: Any, found: Subscription, body: dict[str, Any] | None = None) -> Call:
    return Call(method, found.tenant_id, found.api_version, False, found.id, body)


async def create(client: GraphClient, clock: FastForwardClock, *wanted: Desired) -> list[Subscription]:
    replies = await client.send([post(want, clock) for want in wanted])
    assert all(isinstance(reply, Subscription) for reply in replies), replies
    return [reply for reply in replies if isinstance(reply, Subscription)]


async def listed(client: GraphClient, tenant_id: str) -> tuple[Subscription, ...]:
    return tuple([one async for page in client.subscription_pages(tenant_id) for one in page])


async def test_the_life_of_a_subscription(client: GraphClient, clock: FastForwardClock) -> None:
    [made] = await create(client, clock, records())
    assert ENDPOINT.read_mark(made.notification_url) == ("current", False)
    later = graph.format_time(clock.now() + 2 * HOUR)
    [patched] = await client.send([on("PATCH", made, {"expirationDateTime": later})])
    assert isinstance(patched, Subscription)
    assert patched.expires - made.expires >= timedelta(minutes=59)
    assert await client.subscription(TENANT, made.id) == patched
    assert await listed(client, TENANT) == (patched,)
    assert await listed(client, OTHER_TENANT) == ()
    assert await client.send([on("DELETE", made)]) == [None]
    gone = await client.send([on(method, made) for method in ("GET", "DELETE")])
    assert [type(reply) for reply in gone] == [graph_errors.NotFoundError] * 2
    with pytest.raises(graph_errors.NotFoundError):
        await client.subscription(TENANT, made.id)


async def test_each_part_of_a_batch_has_its_own_answer(
    client: GraphClient, clock: FastForwardClock, sim: Simulator
) -> None:
    sim.graph.settings.quotas["callRecords"] = 3
    [made] = await create(client, clock, records())
    replies = await client.send(
        [
            post(records(), clock),
            post(records(participant=1), clock, timedelta(days=30)),
            post(records(participant=2), clock),
            post(records(participant=3), clock),
            post(records(participant=4), clock),
        ]
    )
    conflict, lifetime, *others, quota = replies
    assert isinstance(conflict, graph_errors.SubscriptionConflictError)
    assert conflict.holders == (made.id,)
    assert isinstance(lifetime, graph_errors.LifetimeExceededError)
    assert lifetime.maximum == timedelta(minutes=4230)
    assert {type(reply) for reply in others} == {Subscription}
    assert isinstance(quota, graph_errors.QuotaExceededError)
    assert (quota.limit, quota.of_organization) == (3, True)


async def test_a_missing_permission(client: GraphClient, clock: FastForwardClock, sim: Simulator) -> None:
    sim.faults.add(Fault("graph", "POST", "/subscriptions", status=403))
    [reply] = await client.send([post(records(), clock)])
    assert isinstance(reply, graph_errors.PermissionDeniedError)


async def test_transcripts_that_the_tenant_does_not_let_graph_have(
    client: GraphClient, clock: FastForwardClock, sim: Simulator
) -> None:
    want = Desired(TENANT, resources.TRANSCRIPTS, "communications/onlineMeetings/getAllTranscripts", rich=False)
    sim.graph.settings.transcript_access = False
    [refused] = await client.send([post(want, clock)])
    sim.graph.settings.transcript_access = True
    [made] = await create(client, clock, want)
    [second] = await client.send([post(want, clock)])
    sim.graph.settings.transcript_access = False
    [kept] = await client.send([on("PATCH", made, {"expirationDateTime": graph.format_time(clock.now() + HOUR)})])
    assert isinstance(refused, graph_errors.TranscriptAccessError)
    assert isinstance(kept, graph_errors.TranscriptAccessError)
    assert isinstance(second, graph_errors.QuotaExceededError)
    assert (second.limit, second.of_organization) == (1, False)  # of the application, which has its one


@pytest.mark.parametrize("empty_first", [True, False])
@pytest.mark.parametrize("separate", [True, False])
async def test_lists_are_read_to_their_end_in_both_versions(
    client: GraphClient, clock: FastForwardClock, sim: Simulator, empty_first: bool, separate: bool
) -> None:
    sim.graph.settings.page_size = 4
    sim.graph.settings.empty_page_first = empty_first
    sim.graph.settings.separate_versions = separate
    made = await create(client, clock, *(records(participant=number) for number in range(10)))
    meeting = Desired(
        TENANT, resources.ONLINE_MEETING, resources.online_meeting_path("https://teams.example/1"), rich=False
    )
    made += await create(client, clock, meeting)
    found = await listed(client, TENANT)
    assert sorted(one.id for one in found) == sorted(one.id for one in made)
    assert {one.api_version for one in found} == {"v1.0", "beta"}


async def test_a_link_to_elsewhere_is_not_followed(client: GraphClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def answer(_: str, url: str, *__: object) -> dict[str, object]:
        asked.append(url)
        return {"value": [], "@odata.nextLink": "https://elsewhere.example/v1.0/subscriptions?$skiptoken=1"}

    monkeypatch.setattr(client, "_exchange", answer)
    with pytest.raises(UnavailableError):
        await listed(client, TENANT)
    assert len(asked) == 1


async def test_answers_that_open_with_a_byte_order_mark_are_read(
    client: GraphClient, clock: FastForwardClock, sim: Simulator
) -> None:
    sim.graph.settings.byte_order_mark = True
    [made] = await create(client, clock, records())
    assert await listed(client, TENANT) == (made,)
    [_, gone] = await client.send([on("DELETE", made), on("GET", made)])
    assert isinstance(gone, graph_errors.NotFoundError)
    with pytest.raises(graph_errors.NotFoundError):
        await client.subscription(TENANT, made.id)


async def test_one_entry_that_cannot_be_read_hides_no_other(
    client: GraphClient, clock: FastForwardClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    [made] = await create(client, clock, records())
    get = client.get

    async def spoilt(url: str, tenant_id: str, **options: Any) -> dict[str, Any]:
        page = dict(await get(url, tenant_id, **options))
        return page | {"value": [{"id": "x", "resource": None}, *page["value"], "y"]}

    monkeypatch.setattr(client, "get", spoilt)
    assert await listed(client, TENANT) == (made,)


async def test_a_list_is_tried_again_when_that_may_help(
    client: GraphClient, clock: FastForwardClock, sim: Simulator
) -> None:
    for fault in (
        Fault("graph", "GET", "/subscriptions", status=503),
        Fault("graph", "GET", "/subscriptions", hang_up="before"),
        Fault("graph", "GET", "/subscriptions", status=429, retry_after=7),
    ):
        sim.faults.add(fault)
    assert await listed(client, TENANT) == ()
    assert len(clock.pauses) == 3
    assert 7.0 <= clock.pauses[2] <= 7.5


async def test_a_list_that_stays_away_is_an_error(client: GraphClient, sim: Simulator) -> None:
    sim.faults.add(Fault("graph", "GET", "/subscriptions", status=503), times=None)
    with pytest.raises(UnavailableError):
        await listed(client, TENANT)
    assert len(sim.faults.requests) == 4


async def test_a_creation_is_never_repeated(client: GraphClient, clock: FastForwardClock, sim: Simulator) -> None:
    sim.faults.add(Fault("graph", "POST", r"\$batch", hang_up="after"))
    [reply] = await client.send([post(records(), clock)])
    assert isinstance(reply, OutcomeUnknownError)
    assert len(sim.graph.subscriptions) == 1
    sim.faults.add(Fault("graph", "POST", r"/subscriptions", hang_up="after"))
    [reply] = await client.send([post(records(participant=1), clock)])
    assert isinstance(reply, OutcomeUnknownError)


async def test_an_answer_that_takes_too_long(clock: FastForwardClock, monkeypatch: pytest.MonkeyPatch) -> None:
    with Simulator.start(tenants=(TENANT,), clock=ManualClock()) as sim:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(sim.ca_bundle))
        sim.faults.add(Fault("graph", "POST", r"\$batch", delay=3600))
        with closing(client_of(sim, clock, read_seconds=0.5)) as client:
            [reply] = await client.send([post(records(), clock)])
    assert isinstance(reply, OutcomeUnknownError)


async def test_a_throttled_part_makes_everybody_in_its_tenant_pause(
    client: GraphClient, clock: FastForwardClock, sim: Simulator
) -> None:
    sim.faults.add(Fault("graph", "POST", "/subscriptions", status=429, retry_after=9))
    [reply] = await client.send([post(records(), clock)])
    assert isinstance(reply, UnavailableError)
    assert (reply.reason, reply.retry_after) == ("throttled", 9.0)
    assert clock.pauses == []
    await listed(client, OTHER_TENANT)
    assert clock.pauses == []
    await listed(client, TENANT)
    assert len(clock.pauses) == 1
    assert 8.0 < clock.pauses[0] <= 9.0


async def test_a_long_embargo_is_reported_and_not_waited_for(
    client: GraphClient, clock: FastForwardClock, sim: Simulator
) -> None:
    sim.faults.add(Fault("graph", "POST", r"\$batch", status=429, retry_after=600))
    [first] = await client.send([post(records(), clock)])
    [second] = await client.send([post(records(), clock)])
    for reply in (first, second):
        assert isinstance(reply, UnavailableError)
        assert reply.retry_after == pytest.approx(600, abs=5)
    assert len(sim.faults.requests) == 1


async def test_nobody_signed_in_and_entra_away(client: GraphClient, clock: FastForwardClock, sim: Simulator) -> None:
    want = Desired(TENANT, resources.PRESENCE, resources.presence_path((user(1),)), rich=False)
    [reply] = await client.send([post(want, clock)])
    assert isinstance(reply, CredentialError)

    def refuse(_: str, *, delegated: bool) -> TokenCredential:
        raise ClientAuthenticationError("no identity" if not delegated else "nobody")

    with pytest.raises(CredentialError):
        await listed(GraphClient(sim.graph_url, refuse, clock), TENANT)
    assert sim.faults.requests == ()


async def test_calls_that_hang_leave_the_threads_of_decryption_alone(sim: Simulator, clock: FastForwardClock) -> None:
    answer = threading.Event()

    def hang(_tenant_id: str, *, delegated: bool) -> TokenCredential:
        answer.wait()
        raise graph_errors.SignInRequiredError

    hanging = GraphClient(sim.graph_url, hang, clock)
    asking = [asyncio.create_task(listed(hanging, TENANT)) for _ in range(40)]
    try:
        await asyncio.sleep(0)
        assert await asyncio.wait_for(asyncio.gather(*(asyncio.to_thread(int) for _ in range(40))), 60) == [0] * 40
        assert not any(task.done() for task in asking)
    finally:
        answer.set()
        await asyncio.gather(*asking, return_exceptions=True)
        hanging.close()


async def test_members_of_a_group_page_by_page(client: GraphClient, sim: Simulator) -> None:
    sim.directory.groups["everyone"] = [user(number) for number in range(25)]
    sim.directory.group_page = 10
    assert await client.group_members(TENANT, "everyone") == tuple(sim.directory.groups["everyone"])
    with pytest.raises(graph_errors.NotFoundError):
        await client.group_members(TENANT, "nobody")


async def test_batches_hold_what_belongs_together(client: GraphClient, clock: FastForwardClock) -> None:
    mixed = [post(records(), clock), post(records(OTHER_TENANT), clock)]
    for calls in ([], mixed, [post(records(), clock)] * 21):
        with pytest.raises(ValueError, match="batch"):
            await client.send(calls)


def renewal(
    sim: Simulator, client: GraphClient, clock: FastForwardClock, *wanted: Desired, known: Known | None = None
) -> Renewal:
    return Renewal(
        graph=client,
        certificates=Vault(sim),
        desired=Source(DesiredState(wanted, ())),
        known=known or Known(),
        endpoint=ENDPOINT,
        tenant_ids=(TENANT, OTHER_TENANT),
        clock=clock,
    )


async def test_lists_that_show_nothing_do_not_make_it_twice(
    client: GraphClient, clock: FastForwardClock, sim: Simulator
) -> None:
    sim.graph.settings.duplicates = "allow"
    known = Known()
    wanted = [events(1), records(), records(OTHER_TENANT)]
    assert (await renewal(sim, client, clock, *wanted, known=known).run()).outcomes == {Outcome.CREATED: 3}
    sim.graph.settings.blind_lists = True
    made = {one.id for one in sim.graph.subscriptions}
    assert (await renewal(sim, client, clock, *wanted, known=known).run()).outcomes == {Outcome.UNCHANGED: 3}
    sim.graph.remove(next(iter(made)))
    report = await renewal(sim, client, clock, *wanted, known=known).run()
    assert report.outcomes == {Outcome.UNCHANGED: 2, Outcome.CREATED: 1}
    assert len(made & {one.id for one in sim.graph.subscriptions}) == 2


async def test_renewal_from_nothing_through_rotation(
    client: GraphClient, clock: FastForwardClock, sim: Simulator
) -> None:
    wanted = [*(events(number) for number in range(30)), records(), records(OTHER_TENANT)]
    report = await renewal(sim, client, clock, *wanted).run()
    assert (report.outcomes, report.failures) == ({Outcome.CREATED: 32}, ())
    assert (await renewal(sim, client, clock, *wanted).run()).outcomes == {Outcome.UNCHANGED: 32}
    sim.vault.rotate_certificate()
    assert (await renewal(sim, client, clock, *wanted).run()).outcomes == {Outcome.RENEWED: 30, Outcome.UNCHANGED: 2}
    sim.vault.rotate_certificate()
    sim.graph.settings.certificate_patch = "ignore"
    known = Known()
    report = await renewal(sim, client, clock, *wanted, known=known).run()
    assert report.failures == ()
    assert Outcome.REPLACED not in report.outcomes  # Graph holds no two, and what delivers is deleted last
    sim.graph.settings.duplicates = "allow"
    report = await renewal(sim, client, clock, *wanted, known=known).run()
    assert (report.outcomes, report.failures) == ({Outcome.REPLACED: 30, Outcome.UNCHANGED: 2}, ())
    assert len(sim.graph.subscriptions) == 32
    assert (await renewal(sim, client, clock, *wanted, known=known).run()).outcomes == {Outcome.UNCHANGED: 32}


async def test_renewal_through_a_bad_day(client: GraphClient, clock: FastForwardClock, sim: Simulator) -> None:
    wanted = [*(events(number) for number in range(50)), *(records(participant=number) for number in range(10))]
    for fault, times in (
        (Fault("graph", "POST", r"\$batch", hang_up="after"), 1),
        (Fault("graph", "POST", r"\$batch", status=503), 1),
        (Fault("graph", "POST", "/subscriptions", status=429, retry_after=3), 20),
        (Fault("graph", "POST", "/subscriptions", hang_up="after"), 5),
        (Fault("graph", "GET", "/subscriptions", status=504), 2),
    ):
        sim.faults.add(fault, times=times)
    report = await renewal(sim, client, clock, *wanted).run()
    assert report.failures == ()
    assert report.outcomes[Outcome.ADOPTED] >= 5
    assert len(sim.graph.subscriptions) == 60
    assert report.live == 60


async def test_within_the_throttle_nothing_is_refused(
    client: GraphClient, clock: FastForwardClock, sim: Simulator
) -> None:
    sim.graph.settings.quotas["callRecords"] = 2000
    wanted = [records(participant=number) for number in range(1100)]
    report = await renewal(sim, client, clock, *wanted).run()
    assert report.outcomes == {Outcome.CREATED: 1100}
    writes = [request for request in sim.faults.requests if request.path.endswith("$batch")]
    assert len(writes) == 55
    # 500 in each 20 seconds; one window more where an answer crossed a jump of the clock.
    assert 40 <= (report.finished - report.started).total_seconds() < 65
