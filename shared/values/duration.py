"""A length of time in words, the same for everyone who tells one."""

from datetime import timedelta
from typing import Final

_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def span(length: timedelta) -> str:
    """A length of time, to two units: ``1 d 4 h``, ``53 min 20 s``."""
    seconds = int(abs(length.total_seconds()))
    parts: list[str] = []
    for size, unit in _UNITS:
        if seconds >= size or (size == 1 and not parts):
            parts.append(f"{seconds // size} {unit}")
            seconds %= size
        elif parts:
            break
    return ("-" if length < timedelta(0) else "") + " ".join(parts[:2])
