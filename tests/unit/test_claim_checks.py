"""Claim checks: one item, one blob, one end; and those that a crash has left without a message."""

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from shared.notifications.raw_messages import CLAIM_CHECKS_CONTAINER, HANDLED_CONTAINER
from shared.values.envelope import Envelope, RawMessage
from shared.values.message_text import QUEUE_MESSAGE_BYTES, encode
from shared.values.resources import LIFECYCLE_QUEUE, RAW_QUEUE, RAW_QUEUES
from tests.unit.test_retries import START, World, holding, put, rich

NOW = datetime(2026, 3, 10, 3, 20, tzinfo=UTC)
EMERGENCY = "communications/calls/getEmergencyEventsByPolicy(policyName='x')"
DAY = timedelta(days=1)


def claim(name: str, **item: object) -> bytes:
    body = {"v": 1, "id": name, "first": 7, "received": "2026-03-01T00:00:00Z", "traceparent": "t"}
    return json.dumps(body | {"notifications": [{"resource": "x", "changeType": "created", **item}]}).encode()


async def swept(world: World) -> list[tuple[str, str, str]]:
    """Sweep, and tell the messages that wait: queue, id and claim."""
    await world.storage.raw_messages.sweep()
    found = []
    for queue in RAW_QUEUES:
        for message in world.storage.messages[queue]:
            ticket = json.loads(message.body)
            assert "notifications" not in ticket
            found.append((queue, ticket["id"], ticket["claim"]))
    return found


async def test_only_the_old_ones_get_a_message_each_on_the_queue_of_their_name_or_else_of_their_item() -> None:
    world = World()
    for day, name, body in (
        (1, "2026/03/01/a-7.json", claim("a")),
        (7, "2026/03/07/b-7.json", claim("b", resource=EMERGENCY)),
        (7, "2026/03/07/raw-call-records/e.json", claim("e")),
        (8, "2026/03/08/c-7.json", claim("c")),
        (10, "2026/03/10/d-7.json", claim("d")),
        (9, "2026/03/01/f-7.json", claim("f")),  # put back yesterday
    ):
        world.storage.now = datetime(2026, 3, day, tzinfo=UTC)
        await world.storage.blobs.put(CLAIM_CHECKS_CONTAINER, name, body)
    world.storage.now = NOW
    assert sorted(await swept(world)) == [
        ("raw-call-records", "e", "2026/03/07/raw-call-records/e.json"),
        ("raw-emergency", "b", "2026/03/07/b-7.json"),
        ("raw-notifications", "a", "2026/03/01/a-7.json"),
    ]
    assert len(world.claims()) == 6  # deleted by whoever handles the message


async def test_what_is_no_claim_check_is_left() -> None:
    world = World()
    await world.storage.blobs.put(CLAIM_CHECKS_CONTAINER, "2025/01/01/x", b"x")
    await world.storage.blobs.put(CLAIM_CHECKS_CONTAINER, "2025/01/01/y", claim("y").replace(b'[{"', b'[]}{"'))
    world.storage.now = NOW
    assert await swept(world) == []
    assert len(world.claims()) == 2


async def test_a_message_that_comes_too_late_finds_that_all_is_done() -> None:
    world = await holding(rich("a", size=100_000))
    (late,) = world.storage.messages[RAW_QUEUE]
    world.storage.now += 3 * DAY
    await world.storage.raw_messages.sweep()
    (_, swept) = world.storage.messages[RAW_QUEUE]
    await world.deliver(swept, RAW_QUEUE)
    await world.deliver(late, RAW_QUEUE)
    assert set(world.events()) == {"a"}
    assert (world.claims(), world.parked()) == ([], [])


async def test_a_ticket_whose_answer_was_lost_and_that_was_put_twice_ends_once() -> None:
    """Either is the first to be handled, on its first try; the other is no missing claim check."""
    world, item = World(), rich("a", size=100_000)
    for _ in range(2):
        await put(world, item)
    assert len(world.claims()) == 1
    await world.run()
    assert world.events() == {"a": 1}
    assert (world.claims(), world.parked()) == ([], [])


