"""Whether all that Switchboard needs is there, and whether data flows: one check, which all who ask share."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from shared.operations.function_runs import Runs
from shared.operations.limits import POISON, RAW_MESSAGES, RENEWAL, Level
from shared.storage.ports import Queues
from shared.subscriptions.renewal_state import Renewals
from shared.values.duration import span
from shared.values.errors import SettingsError, UnavailableError
from shared.values.graph import SIGN_IN_REQUIRED

logger = logging.getLogger(__name__)

KEPT: Final = timedelta(seconds=30)
"""How long a report is given to whoever asks."""

_SECONDS: Final = 5.0  # for all checks, which are made at once


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What a check has found. `reason` is a short, stable word, where there is one."""

    ok: bool
    problem: str | None = None
    reason: str | None = None


type Checks = Mapping[str, Callable[[], Awaitable[Check]]]
"""Checks by name."""

_OK: Final = Check(ok=True)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What all checks have found, and when."""

    at: datetime
    checks: Mapping[str, Check]

    @property
    def well(self) -> bool:
        """Whether every check has found that all is well."""
        return all(check.ok for check in self.checks.values())


class Health:
    """Runs checks for whoever asks, however many they are, at most once in `KEPT`. Belongs to one event loop.

    Nobody has to prove anything to ask, so asking must be cheap, and a failure is kept like a success.
    """

    def __init__(self, checks: Callable[[], Checks], now: Callable[[], datetime]) -> None:
        """Take what gives the checks, or raises `SettingsError`; and the clock, aware."""
        self._checks = checks
        self._now = now
        self._report: Report | None = None
        self._running: asyncio.Task[Report] | None = None

    async def report(self) -> Report:
        """What the checks have found, half a minute ago at the most."""
        known = self._report
        if known is not None and timedelta(0) <= self._now() - known.at < KEPT:
            return known
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await asyncio.shield(self._running)  # whoever goes away must not take it from the others

    async def _run(self) -> Report:
        try:
            report = Report(at=self._now(), checks=await self._found())
            before = {} if self._report is None else self._report.checks
            for name, check in report.checks.items():
                if not check.ok and check != before.get(name):
                    logger.warning("health: check=%s reason=%s: %s", name, check.reason, check.problem)
            self._report = report
            return report
        finally:
            self._running = None

    async def _found(self) -> Mapping[str, Check]:
        try:
            checks = self._checks()
        except SettingsError as error:
            return {"settings": Check(ok=False, problem="; ".join(error.problems), reason=error.reason)}
        results = await asyncio.gather(*(_guard(check()) for check in checks.values()))
        return dict(zip(checks, results, strict=True))


async def _guard(check: Awaitable[Check]) -> Check:
    """A check's result, or why it could not be made."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await check
    except UnavailableError as error:
        return Check(ok=False, problem=str(error), reason=error.reason)
    except TimeoutError:
        return Check(ok=False, problem="no answer in time", reason="out-of-time")
    except Exception as error:  # noqa: BLE001 - whatever a check meets is what it has found; its text may hold data
        return Check(ok=False, problem=f"an unexpected {type(error).__name__}", reason="unexpected")


class Certificates(Protocol):
    async def exists(self) -> bool: ...


class RenewalStates(Protocol):
    async def latest(self) -> Renewals: ...


class PoisonAges(Protocol):
    async def oldest(self) -> Mapping[str, datetime]: ...


class FunctionRuns(Protocol):
    async def latest(self) -> Runs | None: ...


@dataclass(frozen=True, slots=True)
class HealthChecks:
    """The checks of an app that has its settings. `now` is the clock, aware."""

    queues: Queues
    certificates: Certificates
    renewals: RenewalStates
    runs: FunctionRuns
    poison: PoisonAges
    now: Callable[[], datetime]

    def by_name(self) -> Checks:
        """All of them."""
        return {
            "storage": self.storage,
            "keyVault": self.key_vault,
            "subscriptions": self.subscriptions,
            "functions": self.functions,
            "poison": self.poisoned,
        }

    async def storage(self) -> Check:
        """Whether storage answers, and every raw message is soon handled."""
        fronts = await asyncio.gather(*(self.queues.oldest(queue) for queue in RAW_MESSAGES))
        now = self.now()
        ages = {queue: now - front for queue, front in zip(RAW_MESSAGES, fronts, strict=True) if front is not None}
        late = [
            f"{queue} for {span(age)}" for queue, age in ages.items() if RAW_MESSAGES[queue].level(age) is Level.BAD
        ]
        if late:
            return Check(ok=False, problem=f"messages are not being handled: {', '.join(late)}", reason="late")
        return _OK

    async def key_vault(self) -> Check:
        """Whether Key Vault answers and has the certificate; whether it opens, the last renewal run says."""
        if await self.certificates.exists():
            return _OK
        return Check(ok=False, problem="Key Vault has no version of the certificate", reason="no-usable-certificate")

    async def subscriptions(self) -> Check:
        """Whether renewal runs, and the last run found all subscriptions alive."""
        renewals, now = await self.renewals.latest(), self.now()
        if (trouble := renewals.trouble(now)) is not None:
            return Check(ok=False, problem=trouble.text, reason=trouble.reason)
        state = renewals.last
        if state is None:
            return Check(ok=False, problem="no renewal run has finished yet", reason="no-run")
        if RENEWAL.level(now - state.finished) is Level.BAD:
            return Check(ok=False, problem="the renewal timer does not run", reason="overdue")
        if state.nearest_expiry is not None and state.nearest_expiry <= now:
            return Check(ok=False, problem="a subscription has lapsed", reason="lapsed")
        if state.failures:
            problem = "; ".join(state.failures)
            if any(SIGN_IN_REQUIRED in failure for failure in state.failures):
                problem += " (run manage.py login)"
            return Check(ok=False, problem=problem, reason="failures")
        return _OK

    async def functions(self) -> Check:
        """Whether the host still calls every timer: a wrong schedule or a setting disables one, and nothing fails."""
        runs = await self.runs.latest()
        overdue = {} if runs is None else runs.overdue(self.now())
        if overdue:
            return Check(ok=False, problem=f"the host does not call: {', '.join(overdue)}", reason="not-called")
        return _OK

    async def poisoned(self) -> Check:
        """Whether the timer gets the poison queues empty; anything there was authentic, and ends after seven days."""
        left, now = await self.poison.oldest(), self.now()
        late = [queue for queue, since in left.items() if POISON.level(now - since) is Level.BAD]
        if late:
            return Check(ok=False, problem=f"messages stay on: {', '.join(late)}", reason="poison")
        return _OK
