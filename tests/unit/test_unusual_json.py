"""JSON that is valid by its grammar, and that parsers refuse."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.values import resources
from shared.values.errors import MalformedInputError
from shared.values.events.event_types import EventError, parse
from shared.values.events.unusual_json import MAX_LONE_ESCAPES, replace_lone_surrogates
from shared.values.message_text import join
from tests.fakes import event_from

SAMPLE = (Path(__file__).parents[1] / "samples/unusual/lone-surrogate-escape.json").read_bytes().strip()
CALL = {"resource": resources.call_events_path("u")}


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (rb'"x\ud83d"', rb'"x\ufffd"'),
        (rb'"\ud83d"', rb'"\ufffd"'),
        (rb'"\uDE00 x"', rb'"\ufffd x"'),
        (rb'"\ud83d\ud83d\ude00"', rb'"\ufffd\ud83d\ude00"'),
        (rb'"\ud83d\u0041"', rb'"\ufffd\u0041"'),
        (rb'"\ud83d\n"', rb'"\ufffd\n"'),
        (rb'"\ude00\ud83d"', rb'"\ufffd\ufffd"'),
        (rb'"\\\ud83d"', rb'"\\\ufffd"'),
        (rb'"\\ud83d"', rb'"\\ud83d"'),
        (rb'"\\ud83d\ude00"', rb'"\\ud83d\ufffd"'),
        (rb'{"\ud83d":"\ude00"}', rb'{"\ufffd":"\ufffd"}'),
        (rb'"\ud83d\ude00"', rb'"\ud83d\ude00"'),
    ],
)
def test_half_a_pair_is_replaced_and_nothing_else(text: bytes, mended: bytes) -> None:
    assert replace_lone_surrogates(text) == mended
    assert msgspec.json.decode(mended) is not None


@pytest.mark.parametrize(
    "text", [rb'{"a":"\ud83d"', rb'"\ud83d\uzzzz"', b"x", b"", rb'"\ud83', b'"\xff\\ud8', b"[" * 5000]
)
def test_what_is_no_json_comes_back_as_it_is(text: bytes) -> None:
    assert replace_lone_surrogates(text) is text


def test_a_hundred_and_no_more() -> None:
    most = b"[" + b",".join([rb'"\ud83d"'] * MAX_LONE_ESCAPES) + b"]"
    assert replace_lone_surrogates(most).count(rb"\ufffd") == MAX_LONE_ESCAPES
    more = most[:-1] + rb',"\ud83d"]'
    assert replace_lone_surrogates(more) is more


UNITS = st.sampled_from([0x41, 0x5C, 0x22, 0xD83D, 0xDE00, 0xD800, 0xDFFF, 0xFFFF, 0x0A])


@settings(max_examples=150)
@given(st.lists(st.tuples(UNITS, st.booleans()), max_size=12))
def test_as_python_reads_it(units: list[tuple[int, bool]]) -> None:
    """Python's parser makes a lone surrogate of each; so do we, but for the letter."""
    text = '"' + "".join(_spelled(*unit) for unit in units) + '"'
    read = json.loads(text)
    expected = "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in read)
    assert msgspec.json.decode(replace_lone_surrogates(text.encode())) == expected


def _spelled(unit: int, escaped: bool) -> str:
    if escaped or unit >= 0xD800 or unit < 0x20:
        return f"\\u{unit:04x}"
    return json.dumps(chr(unit))[1:-1]


def test_content_with_half_a_pair_is_delivered_as_it_came() -> None:
    event = event_from(CALL, SAMPLE)
    assert (event.type, event.data) == ("Microsoft.Graph.CallRosterUpdated", SAMPLE)


def test_an_emergency_with_half_a_pair_is_an_emergency() -> None:
    plaintext = rb'{"emergencyCallEvent":{"callEventType":"callStarted","policyName":"\ud83d"}}'
    event = event_from({"resource": resources.emergency_path("P")}, plaintext)
    assert (event.type, event.data) == ("Microsoft.Graph.EmergencyCallStarted", plaintext)


def test_consumers_can_read_it_and_its_neighbours() -> None:
    bodies = [event_from(CALL, content).to_json() for content in (SAMPLE, b'{"eventType":"callStarted"}')]
    (alone,) = parse(bodies[0])
    first, second = parse(join(bodies))
    for event in (alone, first):
        (participant,) = event.typed().participants_delta  # type: ignore[union-attr]
        assert participant.info.identity.user.display_name == "Kim \ufffd"
    assert second.type == "Microsoft.Graph.CallStarted"
    assert second.typed()
    assert alone.typed(SAMPLE)


def test_what_is_malformed_besides_stays_malformed() -> None:
    with pytest.raises(MalformedInputError):
        event_from(CALL, rb'{"a":"\ud83d"')
    with pytest.raises(EventError):
        parse(rb'{"id":"\ud83d"}')
