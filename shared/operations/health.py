"""Whether all that Switchboard needs is there, and whether data flows: one check, which all who ask share."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.operations.checks import Check, NamedChecks
from shared.operations.limits import Level
from shared.values.errors import SettingsError, UnavailableError

logger = logging.getLogger(__name__)

KEPT: Final = timedelta(seconds=30)
"""How long a report is given to whoever asks."""

_SECONDS: Final = 5.0  # for all checks, which are made at once


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What all checks have found, and when."""

    at: datetime
    checks: Mapping[str, Check]

    @property
    def well(self) -> bool:
        """Whether no check has found something bad."""
        return all(check.level is not Level.BAD for check in self.checks.values())


class Health:
    """Runs checks for whoever asks, however many they are, at most once in `KEPT`. Belongs to one event loop.

    Nobody has to prove anything to ask, so asking must be cheap, and a failure is kept like a success.
    """

    def __init__(self, checks: Callable[[], NamedChecks], now: Callable[[], datetime]) -> None:
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
            report = Report(at=self._now(), checks=await self._results())
            before = {} if self._report is None else self._report.checks
            for name, check in report.checks.items():
                known = before.get(name)
                # What a check says of ages changes each time; its reason does so only with what is wrong.
                if check.level is Level.BAD and (known is None or known.reason != check.reason):
                    logger.warning("health: check=%s reason=%s: %s", name, check.reason, check.finding)
            self._report = report
            return report
        finally:
            self._running = None

    async def _results(self) -> Mapping[str, Check]:
        try:
            checks = self._checks()
        except SettingsError as error:
            return {"settings": Check(level=Level.BAD, finding="; ".join(error.problems), reason=error.reason)}
        results = await asyncio.gather(*(_guard(check()) for check in checks.values()))
        return dict(zip(checks, results, strict=True))


async def _guard(check: Awaitable[Check]) -> Check:
    """A check's result, or why it could not be made."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await check
    except UnavailableError as error:
        return Check(level=Level.BAD, finding=str(error), reason=error.reason)
    except TimeoutError:
        return Check(level=Level.BAD, finding="no answer in time", reason="out-of-time")
    except Exception as error:  # noqa: BLE001 - whatever a check meets is what it has found; its text may hold data
        return Check(level=Level.BAD, finding=f"an unexpected {type(error).__name__}", reason="unexpected")
