"""The Python client's reader of queues, on a real one."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError, ResourceExistsError
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import AsyncHTTPPolicy
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueServiceClient

from clients.python.switchboard_events import CloudEvent, Deduplicator, EventError, MemoryStore, parse
from clients.python.switchboard_events.storage import MAX_TRIES, EventQueue, read_data
from dev.azurite import Azurite
from dev.queue_proxy import QueueProxy
from dev.tcp_proxy import TcpProxy

SOURCE = "https://graph.microsoft.com/v1.0/subscriptions/s"
PATIENCE = 240


def event(name: str, **attributes: Any) -> dict[str, Any]:
    about = {
        "specversion": "1.0",
        "source": SOURCE,
        "type": "Microsoft.Graph.CallStarted",
        "time": "2026-01-02T03:04:05Z",
    }
    return about | {"id": name} | (attributes or {"data": {"callId": name}})


@dataclass
class Consumer:
    """An `EventQueue` that tries again at once, with a handler that does what an event's id says."""

    name: str
    queues: QueueServiceClient
    blobs: BlobServiceClient
    handled: list[str] = field(default_factory=list)
    yielded: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    async def put(self, *messages: object) -> None:
        for message in messages:
            text = message if isinstance(message, str) else json.dumps(message)
            await self.queues.get_queue_client(self.name).send_message(text)

    async def handle(self, one: CloudEvent, data: bytes) -> None:
        self.tried.append(one.id)
        if one.id.startswith("bad"):
            raise ConnectionError
        self.handled.append(one.id)

    async def run(
        self,
        until: Callable[[], Awaitable[bool]] | None = None,
        *,
        deduplicator: Deduplicator | None = None,
        **options: Any,
    ) -> None:
        """Until nothing is left on the queue, unless told otherwise."""
        queue = EventQueue(
            self.queues, self.blobs, self.name, deduplicator, retry_seconds=0, poll_seconds=0.02, **options
        )
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(queue))
            while not await (until or self.nothing_left)():  # noqa: ASYNC110 - the condition is in storage
                await asyncio.sleep(0.02)
            reading.cancel()

    async def _read(self, queue: EventQueue) -> None:
        async for one in queue.handle(self.handle):
            self.yielded.append(one.id)

    async def nothing_left(self) -> bool:
        properties = await self.queues.get_queue_client(self.name).get_queue_properties()
        return properties.approximate_message_count == 0

    async def parked(self) -> list[str]:
        messages = await self.queues.get_queue_client(f"{self.name}-poison").peek_messages(32)
        return [message.content for message in messages]


@pytest.fixture
async def consumer(azurite: Azurite, unique_name: Callable[[str], str]) -> AsyncIterator[Consumer]:
    text = azurite.connection_string
    async with (
        QueueServiceClient.from_connection_string(text, retry_total=0) as queues,
        BlobServiceClient.from_connection_string(text, retry_total=0) as blobs,
    ):
        consumer = Consumer(unique_name("q"), queues, blobs)
        await queues.create_queue(consumer.name)
        yield consumer


async def test_a_duplicate_is_not_handled_again(consumer: Consumer) -> None:
    deduplicator = Deduplicator(MemoryStore())
    await consumer.put(event("1"), event("1"), [event("1"), event("2")])
    await consumer.run(deduplicator=deduplicator)
    await consumer.put(event("2"))
    await consumer.run(deduplicator=deduplicator)
    assert sorted(consumer.tried) == sorted(consumer.handled) == ["1", "2"]


async def test_without_a_deduplicator_each_delivery_is_handled(consumer: Consumer) -> None:
    await consumer.put(event("1"), event("1"))
    await consumer.run()
    assert consumer.handled == ["1", "1"]


async def test_what_is_no_event_is_put_aside_at_once(consumer: Consumer) -> None:
    await consumer.put("{no json", event("1"))
    await consumer.run()
    assert (consumer.handled, await consumer.parked()) == (["1"], ["{no json"])


