"""How far consumers are behind, as figures."""

from datetime import timedelta

import pytest

from dev.simulation.storage_model import StorageModel
from shared.operations.limits import consumer_limits
from shared.operations.queue_watch import EVERY_MINUTES, QueueWatch
from shared.values.consumers import Consumers


class Figures:
    """What was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, float]] = []

    def waiting(self, queue: str, count: int, age: float) -> None:
        self.told.append((queue, count, age))


@pytest.fixture
def storage() -> StorageModel:
    return StorageModel()


def watch(storage: StorageModel, figures: Figures) -> QueueWatch:
    return QueueWatch(consumer_limits(Consumers()), storage.queues, storage.blobs, figures, lambda: storage.now)  # type: ignore[arg-type]


async def test_what_lies_there_is_told_and_left_as_it_is(storage: StorageModel) -> None:
    for queue in ("call-events", "call-events", "meeting-events-poison", "raw-notifications"):
        storage.put(queue, "x")
    storage.now += timedelta(minutes=90)
    figures = Figures()
    await watch(storage, figures).run()
    assert sorted(figures.told) == [("call-events", 2, 5400.0), ("meeting-events-poison", 1, 5400.0)]
    assert {operation for operation, what in storage.log if "events" in what} == {"count", "peek"}
    assert all(message.dequeued == 0 for messages in storage.messages.values() for message in messages)


async def test_the_age_of_an_empty_queue_is_not_asked(storage: StorageModel) -> None:
    storage.put("call-events", "x")
    await watch(storage, Figures()).run()
    assert [what for operation, what in storage.log if operation == "peek"] == ["call-events"]


async def test_what_a_consumer_has_leased_is_counted_without_an_age(storage: StorageModel) -> None:
    storage.put("call-events", "x", delay=timedelta(minutes=5))
    figures = Figures()
    await watch(storage, figures).run()
    assert figures.told == [("call-events", 1, 0.0)]


async def test_it_measures_every_fifth_minute_at_the_most_whichever_instance_is_asked(storage: StorageModel) -> None:
    storage.put("call-events", "x")
    figures = Figures()
    measured = []
    for minute in range(11):
        before = len(figures.told)
        await watch(storage, figures).run()
        if len(figures.told) > before:
            measured.append(minute)
        storage.now += timedelta(minutes=1, milliseconds=-7 if minute % 2 else 7)
    assert measured == [0, EVERY_MINUTES, 2 * EVERY_MINUTES]


async def test_a_note_that_is_damaged_or_of_the_future_holds_nothing_up(storage: StorageModel) -> None:
    storage.put("call-events", "x")
    for data in (b"{", b'{"at": "2099-01-01T00:00:00Z"}'):
        await storage.blobs.put("state", "queue-watch.json", data)
        figures = Figures()
        await watch(storage, figures).run()
        assert figures.told
