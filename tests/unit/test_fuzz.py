"""All that parses bytes from outside, fed with the kept corpus and with variations of it."""

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dev.fuzz import CORPUS, TARGETS, attempt
from tests.unit.test_collection import counted

FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
PIECES = [b"{", b"[", b"]", b"}", b'"', b"null", b"1e999", b"-0", b"\\u0000", b"\xff", b"\x00", b",", b":", b'"value"']
CALLS = 2000  # for each of them, none of which is longer than 4 KiB


def test_every_target_has_a_corpus() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_the_whole_corpus_against_every_target(target: str) -> None:
    for path in FILES:
        data = path.read_bytes()
        attempt(target, data)  # what a process compiles and imports once is not the input's
        assert counted(partial(attempt, target, data)) < CALLS, path


CHANGE = st.tuples(
    st.integers(0, 10**6),
    st.integers(0, 40),
    st.just(b"") | st.sampled_from(PIECES) | st.binary(max_size=4) | st.integers(2, 30),
)


def changed(data: bytes, changes: list[tuple[int, int, bytes | int]]) -> bytes:
    """With some pieces cut, replaced or repeated."""
    for place, length, instead in changes:
        at = place % (len(data) + 1)
        piece = data[at : at + length]
        data = data[:at] + (instead if isinstance(instead, bytes) else piece * instead) + data[at + length :]
    return data


@pytest.mark.parametrize("target", TARGETS)
def test_variations_of_the_corpus(target: str) -> None:
    kept = [path.read_bytes() for path in FILES if path.parent.name == target]

    @settings(max_examples=60)
    @given(st.sampled_from(kept), st.lists(CHANGE, max_size=4))
    def vary(data: bytes, changes: list[tuple[int, int, bytes | int]]) -> None:
        attempt(target, changed(data, changes))

    vary()


def test_the_corpus_is_small_enough_to_keep() -> None:
    assert sum(Path(path).stat().st_size for path in FILES) < 4 * 1024 * 1024
