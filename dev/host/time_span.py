"""Time spans as .NET reads them: in host.json, and as the interval of a timer.

Source: "TimeSpan.Parse Method" (.NET API reference), in the invariant culture.
"""

import re
from datetime import timedelta

_REST = r"(?::(?:(?P<seconds>\d+)(?:\.(?P<fraction>\d+))?|\.(?P<bare>\d+)))?"
_TIME = rf"(?P<hours>\d+):(?P<minutes>\d+){_REST}"
_FORMS = (
    re.compile(rf"(?P<minus>-?){_TIME}", re.ASCII),
    re.compile(rf"(?P<minus>-?)(?P<days>\d+)(?:[.:]{_TIME})?", re.ASCII),
)
_TICKS = 2**63  # of a tenth of a microsecond, as many as there can be


def parse_time_span(text: str) -> timedelta:
    """Read `d`, `h:m`, `h:m:s[.f]` or `d.h:m[:s[.f]]`, each with an optional minus.

    Hours end at 23, minutes and seconds at 59, and .NET takes a colon after the days too: what does not fit as
    hours, minutes and seconds is tried as days, hours and minutes. So `24:00:00` is 24 days, and `5` five.

    Raises:
        ValueError: the text is of another form, or too long a time.
    """
    for form in _FORMS:
        match = form.fullmatch(text.strip())
        length = None if match is None else _length(match)
        if length is not None:
            return length
    raise ValueError(f"{text!r} is not a time span of the form [d.]hh:mm:ss")


def _length(match: re.Match[str]) -> timedelta | None:
    parts = match.groupdict()
    days, hours, minutes, seconds = (int(parts.get(name) or 0) for name in ("days", "hours", "minutes", "seconds"))
    fraction = parts["fraction"] or parts["bare"] or "0"
    # Of a finer fraction, .NET takes only one that begins with a zero.
    is_too_fine = len(fraction) > 7 and not fraction.startswith("0")
    if hours > 23 or minutes > 59 or seconds > 59 or is_too_fine:
        return None
    ticks = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 10_000_000 + int(f"{fraction:0<7.7}")
    if ticks >= _TICKS:
        return None
    length = timedelta(microseconds=ticks // 10)
    return -length if parts["minus"] else length
