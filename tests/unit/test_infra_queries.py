"""The queries of workbook and alerts against what the code emits: metrics, their attributes, and tables' columns."""

import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from shared.adapters import telemetry
from shared.domain.execution import Outcome
from shared.domain.express import ExpressOutcome
from shared.domain.resources import CATALOGUE, EMERGENCY_QUEUE, RAW_QUEUES
from tests.unit.bicep import Expression, read

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
QUERIES = {path.name: path.read_text() for path in sorted((INFRA / "queries").glob("*.kql"))}
ALERTS = read(INFRA / "app" / "alerts.bicep").variables["alerts"]
ROWS = read(INFRA / "app" / "workbook.bicep").variables["rows"]

# The columns that queries may name ("Azure Monitor Logs reference", one page for each table).
COLUMNS = {
    "AppMetrics": {"TimeGenerated", "Name", "Sum", "Min", "Max", "ItemCount", "Properties"},
    "AppRequests": {
        "TimeGenerated",
        "Name",
        "Url",
        "Success",
        "ResultCode",
        "DurationMs",
        "ItemCount",
        "OperationName",
    },
    "AppExceptions": {"TimeGenerated", "ExceptionType", "OuterMessage", "ItemCount", "OperationName"},
    "AppTraces": {"TimeGenerated", "Message", "SeverityLevel", "ItemCount", "OperationName"},
    "AZKVAuditLogs": {"TimeGenerated", "OperationName", "ResultType"},
    "Usage": {"TimeGenerated", "DataType", "Quantity", "IsBillable"},
}
# The language, as far as it is used here ("KQL quick reference").
WORDS = set(
    re.findall(
        r"\w+",
        """
        let where extend summarize join kind on by order asc desc project take render timechart print datatable
        and or in inner leftouter contains string real true
        arg_max bin coalesce count datetime iff isnull max max_of min minif now percentile round sum toscalar tostring
        """,
    )
)
VALUES = {
    telemetry.OUTCOME: {str(outcome) for outcome in (*Outcome, *ExpressOutcome)},
    telemetry.SINCE: {"event", "receipt"},
    telemetry.QUEUE: set(RAW_QUEUES),
    telemetry.KIND: set(CATALOGUE),
}
# What Azure Monitor allows in a log search alert ("Create or edit a log search alert rule").
PERIODS = {
    "PT1M", "PT5M", "PT10M", "PT15M", "PT30M", "PT1H", "PT6H", "P1D",
}  # fmt: skip


def code_of(query: str) -> str:
    """A query without comments, with a bin's size where the workbook puts one."""
    return re.sub(r"//.*", "", query).replace("{range:grain}", "5m")


def statements(query: str) -> list[str]:
    return [statement for statement in code_of(query).split(";") if statement.strip()]


def metrics(statement: str) -> list[str]:
    return re.findall(r'"(switchboard\.[\w.]+)"', statement)


