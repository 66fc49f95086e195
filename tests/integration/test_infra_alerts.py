"""When each alert fires: its very query, run over made-up rows by an engine of the Kusto Query Language.

The engine (duckdb-kql) translates to DuckDB. It has no weighed percentile, which is replaced here by the plain one, as
none of our rows stands for more than itself; and it insists on tables that exist.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import duckdb_kql
import pytest

from dev.kql import TABLES
from shared import telemetry_export
from shared.values.resources import CATALOGUE, EMERGENCY_QUEUE, RAW_QUEUE
from tests.unit.deployed import deployed

RULES = {
    rule["name"].removeprefix("switchboard-"): rule["properties"]
    for rule in deployed().of_type("Microsoft.Insights/scheduledQueryRules")
}
SPANS = {
    "PT5M": timedelta(minutes=5),
    "PT15M": timedelta(minutes=15),
    "PT30M": timedelta(minutes=30),
    "PT60M": timedelta(hours=1),
    "PT6H": timedelta(hours=6),
    "P1D": timedelta(days=1),
    "P2D": timedelta(days=2),
}
TYPES = {
    "datetime": "TIMESTAMP",
    "string": "VARCHAR",
    "real": "DOUBLE",
    "int": "INTEGER",
    "bool": "BOOLEAN",
    "dynamic": "JSON",
}
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
LATE = 4 * MINUTE  # until a row can be found; three to six minutes have been seen


class Row(NamedTuple):
    """A row of a table."""

    at: datetime
    table: str
    values: dict[str, Any]

    def values_of(self, columns: Iterable[str]) -> Iterator[Any]:
        """What stands in each column."""
        properties = json.dumps(self.values.get("Properties", {}))
        known = self.values | {"TimeGenerated": self.at.replace(tzinfo=None), "Properties": properties}
        return (known.get(column) for column in columns)


def metric(at: datetime, name: str, value: float, **attributes: str) -> Row:
    values = {"Name": name, "Sum": value, "Min": value, "Max": value, "ItemCount": 1, "Properties": attributes}
    return Row(at, "AppMetrics", values)


class Workspace:
    """Log Analytics, with the rows that an alert's evaluation would find."""

    def __init__(self) -> None:
        self._translations: dict[str, str] = {}
        self._filled: set[str] = set()
        self._database = duckdb_kql.connect()
        self._database.sql("SET threads TO 1")  # rows are few: more of them cost more than they bring
        for table, columns in TABLES.items():
            described = ", ".join(f'"{name}" {TYPES[kind]}' for name, kind in columns.items())
            self._database.sql(f"CREATE TABLE {table} ({described})")

    def value(self, alert: str, rows: Iterable[Row], at: datetime, *, queue: str | None = None) -> float | None:
        """What an alert's query answers at a moment; None where it has no row."""
        rule = RULES[alert]
        span = SPANS[rule.get("overrideQueryTimeRange") or rule["windowSize"]]
        for table in self._filled:
            self._database.sql(f"DELETE FROM {table}")
        self._filled.clear()
        for table, columns in TABLES.items():
            seen = [row for row in rows if row.table == table and at - span <= row.at <= at - LATE]
            if seen:
                places = ", ".join("(" + ", ".join("?" for _ in columns) + ")" for _ in seen)
                values = [value for row in seen for value in row.values_of(columns)]
                self._database.execute(f"INSERT INTO {table} VALUES {places}", values)
                self._filled.add(table)
        (criterion,) = rule["criteria"]["allOf"]
        found = self._database.execute(*self._translated(criterion["query"], at)).fetchall()
        if queue is not None:
            found = [row for row in found if row[0] == queue]
        return float(found[0][-1]) if found else None

    def _translated(self, query: str, at: datetime) -> tuple[str, dict[str, datetime]]:
        """A query as SQL, translated once, and the time of the evaluation, where it takes that."""
        if query not in self._translations:
            known = re.sub(r"percentilew\((\w+), \w+, (\d+)\)", r"percentile(\1, \2)", query)
            schema = {table: list(columns) for table, columns in TABLES.items()}
            self._translations[query] = duckdb_kql.to_sql(known, schema=schema, query_now=NOON)
        sql = self._translations[query]
        return sql, {"kqlnow": at.replace(tzinfo=None)} if "$kqlnow" in sql else {}

    def fires(self, alert: str, rows: Iterable[Row], at: datetime, *, queue: str | None = None) -> bool:
        value = self.value(alert, rows, at, queue=queue)
        (criterion,) = RULES[alert]["criteria"]["allOf"]
        if value is None:
            return False
        threshold = float(criterion["threshold"])
        return value < threshold if criterion["operator"] == "LessThan" else value > threshold


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    return Workspace()


