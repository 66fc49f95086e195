"""What the adapter tells OpenTelemetry, read back from the SDK's in-memory exporters."""

import asyncio
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import telemetry_export
from shared.telemetry import Life
from shared.telemetry_export import ATTRIBUTES, OpenTelemetry
from shared.values.errors import UnavailableError

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


class Seen:
    """A telemetry adapter, and what came out of it."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.counted: list[tuple[str, str, int]] = []
        self.telemetry = OpenTelemetry(MeterProvider([self._reader]), tracers, lambda *what: self.counted.append(what))
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
    life = Life(datetime(2026, 11, 29, 10, tzinfo=UTC), timedelta(hours=1))
    seen.telemetry.renewed({"renewed": 3, "failed": 1}, {"presence": life})
    seen.telemetry.unconfirmed(2)
    seen.telemetry.renewal_failed()
    seen.telemetry.unnotified(2)
    seen.telemetry.waiting("call-events", 3, 60.0)
    seen.telemetry.self_tested(passed=True)
    seen.telemetry.self_tested(passed=False)


class TestMetrics:
    async def test_the_status_page_counts_what_came_in_what_was_refused_and_what_became_of_it(self, seen: Seen) -> None:
        tell_everything(seen)
        assert seen.counted == [
            ("raw-notifications", "received", 40),
            ("client-state", "refused", 2),
            ("Microsoft.Graph.CallStarted", "written", 1),
            ("done", "express", 1),
        ]

    async def test_counts(self, seen: Seen) -> None:
        tell_everything(seen)
        points = seen.points()
        latency = points.pop(telemetry_export.LATENCY)
        queue = "raw-notifications"
        assert latency == [
            ({"since": "receipt", "queue": queue}, (0.5, 1)),
            ({"since": "event", "queue": queue}, (2.5, 1)),
        ]
        assert points == {
            telemetry_export.RECEIVED: [({"queue": queue}, 40)],
            telemetry_export.REFUSED: [({"reason": "client-state"}, 2)],
            telemetry_export.EXPRESS: [({"outcome": "done"}, 1)],
            telemetry_export.DECRYPTED: [({"queue": queue}, 39)],
            telemetry_export.WRITTEN: [({"type": "Microsoft.Graph.CallStarted"}, 1)],
            telemetry_export.QUARANTINED: [({"reason": "data-signature-mismatch", "queue": queue}, 1)],
            telemetry_export.RENEWALS: [({"outcome": "renewed"}, 3), ({"outcome": "failed"}, 1)],
            telemetry_export.RUNS: [({"outcome": "ended"}, 1), ({"outcome": "failed"}, 1)],
            telemetry_export.EXPIRY: [({"kind": "presence"}, (1795946400.0, 1))],
            telemetry_export.GRANTED: [({"kind": "presence"}, (3600.0, 1))],
            telemetry_export.UNCONFIRMED: [({}, (2, 1))],
            telemetry_export.UNNOTIFIED: [({}, 2)],
            telemetry_export.DEPTH: [({"queue": "call-events"}, (3, 1))],
            telemetry_export.AGE: [({"queue": "call-events"}, (60.0, 1))],
            telemetry_export.SELF_TESTS: [({"outcome": "passed"}, 1), ({"outcome": "failed"}, 1)],
        }

    async def test_a_run_that_finds_nothing_to_do_is_a_run(self, seen: Seen) -> None:
        seen.telemetry.renewed({}, {})
        assert seen.points() == {telemetry_export.RUNS: [({"outcome": "ended"}, 1)]}

    async def test_that_nothing_waits_for_a_confirmation_any_more_is_told(self, seen: Seen) -> None:
        seen.telemetry.unconfirmed(0)
        assert seen.points() == {telemetry_export.UNCONFIRMED: [({}, (0, 1))]}

    async def test_a_run_for_a_part_of_the_tenants_is_no_sign_of_the_others(self, seen: Seen) -> None:
        """Else a timer that stopped would go unseen, and what it measured last would pass for undesired."""
        seen.telemetry.renewed({"renewed": 1}, None)
        assert seen.points() == {telemetry_export.RENEWALS: [({"outcome": "renewed"}, 1)]}

    @pytest.mark.parametrize(
        ("since_event", "since_receipt", "latencies"),
        [(-3.0, -0.1, {"receipt": 0.0, "event": 0.0}), (None, 1.0, {"receipt": 1.0})],
    )
    async def test_an_event_from_the_future_took_no_time_and_one_without_a_time_has_one_latency(
        self, seen: Seen, since_event: float | None, since_receipt: float, latencies: dict[str, float]
    ) -> None:
        seen.telemetry.written("t", "q", since_event=since_event, since_receipt=since_receipt)
        found = seen.points()[telemetry_export.LATENCY]
        assert {attributes["since"]: value for attributes, (value, _) in found} == latencies

    async def test_the_declared_names_and_attributes_are_the_real_ones(self, seen: Seen) -> None:
        tell_everything(seen)
        real = {name: set(points[0][0]) for name, points in seen.points().items()}
        assert real == {name: set(attributes) for name, attributes in ATTRIBUTES.items()}


class TestTraces:
    async def test_post_message_and_event_are_one_trace(self, seen: Seen) -> None:
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

    async def test_within_a_traced_invocation_it_is_the_parent(self, seen: Seen) -> None:
        with (
            seen.tracer.start_as_current_span("POST") as post,
            seen.telemetry.sending("raw-notifications", 1, TRACEPARENT) as on_the_queue,
        ):
            pass
        assert on_the_queue.split("-")[1] == f"{post.get_span_context().trace_id:032x}"
        assert seen.spans()[0].parent.span_id == post.get_span_context().span_id

    async def test_a_message_is_linked_with_its_invocation(self, seen: Seen) -> None:
        with (
            seen.tracer.start_as_current_span("invocation") as invocation,
            seen.telemetry.processing("raw-notifications", "id", 1, TRACEPARENT),
        ):
            pass
        (link,) = seen.spans()[0].links
        assert link.context == invocation.get_span_context()

    async def test_a_failure_shows_its_reason_and_no_message(self, seen: Seen) -> None:
        with pytest.raises(UnavailableError), seen.telemetry.processing("q", "id", 1, TRACEPARENT):
            raise UnavailableError("container of a person", reason="storage-no-answer")
        with pytest.raises(ValueError), seen.telemetry.processing("q", "id", 1, TRACEPARENT):  # noqa: PT011
            raise ValueError("+49 170 1234567")
        assert [span.status.description for span in seen.spans()] == ["storage-no-answer", "ValueError"]
        assert [span.events for span in seen.spans()] == [(), ()]

    async def test_what_was_current_is_current_again(self, seen: Seen) -> None:
        before = context.get_current()
        with seen.telemetry.processing("q", "id", 1, TRACEPARENT):
            assert trace.get_current_span().get_span_context().is_valid
        assert context.get_current() == before

    @pytest.mark.parametrize("nonsense", ["", "00-x-y-z", "00-1-2", f"00-{'f' * 40}-{'f' * 20}-01"])
    async def test_a_message_with_no_trace_begins_one(self, seen: Seen, nonsense: str) -> None:
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


class Provider(MeterProvider):
    """Notes when it is flushed, and from which thread; measures nothing."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.flushes: list[float] = []
        self.threads: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._fails = fails

    def force_flush(self, timeout_millis: float = 0) -> bool:
        self.flushes.append(self._loop.time())
        self.threads.append(threading.get_ident())
        if self._fails:
            raise OSError("+49 170 1234567")
        return True


