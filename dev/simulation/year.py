"""A year of Switchboard's subscriptions in a minute: `python -m dev.simulation.year --seed N [--seeds M] [--days D]`.

The real renewal and lifecycle services, the real Graph client but for its wire (see `in_process`), and the simulator's
rules of Graph and Entra ID run under one virtual clock, through whatever `fault_schedule` draws from the seed. What is
written down in `coverage` is judged at the end.
"""

import argparse
import asyncio
import logging
import random as random_module
import sys
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Final
from unittest.mock import patch

import msgspec

from dev.simulation.course_of_events import CourseOfEvents
from dev.simulation.coverage import Figures
from dev.simulation.fault_schedule import fault_schedule
from dev.simulation.known import Known
from dev.simulation.routine import TIMER, Routine, on_timer
from dev.simulation.scenario import AppProcess, Scenario
from dev.simulation.virtual_time import START, VirtualLoop, sleep_until
from shared.subscriptions.actions import Outcome
from shared.subscriptions.run_report import Failure, RenewalReport
from shared.values.errors import UnavailableError

_ROUNDED: Final = timedelta(seconds=2)  # Graph tells whole seconds


@dataclass(frozen=True, slots=True)
class Year:
    """How a seed went."""

    seed: int
    days: float
    figures: dict[str, Figures]
    violations: list[str]
    runs: int
    ticks: int
    requests: int
    outcomes: Counter[Outcome]
    journal: list[tuple[datetime, str, str]]


@dataclass(slots=True)
class _Timer:
    """The app's timer: its runs, and what came of them."""

    scenario: Scenario
    course: CourseOfEvents
    runs: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    async def tick_until(self, length: float, *, skip_routine: bool) -> None:
        """Tick for so many seconds."""
        course, routine = self.course, Routine(self.scenario, self.course)
        tick = 0.0
        before: _Trace | None = None
        while tick < length:
            await sleep_until(tick)
            trace, changes = None, course.changes
            if tick >= course.suspended_until:
                trace = await self.tick()
            tick = max(tick + TIMER, on_timer(asyncio.get_running_loop().time()))
            if trace is not None and changes == course.changes and not course.telling and skip_routine:
                if trace.well and not self.scenario.entra.outages:
                    tick = max(tick, await routine.next_use())
                elif trace == before or trace.is_outage:
                    tick = max(tick, routine.next_turn_of_events(is_outage=trace.is_outage))
            before = trace

    async def tick(self) -> "_Trace | None":
        """One tick of the timer, and what came of it; None where another process ran, too."""
        self.scenario.faults.forget_requests()
        processes = [(self.scenario.process, True)]
        while self.course.others:
            other, review = self.scenario.start(), True
            if self.course.others.pop() == "version before" and not self.scenario.is_told_falsely:
                # It goes by the list, and knows neither what is remembered nor whose turn it is.
                other, review = self.scenario.start(Known()), False
                self.scenario.ledger.without_turn += 1
            processes.append((other, review))
        reports = await asyncio.gather(*(self._run(process, review=review) for process, review in processes))
        self.scenario.ledger.without_turn = 0
        return self._trace(reports[0]) if len(reports) == 1 else None

    async def _run(self, process: AppProcess, *, review: bool) -> RenewalReport | None:
        """A run's report; None where nothing at all could be done."""
        self.runs += 1
        try:
            report = await process.renewal.run(review=review)
        except UnavailableError:
            return None
        self.outcomes.update(report.outcomes)
        return report

    def _trace(self, report: RenewalReport | None) -> "_Trace":
        held = {one.id: one.expires for one in self.scenario.store.all()}
        memories = [self.scenario.memory(tenant_id) for tenant_id in self.scenario.tenant_ids]
        remembered = frozenset(
            (identity, None if abs(held.get(identity, START) - known.expires) < _ROUNDED else known.expires)
            for memory in memories
            for identity, known in memory.known.items()
        )
        return _Trace(
            outcomes=None if report is None else _settled(report.outcomes),
            failures=() if report is None else tuple(_told(failure) for failure in report.failures),
            came_and_went=self.scenario.ledger.came_and_went,
            remembered=remembered,
            learned=msgspec.json.encode(
                [(memory.unseen, memory.refusals, memory.review) for memory in memories], order="sorted"
            ),
            # With all of Graph away no run can change anything, until that is over: an event.
            is_outage=report is None and self.course.graph_outages > 0,
        )


