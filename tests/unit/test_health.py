"""One check for all who ask: how often it is made, and what becomes of those who wait for it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from shared.operations.checks import Check
from shared.operations.health import Health
from shared.operations.limits import Level
from shared.values.errors import SettingsError, UnavailableError


@dataclass
class World:
    """A check that can be held up or made to fail, and counts; and the clock."""

    now: datetime = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
    made: int = 0
    failure: Exception | None = None
    free: asyncio.Event = field(default_factory=asyncio.Event)

    def checks(self) -> dict[str, Callable[[], Awaitable[Check]]]:
        return {"one": self.check}

    async def check(self) -> Check:
        self.made += 1
        await self.free.wait()
        if self.failure is not None:
            raise self.failure
        return Check(level=Level.WELL, finding="fine")

    def health(self) -> Health:
        return Health(self.checks, lambda: self.now)


async def test_all_who_ask_share_one_check_and_its_result_for_half_a_minute() -> None:
    world = World()
    health = world.health()
    asking = [asyncio.create_task(health.report()) for _ in range(1000)]
    await asyncio.sleep(0)
    world.free.set()
    assert all(report.well for report in await asyncio.gather(*asking))
    world.now += timedelta(seconds=29)
    await health.report()
    assert world.made == 1
    world.now += timedelta(seconds=1)
    await health.report()
    assert world.made == 2


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(UnavailableError("storage", reason="storage-403"), "storage-403"), (ValueError("a secret"), "unexpected")],
)
async def test_a_failure_of_whatever_kind_is_kept_like_a_success(
    failure: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(failure=failure)
    world.free.set()
    health = world.health()
    for _ in range(50):
        report = await health.report()
        assert (report.well, report.checks["one"].reason) == (False, reason)
        assert "a secret" not in str(report)
    assert world.made == 1
    world.now += timedelta(seconds=31)
    await health.report()
    assert caplog.text.count("health: check=one") == 1
    assert "a secret" not in caplog.text
    world.failure = None
    world.now += timedelta(seconds=31)
    assert (await health.report()).well


async def test_whoever_goes_away_does_not_take_it_from_the_others() -> None:
    world = World()
    health = world.health()
    first, second = asyncio.create_task(health.report()), asyncio.create_task(health.report())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    world.free.set()
    assert (await second).well
    assert world.made == 1


async def test_settings_that_are_missing_are_a_failure_too() -> None:
    def checks() -> dict[str, Callable[[], Awaitable[Check]]]:
        raise SettingsError(["CLIENT_STATE: missing"])

    report = await Health(checks, World().health()._now).report()
    assert (report.well, report.checks["settings"].finding) == (False, "CLIENT_STATE: missing")


async def test_a_clock_that_is_set_back_does_not_keep_a_report_for_longer() -> None:
    world = World()
    world.free.set()
    health = world.health()
    await health.report()
    world.now -= timedelta(hours=1)
    await health.report()
    assert world.made == 2
