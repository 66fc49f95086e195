"""When a timer fires: NCRONTAB expressions and intervals, accepted and refused as the real host does.

Sources: "Timer trigger for Azure Functions" (NCRONTAB expressions, TimeSpan, NCRONTAB time zones); NCrontab 3.3.3
(atifaziz/NCrontab), the library of the real host, for what that page leaves open: a day must satisfy both day fields,
`3/5` means from 3 on, the limits of a range may change places, and a name may be shortened down to one letter.
"""

import calendar
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from dev.host.time_span import parse_time_span

NEVER = datetime.max.replace(tzinfo=UTC)

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
# What .NET's int.Parse takes: white space around it, and for a step a sign too.
_NUMBER = re.compile(r"(\d+)[\t-\r]*", re.ASCII)
_STEP = re.compile(r"[\t-\r]*([+-]?\d+)[\t-\r]*", re.ASCII)
_LARGEST = 2**31 - 1
# Dates and days of the week repeat after 400 years: what has not occurred by then never does.
_CYCLE_YEARS = 400


@dataclass(frozen=True)
class Interval:
    """Recurs at a fixed interval; one of zero or less is always due."""

    length: timedelta

    @property
    def can_be_monitored(self) -> bool:
        """Whether the real host keeps its status: from one minute on."""
        return self.length >= timedelta(minutes=1)

    def next_after(self, moment: datetime) -> datetime:
        """The moment (UTC) and one interval.

        Raises:
            OverflowError: that is beyond the year 9999.
        """
        return moment + self.length


@dataclass(frozen=True)
class CronTab:
    """An NCRONTAB expression: the values that each field allows, sorted, and the time zone in which they are meant."""

    seconds: Sequence[int]
    minutes: Sequence[int]
    hours: Sequence[int]
    days: Sequence[int]
    months: Sequence[int]
    weekdays: Sequence[int]
    zone: tzinfo = UTC

    @classmethod
    def parse(cls, expression: str, zone: tzinfo = UTC) -> "CronTab":
        """Read `{second} {minute} {hour} {day} {month} {day of week}`; without seconds, 0 is meant.

        Raises:
            ValueError: it is not such an expression.
        """
        fields = [field for field in expression.split(" ") if field]
        if len(fields) == 5:
            fields.insert(0, "0")
        if len(fields) != 6:
            raise ValueError(f"{expression!r} must have six fields (or five, without seconds)")
        return cls(
            seconds=_values(fields[0], 0, 59),
            minutes=_values(fields[1], 0, 59),
            hours=_values(fields[2], 0, 23),
            days=_values(fields[3], 1, 31),
            months=_values(fields[4], 1, 12, _MONTHS),
            weekdays=_values(fields[5], 0, 6, _DAYS),
            zone=zone,
        )

    @property
    def can_be_monitored(self) -> bool:
        """Whether the real host keeps its status: not if it occurs several times in each minute of the year."""
        everything = (range(60), range(24), range(1, 32), range(1, 13), range(7))
        rest = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        always = all(tuple(some) == tuple(all_) for some, all_ in zip(rest, everything, strict=True))
        return not (always and len(self.seconds) > 1)

    def next_after(self, moment: datetime) -> datetime:
        """The first occurrence later than a moment, both in UTC; `NEVER`, as with 30 February, if there is none.

        A time that the clocks skip is that much later; in the hour that they repeat, a schedule of fixed times occurs
        in summer time alone, and one that recurs in consecutive seconds, minutes or hours in both.
        """
        now = moment.astimezone(self.zone)
        wall = self._next_on_the_wall(now.replace(tzinfo=None))
        if wall is None:
            return NEVER
        found = self._on_the_clock(wall)
        shift = _offset(found) - _offset(now)
        if self._is_continuous:
            if shift and (_is_ambiguous(now) or _is_ambiguous(found)):
                return found.astimezone(UTC) + shift
        elif _is_ambiguous(found):
            if shift:
                return found.astimezone(UTC) + shift
            while wall is not None and _is_ambiguous(self._on_the_clock(wall)):
                wall = self._next_on_the_wall(wall)
            return NEVER if wall is None else self._on_the_clock(wall).astimezone(UTC)
        return found.astimezone(UTC)

    @property
    def _is_continuous(self) -> bool:
        return any(
            later - earlier == 1
            for field in (self.seconds, self.minutes, self.hours)
            for earlier, later in itertools.pairwise(field)
        )

    def _on_the_clock(self, wall: datetime) -> datetime:
        """A time of day in the zone: the second of two, or, if the clocks skip it, what they show in its place."""
        first, second = wall.replace(tzinfo=self.zone), wall.replace(tzinfo=self.zone, fold=1)
        if _offset(first) < _offset(second):
            return first.astimezone(UTC).astimezone(self.zone)
        return second

    def _next_on_the_wall(self, moment: datetime) -> datetime | None:
        try:
            start = moment.replace(microsecond=0) + timedelta(seconds=1)
        except OverflowError:
            return None
        for day in self._days_from(start.date()):
            found = self._first_time(start.time() if day == start.date() else time.min)
            if found is not None:
                return datetime.combine(day, found)
        return None

    def _days_from(self, start: date) -> Iterator[date]:
        for year in range(start.year, min(start.year + _CYCLE_YEARS, date.max.year) + 1):
            for month in self.months:
                length = calendar.monthrange(year, month)[1]
                for day in self.days:
                    if day <= length and (year, month, day) >= (start.year, start.month, start.day):
                        found = date(year, month, day)
                        if found.isoweekday() % 7 in self.weekdays:
                            yield found

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