@dataclass(frozen=True, slots=True)
class _Trace:
    """What a run left behind, renewals aside: two of the same in a row, and the next does nothing new either."""

    outcomes: frozenset[tuple[Outcome, int]] | None
    failures: tuple[tuple[str, ...], ...]
    came_and_went: int
    remembered: frozenset[tuple[str, datetime | None]]
    learned: bytes
    is_outage: bool

    @property
    def well(self) -> bool:
        """Whether nothing was left to be done."""
        outcomes = {outcome for outcome, _ in self.outcomes or {(Outcome.FAILED, 1)}}
        return outcomes <= {Outcome.UNCHANGED} and not self.failures


def _settled(outcomes: Mapping[Outcome, int]) -> frozenset[tuple[Outcome, int]]:
    counted = Counter(outcomes)
    counted[Outcome.UNCHANGED] += counted.pop(Outcome.RENEWED, 0)
    return frozenset(counted.items())


def _told(failure: Failure) -> tuple[str, ...]:
    return failure.tenant_id, failure.stage, failure.kind or "", failure.reason, str(failure.count)


async def _live(seed: int, days: float, *, skip_routine: bool, tenants: int | None) -> Year:
    scenario = Scenario(seed, days, tenants)
    course = CourseOfEvents(scenario, fault_schedule(seed, days))
    timer = _Timer(scenario, course)
    events = asyncio.create_task(course.unfold())
    length = days * 86400.0
    await timer.tick_until(length, skip_routine=skip_routine)
    await events
    await sleep_until(length)
    for _ in range(3):
        await timer.tick()
        await asyncio.sleep(TIMER)
    await course.stop()
    problems = course.problems + scenario.touched_bystanders()
    scenario.ledger.finish()
    return Year(
        seed,
        days,
        scenario.ledger.figures(),
        problems + scenario.ledger.violations(),
        timer.runs,
        int(length // TIMER),
        scenario.latency.requests,
        timer.outcomes,
        scenario.ledger.journal,
    )


def simulate(seed: int, days: float = 365.0, *, skip_routine: bool = True, tenants: int | None = None) -> Year:
    """Live through `days` days of this seed's weather.

    Args:
        seed: draws everything that is drawn.
        days: the year, or a shorter time.
        skip_routine: leave out ticks of the timer that can do nothing: nothing has happened since a run that left
            nothing to do, or since two in trouble of which the second changed nothing and met with the same as the
            first; and nothing becomes due. And renew presence, which is due every half hour, without all the rest of
            a run where nothing else is due, nothing is wrong, and nothing happens before a whole run renews it again.
        tenants: how many, one to three; if not given, that is drawn, too.
    """
    ids = Random(seed)
    state, disabled = random_module.getstate(), logging.root.manager.disable
    random_module.seed(seed)
    logging.disable()  # a year's failures would fill pages
    try:
        with (
            patch("uuid.uuid4", lambda: uuid.UUID(int=ids.getrandbits(128), version=4)),
            asyncio.Runner(loop_factory=VirtualLoop) as runner,
        ):
            return runner.run(_live(seed, days, skip_routine=skip_routine, tenants=tenants))
    finally:
        random_module.setstate(state)
        logging.disable(disabled)


def main() -> int:
    """Run seeds one after another; the first that fails ends it with 1."""
    parser = argparse.ArgumentParser(prog="python -m dev.simulation.year")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--days", type=float, default=365.0)
    arguments = parser.parse_args()
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        year = simulate(seed, arguments.days)
        print(f"seed {seed}: {year.ticks} ticks, {year.runs} runs, {year.requests} requests, {dict(year.outcomes)}")
        for kind, found in year.figures.items():
            print(
                f"  {kind:20} {1 - found.absent / found.wanted:.6%} of all time, "
                f"{1 - found.absent_while_reachable / found.reachable:.6%} while Graph is reachable, "
                f"longest {found.longest_while_reachable}, {dict(found.causes)}"
            )
        for violation in year.violations:
            print(f"  VIOLATION {violation}")
        if year.violations:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
