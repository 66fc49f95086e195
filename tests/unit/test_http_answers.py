"""An answer in pieces of any size, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.values.http_answers import Answer, read_answer

HEADERS = {"x-ms-request-id": "1"}
WHOLE = b"HTTP/1.1 201 Created\r\nx-ms-request-id: 1\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 201 Created\r\nx-ms-request-id: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\nx-trailer: 1\r\n\r\n"
)


def read(*pieces: bytes, ended: bool = False) -> tuple[Answer, bool] | None:
    """What comes of an answer's pieces; None where it is not whole."""
    buffer = bytearray()
    reading = read_answer(buffer)
    next(reading)
    try:
        for piece in pieces:
            buffer += piece
            reading.send(False)
        if ended:
            reading.send(True)
    except StopIteration as end:
        assert not buffer
        return end.value
    return None


@st.composite
def cut(draw: st.DrawFn, text: bytes) -> list[bytes]:
    places = sorted(draw(st.sets(st.integers(0, len(text)))))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@given(st.data(), st.sampled_from([WHOLE, CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE]))
def test_it_is_the_same_however_it_is_cut(data: st.DataObject, text: bytes) -> None:
    found = read(*data.draw(cut(text)))
    assert found is not None
    answer, persistent = found
    assert (answer.status, answer.body, persistent) == (201, b"hello", True)
    assert answer.headers.items() >= HEADERS.items()


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=20))
def test_a_body_comes_out_of_its_chunks(body: bytes, sizes: list[int]) -> None:
    text, left = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", body
    for size in [*sizes, 1000]:
        part, left = left[:size], left[size:]
        if part:
            text += f"{len(part):X}\r\n".encode() + part + b"\r\n"
    found = read(text + b"0\r\n\r\n")
    assert found is not None
    assert found[0].body == body


@given(st.data(), st.sampled_from([WHOLE, CHUNKED]))
def test_a_part_of_it_is_none(data: st.DataObject, text: bytes) -> None:
    part = text[: data.draw(st.integers(0, len(text) - 1))]
    assert read(part) is None
    with pytest.raises(ValueError, match=r"."):
        read(part, ended=True)


@given(st.binary())
def test_bytes_of_any_kind_are_an_answer_or_an_error(junk: bytes) -> None:
    try:
        read(junk, ended=True)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("text", "persistent"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304\r\ncontent-length: 9\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 9\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", False),
    ],
)
def test_what_has_no_body_and_what_ends_a_connection(text: bytes, persistent: bool) -> None:
    found = read(text)
    assert found is not None
    assert (found[0].body, found[1]) == (b"", persistent)


def test_without_a_length_the_end_of_the_connection_is_that_of_the_body() -> None:
    assert read(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", ended=True) == (Answer(200, {}, b"hello"), False)


def test_a_header_that_comes_twice_has_both_values() -> None:
    found = read(b"HTTP/1.1 204 No\r\nA: 1\r\na:2\r\n\r\n")
    assert found is not None
    assert found[0].headers == {"a": "1, 2"}


@pytest.mark.parametrize(
    "text",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: 1\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"x" * 70_000,
    ],
)
def test_what_is_no_answer(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text)