LIVES = {key: kind.max_lifetime for key, kind in CATALOGUE.items()}
GRANTS = [("callRecords", 70.5 * HOUR), ("callEvents", DAY), ("callEvents", 50 * MINUTE), ("presence", HOUR)]
EVERY = 5 * MINUTE


def run(at: datetime, ends: dict[str, datetime], lives: dict[str, timedelta]) -> Iterator[Row]:
    """What a renewal run sends, whichever worker made it."""
    yield metric(at, telemetry_export.RUNS, 1, outcome="ended")
    for kind, end in ends.items():
        yield metric(at, telemetry_export.EXPIRY, end.timestamp(), kind=kind)
        yield metric(at, telemetry_export.GRANTED, lives[kind].total_seconds(), kind=kind)


def history(
    until: datetime, lives: dict[str, timedelta], *, stuck: str | None = None, since: datetime = NOON
) -> list[Row]:
    """Runs that renew at half a life every five minutes; all but the `stuck` kind, which `since` renewed last."""
    rows: list[Row] = []
    ends = {kind: since + life for kind, life in lives.items()}
    at = since
    while at <= until:
        for kind, life in lives.items():
            if kind != stuck and ends[kind] - at <= life / 2:
                ends[kind] = at + life
        rows += run(at, ends, lives)
        at += EVERY
    return rows


def evaluations(since: datetime, until: datetime) -> Iterator[datetime]:
    at = since + 2 * MINUTE  # not in step with the runs
    while at <= until:
        yield at
        at += 5 * MINUTE


class TestSubscriptionNearItsEnd:
    NAME = "subscription-near-its-end"

    def test_is_silent_while_all_is_renewed(self, workspace: Workspace) -> None:
        lives = LIVES | {"callEvents": 50 * MINUTE}
        rows = history(NOON + 3 * HOUR, lives)
        for at in evaluations(NOON + 2 * HOUR, NOON + 3 * HOUR):
            known = [row for row in rows if row.at > at - 20 * MINUTE]
            assert not workspace.fires(self.NAME, known, at), at

    @pytest.mark.parametrize(("kind", "life"), GRANTS, ids=str)
    def test_fires_before_a_quarter_is_reached_and_not_much_sooner(
        self, workspace: Workspace, kind: str, life: timedelta
    ) -> None:
        quarter = NOON + 0.75 * life
        lives = LIVES | {kind: life}
        rows = [row for row in history(NOON + life, lives, stuck=kind) if row.at > quarter - 30 * MINUTE]
        asked = evaluations(quarter - 15 * MINUTE, quarter + 10 * MINUTE)
        fired = [at for at in asked if workspace.fires(self.NAME, rows, at)]
        assert quarter - 6 * MINUTE < fired[0] <= quarter
        assert workspace.fires(self.NAME, rows, NOON + life - MINUTE)  # and goes on
        assert workspace.fires(self.NAME, rows, NOON + life + HOUR)

    @pytest.mark.parametrize(("kind", "life"), GRANTS, ids=str)
    def test_fires_before_a_quarter_where_the_timer_stopped_and_stays_on(
        self, workspace: Workspace, kind: str, life: timedelta
    ) -> None:
        rows = [*run(NOON, {kind: NOON + life}, {kind: life})]
        quarter = NOON + 0.75 * life
        known = min(quarter, NOON + 2 * DAY + EVERY)  # then the last run is out of sight, and nothing is known
        assert not workspace.fires(self.NAME, rows, min(quarter - 6 * MINUTE, NOON + 2 * DAY - MINUTE))
        assert workspace.fires(self.NAME, rows, known - MINUTE if known == quarter else known)
        for later in (known + HOUR, NOON + 3 * DAY, NOON + 30 * DAY):
            assert workspace.fires(self.NAME, rows, later), later

    def test_lets_go_of_a_kind_that_nobody_desires_any_more(self, workspace: Workspace) -> None:
        rows = [*run(NOON, {"presence": NOON + HOUR / 2, "callEvents": NOON + DAY}, LIVES)]
        rows += run(NOON + EVERY, {"callEvents": NOON + DAY}, LIVES)
        assert not workspace.fires(self.NAME, rows, NOON + HOUR)

    def test_is_silent_where_nothing_is_desired(self, workspace: Workspace) -> None:
        rows = [metric(NOON, telemetry_export.RUNS, 1, outcome="ended")]
        assert not workspace.fires(self.NAME, rows, NOON + HOUR)

    def test_believes_the_last_of_several_workers(self, workspace: Workspace) -> None:
        first = [*run(NOON, {"presence": NOON + HOUR / 2}, LIVES)]
        second = [*run(NOON + EVERY, {"presence": NOON + EVERY + HOUR}, LIVES)]
        assert not workspace.fires(self.NAME, second + first, NOON + 30 * MINUTE)

    def test_fires_where_runs_only_fail(self, workspace: Workspace) -> None:
        rows = [metric(NOON + hour * HOUR, telemetry_export.RUNS, 1, outcome="failed") for hour in range(48)]
        assert workspace.fires(self.NAME, rows, NOON + 2 * DAY)

    def test_resolves_with_the_next_run(self, workspace: Workspace) -> None:
        rows = [*run(NOON, {"callEvents": NOON + DAY}, LIVES)]
        back = NOON + 20 * HOUR
        assert workspace.fires(self.NAME, rows, back)
        rows += run(back, {"callEvents": back + DAY}, LIVES)
        assert not workspace.fires(self.NAME, rows, back + LATE + MINUTE)


