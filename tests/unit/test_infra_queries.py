"""The queries of workbook and alerts against what the code emits: metrics and their attributes."""

import json
import re
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any

from dev.kql import TABLES
from shared import telemetry_export
from shared.subscriptions.actions import Outcome
from shared.telemetry import ExpressOutcome
from shared.values.resources import CATALOGUE, EMERGENCY_QUEUE, RAW_QUEUES, SELF_TEST
from tests.unit.deployed import deployed
from tests.unit.test_infra_ci import anchors

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
QUERIES = {path.name: path.read_text() for path in sorted((INFRA / "queries").glob("*.kql"))}
ROWS = json.loads(deployed().properties("Microsoft.Insights/workbooks")["serializedData"])["items"][2:]

VALUES = {
    telemetry_export.OUTCOME: {str(outcome) for outcome in (*Outcome, *ExpressOutcome)} | {"ended", "passed"},
    telemetry_export.SINCE: {"event", "receipt"},
    telemetry_export.QUEUE: set(RAW_QUEUES),
    telemetry_export.KIND: set(CATALOGUE),
    telemetry_export.TYPE: {SELF_TEST.event_types[""].name},
}
# What Azure Monitor allows in a log search alert ("Create or edit a log search alert rule").
PERIODS = {
    "PT5M": timedelta(minutes=5),
    "PT10M": timedelta(minutes=10),
    "PT15M": timedelta(minutes=15),
    "PT30M": timedelta(minutes=30),
    "PT1H": timedelta(hours=1),
    "PT6H": timedelta(hours=6),
    "P1D": timedelta(days=1),
    "P2D": timedelta(days=2),
}
LATENESS = timedelta(minutes=6)  # of rows, as they have been seen to arrive


def alert_of(rule: dict[str, Any]) -> dict[str, Any]:
    """What a deployed rule says, under short names; `lookBack` is None where its window is all that it looks at."""
    properties = rule["properties"]
    (criterion,) = properties["criteria"]["allOf"]
    return {
        "name": rule["name"].removeprefix("switchboard-"),
        "query": criterion["query"],
        "threshold": criterion["threshold"],
        "queues": [queue for dimension in criterion["dimensions"] for queue in dimension["values"]],
        "severity": properties["severity"],
        "frequency": properties["evaluationFrequency"],
        "window": properties["windowSize"].replace("PT60M", "PT1H"),
        "lookBack": properties.get("overrideQueryTimeRange"),
        "resolves": properties["autoMitigate"],
        "muted": properties.get("muteActionsDuration"),
    }


ALERTS = [alert_of(rule) for rule in deployed().of_type("Microsoft.Insights/scheduledQueryRules")]


def code_of(query: str) -> str:
    """A query without comments, with a bin's size where the workbook puts one."""
    return re.sub(r"//.*", "", query).replace("{range:grain}", "5m")


def statements(query: str) -> list[str]:
    return [statement for statement in code_of(query).split(";") if statement.strip()]


def metrics(statement: str) -> list[str]:
    return re.findall(r'"(switchboard\.[\w.]+)"', statement)


class TestQueries:
    def test_name_metrics_that_are_emitted(self) -> None:
        for name, query in QUERIES.items():
            assert set(metrics(query)) - set(telemetry_export.ATTRIBUTES) == set(), name

    def test_name_attributes_that_their_metrics_have(self) -> None:
        for name, query in QUERIES.items():
            for statement in statements(query):
                used = set(re.findall(r'Properties(?:\.|\[")(\w+)', statement))
                if not metrics(statement):
                    continue
                had = reduce(
                    set.intersection, [set(telemetry_export.ATTRIBUTES[metric]) for metric in metrics(statement)]
                )
                assert used - had == set(), name

    def test_compare_attributes_with_values_that_they_take(self) -> None:
        for name, query in QUERIES.items():
            for attribute, value in re.findall(r'tostring\(Properties\.(\w+)\) [=!]= "([^"]*)"', query):
                if metrics(query):
                    assert value in VALUES[attribute], name

    def test_take_the_types_of_a_table_that_may_be_missing_from_the_table(self) -> None:
        for name, query in QUERIES.items():
            for columns in re.findall(r"datatable\((.*?)\)", query):
                types = dict(column.split(": ") for column in columns.split(", "))
                assert types == {column: TABLES["AppMetrics"][column] for column in types}, name


