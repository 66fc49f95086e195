"""Unsubscribing while storage, Graph and the process fail: the hour and the brake hold all the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import msgspec

from shared.subscriptions.desired_source import read_again
from shared.subscriptions.state import Changes, Memory
from shared.subscriptions.unwanted import Review, Unwanted, Waits
from shared.values.errors import UnavailableError
from shared.values.graph import Reply
from tests.unit.model_graph import OTHER_TENANT, START, TENANT, UNAVAILABLE, URL, call_events, call_records, policy
from tests.unit.test_renew import HOUR
from tests.unit.test_unsubscribe import MINUTE, Timer, left, settled


@contextmanager
def unsaved(timer: Timer) -> Iterator[None]:
    """Storage takes nothing of what is remembered."""
    storage = timer.scenario.known
    save = storage.save

    async def refuse(*_: object) -> Memory:
        raise UnavailableError("storage")

    storage.save = refuse  # type: ignore[method-assign]
    yield
    storage.save = save  # type: ignore[method-assign]


async def test_a_process_that_dies_after_a_removal_has_noted_it_before() -> None:
    timer = await left(members=59, leave=3)
    await timer.run(50 * MINUTE)
    timer.clock.advance(10 * MINUTE)
    storage = timer.scenario.known

    def lose_storage(work: Callable[[], Reply]) -> Reply:
        storage.error = UnavailableError("storage")
        return work()

    timer.graph.faults = lambda call: lose_storage if call.method == "DELETE" else None
    await timer.process().run(review=True)
    timer.graph.faults = lambda _: None
    storage.error = None
    storage.holders.clear()
    assert timer.users() == set(range(4, 60))
    timer.have_members(*range(7, 60))
    report = await timer.run(3 * HOUR)
    assert timer.waits(report) == ["too-many"] * 3


async def test_nothing_goes_that_cannot_be_noted() -> None:
    timer = await left(members=59, leave=3)
    await timer.run(50 * MINUTE)
    timer.clock.advance(10 * MINUTE)
    with unsaved(timer):
        await timer.process().run(review=True)
    assert 1 in timer.users()
    await timer.run(10 * MINUTE)
    assert timer.users() == set(range(4, 60))


async def test_what_could_not_be_removed_does_not_count_twice() -> None:
    timer = await left(members=59, leave=3)
    await timer.run(50 * MINUTE)
    timer.graph.faults = lambda call: UNAVAILABLE if call.method == "DELETE" else None
    await timer.run(30 * MINUTE)
    timer.graph.faults = lambda _: None
    await timer.run(10 * MINUTE)
    assert timer.users() == set(range(4, 60))


async def test_an_hour_that_was_not_read_whole_counts_as_such_where_it_could_not_be_saved() -> None:
    """One process: storage takes nothing while a group cannot be read."""
    timer = await settled(members=30)
    process = timer.process()
    timer.have_members(*range(2, 31))
    for _ in range(5):
        await process.run(review=True)
        timer.clock.advance(10 * MINUTE)
    members = timer.graph.members.copy()
    timer.graph.members.clear()
    with unsaved(timer):
        await process.run(review=True)
    timer.graph.members.update(members)
    for _ in range(6):
        timer.clock.advance(10 * MINUTE)
        await process.run(review=True)
        assert 1 in timer.users()
    timer.clock.advance(10 * MINUTE)
    await process.run(review=True)
    assert 1 not in timer.users()


async def test_an_hour_in_which_graph_could_not_be_read_is_none() -> None:
    """A group that was read wrongly at both ends of an outage has not been read so for an hour."""
    timer = await left(call_records(OTHER_TENANT), members=30, leave=1)
    await timer.run(0 * MINUTE)
    members = timer.graph.members.copy()
    timer.graph.members.clear()
    timer.graph.list_errors[TENANT] = UnavailableError("Graph")
    timer.clock.advance(10 * MINUTE)
    await timer.run(40 * MINUTE)
    timer.graph.members.update(members)
    timer.graph.list_errors.clear()
    timer.clock.advance(10 * MINUTE)
    await timer.run(50 * MINUTE)
    assert 1 in timer.users()
    await timer.run(20 * MINUTE)
    assert 1 not in timer.users()


async def test_an_hour_in_which_the_second_list_could_not_be_read_is_none() -> None:
    """A run that has waited for another one's end takes stock once more, and that fails."""
    timer = await settled(call_records(OTHER_TENANT), members=30)
    timer.have_members(*range(2, 31))
    await timer.run(20 * MINUTE)
    timer.have_members(*range(2, 32))
    sleep, holders = timer.clock.sleep, timer.scenario.known.holders
    holders[TENANT] = "another run"

    async def end_the_other_run(seconds: float) -> None:
        holders.clear()
        timer.graph.list_errors[TENANT] = UnavailableError("Graph")
        await sleep(seconds)

    timer.clock.advance(10 * MINUTE)
    timer.clock.sleep = end_the_other_run  # type: ignore[method-assign]
    await timer.process().run(review=True)
    timer.clock.sleep = sleep  # type: ignore[method-assign]
    assert timer.graph.list_errors
    timer.graph.list_errors.clear()
    timer.clock.advance(10 * MINUTE)
    await timer.run(50 * MINUTE)
    assert 1 in timer.users()
    await timer.run(20 * MINUTE)
    assert 1 not in timer.users()