class TestRenewalStopped:
    NAME = "renewal-stopped"

    def test_is_silent_while_runs_end_also_those_with_nothing_to_do(self, workspace: Workspace) -> None:
        rows = [metric(NOON + number * EVERY, telemetry_export.RUNS, 1, outcome="ended") for number in range(12)]
        assert not workspace.fires(self.NAME, rows, NOON + HOUR)
        assert not workspace.fires(self.NAME, rows[:8], NOON + HOUR)

    def test_fires_where_runs_fail_or_none_ever_ended(self, workspace: Workspace) -> None:
        failed = [metric(NOON + number * EVERY, telemetry_export.RUNS, 1, outcome="failed") for number in range(12)]
        assert workspace.fires(self.NAME, failed, NOON + HOUR)
        assert workspace.fires(self.NAME, [], NOON)

    def test_fires_half_an_hour_after_the_last(self, workspace: Workspace) -> None:
        rows = [metric(NOON, telemetry_export.RUNS, 1, outcome="ended")]
        assert not workspace.fires(self.NAME, rows, NOON + 29 * MINUTE)
        assert workspace.fires(self.NAME, rows, NOON + 31 * MINUTE)


def of_renewals(outcome: str) -> Sequence[Row]:
    return [metric(NOON, telemetry_export.RENEWALS, 1, outcome=outcome)]


class TestCounted:
    @pytest.mark.parametrize(
        ("alert", "rows", "expected"),
        [
            ("renewal-failures", of_renewals("failed"), True),
            ("renewal-failures", of_renewals("renewed"), False),
            ("renewal-failures", [metric(NOON, telemetry_export.RUNS, 1, outcome="failed")], True),
            ("renewal-failures", [metric(NOON, telemetry_export.RUNS, 1, outcome="ended")], False),
            (
                "quarantine-not-empty",
                [metric(NOON, telemetry_export.QUARANTINED, 1, reason="r", queue=RAW_QUEUE)],
                True,
            ),
            ("quarantine-not-empty", [], False),
            ("emergency-delayed", [metric(NOON, telemetry_export.EXPRESS, 1, outcome="failed")], True),
            ("emergency-delayed", [metric(NOON, telemetry_export.EXPRESS, 1, outcome="done")], False),
            ("refusals", [metric(NOON, telemetry_export.REFUSED, 19, reason="r")], False),
            ("refusals", [metric(NOON, telemetry_export.REFUSED, 20, reason="r")], True),
            (
                "refusals",
                [
                    metric(NOON, telemetry_export.REFUSED, 20, reason="r"),
                    metric(NOON, telemetry_export.RECEIVED, 381, queue="q"),
                ],
                False,
            ),
            ("no-events", [metric(NOON, telemetry_export.WRITTEN, 1, type="Microsoft.Graph.CallStarted")], False),
            ("no-events", [metric(NOON, telemetry_export.WRITTEN, 1, type="Switchboard.SelfTest")], True),
            ("no-events", [], True),
        ],
    )
    def test_fires_for_what_it_is_for(self, workspace: Workspace, alert: str, rows: list[Row], expected: bool) -> None:
        assert workspace.fires(alert, rows, NOON + 10 * MINUTE) is expected

    def test_the_last_self_test_decides(self, workspace: Workspace) -> None:
        passed = metric(NOON, telemetry_export.SELF_TESTS, 1, outcome="passed")
        failed = metric(NOON + HOUR, telemetry_export.SELF_TESTS, 1, outcome="failed")
        again = metric(NOON + 2 * HOUR, telemetry_export.SELF_TESTS, 1, outcome="passed")
        found = [
            workspace.fires("self-test-failed", rows, NOON + 3 * HOUR) for rows in ([], [passed], [passed, failed])
        ]
        assert found == [False, False, True]
        assert not workspace.fires("self-test-failed", [passed, failed, again], NOON + 3 * HOUR)
        assert workspace.fires("self-test-failed", [failed], NOON + 3 * HOUR)

    def test_key_vault_s_word_on_the_certificate(self, workspace: Workspace) -> None:
        near = Row(NOON, "AZKVAuditLogs", {"OperationName": "CertificateNearExpiryEventGridNotification"})
        other = Row(NOON, "AZKVAuditLogs", {"OperationName": "SecretGet"})
        assert workspace.fires("certificate-near-its-end", [near, other], NOON + 6 * HOUR)
        assert not workspace.fires("certificate-near-its-end", [other], NOON + 6 * HOUR)


