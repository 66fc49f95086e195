"""The body of a POST: what of it is ours, what is refused, and how much work strangers can cause."""

import bisect
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.hostile import SIZES, bodies, presence_items
from shared.notifications.collection import MAX_NON_OBJECTS, ClientStates, Collection, parse_collection
from shared.values.errors import MalformedInputError, OversizedBodyError
from shared.values.items import parse_item
from tests.unit.test_notifications import JSON_VALUES

OURS = ClientStates(["right"])
TEXTS = {
    "empty-body": "the body is empty",
    "not-json": "the body is not JSON in UTF-8",
    "not-utf-8": "the body is not UTF-8",
    "shape": "the body is not a change notification collection: an object with an array named value",
}
MINE = b'{"clientState":"right"}'


def parse(body: bytes) -> Collection:
    return parse_collection(body, OURS)


def of(*elements: bytes) -> bytes:
    return b'{"value":[' + b",".join(elements) + b"]}"


@pytest.mark.parametrize("first", [b"[1]", b'[{"x":1},null]'])
@pytest.mark.parametrize("other", [b"", b'{"x":"\\ud83d"},'])
def test_of_two_values_the_last_counts_whatever_the_first_holds(first: bytes, other: bytes) -> None:
    found = parse(b'{"value":%b,"value":[%b%b]}' % (first, other, MINE))
    assert [bytes(found.raws[place]) for place in found.authentic] == [MINE]
    assert found.malformed == 0


@pytest.mark.parametrize("state", [b"right", b"wrong"])
def test_no_depth_of_nesting_ends_otherwise_than_in_a_refusal(state: bytes) -> None:
    def read(depth: int) -> bool:
        try:
            found = parse(b'{"value":[{"clientState":"%b","x":%b%b}]}' % (state, b"[" * depth, b"]" * depth))
            found.foreign_ids(5)
            return len(found.raws) == 1
        except MalformedInputError:
            return False

    refused = bisect.bisect(range(14_000), False, key=lambda depth: not read(depth))
    assert refused > 100
    for depth in range(refused - 10, refused + 10):
        read(depth)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty-body"),
        (b" \r\n", "empty-body"),
        (b"hello", "not-json"),
        (b'{"value":[', "not-json"),
        (b'{"value":[]} x', "not-json"),
        (b'{"value":[{"a":\x00}]}', "not-json"),
        (b'{"value":[{"a":NaN}]}', "not-json"),
        (b'{"value":[{"a":1,}]}', "not-json"),
        (b'{"value":[1,{"a":1,}]}', "not-json"),
        (b"\x1f\x8b\x08\x00", "not-json"),
        (b'{"value":[{"clientState":"right","resource":"\xff"}]}', "not-utf-8"),
        (b'{"value":[{"clientState":"right"}],"x":"\xc3\x28"}', "not-utf-8"),
        (b"[]", "shape"),
        (b"null", "shape"),
        (b"7", "shape"),
        (b"{}", "shape"),
        (b'{"value":null}', "shape"),
        (b'{"value":{}}', "shape"),
        (b'{"value":[],"validationTokens":"x"}', "shape"),
        (b'{"value":[1],"validationTokens":7}', "shape"),
        (b'{"value":' + b"[" * 10_000, "not-json"),
        (b'{"value":[' + b'{"a":' * 10_000, "not-json"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_body_that_is_no_collection(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedInputError) as caught:
        parse(body)
    assert caught.value.reason == reason
    assert str(caught.value) == TEXTS[reason]


def test_a_byte_order_mark_is_no_reason_to_refuse() -> None:
    assert parse(b"\xef\xbb\xbf" + of(MINE)).authentic == (0,)


def test_the_seeds_sample_without_its_wrapper_is_no_collection() -> None:
    with pytest.raises(MalformedInputError):
        parse(b'{"@odata.type":"#microsoft.graph.changeNotification","changeType":"updated"}')


def test_all_items_are_kept_as_they_came() -> None:
    raws = [json.dumps({"subscriptionId": str(n), "unknown": {"n": [n]}}, indent=n).encode() for n in range(5)]
    assert [bytes(raw) for raw in parse(b'{"value":[' + b" , ".join(raws) + b"]}").raws] == raws


def test_tokens_are_kept_once_and_in_order() -> None:
    tokens = parse(b'{"value":[],"validationTokens":["b","a","b",7,null,{"c":1}]}').validation_tokens
    assert (tokens(3), tokens(2), tokens(1)) == (("b", "a"), ("b", "a"), None)
    assert parse(b'{"value":[],"validationTokens":null}').validation_tokens(0) == ()
    assert parse(b'{"value":[]}').validation_tokens(0) == ()


@settings(max_examples=100)
@given(st.binary() | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_collection_or_a_clear_error(body: bytes) -> None:
    with suppress(MalformedInputError):
        parse(body)


ITEMS = st.dictionaries(st.sampled_from(["clientState", "id", "a"]), JSON_VALUES | st.just("right"))


@settings(max_examples=50)
@given(st.lists(ITEMS, max_size=6))
def test_the_authentic_are_those_whose_state_is_right_and_no_other(elements: list[dict[str, Any]]) -> None:
    found = parse(json.dumps({"value": elements}).encode())
    right = tuple(place for place, one in enumerate(elements) if one.get("clientState") == "right")
    assert (found.authentic, found.count, found.foreign) == (right, len(elements), len(elements) - len(right))


# --- the secret -----------------------------------------------------------------------------------------------------


def authentic(state: object, accepted: list[str]) -> bool:
    body = json.dumps({"value": [{"clientState": state}]}).encode()
    return parse_collection(body, ClientStates(accepted)).authentic == (0,)


@pytest.mark.parametrize(
    "state", [None, "", "wrong", "rightx", "right ", "Right", "right\0", 7, ["right"], {"right": 1}, True, "\ud800"]
)
def test_client_state_that_is_wrong(state: object) -> None:
    assert not authentic(state, ["right"])


def test_client_state_that_is_missing() -> None:
    assert parse(of(b"{}", b'{"a":{"clientState":"right"}}')).authentic == ()


@pytest.mark.parametrize(
    ("state", "accepted", "right"),
    [
        *((state, ["new", "old"], state != "older") for state in ("new", "old", "older")),  # while it is rotated
        *(("", accepted, False) for accepted in ([""], [])),  # none of ours accepts none of theirs
        (None, [], False),
    ],
)
def test_client_states_that_are_accepted(state: object, accepted: list[str], right: bool) -> None:
    assert authentic(state, accepted) is right


@settings(max_examples=100)
@given(st.text(min_size=1, max_size=128), st.booleans())
def test_client_state_in_every_spelling(state: str, ascii_only: bool) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in state):
        return  # no text, so no setting
    escaped = "".join(f"\\u{unit:04x}" for unit in _utf_16(state))
    for spelled in (json.dumps(state, ensure_ascii=ascii_only), f'"{escaped}"'):
        body = f'{{"value":[{{"clientState" : {spelled} }}]}}'.encode()
        assert parse_collection(body, ClientStates([state])).authentic == (0,)
        assert parse_collection(body, ClientStates([state + "x"])).authentic == ()


def _utf_16(text: str) -> list[int]:
    data = text.encode("utf-16-be")
    return [int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2)]


