"""A log of what anybody can cause: one line for each reason and minute, however often it happens."""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from shared.values.items import is_plain_id

MAX_IDS: Final = 5
"""How many ids a line names."""

_PERIOD: Final = timedelta(minutes=1)
_MAX_REASONS: Final = 200


class PacedLog:
    """Writes a line when something happens first, and at most one a minute with the count since the line before.

    `now` is the clock, aware.
    """

    def __init__(self, logger: logging.Logger, now: Callable[[], datetime]) -> None:
        self._logger = logger
        self._now = now
        self._counts = Counter[tuple[str, str]]()
        self._quiet_until: dict[tuple[str, str], datetime] = {}

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
        key, now = (what, reason), self._now()
        if key not in self._quiet_until and len(self._quiet_until) >= _MAX_REASONS:
            self._quiet_until.clear()
            self._counts.clear()
        self._counts[key] += count
        if now < self._quiet_until.get(key, now):
            return
        self._quiet_until[key] = now + _PERIOD
        plain = dict.fromkeys(value for value in ids() if is_plain_id(value))
        named = ",".join(itertools.islice(plain, MAX_IDS))
        self._logger.log(
            level,
            "%s: reason=%s count=%d%s",
            what,
            reason,
            self._counts.pop(key),
            f" subscriptions={named}" if named else "",
        )
