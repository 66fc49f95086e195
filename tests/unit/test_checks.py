"""Checks of `doctor` that depend on how long something has lasted."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from commands.checks import (
    Check,
    State,
    _client_state,
    _functions,
    _ingestion,
    _kept,
    _poison,
    _raw_messages,
    _reception,
    _timer,
)
from dev.simulation.storage_model import StorageModel
from shared.notifications.poison import PoisonStates
from shared.operations.activity import Activity
from shared.operations.function_runs import FunctionRuns, Runs
from shared.subscriptions.renewal_state import BegunRun, FailedRun, KeptSubscription, Renewals, RenewalState
from shared.telemetry import Happening
from shared.values.errors import UnavailableError
from tests.unit.state_blobs import Version

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Context:
    """As much of a command's context as these checks look at."""

    ages: dict[str, timedelta] = field(default_factory=dict)
    left: dict[str, datetime] = field(default_factory=dict)
    state: RenewalState | None = None
    failed: FailedRun | None = None
    begun: BegunRun | None = None
    client_states: tuple[str, ...] = ("current", "previous")
    runs: Runs | None = None
    storage: bool = True

    @property
    def queues(self) -> "Context":
        return self

    @property
    def renewal_states(self) -> "Context":
        return self

    @property
    def settings(self) -> "Context":
        return self

    @property
    def clock(self) -> "Context":
        return self

    def now(self) -> datetime:
        return NOW

    async def oldest(self, queue: str) -> datetime | None:
        self._reach()
        return NOW - self.ages[queue] if queue in self.ages else None

    @property
    def poison_states(self) -> PoisonStates:
        return PoisonStates(self)  # type: ignore[arg-type]

    async def get(self, _container: str, _name: str) -> bytes:
        self._reach()
        return msgspec.json.encode({"oldest": self.left})

    @property
    def function_runs(self) -> FunctionRuns:
        return FunctionRuns(self, self.now)  # type: ignore[arg-type]

    async def get_version(self, _container: str, _name: str) -> Version | None:
        self._reach()
        return None if self.runs is None else Version(msgspec.json.encode(self.runs), "1")

    async def latest(self) -> Renewals:
        self._reach()
        return Renewals(self.state, self.failed, self.begun)

    def _reach(self) -> None:
        if not self.storage:
            raise UnavailableError("storage", reason="storage-no-answer")


def finished(ago: timedelta, *failures: str) -> RenewalState:
    return RenewalState(
        finished=NOW - ago, desired=1, live=1, nearest_expiry=None, outcomes={"left": 1}, failures=failures
    )


async def only(check: Any, context: Context) -> Check:
    (found,) = await check(context)
    return found


@pytest.mark.parametrize(
    ("ages", "state"),
    [
        ({}, State.OK),
        ({"raw-notifications": timedelta(seconds=59)}, State.OK),
        ({"raw-notifications": timedelta(minutes=4)}, State.WARNING),
        ({"raw-notifications": timedelta(minutes=6)}, State.PROBLEM),
        ({"raw-emergency": timedelta(minutes=2)}, State.PROBLEM),
    ],
)
async def test_raw_messages_that_wait(ages: dict[str, timedelta], state: State) -> None:
    found = await only(_raw_messages, Context(ages=ages))
    assert found.state is state
    if state is not State.OK:
        assert next(iter(ages)) in found.found
        assert "queue functions are enabled" in str(found.remedy)


async def test_poison_messages_that_nobody_takes_away() -> None:
    assert (await only(_poison, Context())).state is State.OK
    just_there = Context(ages={"raw-emergency-poison": timedelta(minutes=14)})
    assert (await only(_poison, just_there)).state is State.OK
    long_there = Context(ages={"lifecycle-notifications-poison": timedelta(minutes=16)})
    leased = Context(left={"raw-emergency-poison": NOW - timedelta(minutes=16)})  # a peek does not show it
    for context in (long_there, leased):
        found = await only(_poison, context)
        assert (found.state, found.found) == (State.PROBLEM, "the oldest has lain there for 16 min")
        assert "drain_poison" in str(found.remedy)


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        (None, "renew_subscriptions is enabled"),
        (finished(timedelta(minutes=61)), "renew_subscriptions is enabled"),
        (finished(timedelta(minutes=1), "presence: sign-in-required x 1"), "manage.py login"),
        (finished(timedelta(minutes=1), "callEvents: permission x 1"), "subscriptions apply"),
    ],
)
async def test_a_timer_that_does_not_do_its_work(state: RenewalState | None, remedy: str) -> None:
    found = await only(_timer, Context(state=state))
    assert found.state is State.PROBLEM
    assert remedy in str(found.remedy)


@pytest.mark.parametrize("state", [None, finished(timedelta(minutes=4))])
@pytest.mark.parametrize(
    ("failed", "begun", "found", "remedy"),
    [
        (FailedRun(at=NOW, reason="unreachable"), None, "could do nothing at all: unreachable", "the other checks"),
        (FailedRun(at=NOW, reason="sign-in-required"), None, "sign-in-required", "manage.py login"),
        (None, BegunRun(at=NOW - timedelta(minutes=13)), "none has come to its end", "log of renew_subscriptions"),
    ],
)
async def test_a_run_that_failed_as_a_whole_or_never_ended(
    state: RenewalState | None, failed: FailedRun | None, begun: BegunRun | None, found: str, remedy: str
) -> None:
    told = await only(_timer, Context(state=state, failed=failed, begun=begun))
    assert (told.state, found in told.found, remedy in str(told.remedy)) == (State.PROBLEM, True, True)


