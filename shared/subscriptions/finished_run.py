"""The one way to end a renewal run, whoever asked for it: the timer, a lifecycle notification or an operator."""

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from shared.subscriptions.renewal_state import RenewalStates, lives_by_kind
from shared.subscriptions.run_report import RenewalReport
from shared.telemetry import Life
from shared.values.errors import MalformedInputError, SwitchboardError, UnavailableError
from shared.values.graph import Subscription

_log = logging.getLogger(__name__)


class Runner(StrEnum):
    """Who asked for a run."""

    TIMER = "timer"
    LIFECYCLE = "lifecycle"
    OPERATOR = "operator"


class RenewalTelemetry(Protocol):
    """Where figures go; see `shared.telemetry.Telemetry`."""

    def renewed(self, outcomes: Mapping[str, int], lives: Mapping[str, Life] | None) -> None: ...

    def renewal_failed(self) -> None: ...


class Coverage(Protocol):
    """Who notices gaps in call records; see `shared.call_records.backfill.Backfill`."""

    async def observe(self, subscriptions: Iterable[Subscription]) -> None: ...


@dataclass(slots=True)
class FinishedRuns:
    """Sees a run to its end: its figures, its state, its log, and what of call records it may have missed."""

    states: RenewalStates
    telemetry: RenewalTelemetry
    coverage: Coverage
    _ended: RenewalReport | None = field(default=None, init=False)

    async def see(self, run: Awaitable[RenewalReport], by: Runner) -> RenewalReport:
        """Await a run, and end it.

        A state that storage does not take is logged: what the run did is done.

        Raises:
            UnavailableError: nothing at all could be done; the counts of the last good run are kept.
            MalformedInputError: the run is of no tenant of ours.
        """
        beginning = asyncio.create_task(self._begin(by))  # renewal does not wait for storage
        try:
            report = await run
        except MalformedInputError:
            raise
        except Exception as error:
            await self._fail(by, error.reason if isinstance(error, SwitchboardError) else "unexpected")
            raise
        finally:
            await beginning
        if report is self._ended:  # lifecycle notifications that come together share a run
            return report
        self._ended = report
        outcomes = {str(outcome): count for outcome, count in report.outcomes.items()}
        self.telemetry.renewed(outcomes, lives_by_kind(report) if report.whole else None)
        for failure in report.failures:
            _log.error(
                "renewal: kind=%s reason=%s count=%d: %s", failure.what, failure.reason, failure.count, failure.detail
            )
        _log.info(
            "renewal: by=%s desired=%d live=%d nearest=%s outcomes=%s",
            by,
            report.desired,
            report.live,
            report.nearest,
            " ".join(f"{outcome}={count}" for outcome, count in outcomes.items()),
        )
        await self._keep(self.states.save(report, by))
        await self._keep(self.coverage.observe(report.call_records))
        return report

    async def _begin(self, by: Runner) -> None:
        if by is not Runner.LIFECYCLE:  # it is of one tenant, and its message comes again if it does not end
            await self._keep(self.states.begin(by))

    async def _fail(self, by: Runner, reason: str) -> None:
        self.telemetry.renewal_failed()
        if by is not Runner.LIFECYCLE:
            await self._keep(self.states.fail(by, reason))

    @staticmethod
    async def _keep(saving: Awaitable[None]) -> None:
        try:
            await saving
        except UnavailableError as error:
            _log.error("the state of renewal could not be kept: reason=%s", error.reason)
