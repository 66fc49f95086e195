"""Keeping within limits such as Graph's ("Microsoft Graph service-specific throttling limits")."""

from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from shared.clock import Clock

_PERIOD: Final = timedelta(seconds=20)


class Pace:
    """Keeps within a limit for each tenant and one for all of them together."""

    def __init__(self, in_a_tenant: int, in_all: int, clock: Clock) -> None:
        self._tenants: defaultdict[str, _Window] = defaultdict(lambda: _Window(in_a_tenant, clock))
        self._all = _Window(in_all, clock)

    @asynccontextmanager
    async def enter(self, tenant_id: str, count: int) -> AsyncIterator[None]:
        """Wait until `count` more are allowed; they are under way within the context."""
        async with self._tenants[tenant_id].enter(count), self._all.enter(count):
            yield


class _Window:
    """At most so many in any period.

    Each counts until a period after it was *answered*: when Graph counted it is not known, but it was before that.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._entries: deque[_Entry] = deque()

    @asynccontextmanager
    async def enter(self, count: int) -> AsyncIterator[None]:
        while (wait := self._seconds_until(count)) > 0:
            await self._clock.sleep(wait)
        entry = _Entry(self._clock.now(), count)
        self._entries.append(entry)
        try:
            yield
        finally:
            entry.at = self._clock.now()

    def _seconds_until(self, count: int) -> float:
        now = self._clock.now()
        while self._entries and self._entries[0].at + _PERIOD <= now:
            self._entries.popleft()
        if not count or sum(entry.count for entry in self._entries) + count <= self._limit:
            return 0.0
        return (self._entries[0].at + _PERIOD - now).total_seconds()


@dataclass(slots=True)
class _Entry:
    at: datetime
    count: int