async def test_what_graph_does_not_renew_is_told_with_what_happens_next() -> None:
    assert await _kept(Context()) == []  # type: ignore[arg-type]
    kept = KeptSubscription(
        id="a", kind="callEvents", reason="rejected", replaced_from=NOW, expires=NOW + timedelta(hours=6)
    )
    unwanted = msgspec.structs.replace(kept, id="b", replaced_from=None)
    state = msgspec.structs.replace(finished(timedelta(0)), kept=(kept, unwanted))
    first, second = await _kept(Context(state=state))  # type: ignore[arg-type]
    assert first.state is State.WARNING
    assert first.found == (
        "callEvents, not renewed by Graph (rejected); every run tries again, it is replaced from 2026-01-01 00:00 UTC "
        "on, and it ends at 2026-01-01 06:00 UTC"
    )
    assert second.found.endswith("every run tries again, and it ends at 2026-01-01 06:00 UTC")


@pytest.mark.parametrize(
    ("count", "whole", "state", "found"),
    [
        (7, True, State.WARNING, "7 still carry it"),
        (0, False, State.WARNING, "did not give the whole list"),
        (0, True, State.OK, "none carries it, says the run of 4 min ago"),
    ],
)
async def test_whether_the_previous_client_state_can_go(count: int, whole: bool, state: State, found: str) -> None:
    last = finished(timedelta(minutes=4))
    context = Context(state=msgspec.structs.replace(last, previous_client_state=count, lists_whole=whole))
    told = await only(_client_state, context)
    assert (told.state, found in told.found) == (state, True)
    context.client_states = ("current",)
    assert await _client_state(context) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("minutes", "state"), [(14, State.OK), (20, State.WARNING), (61, State.PROBLEM)])
async def test_a_timer_that_has_not_run_for_so_long(minutes: int, state: State) -> None:
    assert (await only(_timer, Context(state=finished(timedelta(minutes=minutes))))).state is state


async def test_a_function_that_the_host_does_not_call_any_more() -> None:
    ran = {"renew_subscriptions": NOW - timedelta(minutes=4), "sweep_claim_checks": NOW - timedelta(hours=27)}
    runs = Runs(since=NOW - timedelta(days=9), last=ran)

    drain, sweep, others = sorted(await _functions(Context(runs=runs)), key=lambda check: check.name)  # type: ignore[arg-type]

    assert (drain.name, drain.state, drain.found) == ("function drain_poison", State.PROBLEM, "has not run once in 9 d")
    assert "AzureWebJobs.drain_poison.Disabled" in str(drain.remedy)
    assert (sweep.name, sweep.state, sweep.found) == (
        "function sweep_claim_checks",
        State.PROBLEM,
        "has not run for 1 d 3 h",
    )
    assert (others.name, others.state) == ("functions", State.OK)
    assert others.found.startswith("renew_subscriptions 4 min ago; not yet: decrypt_notifications, ")


@pytest.mark.parametrize("runs", [None, Runs(since=NOW - timedelta(minutes=14))])
async def test_functions_whose_time_has_not_come(runs: Runs | None) -> None:
    assert (await only(_functions, Context(runs=runs))).state is State.OK


@pytest.mark.parametrize("check", [_raw_messages, _poison, _timer, _kept, _client_state, _functions])
async def test_what_storage_does_not_tell_is_said_by_the_check_of_storage(check: Any) -> None:
    assert await check(Context(storage=False)) == []


class Logs:
    """A workspace of Log Analytics with so many megabytes by table, or one that refuses."""

    def __init__(self, billed: dict[str, float] | UnavailableError) -> None:
        self._billed = billed

    @property
    def logs(self) -> "Logs":
        return self

    async def billed(self) -> dict[str, float]:
        if isinstance(self._billed, UnavailableError):
            raise self._billed
        return self._billed


class TestIngestion:
    async def test_a_usual_amount_is_well(self) -> None:
        (check,) = await _ingestion(Logs({"AppMetrics": 9.6, "AppRequests": 0.4}))  # type: ignore[arg-type]
        assert (check.state, check.found) == (State.OK, "10 MB in the last day")

    async def test_too_much_names_the_tables(self) -> None:
        (check,) = await _ingestion(Logs({"AppDependencies": 1400.0, "AppTraces": 300.0}))  # type: ignore[arg-type]
        assert check.state is State.WARNING
        assert check.found == "1700 MB in the last day (AppDependencies 1400 MB, AppTraces 300 MB)"

    async def test_a_missing_role_is_named(self) -> None:
        refused = UnavailableError("Log Analytics", reason="log-analytics-403")
        (check,) = await _ingestion(Logs(refused))  # type: ignore[arg-type]
        assert check.state is State.WARNING
        assert "Log Analytics Reader" in (check.remedy or "")


@pytest.mark.parametrize(
    ("received", "refused", "state", "text"),
    [
        (0, 0, State.OK, "0 accepted"),
        (5, 900, State.OK, "5 accepted in the last 15 minutes, refused: 900 client-state"),
        (0, 1, State.WARNING, "0 accepted in the last 15 minutes, refused: 1 client-state"),
    ],
)
async def test_tells_of_refusals_while_nothing_is_accepted(
    received: int, refused: int, state: State, text: str
) -> None:
    storage = StorageModel(now=NOW)
    counting = Activity(storage.blobs, "w", lambda: NOW - timedelta(minutes=1))
    if received:
        counting.add("raw-notifications", Happening.RECEIVED, received)
    if refused:
        counting.add("client-state", Happening.REFUSED, refused)
    await counting.flush()
    context = SimpleNamespace(blobs=storage.blobs, clock=Context())
    (found,) = await _reception(context)  # type: ignore[arg-type]
    assert (found.state, text in found.found) == (state, True)
