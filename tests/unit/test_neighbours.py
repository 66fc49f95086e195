"""An item that cannot be read costs no other: the others are delivered, once."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from dev.simulation.storage_model import START
from dev.simulator import Kind, Options, build
from dev.simulator.crypto import Recipient, encrypt
from shared.call_records.coverage import Gap
from shared.call_records.fetch import CallRecordFetch
from shared.call_records.listing import CallRecords
from shared.subscriptions.lifecycle import Handled, LifecycleMessages
from shared.values import resources
from shared.values.envelope import RawMessage, pack
from shared.values.events.event_types import parse
from shared.values.resources import LIFECYCLE_QUEUE, RAW_QUEUE
from tests.fakes import event_from
from tests.keys import PAIR
from tests.unit.model_graph import TENANT, VirtualClock
from tests.unit.test_call_record_fetch import Records
from tests.unit.test_retries import CERTIFICATE_ID, World, basic, put, rich

TOO_LARGE = b"1e999"  # a number by JSON's grammar, which no float holds


@pytest.mark.parametrize("kind", [Kind.EMERGENCY_NESTED, Kind.EMERGENCY_FLAT])
@pytest.mark.parametrize("name", [b"x", b"latitude", b"eventType"])
def test_a_number_that_no_float_holds_does_not_hide_an_emergency(kind: Kind, name: bytes) -> None:
    at = datetime.fromisoformat("2025-01-01T10:00:00+00:00")
    payload = json.dumps(build(kind, Options(at=at)).content).encode()
    odd = b'"%b":%b,' % (name, TOO_LARGE)
    plaintext = b"{" + odd + payload[1:].replace(b'"emergencyCallEvent": {', b'"emergencyCallEvent": {' + odd)
    found = event_from({"resource": resources.emergency_path("P")}, plaintext)
    assert found.type == "Microsoft.Graph.EmergencyCallStarted"
    assert (found.data, parse(found.to_json())[0].time) == (plaintext, at)


async def test_what_decrypted_content_holds_costs_its_own_item_alone() -> None:
    world = World()
    plain = b'{"@odata.type":"#microsoft.graph.callEvent","id":"odd","x":%b}' % TOO_LARGE
    odd = rich("odd") | {"encryptedContent": encrypt(plain, Recipient.of(PAIR, CERTIFICATE_ID))}
    await put(world, rich("a"), odd, basic("b"))
    await world.run()
    found = Counter(
        event.type
        for queue in world.storage.messages
        for one in world.storage.messages[queue]
        for event in parse(one.text)
    )
    assert sum(found.values()) == 3
    assert world.parked() == []


async def test_an_item_that_cannot_be_read_is_parked_beside_what_is_well() -> None:
    world = World()
    odd = json.dumps(basic("odd")).encode().replace(b'"id"', b'"x": %b, "id"' % TOO_LARGE)
    raws = [json.dumps(basic("a")).encode(), odd, json.dumps(rich("b")).encode()]
    (message,) = pack(raws, delivery_id="d", received=START, traceparent="00-t")
    await world.storage.raw_messages.put(RAW_QUEUE, message)
    await world.run()
    assert world.events() == Counter("ab")
    (parked,) = world.parked()
    assert (parked["reason"], parked["attempts"]) == ("item-malformed", 1)


async def test_an_envelope_without_offset_is_handled_like_any_other() -> None:
    world = World(vault_until=START + timedelta(minutes=5))
    (message,) = pack([json.dumps(rich("a")).encode()], delivery_id="d", received=START, traceparent="00-t")
    naive = message.body.replace(b'"received":"2026-01-01T00:00:00Z"', b'"received":"2026-01-01T00:00:00"')
    assert naive != message.body
    await world.storage.queues.put(RAW_QUEUE, naive, "base64")
    await world.run()
    assert world.events() == {"a": 1}


class Lists:
    """Graph's client with one page of a list."""

    async def get(self, url: str, tenant_id: str, *, limiter: Any) -> Mapping[str, Any]:
        return {"value": [{"id": "a"}, {"version": 1}, 7, {"id": ""}, {"id": "b"}]}


async def test_a_record_without_an_id_holds_up_no_other_of_its_list() -> None:
    clock = VirtualClock()
    reader = CallRecords(Lists(), "https://graph.example", clock)  # type: ignore[arg-type]
    page = await reader.page(TENANT, Gap(START, START).steps((), START)[0], None)
    assert [record.id for record in page.records] == ["a", "b"]


@pytest.mark.parametrize("record", [b'{"x":1e999}', b'{"id":1e999}', b'{"id":7}', b"[]", b"7", b'{"id":"a","x":1e999}'])
async def test_a_notification_that_names_no_record_holds_up_no_other(record: bytes) -> None:
    world = World()
    fetch = CallRecordFetch(Records({"a": 1, "b": 1}), {TENANT})  # type: ignore[arg-type]
    items = [
        b'{"changeType":"created","tenantId":"%b","resource":"communications/callRecords","resourceData":%b}'
        % (TENANT.encode(), data)
        for data in (b'{"id":"a"}', record, b'{"id":"b"}')
    ]
    for message in pack(items, delivery_id="d", received=START, traceparent="00-t"):
        await world.storage.raw_messages.put(RAW_QUEUE, message)
    (message,) = world.storage.messages[RAW_QUEUE]
    decryptor = replace(world.decryptor(), enrichment=fetch)
    await decryptor.handle(message.body, queue=RAW_QUEUE, attempts=1)
    assert set(world.events()) == {"a", "b"}
    assert set(world.events().values()) == {1}


class Handler:
    """Acts on lifecycle notifications, and meets a fault of ours at one of them."""

    def __init__(self) -> None:
        self.handled: list[str] = []

    async def handle(self, item: dict[str, Any]) -> Handled:
        if item["subscriptionId"] == "bad":
            raise ZeroDivisionError("+49 89 1234567")
        self.handled.append(item["subscriptionId"])
        return Handled.RENEWED


async def test_a_lifecycle_notification_that_meets_a_fault_of_ours_is_parked_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world, handler = World(), Handler()
    raws = [json.dumps({"subscriptionId": name}).encode() for name in ("a", "bad", "b")]
    (message,) = pack(raws, delivery_id="d", received=START, traceparent="00-t")
    messages = LifecycleMessages(world.storage.raw_messages, handler)
    await messages.handle(RawMessage.of(message.envelope).body.decode(), queue=LIFECYCLE_QUEUE, attempts=1)
    assert handler.handled == ["a", "b"]
    assert [(one["reason"], one["error"]) for one in world.parked()] == [("unexpected", "ZeroDivisionError")]
    assert "1234567" not in caplog.text
