"""Queue triggers: what the real host's queue listener does with a queue, also where storage fails.

Sources: "Azure Queue storage trigger and bindings" (poison messages, polling algorithm, concurrency, host.json); the
rest is as seen from the real listener (Storage.Queues 5.3), whose recorded behaviour `tests/replay` holds this one to.
"""

import asyncio
import base64
import contextlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime
from enum import Enum, auto
from random import Random
from typing import Final, Self

from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from dev.host.config import QueueOptions
from dev.host.ending import Activity
from dev.host.errors import FunctionFailedError, LoadError
from dev.host.logs import log_failure
from dev.host.messages import TypedData
from dev.host.storage import call
from dev.host.surroundings import Surroundings
from dev.host.waiting import wait_for_event
from dev.host.worker import Function, Invocation, Worker

POISON_SUFFIX = "-poison"
SHORTEST_PAUSE = 0.1  # seconds; QueuePollingIntervals.Minimum

# What .NET skips in Base64, and nothing else: not even a no-break space.
_IGNORED_IN_BASE64: Final = str.maketrans("", "", " \t\r\n")

# "Naming Queues and Metadata"
_QUEUE_NAME: Final = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")

_logger = logging.getLogger("host")


class Operation(Enum):
    """What is asked of storage, as far as the answers to it are taken alike."""

    POLL = auto()  # Get Queue Metadata, Get Messages
    SETTLE = auto()  # Update Message, Delete Message
    PUT = auto()
    CREATE = auto()


class Verdict(Enum):
    """What follows from a call that storage has not done, after all its tries."""

    ABSENT = auto()  # there is no such queue
    AWAY = auto()  # storage is not well: polled on
    LOST = auto()  # the message is no more ours: nothing is done about it
    FATAL = auto()  # the host ends


# Whatever is not named here is fatal.
_VERDICTS: Final = {
    (Operation.POLL, 404, "QueueNotFound"): Verdict.ABSENT,
    (Operation.POLL, 409, "QueueBeingDeleted"): Verdict.ABSENT,
    (Operation.SETTLE, 404, "MessageNotFound"): Verdict.LOST,
    (Operation.SETTLE, 404, "QueueNotFound"): Verdict.LOST,
    (Operation.SETTLE, 409, "QueueBeingDeleted"): Verdict.LOST,
    (Operation.SETTLE, 400, "PopReceiptMismatch"): Verdict.LOST,
    (Operation.PUT, 404, "QueueNotFound"): Verdict.ABSENT,
    (Operation.CREATE, 409, "QueueAlreadyExists"): Verdict.LOST,
}


def verdict(operation: Operation, status: int | None, code: str | None) -> Verdict:
    """What follows from an answer.

    Args:
        operation: what was asked.
        status: of the answer, None if there was none.
        code: storage's error code.
    """
    if operation is Operation.POLL and status is not None and status >= 500:
        return Verdict.AWAY
    return _VERDICTS.get((operation, status or 0, code or ""), Verdict.FATAL)


class _RefusedError(Exception):
    """Storage has not done a call, and the host goes on."""

    def __init__(self, said: str, follows: Verdict) -> None:
        super().__init__(said)
        self.verdict = follows


class _FatalError(Exception):
    """Storage has not done a call, and the host ends."""


