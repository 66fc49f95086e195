"""How a run ends, whoever asked for it."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import msgspec
import pytest

from dev.simulation.storage_model import StorageModel
from shared.storage.ports import STATE_CONTAINER
from shared.subscriptions.actions import Outcome
from shared.subscriptions.desired import DesiredState
from shared.subscriptions.lifecycle import Lifecycle
from shared.subscriptions.renewal_state import FinishedRuns, RenewalState, RenewalStates, Runner
from shared.subscriptions.run_report import RenewalReport
from shared.telemetry import Life
from shared.values import graph_errors
from shared.values.errors import UnavailableError
from shared.values.graph import Subscription
from tests.fakes import write_blob
from tests.unit import model_graph as model
from tests.unit.model_graph import ENDPOINT, OTHER_TENANT, TENANT, call_events, call_records
from tests.unit.test_renew import HOUR, Scenario


@dataclass
class Ends:
    """What is told to telemetry and to the coverage of call records."""

    outcomes: list[Mapping[str, int]] = field(default_factory=list)
    lives: list[Mapping[str, Life] | None] = field(default_factory=list)
    unconfirmed_counts: list[int] = field(default_factory=list)
    failures: int = 0
    observed: list[Subscription] = field(default_factory=list)

    def renewed(self, outcomes: Mapping[str, int], lives: Mapping[str, Life] | None) -> None:
        self.outcomes.append(outcomes)
        self.lives.append(lives)

    def unconfirmed(self, count: int) -> None:
        self.unconfirmed_counts.append(count)

    def renewal_failed(self) -> None:
        self.failures += 1

    async def observe(self, subscriptions: Iterable[Subscription]) -> None:
        self.observed += subscriptions


class Ending:
    def __init__(self) -> None:
        self.scenario = Scenario(call_records(), call_events(1), call_events(2, OTHER_TENANT))
        self.storage = StorageModel()
        self.ends = Ends()
        self.states = RenewalStates(self.storage.blobs, self.scenario.clock.now)
        self.runs = FinishedRuns(self.states, self.ends, self.ends)

    async def run(self, by: Runner = Runner.TIMER) -> RenewalReport:
        return await self.runs.see(self.scenario.process().run(review=by is Runner.TIMER), by)

    async def last(self) -> RenewalState:
        state = (await self.states.latest()).last
        assert state is not None
        return state

    async def trouble(self) -> str:
        """What is said of how renewal stands now; nothing where all is well."""
        trouble = (await self.states.latest()).trouble(self.scenario.clock.now())
        return "" if trouble is None else f"{trouble.reason}: {trouble.text}"

    def cut_off(self) -> None:
        """Graph and Entra ID are away."""
        self.scenario.graph.list_errors = {
            tenant_id: UnavailableError("Graph", reason="unreachable") for tenant_id in (TENANT, OTHER_TENANT)
        }


async def ended() -> Ending:
    """After a first run."""
    ending = Ending()
    await ending.run()
    return ending


async def test_every_run_leaves_the_same_behind_and_says_who_asked_for_it() -> None:
    for by in Runner:
        ending = Ending()
        await ending.run(by)
        renewals = await ending.states.latest()
        assert (renewals.last, renewals.failed, renewals.begun) == (await ending.last(), None, None)
        assert ((await ending.last()).by, (await ending.last()).live) == (by, 3)
        assert ending.ends.outcomes == [{Outcome.CREATED: 3}]
        assert {one.resource for one in ending.ends.observed} == {"communications/callRecords"}


async def test_lives_are_told_as_graph_granted_them() -> None:
    ending = await ended()
    ending.scenario.clock.advance(13 * HOUR)
    ending.scenario.graph.grant = timedelta(minutes=50)
    await ending.run()
    state = await ending.last()
    lives = ending.ends.lives[-1]
    assert lives is not None
    assert lives["callEvents"].granted == timedelta(minutes=50)
    assert state.subscriptions[0].life == 3000


async def test_a_run_that_can_do_nothing_is_told_at_once_and_keeps_the_counts_of_the_last_good_one() -> None:
    ending = await ended()
    ending.scenario.clock.advance(HOUR)
    ending.cut_off()
    with pytest.raises(UnavailableError):
        await ending.run(Runner.OPERATOR)
    assert (
        await ending.trouble() == "run-failed: the run of 01:00 UTC (by operator) could do nothing at all: unreachable"
    )
    assert (await ending.last()).live == 3
    assert ending.ends.failures == 1
    ending.scenario.graph.list_errors.clear()
    await ending.run()
    assert await ending.trouble() == ""


async def test_a_first_run_that_can_do_nothing_is_told_too() -> None:
    ending = Ending()
    ending.cut_off()
    with pytest.raises(UnavailableError):
        await ending.run()
    assert (await ending.states.latest()).last is None
    assert (await ending.trouble()).endswith("(by timer) could do nothing at all: unreachable")


async def test_a_run_that_a_fault_of_ours_ends_is_told_and_raises() -> None:
    async def faulty() -> RenewalReport:
        raise ZeroDivisionError

    ending = Ending()
    with pytest.raises(ZeroDivisionError):
        await ending.runs.see(faulty(), Runner.TIMER)
    assert (await ending.trouble()).endswith("could do nothing at all: unexpected")
    assert ending.ends.failures == 1


async def die(ending: Ending, by: Runner = Runner.TIMER) -> None:
    """A run whose worker ends in the midst of it."""
    begun = asyncio.Event()

    async def endless() -> RenewalReport:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    run = asyncio.create_task(ending.runs.see(endless(), by))
    await begun.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


@pytest.mark.parametrize("before", [True, False])
async def test_one_that_never_ended_is_told_once_it_can_end_no_more(before: bool) -> None:
    ending = Ending()
    if before:
        await ending.run()
    ending.scenario.clock.advance(HOUR)
    await die(ending)
    ending.scenario.clock.advance(timedelta(minutes=12))
    assert await ending.trouble() == ""
    ending.scenario.clock.advance(timedelta(seconds=1))
    text = "run-without-end: a run (by timer) began at 01:00 UTC, and none has come to its end since"
    assert await ending.trouble() == text
    await ending.run()
    assert await ending.trouble() == ""


async def test_one_dying_after_another_is_told_by_the_first() -> None:
    """The timer begins a new one every five minutes, and none of them is twelve minutes old."""
    ending = await ended()
    for _ in range(3):
        ending.scenario.clock.advance(timedelta(minutes=5))
        await die(ending)
    assert await ending.trouble() == ""
    ending.scenario.clock.advance(timedelta(minutes=5))
    await die(ending)
    assert (await ending.trouble()).startswith("run-without-end: a run (by timer) began at 00:05 UTC")


async def test_a_lifecycle_notifications_run_tells_nothing_of_all_renewal() -> None:
    ending = await ended()
    ending.scenario.clock.advance(HOUR)
    await die(ending)
    ending.cut_off()
    with pytest.raises(UnavailableError):
        await ending.run(Runner.LIFECYCLE)
    await die(ending, Runner.LIFECYCLE)
    ending.scenario.clock.advance(HOUR)
    assert (await ending.trouble()).startswith("run-without-end: a run (by timer) began at 01:00 UTC")
    assert (await ending.states.latest()).failed is None


async def test_what_the_version_before_noted_is_understood() -> None:
    ending = Ending()
    write_blob(ending.storage, STATE_CONTAINER, "renewal-begun.json", b'{"at":"2026-01-01T00:00:00Z","by":"timer"}')
    assert await ending.trouble() == ""
    ending.scenario.clock.advance(HOUR)
    assert (await ending.trouble()).startswith("run-without-end: a run (by timer) began at 00:00 UTC")
    await ending.run()
    assert await ending.trouble() == ""


async def test_what_graph_does_not_renew_is_kept_in_the_state_and_what_happens_to_it() -> None:
    ending = await ended()
    ending.scenario.source.state = DesiredState((call_records(), call_events(1)), ())
    ending.scenario.clock.advance(13 * HOUR)
    refusal = model.refuse(graph_errors.PermissionDeniedError("403"))
    ending.scenario.graph.faults = lambda call: refusal if call.method == "PATCH" else None
    await ending.run()
    ends = ending.scenario.graph.holds(call_events(1))[0].expires
    kept = (await ending.last()).kept
    assert {(one.kind, one.reason, one.expires) for one in kept} == {("callEvents", "permission", ends)}
    from_then_on = ends - timedelta(hours=24) * 0.99 / 4
    assert [one.replaced_from for one in kept if one.replaced_from is not None] == [from_then_on]
    assert [one.id for one in kept if one.replaced_from is None] == [
        ending.scenario.graph.holds(call_events(2, OTHER_TENANT))[0].id  # nobody desires it any more
    ]


async def test_previous_client_states_are_counted_and_whether_that_is_of_all() -> None:
    ending = await ended()
    ending.scenario.endpoint = replace(ENDPOINT, client_states=("newer", *ENDPOINT.client_states))
    await ending.run()
    state = await ending.last()
    assert (state.previous_client_state, state.lists_whole) == (3, True)
    ending.scenario.graph.list_errors = {TENANT: UnavailableError("Graph")}
    await ending.run()
    state = await ending.last()
    assert (state.previous_client_state, state.lists_whole) == (3, False)


async def test_a_run_for_one_tenant_does_not_count_the_others_away() -> None:
    ending = await ended()
    lifecycle = Lifecycle(ending.scenario.process(), ending.runs)
    await lifecycle.handle({"tenantId": TENANT, "subscriptionId": "x", "lifecycleEvent": "missed"})
    state = await ending.last()
    assert (state.live, state.by) == (3, "timer")
    assert ending.ends.lives[-1] is None


async def test_what_waits_for_a_confirmation_is_counted_by_every_run_until_there_is_none() -> None:
    ending = await ended()
    ending.scenario.source.state = DesiredState((call_records(), call_events(1)), ())
    await ending.run()
    await ending.run(Runner.OPERATOR)
    ending.scenario.source.state = DesiredState(ending.scenario.desired, ())
    await ending.run()
    assert ending.ends.unconfirmed_counts == [0, 1, 1, 0]


async def test_a_run_for_one_tenant_counts_nothing_that_waits() -> None:
    ending = await ended()
    await Lifecycle(ending.scenario.process(), ending.runs).handle(
        {"tenantId": TENANT, "subscriptionId": "x", "lifecycleEvent": "missed"}
    )
    assert ending.ends.unconfirmed_counts == [0]


async def test_what_is_not_known_to_wait_does_not_count_as_none() -> None:
    """A new worker, while storage is away, remembers nothing of what waits."""
    ending = Ending()
    await ending.run(Runner.OPERATOR)  # nobody has looked for it yet
    assert ending.ends.unconfirmed_counts == []
    await ending.run()
    ending.scenario.known.error = UnavailableError("storage")
    await ending.run()
    assert ending.ends.unconfirmed_counts == [0]


async def test_what_waits_in_one_tenant_is_counted_though_another_is_unknown() -> None:
    ending = await ended()
    ending.scenario.source.state = DesiredState((call_records(), call_events(1)), ())
    await ending.run()
    memories = ending.scenario.known.memories
    memories[TENANT] = msgspec.structs.replace(memories[TENANT], review=None)
    await ending.run(Runner.OPERATOR)
    assert ending.ends.unconfirmed_counts == [0, 1, 1]


async def test_a_run_that_several_asked_for_counts_once() -> None:
    ending = await ended()
    lifecycle = Lifecycle(ending.scenario.process(), ending.runs)
    item = {"tenantId": TENANT, "subscriptionId": "x", "lifecycleEvent": "missed"}
    await asyncio.gather(*(lifecycle.handle(item) for _ in range(5)))
    assert ending.ends.outcomes[1:] == [{"unchanged": 2}]
    await lifecycle.handle(item)
    assert ending.ends.outcomes[1:] == [{"unchanged": 2}] * 2


async def test_storage_that_is_away_fails_no_run(caplog: pytest.LogCaptureFixture) -> None:
    ending = Ending()
    ending.storage.refused.add(STATE_CONTAINER)
    with caplog.at_level(logging.ERROR):
        report = await ending.run()
    assert report.outcomes == {Outcome.CREATED: 3}
    assert "reason=storage-503" in caplog.text


async def test_renewal_does_not_wait_for_storage_to_note_that_it_begins() -> None:
    ending = Ending()
    ended = asyncio.Event()

    async def late(_: str) -> None:
        async with asyncio.timeout(5):
            await ended.wait()

    async def run() -> RenewalReport:
        report = await ending.scenario.process().run()
        ended.set()
        return report

    ending.states.begin = late  # type: ignore[method-assign]
    assert (await ending.runs.see(run(), Runner.TIMER)).outcomes == {Outcome.CREATED: 3}


async def test_the_version_before_reads_what_is_kept_and_what_it_kept_is_read() -> None:
    class Before(msgspec.Struct, frozen=True, kw_only=True):
        """A state as the version before declares it."""

        finished: str
        desired: int
        live: int
        nearest_expiry: str | None
        outcomes: Mapping[str, int]
        failures: tuple[str, ...]
        by_kind: Mapping[str, int] = {}

    ending = await ended()
    before = msgspec.json.decode(ending.storage.containers[STATE_CONTAINER]["renewal.json"].data, type=Before)
    assert (before.live, before.failures) == (3, ())
    ending = Ending()
    write_blob(ending.storage, STATE_CONTAINER, "renewal.json", msgspec.json.encode(before))
    state = await ending.last()
    assert (state.live, state.by, state.previous_client_state) == (3, "timer", 0)
    write_blob(ending.storage, STATE_CONTAINER, "renewal.json", b"{")
    assert (await ending.states.latest()).last is None


@pytest.mark.parametrize(
    "data", [b"", b'{"by": "\xff"}', b'{"more": ' + b"[" * 20_000, b'{"at": "2026-01-01T00:00:00"}']
)
async def test_a_damaged_state_stops_no_run(data: bytes) -> None:
    ending = await ended()
    for name in list(ending.storage.containers[STATE_CONTAINER]):
        write_blob(ending.storage, STATE_CONTAINER, name, data)
    assert (await ending.states.latest()).last is None
    await ending.run()
    assert ((await ending.last()).live, await ending.trouble()) == (3, "")
