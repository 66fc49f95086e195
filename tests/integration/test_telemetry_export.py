"""What the worker's own exporter really sends, counted at a loopback endpoint."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev import traffic
from dev.host import HostProcess
from dev.stack import APP, Stack
from shared import telemetry_export
from shared.values.resources import CATALOGUE
from tests.integration.ingestion import Ingestion
from tests.unit.deployed import deployed

EXPORTER = {
    name: value
    for name, value in deployed().settings().items()
    if name.startswith(("PYTHON_APPLICATIONINSIGHTS_", "OTEL_"))
}
EXPORTS = 8  # of metrics; each stands for a minute


@pytest.fixture
def ingestion() -> Iterator[Ingestion]:
    with Ingestion.start() as endpoint:
        yield endpoint


def until(ready: Callable[[], bool], what: str, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited for {what}, in vain"
        time.sleep(0.05)


def test_an_idle_worker_has_little_to_say(empty_storage: str, ingestion: Ingestion) -> None:
    # What feeds itself grows with every export of any kind: those of logs and spans come as often as those of metrics.
    often = dict.fromkeys(("OTEL_METRIC_EXPORT_INTERVAL", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BLRP_SCHEDULE_DELAY"), "500")
    settings = {
        "AzureWebJobsStorage": empty_storage,
        "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
        **EXPORTER,
        **ingestion.settings,
        **often,
    }

    def exports() -> Counter[str]:
        return Counter(record.metric for record in ingestion.records if record.metric)

    with HostProcess(APP, settings):
        until(lambda: max(exports().values(), default=0) > EXPORTS, "exports", seconds=300)
        records = ingestion.records

    minute = {record.metric: record.size for record in records if record.metric}
    # A log or span that each export makes would be there as often as an export; the start says some things a few times.
    others = Counter(
        str(record.data.get("message", record.data.get("name"))) for record in records if not record.metric
    )
    assert len(minute) <= 8
    assert sum(minute.values()) <= 6000
    assert max(others.values(), default=0) < EXPORTS, others


def test_the_figures_of_a_run_outlive_its_worker(tmp_path: Path, ingestion: Ingestion) -> None:
    def runs() -> list[str]:
        return [record.metric for record in ingestion.records if record.metric == telemetry_export.RUNS]

    # By itself the exporter would send nothing before the test is over.
    settings = EXPORTER | ingestion.settings | {"OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
    with Stack.start(tmp_path, subscriptions=traffic.SUBSCRIPTIONS, settings=settings) as stack:
        stack.host.start_function("renew_subscriptions")
        until(runs, "a flush, long before the exporter's own", seconds=180)
        stack.kill_host()

    sent = {record.metric: record.data for record in ingestion.records if record.metric}
    assert {
        telemetry_export.RUNS,
        telemetry_export.RENEWALS,
        telemetry_export.EXPIRY,
        telemetry_export.GRANTED,
        telemetry_export.UNCONFIRMED,
    } <= sent.keys()
    assert sent[telemetry_export.RUNS]["properties"] == {telemetry_export.OUTCOME: "ended"}
    kinds = {
        record.data["properties"][telemetry_export.KIND]
        for record in ingestion.records
        if record.metric == telemetry_export.EXPIRY
    }
    assert kinds == {key for key, kind in CATALOGUE.items() if not kind.delegated_only}
