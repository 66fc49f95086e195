"""The text of queue messages."""

import base64
import json
from collections.abc import Iterable
from typing import Any, Literal
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.values.message_text import QUEUE_MESSAGE_BYTES, Batch, base64_bytes, encode, fits, join

ENCODINGS: tuple[Literal["base64", "none"], ...] = ("base64", "none")
TEXT = st.text(st.characters(codec="utf-8"))


def body_of(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


@given(st.integers(0, 100_000))
def test_base64_bytes(count: int) -> None:
    assert base64_bytes(count) == len(base64.b64encode(bytes(count)))


@given(TEXT)
def test_base64_carries_any_json(text: str) -> None:
    assert base64.b64decode(encode(body_of(text), "base64")) == body_of(text)


@settings(max_examples=150)
@given(TEXT | st.just("\ufffe\uffff&<>"))
def test_plain_text_survives_the_xml_that_it_travels_in(text: str) -> None:
    sent = encode(body_of(text), "none")
    received = ET.fromstring(f"<m>{escape(sent)}</m>".encode()).text
    assert json.loads(received or "") == text


@pytest.mark.parametrize(("size", "fine"), [(48 * 1024, True), (48 * 1024 + 1, False)])
def test_the_limit_in_base64(size: int, fine: bool) -> None:
    assert fits(b"x" * size, "base64") is fine
    assert (len(encode(b"x" * size, "base64")) <= QUEUE_MESSAGE_BYTES) is fine


@pytest.mark.parametrize(("size", "fine"), [(64 * 1024, True), (64 * 1024 + 1, False)])
def test_the_limit_in_plain_text(size: int, fine: bool) -> None:
    assert fits(b"x" * size, "none") is fine


@given(st.text(st.sampled_from("a&<>ä\ufffd\ufffe\uffff")))
def test_plain_text_counts_as_xml_carries_it(text: str) -> None:
    carried = len(escape(encode(body_of(text), "none")).encode())
    brim = body_of(text) + b"x" * (QUEUE_MESSAGE_BYTES - carried)
    assert fits(brim, "none")
    assert not fits(brim + b"x", "none")


def test_base64_hides_what_xml_would_escape() -> None:
    assert fits(b"&" * 48 * 1024, "base64")


def batches(bodies: Iterable[bytes], encoding: Literal["base64", "none"]) -> list[list[bytes]]:
    """Values divided into batches, each filled before the next is begun."""
    filled = [Batch(encoding)]
    for body in bodies:
        if not filled[-1].add(body):
            filled.append(Batch(encoding))
            assert filled[-1].add(body)
    return [batch.bodies for batch in filled]


@settings(max_examples=100)
@given(st.lists(st.integers(0, 49_000), min_size=1, max_size=20), st.sampled_from(ENCODINGS), st.sampled_from("x&<"))
def test_batches_fit_and_lose_nothing(sizes: list[int], encoding: Literal["base64", "none"], letter: str) -> None:
    bodies = [body_of({"n": n, "x": letter * (size // 5)}) for n, size in enumerate(sizes)]
    found = []
    for batch in batches(bodies, encoding):
        assert fits(join(batch), encoding)
        found += json.loads(join(batch))
    assert found == [json.loads(body) for body in bodies]


@pytest.mark.parametrize(("encoding", "letter", "letters"), [("base64", "&", 49_152), ("none", "x", 65_536)])
def test_batches_are_filled_to_the_brim(encoding: Literal["base64", "none"], letter: str, letters: int) -> None:
    first = body_of(letter * (letters // 2 - 4))
    last = body_of(letter * (letters - len(join([first, b'""']))))
    assert batches([first, last] * 2, encoding) == [[first, last]] * 2
    too_long = last + b" "
    assert batches([first, too_long, first], encoding) == [[first], [too_long], [first]]