async def test_what_fails_five_times_is_put_aside_and_its_neighbours_are_handled(
    consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    batch = [event("1"), event("bad", data={"callId": "+44 20 7946 0000"}), event("2")]
    await consumer.put(batch, event("3"))
    await consumer.run(deduplicator=Deduplicator(MemoryStore()))
    assert sorted(consumer.handled) == ["1", "2", "3"]
    assert consumer.tried.count("bad") == MAX_TRIES
    assert [json.loads(text) for text in await consumer.parked()] == [batch]
    assert "failed with ConnectionError" in caplog.text
    assert "7946" not in caplog.text


async def test_what_ends_the_process_five_times_is_put_aside(consumer: Consumer) -> None:
    """Whoever ends with the process deletes nothing; here the message is only taken."""
    await consumer.put(event("1"))
    queue = consumer.queues.get_queue_client(consumer.name)
    for _ in range(MAX_TRIES):
        message = await queue.receive_message()
        assert message
        await queue.update_message(message, visibility_timeout=0)
    await consumer.run()
    assert (consumer.tried, len(await consumer.parked())) == ([], 1)


async def test_what_takes_longer_than_the_lease_stays_hidden(consumer: Consumer, azurite: Azurite) -> None:
    """Storage is made to give more than the second that is asked for: on a slow machine that would be over at times."""
    begun = asyncio.Event()
    goes_on = asyncio.Event()

    async def slow(one: CloudEvent, data: bytes) -> None:
        consumer.tried.append(one.id)
        begun.set()
        await goes_on.wait()

    async def lease_is_over() -> bool:
        await begun.wait()
        message = await other.receive_message(visibility_timeout=1)
        assert message is None, "somebody else was given it"
        if proxy.renewed > 3:  # each after a third of the lease
            goes_on.set()
        return goes_on.is_set() and await consumer.nothing_left()

    consumer.handle = slow  # type: ignore[method-assign]
    other = consumer.queues.get_queue_client(consumer.name)
    await consumer.put(event("1"))
    with QueueProxy.before(azurite.queue_url, lease_seconds=300, asked_seconds=1) as proxy:
        async with QueueServiceClient.from_connection_string(proxy.connection_string, retry_total=0) as queues:
            consumer.queues = queues
            await consumer.run(lease_is_over, lease_seconds=1)
    assert consumer.tried == ["1"]


async def test_a_slow_event_holds_up_no_other(consumer: Consumer) -> None:
    async def handle(one: CloudEvent, data: bytes) -> None:
        if one.id == "slow":
            await asyncio.Event().wait()
        consumer.tried.append(one.id)

    async def all_others_are_handled() -> bool:
        return len(consumer.yielded) == 5

    consumer.handle = handle  # type: ignore[method-assign]
    await consumer.put(event("slow"), *(event(str(number)) for number in range(5)))
    await consumer.run(all_others_are_handled, at_once=2)


@pytest.mark.parametrize("forget", ["clear_messages", "delete_queue"])
async def test_a_message_that_storage_has_forgotten_does_not_end_it(consumer: Consumer, forget: str) -> None:
    queue = consumer.queues.get_queue_client(consumer.name)

    async def handle(one: CloudEvent, data: bytes) -> None:
        consumer.tried.append(one.id)
        if one.id == "forgotten":
            await getattr(queue, forget)()

    async def next_is_handled() -> bool:
        if consumer.yielded == ["forgotten"]:
            with suppress(ResourceExistsError):
                await queue.create_queue()
            await consumer.put(event("next"))
        return "next" in consumer.tried

    consumer.handle = handle  # type: ignore[method-assign]
    await consumer.put(event("forgotten"))
    await consumer.run(next_is_handled)


async def test_storage_that_is_away_is_asked_again(consumer: Consumer, azurite: Azurite) -> None:
    with TcpProxy.to(azurite.ports.queue) as proxy:
        text = azurite.connection_string.replace(f":{azurite.ports.queue}/", f":{proxy.port}/")
        async with QueueServiceClient.from_connection_string(text, retry_total=0) as queues:
            behind = Consumer(consumer.name, queues, consumer.blobs, handled=consumer.handled)

            async def is_back() -> bool:
                if proxy.refused > 2:
                    proxy.mend()
                return await consumer.nothing_left()

            proxy.cut()
            await consumer.put(event("1"))
            await behind.run(is_back)
    assert consumer.handled == ["1"]


# --- what is too large for a message ---------------------------------------------------------------------------------


async def put_blob(consumer: Consumer, container: str, name: str, data: dict[str, Any]) -> str:
    """A blob's URL as an event has it, at a host that is not asked."""
    client = consumer.blobs.get_container_client(container)
    if not await client.exists():
        await client.create_container()
    await client.upload_blob(name, json.dumps(data))
    return f"https://other.blob.core.windows.net/{container}/{name}"


async def test_data_comes_from_the_blob_of_the_own_account(consumer: Consumer) -> None:
    url = await put_blob(consumer, consumer.name, "2026/01/02/1.json", {"callId": "7"})
    (large,) = parse(json.dumps(event("1", dataref=url)))
    assert large.typed(await read_data(large, consumer.blobs)).call_id == "7"
    (small,) = parse(json.dumps(event("2")))
    assert small.typed(await read_data(small, consumer.blobs)).call_id == "2"


async def test_an_event_whose_blob_is_gone_is_put_aside(consumer: Consumer) -> None:
    await consumer.put(event("1", dataref=f"https://x/{consumer.name}/gone.json"), event("2"))
    await consumer.run()
    assert (consumer.handled, len(await consumer.parked())) == (["2"], 1)


@pytest.mark.parametrize("dataref", ["", "https://x", "no url"])
async def test_a_dataref_that_names_no_blob_is_an_event_error(consumer: Consumer, dataref: str) -> None:
    (large,) = parse(json.dumps(event("1", dataref=dataref)))
    with pytest.raises(EventError, match="dataref"):
        await read_data(large, consumer.blobs)


# --- rights ----------------------------------------------------------------------------------------------------------


class Rights(AsyncHTTPPolicy[Any, Any]):
    """Refuses what a consumer's identity may not do.

    It has Storage Queue Data Contributor on its queue and that queue's poison queue, and Storage Blob Data Reader, by a
    condition, on the blobs of its kind alone.

    Source: "Permissions for Queue service operations", "Permissions for Blob service operations" (Azure Storage REST,
    "Authorize with Microsoft Entra ID").
    """

    def __init__(self, queue: str, blobs: str) -> None:
        self.queues = {queue, f"{queue}-poison"}
        self.blobs = blobs
        self.used: set[str] = set()

    async def send(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
        method, path = request.http_request.method, request.http_request.url.partition("?")[0].split("/", 4)[4]
        if not (path.split("/")[0] in self.queues or (method == "GET" and path.startswith(self.blobs))):
            raise ClientAuthenticationError(f"AuthorizationPermissionMismatch: {method} {path}")
        self.used.add(f"{method} {path.split('/')[0]}")
        return await self.next.send(request)


async def test_it_does_with_the_rights_that_a_consumer_is_given(
    consumer: Consumer, azurite: Azurite, unique_name: Callable[[str], str]
) -> None:
    container = unique_name("data")
    own = await put_blob(consumer, container, "call-events/1.json", {"callId": "7"})
    others = await put_blob(consumer, container, "emergency-call-events/1.json", {"callId": "8"})
    await consumer.queues.create_queue(f"{consumer.name}-poison")
    await consumer.put(event("1", dataref=own), event("bad"), "no event")
    rights = Rights(consumer.name, f"{container}/call-events/")
    text, policies = azurite.connection_string, {"_additional_pipeline_policies": [rights], "retry_total": 0}
    async with (
        QueueServiceClient.from_connection_string(text, **policies) as queues,
        BlobServiceClient.from_connection_string(text, **policies) as blobs,
    ):
        limited = Consumer(consumer.name, queues, blobs)
        await limited.run(consumer.nothing_left)
        assert (limited.handled, len(await consumer.parked())) == (["1"], 2)
        name = consumer.name
        assert {
            f"GET {name}",
            f"PUT {name}",
            f"DELETE {name}",
            f"POST {name}-poison",
            f"GET {container}",
        } == rights.used
        (not_for_it,) = parse(json.dumps(event("2", dataref=others)))
        with pytest.raises(ClientAuthenticationError):
            await read_data(not_for_it, blobs)
        with pytest.raises(ClientAuthenticationError):
            async for _ in EventQueue(queues, blobs, "another-queue").handle(limited.handle):
                pass
