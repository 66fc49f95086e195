"""All that parses bytes from outside, fed with the kept corpus and with variations of it."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dev.fuzz import CORPUS, TARGETS, attempt

FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
PIECES = [b"{", b"[", b"]", b"}", b'"', b"null", b"1e999", b"-0", b"\\u0000", b"\xff", b"\x00", b",", b":", b'"value"']
SECONDS = 2.0  # for the slowest of them on a busy machine: none may hang


def test_every_target_has_a_corpus() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_the_whole_corpus_against_every_target(target: str) -> None:
    for path in FILES:
        begun = time.process_time()
        attempt(target, path.read_bytes())
        assert time.process_time() - begun < SECONDS, path


@st.composite
def variations(draw: st.DrawFn, target: str) -> bytes:
    """A file of a target's corpus with some cuts, copies and insertions."""
    data = bytearray(draw(st.sampled_from([path for path in FILES if path.parent.name == target])).read_bytes())
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(at + 40, len(data))))
        match draw(st.integers(0, 2)):
            case 0:
                del data[at:to]
            case 1:
                data[at:at] = draw(st.sampled_from(PIECES) | st.binary(max_size=4))
            case _:
                data[at:at] = data[at:to] * draw(st.integers(1, 30))
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS)
def test_variations_of_the_corpus(target: str) -> None:
    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(variations(target))
    def vary(data: bytes) -> None:
        attempt(target, data)

    vary()


def test_the_corpus_is_small_enough_to_keep() -> None:
    assert sum(Path(path).stat().st_size for path in FILES) < 4 * 1024 * 1024