class TestUse:
    def test_every_query_is_shown_or_watched_and_exists(self) -> None:
        used = re.findall(
            r"loadTextContent\('\.\./queries/(.*?)'\)",
            (INFRA / "app" / "alerts.bicep").read_text() + (INFRA / "app" / "workbook.bicep").read_text(),
        )

        assert set(used) == set(QUERIES)

    def test_every_metric_is_shown(self) -> None:
        shown = {
            metric for name, query in QUERIES.items() if not name.startswith("alert-") for metric in metrics(query)
        }

        assert shown == set(telemetry_export.ATTRIBUTES)

    def test_the_workbook_shows_what_it_promises_in_rows_with_names_of_their_own(self) -> None:
        names = [row["name"] for row in ROWS]

        assert len(names) == len(set(names))
        assert [row["content"]["json"].removeprefix("## ") for row in ROWS if row["type"] == 1] == [
            *("Traffic and latency", "Refusals", "Subscriptions", "Queues and quarantine", "Errors"),
            "What drives the cost",
        ]


def query_of(alert: dict[str, Any]) -> str:
    return str(alert["query"])


class TestAlerts:
    def test_have_a_section_in_the_runbook(self) -> None:
        assert {alert["name"] for alert in ALERTS} - anchors(ROOT / "docs" / "operations.md") == set()

    def test_measure_and_split_by_columns_that_their_queries_make(self) -> None:
        for alert in ALERTS:
            assert re.search(r"(summarize|print|project)[^|]*\bValue = ", query_of(alert)), alert["name"]
            if alert["queues"]:
                assert set(alert["queues"]) <= set(RAW_QUEUES)
                assert re.search(r"project Queue, Value", query_of(alert)), alert["name"]
            else:
                assert "Queue" not in query_of(alert)

    def test_run_as_often_as_azure_monitor_allows(self) -> None:
        assert {alert[each] for alert in ALERTS for each in ("frequency", "window")} <= set(PERIODS)

    def test_look_back_over_all_rows_that_are_new(self) -> None:
        """What arrives late must still be seen by an evaluation."""
        for alert in ALERTS:
            looked_at = alert["lookBack"] or alert["window"]
            assert PERIODS[looked_at] >= PERIODS[alert["frequency"]] + LATENESS, alert["name"]

    def test_send_few_mails_about_what_lasts(self) -> None:
        """A condition that is true for a day: one mail, and one when it is over."""
        assert [alert["name"] for alert in ALERTS if mails_in_a_day(alert) > 2] == []

    def test_stay_clear_of_what_rules_may_not_have(self) -> None:
        """ "Create or edit a log search alert rule": `union` and others make rules of one minute fail."""
        for alert in ALERTS:
            assert not re.search(r"\b(search|take|ingestion_time|adx)\b", code_of(query_of(alert))), alert["name"]
            if "union" in code_of(query_of(alert)):
                assert PERIODS[alert["frequency"]] >= timedelta(minutes=5), alert["name"]


def mails_in_a_day(alert: dict[str, Any]) -> int:
    """Mails about a condition that is true for a day, evaluation by evaluation."""
    mails, active, muted_until = 0, False, timedelta(0)
    every = PERIODS[alert["frequency"]]
    for evaluation in range(timedelta(days=1) // every):
        at = evaluation * every
        if alert["resolves"]:
            mails += not active
            active = True
        elif at >= muted_until:
            mails += 1
            muted_until = at + PERIODS[alert["muted"]]
    return mails + active  # a rule that resolves says so


class TestThresholds:
    """Those that the code or Graph gives."""

    ALERT = {alert["name"]: alert for alert in ALERTS}  # noqa: RUF012

    def test_a_stopped_timer_is_seen_after_three_of_its_intervals(self) -> None:
        template = (INFRA / "main.bicep").read_text()
        minutes = re.search(r"param renewalAlertMinutes int = (\d+)", template)
        schedule = re.search(r"param renewalSchedule string = '0 \*/(\d+) \* \* \* \*'", template)

        assert minutes is not None
        assert schedule is not None
        assert int(minutes[1]) >= max(30, 3 * int(schedule[1]))

    def test_emergencies_are_watched_more_closely(self) -> None:
        usual, emergency = self.ALERT["raw-messages-wait"], self.ALERT["emergency-messages-wait"]

        assert emergency["queues"] == [EMERGENCY_QUEUE]
        assert emergency["severity"] < usual["severity"]

    def test_a_slow_answer_is_seen_before_graph_minds_and_an_emergency_is_none(self) -> None:
        """An emergency is answered after 2 seconds at the latest, and the host needs some time of its own."""
        assert 2200 <= self.ALERT["receiving-slow"]["threshold"] < 3000

    def test_receiving_is_watched_at_both_functions(self) -> None:
        source = (ROOT / "function_app.py").read_text()
        receiving = re.findall(r'function_name\("(\w+)"\)\s+@app\.route\("\w*[nN]otifications"', source)

        assert len(receiving) == 2
        for name in ("alert-receive-slow.kql", "receiving.kql", "answers.kql"):
            assert re.findall(r'"(receive_\w+)"', QUERIES[name]) == receiving
