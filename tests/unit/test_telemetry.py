"""What the adapter tells OpenTelemetry, read back from the SDK's in-memory exporters."""

import re
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.adapters import telemetry
from shared.adapters.telemetry import ATTRIBUTES, OpenTelemetry
from shared.domain.errors import UnavailableError

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


class Seen:
    """A telemetry adapter, and what came out of it."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.telemetry = OpenTelemetry(MeterProvider([self._reader]), tracers)
        self.tracer = tracers.get_tracer("platform")

    def points(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        """Attributes and value (of a histogram: sum and count) of each point, by metric."""
        data = self._reader.get_metrics_data()
        found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
        for resource in data.resource_metrics if data else ():
            for metric in resource.scope_metrics[0].metrics:
                found[metric.name] = [
                    (dict(point.attributes or {}), point.value if hasattr(point, "value") else (point.sum, point.count))
                    for point in metric.data.data_points
                ]
        return found

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def seen() -> Seen:
    return Seen()


def tell_everything(seen: Seen) -> None:
    seen.telemetry.received("raw-notifications", 40)
    seen.telemetry.refused("client-state", 2)
    seen.telemetry.decrypted("raw-notifications", 39)
    seen.telemetry.written("Microsoft.Graph.CallStarted", "raw-notifications", since_event=2.5, since_receipt=0.5)
    seen.telemetry.quarantined("data-signature-mismatch", "raw-notifications")
    seen.telemetry.express("done")
    seen.telemetry.renewed({"renewed": 3, "failed": 1}, {"presence": 1800.0})


class TestMetrics:
    def test_counts(self, seen: Seen) -> None:
        tell_everything(seen)
        points = seen.points()
        assert points[telemetry.RECEIVED] == [({"queue": "raw-notifications"}, 40)]
        assert points[telemetry.REFUSED] == [({"reason": "client-state"}, 2)]
        assert points[telemetry.EXPRESS] == [({"outcome": "done"}, 1)]
        assert points[telemetry.DECRYPTED] == [({"queue": "raw-notifications"}, 39)]
        assert points[telemetry.WRITTEN] == [({"type": "Microsoft.Graph.CallStarted"}, 1)]
        assert points[telemetry.QUARANTINED] == [
            ({"reason": "data-signature-mismatch", "queue": "raw-notifications"}, 1)
        ]
        assert points[telemetry.RENEWALS] == [({"outcome": "renewed"}, 3), ({"outcome": "failed"}, 1)]
        assert points[telemetry.REMAINING] == [({"kind": "presence"}, 1800.0)]

    def test_both_latencies(self, seen: Seen) -> None:
        tell_everything(seen)
        queue = "raw-notifications"
        assert seen.points()[telemetry.LATENCY] == [
            ({"since": "receipt", "queue": queue}, (0.5, 1)),
            ({"since": "event", "queue": queue}, (2.5, 1)),
        ]

    def test_an_event_from_the_future_took_no_time(self, seen: Seen) -> None:
        seen.telemetry.written("t", "q", since_event=-3.0, since_receipt=-0.1)
        assert [value for _, value in seen.points()[telemetry.LATENCY]] == [(0.0, 1), (0.0, 1)]

    def test_an_event_without_a_time_has_one_latency(self, seen: Seen) -> None:
        seen.telemetry.written("t", "q", since_event=None, since_receipt=1.0)
        assert [attributes["since"] for attributes, _ in seen.points()[telemetry.LATENCY]] == ["receipt"]

    def test_the_declared_names_and_attributes_are_the_real_ones(self, seen: Seen) -> None:
        tell_everything(seen)
        real = {name: set(points[0][0]) for name, points in seen.points().items()}
        assert real == {name: set(attributes) for name, attributes in ATTRIBUTES.items()}


class TestTraces:
    def test_post_message_and_event_are_one_trace(self, seen: Seen) -> None:
        with seen.telemetry.sending("raw-notifications", 1, TRACEPARENT) as on_the_queue:
            pass
        with (
            seen.telemetry.processing("raw-notifications", "id", 1, on_the_queue) as in_the_event,
            seen.telemetry.sending("call-events", 1, in_the_event),
        ):
            pass
        sent, written, processed = seen.spans()
        assert {f"{span.context.trace_id:032x}" for span in (sent, processed, written)} == {TRACE_ID}
        assert f"{sent.parent.span_id:016x}" == "b7ad6b7169203331"
        assert processed.parent.span_id == sent.context.span_id
        assert written.parent.span_id == processed.context.span_id
        assert in_the_event == f"00-{TRACE_ID}-{processed.context.span_id:016x}-01"
        assert [span.name for span in (sent, processed, written)] == [
            "send raw-notifications",
            "process raw-notifications",
            "send call-events",
        ]
        assert [span.kind.name for span in (sent, processed, written)] == ["PRODUCER", "CONSUMER", "PRODUCER"]

    def test_within_a_traced_invocation_it_is_the_parent(self, seen: Seen) -> None:
        with (
            seen.tracer.start_as_current_span("POST") as post,
            seen.telemetry.sending("raw-notifications", 1, TRACEPARENT) as on_the_queue,
        ):
            pass
        assert on_the_queue.split("-")[1] == f"{post.get_span_context().trace_id:032x}"
        assert seen.spans()[0].parent.span_id == post.get_span_context().span_id

    def test_a_message_is_linked_with_its_invocation(self, seen: Seen) -> None:
        with (
            seen.tracer.start_as_current_span("invocation") as invocation,
            seen.telemetry.processing("raw-notifications", "id", 1, TRACEPARENT),
        ):
            pass
        (link,) = seen.spans()[0].links
        assert link.context == invocation.get_span_context()

    def test_a_failure_shows_its_reason_and_no_message(self, seen: Seen) -> None:
        with pytest.raises(UnavailableError), seen.telemetry.processing("q", "id", 1, TRACEPARENT):
            raise UnavailableError("container of a person", reason="storage-no-answer")
        with pytest.raises(ValueError), seen.telemetry.processing("q", "id", 1, TRACEPARENT):  # noqa: PT011
            raise ValueError("+49 170 1234567")
        assert [span.status.description for span in seen.spans()] == ["storage-no-answer", "ValueError"]
        assert [span.events for span in seen.spans()] == [(), ()]

    def test_what_was_current_is_current_again(self, seen: Seen) -> None:
        before = context.get_current()
        with seen.telemetry.processing("q", "id", 1, TRACEPARENT):
            assert trace.get_current_span().get_span_context().is_valid
        assert context.get_current() == before

    @pytest.mark.parametrize("nonsense", ["", "00-x-y-z", "00-1-2", f"00-{'f' * 40}-{'f' * 20}-01"])
    def test_a_message_with_no_trace_begins_one(self, seen: Seen, nonsense: str) -> None:
        with seen.telemetry.processing("q", "id", 1, nonsense) as given:
            pass
        assert seen.spans()[0].parent is None
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", given)

    def test_without_a_provider_the_traceparent_is_passed_on(self) -> None:
        silent = OpenTelemetry(tracers=trace.NoOpTracerProvider())
        with silent.sending("q", 1, TRACEPARENT) as given:
            assert given == TRACEPARENT
        with silent.processing("q", "id", 1, TRACEPARENT) as given:
            assert given == TRACEPARENT
