"""The text of a queue message: its encodings, its limit, and batches that fit into it.

A message is UTF-8 text of at most 64 KiB inside an XML document ("Put Message",
https://learn.microsoft.com/rest/api/storageservices/put-message).
"""

from collections.abc import Iterable
from typing import Final, Literal

import pybase64

from shared.values.errors import MalformedInputError

type Encoding = Literal["base64", "none"]

QUEUE_MESSAGE_BYTES: Final = 64 * 1024
_BASE64_CAPACITY: Final = QUEUE_MESSAGE_BYTES // 4 * 3

_WHITE_SPACE: Final = dict.fromkeys(map(ord, " \t\r\n"))  # what .NET's Convert.FromBase64String passes over
_FROM_URL_SAFE: Final = str.maketrans("-_", "+/")

# XML 1.0 has no place for these two; inside a JSON string, which is the only place they can stand, an escape will do.
_NOT_IN_XML: Final = {"\ufffe".encode(): b"\\ufffe", "\uffff".encode(): b"\\uffff"}


def base64_bytes(count: int) -> int:
    """The size of `count` bytes in base64."""
    return (count + 2) // 3 * 4


def encode(body: bytes, encoding: Encoding) -> str:
    """The text that carries `body`, which is JSON, on a queue."""
    if encoding == "base64":
        return pybase64.b64encode_as_string(body)
    for character, escape in _NOT_IN_XML.items():
        body = body.replace(character, escape)
    return body.decode()


def decode(text: str) -> str:
    """What a message of our own triggers says, read as strictly as the Functions host reads it.

    Raises:
        MalformedInputError: it is not Base64 of UTF-8.
    """
    try:
        return pybase64.b64decode(text.translate(_WHITE_SPACE), validate=True).decode()
    except ValueError:
        raise MalformedInputError("the message is not Base64 of UTF-8", reason="message-unreadable") from None


def repaired(text: str) -> bytes:
    """What was most likely meant by a text that `decode` refuses.

    Base64 in its other alphabet, without padding or with odd white space, where a JSON object comes of it; else the
    text itself, which somebody put there without encoding it.
    """
    bare = "".join(text.split()).rstrip("=").translate(_FROM_URL_SAFE)
    try:
        body = pybase64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
        body.decode()
    except ValueError:
        return text.encode()
    return body if body.lstrip().startswith(b"{") else text.encode()


def fits(body: bytes, encoding: Encoding) -> bool:
    """Whether `body` can go into one message."""
    return _cost(body, encoding) <= _capacity(encoding)


class Batch:
    """JSON values for one message, in their order: they fit once `join` has made an array of them."""

    def __init__(self, encoding: Encoding) -> None:
        self.bodies: list[bytes] = []
        self._encoding = encoding
        self._room = _capacity(encoding) - len("[]") + len(",")

    def add(self, body: bytes) -> bool:
        """Take a value if there is room for it, and say whether there was. The first one must fit by itself."""
        cost = _cost(body, self._encoding) + len(",")
        if self.bodies and cost > self._room:
            return False
        self.bodies.append(body)
        self._room -= cost
        return True


def join(bodies: Iterable[bytes]) -> bytes:
    """Make a JSON array of JSON values: the CloudEvents JSON batch format."""
    return b"[%b]" % b",".join(bodies)


def _capacity(encoding: Encoding) -> int:
    """The bytes of a body for which a message has room."""
    return _BASE64_CAPACITY if encoding == "base64" else QUEUE_MESSAGE_BYTES


def _cost(body: bytes, encoding: Encoding) -> int:
    """What a body takes of that room; plain text with XML's escapes, since no page says how the limit counts it."""
    if encoding == "base64":
        return len(body)
    escapes = 4 * body.count(b"&") + 3 * (body.count(b"<") + body.count(b">"))
    escapes += sum(3 * body.count(character) for character in _NOT_IN_XML)
    return len(body) + escapes
