"""End to end on Azurite through the local host: throughput, latency, memory, and emergencies ahead of a backlog.

The emulator, the simulator and the app share this machine's cores, so the figures say what this set-up does and not
what Azure does; the RSA rate of the same run stands beside them.
"""

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import psutil
from azure.storage.queue import QueueServiceClient

from bench.figures import rsa_operation
from bench.measure import Finding, Throughput, cpu_seconds
from dev import traffic
from dev.consumer import Arrival, Consumer
from dev.simulator import Kind, Options, build
from dev.simulator.crypto import KeyCertificate
from dev.simulator.delivery import Notification
from dev.stack import Stack
from shared.values.resources import CALL_EVENTS, RAW_QUEUE

_PATIENCE = 600.0
_POST = 40
_MEMORY_STEP = 20_000
_MEMORY_STEPS = 5
_AIMS = {"single": "2.3", "batch": "1.6"}


@dataclass(frozen=True, slots=True)
class _Load:
    """So many notifications at once, of a call's start, or of a roster of so many participants."""

    count: int
    items: int = _POST  # to a POST
    participants: int | None = None

    @property
    def kind(self) -> Kind:
        return Kind.CALL_STARTED if self.participants is None else Kind.ROSTER_JOINED

    def options(self) -> Options:
        return replace(traffic.unique(traffic.CALL), participants=self.participants or 1)

    @property
    def event_bytes(self) -> int:
        return len(json.dumps(build(self.kind, self.options()).content, separators=(",", ":")))


# Besides forty small ones to a POST, what the picture shows.
_SERIES = (
    _Load(400, 1),
    _Load(1500, 10),
    _Load(3000, 200),
    _Load(600, 10, 12),
    _Load(200, 10, 80),
    _Load(100, 10, 500),
)


def end_to_end(*, quick: bool) -> Iterator[Finding | Throughput]:
    """All findings, one by one."""
    operation = cpu_seconds(rsa_operation(KeyCertificate.generate().private_key), 1000)
    yield Finding("bare RSA-2048 operations on one core", f"{1 / operation:,.0f}/s")
    for workers in (1,) if quick else (1, 2):
        for form in ("single", "batch"):
            with _stack({"FUNCTIONS_WORKER_PROCESS_COUNT": str(workers), "EVENT_FORMAT": form}) as stack:
                yield from _throughput(stack, workers, form, 800 if quick else 3000, operation)
                for load in () if quick else _SERIES:
                    yield _send(stack, workers, form, load)
    with _stack({}) as stack:
        yield from _latency(stack, 100 if quick else 2000)
    with _stack({}) as stack:
        yield from _emergency(stack, 1000 if quick else 20_000)
    if not quick:
        with _stack({"EVENT_FORMAT": "batch"}) as stack:
            yield _memory(stack)


@contextmanager
def _stack(settings: dict[str, str]) -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="switchboard-bench-", ignore_cleanup_errors=True) as folder,
        Stack.start(Path(folder), subscriptions=traffic.SUBSCRIPTIONS, settings=settings) as stack,
    ):
        stack.host.start_function("renew_subscriptions")
        _until(lambda: len(stack.sim.graph.subscriptions) >= traffic.SUBSCRIPTION_COUNT)
        stack.sim.graph.delivery.batch_size = _POST
        yield stack


def _throughput(stack: Stack, workers: int, form: str, count: int, operation: float) -> Iterator[Finding | Throughput]:
    """All at once, with what the host used for it; `operation` is the CPU of a bare RSA operation."""
    name = f"{workers} worker{'s' if workers > 1 else ''}, {form} events"
    _warm_up(stack)
    used = _host(stack)
    found = _send(stack, workers, form, _Load(count))
    now = _host(stack)
    yield found
    yield Finding(f"throughput, {name}", f"{found.rate:,.0f} notifications/s over {count:,}")
    cpu = (now.cpu_seconds - used.cpu_seconds) / count
    over = f"{cpu / operation:.1f} RSA operations each (aim {_AIMS[form]})"
    yield Finding(f"the host's CPU, {name}", f"{cpu * 1000:.2f} s per 1,000 notifications, {over}")


def _send(stack: Stack, workers: int, form: str, load: _Load) -> Throughput:
    """All at once; done when nothing is left on the raw queue, messages under way included."""
    prepared = _calls(stack, load)
    _clear(stack)
    stack.sim.graph.delivery.batch_size = load.items
    started = time.monotonic()
    stack.sim.graph.send(prepared)
    stack.sim.graph.drain(_PATIENCE)
    _until(lambda: _waiting(stack) == 0)
    seconds = time.monotonic() - started
    stack.sim.graph.forget_deliveries()
    return Throughput(workers, form, load.items, load.event_bytes, load.count / seconds)