def test_foreign_items_never_stop_the_reading() -> None:
    found = parse(of(*[b'{"clientState":"theirs"}'] * 5000, MINE))
    assert (found.authentic, found.foreign) == ((5000,), 5000)


def test_some_of_the_foreign_are_named() -> None:
    items = [b'{"subscriptionId":"s%d"}' % n for n in range(9)]
    assert parse(of(items[0], MINE, *items[1:])).foreign_ids(3) == ["s0", "s1", "s2"]
    assert parse(of(b'{"resourceData":1e999}', items[0])).foreign_ids(3) == ["s0"]


# --- what is no object ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [b"1", b'"x"', b"null", b"[]", b"true", b"1e999", b"[[1,2],{}]", b'{"value":1}'])
def test_elements_that_are_no_objects_are_left_out_and_do_not_harm_the_others(odd: bytes) -> None:
    body = b'{"validationTokens":["t"],"value":[' + b",".join([odd, b'{"id":"a"}', b" " + odd + b"\n", MINE]) + b"]}"
    found = parse(body)
    assert [parse_item(bytes(found.raws[place])).notification.client_state for place in found.authentic] == ["right"]
    assert (found.malformed, found.validation_tokens(1)) == (0 if odd[:1] == b"{" else 2, ("t",))


def test_a_hundred_elements_that_are_no_objects_and_one_more() -> None:
    assert parse(of(*[b"1"] * MAX_NON_OBJECTS, MINE)).authentic == (MAX_NON_OBJECTS - MAX_NON_OBJECTS,)
    with pytest.raises(OversizedBodyError):
        parse(of(*[b"1"] * (MAX_NON_OBJECTS + 1), MINE))


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_four_mebibytes_of_the_smallest_notifications_are_taken() -> None:
    items = presence_items(4 * 1024 * 1024, "right")
    body = of(*items)
    assert len(items) >= 8191
    assert len(parse(body).authentic) == len(items)


def test_items_that_each_echo_a_filter_of_650_ids_are_taken() -> None:
    listed = ",".join(f"'{number:08x}-20ae-4093-8dae-3ec09edeb253'" for number in range(650))
    item = json.dumps({"clientState": "right", "resource": f"communications/presences?$filter=id in ({listed})"})
    assert len(parse(of(*[item.encode()] * 150)).authentic) == 150
    escaped = item.encode().replace(b"'", b"\\u0027")  # as some writers of JSON spell it
    count = 4 * 1024 * 1024 // (len(escaped) + 1)
    assert len(parse(of(*[escaped] * count)).authentic) == count


