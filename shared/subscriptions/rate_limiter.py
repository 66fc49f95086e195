"""Keeping within limits such as Graph's ("Microsoft Graph service-specific throttling limits")."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from shared.clock import Clock

_PERIOD: Final = timedelta(seconds=20)


class RateLimiter:
    """Keeps within a limit for each tenant and one for all of them together."""

    def __init__(self, in_a_tenant: int, in_all: int, clock: Clock) -> None:
        self._tenants: defaultdict[str, _Window] = defaultdict(lambda: _Window(in_a_tenant, clock))
        self._all = _Window(in_all, clock)

    @asynccontextmanager
    async def enter(self, tenant_id: str, count: int) -> AsyncIterator["Entry"]:
        """Wait until `count` more are allowed; they are under way within the context, unless they are withdrawn."""
        async with self._tenants[tenant_id].enter(count) as one, self._all.enter(count) as other:
            yield Entry(one, other)


class Entry:
    """What is under way."""

    def __init__(self, *entries: "_Entry") -> None:
        self._entries = entries

    def withdraw(self) -> None:
        """It is not sent after all, and does not count."""
        for entry in self._entries:
            entry.count = 0


class _Window:
    """At most so many in any period.

    Each counts until a period after it was *answered*: when Graph counted it is not known, but it was before that. What
    is not answered within a period was counted in it, and whoever hangs for longer does not keep the others waiting.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._entries: list[_Entry] = []

    @asynccontextmanager
    async def enter(self, count: int) -> AsyncIterator["_Entry"]:
        while (wait := self._seconds_until(count)) > 0:
            await self._clock.sleep(wait)
        entry = _Entry(self._clock.now() + 2 * _PERIOD, count)
        self._entries.append(entry)
        try:
            yield entry
        finally:
            entry.until = min(entry.until, self._clock.now() + _PERIOD)

    def _seconds_until(self, count: int) -> float:
        now = self._clock.now()
        self._entries = [entry for entry in self._entries if entry.count and entry.until > now]
        if not count or sum(entry.count for entry in self._entries) + count <= self._limit:
            return 0.0
        return (min(entry.until for entry in self._entries) - now).total_seconds()


@dataclass(slots=True)
class _Entry:
    until: datetime
    count: int
