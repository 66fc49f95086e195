"""How long something may last before it needs attention or is bad, and what to do then: for all who tell of it.

Health, the status page, `doctor` and the alerts go by these limits; docs/operations.md shows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from shared.notifications.poison import STUCK_AFTER
from shared.values.consumers import POISON_SUFFIX, Consumers
from shared.values.resources import CALL_RECORDS_QUEUE, EMERGENCY_QUEUE, LIFECYCLE_QUEUE, RAW_QUEUE


class Level(StrEnum):
    """How something is, from well to bad."""

    WELL = "well"
    ATTENTION = "attention"
    BAD = "bad"


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
    CALL_RECORDS_QUEUE: Limit(timedelta(minutes=30), timedelta(hours=1), _QUEUE_REMEDY),
}
"""For each raw queue: since its oldest message was put there."""

POISON: Final = Limit(STUCK_AFTER, STUCK_AFTER, "see that the function drain_poison is enabled, and what its log says")
"""Since the oldest message was put on a poison queue of ours."""

EVENTS: Final = Limit(
    timedelta(hours=1),
    timedelta(days=1),
    "see that the consumer of that queue runs; what nobody reads lies there for ever",
)
"""Since the oldest event was put on its queue."""

GIVEN_UP: Final = Limit(
    timedelta(0), timedelta(days=1), "see the consumer's log for why it gave them up; mend that, then put them back"
)
"""Since the oldest message was put on a consumer's poison queue, where whatever lies needs somebody."""

NEAR_ITS_END: Final = 0.25
"""Of the life that Graph granted: a subscription of which less is left needs attention. Renewal comes at half."""

CERTIFICATE_EXPIRES_SOON: Final = timedelta(days=30)
"""Key Vault renews it 90 days before its end."""


def consumer_limits(consumers: Consumers) -> Mapping[str, Limit]:
    """For each queue that consumers read, and for the one on which their Functions host or they themselves park."""
    return {
        **dict.fromkeys(consumers.queues, EVENTS),
        **{f"{queue}{POISON_SUFFIX}": GIVEN_UP for queue in consumers.queues},
    }
