"""What Switchboard tells OpenTelemetry: metrics and spans, by the API alone.

Whether anything listens is the deployment's business; without an SDK every call here does next to nothing. The names
below are a contract with the queries of the workbook and the alerts. No attribute ever holds more than an id.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from opentelemetry import context, metrics, trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from shared.telemetry import Happening, Life, Telemetry
from shared.values.errors import SwitchboardError

logger = logging.getLogger(__name__)

# Counters, unless said otherwise. Azure Monitor shows attributes as `Properties` of `AppMetrics`.
RECEIVED: Final = "switchboard.received"
"""Notifications that are durably queued; `queue` is the raw queue."""
REFUSED: Final = "switchboard.refused"
"""Notifications left out because they are not authentic; `reason`."""
EXPRESS: Final = "switchboard.express"
"""Raw messages of emergencies by what became of them where they were received; `outcome`, as
`shared.telemetry.ExpressOutcome` spells it."""
DECRYPTED: Final = "switchboard.decrypted"
"""Notifications whose content was decrypted; `queue` is the raw queue."""
WRITTEN: Final = "switchboard.written"
"""Events written; `type` is the CloudEvent's."""
QUARANTINED: Final = "switchboard.quarantined"
"""Notifications, or whole messages, put into quarantine; `reason` and `queue`, the raw queue."""
LATENCY: Final = "switchboard.latency"
"""Histogram in seconds: until an event was written, `since` Graph's `event` time or since our `receipt`; `queue`."""
DEPTH: Final = "switchboard.queue.depth"
"""Histogram of messages on a `queue` that consumers read or park on, measured every fifth minute if there are any."""
AGE: Final = "switchboard.queue.age"
"""Histogram in seconds: for how long the oldest of them waits; `queue`. No gauge, as with `EXPIRY`."""
RENEWALS: Final = "switchboard.renewals"
"""Subscriptions that a renewal run dealt with; `outcome`, as `shared.subscriptions.actions.Outcome` spells it."""
RUNS: Final = "switchboard.renewal.runs"
"""Renewal runs for all tenants; `outcome` is `ended`, also where there was nothing to do, or `failed`."""
EXPIRY: Final = "switchboard.subscription.expiry"
"""Histogram in seconds since 1970, once a run: the end of that subscription of a `kind` that ends first.

A gauge would be cumulative here: every worker that once ran the timer would send its old value again and again, each
time with a new time."""
GRANTED: Final = "switchboard.subscription.granted"
"""Histogram in seconds: the life that Graph granted to that subscription; `kind`."""
UNCONFIRMED: Final = "switchboard.subscription.unconfirmed"
"""Histogram, once a run: subscriptions that nobody desires and that wait for an operator's confirmation, also 0. No
gauge, as with `EXPIRY`."""
UNNOTIFIED: Final = "switchboard.call_records.unnotified"
"""Call records that an audit found, and of which Graph has sent no notification."""
SELF_TESTS: Final = "switchboard.self_tests"
"""Self-tests; `outcome` is `passed` or `failed`."""

QUEUE: Final = "queue"
REASON: Final = "reason"
TYPE: Final = "type"
SINCE: Final = "since"
OUTCOME: Final = "outcome"
KIND: Final = "kind"

ATTRIBUTES: Final = {
    RECEIVED: (QUEUE,),
    REFUSED: (REASON,),
    EXPRESS: (OUTCOME,),
    DECRYPTED: (QUEUE,),
    WRITTEN: (TYPE,),
    QUARANTINED: (REASON, QUEUE),
    LATENCY: (SINCE, QUEUE),
    DEPTH: (QUEUE,),
    AGE: (QUEUE,),
    RENEWALS: (OUTCOME,),
    RUNS: (OUTCOME,),
    EXPIRY: (KIND,),
    GRANTED: (KIND,),
    UNCONFIRMED: (),
    UNNOTIFIED: (),
    SELF_TESTS: (OUTCOME,),
}
"""The attributes of each metric: all that a query may refer to."""

# Bounds of the histogram in seconds: from a warm pipeline's tens of milliseconds to an outage's hours.
_LATENCY_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400)

FLUSH_PAUSE: Final = 30.0
"""Seconds between two flushes at least: each repeats the exporter's own performance counters."""
_FLUSH_DELAY: Final = 1.0  # so that what one message brings about is sent together
_FLUSH_PATIENCE: Final = 10.0

_SCOPE: Final = "switchboard"
_SYSTEM: Final = "azure_storage_queues"  # the semantic conventions list no word for these queues