def from_base64(text: str) -> bytes:
    """Decode what .NET's Convert.FromBase64String takes.

    Raises:
        ValueError: the text is not Base64.
    """
    return base64.b64decode(text.translate(_IGNORED_IN_BASE64), validate=True)


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
        activity: Activity,
        lease_seconds: float,
        stopping: asyncio.Event,
        fail: Callable[[str], None],
        wakes: MutableMapping[str, asyncio.Event],
    ) -> None:
        """Prepare; `run` starts it.

        Args:
            worker: calls the function.
            function: one with a queueTrigger.
            service: where its queue is; closed by whoever made it.
            options: host.json's.
            surroundings: give chance.
            activity: is told of each message from its receipt to the end of its outcome.
            lease_seconds: how long a fetched message stays invisible, renewed at half of it while its function runs;
                after a crash it reappears when this time is over.
            stopping: once set, nothing more is fetched, a fetch under way is abandoned, and `run` returns when what
                runs has ended.
            fail: called with the reason when storage answers so that the host ends. It should set `stopping`.
            wakes: for each queue of `service` that this host listens to, what ends the pause of its listener.

        Raises:
            LoadError: no queue can have that name.
        """
        name: str = function.trigger["queueName"].lower()
        if _QUEUE_NAME.fullmatch(name) is None:
            raise LoadError(f"{name!r} is not a queue name")
        self._worker = worker
        self._function = function
        self._queue = service.get_queue_client(name)
        # A poison queue has none of its own: its failed messages stay invisible until their lease is over, and then
        # come again, however often.
        self._poison = None if name.endswith(POISON_SUFFIX) else service.get_queue_client(name + POISON_SUFFIX)
        self._options = options
        self._surroundings = surroundings
        self._activity = activity
        self._lease_seconds = lease_seconds
        self._stopping = stopping
        self._fail = fail
        self._wakes = wakes
        self._wake = wakes.setdefault(name, asyncio.Event())
        self._running: set[asyncio.Task[None]] = set()
        self._is_there = False

    async def run(self) -> None:
        """Fetch and process until `stopping` is set and all that was fetched has been processed."""
        async with asyncio.TaskGroup() as group:
            await self._listen(group)

    async def call_with(self, text: str) -> None:
        """Call the function once with a text that is on no queue; a failure is logged."""
        try:
            await self._worker.invoke(Invocation(function=self._function, data=TypedData(string=text), metadata={}))
        except FunctionFailedError as error:
            log_failure(self._function.name, error)

    async def _listen(self, group: asyncio.TaskGroup) -> None:
        pause = _Pause(self._options.longest_pause.total_seconds(), self._surroundings.random)
        while not self._stopping.is_set():
            try:
                fetched = await self._unless_stopping(self._fetch())
                messages = await self._without_undecodable(fetched or [])
            except _RefusedError as refused:
                self._is_there = False  # the queue is looked for again before the next fetch
                if refused.verdict is Verdict.AWAY:
                    await self._idle(pause.shortest())
                    continue
                messages = fetched = []
            except _FatalError as error:
                self._fail(f"{self._function.name}: {error}")
                return
            for message in messages:
                task = group.create_task(self._process(message))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            if fetched:
                pause.reset()
                await self._until_threshold()
            else:
                await self._idle(pause.next())

    async def _fetch(self) -> list[QueueMessage]:
        if not self._is_there:
            await self._call(Operation.POLL, self._queue.get_queue_properties)
            self._is_there = True
        return await self._call(Operation.POLL, self._get_messages)

    async def _get_messages(self) -> list[QueueMessage]:
        pages = self._queue.receive_messages(
            messages_per_page=self._options.batch_size, visibility_timeout=round(self._lease_seconds)
        ).by_page()
        async for page in pages:
            return [message async for message in page]
        return []

    async def _without_undecodable(self, messages: list[QueueMessage]) -> list[QueueMessage]:
        """Move what is not Base64 to the poison queue, one by one, before any function of the batch is called."""
        decodable: list[QueueMessage] = []
        for message in messages:
            if self._is_decodable(message):
                decodable.append(message)
                continue
            _logger.error("%s: message %s is not Base64, as messageEncoding says", self._function.name, message.id)
            await self._give_up(message)
        return decodable

    async def _until_threshold(self) -> None:
        while len(self._running) > self._options.threshold and not self._stopping.is_set():
            await self._unless_stopping(asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED))

    async def _idle(self, seconds: float) -> None:
        """Wait for so long, for `stopping`, or for a message that this host has moved to the queue."""
        if await self._unless_stopping(wait_for_event(self._wake, seconds)):
            self._wake.clear()

    async def _unless_stopping[T](self, work: Awaitable[T]) -> T | None:
        """The result of some work, or None if `stopping` came first: the work is abandoned then, in whatever state."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            stop.cancel()

    async def _process(self, message: QueueMessage) -> None:
        try:
            with self._activity.of(self._function.name):
                await self._handle(message)
        except _FatalError as error:
            self._fail(f"{self._function.name}: message {message.id}: {error}")

    async def _handle(self, message: QueueMessage) -> None:
        attempts = message.dequeue_count or 0
        if self._poison is not None and attempts > self._options.max_dequeue_count:
            await self._give_up(message)
            return
        async with _Lease(self._renew, message, self._lease_seconds):
            succeeded = await self._attempt(message)
        if succeeded:
            await self._delete(message)
        elif attempts >= self._options.max_dequeue_count:
            await self._give_up(message)
        elif self._poison is not None:
            await self._update(message, int(self._options.retry_delay.total_seconds()))

    async def _attempt(self, message: QueueMessage) -> bool:
        try:
            text = self._text(message)
        except UnicodeDecodeError:
            _logger.error("%s: message %s is not UTF-8", self._function.name, message.id)  # noqa: TRY400
            return False
        try:
            await self._worker.invoke(
                Invocation(function=self._function, data=TypedData(string=text), metadata=_metadata(message))
            )
        except FunctionFailedError as error:
            log_failure(self._function.name, error)
            return False
        return True

    async def _renew(self, message: QueueMessage) -> bool:
        """Renew a message's lease; says whether another renewal makes sense."""
        try:
            return await self._update(message, round(self._lease_seconds))
        except _FatalError as error:
            self._fail(f"{self._function.name}: message {message.id}: {error}")
            return False

    async def _update(self, message: QueueMessage, seconds: int) -> bool:
        """Let a message be invisible for so long; says whether it is still this host's."""

        async def update() -> None:
            updated = await self._queue.update_message(message.id, message.pop_receipt, visibility_timeout=seconds)
            message.pop_receipt = updated.pop_receipt

        return await self._settle(message, update)

    async def _delete(self, message: QueueMessage) -> None:
        await self._settle(message, lambda: self._queue.delete_message(message))

    async def _settle(self, message: QueueMessage, send: Callable[[], Awaitable[None]]) -> bool:
        try:
            await self._call(Operation.SETTLE, send)
        except _RefusedError as refused:
            _logger.warning("%s: message %s is no longer this host's: %s", self._function.name, message.id, refused)
            return False
        return True

    async def _give_up(self, message: QueueMessage) -> None:
        """Move a message to the poison queue; on a poison queue it stays leased."""
        poison = self._poison
        if poison is None:
            return
        _logger.error(
            "%s: message %s goes to %s after %s attempts",
            self._function.name,
            message.id,
            poison.queue_name,
            message.dequeue_count,
        )
        await self._put(poison, message.content or "")
        await self._delete(message)
        if (wake := self._wakes.get(poison.queue_name)) is not None:
            wake.set()

    async def _put(self, queue: QueueClient, content: str) -> None:
        try:
            await self._call(Operation.PUT, lambda: queue.send_message(content))
        except _RefusedError:
            await self._create(queue)
        else:
            return
        try:
            await self._call(Operation.PUT, lambda: queue.send_message(content))
        except _RefusedError as refused:
            raise _FatalError(str(refused)) from refused

    async def _create(self, queue: QueueClient) -> None:
        with contextlib.suppress(_RefusedError):  # it is there by now
            await self._call(Operation.CREATE, queue.create_queue)

    async def _call[T](self, operation: Operation, send: Callable[[], Awaitable[T]]) -> T:
        """Call storage, with its tries.

        Raises:
            _RefusedError: it was not done, and the host goes on.
            _FatalError: it was not done, and the host ends.
        """
        try:
            return await call(send, self._surroundings)
        except AzureError as error:
            status = error.status_code if isinstance(error, HttpResponseError) else None
            follows = verdict(operation, status, getattr(error, "error_code", None))
            said = f"queue storage: {_first_line(error)}"
            if follows is Verdict.FATAL:
                raise _FatalError(said) from error
            if follows is Verdict.AWAY:
                _logger.warning("%s: %s", self._function.name, said)
            raise _RefusedError(said, follows) from error

    def _is_decodable(self, message: QueueMessage) -> bool:
        if self._options.is_base64:
            try:
                from_base64(message.content or "")
            except ValueError:
                return False
        return True

    def _text(self, message: QueueMessage) -> str:
        content = message.content or ""
        return from_base64(content).decode() if self._options.is_base64 else content