async def test_a_confirmation_that_is_void_does_not_hide_a_removal_from_the_brake() -> None:
    timer = await settled(members=59)
    timer.confirmed.ids = dict.fromkeys(timer.graph.all, timer.clock.now() - HOUR)
    timer.have_members(*range(4, 60))
    await timer.run(70 * MINUTE)
    assert timer.users() == set(range(4, 60))
    timer.have_members(*range(7, 60))
    report = await timer.run(3 * HOUR)
    assert timer.waits(report) == ["too-many"] * 3


async def test_one_whose_notifications_are_refused_does_not_stand_for_its_kind() -> None:
    others = [call_events(number) for number in range(1, 30)]
    timer = await settled(*others, call_records())
    timer.graph.add(call_records(), notification_url=f"{URL}&mark=0123456789ab", expires=timer.clock.now() + 300 * HOUR)
    timer.desire(*others)
    report = await timer.run(5 * HOUR)
    assert timer.waits(report) == ["last-of-its-kind"]


def test_no_run_takes_back_what_another_has_removed() -> None:
    """One that was held up for longer than its turn saves by what it read before the other."""
    before = Memory(review=Review(removals={"a": START, "old": START - timedelta(hours=25)}))
    after = Changes(review=Review(removals={"b": START})).applied(before, START).review
    assert after == Review(removals={"a": START, "b": START})
    unsaved = Changes(review=Review(removals={"a": START}))
    unsaved.add(Changes(review=Review(removals={"b": START})))
    assert unsaved.review == Review(removals={"a": START, "b": START})


def test_a_reason_of_a_later_version_spoils_nothing_that_is_remembered() -> None:
    entry = Unwanted(kind="callEvents", resource="users/1", since=START, waits=Waits.EMERGENCY)
    memory = Memory(review=Review(unwanted={"a": entry}), readings={"f": read_again((), None, START)})
    later = msgspec.json.encode(memory).replace(b'"emergency"', b'"full-moon"')
    found = msgspec.json.decode(later, type=Memory)
    assert found.readings == memory.readings
    assert found.review is not None
    assert found.review.unwanted["a"].needs_confirmation


async def test_an_answer_about_another_subscription_deletes_nothing() -> None:
    """What waits for a confirmation does not go in the place of what waits for none."""
    policies = [policy(name) for name in ("Headquarters", "Branch")]
    others = [call_events(number) for number in range(1, 30)]
    timer = await settled(*others, *policies)
    [emergency] = timer.graph.holds(policies[1])
    [gone] = timer.graph.holds(others[0])
    timer.desire(*others[1:], policies[0])
    await timer.run(50 * MINUTE)
    timer.graph.faults = lambda call: (
        (lambda _: emergency) if call.method == "GET" and call.subscription_id == gone.id else None
    )
    await timer.run(30 * MINUTE)
    assert {emergency.id, gone.id} <= timer.graph.all.keys()
