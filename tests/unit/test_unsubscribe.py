"""What nobody desires any more: it goes after an hour of whole readings, but for what waits for a confirmation."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from dev.simulation.storage_model import StorageModel
from shared.subscriptions.desired import Desired, DesiredState, DesiredStateError, Group
from shared.subscriptions.run import Renewal
from shared.subscriptions.run_report import RenewalReport
from shared.subscriptions.state import Changes, Memory
from shared.subscriptions.unwanted import CONFIRMATIONS, Confirmations, Review, Unwanted, Waits
from shared.values.errors import UnavailableError
from tests.fakes import write_blob_in_between
from tests.unit import model_graph as model
from tests.unit.model_graph import ENDPOINT, OTHER_TENANT, START, TENANT, call_events, call_records, policy, user
from tests.unit.test_renew import HOUR, Scenario

MINUTE = timedelta(minutes=1)
GROUP = Group(TENANT, user(900))


class Confirmed:
    """What an operator has confirmed; nothing while storage is away."""

    def __init__(self) -> None:
        self.ids: dict[str, datetime] = {}
        self.error: UnavailableError | None = None

    async def load(self) -> Mapping[str, datetime]:
        if self.error is not None:
            raise self.error
        return self.ids


class Timer:
    """A scenario whose timer looks for what nobody desires."""

    def __init__(self, *desired: Desired, members: int = 0, unsubscribes: bool = True, **rules: Any) -> None:
        self.scenario = Scenario(*desired, groups=(GROUP,) if members else (), **rules)
        self.graph, self.clock = self.scenario.graph, self.scenario.clock
        self.confirmed = Confirmed()
        self.unsubscribes = unsubscribes
        self.have_members(*range(1, members + 1))

    def have_members(self, *numbers: int) -> None:
        self.graph.members[GROUP.group_id] = tuple(user(number) for number in numbers)

    def desire(self, *desired: Desired, groups: tuple[Group, ...] = ()) -> None:
        self.scenario.source.state = DesiredState(desired, groups)

    def process(self) -> Renewal:
        return self.scenario.process(confirmations=self.confirmed, unsubscribes=self.unsubscribes)

    async def run(self, length: timedelta) -> RenewalReport:
        """Run now, and then until so much time has passed: every ten minutes, for hours on end every twenty."""
        report = await self.process().run(review=True)
        step = (10 if length <= 2 * HOUR else 20) * MINUTE
        for _ in range(length // step):
            self.clock.advance(step)
            report = await self.process().run(review=True)
        return report

    def users(self, tenant_id: str = TENANT) -> set[int]:
        """Whose call events are subscribed to."""
        subscribed = {one.resource for one in self.graph.live() if one.tenant_id == tenant_id}
        return {number for number in range(1, 60) if call_events(number).resource in subscribed}

    def waits(self, report: RenewalReport) -> list[str | None]:
        return sorted(str(entry.waits) for entry in report.unwanted.values())

    def confirm(self, report: RenewalReport) -> None:
        self.confirmed.ids |= dict.fromkeys(report.unwanted, self.clock.now())


async def settled(*desired: Desired, members: int = 0, **rules: Any) -> Timer:
    """A timer that has found all that is desired for more than an hour."""
    timer = Timer(*desired, members=members, **rules)
    await timer.run(70 * MINUTE)
    return timer


async def left(*desired: Desired, members: int, leave: int, **rules: Any) -> Timer:
    """A settled timer, and then the first so many members leave their group."""
    timer = await settled(*desired, members=members, **rules)
    timer.have_members(*range(leave + 1, members + 1))
    return timer


class TestHour:
    async def test_who_leaves_a_group_is_unsubscribed_from_after_an_hour(self) -> None:
        timer = await left(members=30, leave=1)
        report = await timer.run(50 * MINUTE)
        assert 1 in timer.users()
        [entry] = report.unwanted.values()
        assert (entry.kind, entry.resource, entry.waits) == ("callEvents", call_events(1).resource, None)
        assert entry.since == timer.clock.now() - 50 * MINUTE
        report = await timer.run(10 * MINUTE)
        assert timer.users() == set(range(2, 31))
        assert not report.unwanted

    async def test_what_is_taken_off_the_list_is_too(self, caplog: pytest.LogCaptureFixture) -> None:
        desired = [call_events(number) for number in range(1, 13)]
        timer = await settled(*desired)
        timer.desire(*desired[1:])
        await timer.run(50 * MINUTE)
        [gone] = timer.graph.holds(desired[0])
        caplog.clear()
        await timer.run(10 * MINUTE)
        assert timer.users() == set(range(2, 13))
        assert [record.getMessage() for record in caplog.records if gone.id in record.getMessage()]

    async def test_whoever_comes_back_stays(self) -> None:
        timer = await left(members=30, leave=1)
        await timer.run(50 * MINUTE)
        timer.have_members(*range(1, 31))
        await timer.run(10 * MINUTE)
        timer.have_members(*range(2, 31))
        await timer.run(50 * MINUTE)
        assert 1 in timer.users()

    @pytest.mark.parametrize("trouble", ["group", "file", "refusal"])
    async def test_an_hour_with_a_reading_that_is_not_whole_begins_anew(self, trouble: str) -> None:
        timer = await left(call_records(), members=30, leave=1)
        await timer.run(30 * MINUTE)
        state, members = timer.scenario.source.state, timer.graph.members.copy()
        assert isinstance(state, DesiredState)
        match trouble:
            case "group":
                timer.graph.members.clear()
            case "file":
                timer.scenario.source.state = UnavailableError("storage")
            case _:
                error = DesiredStateError("subscriptions.toml", ["line 9: refused"])
                timer.scenario.source.state = replace(state, refusal=error)
        await timer.run(10 * MINUTE)
        timer.scenario.source.state = state
        timer.graph.members.update(members)
        await timer.run(50 * MINUTE)
        assert 1 in timer.users()
        await timer.run(20 * MINUTE)
        assert 1 not in timer.users()

    async def test_a_group_that_has_shrunk_waits_for_its_own_hour_too(self) -> None:
        """Nothing goes by a list that may have been cut off; then the brake holds what is more than a tenth."""
        timer = await left(call_records(), members=20, leave=4)
        report = await timer.run(3 * HOUR)
        assert timer.users() == set(range(1, 21))
        assert timer.waits(report) == ["too-many"] * 4

    async def test_a_desired_state_that_asks_for_nothing_removes_nothing(self) -> None:
        timer = await settled(call_records(), call_events(1))
        timer.desire()
        report = await timer.run(5 * HOUR)
        timer.confirm(report)
        await timer.run(5 * HOUR)
        assert len(timer.graph.live()) == 2

    @pytest.mark.parametrize("trouble", ["list", "storage", "turn"])
    async def test_nothing_goes_while_something_is_not_known(self, trouble: str) -> None:
        timer = await left(call_records(OTHER_TENANT), members=30, leave=1)
        await timer.run(50 * MINUTE)
        match trouble:
            case "list":
                timer.graph.list_errors[TENANT] = UnavailableError("Graph")
            case "storage":
                timer.scenario.known.error = UnavailableError("storage")
            case _:
                timer.scenario.known.holders[TENANT] = object()
        await timer.run(HOUR)
        assert 1 in timer.users()

    async def test_what_is_desired_by_the_last_look_stays(self) -> None:
        """What Graph says of it by its id counts, where its list has said otherwise."""
        timer = await settled(*(call_events(number) for number in range(1, 13)))
        timer.graph.echo = lambda one: replace(one, notification_url="https://elsewhere.example.com/")
        timer.scenario.known.memories[TENANT] = msgspec.structs.replace(timer.scenario.known.memories[TENANT], known={})
        timer.desire(*(call_events(number) for number in range(2, 13)))
        await timer.run(2 * HOUR)
        assert 1 in timer.users()


class TestOurs:
    @pytest.mark.parametrize(
        "changes",
        [
            {"notification_url": "https://elsewhere.example.com/api/notifications?mark=0"},
            {"notification_url": f"{model.URL}&mark=0123456789ab"},
            {"resource": "communications/of/another/age"},
        ],
        ids=["another address", "an unknown mark", "an unknown kind"],
    )
    async def test_what_is_not_known_to_be_ours_is_left(self, changes: dict[str, Any]) -> None:
        desired = [call_events(number) for number in range(1, 13)]
        timer = await settled(*desired)
        stray = timer.graph.add(call_events(50), expires=timer.clock.now() + 300 * HOUR, **changes)
        report = await timer.run(5 * HOUR)
        assert stray.id in timer.graph.all
        assert not report.unwanted

    async def test_what_carries_the_previous_secret_is_ours(self) -> None:
        timer = await settled(*(call_events(number) for number in range(1, 13)))
        timer.scenario.endpoint = replace(ENDPOINT, client_states=("newer", *ENDPOINT.client_states))
        stray = timer.graph.add(call_events(50), notification_url=ENDPOINT.url(rich=True))
        await timer.run(70 * MINUTE)
        assert stray.id not in timer.graph.all

    async def test_only_the_timer_unsubscribes(self) -> None:
        timer = await left(members=30, leave=1)
        await timer.run(50 * MINUTE)
        timer.clock.advance(HOUR)
        await timer.process().run()
        await timer.process().resync(TENANT)
        assert 1 in timer.users()
        memory = timer.scenario.known.memories[TENANT]
        assert memory.review is not None
        assert len(memory.review.unwanted) == 1

    async def test_who_wants_todays_way_has_it_and_sees_what_stays(self) -> None:
        timer = await left(members=30, leave=1, unsubscribes=False)
        report = await timer.run(5 * HOUR)
        timer.confirm(report)
        report = await timer.run(5 * HOUR)
        assert timer.waits(report) == ["switched-off"]
        assert 1 in timer.users()

    async def test_what_waits_is_kept_alive(self) -> None:
        timer = await settled(call_events(1), call_records())
        timer.desire(call_records())
        await timer.run(50 * HOUR)
        assert timer.users() == {1}


class TestFirstRecord:
    async def test_what_is_unwanted_already_is_listed_until_it_is_confirmed(self) -> None:
        desired = [call_events(number) for number in range(1, 13)]
        timer = Timer(*desired)
        await timer.scenario.process().run()  # by a version that keeps no record
        timer.desire(*desired[1:])
        report = await timer.run(30 * HOUR)
        assert timer.waits(report) == ["first-record"]
        assert 1 in timer.users()
        timer.confirm(report)
        await timer.run(10 * MINUTE)
        assert timer.users() == set(range(2, 13))

    async def test_it_holds_up_nothing_else(self) -> None:
        desired = [call_events(number) for number in range(1, 31)]
        timer = Timer(*desired)
        await timer.scenario.process().run()
        timer.desire(*desired[8:])
        await timer.run(2 * HOUR)
        timer.desire(*desired[9:])
        report = await timer.run(70 * MINUTE)
        assert timer.waits(report) == ["first-record"] * 8
        assert timer.users() == {*range(1, 9), *range(10, 31)}

    async def test_a_record_that_was_lost_is_a_first_one(self) -> None:
        timer = await left(members=30, leave=1)
        await timer.run(50 * MINUTE)
        memory = timer.scenario.known.memories[TENANT]
        timer.scenario.known.memories[TENANT] = msgspec.structs.replace(memory, review=None)
        report = await timer.run(5 * HOUR)
        assert timer.waits(report) == ["first-record"]
        assert 1 in timer.users()


class TestBrake:
    @pytest.mark.parametrize(("members", "leave", "waiting"), [(59, 5, 0), (59, 6, 6), (20, 2, 0), (19, 2, 2)])
    async def test_more_than_five_or_a_tenth_wait(self, members: int, leave: int, waiting: int) -> None:
        timer = await left(members=members, leave=leave)
        report = await timer.run(70 * MINUTE if members > 50 else 3 * HOUR)
        assert timer.waits(report) == ["too-many"] * waiting
        assert len(timer.users()) == members - (leave - waiting)

    async def test_a_day_counts_together_and_a_day_later_they_still_wait(self) -> None:
        timer = await left(members=33, leave=3)
        await timer.run(70 * MINUTE)
        assert len(timer.users()) == 30
        timer.have_members(*range(7, 34))
        report = await timer.run(20 * HOUR)
        assert timer.waits(report) == ["too-many"] * 3
        assert len(timer.users()) == 30
        await timer.run(4 * HOUR)
        assert len(timer.users()) == 30

    async def test_the_rest_of_too_many_waits_on_where_some_have_ended_by_themselves(self) -> None:
        timer = await left(members=20, leave=3)
        report = await timer.run(50 * MINUTE)
        assert timer.waits(report) == ["too-many"] * 3
        for number in (1, 2):
            (ended,) = timer.graph.holds(call_events(number))
            del timer.graph.all[ended.id]
        report = await timer.run(3 * HOUR)
        assert timer.waits(report) == ["too-many"]
        assert 3 in timer.users()

    async def test_what_an_operator_has_confirmed_does_not_count(self) -> None:
        timer = await left(members=59, leave=10)
        timer.confirm(await timer.run(70 * MINUTE))
        await timer.run(10 * MINUTE)
        assert len(timer.users()) == 49
        timer.have_members(*range(12, 60))
        await timer.run(70 * MINUTE)
        assert len(timer.users()) == 48

    async def test_the_last_of_a_kind_in_a_tenant_waits(self) -> None:
        others = [call_events(number) for number in range(1, 30)]
        timer = await settled(*others, call_records(), call_records(OTHER_TENANT))
        timer.desire(*others, call_records(OTHER_TENANT))
        report = await timer.run(5 * HOUR)
        assert timer.waits(report) == ["last-of-its-kind"]
        assert timer.graph.holds(call_records())

    async def test_an_emergency_policy_waits(self) -> None:
        policies = [policy(name) for name in ("Headquarters", "Branch")]
        others = [call_events(number) for number in range(1, 30)]
        timer = await settled(*others, *policies)
        timer.desire(*others, policies[0])
        report = await timer.run(5 * HOUR)
        assert timer.waits(report) == ["emergency"]
        timer.confirm(report)
        await timer.run(10 * MINUTE)
        assert not timer.graph.holds(policies[1])


class TestConfirmation:
    async def prepared(self) -> tuple[Timer, RenewalReport]:
        timer = await left(members=59, leave=10)
        return timer, await timer.run(20 * MINUTE)

    async def test_what_is_confirmed_still_has_its_hour(self) -> None:
        timer, report = await self.prepared()
        timer.confirm(report)
        await timer.run(30 * MINUTE)
        assert len(timer.users()) == 59
        await timer.run(20 * MINUTE)
        assert len(timer.users()) == 49

    async def test_only_what_it_names_goes(self) -> None:
        timer, report = await self.prepared()
        some = dict(list(report.unwanted.items())[:3])
        timer.confirmed.ids = dict.fromkeys(some, timer.clock.now())
        report = await timer.run(HOUR)
        assert len(timer.users()) == 56
        assert timer.waits(report) == ["too-many"] * 7

    async def test_one_that_is_older_than_the_wish_is_none(self) -> None:
        timer = await settled(members=59)
        timer.confirmed.ids = dict.fromkeys(timer.graph.all, timer.clock.now() - HOUR)
        timer.have_members(*range(11, 60))
        await timer.run(5 * HOUR)
        assert len(timer.users()) == 59

    async def test_storage_that_does_not_tell_confirms_nothing(self) -> None:
        timer, report = await self.prepared()
        timer.confirm(report)
        timer.confirmed.error = UnavailableError("storage")
        await timer.run(5 * HOUR)
        assert len(timer.users()) == 59


def _confirming(identity: str, at: datetime) -> bytes:
    return msgspec.json.encode({"confirmed": {identity: at}})


class TestBlob:
    async def test_it_holds_for_a_day_each(self) -> None:
        storage = StorageModel()
        confirmations = Confirmations(storage.blobs, lambda: storage.now)
        assert await confirmations.load() == {}
        await confirmations.add(["a"])
        storage.now += 23 * HOUR
        await confirmations.add(["b"])
        assert set(await confirmations.load()) == {"a", "b"}
        storage.now += HOUR
        assert set(await confirmations.load()) == {"b"}

    async def test_two_operators_who_confirm_at_once_both_do(self) -> None:
        storage = StorageModel()
        confirmations = Confirmations(storage.blobs, lambda: storage.now)
        write_blob_in_between(storage, *CONFIRMATIONS, _confirming("a", storage.now))
        await confirmations.add(["b"])
        assert set(await confirmations.load()) == {"a", "b"}
        write_blob_in_between(storage, *CONFIRMATIONS, _confirming("c", storage.now))
        await confirmations.add(["d"])
        assert set(await confirmations.load()) == {"c", "d"}

    @pytest.mark.parametrize(
        "data", [b"", b"[]", b"{", b'{"confirmed": ["a"]}', b'{"confirmed": {"a": "2126-01-01T00:00:00Z"}}']
    )
    async def test_one_that_cannot_be_read_or_is_of_the_future_confirms_nothing(self, data: bytes) -> None:
        storage = StorageModel()
        await storage.blobs.put(*CONFIRMATIONS, data)
        assert await Confirmations(storage.blobs, lambda: storage.now).load() == {}


def test_a_review_is_kept_until_there_is_another() -> None:
    entry = Unwanted(kind="callEvents", resource="users/1", since=START, waits=Waits.EMERGENCY)
    memory = Memory(review=Review(unwanted={"a": entry, "b": entry}))
    assert Changes(gone={"a"}).applied(memory, START).review == Review(unwanted={"b": entry})
    assert Changes(review=Review()).applied(memory, START).review == Review()
    earlier = Changes(review=Review(whole_since=START))
    earlier.add(Changes())
    assert earlier.review == Review(whole_since=START)
    assert msgspec.json.decode(msgspec.json.encode(memory), type=Memory) == memory


class MemoryBefore(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the version before this one keeps."""

    known: Mapping[str, Any] = {}
    faceless: Mapping[str, Any] = {}
    refusals: Mapping[str, Any] = {}
    unseen: Mapping[str, Any] = {}
    readings: Mapping[str, Any] = {}


async def test_the_version_before_reads_what_this_one_keeps_and_drops_the_review_alone() -> None:
    """So after a rollback, or while both run, nothing goes by a review that somebody did not keep up."""
    timer = await settled(members=30)
    memory = timer.scenario.known.memories[TENANT]
    before = msgspec.json.decode(msgspec.json.encode(memory), type=MemoryBefore)
    after = msgspec.json.decode(msgspec.json.encode(before), type=Memory)
    assert memory.review is not None
    assert after == msgspec.structs.replace(memory, review=None)