def _memory(stack: Stack) -> Finding:
    """Of a worker that has worked for long, in steps: what it holds must not grow with what it has done."""
    _warm_up(stack)
    sizes = [_host(stack).memory]
    for _ in range(_MEMORY_STEPS):
        _send(stack, 1, "batch", _Load(_MEMORY_STEP))
        sizes.append(_host(stack).memory)
    steps = ", ".join(f"{size / 2**20:.0f}" for size in sizes)
    return Finding(
        f"memory of a worker before, and after each {_MEMORY_STEP:,} of {_MEMORY_STEPS * _MEMORY_STEP:,} notifications",
        f"{steps} MiB",
    )


def _latency(stack: Stack, count: int) -> Iterator[Finding]:
    """A steady stream well below what the set-up can do, read by a consumer as it comes."""
    arrivals: list[Arrival] = []
    with Consumer(stack.azurite.connection_string, arrivals.append):
        _warm_up(stack)
        _until(lambda: len(arrivals) >= 2 * _POST)
        arrivals.clear()
        prepared = _calls(stack, _Load(count))
        for start in range(0, count, 5):
            stack.sim.graph.send(prepared[start : start + 5])
            time.sleep(0.1)
        _until(lambda: len(arrivals) >= count)
    seconds = _seconds_from_post(stack, arrivals)
    yield Finding("latency at 50 notifications/s, POST to event read", _percentiles(seconds))


def _emergency(stack: Stack, backlog: int) -> Iterator[Finding]:
    arrivals: list[Arrival] = []
    arrived = threading.Event()

    def arrive(arrival: Arrival) -> None:
        if arrival.queue == "emergency-call-events":
            arrivals.append(arrival)
            arrived.set()

    def emergencies(count: int) -> list[float]:
        arrivals.clear()
        stack.sim.graph.forget_deliveries()
        for _ in range(count):
            arrived.clear()
            options = traffic.unique(traffic.EMERGENCY)
            stack.sim.graph.notify(traffic.EMERGENCY, Kind.EMERGENCY_NESTED, options)
            arrived.wait(_PATIENCE)
        return _seconds_from_post(stack, arrivals)

    with Consumer(stack.azurite.connection_string, arrive):
        emergencies(1)
        yield Finding("an emergency alone, POST to event read", _percentiles(emergencies(20)))
        prepared = _calls(stack, _Load(backlog))
        stack.sim.graph.send(prepared)
        stack.sim.graph.drain(_PATIENCE)
        yield Finding(f"an emergency behind {backlog:,} ordinary notifications", _percentiles(emergencies(20)))


def _calls(stack: Stack, load: _Load) -> list[Notification]:
    found: list[Notification] = []
    for _ in range(load.count):
        found += stack.sim.graph.prepare(traffic.CALL, load.kind, load.options())
    return found


def _warm_up(stack: Stack) -> None:
    stack.sim.graph.send(_calls(stack, _Load(2 * _POST)))
    stack.sim.graph.drain(_PATIENCE)
    _until(lambda: _waiting(stack) == 0)


def _waiting(stack: Stack) -> int:
    queues = QueueServiceClient.from_connection_string(stack.azurite.connection_string)
    with queues.get_queue_client(RAW_QUEUE) as raw:
        return raw.get_queue_properties().approximate_message_count or 0


def _clear(stack: Stack) -> None:
    """Take the events of earlier loads away: the emulator is the slower the more messages it holds."""
    queues = QueueServiceClient.from_connection_string(stack.azurite.connection_string)
    with queues.get_queue_client(CALL_EVENTS.events_queue) as events:
        events.clear_messages()


def _seconds_from_post(stack: Stack, arrivals: Sequence[Arrival]) -> list[float]:
    posted: dict[str, datetime] = {}
    for delivery in stack.sim.graph.deliveries:
        for notification in delivery.notifications:
            if delivery.attempts:
                posted[str(notification.item.get("id"))] = delivery.attempts[0].at
    return [
        (arrival.at - posted[arrival.event.id]).total_seconds() for arrival in arrivals if arrival.event.id in posted
    ]


def _percentiles(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000

    tail = f", p99.9 {at(0.999):.0f} ms" if len(ordered) >= 1000 else ""
    return f"median {statistics.median(ordered) * 1000:.0f} ms, p99 {at(0.99):.0f} ms{tail}, n = {len(ordered)}"


def _until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class _Usage:
    cpu_seconds: float
    memory: int  # resident bytes of the largest process


def _host(stack: Stack) -> _Usage:
    """What the host and its workers have used."""
    parent = psutil.Process(stack.host.pid)
    family = [parent, *parent.children(recursive=True)]
    cpu = sum(sum(process.cpu_times()[:2]) for process in family)
    return _Usage(cpu, max(process.memory_info().rss for process in family))
