"""Graph's client under a clock that fast-forwards through pauses: real sockets, no waiting for throttles or retries."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from shared.clock import SystemClock
from shared.graph.client import Credentials, GraphClient


class FastForwardClock:
    """The real time; but a pause is over as soon as nothing is under way and no other pause would end before it."""

    def __init__(self) -> None:
        self.under_way = 0
        self.pauses: list[float] = []  # seconds, all that were asked for
        self._ends: list[datetime] = []
        self._offset = timedelta(0)

    def now(self) -> datetime:
        return SystemClock().now() + self._offset

    def advance(self, step: timedelta) -> None:
        self._offset += step

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        end = self.now() + timedelta(seconds=seconds)
        self._ends.append(end)
        try:
            while (left := end - self.now()) > timedelta(0):
                await asyncio.sleep(0.001)
                if not self.under_way and end == min(self._ends):
                    self._offset += left
        finally:
            self._ends.remove(end)


class FastForwardClient(GraphClient):
    """The client of production, that tells the clock when it waits for an answer."""

    def __init__(self, endpoint: str, credentials: Credentials, clock: FastForwardClock, **options: Any) -> None:
        super().__init__(endpoint, credentials, clock, **options)
        self._fast_clock = clock

    async def _exchange(self, *args: Any, **options: Any) -> Mapping[str, Any]:
        self._fast_clock.under_way += 1
        try:
            return await super()._exchange(*args, **options)
        finally:
            self._fast_clock.under_way -= 1
