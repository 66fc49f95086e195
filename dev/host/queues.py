"""Queue triggers: what the real host's QueueListener and QueueProcessor do with a queue.

Sources: "Azure Queue storage trigger and bindings" (poison messages, polling algorithm, concurrency, host.json), and
QueueProcessor.cs of the Storage Queues extension (Azure/azure-sdk-for-net) for what happens after a failure.
"""

import asyncio
import base64
import contextlib
import json
import logging
from datetime import datetime
from random import Random
from typing import Self

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from dev.host.config import QueueOptions
from dev.host.errors import FunctionFailedError
from dev.host.logs import log_failure
from dev.host.messages import TypedData
from dev.host.surroundings import Surroundings
from dev.host.waiting import wait_for_event
from dev.host.worker import Function, Worker

POISON_SUFFIX = "-poison"
SHORTEST_PAUSE = 0.1  # seconds; QueuePollingIntervals.Minimum

_logger = logging.getLogger("host")


class QueueListener:
    """Calls one function for each message of its queue, several at a time."""

    def __init__(
        self,
        worker: Worker,
        function: Function,
        service: QueueServiceClient,
        options: QueueOptions,
        surroundings: Surroundings,
        *,
        lease_seconds: float,
        stopping: asyncio.Event,
    ) -> None:
        """Prepare; `run` starts it.

        Args:
            worker: calls the function.
            function: one with a queueTrigger.
            service: where its queue is; closed by whoever made it.
            options: host.json's.
            surroundings: gives chance.
            lease_seconds: how long a fetched message stays invisible, renewed at half of it while its function runs;
                after a crash it reappears when this time is over.
            stopping: once set, nothing more is fetched, and `run` returns when what runs has ended.
        """
        name: str = function.trigger["queueName"]
        self._worker = worker
        self._function = function
        self._queue = service.get_queue_client(name)
        # A poison queue has none of its own: its failed messages stay invisible until their lease is over, and then
        # come again, however often.
        self._poison = None if name.endswith(POISON_SUFFIX) else service.get_queue_client(name + POISON_SUFFIX)
        self._options = options
        self._random = surroundings.random
        self._lease_seconds = lease_seconds
        self._stopping = stopping
        self._running: set[asyncio.Task[None]] = set()
        self._storage_is_away = False

    async def run(self) -> None:
        """Fetch and process until `stopping` is set and all that was fetched has been processed."""
        pause = _Pause(self._options.longest_pause.total_seconds(), self._random)
        async with asyncio.TaskGroup() as group:
            while not self._stopping.is_set():
                try:
                    messages = await self._receive()
                except AzureError as error:
                    self._note_outage(error)
                    messages = []
                else:
                    self._note_recovery()
                for message in messages:
                    task = group.create_task(self._process(message))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
                if messages:
                    pause.reset()
                    await self._until_threshold()
                else:
                    await wait_for_event(self._stopping, pause.next())

    async def call_with(self, text: str) -> None:
        """Call the function once with a text that is on no queue; a failure is logged."""
        try:
            await self._worker.invoke(self._function, TypedData(string=text), metadata={})
        except FunctionFailedError as error:
            log_failure(self._function.name, error)

    async def _receive(self) -> list[QueueMessage]:
        # The listener has its own pauses, so the SDK need not retry.
        pages = self._queue.receive_messages(
            messages_per_page=self._options.batch_size,
            visibility_timeout=round(self._lease_seconds),
            retry_total=0,
        ).by_page()
        try:
            async for page in pages:
                return [message async for message in page]
        except ResourceNotFoundError:
            await _create(self._queue)
        return []

    async def _until_threshold(self) -> None:
        while len(self._running) > self._options.threshold:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    async def _process(self, message: QueueMessage) -> None:
        try:
            try:
                text = self._decode(message.content)
            except ValueError as error:
                _logger.error(  # noqa: TRY400
                    "%s: message %s is not what messageEncoding says: %s", self._function.name, message.id, error
                )
                await self._give_up(message)
                return
            if self._poison is not None and (message.dequeue_count or 0) > self._options.max_dequeue_count:
                await self._give_up(message)
                return
            async with _Lease(self._queue, message, self._lease_seconds):
                succeeded = await self._call(message, text)
            if succeeded:
                await self._queue.delete_message(message)
            elif (message.dequeue_count or 0) >= self._options.max_dequeue_count:
                await self._give_up(message)
            elif self._poison is not None:
                await self._release(message)
        except AzureError as error:
            _logger.warning(
                "%s: message %s will come again, because storage did not take its outcome: %s",
                self._function.name,
                message.id,
                _first_line(error),
            )

    async def _call(self, message: QueueMessage, text: str) -> bool:
        try:
            await self._worker.invoke(self._function, TypedData(string=text), metadata=self._metadata(message))
        except FunctionFailedError as error:
            log_failure(self._function.name, error)
            return False
        return True

    async def _release(self, message: QueueMessage) -> None:
        seconds = round(self._options.retry_delay.total_seconds())
        await self._queue.update_message(message.id, message.pop_receipt, visibility_timeout=seconds)

    async def _give_up(self, message: QueueMessage) -> None:
        if self._poison is None:
            return
        _logger.error(
            "%s: message %s goes to %s after %s attempts",
            self._function.name,
            message.id,
            self._poison.queue_name,
            message.dequeue_count,
        )
        try:
            await self._poison.send_message(message.content)
        except ResourceNotFoundError:
            await _create(self._poison)
            await self._poison.send_message(message.content)
        await self._queue.delete_message(message)

    def _decode(self, content: str) -> str:
        if not self._options.is_base64:
            return content
        return base64.b64decode("".join(content.split()), validate=True).decode()

    def _metadata(self, message: QueueMessage) -> dict[str, TypedData]:
        return {
            "QueueTrigger": TypedData(string=message.content),
            "Id": TypedData(string=message.id),
            "PopReceipt": TypedData(string=message.pop_receipt),
            "DequeueCount": TypedData(json=json.dumps(message.dequeue_count)),
            "InsertionTime": _time(message.inserted_on),
            "ExpirationTime": _time(message.expires_on),
            "NextVisibleTime": _time(message.next_visible_on),
        }

    def _note_outage(self, error: AzureError) -> None:
        if not self._storage_is_away:
            _logger.error("%s: queue storage does not answer; trying on: %s", self._function.name, _first_line(error))
        self._storage_is_away = True

    def _note_recovery(self) -> None:
        if self._storage_is_away:
            _logger.info("%s: queue storage answers again", self._function.name)
        self._storage_is_away = False


