"""Collections as Graph posts them, and the raw messages that carry their items."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.values import resources
from shared.values.envelope import RawMessage, pack, parse_envelope
from shared.values.errors import MalformedInputError
from shared.values.items import ChangeNotification, parse_item
from shared.values.message_text import QUEUE_MESSAGE_BYTES

RECEIVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
_FLAT = _SCALARS | st.lists(_SCALARS, max_size=3) | st.dictionaries(st.text(max_size=8), _SCALARS, max_size=3)
JSON_VALUES = _FLAT | st.lists(_FLAT, max_size=2)  # a recursive strategy takes ten times as long to draw from


def notification(**fields: Any) -> ChangeNotification:
    return parse_item(json.dumps(fields).encode()).notification


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "id",
                "clientState",
                "resource",
                "tenantId",
                "encryptedContent",
                "changeType",
                "lifecycleEvent",
                "resourceData",
                "organizationId",
            ]
        ),
        JSON_VALUES,
        max_size=4,
    )
)
def test_any_field_of_any_type_has_a_raw_queue(fields: dict[str, Any]) -> None:
    try:
        found = notification(**fields)
    except MalformedInputError:
        return  # a number beyond 64 bits
    assert set(found.queues) <= set(resources.RAW_QUEUES)
    assert found.queues
    assert found.needs_token in {True, False}
    assert found.tenant is None or isinstance(found.tenant, str)


EMERGENCY = "communications/calls/getEmergencyEventsByPolicy(policyName='P')"


@pytest.mark.parametrize(
    ("fields", "queues"),
    [
        ({"changeType": "updated", "resource": EMERGENCY}, ("raw-emergency",)),
        ({"changeType": "updated", "resource": "/" + EMERGENCY.upper()}, ("raw-emergency",)),
        (
            {"changeType": "updated", "resourceData": {"@odata.type": "#Microsoft.Graph.EmergencyCallEvent"}},
            ("raw-emergency",),
        ),
        ({"changeType": "updated", "resource": "communications/callRecords/1"}, ("raw-notifications",)),
        ({"changeType": "updated", "resource": "chats/1"}, ("raw-notifications",)),
        ({}, ("raw-notifications",)),
        ({"lifecycleEvent": "missed", "resource": EMERGENCY}, ("lifecycle-notifications",)),
        ({"lifecycleEvent": None, "changeType": "updated"}, ("raw-notifications",)),
        ({"lifecycleEvent": "missed", "changeType": None}, ("lifecycle-notifications",)),
        ({"lifecycleEvent": "missed", "changeType": "updated"}, ("lifecycle-notifications", "raw-notifications")),
    ],
)
def test_raw_queues(fields: dict[str, Any], queues: tuple[str, ...]) -> None:
    assert notification(**fields).queues == queues


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({"encryptedContent": {"data": "x"}}, True),
        ({"encryptedContent": []}, True),
        ({"encryptedContent": None}, False),
        ({"resource": EMERGENCY}, True),
        ({"resource": "/users/1/communications/callEvents"}, True),
        ({"resource": "communications/presences/1"}, False),
        ({"resource": "communications/callRecords/1"}, False),
        ({"lifecycleEvent": "reauthorizationRequired", "resource": EMERGENCY}, False),
        ({"lifecycleEvent": "missed", "resource": EMERGENCY, "encryptedContent": {"data": "x"}}, False),
        ({"lifecycleEvent": "missed", "changeType": "updated", "resource": EMERGENCY}, True),
        ({"lifecycleEvent": None, "resource": EMERGENCY}, True),
    ],
)
def test_what_needs_a_token(fields: dict[str, Any], needed: bool) -> None:
    assert notification(**fields).needs_token is needed


def test_the_tenant_is_tenant_id_else_organization_id() -> None:
    assert notification(tenantId="A", organizationId="B").tenant == "a"
    assert notification(organizationId="B").tenant == "b"
    assert notification(tenantId="", organizationId="B").tenant == "b"
    assert notification(tenantId=7).tenant is None


def test_what_belongs_together_goes_into_one_message() -> None:
    raws = [json.dumps({"id": str(n)}).encode() for n in range(40)]
    (message,) = pack(raws, delivery_id="d", received=RECEIVED, traceparent=TRACE)
    envelope = parse_envelope(message.body)
    assert [bytes(raw) for raw in envelope.notifications] == raws
    assert (envelope.received, envelope.traceparent, envelope.item_id(39)) == (RECEIVED, TRACE, "d-39")


@settings(max_examples=60)
@given(st.lists(st.integers(0, 60_000), max_size=30))
def test_packing_keeps_all_in_order_and_within_the_limit(sizes: list[int]) -> None:
    raws = [b'{"x":"%b"}' % (b"x" * size) for size in sizes]
    messages = pack(raws, delivery_id="d" * 32, received=RECEIVED, traceparent=TRACE)
    unpacked, names = [], []
    for message in messages:
        ticket = RawMessage.of(message.envelope.ticket("2026/01/01/q/c.json"))
        put = ticket if message.needs_claim_check else message
        assert len(base64.b64encode(put.body)) <= QUEUE_MESSAGE_BYTES
        envelope = parse_envelope(message.body)
        assert parse_envelope(put.body).item_id(0) == envelope.item_id(0)
        unpacked += [bytes(raw) for raw in envelope.notifications]
        names += [envelope.item_id(index) for index in range(len(envelope.notifications))]
    assert unpacked == raws
    assert names == [f"{'d' * 32}-{n}" for n in range(len(raws))]


BRIM = range(48_900, 48_960)  # bytes of notifications around which a message with an envelope as below is full
WIRE = b'{"v":1,"id":"d","received":"2026-01-02T03:04:05Z","traceparent":"%b",%b"notifications":[%b]}'
PUT_BACK = b'"attempts":100000,"failing_since":"2026-01-01T00:00:00.000000Z",'


def fits_when_put_back(raws: list[bytes], first: bytes = b"") -> bool:
    wire = WIRE % (TRACE.encode(), first, b",".join(raws))
    return len(base64.b64encode(wire)) + len(base64.b64encode(PUT_BACK)) <= QUEUE_MESSAGE_BYTES


def packed(raws: list[bytes]) -> list[tuple[int, bool]]:
    """Of each message: how many of them it holds, and whether in a blob."""
    messages = pack(raws, delivery_id="d", received=RECEIVED, traceparent=TRACE)
    return [(len(parse_envelope(message.body).notifications), message.needs_claim_check) for message in messages]


def of_bytes(count: int) -> bytes:
    return b'{"x":"%b"}' % (b"x" * (count - 8))


def test_a_message_is_filled_to_the_last_byte_with_which_it_can_still_be_put_back() -> None:
    seen = set()
    for size in BRIM:
        raws = [b"{}", of_bytes(40_000), of_bytes(size - 40_004)]
        fits = fits_when_put_back(raws)
        assert packed(raws) == ([(3, False)] if fits else [(2, False), (1, False)])
        seen.add(fits)
    assert seen == {True, False}


def test_so_is_a_message_that_is_not_the_first() -> None:
    seen = set()
    for size in BRIM:
        raws = [b"{}", of_bytes(40_000), of_bytes(size - 40_004)]
        fits = fits_when_put_back(raws, b'"first":1,')
        assert packed([of_bytes(60_000), *raws]) == [(1, True), *([(3, False)] if fits else [(2, False), (1, False)])]
        seen.add(fits)
    assert seen == {True, False}


def test_one_by_itself_stays_out_of_a_blob_up_to_the_same_byte() -> None:
    claims = {size: packed([of_bytes(size)]) == [(1, True)] for size in BRIM}
    assert claims == {size: not fits_when_put_back([of_bytes(size)]) for size in BRIM}
    assert set(claims.values()) == {True, False}


def test_only_what_was_missed_says_that_it_was_made_up() -> None:
    for backfilled in (True, False):
        (message,) = pack([b"{}"], delivery_id="d", received=RECEIVED, traceparent=TRACE, backfilled=backfilled)
        assert parse_envelope(message.body).backfilled is backfilled
    (message,) = pack([b"{}"], delivery_id="d", received=RECEIVED, traceparent=TRACE)
    assert message.body == WIRE % (TRACE.encode(), b"", b"{}")


def test_only_what_is_too_large_by_itself_becomes_a_claim_check() -> None:
    large = b'{"x":"%b"}' % (b"x" * 60_000)
    messages = pack([b"{}", large, b"{}"], delivery_id="d", received=RECEIVED, traceparent=TRACE)
    assert [message.needs_claim_check for message in messages] == [False, True, False]


@pytest.mark.parametrize(
    "text",
    ["", "x", "{}", "[]", "null", '{"v":2,"id":"a","received":"2026-01-01T00:00:00Z","traceparent":""}', "[" * 10**6],
    ids=lambda text: text[:20],
)
def test_text_that_is_no_raw_message(text: str) -> None:
    with pytest.raises(MalformedInputError):
        parse_envelope(text)
