"""An HTTP/1.1 answer, read from bytes that come in pieces. Source: RFC 9112 ("HTTP/1.1")."""

import re
from collections.abc import Generator, Mapping
from typing import Final, NamedTuple

_MAX_HEAD: Final = 64 * 1024
_MAX_BODY: Final = 64 * 1024 * 1024
_STATUS: Final = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?(?![^\r])", re.ASCII)
_FIELD: Final = re.compile(r"\r\n([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n]*)", re.ASCII)
_LENGTH: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")


class Answer(NamedTuple):
    """What came back; the names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


type Reading[T] = Generator[None, bool, T]
"""It is sent `False` each time more bytes have come into its buffer, and `True` once no more will."""


def read_answer(buffer: bytearray) -> Reading[tuple[Answer, bool]]:
    """Take one answer; gives it, and whether the connection can be used for another.

    Raises:
        ValueError: it is no answer, or not a whole one.
    """
    version, status = "1", 100
    while status < 200:  # what comes before an answer ("100 Continue")
        head = (yield from _until(buffer, b"\r\n\r\n")).decode("latin-1")
        status_line = _STATUS.match(head)
        if status_line is None:
            raise ValueError("no status line")
        version, status, headers = status_line[1], int(status_line[2]), _headers(head[status_line.end() :])
    persistent = version == "1" and "close" not in headers.get("connection", "").lower()
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if status in {204, 304}:
        body = b""
        # Bytes that come all the same would be taken for the next answer.
        persistent = persistent and (status == 304 or (coding is None and length in {None, "0"}))
    elif coding is not None:
        if coding.lower() != "chunked":
            raise ValueError("an unknown transfer coding")
        body = yield from _chunks(buffer)
        persistent = persistent and length is None
    elif length is not None:
        if _LENGTH.fullmatch(length) is None or int(length) > _MAX_BODY:
            raise ValueError("a wrong length")
        body = yield from _exactly(buffer, int(length))
    else:
        persistent = False
        while not (yield):
            _check_size(len(buffer))
        body = yield from _exactly(buffer, len(buffer))
    return Answer(status, headers, body), persistent


def _headers(lines: str) -> dict[str, str]:
    fields = _FIELD.findall(lines)
    if len(fields) != lines.count("\n"):
        raise ValueError("no header")
    headers: dict[str, str] = {}
    for name, value in fields:
        known = headers.get(name := name.lower())
        headers[name] = value.strip() if known is None else f"{known}, {value.strip()}"
    return headers


def _chunks(buffer: bytearray) -> Reading[bytes]:
    parts: list[bytes] = []
    size = 0
    while True:
        line = _CHUNK.fullmatch((yield from _until(buffer, b"\r\n")))
        if line is None:
            raise ValueError("a wrong chunk")
        count = int(line[1], 16)
        if count == 0:
            break
        size += count
        _check_size(size)
        part = yield from _exactly(buffer, count + 2)
        if part[-2:] != b"\r\n":
            raise ValueError("a wrong chunk")
        parts.append(part[:-2])
    while (yield from _until(buffer, b"\r\n")):
        pass  # trailers say nothing that anybody needs
    return b"".join(parts)


def _until(buffer: bytearray, mark: bytes) -> Reading[bytes]:
    while (at := buffer.find(mark)) < 0:
        if len(buffer) > _MAX_HEAD or (yield):
            raise ValueError("no end of a line")
    taken = bytes(buffer[:at])
    del buffer[: at + len(mark)]
    return taken


def _exactly(buffer: bytearray, count: int) -> Reading[bytes]:
    while len(buffer) < count:
        if (yield):
            raise ValueError("it ended early")
    taken = bytes(buffer[:count])
    del buffer[:count]
    return taken


def _check_size(size: int) -> None:
    if size > _MAX_BODY:
        raise ValueError("it is too large")
