"""How far consumers are behind, as figures: depth and age of their queues, looked at and left as they are."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from shared.storage.ports import STATE_CONTAINER, Blobs, Queues
from shared.telemetry import Telemetry
from shared.values.times import Moment

EVERY_MINUTES: Final = 5
"""It is asked every minute, and measures every fifth at the most, whichever instance is asked."""

_NAME: Final = "queue-watch.json"


class _Measured(msgspec.Struct, frozen=True):
    """When the queues were measured last."""

    at: Moment


@dataclass(frozen=True, slots=True)
class QueueWatch:
    """Measures queues by their names: those that consumers read, and on which they park. `now` is the clock, aware."""

    names: Collection[str]
    queues: Queues
    blobs: Blobs
    telemetry: Telemetry
    now: Callable[[], datetime]

    async def run(self) -> None:
        """Tell of each queue on which something lies; of an empty one nothing, since rows cost money.

        Raises:
            UnavailableError: storage did not answer.
        """
        now = self.now()
        last = await self._last()
        # By the minute: a timer comes some milliseconds sooner or later each time.
        if last is not None and 0 <= _minute(now) - _minute(last) < EVERY_MINUTES:
            return
        await self.blobs.put(STATE_CONTAINER, _NAME, msgspec.json.encode(_Measured(now)))
        await asyncio.gather(*map(self._measure, self.names))

    async def _measure(self, queue: str) -> None:
        count = await self.queues.count(queue)
        if count:  # it is never too low, so the age of what is empty need not be asked
            front = await self.queues.oldest(queue)
            age = 0.0 if front is None else max((self.now() - front).total_seconds(), 0.0)  # leased, where none shows
            self.telemetry.waiting(queue, count, age)

    async def _last(self) -> datetime | None:
        data = await self.blobs.get(STATE_CONTAINER, _NAME)
        try:
            return None if data is None else msgspec.json.decode(data, type=_Measured).at
        except (ValueError, RecursionError):
            return None  # damaged: it is written anew


def _minute(moment: datetime) -> int:
    return int(moment.timestamp() // 60)
