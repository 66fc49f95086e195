"""How a run ends, whoever asked for it."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
import pytest

from shared.domain.errors import UnavailableError
from shared.domain.execution import Outcome
from shared.domain.graph import Subscription
from shared.services.finished_run import FinishedRuns, Runner
from shared.services.lifecycle import Lifecycle
from shared.services.renew import RenewalReport
from shared.services.renewal_state import RenewalStates
from shared.services.telemetry import Life
from tests.unit.model_graph import OTHER_TENANT, TENANT, call_events, call_records
from tests.unit.state_blobs import StateBlobs
from tests.unit.test_renew import HOUR, House


@dataclass
class Ends:
    """What is told to telemetry and to the coverage of call records."""

    outcomes: list[Mapping[str, int]] = field(default_factory=list)
    lives: list[Mapping[str, Life] | None] = field(default_factory=list)
    failures: int = 0
    observed: list[Subscription] = field(default_factory=list)

    def renewed(self, outcomes: Mapping[str, int], lives: Mapping[str, Life] | None) -> None:
        self.outcomes.append(outcomes)
        self.lives.append(lives)

    def renewal_failed(self) -> None:
        self.failures += 1

    async def observe(self, subscriptions: Iterable[Subscription]) -> None:
        self.observed += subscriptions


class Ending:
    def __init__(self) -> None:
        self.house = House(call_records(), call_events(1), call_events(2, OTHER_TENANT))
        self.blobs = StateBlobs()
        self.ends = Ends()
        self.states = RenewalStates(self.blobs, self.house.clock.now)
        self.runs = FinishedRuns(self.states, self.ends, self.ends)

    async def run(self, by: Runner = Runner.TIMER) -> RenewalReport:
        return await self.runs.see(self.house.process().run(), by)


async def test_every_run_leaves_the_same_behind_and_says_who_asked_for_it() -> None:
    for by in Runner:
        ending = Ending()
        await ending.run(by)
        state = await ending.states.latest()
        assert state is not None
        assert (state.by, state.live, state.failed, state.begun) == (by, 3, None, state.finished)
        assert ending.ends.outcomes == [{Outcome.CREATED: 3}]
        assert {one.resource for one in ending.ends.observed} == {"communications/callRecords"}


async def test_lives_are_told_as_graph_granted_them() -> None:
    ending = Ending()
    await ending.run()
    ending.house.clock.advance(13 * HOUR)
    ending.house.graph.grant = timedelta(minutes=50)
    await ending.run()
    state = await ending.states.latest()
    assert state is not None
    lives = ending.ends.lives[-1]
    assert lives is not None
    assert lives["callEvents"].granted == timedelta(minutes=50)
    assert state.subscriptions[0].life == 3000


async def test_a_run_that_can_do_nothing_keeps_the_counts_of_the_last_good_one() -> None:
    ending = Ending()
    await ending.run()
    ending.house.clock.advance(HOUR)
    ending.house.graph.list_errors = {
        tenant_id: UnavailableError("Graph", reason="unreachable") for tenant_id in (TENANT, OTHER_TENANT)
    }
    with pytest.raises(UnavailableError):
        await ending.run(Runner.OPERATOR)
    state = await ending.states.latest()
    assert state is not None
    assert state.failed is not None
    assert (state.live, state.failed.reason, state.failed.by) == (3, "unreachable", "operator")
    assert state.failed.at > state.finished
    assert ending.ends.failures == 1
    ending.house.graph.list_errors.clear()
    await ending.run()
    state = await ending.states.latest()
    assert state is not None
    assert state.failed is None


async def test_one_that_never_ends_is_seen_to_have_begun() -> None:
    ending = Ending()
    await ending.run()
    ending.house.clock.advance(HOUR)
    await ending.states.begin(Runner.TIMER)
    state = await ending.states.latest()
    assert state is not None
    assert state.begun == state.finished + HOUR


async def test_a_run_for_one_tenant_does_not_count_the_others_away() -> None:
    ending = Ending()
    await ending.run()
    lifecycle = Lifecycle(ending.house.process(), ending.runs)
    await lifecycle.handle({"tenantId": TENANT, "subscriptionId": "x", "lifecycleEvent": "missed"})
    state = await ending.states.latest()
    assert state is not None
    assert (state.live, state.by) == (3, "timer")
    assert ending.ends.lives[-1] is None


async def test_storage_that_is_away_fails_no_run(caplog: pytest.LogCaptureFixture) -> None:
    ending = Ending()
    ending.blobs.error = UnavailableError("storage", reason="storage-503")
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
        report = await ending.house.process().run()
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

    ending = Ending()
    await ending.run()
    before = msgspec.json.decode(ending.blobs.held["renewal.json"].data, type=Before)
    assert (before.live, before.failures) == (3, ())
    ending = Ending()
    await ending.blobs.put("state", "renewal.json", msgspec.json.encode(before))
    state = await ending.states.latest()
    assert state is not None
    assert (state.live, state.by, state.previous_client_state) == (3, "timer", 0)
    await ending.blobs.put("state", "renewal.json", b"{")
    assert await ending.states.latest() is None
