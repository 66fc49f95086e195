"""Unsubscribing where readings do not follow each other: they say nothing of the time between them."""

from collections.abc import Mapping
from datetime import timedelta

import msgspec
import pytest

from shared.subscriptions.unwanted import Review, Unwanted
from shared.values.times import Moment
from tests.unit.model_graph import OTHER_TENANT, TENANT, call_events
from tests.unit.test_renew import HOUR
from tests.unit.test_unsubscribe import MINUTE, Timer, left, settled


async def assert_an_hour_more(timer: Timer, members: int) -> None:
    """Of 30 or more who are subscribed to, those who have left go in an hour from now, and no sooner."""
    before = timer.users()
    await timer.run(50 * MINUTE)
    assert timer.users() == before
    await timer.run(10 * MINUTE)
    assert len(timer.users()) == members


@pytest.mark.parametrize(
    ("read", "step"),
    [
        (30 * MINUTE, 36 * MINUTE),
        (30 * MINUTE, HOUR),
        (30 * MINUTE, 10 * HOUR),
        (50 * MINUTE, HOUR),
        (50 * MINUTE, -20 * MINUTE),
    ],
)
async def test_a_time_of_which_nobody_has_read_begins_the_hour_anew(read: timedelta, step: timedelta) -> None:
    """A fault of what says who is desired may have passed by at both ends of it; a clock may also have been set."""
    timer = await left(members=30, leave=1)
    await timer.run(read)
    timer.clock.advance(step)
    await assert_an_hour_more(timer, 29)


async def test_half_an_hour_does_not_nor_what_clocks_may_differ_by() -> None:
    timer = await left(members=30, leave=1)
    for minutes in (0, 30, 35):
        timer.clock.advance(minutes * MINUTE)
        assert 1 in timer.users()
        await timer.process().run(review=True)
    assert 1 not in timer.users()


async def test_it_is_the_hour_of_all_that_is_unwanted() -> None:
    timer = await left(members=40, leave=1)
    await timer.run(20 * MINUTE)
    timer.have_members(*range(3, 41))
    await timer.run(20 * MINUTE)
    timer.clock.advance(HOUR)
    await assert_an_hour_more(timer, 38)


async def test_what_is_confirmed_waits_for_it_too() -> None:
    timer = await left(members=59, leave=10)
    timer.confirm(await timer.run(30 * MINUTE))
    timer.clock.advance(HOUR)
    await assert_an_hour_more(timer, 49)


async def test_a_tenant_that_was_read_meanwhile_does_not() -> None:
    """Another run has held the turn of the other one."""
    desired = [call_events(number, tenant_id) for number in range(1, 13) for tenant_id in (TENANT, OTHER_TENANT)]
    timer = await settled(*desired)
    timer.desire(*desired[2:])
    await timer.run(10 * MINUTE)
    timer.scenario.known.holders[TENANT] = object()
    timer.clock.advance(10 * MINUTE)
    await timer.run(20 * MINUTE)
    timer.scenario.known.holders.clear()
    timer.clock.advance(10 * MINUTE)
    await timer.run(10 * MINUTE)
    assert 1 in timer.users(TENANT)
    assert 1 not in timer.users(OTHER_TENANT)


async def test_two_instances_whose_clocks_differ_do_not() -> None:
    """One is four minutes ahead of the other, which runs two minutes after it."""
    timer = await left(members=30, leave=1)
    for _ in range(7):
        for minutes in (12, -2):
            timer.clock.advance(minutes * MINUTE)
            await timer.process().run(review=True)
    assert 1 not in timer.users()


class ReviewBefore(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A review as it was kept before it told of its last whole reading."""

    unwanted: Mapping[str, Unwanted] = {}
    whole_since: Moment | None = None
    removals: Mapping[str, Moment] = {}


async def test_what_does_not_tell_of_its_last_reading_begins_the_hour_anew() -> None:
    """The version before writes so, and reads what this one has written."""
    timer = await left(members=30, leave=1)
    report = await timer.run(50 * MINUTE)
    memory = timer.scenario.known.memories[TENANT]
    before = msgspec.json.decode(msgspec.json.encode(memory.review), type=ReviewBefore)
    assert before.unwanted == report.unwanted
    assert before.whole_since == timer.clock.now() - 50 * MINUTE
    review = msgspec.json.decode(msgspec.json.encode(before), type=Review)
    timer.scenario.known.memories[TENANT] = msgspec.structs.replace(memory, review=review)
    timer.clock.advance(10 * MINUTE)
    await assert_an_hour_more(timer, 29)


async def test_an_operator_is_told_where_something_has_to_wait_for_it(caplog: pytest.LogCaptureFixture) -> None:
    timer = await settled(members=30)
    timer.clock.advance(2 * HOUR)
    timer.have_members(*range(2, 31))
    await timer.run(20 * MINUTE)
    assert "anew" not in caplog.text
    timer.clock.advance(HOUR)
    await timer.run(20 * MINUTE)
    [told] = [record.getMessage() for record in caplog.records if "anew" in record.getMessage()]
    assert TENANT in told


async def test_where_nothing_is_unwanted_a_run_has_nothing_to_save() -> None:
    timer = await settled(members=30)
    saves = timer.scenario.known.saves
    await timer.run(30 * MINUTE)
    assert timer.scenario.known.saves == saves
