"""Events from an Azure Storage queue, and the blobs that hold what is too large for one."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import Final, Literal

from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.blob.aio import BlobClient, BlobServiceClient
from azure.storage.queue import QueueMessage, StorageErrorCode
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from .deduplicator import Deduplicator
from .event_types import CloudEvent, EventError, parse

logger = logging.getLogger(__name__)

type Handler = Callable[[CloudEvent, bytes], Awaitable[None]]
"""Takes an event and its data as JSON; `event.typed(data)` reads that. Returning says that the event is handled."""

type _Tasks = set[asyncio.Task[list[CloudEvent]]]

MAX_TRIES: Final = 5
_NEVER: Final = -1


async def read_data(event: CloudEvent, blobs: BlobServiceClient) -> bytes:
    """Read an event's data, from the blob that `dataref` names where it is too large for a queue.

    Args:
        event: the event.
        blobs: a client of the account that the event came from. No other account is asked, wherever `dataref` points,
            so that no credential goes anywhere else.

    Returns:
        The data as JSON.

    Raises:
        EventError: `dataref` is not the URL of a blob.
        AzureError: storage does not give the blob.
    """
    if event.dataref is None:
        return bytes(event.data)
    try:
        named = BlobClient.from_blob_url(event.dataref)
    except ValueError as error:
        raise EventError("the event's dataref is not the URL of a blob") from error
    blob = blobs.get_blob_client(named.container_name, named.blob_name)
    return await (await blob.download_blob()).readall()


class EventQueue:
    """A queue of events, for one consumer of any number that share it.

    A message is deleted when all of its events are handled. It stays hidden from other consumers for as long as that
    takes. One whose handler fails comes again after 4, 16, 64 and 256 seconds; one that failed five times, or ended the
    process five times, or is no event, is put on the queue `{name}-poison`, where it stays.

    Args:
        queues: a client of the account, which the caller closes.
        blobs: the same.
        name: the queue's name.
        deduplicator: knows the events that were handled; without one, an event is handled whenever it comes.
        at_once: how many messages are handled at the same time, up to 32.
        lease_seconds: how long a message stays hidden after the process has ended.
        retry_seconds: the time after the first failure, each of the next takes four times as long.
        poll_seconds: the time between two looks at an empty queue.
    """

    def __init__(
        self,
        queues: QueueServiceClient,
        blobs: BlobServiceClient,
        name: str,
        deduplicator: Deduplicator | None = None,
        *,
        at_once: int = 16,
        lease_seconds: int = 60,
        retry_seconds: int = 4,
        poll_seconds: float = 1.0,
    ) -> None:
        self._queue = queues.get_queue_client(name)
        self._poison = queues.get_queue_client(f"{name}-poison")
        self._blobs = blobs
        self._deduplicator = deduplicator
        self._at_once = at_once
        self._lease_seconds = lease_seconds
        self._retry_seconds = retry_seconds
        self._poll_seconds = poll_seconds

    async def handle(self, handler: Handler) -> AsyncIterator[CloudEvent]:
        """Handle what is on the queue and what comes, without end.

        While storage does not answer, it is asked again. Whoever leaves the loop over this interrupts what is being
        handled, and that comes again.

        Args:
            handler: what is done with an event. It must let the event loop run, or leases end: `asyncio.to_thread` is
                for what computes or blocks. An exception says that the event is to come again; its type is logged.

        Yields:
            Each event once it is handled and its message is deleted.

        Raises:
            AzureError: storage refuses, as where the identity lacks a role.
        """
        running: _Tasks = set()
        try:
            while True:
                messages = await self._insist(partial(self._receive, self._at_once - len(running)))
                running |= {asyncio.create_task(self._take(message, handler)) for message in messages}
                done, running = await self._some_of(running)
                for task in done:
                    for event in task.result():
                        yield event
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _receive(self, at_most: int) -> list[QueueMessage]:
        if not at_most:
            return []
        pages = self._queue.receive_messages(messages_per_page=at_most, visibility_timeout=self._lease_seconds)
        try:
            async for page in pages.by_page():  # there is none if there is no message
                return [message async for message in page]
        except ResourceNotFoundError:
            return []  # the first event of the kind makes the queue
        return []

    async def _some_of(self, running: _Tasks) -> tuple[_Tasks, _Tasks]:
        """Wait until the first is done, and no longer than between two polls."""
        if running:
            return await asyncio.wait(running, timeout=self._poll_seconds, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(self._poll_seconds)
        return set(), set()

    async def _take(self, message: QueueMessage, handler: Handler) -> list[CloudEvent]:
        """See a message to its end; returns the events that are handled."""
        tries = message.dequeue_count or 1
        try:
            events = parse(message.content)
        except EventError as error:
            await self._park(message, str(error))
            return []
        if tries > MAX_TRIES:
            await self._park(message, "the process ended at each try")
            return []
        over = asyncio.Event()
        renewing = asyncio.create_task(self._renew(message, over))
        try:
            outcomes = [await self._try(event, handler) for event in events]
        finally:
            over.set()
            await renewing
        if "failed" not in outcomes:
            await self._if_ours(lambda: self._queue.delete_message(message))
        elif tries == MAX_TRIES:
            await self._park(message, f"it failed {tries} times")
        else:
            await self._hide(message, self._retry_seconds * 4 ** (tries - 1))
        return [event for event, outcome in zip(events, outcomes, strict=True) if outcome == "handled"]

    async def _try(self, event: CloudEvent, handler: Handler) -> Literal["handled", "known", "failed"]:
        once = self._deduplicator.once(event) if self._deduplicator else nullcontext(enter_result=True)
        try:
            async with once as new:
                if not new:
                    return "known"
                await handler(event, await self._insist(lambda: read_data(event, self._blobs)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must end neither the consumer nor its neighbours
            logger.warning("failed with %s: source=%s id=%s", type(error).__name__, event.source, event.id)
            return "failed"
        return "handled"

    async def _renew(self, message: QueueMessage, over: asyncio.Event) -> None:
        """Keep a message hidden until `over`."""
        while True:
            try:
                async with asyncio.timeout(self._lease_seconds / 3):
                    await over.wait()
            except TimeoutError:
                await self._hide(message, self._lease_seconds)
            else:
                return

    async def _hide(self, message: QueueMessage, seconds: int) -> None:
        async def update() -> None:
            renewed = await self._queue.update_message(message, visibility_timeout=seconds)
            message.pop_receipt = renewed.pop_receipt

        await self._if_ours(update)

    async def _park(self, message: QueueMessage, why: str) -> None:
        async def put() -> None:
            try:
                await self._poison.send_message(message.content, time_to_live=_NEVER)
            except ResourceNotFoundError:
                await _create(self._poison)
                await self._poison.send_message(message.content, time_to_live=_NEVER)

        await self._insist(put)
        await self._if_ours(lambda: self._queue.delete_message(message))
        logger.error("now on %s, since %s: message=%s", self._poison.queue_name, why, message.id)

    async def _if_ours(self, request: Callable[[], Awaitable[None]]) -> None:
        """Change a message, unless its lease has ended and another consumer has it, or is done with it."""
        try:
            await self._insist(request)
        except ResourceNotFoundError:
            return
        except HttpResponseError as error:
            if getattr(error, "error_code", None) != StorageErrorCode.POP_RECEIPT_MISMATCH:
                raise

    async def _insist[Result](self, request: Callable[[], Awaitable[Result]]) -> Result:
        """Repeat a request for as long as storage does not answer."""
        while True:
            try:
                return await request()
            except AzureError as error:
                if not _transient(error):
                    raise
                logger.warning("storage did not answer: %s", type(error).__name__)
            await asyncio.sleep(self._poll_seconds)


def _transient(error: AzureError) -> bool:
    if isinstance(error, HttpResponseError):
        return error.status_code in {408, 429} or (error.status_code or 0) >= 500
    return isinstance(error, ServiceRequestError | ServiceResponseError)


async def _create(queue: QueueClient) -> None:
    try:
        await queue.create_queue()
    except ResourceExistsError:
        return  # another consumer was quicker
