"""Resource paths, which Graph spells otherwise than they were sent."""

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from shared.values.graph import Subscription

_RESOURCES: Final = 32_768  # each is compared several times a run, and there may be 10,000 of them
_DECODINGS: Final = 4  # a joinWebUrl is encoded twice
_KEY_SEGMENT: Final = re.compile(r"(?<![=\w])(\w+)\('([^'=]*)'\)")
_GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_SLASHES: Final = re.compile(r"/{2,}")
_BLANKS: Final = re.compile(r"\s+")
_BLANKS_AROUND: Final = re.compile(r"\s*([(),=])\s*")


class Names:
    """Which desired thing a subscription is for, however Graph spells it.

    A path that is exactly a desired one is that one. Another, unless it is what we sent, is recognised by its normal
    form, if that of one desired path alone is the same.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._exact = frozenset(paths)
        self._normal: defaultdict[str, list[str]] = defaultdict(list)
        for path in self._exact:
            self._normal[normal_form(path)].append(path)

    def recognised(self, subscription: Subscription) -> str | None:
        """The desired path, or None where there is none or more than one."""
        if subscription.resource in self._exact:
            return subscription.resource
        alike = () if subscription.sent else self._normal.get(normal_form(subscription.resource), ())
        return alike[0] if len(alike) == 1 else None


@lru_cache(maxsize=_RESOURCES)
def normal_form(resource: str) -> str:
    """A resource path for comparing with one that Graph may spell otherwise.

    Outside quotes, case, blanks and ``+`` do not count; nowhere do percent-encoding, doubled slashes, slashes at the
    ends and before the query, the case of a GUID, and whether a key stands in parentheses or in a segment of its own.
    """
    text = resource.strip()
    for _ in range(_DECODINGS):
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    parts = text.split("'")
    parts = [
        _GUID.sub(lambda guid: guid[0].lower(), part)
        if place % 2
        else _BLANKS_AROUND.sub(r"\1", _BLANKS.sub(" ", part.replace("+", " ").casefold()))
        for place, part in enumerate(parts)
    ]
    text = _KEY_SEGMENT.sub(lambda key: f"{key[1]}/{key[2].casefold()}", "'".join(parts))
    path, mark, query = text.partition("?")
    return _SLASHES.sub("/", path).strip("/ ") + mark + query.strip()
