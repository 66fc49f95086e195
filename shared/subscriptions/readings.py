"""Whether what is desired was read whole, as far as anything is to be deleted by it.

A list that asks for less than before may be one that was cut off: a file that is being written, a page of a group that
came without its link to the next. It reads well, so only time tells; what reads the same for an hour is believed.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.values.errors import SwitchboardError
from shared.values.moment import Moment

SETTLED_AFTER: Final = timedelta(hours=1)

DESIRED_STATE: Final = "desired-state"
"""The name of the readings of the file; those of groups are named by their ids."""


class NotWholeError(SwitchboardError):
    """Nothing is pruned by this, for it may not be all."""

    permanent = False  # what stays as it is will be believed

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="not-whole")


class Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A list as it was last read: since when it reads the same, and how many it held when it was last believed."""

    digest: str
    since: Moment
    size: int
    believed: int | None = None

    @property
    def settles(self) -> datetime:
        """When it is believed, if it stays as it is."""
        return self.since + SETTLED_AFTER

    def is_settled(self, now: datetime) -> bool:
        """Whether it has read the same for long enough."""
        return now >= self.settles

    def is_whole(self, now: datetime) -> bool:
        """Whether it is settled, or has neither become empty nor lost more than a tenth of what was believed."""
        has_shrunk = self.believed is None or self.size * 10 < self.believed * 9
        return self.is_settled(now) or not has_shrunk


def read_again(names: Iterable[str], before: Reading | None, now: datetime) -> Reading:
    """A list as it reads now, `before` being how it read the last time."""
    found = sorted(set(names))
    digest = hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]
    since = before.since if before is not None and before.digest == digest else now
    believed = None if before is None else before.believed
    reading = Reading(digest=digest, since=since, size=len(found), believed=believed)
    has_grown = believed is not None and len(found) > believed
    is_believed = has_grown or reading.is_settled(now)
    return msgspec.structs.replace(reading, believed=len(found)) if is_believed else reading
