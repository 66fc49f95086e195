"""Keeping within Graph's limits, and making the pauses that it asks for.

"Microsoft Graph service-specific throttling limits" (https://learn.microsoft.com/graph/throttling-limits), "Microsoft
Graph throttling guidance" (https://learn.microsoft.com/graph/throttling).
"""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from shared.clock import Clock
from shared.values.errors import SwitchboardError, UnavailableError

type Service = tuple[str, str]
"""A tenant, and what of Graph is spoken to."""

SUBSCRIPTIONS: Final = "subscriptions"
LONGEST_PAUSE: Final = 60.0  # seconds; whoever is asked to wait longer is told so instead
FIRST_PAUSE: Final = 2.0  # seconds
_PERIOD: Final = timedelta(seconds=20)  # that Graph's limits are of


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, at least one: 2, 4, 8 and so on, at most 60."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 6), LONGEST_PAUSE)


class RateLimiter:
    """Keeps within a limit for each tenant and one for all of them together."""

    def __init__(self, in_a_tenant: int, in_all: int, clock: Clock) -> None:
        self._tenants: defaultdict[str, _Window] = defaultdict(lambda: _Window(in_a_tenant, clock))
        self._all = _Window(in_all, clock)

    @asynccontextmanager
    async def enter(self, tenant_id: str, count: int) -> AsyncIterator["Entry"]:
        """Wait until `count` more are allowed; they are under way within the context, unless they are withdrawn."""
        async with self._tenants[tenant_id].enter(count) as in_tenant, self._all.enter(count) as in_all:
            yield Entry(in_tenant, in_all)


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


@dataclass(frozen=True, slots=True)
class _Pause:
    """A pause; `times` is how many of our own choice have come one after another, 0 where Graph said how long."""

    since: datetime
    until: datetime
    times: int


class RequestedPauses:
    """The pause of each tenant and service of Graph, which all callers for it make."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pauses: dict[Service, _Pause] = {}

    async def wait(self, service: Service, urgent: datetime | None) -> None:
        """Wait until the pause is over.

        Raises:
            UnavailableError: it is longer than a caller should be kept.
        """
        while (left := self.seconds_left(service, urgent)) > 0:
            if left > LONGEST_PAUSE:
                raise UnavailableError("Graph", reason="throttled", retry_after=left)
            await self._clock.sleep(left)

    def seconds_left(self, service: Service, urgent: datetime | None) -> float:
        """How long the pause still is; one of our own choice never takes more than half of what the most urgent has."""
        pause, now = self._pauses.get(service), self._clock.now()
        if pause is None:
            return 0.0
        until = pause.until
        if pause.times and urgent is not None:
            until = min(until, pause.since + max((urgent - pause.since) / 2, timedelta(seconds=FIRST_PAUSE)))
        return (until - now).total_seconds()

    def forget(self, service: Service) -> None:
        """Graph has answered as if there had been none."""
        pause = self._pauses.get(service)
        if pause is not None and pause.until <= self._clock.now():
            del self._pauses[service]

    def note(self, service: Service, error: SwitchboardError) -> None:
        """Remember the pause that Graph asks for; where it does not say how long, twice the one before."""
        if not isinstance(error, UnavailableError) or error.reason != "throttled":
            return
        now, known = self._clock.now(), self._pauses.get(service)
        if error.retry_after:
            until = now + timedelta(seconds=error.retry_after)
            if known is None or until > known.until:
                self._pauses[service] = _Pause(now, until, 0)
        elif known is None or known.until <= now:
            times = 1 if known is None else known.times + 1
            self._pauses[service] = _Pause(now, now + timedelta(seconds=backoff(times)), times)


def service_of(url: str) -> str:
    """What of Graph a URL speaks to: the segment after the version, batches being about subscriptions."""
    segment = urlsplit(url).path.lstrip("/").partition("/")[2].partition("/")[0].partition("(")[0]
    return SUBSCRIPTIONS if segment == "$batch" else segment
