"""Draining the poison queues: nothing there waits unseen, and no message pays for another."""

import asyncio
import base64
import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.simulation.storage_model import START
from shared.notifications.poison import PoisonDrain, PoisonStates
from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.notifications.replay import Done, Replay
from shared.values.errors import MalformedInputError, UnavailableError
from shared.values.message_text import decode, encode, repaired
from shared.values.resources import EMERGENCY_QUEUE, RAW_QUEUE, RAW_QUEUES
from tests.unit.test_retries import World, basic, rich

POISON = "raw-notifications-poison"
FIVE_MINUTES = timedelta(minutes=5)
PLAIN = '{"hello": "put on raw-notifications as it is, without base64"}'


def drain_of(world: World) -> PoisonDrain:
    return PoisonDrain(world.storage.raw_messages, PoisonStates(world.storage.blobs))


async def drain(world: World) -> None:
    await drain_of(world).run(world.now + FIVE_MINUTES)


def message(*items: Any, **changes: Any) -> str:
    """The text of a raw message, as it lies on its queue."""
    envelope = {"v": 1, "id": "d", "received": START.isoformat(), "traceparent": "00-t", **changes}
    return encode(json.dumps(envelope | {"notifications": items}).encode(), "base64")


def poison(world: World, *texts: str, queue: str = POISON) -> None:
    for text in texts:
        world.storage.put(queue, text, lives=timedelta(days=7))


def left(world: World, queue: str = POISON) -> list[str]:
    return [one.text for one in world.storage.messages[queue]]


async def test_what_may_still_succeed_goes_back_to_its_own_queue() -> None:
    world = World()
    for queue in RAW_QUEUES:
        poison(world, message(basic("a")), queue=f"{queue}-poison")
    await drain(world)
    for queue in RAW_QUEUES:
        (back,) = world.storage.messages[queue]
        envelope = json.loads(back.body)
        assert (envelope["id"], envelope["attempts"]) == ("d", 5)
        assert left(world, f"{queue}-poison") == []


async def test_what_is_exhausted_goes_to_quarantine_item_by_item() -> None:
    world = World()
    world.storage.now = START + timedelta(minutes=101)
    poison(world, message(basic("a"), basic("b"), attempts=60, failing_since=START.isoformat()))
    await drain(world)
    assert [(one["reason"], one["attempts"]) for one in world.parked()] == [("retries-exhausted", 65)] * 2
    assert left(world) == []


UNREADABLE = [
    PLAIN,
    "not base64!",
    "e30",  # padding is missing
    "eyJhIjoiPz8_In0=",  # in the other alphabet
    "e3\u00a00=",
    base64.b64encode(b"\xff\xfe{}").decode(),
]


async def test_what_the_host_could_not_read_is_parked_as_it_lay_beside_what_is_well() -> None:
    world = World()
    poison(world, UNREADABLE[0], message(basic("a")), *UNREADABLE[1:], message(basic("b")))
    await drain(world)
    assert {one["text"] for one in world.parked()} == set(UNREADABLE)
    assert {(one["reason"], one["unreadable"]) for one in world.parked()} == {("message-unreadable", True)}
    assert left(world) == []
    await world.run()
    assert world.events() == Counter("ab")


async def test_what_is_no_raw_message_is_parked_decoded() -> None:
    world = World()
    poison(world, encode(b'{"odd":1}', "base64"), "")
    await drain(world)
    assert {one["text"] for one in world.parked()} == {'{"odd":1}', ""}
    assert not any(one.get("unreadable") for one in world.parked())


async def test_an_envelope_without_offset_is_taken_for_utc_and_its_neighbours_are_delivered_once() -> None:
    world = World()
    since = "2026-01-01T00:00:00"
    poison(world, message(basic("a")), message(basic("b"), received=since, failing_since=since), message(basic("c")))
    await drain(world)
    await world.run()
    assert world.events() == Counter("abc")
    assert (left(world), world.parked()) == ([], [])


