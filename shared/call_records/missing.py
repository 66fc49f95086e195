"""The audit of call records: what Graph lists, compared with what consumers were given.

Graph has sent no notifications of call records for hours while subscriptions lived (microsoft-graph-docs issue 9502,
microsoft-graph-docs-contrib issues 4722 and 5013), and neither a subscription nor a lifecycle notification shows it. So
what was delivered is noted, and some hours after a record was made it is looked up among what is noted.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.call_records.coverage import NOTIFICATION_LATENCY, RETRIES_OF_GRAPH, Gap, ListedRecord
from shared.notifications.events import CALL_RECORDS_SOURCE, Event, record_id_of
from shared.values import resources
from shared.values.times import Moment

SETTLED: Final = NOTIFICATION_LATENCY + RETRIES_OF_GRAPH
"""After so long Graph sends no notification of a record any more."""

EVERY: Final = timedelta(hours=4)
NOTES_KEPT: Final = timedelta(days=8)
"""How long it stays noted what was delivered; `infra/app/storage.bicep` has the same number of days."""

_ROLLING: Final = timedelta(hours=1)  # for which workers of a version that notes nothing may run beside this one
# What an audit lists began up to 32.5 hours before `_FURTHEST`; at its end after `_LONGEST` all of that is still noted.
_FURTHEST: Final = timedelta(days=4)
_LONGEST: Final = timedelta(days=2)
_SKEW: Final = timedelta(minutes=5)
_TYPES: Final = frozenset(each.name for each in resources.CALL_RECORDS.event_types.values())


class Delivered(msgspec.Struct, frozen=True, array_like=True):
    """A version of a call record that consumers were given, or are certain to be.

    Where Graph's notification did not say which version it is of, `version` is None, and `notice` is the event's id.
    """

    record_id: str
    version: int | None
    received: Moment
    notice: str | None = None


def delivered_by(event: Event, received: datetime) -> Delivered | None:
    """What an event delivers of a call record; None for any other event.

    Args:
        event: one that is on its queue.
        received: when its notification arrived, aware.
    """
    if event.type not in _TYPES:
        return None
    if event.attributes["source"] == CALL_RECORDS_SOURCE:
        record_id, _, version = event.id.rpartition("/")
        return Delivered(record_id, int(version), received)
    record_id = record_id_of(event)
    return Delivered(record_id, None, received, event.id) if record_id else None


class Told:
    """All that is noted of a tenant's deliveries."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._notices: dict[str, _Notices] = {}

    def __len__(self) -> int:
        return len(self._versions) + len(self._notices)

    def add(self, one: Delivered) -> None:
        """Take one more into account."""
        if one.version is not None:
            self._versions[one.record_id] = max(one.version, self._versions.get(one.record_id, one.version))
        else:
            notices = self._notices.setdefault(one.record_id, _Notices(one.received))
            notices.ids.add(one.notice or "")
            notices.last = max(notices.last, one.received)

    def knows(self, record: ListedRecord) -> bool:
        """Whether this version of a record, or a later one, was delivered.

        A notification without a version was sent after the version that it is of was made. As documentation does not
        say whether `lastModifiedDateTime` is the time of the version or of the record's first one, there have to have
        been as many of them as there are versions, too.
        """
        if record.version <= self._versions.get(record.id, -1):
            return True
        notices = self._notices.get(record.id)
        if notices is None or len(notices.ids) < record.version:
            return False
        return record.modified is None or notices.last >= record.modified - _SKEW


class _Notices:
    """The notifications of one record that did not say which version they are of."""

    __slots__ = ("ids", "last")

    def __init__(self, received: datetime) -> None:
        self.ids: set[str] = set()
        self.last = received


class Audit(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far what one subscription is for has been audited.

    What was made until `since` is not judged, because not all that was delivered of it is noted. What was made until
    `audited_until` has been audited. `under_way` is an audit that has begun, and `absent` what it has found so far.
    """

    since: Moment
    audited_until: Moment
    under_way: Gap | None = None
    absent: int = 0

    def begun(self, now: datetime) -> "Audit":
        """With an audit under way, if it is time for one.

        One that has taken so long that what it needs may not be noted any more begins anew.
        """
        until = now - SETTLED
        if self.under_way is not None and until - self.under_way.until <= _LONGEST:
            return self
        if self.under_way is None and until - self.audited_until < EVERY:
            return self
        return msgspec.structs.replace(self, under_way=Gap(max(self.audited_until, now - _FURTHEST), until), absent=0)

    def progressed(self, gap: Gap, absent: int, *, finished: bool) -> "Audit":
        """With the audit under way gone on to `gap`, or to its end."""
        if finished:
            return Audit(self.since, gap.until)
        return msgspec.structs.replace(self, under_way=gap, absent=self.absent + absent)

    def judges(self, record: ListedRecord) -> bool:
        """Whether the record's version was made in a time for which the audit under way can tell if it is absent.

        All of what Graph lists is judged, and not just what was made since the last audit: a record has versions, and
        what was delivered is noted for longer.
        """
        if self.under_way is None or record.modified is None:
            return self.under_way is not None
        return self.since < record.modified <= self.under_way.until


def first_audit(now: datetime) -> Audit:
    """What is known when a subscription is seen for the first time: nothing of what was before it."""
    since = now + _ROLLING
    return Audit(since, since)