class OpenTelemetry(Telemetry):
    """Tells the providers that the worker set up before its first call."""

    def __init__(
        self,
        meters: metrics.MeterProvider | None = None,
        tracers: trace.TracerProvider | None = None,
        counted: Callable[[str, Happening, int], None] = lambda *_: None,
    ) -> None:
        """Make the instruments.

        Args:
            meters: None for the process's.
            tracers: None for the process's.
            counted: is told what the status page counts; see `shared.operations.activity.Activity.add`.
        """
        self._counted = counted
        meters = meters or metrics.get_meter_provider()
        meter = meters.get_meter(_SCOPE)
        tracers = tracers or trace.get_tracer_provider()
        # A span that nobody records costs as much as all else together.
        self._tracing = not isinstance(tracers, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
        self._tracer = tracers.get_tracer(_SCOPE)
        self._received = meter.create_counter(RECEIVED, "{notification}", "notifications durably queued")
        self._refused = meter.create_counter(REFUSED, "{notification}", "notifications not taken")
        self._express = meter.create_counter(EXPRESS, "{message}", "emergencies by what became of them at receipt")
        self._decrypted = meter.create_counter(DECRYPTED, "{notification}", "notifications decrypted")
        self._written = meter.create_counter(WRITTEN, "{event}", "events written")
        self._quarantined = meter.create_counter(QUARANTINED, "{notification}", "notifications put into quarantine")
        self._latency = meter.create_histogram(
            LATENCY, "s", "time until an event was written", explicit_bucket_boundaries_advisory=_LATENCY_BOUNDS
        )
        self._depth = meter.create_histogram(DEPTH, "{message}", "messages that wait for consumers")
        self._age = meter.create_histogram(AGE, "s", "age of the oldest message that waits for a consumer")
        self._renewals = meter.create_counter(RENEWALS, "{subscription}", "subscriptions dealt with by renewal runs")
        self._runs = meter.create_counter(RUNS, "{run}", "renewal runs")
        self._expiry = meter.create_histogram(EXPIRY, "s", "end of the subscription nearest to it, since 1970")
        self._granted = meter.create_histogram(GRANTED, "s", "granted life of the subscription nearest to its end")
        self._unconfirmed = meter.create_histogram(UNCONFIRMED, "{subscription}", "unwanted ones to be confirmed")
        self._unnotified = meter.create_counter(UNNOTIFIED, "{record}", "call records without a notification")
        self._self_tests = meter.create_counter(SELF_TESTS, "{test}", "self-tests")
        self._flushes = _Flushes(getattr(meters, "force_flush", None))

    def received(self, queue: str, count: int) -> None:
        self._received.add(count, {QUEUE: queue})
        self._counted(queue, Happening.RECEIVED, count)
        self._flushes.soon()

    def refused(self, reason: str, count: int) -> None:
        self._refused.add(count, {REASON: reason})
        self._counted(reason, Happening.REFUSED, count)
        self._flushes.soon()

    def express(self, outcome: str) -> None:
        self._express.add(1, {OUTCOME: outcome})
        self._counted(outcome, Happening.EXPRESS, 1)

    def decrypted(self, queue: str, count: int) -> None:
        self._decrypted.add(count, {QUEUE: queue})
        self._flushes.soon()

    def written(self, event_type: str, queue: str, *, since_event: float | None, since_receipt: float) -> None:
        self._written.add(1, {TYPE: event_type})
        self._counted(event_type, Happening.WRITTEN, 1)
        # Two clocks are compared: an event from the future took no time.
        self._latency.record(max(since_receipt, 0.0), {SINCE: "receipt", QUEUE: queue})
        if since_event is not None:
            self._latency.record(max(since_event, 0.0), {SINCE: "event", QUEUE: queue})
        self._flushes.soon()

    def quarantined(self, reason: str, queue: str) -> None:
        self._quarantined.add(1, {REASON: reason, QUEUE: queue})
        self._flushes.soon()

    def waiting(self, queue: str, count: int, age: float) -> None:
        self._depth.record(count, {QUEUE: queue})
        self._age.record(age, {QUEUE: queue})
        self._flushes.soon()

    def renewed(self, outcomes: Mapping[str, int], lives: Mapping[str, Life] | None) -> None:
        for outcome, count in outcomes.items():
            self._renewals.add(count, {OUTCOME: outcome})
        if lives is not None:
            self._runs.add(1, {OUTCOME: "ended"})
            for kind, life in lives.items():
                self._expiry.record(life.expires.timestamp(), {KIND: kind})
                self._granted.record(life.granted.total_seconds(), {KIND: kind})
        self._flushes.soon()

    def unconfirmed(self, count: int) -> None:
        self._unconfirmed.record(count)
        self._flushes.soon()

    def renewal_failed(self) -> None:
        self._runs.add(1, {OUTCOME: "failed"})
        self._flushes.soon()

    def unnotified(self, count: int) -> None:
        self._unnotified.add(count)
        self._flushes.soon()

    def self_tested(self, *, passed: bool) -> None:
        self._self_tests.add(1, {OUTCOME: "passed" if passed else "failed"})
        self._flushes.soon()

    async def flush(self) -> None:
        await self._flushes.now()

    def sending(self, queue: str, count: int, traceparent: str) -> AbstractContextManager[str]:
        """A span below the invocation's where that is traced, else below that of `traceparent`."""
        if not self._tracing:
            return nullcontext(traceparent)
        here = trace.get_current_span().get_span_context()
        parent = here if here.is_valid else _span_context(traceparent)
        return self._span(f"send {queue}", SpanKind.PRODUCER, parent, _about("send", queue, count))

    def processing(self, queue: str, message_id: str, count: int, traceparent: str) -> AbstractContextManager[str]:
        """A span below the one that put the message there, so that the way from POST to event is one operation.

        The platform begins an operation of its own for each invocation; a link leads to that.
        """
        if not self._tracing:
            return nullcontext(traceparent)
        invocation = trace.get_current_span().get_span_context()
        links = [Link(invocation)] if invocation.is_valid else []
        attributes = {**_about("process", queue, count), "messaging.message.id": message_id}
        return self._span(f"process {queue}", SpanKind.CONSUMER, _span_context(traceparent), attributes, links)

    @contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind,
        parent: SpanContext,
        attributes: Mapping[str, str | int],
        links: Sequence[Link] = (),
    ) -> Iterator[str]:
        """A span that is current inside the block; the text of an exception is kept out of it, as it may hold data."""
        before = trace.set_span_in_context(NonRecordingSpan(parent))
        span = self._tracer.start_span(name, before, kind, attributes, links)
        token = context.attach(trace.set_span_in_context(span))
        try:
            yield _traceparent(span.get_span_context())
        except Exception as error:
            reason = error.reason if isinstance(error, SwitchboardError) else type(error).__name__
            span.set_status(Status(StatusCode.ERROR, reason))
            raise
        finally:
            context.detach(token)
            span.end()