class _Lease:
    """Keeps a message invisible inside an `async with` block; `message.pop_receipt` is always the newest."""

    def __init__(self, queue: QueueClient, message: QueueMessage, seconds: float) -> None:
        self._queue = queue
        self._message = message
        self._seconds = seconds
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._renew())
        return self

    async def __aexit__(self, *_: object) -> None:
        # A renewal under way is awaited, because cancelling it could leave us with a receipt that no longer counts.
        self._ended.set()
        await self._task

    async def _renew(self) -> None:
        while not await wait_for_event(self._ended, self._seconds / 2):
            try:
                renewed = await self._queue.update_message(
                    self._message.id,
                    self._message.pop_receipt,
                    visibility_timeout=round(self._seconds),
                    retry_total=0,
                )
            except AzureError as error:
                _logger.warning("message %s: its lease could not be renewed: %s", self._message.id, _first_line(error))
            else:
                self._message.pop_receipt = renewed.pop_receipt


class _Pause:
    """Pauses between looks at an empty queue: doubled each time, with a fifth of randomness, up to the longest."""

    def __init__(self, longest: float, random: Random) -> None:
        self._longest = longest
        self._random = random
        self._next = SHORTEST_PAUSE

    def reset(self) -> None:
        self._next = SHORTEST_PAUSE

    def next(self) -> float:
        pause = self._next
        self._next = min(self._longest, pause * self._random.uniform(1.8, 2.2))
        return pause


async def _create(queue: QueueClient) -> None:
    with contextlib.suppress(ResourceExistsError):
        await queue.create_queue()


def _time(moment: datetime | None) -> TypedData:
    return TypedData(json=json.dumps(None if moment is None else moment.isoformat()))


def _first_line(error: AzureError) -> str:
    return error.message.splitlines()[0] if error.message else type(error).__name__
