"""NCRONTAB expressions and intervals."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.host.schedule import CronTab, parse_schedule

MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class TestCronTab:
    @pytest.mark.parametrize(
        ("expression", "after", "expected"),
        [
            ("0 */5 * * * *", "2026-11-20 10:00:00", "2026-11-20 10:05:00"),
            ("0 */5 * * * *", "2026-11-20 23:59:59", "2026-11-21 00:00:00"),
            ("*/5 * * * *", "2026-11-20 10:03:00", "2026-11-20 10:05:00"),
            ("* * * * * *", "2026-12-31 23:59:59", "2027-01-01 00:00:00"),
            ("30 0 9-17 * * *", "2026-11-20 17:00:30", "2026-11-21 09:00:30"),
            ("0 30 9 * * Mon-Fri", "2026-11-20 09:30:00", "2026-11-23 09:30:00"),
            ("0 30 9 * Jan,July *", "2026-11-20 09:30:00", "2027-01-01 09:30:00"),
            ("0 0 0 * * 0", "2026-11-20 00:00:00", "2026-11-22 00:00:00"),
            ("5/20 * * * * *", "2026-11-20 00:00:45", "2026-11-20 00:01:05"),
            ("10-30/10 * * * * *", "2026-11-20 00:00:20", "2026-11-20 00:00:30"),
            ("0 0 0 29 2 *", "2026-11-20 00:00:00", "2028-02-29 00:00:00"),
            ("0 0 0 31 * *", "2026-11-20 00:00:00", "2026-12-31 00:00:00"),
            # Both day fields must hold: the next Friday the 13th.
            ("0 0 0 13 * Friday", "2026-11-20 00:00:00", "2027-08-13 00:00:00"),
        ],
    )
    def test_has_a_next_occurrence(self, expression: str, after: str, expected: str) -> None:
        assert parse_schedule(expression).next_after(moment(after)) == moment(expected)

    @pytest.mark.parametrize(
        "expression",
        [
            "",
            "* * * *",
            "* * * * * * *",
            "60 * * * * *",
            "* * 24 * * *",
            "* * * 0 * *",
            "* * * * 13 *",
            "* * * * * 7",
            "a * * * * *",
            "*/0 * * * * *",
            "5-3 * * * * *",
            "1, * * * * *",
            "0 0 0 30 2 *",
            "* * * * Mon *",
        ],
    )
    def test_of_another_form_is_refused(self, expression: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            parse_schedule(expression)

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


class TestInterval:
    def test_is_added(self) -> None:
        assert parse_schedule("00:00:30").next_after(moment("2026-11-20 23:59:45")) == moment("2026-11-21 00:00:15")

    @pytest.mark.parametrize("text", ["00:00:00", "00:30", "1:2:3:4"])
    def test_of_another_form_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            parse_schedule(text)
