"""The checks that health, the status page and `doctor` share, and the limits that they, alerts and documents go by."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from commands.examination import OPERATION
from dev.simulation.storage_model import StorageModel
from shared.notifications.poison import PoisonStates
from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.operations import limits
from shared.operations.activity import Activity
from shared.operations.checks import AppChecks, Check
from shared.operations.function_runs import Runs
from shared.operations.health import Health
from shared.operations.limits import Level
from shared.operations.status import Status, StatusReader
from shared.subscriptions.renewal_state import BegunRun, FailedRun, Renewals, RenewalState
from shared.telemetry import Happening
from shared.values.consumers import Consumers
from shared.values.errors import UnavailableError
from shared.values.resources import CALL_RECORDS_QUEUE, EMERGENCY_QUEUE, LIFECYCLE_QUEUE, RAW_QUEUE
from shared.values.times import span
from tests.unit.deployed import deployed

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 5, 4, 12, 0, 30, tzinfo=UTC)
GOOD = RenewalState(
    finished=NOW - timedelta(minutes=3), desired=1, live=1, nearest_expiry=None, outcomes={"unchanged": 1}, failures=()
)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def finished(ago: timedelta, *failures: str) -> RenewalState:
    return RenewalState(finished=NOW - ago, desired=1, live=1, nearest_expiry=None, outcomes={}, failures=failures)


@dataclass
class World:
    """An app in which all is as it should be, until a test changes that."""

    storage: StorageModel = field(default_factory=lambda: StorageModel(now=NOW))
    renewals: Renewals | UnavailableError = field(default_factory=lambda: Renewals(GOOD))
    runs: Runs | None = None

    def checks(self) -> AppChecks:
        return AppChecks(
            queues=self.storage.queues,  # type: ignore[arg-type]
            blobs=self.storage.blobs,  # type: ignore[arg-type]
            certificates=_Certificates(),
            renewals=_Latest(self.renewals),
            runs=_Latest(self.runs),
            consumer_limits=limits.consumer_limits(Consumers()),
            poison_ages=PoisonStates(self.storage.blobs),  # type: ignore[arg-type]
            now=lambda: NOW,
        )

    def put(self, queue: str, ago: timedelta) -> None:
        self.storage.put(queue, "x").inserted = NOW - ago


class _Certificates:
    async def exists(self) -> bool:
        return True


@dataclass
class _Latest:
    value: Any

    async def latest(self) -> Any:
        if isinstance(self.value, UnavailableError):
            raise self.value
        return self.value


async def read(world: World, **health: Check) -> Status:
    """The status, as health finds those checks."""

    def made() -> dict[str, Callable[[], Awaitable[Check]]]:
        return {name: partial(_found, check) for name, check in health.items()}

    return await StatusReader(world.checks(), Health(made, lambda: NOW)).read()


async def _found(check: Check) -> Check:
    return check


@pytest.mark.parametrize(
    ("renewals", "level", "reason", "finding"),
    [
        (Renewals(GOOD), "well", None, "the last run was 3 min ago"),
        (Renewals(GOOD, begun=BegunRun(at=NOW - minutes(2))), "well", None, ""),
        (Renewals(finished(minutes(20))), "attention", "late", "the last run was 20 min ago"),
        (Renewals(finished(minutes(61))), "bad", "overdue", "the renewal timer does not run"),
        (Renewals(finished(minutes(1), "callEvents: permission x 1")), "bad", "failures", "callEvents: permission x 1"),
        (Renewals(GOOD, FailedRun(at=NOW, reason="unreachable")), "bad", "run-failed", "nothing at all: unreachable"),
        (Renewals(None, FailedRun(at=NOW, reason="unreachable")), "bad", "run-failed", "nothing at all: unreachable"),
        (Renewals(GOOD, begun=BegunRun(at=NOW - minutes(13))), "bad", "run-without-end", "none has come to its end"),
        (Renewals(None, begun=BegunRun(at=NOW, first=NOW - minutes(60))), "bad", "run-without-end", "began at 11:00"),
        (Renewals(None), "bad", "no-run", "no renewal run has finished yet"),
    ],
)
async def test_renewal(renewals: Renewals, level: str, reason: str | None, finding: str) -> None:
    world = World(renewals=renewals)
    check = await world.checks().renewal()
    assert (check.level, check.reason, finding in check.finding) == (level, reason, True)
    assert (check.remedy is None) is (level == "well")
    assert (await read(world)).renewal.level == level


async def test_a_sign_in_that_is_missing_is_what_login_mends() -> None:
    renewals = Renewals(finished(minutes(1), "presence: sign-in-required x 1"))
    assert (await World(renewals=renewals).checks().renewal()).remedy == "run: python manage.py login"


async def test_what_failed_in_several_ways_is_told_with_what_to_do_about_each() -> None:
    failures = ("transcripts: transcript-access x 2", "presence: sign-in-required x 1")
    remedy = (await World(renewals=Renewals(finished(minutes(1), *failures))).checks().renewal()).remedy
    assert remedy is not None
    assert "manage.py login" in remedy
    assert "a Teams administrator has to let Graph have transcripts" in remedy


@pytest.mark.parametrize(
    ("queue", "ago", "level"),
    [
        (RAW_QUEUE, minutes(0.9), "well"),
        (RAW_QUEUE, minutes(1.1), "attention"),
        (RAW_QUEUE, minutes(6), "bad"),
        (EMERGENCY_QUEUE, timedelta(seconds=11), "attention"),
        (EMERGENCY_QUEUE, timedelta(seconds=61), "bad"),
        (CALL_RECORDS_QUEUE, minutes(29), "well"),  # a backfill is under way
        (CALL_RECORDS_QUEUE, minutes(61), "bad"),
        ("raw-emergency-poison", minutes(14), "well"),
        ("lifecycle-notifications-poison", minutes(16), "bad"),
        ("call-events", minutes(59), "well"),
        ("call-events", minutes(61), "attention"),
        ("meeting-events", timedelta(days=2), "bad"),
        ("call-events-poison", minutes(1), "attention"),
        ("call-events-poison", timedelta(days=2), "bad"),
    ],
)
async def test_a_backlog_is_what_waits_too_long(queue: str, ago: timedelta, level: str) -> None:
    world = World()
    world.put(queue, ago)
    checks = world.checks()
    found = [await check() for check in (checks.raw_messages, checks.poison, checks.consumers)]
    assert sorted(check.level for check in found) == sorted([level, "well", "well"])
    assert (await read(world)).queues.level == level
    assert "consumers" not in checks.of_health  # they are somebody else's
    for late in found:
        if late.level is not Level.WELL and queue.startswith(("raw-", "lifecycle-")):
            assert late.finding == f"{queue} has waited for {span(ago)}"
            assert ("drain_poison" if queue.endswith("-poison") else "queue functions are enabled") in str(late.remedy)


async def test_a_poison_message_that_is_leased_is_known_by_what_the_drain_has_left() -> None:
    world = World()
    world.storage.put("raw-emergency-poison", "x", delay=minutes(5))
    await PoisonStates(world.storage.blobs).save({"raw-emergency-poison": NOW - minutes(60)})  # type: ignore[arg-type]
    check = await world.checks().poison()
    assert (check.level, check.reason) == (Level.BAD, "poison")
    found = (await read(world)).queues
    assert (found.level, [row.oldest_seconds for row in found.queues if row.depth]) == (Level.BAD, [3600])


async def test_a_function_that_the_host_does_not_call_any_more() -> None:
    ran = {"renew_subscriptions": NOW - minutes(4), "sweep_claim_checks": NOW - timedelta(hours=27)}
    check = await World(runs=Runs(since=NOW - timedelta(days=9), last=ran)).checks().functions()
    assert check.finding == "drain_poison has not run once in 9 d, sweep_claim_checks has not run for 1 d 3 h"
    assert (check.level, "AzureWebJobs.drain_poison.Disabled" in str(check.remedy)) == (Level.BAD, True)


@pytest.mark.parametrize(
    ("runs", "finding"),
    [
        (None, "none has been called yet"),
        (Runs(since=NOW - minutes(14)), "not yet: renew_subscriptions, drain_poison"),
        (Runs(since=NOW, last={"drain_poison": NOW - minutes(1)}), "drain_poison 1 min ago; not yet: renew_"),
    ],
)
async def test_functions_whose_time_has_not_come(runs: Runs | None, finding: str) -> None:
    check = await World(runs=runs).checks().functions()
    assert (check.level, check.finding.startswith(finding)) == (Level.WELL, True)


@pytest.mark.parametrize(
    ("received", "refused", "level", "finding"),
    [
        (0, 0, "well", "0 accepted in the last 15 minutes"),
        (5, 900, "well", "5 accepted in the last 15 minutes, refused: 900 client-state"),
        (0, 1, "attention", "0 accepted in the last 15 minutes, refused: 1 client-state"),
    ],
)
async def test_refusals_while_nothing_is_accepted(received: int, refused: int, level: str, finding: str) -> None:
    world = World()
    counting = Activity(world.storage.blobs, "w", lambda: NOW - minutes(1))  # type: ignore[arg-type]
    for word, happening, count in (
        ("raw-notifications", Happening.RECEIVED, received),
        ("client-state", Happening.REFUSED, refused),
    ):
        if count:
            counting.add(word, happening, count)
    await counting.flush()
    check = await world.checks().reception()
    assert (check.level, check.finding) == (level, finding)


async def test_what_lies_in_quarantine_is_not_well() -> None:
    world = World()
    assert (await world.checks().quarantine()).level is Level.WELL
    await world.storage.blobs.put(QUARANTINE_CONTAINER, "x.json", b"{}")
    check: Check = await world.checks().quarantine()
    assert (check.level, check.finding) == (Level.BAD, "1 in quarantine")


async def test_storage_that_is_away_is_raised() -> None:
    world = World()
    world.storage.refused = {RAW_QUEUE}
    with pytest.raises(UnavailableError):
        await world.checks().raw_messages()


def test_doctor_names_every_check_of_a_running_app() -> None:
    assert set(OPERATION) == set(World().checks().of_operation)


class TestLimitsElsewhere:
    """Templates and documents cannot read the limits, and so are held against them."""

    RULES = {  # noqa: RUF012
        rule["name"].removeprefix("switchboard-"): rule["properties"]
        for rule in deployed().of_type("Microsoft.Insights/scheduledQueryRules")
    }

    @pytest.mark.parametrize(
        ("alert", "threshold"),
        [
            ("subscription-near-its-end", limits.NEAR_ITS_END),
            ("raw-messages-wait", limits.RAW_MESSAGES[RAW_QUEUE].attention.total_seconds()),
            ("emergency-messages-wait", limits.RAW_MESSAGES[EMERGENCY_QUEUE].attention.total_seconds()),
            ("events-wait", limits.EVENTS.attention.total_seconds()),
            ("events-given-up", limits.GIVEN_UP.attention.total_seconds()),
        ],
    )
    def test_alerts_fire_where_the_page_wants_attention(self, alert: str, threshold: float) -> None:
        (criterion,) = self.RULES[alert]["criteria"]["allOf"]
        assert criterion["threshold"] == threshold

    def test_a_renewal_that_stopped_is_told_between_attention_and_bad(self) -> None:
        told_after = re.search(r"param renewalAlertMinutes int = (\d+)", (ROOT / "infra" / "main.bicep").read_text())
        assert told_after is not None
        assert limits.RENEWAL.attention <= minutes(int(told_after[1])) <= limits.RENEWAL.bad

    def test_the_certificate_is_told_of_as_early_by_its_alert(self) -> None:
        query = (ROOT / "infra" / "queries" / "alert-certificate.kql").read_text()  # Key Vault chose when it logs it
        assert f"{limits.CERTIFICATE_EXPIRES_SOON.days} days before" in query

    def test_the_runbook_shows_them(self) -> None:
        text = (ROOT / "docs" / "operations.md").read_text().partition("| since | needs attention | bad |")[2]
        rows = dict(re.findall(r"^\| (.*?) \| (.*?) \|$", text.partition("\n\n")[0], re.MULTILINE))
        assert list(rows.values()) == [
            f"{words(limit.attention)} | {words(limit.bad)}"
            for limit in (
                limits.RENEWAL,
                limits.RAW_MESSAGES[RAW_QUEUE],
                limits.RAW_MESSAGES[EMERGENCY_QUEUE],
                limits.RAW_MESSAGES[CALL_RECORDS_QUEUE],
                limits.POISON,
                limits.EVENTS,
                limits.GIVEN_UP,
            )
        ]
        assert limits.RAW_MESSAGES[RAW_QUEUE] == limits.RAW_MESSAGES[LIFECYCLE_QUEUE]


def words(length: timedelta) -> str:
    return span(length) if length else "at once"