def test_a_lifecycle_notification_of_each_subscription_that_an_organization_may_have_is_taken() -> None:
    item = {
        "subscriptionId": "11111111-20ae-4093-8dae-3ec09edeb253",
        "subscriptionExpirationDateTime": "2026-01-01T00:00:00.0000000Z",
        "tenantId": "22222222-20ae-4093-8dae-3ec09edeb253",
        "clientState": "right",
        "lifecycleEvent": "missed",
    }
    raw = json.dumps(item, separators=(",", ":")).encode()
    assert len(parse(of(*[raw] * 10_000)).authentic) == 10_000


def test_white_space_as_a_person_sends_it_is_taken() -> None:
    items = [json.loads(raw) for raw in presence_items(1024 * 1024, "right")]
    assert len(parse(json.dumps({"value": items}, indent=4).encode()).authentic) == len(items)


@pytest.mark.parametrize("size", [180_000, 4 * 1024 * 1024])
@pytest.mark.parametrize("mark", [b"1,", b"{},", b"[[]],", b'{"a":1},'])
def test_a_body_of_marks_is_refused_wherever_they_stand(size: int, mark: bytes) -> None:
    half = b'{"a":"' + b"x" * (size // 2) + b'"}'
    marks = (mark * (size // 2 // len(mark)))[:-1]
    for body in (of(marks), of(half, marks), of(marks, half)):
        with pytest.raises(OversizedBodyError):
            parse(body)


@settings(max_examples=25)
@given(st.integers(4, 64))
def test_no_period_hides_marks_from_the_sample(period: int) -> None:
    element = b'"' + b"x" * (period - 3) + b'",'
    body = b'{"value":[{"a":[' + element * (1024 * 1024 // len(element)) + b"1]}]}"
    marks, allowed = body.count(b",") + 4, 32_768 + len(body) // 60
    try:
        parse(body)
    except OversizedBodyError:
        assert marks > allowed
    else:
        assert marks < 1.5 * allowed


@pytest.mark.parametrize("filler", [b" ", b"\n", b"\r\n", b"\t"])
def test_marks_among_much_white_space_are_refused_sooner_than_among_text(filler: bytes) -> None:
    def elements(start: bytes, stop: bytes) -> bytes:
        return b'{"value":[{"a":[' + b",".join([start + filler * (60 // len(filler)) + stop] * 65_000) + b"]}]}"

    assert parse(elements(b'"', b'"').replace(filler, b"x" * len(filler))).count == 1
    with pytest.raises(OversizedBodyError) as caught:
        parse(elements(b"1", b""))
    assert caught.value.reason == "body-too-dense"


def state_of_escapes(number: int) -> bytes:
    return b'{"clientState":"\\n%d"}' % number


def test_a_thousand_wrong_client_states_with_escapes_and_one_more() -> None:
    mine = b'{"clientState":"\\u0072ight"}'
    wrong = [state_of_escapes(10_000 + number) for number in range(1_001)]
    plain = [b'{"clientState":"%s"}' % (b"x" * length) for length in range(60)]
    found = parse(of(*plain, *wrong[:500], mine, *wrong[500:1_000], mine, *[MINE] * 2_000, *plain))
    assert [place for place in found.authentic if place < 1_100] == [560, 1_061, *range(1_062, 1_100)]
    assert len(found.authentic) == 2_002
    with pytest.raises(OversizedBodyError) as caught:
        parse(of(*wrong, mine))
    assert caught.value.reason == "escaped-client-states"


def test_any_number_of_items_may_spell_our_client_state_with_escapes() -> None:
    items = presence_items(4 * 1024 * 1024, "'right'")
    body = of(*items).replace(b"'right'", b"\\u0027right\\u0027")[: -len("]}")]
    whole = body[: body.rfind(b'{"subscriptionId"', 0, 4 * 1024 * 1024) - 1] + b"]}"
    found = parse_collection(whole, ClientStates(["'right'"]))
    assert len(found.authentic) == found.count > 8_000


def counted(work: Callable[[], object]) -> int:
    """The calls that the interpreter makes meanwhile, of functions in C included."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        with suppress(MalformedInputError):
            work()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("name", bodies(1000))
def test_what_a_stranger_sends_is_little_work(name: str) -> None:
    """As many calls as five for each of the items that 4 MiB may hold, however the body is made."""
    for size in SIZES:
        body = bodies(size)[name]()
        assert counted(partial(parse, body)) <= 5 * min(len(body) // 3, 8_192 + len(body) // 1024) + 2500, size
