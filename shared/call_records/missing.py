"""The audit of call records: what Graph lists, compared with what consumers were given.

Graph has sent no notifications of call records for hours while subscriptions lived (microsoft-graph-docs issue 9502,
microsoft-graph-docs-contrib issues 4722 and 5013), and neither a subscription nor a lifecycle notification shows it. So
what is delivered is noted, and some hours after a record was made it is looked up in the notes.
"""

from dataclasses import dataclass, field
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

_ROLLOUT: Final = timedelta(hours=1)  # so long, workers of a version that notes nothing may run beside this one
# The calls that an audit lists began up to 32.5 hours before the time that it is for. With that, an audit that begins
# `_FARTHEST_BACK` and takes `_LONGEST_AUDIT` ends before the first of their notes are forgotten.
_FARTHEST_BACK: Final = timedelta(days=4)
_LONGEST_AUDIT: Final = timedelta(days=2)
_SKEW: Final = timedelta(minutes=5)
_TYPES: Final = frozenset(each.name for each in resources.CALL_RECORDS.event_types.values())


class Delivered(msgspec.Struct, frozen=True, array_like=True):
    """A version of a call record that consumers were given, or are certain to be.

    Where Graph's notification did not say which version it is of, `version` is None, and `event_id` tells it apart.
    """

    record_id: str
    version: int | None
    received: Moment
    event_id: str | None = None


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


class KnownDeliveries:
    """What is noted of the deliveries of a tenant."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._unversioned: dict[str, _Unversioned] = {}

    def __len__(self) -> int:
        return len(self._versions) + len(self._unversioned)

    def add(self, delivered: Delivered) -> None:
        """Take one more into account."""
        record_id, version = delivered.record_id, delivered.version
        if version is not None:
            self._versions[record_id] = max(version, self._versions.get(record_id, version))
        else:
            unversioned = self._unversioned.setdefault(record_id, _Unversioned(delivered.received))
            unversioned.event_ids.add(delivered.event_id or "")
            unversioned.last = max(unversioned.last, delivered.received)

    def includes(self, record: ListedRecord) -> bool:
        """Whether this version of a record, or a later one, was delivered.

        A notification without a version was sent after its version was made. The documentation does not say whether
        `lastModifiedDateTime` is the time of this version or of the first one ("callRecord resource type",
        https://learn.microsoft.com/graph/api/resources/callrecords-callrecord). So there must also have been as many
        notifications as there are versions.
        """
        if record.version <= self._versions.get(record.id, -1):
            return True
        unversioned = self._unversioned.get(record.id)
        if unversioned is None or len(unversioned.event_ids) < record.version:
            return False
        return record.modified is None or unversioned.last >= record.modified - _SKEW


@dataclass(slots=True)
class _Unversioned:
    """The notifications of one record that did not say which version they are of, and when the last one arrived."""

    last: datetime
    event_ids: set[str] = field(default_factory=set)


class Audit(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far what one subscription is for has been audited.

    Versions made until `since` are not judged, because some of their deliveries may not be noted. Those made until
    `audited_until` have been audited. `under_way` is an audit that has begun; it has found `absent` records so far.
    """

    since: Moment
    audited_until: Moment
    under_way: Gap | None = None
    absent: int = 0

    def begun(self, now: datetime) -> "Audit":
        """With an audit under way, if it is time for one.

        An audit that takes longer than its notes are kept begins anew.
        """
        until = now - SETTLED
        if self.under_way is not None and until - self.under_way.until <= _LONGEST_AUDIT:
            return self
        if self.under_way is None and until - self.audited_until < EVERY:
            return self
        return msgspec.structs.replace(
            self, under_way=Gap(max(self.audited_until, now - _FARTHEST_BACK), until), absent=0
        )

    def progressed(self, gap: Gap, absent: int, *, finished: bool) -> "Audit":
        """With the audit under way gone on to `gap`, or to its end."""
        if finished:
            return Audit(self.since, gap.until)
        return msgspec.structs.replace(self, under_way=gap, absent=self.absent + absent)

    def judges(self, record: ListedRecord) -> bool:
        """Whether the record's version was made in a time for which the audit under way can tell if it is absent.

        Also what an earlier audit has seen is judged once more: a record may have a new version since.
        """
        if self.under_way is None or record.modified is None:
            return self.under_way is not None
        return self.since < record.modified <= self.under_way.until


def first_audit(now: datetime) -> Audit:
    """What is known when a subscription is seen for the first time: nothing of what was delivered before."""
    since = now + _ROLLOUT
    return Audit(since, since)
