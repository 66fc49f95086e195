"""When a timer fires: NCRONTAB expressions and intervals.

Sources: "Timer trigger for Azure Functions" (NCRONTAB expressions, TimeSpan), and NCrontab (atifaziz/NCrontab), the
library of the real host, for what that page leaves open: a day must satisfy both day fields, and `3/5` means from 3 on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Protocol

from dev.host.config import parse_time_span

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?")
# 29 February falls on a given day of the week at least once in forty years.
_SEARCH_DAYS = 40 * 366


class Schedule(Protocol):
    """Something that recurs."""

    def next_after(self, moment: datetime) -> datetime:
        """The first occurrence later than a moment."""
        ...


@dataclass(frozen=True)
class Interval:
    """Recurs at a fixed interval."""

    length: timedelta

    def next_after(self, moment: datetime) -> datetime:
        """The moment and one interval."""
        return moment + self.length


@dataclass(frozen=True)
class CronTab:
    """An NCRONTAB expression: the values that each field allows, sorted."""

    seconds: Sequence[int]
    minutes: Sequence[int]
    hours: Sequence[int]
    days: Sequence[int]
    months: Sequence[int]
    weekdays: Sequence[int]

    @classmethod
    def parse(cls, expression: str) -> "CronTab":
        """Read `{second} {minute} {hour} {day} {month} {day of week}`; without seconds, 0 is meant.

        Raises:
            ValueError: it is not such an expression, or never occurs.
        """
        fields = expression.split()
        if len(fields) == 5:
            fields.insert(0, "0")
        if len(fields) != 6:
            raise ValueError(f"{expression!r} must have six fields (or five, without seconds)")
        schedule = cls(
            seconds=_values(fields[0], 0, 59),
            minutes=_values(fields[1], 0, 59),
            hours=_values(fields[2], 0, 23),
            days=_values(fields[3], 1, 31),
            months=_values(fields[4], 1, 12, _MONTHS),
            weekdays=_values(fields[5], 0, 6, _DAYS),
        )
        schedule.next_after(datetime(2000, 1, 1))  # noqa: DTZ001 - any moment will do
        return schedule

    def next_after(self, moment: datetime) -> datetime:
        """The first occurrence later than a moment, in its time zone.

        Raises:
            ValueError: there is none, as on 30 February.
        """
        start = moment.replace(microsecond=0) + timedelta(seconds=1)
        earliest = start.time()
        for offset in range(_SEARCH_DAYS):
            day = start.date() + timedelta(days=offset)
            if self._has_day(day):
                found = self._first_time(earliest)
                if found is not None:
                    return datetime.combine(day, found, tzinfo=moment.tzinfo)
            earliest = time.min
        raise ValueError("the schedule never occurs")

    def _has_day(self, day: date) -> bool:
        return day.month in self.months and day.day in self.days and day.isoweekday() % 7 in self.weekdays

    def _first_time(self, earliest: time) -> time | None:
        for hour in self.hours:
            if hour < earliest.hour:
                continue
            for minute in self.minutes:
                for second in self.seconds:
                    found = time(hour, minute, second)
                    if found >= earliest:
                        return found
        return None


def parse_schedule(expression: str) -> Schedule:
    """Read a timer's `schedule`: NCRONTAB, or an interval of the form `hh:mm:ss`.

    Raises:
        ValueError: it is neither.
    """
    if ":" not in expression:
        return CronTab.parse(expression)
    length = parse_time_span(expression)
    if length <= timedelta(0):
        raise ValueError(f"{expression!r} must be longer than nothing")
    return Interval(length)


def _values(field: str, lowest: int, highest: int, names: Sequence[str] = ()) -> tuple[int, ...]:
    allowed: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no value, range or step")
        step = int(match["step"] or 1)
        if match["first"] == "*":
            first, last = lowest, highest
        else:
            first = _number(match["first"], lowest, names)
            last = highest if match["step"] else first
        if match["last"]:
            last = _number(match["last"], lowest, names)
        if not lowest <= first <= last <= highest or step < 1:
            raise ValueError(f"{part!r} is not within {lowest} to {highest}")
        allowed.update(range(first, last + 1, step))
    return tuple(sorted(allowed))


def _number(text: str, lowest: int, names: Sequence[str]) -> int:
    if text.isdecimal():
        return int(text)
    name = text.lower()[:3]
    if name not in names:
        raise ValueError(f"{text!r} is neither a number nor a name that this field knows")
    return names.index(name) + lowest
