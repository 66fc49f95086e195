"""A time as blobs keep it."""

from datetime import datetime
from typing import Annotated

import msgspec

type Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time as blobs keep it. One without a zone, in a blob that somebody has changed, is refused where it is read."""