async def test_a_blob_that_nobody_has_let_go_of_is_missing() -> None:
    world = await holding(rich("a", size=100_000))
    world.storage.containers.clear()
    await world.run()
    assert [found["reason"] for found in world.parked()] == ["claim-missing"]


async def test_graph_s_next_delivery_takes_over_what_a_failed_put_has_left() -> None:
    world, item = World(), rich("a", size=100_000)
    for delivery in ("first", "again"):
        await put(world, item, id=delivery)
        if delivery == "first":
            world.storage.messages.clear()  # it never came there
    assert len(world.claims()) == 1
    await world.run()
    world.storage.now += 3 * DAY
    assert await swept(world) == []
    assert set(world.events()) == {"a"}
    assert world.claims() == []


async def test_what_was_left_on_the_day_before_is_done_with_too() -> None:
    world, item = World(), rich("a", size=100_000)
    await put(world, item)
    world.storage.messages.clear()
    world.storage.now += timedelta(hours=3)
    await put(world, item, received=START + DAY)
    await world.run()
    assert len(world.claims()) == 1
    world.storage.now += 4 * DAY
    assert await swept(world) == []
    assert (world.claims(), world.events()["a"]) == ([], 1)


async def test_one_item_on_two_queues_has_two_claim_checks() -> None:
    world, item = World(), rich("a", size=100_000)
    for queue in (RAW_QUEUE, LIFECYCLE_QUEUE):
        await put(world, item, queue=queue)
    assert [name.split("/")[3] for name in world.claims()] == [LIFECYCLE_QUEUE, RAW_QUEUE]


@pytest.mark.parametrize(("size", "stored"), [(48_900, 65_320), (49_000, 65_456), (49_060, QUEUE_MESSAGE_BYTES)])
async def test_a_message_that_fills_its_queue_to_the_last_byte_can_be_put_back(size: int, stored: int) -> None:
    """Versions before packed what was replayed so that no room was left."""
    world = World(vault_until=START + timedelta(minutes=1))
    raw = json.dumps(rich("a") | {"pad": ""}).encode()
    raw = raw.replace(b'"pad": ""', b'"pad": "%b"' % (b"x" * (size - len(raw))))
    envelope = Envelope(v=1, id="d", received=START, traceparent="00-t", notifications=(msgspec.Raw(raw),))
    await world.storage.queues.put(RAW_QUEUE, msgspec.json.encode(envelope), "base64")
    (message,) = world.storage.messages[RAW_QUEUE]
    assert len(message.text) == stored
    await world.run()
    assert world.events() == {"a": 1}
    assert (world.claims(), world.parked()) == ([], [])


async def test_a_marker_is_no_leave_to_drop_what_is_there() -> None:
    """An item that was parked, and is replayed, has its marker and its blob."""
    world, item = World(), rich("a", size=100_000)
    await put(world, item)
    await world.run()
    world.storage.now += DAY
    await put(world, item)
    world.storage.now += 3 * DAY
    await world.storage.raw_messages.sweep()
    await world.run()
    assert world.events()["a"] >= 2
    assert (world.claims(), len(world.storage.names(HANDLED_CONTAINER))) == ([], 1)


def test_a_message_is_measured_as_it_is_stored() -> None:
    def size(**changes: object) -> int:
        """The longest pad with which it stays on its queue."""
        whole = Envelope(v=1, id="d", received=START, traceparent="00-t")
        for count in range(49_152, 48_000, -1):
            raws = (msgspec.Raw(b'"%b"' % (b"x" * count)),)
            message = RawMessage.of(msgspec.structs.replace(whole, notifications=raws, **changes))
            if not message.needs_claim_check:
                assert len(encode(message.body, "base64")) <= QUEUE_MESSAGE_BYTES
                return count
        raise AssertionError

    longest = {"attempts": 100_000, "failing_since": START + timedelta(microseconds=1)}
    assert 0 <= size(**longest) - size() <= 2
