"""A put over a real socket, to storage that does not always take it."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta

import pytest
from aiohttp import web

from dev.azurite import Azurite
from dev.ports import held_port
from shared.http_client import HttpClient
from shared.settings import StorageSettings
from shared.storage.account import StorageAccount
from shared.storage.ports import Receipt
from shared.storage.queues import AzureQueues
from shared.values.errors import UnavailableError

QUEUE = "call-events"
BODY = b'{"a":"<1>"}'

type Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def take(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=201, text="<QueueMessagesList/>")


async def busy(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=503, headers={"x-ms-error-code": "ServerBusy"})


async def refuse(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=403, headers={"x-ms-error-code": "AuthorizationFailure"})


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def break_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=201, headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"<QueueMess")
    return await hang_up(request)


class Storage:
    """Behaves as it is told, request after request, and then takes everything."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.requests: list[tuple[web.Request, str]] = []
        self._turns: Iterator[Behaviour] = iter(behaviours)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request, await request.text()))
        return await next(self._turns, take)(request)


@asynccontextmanager
async def queues_on(storage: Storage) -> AsyncIterator[AzureQueues]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", storage.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with queues_at(runner.addresses[0][1]) as queues:
        yield queues
    await runner.cleanup()


@asynccontextmanager
async def queues_at(port: int) -> AsyncIterator[AzureQueues]:
    url = f"http://127.0.0.1:{port}/account"
    text = f"AccountName=account;AccountKey=a2V5;QueueEndpoint={url};BlobEndpoint={url}"
    with closing(HttpClient()) as http:
        yield AzureQueues(StorageAccount(StorageSettings(text, None, None, None), http))


async def test_a_put_is_signed_dated_and_never_expires() -> None:
    async with queues_on(storage := Storage()) as queues:
        await queues.put(QUEUE, BODY, "none")
    [(request, body)] = storage.requests
    assert (request.method, request.path) == ("POST", f"/account/{QUEUE}/messages")
    assert dict(request.query) == {"messagettl": "-1"}
    assert request.headers["Authorization"].startswith("SharedKey account:")
    assert request.headers["x-ms-date"].endswith(" GMT")
    assert body == '<QueueMessage><MessageText>{"a":"&lt;1&gt;"}</MessageText></QueueMessage>'


@pytest.mark.parametrize("trouble", [busy, hang_up, break_off])
async def test_what_may_pass_is_tried_again(trouble: Behaviour) -> None:
    async with queues_on(storage := Storage(trouble, trouble)) as queues:
        await queues.put(QUEUE, BODY, "base64")
    assert len(storage.requests) == 3
    assert len({body for _, body in storage.requests}) == 1


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [(busy, "storage-ServerBusy"), (hang_up, "storage-no-answer"), (break_off, "storage-no-answer")],
)
async def test_what_does_not_pass_is_unavailable(trouble: Behaviour, reason: str) -> None:
    async with queues_on(storage := Storage(trouble, trouble, trouble)) as queues:
        with pytest.raises(UnavailableError) as caught:
            await queues.put(QUEUE, BODY, "base64")
    assert caught.value.reason == reason
    assert len(storage.requests) == 3


async def test_a_refusal_is_not_tried_again() -> None:
    async with queues_on(storage := Storage(refuse)) as queues:
        with pytest.raises(UnavailableError) as caught:
            await queues.put(QUEUE, BODY, "base64")
    assert caught.value.reason == "storage-AuthorizationFailure"
    assert len(storage.requests) == 1


async def test_where_nobody_listens_storage_is_unavailable() -> None:
    with held_port() as nobody, pytest.raises(UnavailableError) as caught:
        async with queues_at(nobody) as queues:
            await queues.put(QUEUE, BODY, "base64")
    assert caught.value.reason == "storage-no-answer"


async def test_a_hidden_message_is_shown_or_deleted_by_the_receipt_of_its_own_put(
    azurite: Azurite, unique_name: Callable[[str], str]
) -> None:
    name = unique_name("raw")
    async with queues_of(azurite) as queues:
        receipts = [await queues.put(name, body, "base64", timedelta(minutes=5)) for body in (b'"a"', b'"b"')]
        assert await queues.peek(name) == []
        assert [await queues.show(receipts[0]), await queues.delete(receipts[1])] == [True, True]
        assert [base64.b64decode(text) for text in await queues.peek(name)] == [b'"a"']
        # What is done by somebody else is no error: the one is gone, the other has been shown and has a new receipt.
        assert [await queues.show(receipts[1]), await queues.delete(receipts[1])] == [False, False]
        assert [await queues.show(receipts[0]), await queues.delete(receipts[0])] == [False, False]
        assert await queues.count(name) == 1


async def test_a_message_that_somebody_took_is_theirs(azurite: Azurite, unique_name: Callable[[str], str]) -> None:
    name = unique_name("raw")
    async with queues_of(azurite) as queues:
        receipt = await queues.put(name, BODY, "base64")
        (leased,) = await queues.lease(name, timedelta(minutes=5), at_most=32)
        assert (base64.b64decode(leased.text), leased.inserted.tzinfo is not None) == (BODY, True)
        assert await queues.lease(name, timedelta(minutes=5), at_most=32) == []
        assert [await queues.show(receipt), await queues.delete(receipt)] == [False, False]
        assert await queues.delete(leased.receipt)
        assert await queues.count(name) == 0


async def test_a_queue_that_is_not_there_holds_nothing(azurite: Azurite, unique_name: Callable[[str], str]) -> None:
    async with queues_of(azurite) as queues:
        assert await queues.lease(unique_name("none"), timedelta(minutes=5), at_most=32) == []


async def test_every_queue_of_the_account_is_named(azurite: Azurite, unique_name: Callable[[str], str]) -> None:
    ours = {unique_name("a"), unique_name("z")}
    async with queues_of(azurite) as queues:
        for name in ours:
            await queues.put(name, BODY, "base64")
        assert ours <= set(await queues.names())


async def test_the_names_go_on_where_a_page_ends() -> None:
    def page(name: str, more: str) -> Behaviour:
        listed = f"<Queues><Queue><Name>{name}</Name></Queue></Queues><NextMarker>{more}</NextMarker>"

        async def answer(_request: web.Request) -> web.StreamResponse:
            return web.Response(text=f"<EnumerationResults>{listed}</EnumerationResults>")

        return answer

    async with queues_on(storage := Storage(page("a", "/acct/b"), page("b", ""))) as queues:
        assert await queues.names() == ["a", "b"]
    assert storage.requests[1][0].query["marker"] == "/acct/b"


async def test_a_put_whose_answer_names_no_receipt_is_a_put() -> None:
    async with queues_on(storage := Storage()) as queues:
        receipt = await queues.put(QUEUE, BODY, "base64")
        assert [await queues.show(receipt), await queues.delete(receipt)] == [False, False]
    assert len(storage.requests) == 1


@pytest.mark.parametrize("trouble", [busy, refuse])
async def test_trouble_with_a_receipt_is_not_taken_for_somebody_else(trouble: Behaviour) -> None:
    async with queues_on(Storage(*[trouble] * 6)) as queues:
        for act in (queues.show, queues.delete):
            with pytest.raises(UnavailableError):
                await act(Receipt(QUEUE, "id", "receipt"))


@asynccontextmanager
async def queues_of(azurite: Azurite) -> AsyncIterator[AzureQueues]:
    with closing(HttpClient()) as http:
        yield AzureQueues(StorageAccount(StorageSettings(azurite.connection_string, None, None, None), http))
