"""Time as a dependency: whoever waits or looks at the clock is given one."""

import asyncio
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What time it is, and waiting. A simulation's clock makes a year pass in a minute."""

    def now(self) -> datetime:
        """The time, in UTC and aware of it."""

    async def sleep(self, seconds: float) -> None:
        """Return once that much of this clock's time has passed."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
