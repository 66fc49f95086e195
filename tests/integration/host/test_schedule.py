"""NCRONTAB expressions and intervals, against what the real host's own parser did with them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.host.schedule import NEVER, CronTab, Interval, parse_schedule, pitfall

pytestmark = pytest.mark.own_host("the code of this host, which starts none")

OBSERVED: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "vectors/schedules.json").read_bytes())
ACCEPTED = [each for each in OBSERVED if each["accepted"]]
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
FIELDS = "0123456789*,-/ MonJanuary"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class TestSchedule:
    def test_is_refused_where_the_real_host_refuses_it(self) -> None:
        accepted = []
        for each in OBSERVED:
            try:
                parse_schedule(each["expression"])
            except ValueError:
                continue
            accepted.append(each["expression"])

        assert accepted == [each["expression"] for each in ACCEPTED]

    @pytest.mark.parametrize("each", ACCEPTED, ids=lambda each: repr(each["expression"]))
    def test_means_what_it_means_there(self, each: dict[str, Any]) -> None:
        schedule = parse_schedule(each["expression"])

        assert schedule.can_be_monitored == each["monitored"]
        if isinstance(schedule, Interval):
            assert each["kind"] == "interval"
            if each["seconds"] is None:
                with pytest.raises(OverflowError):
                    schedule.next_after(datetime.now(UTC))
            else:
                assert abs(schedule.length - timedelta(seconds=each["seconds"])) <= timedelta(microseconds=1)
        else:
            assert each["kind"] == "cron"
        for start, expected in each.get("next", {}).items():
            assert occurrences(schedule, moment(start), len(expected)) == [moment(text) for text in expected]

    @given(st.text(st.sampled_from(FIELDS), max_size=40) | st.text(max_size=20))
    def test_of_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            schedule = parse_schedule(text)
        except ValueError as error:
            assert repr(text) in str(error)  # noqa: PT017
        else:
            assert isinstance(schedule, CronTab | Interval)


class TestCronTab:
    @given(MOMENTS, st.integers(0, 59), st.integers(0, 59), st.integers(0, 23))
    def test_daily_recurs_within_a_day_at_its_time(self, after: datetime, second: int, minute: int, hour: int) -> None:
        following = CronTab.parse(f"{second} {minute} {hour} * * *").next_after(after)

        assert timedelta(0) < following - after <= timedelta(days=1)
        assert (following.hour, following.minute, following.second, following.microsecond) == (hour, minute, second, 0)

    @given(MOMENTS, st.integers(1, 59))
    def test_misses_no_occurrence(self, after: datetime, step: int) -> None:
        schedule = CronTab.parse(f"*/{step} */7 * * * *")
        following = schedule.next_after(after)

        second = after.replace(microsecond=0) + timedelta(seconds=1)
        while not (second.second % step == 0 and second.minute % 7 == 0):
            second += timedelta(seconds=1)
        assert following == second

    def test_ends_with_the_year_9999(self) -> None:
        assert CronTab.parse("0 0 0 1 1 *").next_after(moment("9999-01-01 00:00:00")) == NEVER
        assert CronTab.parse("* * * * * *").next_after(moment("9999-12-31 23:59:59")) == NEVER

    @pytest.mark.parametrize(
        ("expression", "after", "expected"),
        [
            # Two to three o'clock is skipped on 28 March (at 1:00 UTC), and comes twice on 31 October (from 0:00 UTC).
            ("0 30 2 * * *", "2027-03-27T00:00", ["27T01:30", "28T01:30", "29T00:30"]),
            ("0 30 2 * * *", "2027-10-30T00:00", ["30T00:30", "31T00:30", "01T01:30"]),
            ("0 30 2 * * *", "2027-10-31T01:10", ["01T01:30", "02T01:30"]),
            ("0 */30 * * * *", "2027-03-28T00:10", ["28T00:30", "28T01:00", "28T01:30"]),
            ("0 0 * * * *", "2027-10-30T22:30", ["30T23:00", "31T00:00", "31T01:00", "31T02:00"]),
            ("0 0 */2 * * *", "2027-10-30T22:30", ["31T00:00", "31T03:00", "31T05:00"]),
            ("0 0,30 2 * * *", "2027-03-27T12:00", ["28T01:00", "29T00:00", "29T00:30"]),
            ("0 */5 * * * *", "2027-10-31T00:52", ["31T00:55", "31T01:00", "31T01:05"]),
            ("0 0 9 * * 1-5", "2027-03-26T12:00", ["29T07:00", "30T07:00"]),
            ("01:00:00", "2027-10-30T22:30", ["30T23:30", "31T00:30", "31T01:30"]),
        ],
    )
    def test_follows_the_clocks_of_its_zone(self, expression: str, after: str, expected: list[str]) -> None:
        schedule = parse_schedule(expression, ZoneInfo("Europe/Berlin"))

        found = occurrences(schedule, moment(after), len(expected))

        assert [f"{each:%dT%H:%M}" for each in found] == expected


class TestPitfall:
    @pytest.mark.parametrize(
        ("expression", "expected"),
        [
            ("24:00:00", "it is 24 days"),
            ("5", "it is 5 days"),
            ("00:00:00", "it is always due"),
            ("-00:05:00", "it is always due"),
            ("0 0 0 30 2 *", "it never occurs"),
        ],
    )
    def test_is_what_a_schedule_means_and_nobody_meant(self, expression: str, expected: str) -> None:
        assert (pitfall(expression) or "").startswith(expected)

    @pytest.mark.parametrize("expression", ["23:59:59", "1.00:00:00", "0 */5 * * * *", "0 0 0 29 2 *"])
    def test_is_none_where_there_is_none(self, expression: str) -> None:
        assert pitfall(expression) is None


def occurrences(schedule: CronTab | Interval, start: datetime, count: int) -> list[datetime]:
    found = []
    for _ in range(count):
        start = schedule.next_after(start)
        found.append(start)
    return found