class TestFlushes:
    async def test_what_is_measured_is_sent_soon_and_together(self) -> None:
        provider = Provider()
        seen = OpenTelemetry(provider)
        seen.received("q", 1)
        await asyncio.sleep(0.5)
        seen.written("t", "q", since_event=None, since_receipt=1.0)
        await asyncio.sleep(telemetry_export.FLUSH_PAUSE)
        assert provider.flushes == [1.0]

    async def test_the_next_one_waits_for_the_pause_and_then_comes(self) -> None:
        provider = Provider()
        seen = OpenTelemetry(provider)
        await seen.flush()
        await asyncio.sleep(2)
        seen.received("q", 1)
        await seen.flush()
        seen.quarantined("r", "q")
        await asyncio.sleep(5 * telemetry_export.FLUSH_PAUSE)
        assert provider.flushes == [0.0, telemetry_export.FLUSH_PAUSE]

    @pytest.mark.threads
    async def test_a_run_waits_for_it_and_the_loop_does_not(self) -> None:
        provider = Provider()
        await OpenTelemetry(provider).flush()
        assert len(provider.threads) == 1
        assert threading.get_ident() not in provider.threads

    async def test_a_failure_ends_no_run_and_says_no_more_than_its_type(self, caplog: pytest.LogCaptureFixture) -> None:
        await OpenTelemetry(Provider(fails=True)).flush()
        assert "metrics were not sent: OSError" in caplog.text
        assert "1234567" not in caplog.text

    async def test_nothing_is_flushed_where_nobody_listens(self) -> None:
        seen = OpenTelemetry(NoOpMeterProvider())
        seen.received("q", 1)
        await seen.flush()
