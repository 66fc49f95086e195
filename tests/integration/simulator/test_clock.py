import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from dev.simulator.clock import ManualClock, graph_time, parse_time

START = datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_sleeper_wakes_when_its_time_has_come_and_not_before() -> None:
    clock = ManualClock(START)
    task = asyncio.create_task(clock.sleep(10))
    await asyncio.sleep(0)
    clock.advance(9.9)
    done, _ = await asyncio.wait({task}, timeout=0.02)
    assert not done
    clock.advance(timedelta(seconds=0.1))
    await asyncio.wait_for(task, 60)
    assert clock.now() == START + timedelta(seconds=10)


async def test_sleepers_wake_in_order_of_their_deadlines() -> None:
    clock = ManualClock(START)
    woken: list[int] = []

    async def sleep(seconds: int) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.create_task(sleep(seconds)) for seconds in (30, 10, 20)]
    await asyncio.sleep(0)
    assert clock.advance_to_next() == START + timedelta(seconds=10)
    await asyncio.wait_for(tasks[1], 60)
    clock.advance(60)
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    assert woken == [10, 20, 30]


async def test_a_cancelled_sleeper_is_passed_over() -> None:
    clock = ManualClock(START)
    first, second = (asyncio.create_task(clock.sleep(seconds)) for seconds in (1, 2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert clock.advance_to_next() == START + timedelta(seconds=2)
    await asyncio.wait_for(second, 60)


def test_nobody_to_wait_for_is_an_error() -> None:
    with pytest.raises(TimeoutError):
        ManualClock(START).advance_to_next(timeout=0.01)


def test_times_are_written_as_graph_writes_them() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)
    assert graph_time(moment) == "2026-01-02T03:04:05.6789000Z"
    assert parse_time("2026-01-02T03:04:05.6789000Z") == moment
    assert parse_time("2026-01-02T04:04:05.6789+01:00") == moment
    assert parse_time("2026-01-02T03:04:05.6789") == moment