type Schedule = Interval | CronTab


def parse_schedule(expression: str, zone: tzinfo = UTC) -> Schedule:
    """Read a timer's `schedule`: NCRONTAB in a time zone, or an interval.

    Raises:
        ValueError: it is neither; the message is meant for the developer.
    """
    try:
        return CronTab.parse(expression, zone)
    except ValueError as no_crontab:
        try:
            return Interval(parse_time_span(expression))
        except ValueError:
            raise ValueError(
                f"the schedule expression {expression!r} is neither a cron expression ({no_crontab}) nor a time span"
            ) from None


def pitfall(expression: str) -> str | None:
    """What a schedule that is accepted means though hardly anybody means it; None if there is no such thing.

    Raises:
        ValueError: the schedule is not accepted.
    """
    schedule = parse_schedule(expression)
    if isinstance(schedule, CronTab):
        return "it never occurs" if schedule.next_after(datetime(2000, 1, 1, tzinfo=UTC)) == NEVER else None
    if schedule.length <= timedelta(0):
        return "it is always due, and fires without a pause"
    if schedule.length >= timedelta(days=1) and "." not in expression:
        return f"it is {schedule.length.days} days: hours end at 23, and days come first (write d.hh:mm:ss to be clear)"
    return None


def _values(field: str, lowest: int, highest: int, names: Sequence[str] = ()) -> tuple[int, ...]:
    allowed: set[int] = set()
    for part in field.split(","):
        limits, slash, every = part.partition("/")
        step = max(1, _integer(_STEP, every, part)) if slash else 1
        first, dash, last = limits.partition("-")
        if limits == "*":
            start, end = lowest, highest
        else:
            start = _value(first, lowest, names, part)
            end = _value(last, lowest, names, part) if dash else highest if slash else start
        start, end = min(start, end), max(start, end)
        if start < lowest or end > highest:
            raise ValueError(f"{part!r} is not within {lowest} to {highest}")
        allowed.update(range(start, end + 1, step))
    return tuple(sorted(allowed))


def _value(text: str, lowest: int, names: Sequence[str], part: str) -> int:
    if text[:1] in tuple("0123456789"):
        return _integer(_NUMBER, text, part)
    if text:
        for number, name in enumerate(names, lowest):
            if name.startswith(text.lower()):
                return number
    raise ValueError(f"{part!r} is no value, range or step of this field")


def _integer(form: re.Pattern[str], text: str, part: str) -> int:
    match = form.fullmatch(text)
    if match is None or abs(number := int(match[1])) > _LARGEST:
        raise ValueError(f"{part!r} is no value, range or step of this field")
    return number


def _offset(moment: datetime) -> timedelta:
    return moment.utcoffset() or timedelta(0)


def _is_ambiguous(moment: datetime) -> bool:
    return _offset(moment.replace(fold=0)) > _offset(moment.replace(fold=1))
