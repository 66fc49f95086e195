"""Validation handshakes, and the delivery of notifications with Graph's retries.

Source: Graph, "Receive change notifications through webhooks".
"""

import asyncio
import random
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import quote

import aiohttp
from yarl import URL

from dev.simulator.clock import Clock
from dev.simulator.rules import GraphError

_CONCURRENCY: Final = 64
"""POSTs under way at once. The others have not begun, so that their wait does not count against the subscriber."""


@dataclass(frozen=True)
class Attempt:
    """One POST. `status` is None where no answer came (`error` says why); `seconds` is the time it took for real."""

    at: datetime
    status: int | None
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Notification:
    """One item of a collection, with what the ledger needs to know of it.

    `key` is the simulator's own and unique; `plaintext` is what a rich item holds, before encryption.
    """

    key: str
    url: str
    subscription_id: str
    tenant_id: str
    app_id: str
    rich: bool
    item: Mapping[str, Any]
    plaintext: Mapping[str, Any] | None = None


State = Literal["pending", "delivered", "given up"]


@dataclass(frozen=True)
class Delivery:
    """One collection on its way. `state` is final unless pending."""

    key: str
    url: str
    body: bytes
    notifications: tuple[Notification, ...]
    attempts: tuple[Attempt, ...] = ()
    state: State = "pending"


@dataclass
class DeliverySettings:
    """Switches of delivery; all times in seconds.

    Waits between attempts double from `first_retry` to `longest_retry` and end `give_up_after` the first attempt, all
    on the simulator's clock and multiplied by `time_scale`. Time-outs are real time. `batch_size` is the most items in
    one POST; `copies` sends each collection so many times; `shuffle` sends items in a random order drawn from `seed`.
    """

    first_timeout: float = 3.0
    retry_timeout: float = 10.0
    handshake_timeout: float = 10.0
    first_retry: float = 10.0
    longest_retry: float = 1800.0
    give_up_after: float = 4 * 3600.0
    time_scale: float = 1.0
    batch_size: int = 40
    copies: int = 1
    shuffle: bool = False
    seed: int = 0


@dataclass
class Courier:
    """Posts to subscribers and keeps the ledger. The ledger is thread-safe; coroutines run on the simulator's loop."""

    clock: Clock
    settings: DeliverySettings = field(default_factory=DeliverySettings)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _ledger: dict[str, Delivery] = field(default_factory=dict)
    _pending: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _session: aiohttp.ClientSession | None = None
    _slots: asyncio.Semaphore | None = None

    async def open(self) -> None:
        """Make the HTTP session; on the loop that will use it."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    async def close(self) -> None:
        """Stop all deliveries and close the session."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """The ledger as it stands, in order of sending."""
        with self._changed:
            return tuple(self._ledger.values())

    def drain(self, timeout: float) -> None:
        """Wait until nothing is pending.

        Raises:
            TimeoutError: something still is after `timeout` seconds of real time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._pending == 0, timeout):
                raise TimeoutError(f"{self._pending} deliveries are still pending")

    def forget_settled(self) -> None:
        """Strike what is settled from the ledger, for long runs."""
        with self._changed:
            self._ledger = {key: entry for key, entry in self._ledger.items() if entry.state == "pending"}

    def arrange(self, notifications: Sequence[Notification]) -> list[Notification]:
        """`notifications` in the order in which they will be sent."""
        ordered = list(notifications)
        if self.settings.shuffle:
            random.Random(self.settings.seed).shuffle(ordered)
        return ordered

    def enter(self, url: str, body: bytes, notifications: Sequence[Notification]) -> list[Delivery]:
        """Put a collection into the ledger, once for each copy."""
        parts = tuple(notifications)
        entries = [Delivery(str(uuid.uuid4()), url, body, parts) for _ in range(self.settings.copies)]
        with self._changed:
            self._ledger.update((entry.key, entry) for entry in entries)
            self._pending += len(entries)
        return entries

    def start(self, delivery: Delivery) -> None:
        """Send an entry of the ledger in the background; on the simulator's loop."""
        task = asyncio.get_running_loop().create_task(self._deliver(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, delivery: Delivery) -> None:
        scale = self.settings.time_scale
        wait, timeout = self.settings.first_retry, self.settings.first_timeout
        give_up = self.clock.now() + timedelta(seconds=self.settings.give_up_after * scale)
        headers = {"Content-Type": "application/json; charset=utf-8"}
        while True:
            attempt = await self.post(delivery.url, delivery.body, headers, timeout=timeout)
            done = attempt.status is not None and 200 <= attempt.status < 300
            late = self.clock.now() + timedelta(seconds=wait * scale) > give_up
            state: State = "delivered" if done else "given up" if late else "pending"
            delivery = replace(delivery, attempts=(*delivery.attempts, attempt), state=state)
            with self._changed:
                self._ledger[delivery.key] = delivery
                self._pending -= state != "pending"
                self._changed.notify_all()
            if state != "pending":
                return
            await self.clock.sleep(wait * scale)
            wait, timeout = min(2 * wait, self.settings.longest_retry), self.settings.retry_timeout

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, timeout: float) -> Attempt:  # noqa: ASYNC109 - recorded as an answer that did not come, not raised
        """POST `body` once and say how it went."""
        if self._session is None or self._slots is None:
            raise RuntimeError("the simulator does not run")
        loop = asyncio.get_running_loop()
        async with self._slots:
            at, begin = self.clock.now(), loop.time()
            status, error = None, None
            try:
                async with asyncio.timeout(timeout):
                    target = URL(url, encoded=True)
                    async with self._session.post(target, data=body, headers=headers, allow_redirects=False) as answer:
                        await answer.read()
                        status = answer.status
            except TimeoutError:
                error = f"no answer within {timeout:g} s"
            except aiohttp.ClientError as problem:
                error = f"{type(problem).__name__}: {problem}"
            return Attempt(at, status, loop.time() - begin, error)

    async def handshake(self, url: str) -> None:
        """Ask the endpoint to prove that it wants notifications.

        Raises:
            GraphError: 400, with Graph's words for what went wrong.
        """
        if self._session is None:
            raise RuntimeError("the simulator does not run")
        token = f"Validation: Testing client application reachability for subscription Request-Id: {uuid.uuid4()}"
        target = URL(f"{url}{'&' if '?' in url else '?'}validationToken={quote(token, safe='')}", encoded=True)
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        try:
            async with (
                asyncio.timeout(self.settings.handshake_timeout),
                self._session.post(target, headers=headers, allow_redirects=False) as answer,
            ):
                status, kind, text = answer.status, answer.content_type, await answer.read()
        except TimeoutError:
            raise _validation_error("Subscription validation request timed out.") from None
        except aiohttp.ClientError:
            raise _validation_error(
                "Subscription validation request failed. The notification endpoint could not be reached."
            ) from None
        if status != 200:
            raise _validation_error(
                f"Subscription validation request failed. HTTP status code is '{status}'. "
                "Notification endpoint must respond with 200 OK to validation request."
            )
        if kind != "text/plain":
            raise _validation_error("Subscription validation request failed. Content type must be 'text/plain'.")
        if text != token.encode():
            raise _validation_error(
                "Subscription validation request failed. Response must exactly match validationToken query parameter."
            )


def _validation_error(message: str) -> GraphError:
    return GraphError(400, "ValidationError", message)
