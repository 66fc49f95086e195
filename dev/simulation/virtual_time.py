"""An event loop whose time passes only when everybody waits, and a clock that tells it."""

import asyncio
import selectors
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what is ready; when nothing is, leaps to the next timer.

    There is no input and output: whatever waits for a socket or a thread waits for ever, and is told so. Everything is
    therefore repeatable.
    """

    def __init__(self) -> None:
        self._leaps = _Leaps()
        super().__init__(self._leaps)
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._leaps.now


class InlineLoop(VirtualLoop):
    """Does here and now what would be done in a thread."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the future's, whatever it is
            future.set_exception(error)
        return future


class _Leaps(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is going to happen")
        self.now += max(timeout, 0.0)
        return []


class LoopClock:
    """The loop's time as a date, or that of a machine whose clock is `skew` ahead."""

    def __init__(self, skew: timedelta = timedelta(0)) -> None:
        self._loop = asyncio.get_running_loop()
        self._start = self._now = START + skew
        self._at = 0.0

    def now(self) -> datetime:
        at = self._loop.time()
        if at != self._at:  # it is asked many times before time passes
            self._at, self._now = at, self._start + timedelta(seconds=at)
        return self._now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))


async def sleep_until(moment: float) -> None:
    """Sleep until the loop's time is so many seconds; not at all if it is past that."""
    await asyncio.sleep(max(moment - asyncio.get_running_loop().time(), 0.0))