class _Flushes:
    """Has metrics sent before the exporter's own minute is over, since an instance may be scaled in before that.

    Azure then kills the worker with neither a signal nor an `atexit`
    (https://github.com/Azure/azure-functions-python-worker/issues/578).
    """

    def __init__(self, force_flush: Callable[[float], object] | None) -> None:
        """`force_flush` takes milliseconds; None where nobody listens."""
        self._force_flush = force_flush
        self._last = -FLUSH_PAUSE
        self._waiting: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Within a second; after a flush, at the end of the pause."""
        if self._force_flush is not None and self._waiting is None:
            loop = asyncio.get_running_loop()
            at = max(loop.time() + _FLUSH_DELAY, self._last + FLUSH_PAUSE)
            self._waiting = loop.call_at(at, self._start, self._force_flush)

    async def now(self) -> None:
        """At once, and wait some seconds for it; if the last flush is too recent, do as `soon` does."""
        if self._force_flush is None:
            return
        if asyncio.get_running_loop().time() < self._last + FLUSH_PAUSE:
            self.soon()
            return
        if self._waiting is not None:
            self._waiting.cancel()
        await asyncio.wait({self._start(self._force_flush)}, timeout=_FLUSH_PATIENCE)

    def _start(self, force_flush: Callable[[float], object]) -> asyncio.Future[object]:
        loop = asyncio.get_running_loop()
        # What is measured from here on may be too late for this flush, so it may ask for the next one.
        self._last, self._waiting = loop.time(), None
        flushing = loop.run_in_executor(None, force_flush, _FLUSH_PATIENCE * 1000)
        flushing.add_done_callback(_report)
        return flushing


def _report(flushing: asyncio.Future[object]) -> None:
    if (error := flushing.exception()) is not None:
        logger.warning("metrics were not sent: %s", type(error).__name__)


def _about(operation: str, queue: str, count: int) -> Mapping[str, str | int]:
    """Attributes by the semantic conventions for messaging spans."""
    return {
        "messaging.system": _SYSTEM,
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.destination.name": queue,
        "messaging.batch.message_count": count,
    }


def _span_context(traceparent: str) -> SpanContext:
    """What a `traceparent` says ("Trace Context", https://www.w3.org/TR/trace-context/).

    One that cannot be read gives an invalid context, after which a new trace begins.
    """
    try:
        _, trace_id, span_id, flags = traceparent.split("-")
        return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    except ValueError:  # those of POSTs were checked, but not those in a message that an operator has written
        return trace.INVALID_SPAN_CONTEXT


def _traceparent(span: SpanContext) -> str:
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