def received(at: datetime, queue: str) -> Row:
    return metric(at, telemetry_export.RECEIVED, 1, queue=queue)


def written(at: datetime, queue: str, seconds: float) -> Row:
    return metric(at, telemetry_export.LATENCY, seconds, since="receipt", queue=queue)


class TestWaiting:
    @pytest.mark.parametrize(
        ("alert", "queue", "allowed"),
        [("raw-messages-wait", RAW_QUEUE, 60.0), ("emergency-messages-wait", EMERGENCY_QUEUE, 10.0)],
    )
    def test_fires_for_an_event_that_came_late(
        self, workspace: Workspace, alert: str, queue: str, allowed: float
    ) -> None:
        def fires(seconds: float) -> bool:
            rows = [received(NOON, queue), written(NOON + MINUTE, queue, seconds)]
            return workspace.fires(alert, rows, NOON + 6 * MINUTE, queue=queue)

        assert not fires(allowed - 1)
        assert fires(allowed + 1)

    def test_fires_where_nothing_comes_out(self, workspace: Workspace) -> None:
        rows = [written(NOON - MINUTE, EMERGENCY_QUEUE, 1.0), received(NOON, EMERGENCY_QUEUE)]
        name, queue = "emergency-messages-wait", EMERGENCY_QUEUE
        assert not workspace.fires(name, rows, NOON + 9 * MINUTE, queue=queue)  # its event may still be on its way here
        assert workspace.fires(name, rows, NOON + 11 * MINUTE, queue=queue)
        parked = metric(NOON + MINUTE, telemetry_export.QUARANTINED, 1, reason="r", queue=queue)
        assert not workspace.fires(name, [*rows, parked], NOON + 11 * MINUTE, queue=queue)


def answers(milliseconds: float, count: int, **others: Any) -> list[Row]:
    values = {
        "Name": "receive_notifications",
        "DurationMs": milliseconds,
        "ItemCount": 1,
        "Properties": {"InvocationId": "1"},
    }
    return [Row(NOON, "AppRequests", values | others) for _ in range(count)]


class TestReceivingSlow:
    def test_one_in_a_hundred_is_enough_but_not_one_of_few(self, workspace: Workspace) -> None:
        def fires(*rows: Row) -> bool:
            return workspace.fires("receiving-slow", rows, NOON + 5 * MINUTE)

        assert not fires(*answers(9000, 1), *answers(50, 10))
        assert fires(*answers(9000, 2), *answers(50, 98))
        assert not fires(*answers(9000, 1), *answers(50, 199))
        assert not fires(*answers(9000, 30, Name="renew_subscriptions"))
        assert not fires(*answers(9000, 30, Properties={}))


def measured(at: datetime, queue: str, count: int, age: timedelta) -> Iterator[Row]:
    """What the timer of the poison queues sends of a queue that consumers read."""
    yield metric(at, telemetry_export.DEPTH, count, queue=queue)
    yield metric(at, telemetry_export.AGE, age.total_seconds(), queue=queue)


class TestConsumers:
    @pytest.mark.parametrize(
        ("queue", "age", "waits", "given_up"),
        [
            ("call-events", 59 * MINUTE, False, False),
            ("call-events", 61 * MINUTE, True, False),
            ("call-events-billing", 2 * DAY, True, False),
            ("call-events-poison", MINUTE, False, True),
            ("call-events-billing-poison", 2 * DAY, False, True),
        ],
    )
    def test_fire_by_the_age_of_events_and_by_what_is_given_up(
        self, workspace: Workspace, queue: str, age: timedelta, waits: bool, given_up: bool
    ) -> None:
        rows = [*measured(NOON, queue, 3, age), *measured(NOON, "meeting-events", 1, MINUTE)]
        at = NOON + 10 * MINUTE
        assert workspace.fires("events-wait", rows, at) is waits
        assert workspace.fires("events-given-up", rows, at) is given_up

    def test_resolve_where_nothing_lies_there_any_more(self, workspace: Workspace) -> None:
        rows = [*measured(NOON, "call-events", 3, DAY), *measured(NOON, "call-events-poison", 3, DAY)]
        for alert in ("events-wait", "events-given-up"):
            assert workspace.fires(alert, rows, NOON + 25 * MINUTE)
            assert not workspace.fires(alert, rows, NOON + 35 * MINUTE)
