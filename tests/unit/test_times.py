"""How a length of time is said."""

from datetime import timedelta

import pytest

from shared.values.times import span


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(0), "0 s"),
        (timedelta(seconds=59.9), "59 s"),
        (timedelta(minutes=53, seconds=20), "53 min 20 s"),
        (timedelta(hours=1), "1 h"),
        (timedelta(hours=1, seconds=5), "1 h"),
        (timedelta(days=2, hours=21, minutes=3), "2 d 21 h"),
        (timedelta(minutes=-5), "-5 min"),
    ],
)
def test_a_length_of_time_is_said_in_two_units(length: timedelta, text: str) -> None:
    assert span(length) == text
