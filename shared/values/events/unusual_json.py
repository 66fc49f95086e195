"""JSON that is valid by its grammar and that parsers refuse all the same.

RFC 8259, section 8.2: the grammar allows strings that no text can be made of, such as ``"\\ud83d"``, half of a
surrogate pair. A name that was cut inside an emoji looks like that.
"""

import re
from collections.abc import Callable
from typing import Final

import msgspec

MAX_LONE_ESCAPES: Final = 100
"""How many escapes are replaced; what holds more was not cut by accident."""

# Each escape costs another reading up to it, as the parser stops there. So much is read in all.
_MAX_READ_BYTES: Final = 3 * 1024 * 1024
_MAX_BYTES: Final = 2 * 1024 * 1024
_ESCAPE_BYTES: Final = len(r"\ud83d")
_REPLACEMENT: Final = rb"\ufffd"
_LOW: Final = re.compile(rb"\\u[dD][c-fC-F]")
_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
# The parser's words for the second half that does not come, and for the one that is none.
_REFUSED: Final = re.compile(r"(unexpected end of .*|invalid utf-16 surrogate pair) \(byte (\d+)\)$")

_check = msgspec.json.Decoder(msgspec.Raw).decode


def replace_lone_surrogates(text: bytes) -> bytes:
    """The same JSON with each escape of half a surrogate pair read as U+FFFD; it keeps its length.

    Only escapes at which the parser stops are touched. What cannot be mended, is over 2 MiB, or holds more than
    `MAX_LONE_ESCAPES`, comes back as it is.
    """
    if len(text) > _MAX_BYTES:
        return text
    # The parser does not tell what is wrong with an escape that has less than another one's length behind it.
    mended = bytearray(text + b" " * _ESCAPE_BYTES)
    read = 0
    for _ in range(MAX_LONE_ESCAPES + 1):
        try:
            _check(mended)
        except msgspec.DecodeError as error:
            start = _lone_escape(mended, str(error))
        except RecursionError:
            return text
        else:
            return bytes(mended[: len(text)]) if read else text
        if start is None or read > _MAX_READ_BYTES:
            return text
        mended[start : start + _ESCAPE_BYTES] = _REPLACEMENT
        read += start
    return text


def read_leniently[Value](read: Callable[[bytes], Value], text: bytes) -> Value:
    """What `read` makes of JSON, or, where it refuses, of a copy without lone escapes.

    Raises:
        msgspec.DecodeError: it refuses that too.
    """
    try:
        return read(text)
    except msgspec.DecodeError:
        mended = replace_lone_surrogates(text)
        if mended is text:
            raise
        return read(mended)


def _lone_escape(text: bytearray, refusal: str) -> int | None:
    """Where the escape begins that the parser has refused; None where it has refused something else."""
    refused = _REFUSED.search(refusal)
    if refused is None:
        return None
    start = int(refused[2]) - _ESCAPE_BYTES
    if refused[1].startswith("invalid") and not _LOW.match(text, start):
        start -= _ESCAPE_BYTES  # it was the one before that wanted a second half
    return start if start >= 0 and _ESCAPE.match(text, start) else None
