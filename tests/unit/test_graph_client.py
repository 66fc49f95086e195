"""The Graph client's patience, without a wire: pauses, limits and threads."""

import asyncio
import io
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
import requests
from azure.core.credentials import AccessToken

from dev.fast_forward import FastForwardClient, FastForwardClock
from shared.clock import SystemClock
from shared.graph.client import GraphClient
from shared.values import graph_errors
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import Call, Subscription
from shared.values.graph_errors import CredentialError
from tests.unit.model_graph import OTHER_TENANT, TENANT, call_events

GRAPH = "https://graph.microsoft.com"
THROTTLED = UnavailableError("Graph", reason="throttled")
IDENTITY = "cccccccc-0000-4000-8000-000000000001"


class Tokens:
    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken("token", 0)


type Answer = Callable[[str, str], Mapping[str, Any]]


class Client(FastForwardClient):
    """Answers by a function of tenant and URL, and notes when it was asked."""

    def __init__(self, clock: FastForwardClock, answer: Answer) -> None:
        super().__init__(GRAPH, lambda *_, **__: None, clock)  # type: ignore[arg-type]
        self.answer = answer
        self.asked: list[tuple[float, str, str]] = []
        self._clock_of_tests = clock

    def _request(self, method: str, url: str, tenant_id: str, delegated: bool, body: Any) -> Mapping[str, Any]:
        del method, delegated, body
        self.asked.append((self._clock_of_tests.now().timestamp(), tenant_id, url.removeprefix(GRAPH)))
        return self.answer(tenant_id, url)

    def pauses(self) -> list[float]:
        moments = [at for at, _, _ in self.asked]
        return [round(later - sooner, 1) for sooner, later in itertools.pairwise(moments)]


@pytest.fixture
def clock() -> FastForwardClock:
    return FastForwardClock()


@pytest.fixture
def client(clock: FastForwardClock) -> Iterator[Client]:
    made = Client(clock, lambda *_: {"value": [], "responses": []})
    yield made
    made.close()


def raises(error: SwitchboardError) -> Answer:
    def answer(*_: str) -> Mapping[str, Any]:
        raise error

    return answer


def patch(clock: FastForwardClock, tenant_id: str = TENANT, left: timedelta = timedelta(days=1)) -> Call:
    return Call("PATCH", tenant_id, "beta", False, IDENTITY, {}, clock.now() + left)


def refused_parts(status: int, count: int = 1, headers: Mapping[str, str] | None = None) -> Mapping[str, Any]:
    return {
        "responses": [
            {"id": str(place), "status": status, "headers": headers or {}, "body": {}} for place in range(count)
        ]
    }


async def test_pauses_that_graph_does_not_measure_grow_to_a_minute(client: Client, clock: FastForwardClock) -> None:
    client.answer = lambda *_: refused_parts(429)
    for _ in range(8):
        await client.send([patch(clock)])
    assert client.pauses() == pytest.approx([2, 4, 8, 16, 32, 60, 60], abs=0.6)


async def test_they_are_the_tenants_and_the_services_together(client: Client, clock: FastForwardClock) -> None:
    client.answer = lambda *_: refused_parts(429)
    await client.send([patch(clock)])
    client.answer = lambda *_: {"value": [], "responses": []}
    await client.group_members(TENANT, "g")
    await client.send([patch(clock, OTHER_TENANT)])
    assert clock.pauses == []
    [page] = [page async for page in client.pages(f"{GRAPH}/v1.0/subscriptions", TENANT)]
    assert page == []
    assert len(clock.pauses) == 1


async def test_they_never_take_more_than_half_of_what_the_most_urgent_has(
    client: Client, clock: FastForwardClock
) -> None:
    client.answer = lambda *_: refused_parts(429)
    for _ in range(6):
        await client.send([patch(clock)])
    before = len(client.asked)
    urgent = timedelta(seconds=40)
    await client.send([patch(clock), patch(clock, left=urgent)])
    [pause] = client.pauses()[before - 1 :]
    assert 15 < pause <= 40


async def test_an_answer_ends_them(client: Client, clock: FastForwardClock) -> None:
    client.answer = lambda *_: refused_parts(429)
    for _ in range(4):
        await client.send([patch(clock)])
    client.answer = lambda *_: refused_parts(404)
    await client.send([patch(clock)])
    client.answer = lambda *_: refused_parts(429)
    for _ in range(2):
        await client.send([patch(clock)])
    assert client.pauses()[-1] == pytest.approx(2, abs=0.6)


async def test_a_tenant_that_pauses_does_not_use_up_the_limit_of_all(client: Client, clock: FastForwardClock) -> None:
    """The limit of lists is 40 in 20 seconds for all tenants together."""
    client.answer = raises(UnavailableError("Graph", reason="throttled", retry_after=15.0))

    async def pages(tenant_id: str) -> None:
        async for _ in client.subscription_pages(tenant_id):
            pass

    troubled = [asyncio.create_task(pages(f"troubled {number}")) for number in range(30)]
    async with asyncio.timeout(20):
        while len({tenant for _, tenant, _ in client.asked}) < 30:  # noqa: ASYNC110 - the clock leaps meanwhile
            await asyncio.sleep(0)
    client.answer = lambda *_: {"value": []}
    start = clock.now()
    await pages("healthy")
    assert clock.now() - start < timedelta(seconds=15)
    await asyncio.gather(*troubled)


