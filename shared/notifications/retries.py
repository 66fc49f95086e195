"""How long to wait before what failed is tried again, and when to give it up.

The platform tries a queue message five times and then gives it up ("Azure Queue storage trigger", `maxDequeueCount`),
and an outage of minutes lasts longer than that. So what fails for a reason that may pass is put back on its queue as a
new message, which stays invisible for a while, and the platform's count begins anew.
"""

from datetime import datetime, timedelta
from typing import Final

from shared.values.resources import EMERGENCY_QUEUE

GIVE_UP_AFTER: Final = timedelta(minutes=100)
"""Counted from the first failure, whatever the number of tries."""

_FIRST_SECONDS: Final = 2.0
_LONGEST_SECONDS: Final = 300.0
_LONGEST_SECONDS_OF_EMERGENCIES: Final = 20.0  # the end of an outage must not cost an emergency call minutes
_DOUBLINGS: Final = 10  # past the longest pause of either


def is_exhausted(failing_since: datetime, now: datetime) -> bool:
    """Whether to give up what failed first at `failing_since` and has failed once more."""
    return now - failing_since >= GIVE_UP_AFTER


def pause(queue: str, tries: int, asked: float | None = None) -> timedelta:
    """How long to wait for the next try: doubled at each, up to a limit; whole seconds, as queues count them.

    Args:
        queue: the raw queue, which sets the limit.
        tries: that have failed so far, at least 1.
        asked: seconds that the other side asked for (Retry-After); more than the limit is not granted.
    """
    longest = _LONGEST_SECONDS_OF_EMERGENCIES if queue == EMERGENCY_QUEUE else _LONGEST_SECONDS
    seconds = max(_FIRST_SECONDS * 2 ** min(tries - 1, _DOUBLINGS), asked or _FIRST_SECONDS)
    return timedelta(seconds=round(min(seconds, longest)))
