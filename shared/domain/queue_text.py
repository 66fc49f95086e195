"""The text of a queue message: its encodings, its limit, and batches that fit into it.

Source: "Put Message" (Azure Queue Storage REST): a message is UTF-8 text of at most 64 KiB inside an XML document.
"""

from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Final, Literal

type Encoding = Literal["base64", "none"]

QUEUE_MESSAGE_BYTES: Final = 64 * 1024

# XML 1.0 has no place for these two; inside a JSON string, which is the only place they can stand, an escape will do.
_NOT_IN_XML: Final = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}


def base64_bytes(count: int) -> int:
    """The size of `count` bytes in base64."""
    return (count + 2) // 3 * 4


def encode(body: bytes, encoding: Encoding) -> str:
    """The text that carries `body`, which is JSON, on a queue."""
    if encoding == "base64":
        return b64encode(body).decode("ascii")
    return body.decode("utf-8").translate(_NOT_IN_XML) if b"\xef\xbf" in body else body.decode("utf-8")


def encoded_bytes(body: bytes, encoding: Encoding) -> int:
    """The size of `body` as it counts against the limit; for plain text, at its largest, with XML's escapes."""
    if encoding == "base64":
        return base64_bytes(len(body))
    escapes = 4 * body.count(b"&") + 3 * (body.count(b"<") + body.count(b">"))
    return len(body) + escapes + 3 * body.count(b"\xef\xbf")


def fits(body: bytes, encoding: Encoding) -> bool:
    """Whether `body` can go into one message."""
    return encoded_bytes(body, encoding) <= QUEUE_MESSAGE_BYTES


def batches(bodies: Iterable[bytes], encoding: Encoding) -> Iterator[bytes]:
    """Join JSON values, each of which fits by itself, into JSON arrays (the CloudEvents JSON batch format) that fit."""
    batch: list[bytes] = []
    size = 0
    for body in bodies:
        more = encoded_bytes(body, "none") + 1 if encoding == "none" else len(body) + 1
        limit = QUEUE_MESSAGE_BYTES if encoding == "none" else QUEUE_MESSAGE_BYTES // 4 * 3
        if batch and size + more + 2 > limit:
            yield b"[%b]" % b",".join(batch)
            batch, size = [], 0
        batch.append(body)
        size += more
    if batch:
        yield b"[%b]" % b",".join(batch)
