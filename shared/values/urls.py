"""URLs as Graph takes them and gives them back."""

import re
from typing import Final
from urllib.parse import urlsplit

_UNPLAIN: Final = re.compile(r"[^!-~]|[#\\\"<>^`{|}]")


def is_plain(url: str) -> bool:
    """Whether a URL comes back from Graph as it was sent: no fragment, no user, nothing that would be encoded."""
    return _UNPLAIN.search(url) is None and "@" not in urlsplit(url).netloc
