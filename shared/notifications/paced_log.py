"""A log of what anybody can cause: one line for each reason and minute, however often it happens."""

import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from shared.values.items import is_plain_id

MAX_IDS: Final = 5
"""How many ids a line names."""

_PERIOD: Final = timedelta(minutes=1)
_MAX_REASONS: Final = 200


@dataclass(slots=True)
class _Pace:
    quiet_until: datetime
    count: int = 0


class PacedLog:
    """Writes a line when something happens first, and at most one a minute with the count since the line before.

    `now` is the clock, aware.
    """

    def __init__(self, logger: logging.Logger, now: Callable[[], datetime]) -> None:
        self._logger = logger
        self._now = now
        self._paces: dict[tuple[str, str], _Pace] = {}

    def say(
        self,
        what: str,
        reason: str,
        count: int = 1,
        ids: Callable[[], Iterable[object]] = tuple,
        *,
        level: int = logging.WARNING,
    ) -> None:
        """Tell that something happened `count` times.

        Args:
            what: a few words of ours.
            reason: a short, stable word of ours.
            count: how often.
            ids: gives ids of what is concerned; values that do not have the shape of an id are left out. It is called
                only for a line that is written.
            level: of `logging`.
        """
        now = self._now()
        pace = self._paces.get((what, reason))
        if pace is None:
            if len(self._paces) >= _MAX_REASONS:
                self._paces.clear()
            pace = self._paces[what, reason] = _Pace(quiet_until=now)
        pace.count += count
        if now < pace.quiet_until:
            return
        plain = dict.fromkeys(found for found in ids() if is_plain_id(found))
        named = ",".join(itertools.islice(plain, MAX_IDS))
        self._logger.log(
            level, "%s: reason=%s count=%d%s", what, reason, pace.count, f" subscriptions={named}" if named else ""
        )
        self._paces[what, reason] = _Pace(quiet_until=now + _PERIOD)
