"""When each function that the host calls by itself last ran.

A setting or a schedule that the Functions host does not take disables that function alone, and the host runs on:
nothing fails, and the app logs nothing. That it has not run for too long is what can be seen of it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.operations.limits import POISON, RENEWAL
from shared.storage.ports import STATE_CONTAINER, Blobs
from shared.values.errors import UnavailableError
from shared.values.times import Moment

logger = logging.getLogger(__name__)

QUEUE_FUNCTIONS: Final = ("decrypt_notifications", "decrypt_emergency", "decrypt_call_records", "handle_lifecycle")
"""They run when there is something for them: that nothing waits for long is another check."""

OVERDUE_AFTER: Final = {
    "renew_subscriptions": RENEWAL.bad,
    "drain_poison": POISON.bad,
    "sweep_claim_checks": timedelta(hours=26),
}
"""For each timer that is always there: when it must have run again."""

_NAME: Final = "function-runs.json"
_PACE: Final = timedelta(minutes=5)
_TRIES: Final = 3  # several functions may write at the same time
_SECONDS: Final = 5.0  # an invocation is not held up for longer


class Runs(msgspec.Struct, frozen=True, kw_only=True):
    """What is known: since when, and when each function last ran (five minutes may be missing)."""

    since: Moment
    last: Mapping[str, Moment] = {}

    def overdue(self, now: datetime) -> Mapping[str, datetime | None]:
        """The timers that have not run for too long, with their last run; None: not once since this is known."""
        return {
            name: self.last.get(name)
            for name, longest in OVERDUE_AFTER.items()
            if now - self.last.get(name, self.since) > longest
        }


@dataclass(frozen=True, slots=True)
class FunctionRuns:
    """Notes runs, each function's every five minutes at the most. `now` is the clock, aware."""

    blobs: Blobs
    now: Callable[[], datetime]
    _noted: dict[str, datetime] = field(default_factory=dict)

    @asynccontextmanager
    async def noted(self, function: str) -> AsyncIterator[None]:
        """Note that a function ran, however it ends; that storage does not take it changes nothing."""
        try:
            yield
        finally:
            now = self.now()
            before = self._noted.get(function)
            if before is None or now - before >= _PACE:
                self._noted[function] = now
                await self._note(function, now)

    async def latest(self) -> Runs | None:
        """What is known; None where nothing has run yet.

        Raises:
            UnavailableError: storage did not answer.
        """
        version = await self.blobs.get_version(STATE_CONTAINER, _NAME)
        return None if version is None else _decode(version.data)

    async def _note(self, function: str, now: datetime) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                for _ in range(_TRIES):
                    version = await self.blobs.get_version(STATE_CONTAINER, _NAME)
                    runs = (None if version is None else _decode(version.data)) or Runs(since=now)
                    data = msgspec.json.encode(Runs(since=runs.since, last={**runs.last, function: now}))
                    etag = None if version is None else version.etag
                    if await self.blobs.put_version(STATE_CONTAINER, _NAME, data, etag):
                        return
        except (UnavailableError, TimeoutError) as error:
            reason = error.reason if isinstance(error, UnavailableError) else "out-of-time"
            logger.warning("a function's run could not be noted: function=%s reason=%s", function, reason)


def _decode(data: bytes) -> Runs | None:
    try:
        return msgspec.json.decode(data, type=Runs)
    except (ValueError, RecursionError):
        return None  # damaged: the next run writes it anew