@pytest.mark.parametrize("name", QUERIES)
class TestQueries:
    def test_name_metrics_that_are_emitted(self, name: str) -> None:
        assert set(metrics(QUERIES[name])) - set(telemetry.ATTRIBUTES) == set()

    def test_name_attributes_that_their_metrics_have(self, name: str) -> None:
        for statement in statements(QUERIES[name]):
            used = set(re.findall(r"Properties\.(\w+)", statement))
            if not used:
                continue
            had = reduce(set.intersection, [set(telemetry.ATTRIBUTES[metric]) for metric in metrics(statement)])
            assert used - had == set()

    def test_compare_attributes_with_values_that_they_take(self, name: str) -> None:
        for attribute, value in re.findall(r'tostring\(Properties\.(\w+)\) == "([^"]*)"', QUERIES[name]):
            assert value in VALUES[attribute]

    def test_name_columns_that_exist(self, name: str) -> None:
        code = code_of(QUERIES[name])
        bare = re.sub(
            r'"[^"]*"|Properties\.\w+', lambda found: found[0].partition(".")[0] if '"' not in found[0] else "", code
        )
        words = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", bare))
        tables = words & set(COLUMNS)
        made = set(re.findall(r"\b(\w+) =(?!=)", bare)) | set(re.findall(r"\b(\w+):", bare))
        columns = set().union(*(COLUMNS[table] for table in tables))

        assert tables
        assert words - tables - columns - made - WORDS == set()

    def test_close_what_they_open(self, name: str) -> None:
        bare = re.sub(r'"[^"]*"', "", code_of(QUERIES[name]))

        for opening, closing in ("()", "[]", "{}"):
            assert bare.count(opening) == bare.count(closing)
        assert QUERIES[name].count('"') % 2 == 0


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

        assert shown == set(telemetry.ATTRIBUTES)

    def test_rows_of_the_workbook_have_names_of_their_own(self) -> None:
        names = [row["name"] for row in ROWS]

        assert len(names) == len(set(names))

    def test_the_workbook_shows_what_it_promises(self) -> None:
        assert [row["heading"] for row in ROWS if "heading" in row] == [
            "## Traffic and latency",
            "## Refusals",
            "## Subscriptions",
            "## Queues and quarantine",
            "## Errors",
            "## What drives the cost",
        ]


def query_of(alert: dict[str, Any]) -> str:
    found = re.search(r"queries/(.*?)'", alert["query"].text)
    assert found is not None
    return QUERIES[found[1]]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["name"])
class TestAlerts:
    def test_have_a_section_in_the_runbook(self, alert: dict[str, Any]) -> None:
        headings = re.findall(r"^## (.*)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

        assert alert["name"] in anchors

    def test_measure_the_column_that_their_query_makes(self, alert: dict[str, Any]) -> None:
        assert re.search(r"(summarize|print|project)[^|]*\bValue = ", query_of(alert))

    def test_split_by_a_column_that_their_query_makes(self, alert: dict[str, Any]) -> None:
        if alert["queues"]:
            assert set(alert["queues"]) <= set(RAW_QUEUES)
            assert re.search(r"project Queue, Value", query_of(alert))
        else:
            assert "Queue" not in query_of(alert)

    def test_run_as_often_as_azure_monitor_allows(self, alert: dict[str, Any]) -> None:
        assert alert["frequency"] in PERIODS
        assert isinstance(alert["window"], Expression) or alert["window"] in PERIODS


class TestThresholds:
    """Those that the code or Graph gives."""

    ALERT = {alert["name"]: alert for alert in ALERTS}  # noqa: RUF012

    def test_lifetimes_are_those_of_the_catalogue(self) -> None:
        table = re.findall(r'"(\w+)", (\d+)', query_of(self.ALERT["subscription-near-its-end"]))

        assert {kind: int(seconds) for kind, seconds in table} == {
            kind.key: kind.max_lifetime.total_seconds() for kind in CATALOGUE.values()
        }

    def test_emergencies_are_watched_more_closely(self) -> None:
        usual, emergency = self.ALERT["raw-messages-wait"], self.ALERT["emergency-messages-wait"]

        assert emergency["queues"] == [EMERGENCY_QUEUE]
        assert (int(usual["threshold"]), int(emergency["threshold"])) == (60, 10)
        assert emergency["severity"] < usual["severity"]

    def test_a_slow_answer_is_seen_before_graph_minds(self) -> None:
        assert int(self.ALERT["receiving-slow"]["threshold"]) < 3000

    def test_receiving_is_watched_on_both_urls(self) -> None:
        settings = (INFRA / "app" / "function.bicep").read_text()
        paths = re.findall(r"NOTIFICATION_URL: 'https://\$\{.*?\}(/.*?)'", settings)

        assert len(paths) == 2
        for name in ("alert-receive-slow.kql", "receiving.kql", "answers.kql"):
            assert re.findall(r'Url contains "(.*?)"', QUERIES[name]) == paths
