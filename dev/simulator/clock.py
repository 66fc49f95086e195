"""Time, handed in: the machine's clock, or one that only moves when it is told to."""

import asyncio
import heapq
import itertools
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the simulator asks of time."""

    def now(self) -> datetime:
        """The current time, timezone-aware, UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when `seconds` have passed on this clock."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until `advance` or `advance_to_next`; usable from any thread and any event loop."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime.now(UTC)
        self._condition = threading.Condition()
        self._sequence = itertools.count()
        self._sleepers: list[tuple[datetime, int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """See `Clock.now`."""
        with self._condition:
            return self._now

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._condition:
            deadline = self._now + timedelta(seconds=seconds)
            heapq.heappush(self._sleepers, (deadline, next(self._sequence), loop, future))
            self._condition.notify_all()
        await future

    def advance(self, step: timedelta | float) -> None:
        """Move on by `step` (seconds if a number) and wake everyone whose time has come."""
        delta = step if isinstance(step, timedelta) else timedelta(seconds=step)
        with self._condition:
            self._move(self._now + delta)

    def advance_to_next(self, timeout: float = 90.0) -> datetime:
        """Wait until somebody sleeps, move to the earliest deadline, and return it.

        Raises:
            TimeoutError: nobody slept within `timeout` seconds of real time.
        """
        limit = time.monotonic() + timeout
        with self._condition:
            while not self._pending():
                if not self._condition.wait(limit - time.monotonic()) and not self._pending():
                    raise TimeoutError("nobody sleeps on this clock")
            deadline = self._sleepers[0][0]
            self._move(deadline)
            return deadline

    def _pending(self) -> bool:
        # Cancelled sleepers and those whose loop has been closed will never ask again.
        while self._sleepers and (self._sleepers[0][3].done() or self._sleepers[0][2].is_closed()):
            heapq.heappop(self._sleepers)
        return bool(self._sleepers)

    def _move(self, moment: datetime) -> None:
        self._now = max(self._now, moment)
        while self._pending() and self._sleepers[0][0] <= self._now:
            _, _, loop, future = heapq.heappop(self._sleepers)
            loop.call_soon_threadsafe(_wake, future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def graph_time(moment: datetime) -> str:
    """`moment` as Graph writes times: UTC, seven decimals, ``Z``."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}0Z"


def parse_time(text: str) -> datetime:
    """Read an Edm.DateTimeOffset, up to seven decimals; without an offset it is UTC.

    Raises:
        ValueError: `text` is not a time.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
