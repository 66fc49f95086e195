"""When each function last ran, as it is noted and read."""

from contextlib import suppress
from datetime import timedelta

import msgspec
import pytest

from dev.simulation.storage_model import START, StorageModel
from shared.operations.function_runs import OVERDUE_AFTER, QUEUE_FUNCTIONS, FunctionRuns, Runs
from shared.storage.ports import STATE_CONTAINER
from tests.fakes import write_blob, write_blob_in_between


@pytest.fixture
def storage() -> StorageModel:
    return StorageModel()


@pytest.fixture
def runs(storage: StorageModel) -> FunctionRuns:
    return FunctionRuns(storage.blobs, lambda: storage.now)


async def run(runs: FunctionRuns, function: str) -> None:
    async with runs.noted(function):
        pass


async def test_nothing_is_known_before_anything_has_run(runs: FunctionRuns) -> None:
    assert await runs.latest() is None


async def test_each_function_is_noted_beside_the_others(storage: StorageModel, runs: FunctionRuns) -> None:
    await run(runs, "renew_subscriptions")
    storage.now += timedelta(minutes=1)
    await run(FunctionRuns(storage.blobs, lambda: storage.now), "drain_poison")  # another process

    last = {"renew_subscriptions": START, "drain_poison": START + timedelta(minutes=1)}
    assert await runs.latest() == Runs(since=START, last=last)


async def test_a_run_that_fails_is_one(runs: FunctionRuns) -> None:
    with suppress(ZeroDivisionError):
        async with runs.noted("drain_poison"):
            raise ZeroDivisionError

    found = await runs.latest()
    assert found is not None
    assert found.last == {"drain_poison": START}


async def test_a_busy_function_is_noted_every_five_minutes(storage: StorageModel, runs: FunctionRuns) -> None:
    for _ in range(20):
        await run(runs, "decrypt_notifications")
        storage.now += timedelta(minutes=1)

    assert storage.log.count(("put blob", STATE_CONTAINER)) == 4


async def test_two_that_write_at_the_same_time_are_both_noted(storage: StorageModel, runs: FunctionRuns) -> None:
    other = Runs(since=START - timedelta(days=1), last={"handle_lifecycle": START})
    write_blob_in_between(storage, STATE_CONTAINER, "function-runs.json", msgspec.json.encode(other))

    await run(runs, "drain_poison")

    assert await runs.latest() == Runs(since=other.since, last={"handle_lifecycle": START, "drain_poison": START})


async def test_storage_that_does_not_answer_changes_nothing(
    storage: StorageModel, runs: FunctionRuns, caplog: pytest.LogCaptureFixture
) -> None:
    storage.refused.add(STATE_CONTAINER)

    await run(runs, "drain_poison")

    assert "function=drain_poison reason=storage-503" in caplog.text


@pytest.mark.parametrize("data", [b"{", b'{"since": "2026-01-01T00:00:00"}'])
async def test_what_is_damaged_is_written_anew(storage: StorageModel, runs: FunctionRuns, data: bytes) -> None:
    write_blob(storage, STATE_CONTAINER, "function-runs.json", data)
    assert await runs.latest() is None

    await run(runs, "drain_poison")

    assert await runs.latest() == Runs(since=START, last={"drain_poison": START})


class TestOverdue:
    def test_is_a_timer_that_has_not_run_for_longer_than_it_may(self) -> None:
        last = {"drain_poison": START, "renew_subscriptions": START, "sweep_claim_checks": START}
        runs = Runs(since=START, last=last)

        assert runs.overdue(START + timedelta(minutes=15)) == {}
        assert runs.overdue(START + timedelta(minutes=16)) == {"drain_poison": START}
        assert set(runs.overdue(START + timedelta(hours=27))) == set(OVERDUE_AFTER)

    def test_is_one_that_has_never_run_when_its_time_is_over(self) -> None:
        assert Runs(since=START).overdue(START + timedelta(minutes=59)) == {"drain_poison": None}

    def test_is_never_a_function_that_waits_for_messages(self) -> None:
        assert not set(QUEUE_FUNCTIONS) & Runs(since=START).overdue(START + timedelta(days=99)).keys()


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The app's functions by name, with the type of their trigger."""
    monkeypatch.delenv("SELFTEST_SCHEDULE", raising=False)
    import function_app

    return {each.get_function_name(): each.get_trigger().type for each in function_app.app.get_functions()}


def test_every_function_that_the_host_calls_by_itself_is_known(declared: dict[str, str]) -> None:
    of_type = {kind: {name for name, each in declared.items() if each == kind} for kind in declared.values()}

    assert of_type["queueTrigger"] == set(QUEUE_FUNCTIONS)
    assert of_type["timerTrigger"] == set(OVERDUE_AFTER)