async def test_a_fault_of_ours_costs_its_own_message_and_tells_no_data(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    poison(world, message(basic("a")), message(basic("b"), id="bad"), message(basic("c")))
    drain = drain_of(world)
    requeue_or_quarantine = type(drain.raw_messages).requeue_or_quarantine

    class Faulty(type(drain.raw_messages)):  # type: ignore[misc]
        async def requeue_or_quarantine(self, text: str, **options: Any) -> None:
            if '"bad"' in text:
                raise ZeroDivisionError("+49 89 1234567")
            await requeue_or_quarantine(self, text, **options)

    raw_messages = drain.raw_messages
    faulty = Faulty(raw_messages.queues, raw_messages.blobs, raw_messages.quarantine, raw_messages.now)
    drain = replace(drain, raw_messages=faulty)
    await drain.run(world.now + FIVE_MINUTES)
    (parked,) = world.parked()
    assert (parked["reason"], parked["error"], parked["envelope"]["id"]) == ("unexpected", "ZeroDivisionError", "bad")
    await world.run()
    assert world.events() == Counter("ac")
    assert "1234567" not in caplog.text


async def test_two_drains_at_once_take_each_message_once() -> None:
    world = World()
    poison(world, *(message(basic(str(number)), id=f"d{number}") for number in range(100)), PLAIN)
    await asyncio.gather(drain(world), drain(world))
    assert Counter(json.loads(one.body)["id"] for one in world.storage.messages[RAW_QUEUE]) == Counter(
        f"d{number}" for number in range(100)
    )
    assert (left(world), len(world.parked())) == ([], 1)


async def test_a_delete_that_is_lost_repeats_under_the_same_id_and_parks_once() -> None:
    world = World()
    poison(world, message(rich("a")), PLAIN)
    lost = []

    def lose(what: str, operation: str, apply: Any) -> Any:
        if (what, operation) == (POISON, "delete") and len(lost) < 2:
            lost.append(what)
            raise UnavailableError(what, reason="storage-no-answer")
        return apply()

    world.storage.fault = lose
    await drain(world)
    assert len(left(world)) == 2
    await drain(world)  # leased still
    assert len(left(world)) == 2
    world.storage.now += FIVE_MINUTES
    await drain(world)
    assert (left(world), len(world.parked())) == ([], 1)
    await world.run()
    assert world.events() == {"a": 2}


async def test_what_cannot_be_taken_away_is_known_by_its_age_also_while_it_is_leased() -> None:
    world = World()
    poison(world, PLAIN, queue=f"{EMERGENCY_QUEUE}-poison")
    world.storage.refused = {QUARANTINE_CONTAINER}
    states = PoisonStates(world.storage.blobs)
    for _ in range(7):  # the lease ends in between
        await drain(world)
        assert await states.oldest() == {f"{EMERGENCY_QUEUE}-poison": START}
        world.storage.now += timedelta(minutes=1)
    world.storage.refused.clear()
    world.storage.now += FIVE_MINUTES
    await drain(world)
    assert (len(world.parked()), left(world, f"{EMERGENCY_QUEUE}-poison")) == (1, [])
    world.storage.now += timedelta(minutes=1)
    await drain(world)
    assert await states.oldest() == {}


async def test_an_idle_drain_asks_five_things_and_writes_nothing() -> None:
    world = World()
    await drain(world)
    assert Counter(operation for operation, _ in world.storage.log) == {"lease": 4, "get blob": 1}


async def test_one_queue_that_does_not_answer_holds_up_no_other() -> None:
    world = World()
    world.storage.refused = {POISON}
    poison(world, message(basic("a")), queue=f"{EMERGENCY_QUEUE}-poison")
    with pytest.raises(UnavailableError):
        await drain(world)
    assert len(world.storage.messages[EMERGENCY_QUEUE]) == 1


async def test_it_ends_when_its_time_is_over() -> None:
    world = World()
    poison(world, *(message(basic(str(number))) for number in range(100)))

    def slow(what: str, operation: str, apply: Any) -> Any:
        if (what, operation) == (POISON, "lease"):
            world.storage.now += timedelta(minutes=3)
        return apply()

    world.storage.fault = slow
    await drain(world)
    assert len(left(world)) == 100 - 2 * 32


async def test_a_raw_message_that_was_put_without_encoding_is_repaired_also_where_encoded_it_is_too_large() -> None:
    world = World()
    whole = decode(message(rich("a") | {"pad": "x" * 55_000}))
    poison(world, whole)
    await drain(world)
    (name,) = world.storage.names(QUARANTINE_CONTAINER)
    assert await Replay(world.storage.raw_messages).replay(name, repair=True) is Done.REPLAYED
    await world.run()
    assert (world.events(), world.claims(), world.parked()) == ({"a": 1}, [], [])


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_the_host_refuses_is_not_decoded(text: str) -> None:
    with pytest.raises(MalformedInputError):
        decode(text)


@given(st.text(), st.sampled_from(["", " ", "\r\n", "\t"]))
def test_what_the_host_takes_is_decoded(text: str, white: str) -> None:
    encoded = encode(text.encode(), "base64")
    half = len(encoded) // 2
    assert decode(white + encoded[:half] + white + encoded[half:]) == text


OBJECT = b'{"v":1,"note":"\xc3\xbf>?"}'


@pytest.mark.parametrize(
    ("text", "body"),
    [
        (base64.urlsafe_b64encode(OBJECT).decode(), OBJECT),
        (base64.b64encode(OBJECT).decode().rstrip("="), OBJECT),
        (base64.b64encode(OBJECT).decode() + "====", OBJECT),
        ("\u00a0" + base64.b64encode(OBJECT).decode(), OBJECT),
        (PLAIN, PLAIN.encode()),
        ("hello", b"hello"),
        ("", b""),
    ],
)
def test_repairing_makes_of_a_text_what_was_meant(text: str, body: bytes) -> None:
    assert repaired(text) == body


@given(st.text())
def test_anything_can_be_repaired_into_something_that_is_read(text: str) -> None:
    assert decode(encode(repaired(text), "base64")) is not None