@pytest.mark.threads
async def test_what_hangs_in_one_tenant_or_service_keeps_no_other_waiting() -> None:
    """As the app runs it, with threads of its own and the machine's clock."""
    release = threading.Event()

    class Hanging(GraphClient):
        def _request(self, method: str, url: str, tenant_id: str, delegated: bool, body: Any) -> Mapping[str, Any]:
            del method, delegated, body
            if tenant_id == OTHER_TENANT or "/groups/" in url:
                assert release.wait(180)
                raise graph_errors.OutcomeUnknownError
            return {"value": []}

    client = Hanging(GRAPH, lambda *_, **__: None, SystemClock())  # type: ignore[arg-type]
    hanging = [asyncio.create_task(client.group_members(TENANT, str(number))) for number in range(20)]
    hanging += [asyncio.create_task(client.group_members(OTHER_TENANT, str(number))) for number in range(20)]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(90):
            assert await client.get(f"{GRAPH}/v1.0/subscriptions", TENANT) == {"value": []}
    finally:
        for task in hanging:
            task.cancel()
        release.set()
        await asyncio.gather(*hanging, return_exceptions=True)
        client.close()


async def test_reads_by_id_keep_to_their_limit(client: Client, clock: FastForwardClock) -> None:
    """500 in 20 seconds in a tenant, in batches of 20."""
    client.answer = lambda *_: refused_parts(404, 20)
    reads = [[Call("GET", TENANT, "beta", False, IDENTITY)] * 20 for _ in range(26)]
    start = clock.now()
    await asyncio.gather(*(client.send(calls) for calls in reads))
    assert clock.now() - start >= timedelta(seconds=20)


async def test_a_failure_of_our_own_credentials_makes_nothing_gone(client: Client) -> None:
    def answer(_: str, url: str) -> Mapping[str, Any]:
        del url
        if len(client.asked) <= 2:
            raise graph_errors.NotFoundError("404")
        raise CredentialError("the sign-in in Key Vault")

    client.answer = answer
    with pytest.raises(CredentialError):
        await client.subscription(TENANT, IDENTITY)
    client.asked.clear()
    client.answer = raises(graph_errors.SignInRequiredError())
    with pytest.raises(graph_errors.SignInRequiredError):
        await client.subscription(TENANT, IDENTITY)


@pytest.mark.parametrize("told", [None, "", "tomorrow"])
async def test_what_has_no_expiration_is_listed_and_read_nevertheless(
    client: Client, clock: FastForwardClock, told: object
) -> None:
    value = {"id": IDENTITY, "resource": call_events(1).resource, "expirationDateTime": told}
    client.answer = lambda _, url: (
        {"responses": [{"id": "0", "status": 200, "body": value}]}
        if url.endswith("$batch")
        else {"value": [value, 7, {}]}
    )
    listed = [one async for page in client.subscription_pages(TENANT) for one in page]
    [patched] = await client.send([patch(clock)])
    assert isinstance(patched, Subscription)
    for one in (*listed, patched):
        assert (one.id, one.expires_told) == (IDENTITY, False)


class SignedIn(FastForwardClient):
    """The signed-in user's identity is not the application's, and meets an error where its subscriptions are listed."""

    def __init__(self, clock: FastForwardClock, error: SwitchboardError) -> None:
        super().__init__(GRAPH, lambda *_, delegated: delegated, clock)
        self.error = error

    def _request(self, method: str, url: str, tenant_id: str, delegated: bool, body: Any) -> Mapping[str, Any]:
        del method, url, tenant_id, body
        if delegated:
            raise self.error
        return {"value": [{"id": IDENTITY, "resource": call_events(1).resource}]}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(graph_errors.PermissionDeniedError("403"), "permission"), (CredentialError("Entra ID's token"), "credential")],
)
async def test_a_list_without_the_signed_in_users_part_is_not_taken_for_the_whole(
    clock: FastForwardClock, error: SwitchboardError, reason: str
) -> None:
    client = SignedIn(clock, error)
    pages = client.subscription_pages(TENANT)
    listed = [*await anext(pages), *await anext(pages)]
    with pytest.raises(graph_errors.SignedInListError) as caught:
        await anext(pages)
    client.close()
    assert ([one.id for one in listed], caught.value.reason) == ([IDENTITY], reason)


async def test_nobody_signed_in_is_no_part_that_is_missing(clock: FastForwardClock) -> None:
    client = SignedIn(clock, graph_errors.SignInRequiredError())
    assert [one.id async for page in client.subscription_pages(TENANT) for one in page] == [IDENTITY]
    client.close()


@pytest.mark.parametrize("content", [b"<html>", b'{"responses": [{"id": "\xff"}]}', b'{"x": ' + b"[" * 20_000])
async def test_an_answer_that_cannot_be_read_leaves_the_outcome_open(
    content: bytes, clock: FastForwardClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = requests.Response()
    response.status_code, response.raw = 200, io.BytesIO(content)
    monkeypatch.setattr(requests.Session, "request", lambda *_, **__: response)
    client = GraphClient(GRAPH, lambda *_, **__: Tokens(), clock)
    try:
        replies = await client.send([Call("POST", TENANT, "beta", False, None, {})])
        assert [type(reply) for reply in replies] == [graph_errors.OutcomeUnknownError]
    finally:
        client.close()
