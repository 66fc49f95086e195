"""What happened in the last minutes, for the status page: counted by each worker, kept where every worker can read it.

A worker that has something to count writes its counts into a blob of its own, every half minute at the most. That
costs two small puts a minute and busy worker, nothing for each event, and what a worker counted in its last half minute
is lost with it: good enough to see what is going on. The books are kept elsewhere (`switchboard.written`).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.storage.ports import STATE_CONTAINER, Blobs, Listed
from shared.telemetry import Happening
from shared.values.errors import UnavailableError

MINUTES: Final = 15
"""How far back the counts go."""

_PREFIX: Final = "activity/"
_WRITTEN: Final = "written"  # metadata, so that a list shows which workers are of today
_FLUSH_SECONDS: Final = 30.0
_FORGOTTEN_AFTER: Final = timedelta(days=1)
_MAX_WORKERS: Final = 200

logger = logging.getLogger(__name__)


type Minutes = dict[int, dict[str, int]]  # by minute since the epoch, by word


class Counts(msgspec.Struct, frozen=True):
    """What one worker counted: events, and under its name everything else."""

    minutes: Minutes
    others: dict[str, Minutes] = {}


class Activity:
    """The counts of this worker. Belongs to one event loop. `now` is the clock, aware."""

    def __init__(self, blobs: Blobs, worker: str, now: Callable[[], datetime]) -> None:
        self._blobs = blobs
        self._name = f"{_PREFIX}{worker}.json"
        self._now = now
        self._counts: dict[Happening, dict[int, Counter[str]]] = {happening: {} for happening in Happening}
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._tidied = False

    def add(self, word: str, happening: Happening = Happening.WRITTEN, count: int = 1) -> None:
        """Count what has happened; it shows within half a minute."""
        self._counts[happening].setdefault(_minute(self._now()), Counter())[word] += count
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._begin)

    async def flush(self) -> None:
        """Write the counts; where storage does not take them, the next ones will say the same."""
        self._timer = None
        now = self._now()
        for minutes in self._counts.values():
            for minute in [minute for minute in minutes if minute <= _minute(now) - MINUTES]:
                del minutes[minute]
        counted = {
            happening: {minute: dict(counts) for minute, counts in minutes.items()}
            for happening, minutes in self._counts.items()
        }
        written = counted.pop(Happening.WRITTEN)
        data = msgspec.json.encode(Counts(written, {str(happening): minutes for happening, minutes in counted.items()}))
        try:
            await self._blobs.put(STATE_CONTAINER, self._name, data, {_WRITTEN: now.isoformat()})
            if not self._tidied:
                await self._tidy(now)
                self._tidied = True
        except UnavailableError as error:
            logger.warning("the status page's counts could not be written: reason=%s", error.reason)

    def _begin(self) -> None:
        self._flushing = asyncio.create_task(self.flush())

    async def _tidy(self, now: datetime) -> None:
        """Delete what workers have left that are long gone; each worker does so once."""
        async for blob in self._blobs.list(STATE_CONTAINER):
            if blob.name.startswith(_PREFIX) and now - _written(blob) > _FORGOTTEN_AFTER:
                await self._blobs.delete(STATE_CONTAINER, blob.name)


async def recent_activity(blobs: Blobs, now: datetime) -> dict[Happening, dict[str, list[int]]]:
    """What all workers counted, by word: for each of the last `MINUTES` whole minutes how many, the oldest first.

    Raises:
        UnavailableError: storage did not answer.
    """
    recent = now - timedelta(minutes=MINUTES + 1)
    names = [
        blob.name
        async for blob in blobs.list(STATE_CONTAINER)
        if blob.name.startswith(_PREFIX) and _written(blob) > recent
    ]
    totals: dict[Happening, dict[str, list[int]]] = {happening: {} for happening in Happening}
    for data in await asyncio.gather(*(blobs.get(STATE_CONTAINER, name) for name in names[:_MAX_WORKERS])):
        if data is None:
            continue
        try:
            counts = msgspec.json.decode(data, type=Counts)
        except (ValueError, RecursionError):
            continue  # damaged: its worker writes it anew
        _add_up(totals[Happening.WRITTEN], counts.minutes, now)
        for name, minutes in counts.others.items():
            if name in totals:
                _add_up(totals[Happening(name)], minutes, now)
    return {happening: dict(sorted(words.items())) for happening, words in totals.items()}


def _add_up(totals: dict[str, list[int]], minutes: Minutes, now: datetime) -> None:
    for minute, counts in minutes.items():
        place = minute - (_minute(now) - MINUTES)
        if 0 <= place < MINUTES:
            for word, count in counts.items():
                totals.setdefault(word, [0] * MINUTES)[place] += count


def _minute(moment: datetime) -> int:
    return int(moment.timestamp() // 60)


def _written(blob: Listed) -> datetime:
    return datetime.fromisoformat(blob.metadata[_WRITTEN])
