"""Times as blobs keep them, and lengths of time as people read them."""

from datetime import datetime, timedelta
from typing import Annotated, Final

import msgspec

type Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time as blobs keep it. One without a zone, in a blob that somebody has changed, is refused where it is read."""

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