class _Lease:
    """Keeps a message invisible inside an `async with` block, until a renewal says that this is no use any more."""

    def __init__(self, renew: Callable[[QueueMessage], Awaitable[bool]], message: QueueMessage, seconds: float) -> None:
        self._renew = renew
        self._message = message
        self._seconds = seconds
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        # A renewal under way is awaited, because cancelling it could leave us with a receipt that no longer counts.
        self._ended.set()
        await self._task

    async def _keep(self) -> None:
        while not await wait_for_event(self._ended, self._seconds / 2):
            if not await self._renew(self._message):
                return


class _Pause:
    """Pauses between looks at an empty queue: 0.1 s, then 0.1 + 0.1 · 2^(k-1) · r, up to the longest."""

    def __init__(self, longest: float, random: Random) -> None:
        self._longest = longest
        self._random = random
        self._count = 0

    def reset(self) -> None:
        """A message was found."""
        self._count = 0

    def next(self) -> float:
        """The pause after a look that found nothing, in seconds."""
        pause = SHORTEST_PAUSE
        if self._count:
            pause += SHORTEST_PAUSE * 2.0 ** (self._count - 1) * self._random.uniform(0.8, 1.2)
        if pause >= self._longest:
            return self._longest
        self._count += 1
        return pause

    def shortest(self) -> float:
        """The pause after storage was not well, however long the others have become."""
        return SHORTEST_PAUSE * (1 + self._random.uniform(0.8, 1.2))


def _metadata(message: QueueMessage) -> dict[str, TypedData]:
    return {
        "QueueTrigger": TypedData(string=message.content or ""),
        "Id": TypedData(string=message.id),
        "PopReceipt": TypedData(string=message.pop_receipt),
        "DequeueCount": TypedData(json=json.dumps(message.dequeue_count)),
        "InsertionTime": _time(message.inserted_on),
        "ExpirationTime": _time(message.expires_on),
        "NextVisibleTime": _time(message.next_visible_on),
    }


def _time(moment: datetime | None) -> TypedData:
    return TypedData(json=json.dumps(None if moment is None else moment.isoformat()))


def _first_line(error: AzureError) -> str:
    return error.message.splitlines()[0] if error.message else type(error).__name__
