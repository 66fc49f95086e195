"""Batched events share messages, also those of several raw messages, and none pays for another."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dev.simulation.storage_model import START, StorageModel
from shared.notifications.event_writer import LINGER, EventWriter
from shared.notifications.events import Event
from shared.values.envelope import Envelope
from shared.values.errors import UnavailableError
from shared.values.resources import RAW_QUEUE
from tests.unit.test_retries import World, put, rich

QUEUE = "call-events"


def envelope(name: str, **changes: Any) -> Envelope:
    return Envelope(v=1, id=name, received=START, traceparent="00-t", **changes)


def events(*names: str, size: int = 0) -> Mapping[int, Event]:
    attributes = {"specversion": "1.0", "source": "s", "type": "t"}
    data = b'{"x":"%b"}' % (b"x" * size)
    return {index: Event(QUEUE, {**attributes, "id": name}, data) for index, name in enumerate(names)}


def writer(storage: StorageModel) -> EventWriter:
    return EventWriter(storage.queues, storage.blobs, "base64", batched=True)


def messages(storage: StorageModel) -> list[list[str]]:
    """The ids in each message."""
    return [[event["id"] for event in json.loads(message.body)] for message in storage.messages[QUEUE]]


async def handled(
    shared: EventWriter, name: str, written: Mapping[int, Event], *, seconds: float = 0.0, **changes: Any
) -> dict[int, UnavailableError]:
    """A raw message that takes some time until its events are written."""
    with shared.expecting():
        await asyncio.sleep(seconds)
        return await shared.write(QUEUE, written, envelope(name, **changes))


async def test_events_of_raw_messages_that_are_ready_at_about_the_same_time_share_a_message() -> None:
    storage = StorageModel()
    shared = writer(storage)
    await asyncio.gather(
        handled(shared, "1", events("a", "b")),
        handled(shared, "2", events("c"), seconds=LINGER / 2),
        handled(shared, "3", events("d"), seconds=LINGER * 2),
    )
    assert messages(storage) == [["a", "b", "c"], ["d"]]


async def test_a_message_waits_for_no_more_than_what_is_under_way() -> None:
    storage, loop = StorageModel(), asyncio.get_running_loop()
    shared, began = writer(storage), loop.time()
    await handled(shared, "1", events("a"))
    assert loop.time() == began
    await asyncio.gather(handled(shared, "2", events("b")), handled(shared, "3", events("c"), seconds=LINGER / 2))
    assert loop.time() - began == pytest.approx(LINGER / 2)
    assert messages(storage) == [["a"], ["b", "c"]]


async def test_a_message_that_is_full_waits_for_nothing() -> None:
    storage, loop = StorageModel(), asyncio.get_running_loop()
    shared, began = writer(storage), loop.time()
    with shared.expecting():  # one that never writes
        full = asyncio.ensure_future(handled(shared, "1", events(*map(str, range(23)), size=2_000)))
        await asyncio.sleep(LINGER / 2)
        second = asyncio.ensure_future(handled(shared, "2", events(*map(str, range(23, 30)), size=2_000)))
        await full
        assert loop.time() - began == pytest.approx(LINGER / 2)
        await second
    assert [len(ids) for ids in messages(storage)] == [23, 7]


async def test_what_is_urgent_waits_for_nothing_and_takes_along_what_is_there() -> None:
    storage, loop = StorageModel(), asyncio.get_running_loop()
    shared, began = writer(storage), loop.time()
    with shared.expecting():
        waiting = asyncio.ensure_future(handled(shared, "1", events("a")))
        await asyncio.sleep(LINGER / 2)
        await shared.write(QUEUE, events("b"), envelope("2"), urgent=True)
        await waiting
    assert loop.time() - began == pytest.approx(LINGER / 2)
    assert messages(storage) == [["a", "b"]]


async def test_only_an_item_that_is_alone_is_decrypted_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    world, loop, threads = World(), asyncio.get_running_loop(), []
    run_in_executor = loop.run_in_executor
    monkeypatch.setattr(loop, "run_in_executor", lambda *call: threads.append(call) or run_in_executor(*call))
    decryptor = world.decryptor()

    async def handle(*items: dict[str, Any]) -> int:
        await put(world, *items)
        message = world.storage.messages[RAW_QUEUE].pop()
        await decryptor.handle(message.body, queue=RAW_QUEUE, attempts=1)
        return len(threads)

    assert await handle(rich("a")) == 0
    assert await handle(rich("b"), rich("c")) == 1
    await asyncio.gather(handle(rich("d")), handle(rich("e")))
    assert len(threads) == 3
    assert world.events() == Counter("abcde")


async def test_each_raw_message_is_told_what_became_of_its_own_events() -> None:
    storage = StorageModel(refused={QUEUE})
    shared = writer(storage)
    first, second = await asyncio.gather(handled(shared, "1", events("a", "b")), handled(shared, "2", events("c")))
    assert (list(first), list(second)) == ([0, 1], [0])
    assert all(isinstance(error, UnavailableError) for error in (*first.values(), *second.values()))
    assert len(storage.log) == 1


async def test_what_has_failed_before_shares_with_its_own_raw_message_alone() -> None:
    storage = StorageModel()
    shared = writer(storage)
    await asyncio.gather(
        handled(shared, "1", events("a", "b"), failing_since=START),
        handled(shared, "2", events("c"), failing_since=START),
        handled(shared, "3", events("d")),
        handled(shared, "4", events("e")),
    )
    assert sorted(messages(storage)) == [["a", "b"], ["c"], ["d", "e"]]


async def test_a_caller_that_is_cancelled_takes_no_event_of_another_with_it() -> None:
    storage = StorageModel()
    shared = writer(storage)
    cancelled = asyncio.ensure_future(handled(shared, "1", events("a")))
    other = asyncio.ensure_future(handled(shared, "2", events("b")))
    await asyncio.sleep(LINGER / 2)
    cancelled.cancel()
    assert await other == {}
    assert messages(storage) == [["a", "b"]]


async def test_a_fault_reaches_all_who_share_the_message() -> None:
    storage = StorageModel()

    def fault(what: str, operation: str, apply: Callable[[], Any]) -> Any:
        raise ZeroDivisionError

    storage.fault = fault
    shared = writer(storage)
    results = await asyncio.gather(
        handled(shared, "1", events("a")),
        handled(shared, "2", events("b")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [ZeroDivisionError] * 2


@pytest.mark.parametrize("batched", [False, True])
async def test_data_that_is_too_large_goes_to_a_blob_beside_events_that_are_not(batched: bool) -> None:
    storage = StorageModel()
    mixed = {0: events("a", size=60_000)[0], 1: events("b")[0]}
    assert await EventWriter(storage.queues, storage.blobs, "base64", batched).write(QUEUE, mixed, envelope("1")) == {}
    bodies = [json.loads(message.body) for message in storage.messages[QUEUE]]
    written = bodies[0] if batched else bodies
    assert {event["id"]: "dataref" in event for event in written} == {"a": True, "b": False}
    (name,) = storage.names("event-data")
    assert json.loads(storage.containers["event-data"][name].data)["x"] == "x" * 60_000


async def test_a_crash_at_any_point_loses_nothing_of_raw_messages_whose_events_share_a_message() -> None:
    async def delivered(crash_at: int | None) -> World:
        world = World(batched=True)
        decryptor = world.decryptor()
        world.decryptor = lambda: decryptor  # type: ignore[method-assign]
        for name in "ab":
            await put(world, rich(name), rich(name.upper()))
        world.storage.log.clear()
        world.crash_at = crash_at
        await asyncio.gather(
            *(world.deliver(message, RAW_QUEUE) for message in list(world.storage.messages[RAW_QUEUE]))
        )
        await world.run()
        return world

    straight = await delivered(None)
    assert straight.events() == Counter("aAbB")
    assert straight.storage.log.count(("put", "call-events")) == 1
    for crash_at in range(1, len(straight.storage.log) + 1):
        assert set((await delivered(crash_at)).events()) == set("aAbB")
