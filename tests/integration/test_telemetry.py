"""What the running app tells OpenTelemetry, over real storage: figures, and one trace from POST to event."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dev.simulator import Fault, Kind, Options, Payload, build
from shared import triggers
from shared.operations.self_test import Leg
from shared.telemetry_export import (
    AGE,
    DECRYPTED,
    DEPTH,
    EXPIRY,
    EXPRESS,
    GRANTED,
    LATENCY,
    QUARANTINED,
    RECEIVED,
    REFUSED,
    RENEWALS,
    RUNS,
    SELF_TESTS,
    WRITTEN,
)
from shared.values.errors import UnavailableError
from shared.values.resources import RAW_QUEUE
from tests.integration.app import App

pytestmark = pytest.mark.usefixtures("telemetry")

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}


def call_started() -> Payload:
    return build(Kind.CALL_STARTED, Options())


def points(metrics: InMemoryMetricReader, name: str) -> dict[str, Any]:
    """Value (of a histogram: count) by the point's first attribute."""
    data = metrics.get_metrics_data()
    return {
        str(next(iter(point.attributes.values()))): getattr(point, "value", None) or point.count
        for resource in (data.resource_metrics if data else ())
        for metric in resource.scope_metrics[0].metrics
        if metric.name == name
        for point in metric.data.data_points
    }


def sums(metrics: InMemoryMetricReader, name: str) -> dict[str, float]:
    """Sum of a histogram by the point's first attribute."""
    data = metrics.get_metrics_data()
    return {
        str(next(iter(point.attributes.values()))): point.sum
        for resource in (data.resource_metrics if data else ())
        for metric in resource.scope_metrics[0].metrics
        if metric.name == name
        for point in metric.data.data_points
    }


async def test_from_post_to_event_is_one_trace(app: App, spans: InMemorySpanExporter) -> None:
    await app.post(app.collection(app.item(call_started())), HEADERS)
    await app.handle()
    by_name = {span.name: span for span in spans.get_finished_spans()}
    assert set(by_name) == {"send raw-notifications", "process raw-notifications", "send call-events"}
    assert {f"{span.context.trace_id:032x}" for span in by_name.values()} == {TRACE_ID}
    (event,) = await app.events()
    processed = by_name["process raw-notifications"]
    assert event.traceparent == f"00-{TRACE_ID}-{processed.context.span_id:016x}-01"
    assert processed.parent.span_id == by_name["send raw-notifications"].context.span_id


async def test_the_figures_of_a_post_with_good_and_bad(app: App, metrics: InMemoryMetricReader) -> None:
    altered = app.item(call_started())
    altered["encryptedContent"] = altered["encryptedContent"] | {"dataSignature": "AAAA"}
    forged = app.item(call_started(), clientState="guessed")
    await app.post(app.collection(app.item(call_started()), app.item(call_started()), altered, forged))
    await app.post(b"not json")
    assert points(metrics, RECEIVED) == {RAW_QUEUE: 3}
    assert points(metrics, REFUSED) == {"client-state": 1, "not-json": 1}
    await app.handle()
    assert points(metrics, DECRYPTED) == {RAW_QUEUE: 2}
    assert points(metrics, WRITTEN) == {"Microsoft.Graph.CallStarted": 2}
    assert points(metrics, LATENCY) == {"receipt": 2}  # Graph does not say when a call started
    assert sum(points(metrics, QUARANTINED).values()) == 1


async def test_an_event_with_a_time_of_its_own_has_both_latencies(app: App, metrics: InMemoryMetricReader) -> None:
    await app.post(app.collection(app.item(build(Kind.EMERGENCY_FLAT, Options()))))
    assert points(metrics, EXPRESS) == {"done": 1}
    assert points(metrics, LATENCY) == {"receipt": 1, "event": 1}


async def test_a_renewal_run_tells_outcomes_and_the_nearest_end(
    app: App, metrics: InMemoryMetricReader, desire: Callable[[str], None]
) -> None:
    desire(f'[[callRecords]]\ntenant = "{app.sim.tenants[0]}"\n')
    await triggers.renew(app.parts)
    assert points(metrics, RENEWALS) == {"created": 1}
    assert points(metrics, RUNS) == {"ended": 1}
    (subscription,) = app.sim.graph.subscriptions
    assert points(metrics, EXPIRY) == {"callRecords": 1}
    assert sums(metrics, EXPIRY) == {"callRecords": pytest.approx(subscription.expires.timestamp())}
    assert sums(metrics, GRANTED) == {"callRecords": pytest.approx(4230 * 60, rel=0.02)}  # a little less is asked for


async def test_a_run_that_could_not_be_made_is_none_that_ended(
    app: App, metrics: InMemoryMetricReader, desire: Callable[[str], None]
) -> None:
    desire(f'[[callRecords]]\ntenant = "{app.sim.tenants[0]}"\n')
    app.sim.faults.add(Fault("login", status=400), times=20)
    with pytest.raises(UnavailableError):
        await triggers.renew(app.parts)
    assert points(metrics, RUNS) == {"failed": 1}


class SelfTested:
    """A self-test that found so much, or could not be made."""

    def __init__(self, *problems: str | None) -> None:
        self._problems = problems

    async def run(self) -> tuple[Leg, ...]:
        if not self._problems:
            raise UnavailableError("the events queue")
        return tuple(Leg("endpoint", problem=problem) for problem in self._problems)


@pytest.mark.parametrize(
    ("test", "outcome"),
    [(SelfTested(None, None), "passed"), (SelfTested(None, "503"), "failed"), (SelfTested(), "failed")],
)
async def test_a_self_test_tells_how_it_ended(
    app: App,
    metrics: InMemoryMetricReader,
    monkeypatch: pytest.MonkeyPatch,
    test: SelfTested,
    outcome: str,
) -> None:
    monkeypatch.setattr(app.parts, "self_test", lambda: test)
    with contextlib.suppress(UnavailableError):
        await triggers.self_test(app.parts)
    assert points(metrics, SELF_TESTS) == {outcome: 1}


async def test_the_timer_of_the_poison_queues_tells_what_waits_for_consumers(
    app: App, metrics: InMemoryMetricReader
) -> None:
    await app.post(app.collection(app.item(call_started())))
    await app.handle()
    await triggers.drain_poison(app.parts)
    assert points(metrics, DEPTH) == points(metrics, AGE) == {"call-events": 1}
    assert len(await app.events()) == 1  # it is still there
