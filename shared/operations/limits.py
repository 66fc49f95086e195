"""How long something may last before it needs attention or is bad, and what to do then: for all who tell of it.

Health fails where something is bad; the status page and `doctor` also tell what needs attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from shared.notifications.poison import STUCK_AFTER
from shared.values.resources import CALL_RECORDS_QUEUE, EMERGENCY_QUEUE, LIFECYCLE_QUEUE, RAW_QUEUE


class Level(StrEnum):
    """How something is, from well to bad."""

    WELL = "well"
    ATTENTION = "attention"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Limit:
    """What lasts longer than `attention` or `bad` is so; `remedy` says what to do."""

    attention: timedelta
    bad: timedelta
    remedy: str

    def level(self, age: timedelta) -> Level:
        """How that is which has lasted for so long."""
        return Level.BAD if age > self.bad else Level.ATTENTION if age > self.attention else Level.WELL


_QUEUE_REMEDY: Final = "see that the queue functions are enabled, and what their log says"

RENEWAL: Final = Limit(
    timedelta(minutes=15),  # three runs
    timedelta(hours=1),
    "see that renew_subscriptions is enabled, RENEWAL_SCHEDULE is valid, and what its log says",
)
"""Since the last renewal run came to its end."""

# A raw message waits for seconds; one that is older than `bad` is not being handled.
RAW_MESSAGES: Final[Mapping[str, Limit]] = {
    RAW_QUEUE: Limit(timedelta(minutes=1), timedelta(minutes=5), _QUEUE_REMEDY),
    EMERGENCY_QUEUE: Limit(timedelta(seconds=10), timedelta(minutes=1), _QUEUE_REMEDY),
    LIFECYCLE_QUEUE: Limit(timedelta(minutes=1), timedelta(minutes=5), _QUEUE_REMEDY),
    # A gap may hold thousands of records, and fetching them takes its time.
    CALL_RECORDS_QUEUE: Limit(timedelta(minutes=1), timedelta(hours=1), _QUEUE_REMEDY),
}
"""For each raw queue: since its oldest message was put there."""

POISON: Final = Limit(STUCK_AFTER, STUCK_AFTER, "see that the function drain_poison is enabled, and what its log says")
"""Since the oldest message was put on a poison queue."""
