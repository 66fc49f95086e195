"""Which call records may have been missed, and how to look for them.

Notifications are missed while there is no subscription, while they are not answered for so long that Graph gives up,
and when Graph says so. Its list can be narrowed by the start of the call alone ("List callRecords",
https://learn.microsoft.com/graph/api/callrecords-cloudcommunications-list-callrecords), and a call may have started
long before its record was made: so the list is read from well before the gap, and judged record by record.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

import msgspec

from shared.values.errors import MalformedInputError
from shared.values.graph import format_time, parse_time
from shared.values.times import Moment

LONGEST_SILENCE: Final = timedelta(hours=1)
"""An app that has not run for so long may have answered no notification; Graph tries for four hours."""

# By Graph, since the start of the call ("Get callRecord", https://learn.microsoft.com/graph/api/callrecords-callrecord-get).
KEPT: Final = timedelta(days=30)
# "Receive change notifications through webhooks" (https://learn.microsoft.com/graph/change-notifications-delivery-webhooks)
RETRIES_OF_GRAPH: Final = timedelta(hours=4)
# The documented maximum ("subscription resource type", https://learn.microsoft.com/graph/api/resources/subscription).
NOTIFICATION_LATENCY: Final = timedelta(minutes=150)

# "Limits and specifications for Microsoft Teams" (https://learn.microsoft.com/microsoftteams/limits-specifications-teams)
_LONGEST_CALL: Final = timedelta(hours=30)
_SKEW: Final = timedelta(minutes=5)
_WINDOW: Final = timedelta(hours=6)
_PARTICIPANT: Final = re.compile(r"'([0-9a-fA-F-]{36})'")


@dataclass(frozen=True, slots=True)
class ListedRecord:
    """A call record as a list shows it: without sessions and participants. `data` is its JSON."""

    id: str
    version: int
    modified: datetime | None
    data: bytes


@dataclass(frozen=True, slots=True)
class RecordPage:
    """A page of a list; `link` leads to the next one."""

    records: tuple[ListedRecord, ...]
    link: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the search: calls that started in [`start`, `end`), of one participant or of anybody."""

    start: datetime
    end: datetime
    participant: str | None

    @property
    def condition(self) -> str:
        """The list's $filter."""
        window = f"startDateTime ge {format_time(self.start)} and startDateTime lt {format_time(self.end)}"
        return (
            window if self.participant is None else f"{window} and participants_v2/any(p:p/id eq '{self.participant}')"
        )


class Gap(msgspec.Struct, frozen=True, omit_defaults=True):
    """A time in which notifications may have been missed, and how far it has been searched.

    `done` counts steps; `link` is the next page of the one under way.
    """

    since: Moment
    until: Moment
    done: int = 0
    link: str | None = None

    def steps(self, participants: tuple[str, ...], now: datetime) -> tuple[Step, ...]:
        """The whole search, the same at every call: some hours at a time, or one participant after another.

        A step that lies wholly before what Graph keeps is still counted, so that `done` keeps its meaning.
        """
        start, end = self.since - NOTIFICATION_LATENCY - _LONGEST_CALL, self.until + _SKEW
        if participants:
            return tuple(Step(max(start, now - KEPT), end, participant) for participant in participants)
        count = -(-(end - start) // _WINDOW)
        return tuple(
            Step(start + place * _WINDOW, min(start + (place + 1) * _WINDOW, end), None) for place in range(count)
        )

    def may_miss(self, record: ListedRecord) -> bool:
        """Whether the record's notification may have fallen into the gap.

        The first version's does so if it was made in the gap, or before it by no more than a notification takes. Of a
        later version the documentation does not say whether `lastModifiedDateTime` is its own time or the first one's.
        """
        if record.modified is None:
            return True
        made_before = record.modified < self.since - NOTIFICATION_LATENCY - _SKEW
        return record.modified <= self.until + _SKEW and not (made_before and record.version <= 1)


class Coverage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A subscription's past: up to `covered_until` it was there and its notifications were answered, but for the gaps.

    The first gap is being searched; at most one more waits, since gaps that wait are put together.
    """

    subscription_id: str
    covered_until: Moment
    gaps: tuple[Gap, ...] = ()

    def noted(self, since: datetime, until: datetime) -> "Coverage":
        """With one more gap."""
        first, *waiting = self.gaps or (Gap(since, until),)
        if not self.gaps:
            return msgspec.structs.replace(self, gaps=(first,))
        starts, ends = [since, *(gap.since for gap in waiting)], [until, *(gap.until for gap in waiting)]
        return msgspec.structs.replace(self, gaps=(first, Gap(min(starts), max(ends))))

    def searched(self, before: Gap, after: Gap | None) -> "Coverage":
        """With the search of the gap under way gone from `before` to `after`, or to its end."""
        if not self.gaps or (self.gaps[0].since, self.gaps[0].until) != (before.since, before.until):
            return self
        return msgspec.structs.replace(self, gaps=(*(() if after is None else (after,)), *self.gaps[1:]))


def observed(known: Coverage | None, subscription_id: str, now: datetime) -> Coverage:
    """What is known once a subscription has been seen alive.

    One that is seen for the first time covers what comes; another one than before, or the same after a long silence,
    leaves a gap since it was last seen. A subscription that has expired never comes back.
    """
    if known is None:
        return Coverage(subscription_id, now)
    seen = msgspec.structs.replace(known, subscription_id=subscription_id, covered_until=now)
    if known.subscription_id == subscription_id and now - known.covered_until <= LONGEST_SILENCE:
        return seen
    return seen.noted(known.covered_until, now)


def missed(known: Coverage, now: datetime) -> Coverage:
    """What is known once Graph has said that notifications were missed; it does not say which."""
    return known.noted(now - RETRIES_OF_GRAPH, now)


def participants_of(resource: str) -> tuple[str, ...]:
    """The participants that the resource of a callRecords subscription is limited to; none: it is all records."""
    return tuple(_PARTICIPANT.findall(resource))


def parse_record(value: object) -> ListedRecord:
    """Read a callRecord from a list.

    Raises:
        MalformedInputError: it has no id.
    """
    if not isinstance(value, Mapping):
        raise MalformedInputError("not a call record", reason="call-record-malformed")
    record_id, version, modified = (value.get(name) for name in ("id", "version", "lastModifiedDateTime"))
    if not isinstance(record_id, str) or not record_id:
        raise MalformedInputError("not a call record", reason="call-record-malformed")
    try:
        made = parse_time(modified) if isinstance(modified, str) else None
    except MalformedInputError:
        made = None
    return ListedRecord(record_id, version if isinstance(version, int) else 0, made, msgspec.json.encode(value))


def notification_of(record: ListedRecord, tenant_id: str) -> bytes:
    """The notification that was missed, with the record in place of its mere id."""
    return msgspec.json.encode(
        {
            "changeType": "created" if record.version <= 1 else "updated",
            "tenantId": tenant_id,
            "resource": f"communications/callRecords/{record.id}",
            "resourceData": msgspec.Raw(record.data),
        }
    )


_RESOURCES: Final = 32_768  # each is compared several times a run, and there may be 10,000 of them


@lru_cache(maxsize=_RESOURCES)
def resource_key(resource: str) -> str:
    """A resource path for naming what is kept of it: a leading slash does not count, nor case outside quotes."""
    parts = resource.strip().lstrip("/").split("'")
    return "'".join(part if place % 2 else part.lower() for place, part in enumerate(parts))
