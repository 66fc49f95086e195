"""The pauses that Graph asks for ("Microsoft Graph throttling guidance")."""

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
_FIRST_PAUSE: Final = 2.0  # seconds, where Graph asks for a pause without saying how long; twice as long each time


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
            until = min(until, pause.since + max((urgent - pause.since) / 2, timedelta(seconds=_FIRST_PAUSE)))
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
            seconds = min(_FIRST_PAUSE * 2.0 ** min(times - 1, 6), LONGEST_PAUSE)
            self._pauses[service] = _Pause(now, now + timedelta(seconds=seconds), times)


def service_of(url: str) -> str:
    """What of Graph a URL speaks to: the segment after the version, batches being about subscriptions."""
    segment = urlsplit(url).path.lstrip("/").partition("/")[2].partition("/")[0].partition("(")[0]
    return SUBSCRIPTIONS if segment == "$batch" else segment
