"""How long an emergency takes from its POST to its event: opened where it is received, and the usual way.

Receiving and decrypting run in processes of their own, as on Flex Consumption, over the Queue service in memory. There
they are on instances of their own, too; here decrypting gets the cores that receiving leaves. What is written is seen
as it is put, so no consumer's polling is in the figures. On another host (`FUNCTIONS_HOST`), which
asks more of storage, it is the emulator, and an emergency is measured alone, both ways.
"""

import http.client
import os
import random
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue import QueueClient, QueueServiceClient

import function_app
from bench.measure import Finding
from bench.queue_stub import connection_string, queue_stub
from dev.azurite import Azurite
from dev.host import HostProcess
from dev.host.process import FUNCTIONS_HOST
from dev.simulator import Kind, Options, Simulator, build
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import Recipient
from dev.simulator.tokens import validation_claims
from dev.stack import APP
from shared.values.resources import EMERGENCY_CALL_EVENTS, EVENT_QUEUES, RAW_QUEUES

_STATE: Final = "a-client-state-of-thirty-two-characters"
_POST: Final = 40
_HOSTILE: Final = b'{"value":[' + b"1," * (2 * 1024 * 1024 - 10) + b"1]}"
_SENDERS: Final = 10
_OTHER_HOST: Final = bool(os.environ.get(FUNCTIONS_HOST))
_POLL_SECONDS: Final = 0.002
_WARM_UP: Final = 3
_QUIET_SECONDS: Final = (3.0, 4.0)  # after which a queue is polled each second
_RECEIVING: Final = {"receive_notifications", "health", "status"}
_LOWEST_PRIORITY: Final = 19
_DECRYPTING: Final = {"decrypt_notifications", "decrypt_emergency"}


@dataclass(frozen=True, slots=True)
class _Measured:
    """Seconds from POST to event, and until Graph's answer, of some emergencies one after another."""

    event: Sequence[float]
    answer: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.event)

    def __str__(self) -> str:
        answer = statistics.median(self.answer)
        return (
            f"median {self.median * 1000:.0f} ms, p99 {_p99(self.event) * 1000:.0f} ms;"
            f" Graph's answer {answer * 1000:.0f} ms"
        )


def emergencies(*, quick: bool) -> Iterator[Finding]:
    """All findings, one by one."""
    alone, count, backlog = (5, 10, 2_000) if quick else (30, 100, 20_000)
    behind = f"behind {backlog:,} ordinary ones"
    with Simulator.start() as sim:
        found: dict[tuple[str, str], _Measured] = {}
        for setting, way in (("off", "the usual way"), ("on", "opened where it is received")):
            with _Setup.start(sim, {"EMERGENCY_EXPRESS": setting}) as setup:
                setup.emergencies(_WARM_UP)
                found[setting, "alone"] = setup.emergencies(alone, after_quiet=True)
                yield Finding(f"an emergency alone, {way}", str(found[setting, "alone"]))
                if not _OTHER_HOST:
                    setup.ordinary(backlog)
                    found[setting, "behind"] = setup.emergencies(count)
                    yield Finding(f"an emergency {behind}, {way}", str(found[setting, "behind"]))
        times = found["off", "alone"].median / found["on", "alone"].median
        yield Finding("sooner alone, at the median (aim 5)", f"{times:.1f} times")
        if _OTHER_HOST:
            return
        times = found["off", "behind"].median / found["on", "behind"].median
        yield Finding("sooner behind, at the median (aim 10)", f"{times:.1f} times")
        times = _p99(found["on", "behind"].event) / found["on", "alone"].median
        yield Finding("p99 behind the backlog over the median alone (aim 2)", f"{times:.1f} times")
        with _Setup.start(sim, {}, one_process=True) as setup:
            setup.emergencies(_WARM_UP)
            before = setup.emergencies(count)
            setup.ordinary(backlog)
            times = setup.emergencies(count).median / before.median
            yield Finding("behind over alone, at the median, one process for everything", f"{times:.1f} times")
        with _Setup.start(sim, {}) as setup, _hostile(setup):
            under_fire = setup.emergencies(count)
            yield Finding(f"an emergency under {_SENDERS} hostile senders", str(under_fire))
            yield Finding("the slowest of those answers (aim 500 ms)", f"{max(under_fire.answer) * 1000:.0f} ms")


@dataclass(slots=True)
class _Setup:
    sim: Simulator
    storage: "_Storage"
    host: HostProcess
    written: int = 0

    @classmethod
    @contextmanager
    def start(cls, sim: Simulator, settings: Mapping[str, str], *, one_process: bool = False) -> "Iterator[_Setup]":
        with ExitStack() as stack:
            storage: _Storage = stack.enter_context(_emulator() if _OTHER_HOST else _in_memory())
            everything = {
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", ""),
                **sim.environment(),
                "AzureWebJobsStorage": storage.connection_string,
                "CLIENT_STATE": _STATE,
                "NOTIFICATION_URL": "https://switchboard.example/api/notifications",
                **settings,
            }
            groups = [_RECEIVING | _DECRYPTING] if one_process or _OTHER_HOST else [_RECEIVING, _DECRYPTING]
            hosts = [stack.enter_context(HostProcess(APP, everything | _without(group))) for group in groups]
            for decrypting in hosts[1:]:
                os.setpriority(os.PRIO_PGRP, decrypting.pid, _LOWEST_PRIORITY)
            yield cls(sim, storage, hosts[0])

    def emergencies(self, count: int, *, after_quiet: bool = False) -> _Measured:
        """Post one after another, each once the event of the one before is written, or after a quiet time."""
        events, answers = [], []
        for _ in range(count):
            body = self._body(Kind.EMERGENCY_NESTED, 1)
            if after_quiet:
                time.sleep(random.uniform(*_QUIET_SECONDS))
            started = time.perf_counter()
            answers.append(self._post(body))
            self.storage.wait(self.written + 1)
            self.written += 1
            events.append(time.perf_counter() - started)
        return _Measured(events, answers)

    def ordinary(self, count: int) -> None:
        """Post so many calls; they are left to be decrypted."""
        body = self._body(Kind.CALL_STARTED, _POST)
        for _ in range(count // _POST):
            self._post(body)

    def post_hostile(self) -> None:
        """One body that costs its reader as much as it can."""
        self._send(_HOSTILE)

    def _body(self, kind: Kind, count: int) -> bytes:
        current, name = self.sim.vault.certificate(), self.sim.vault.certificate_name
        assert current.certificate is not None
        to = Addressee(self.sim.tenants[0], _STATE, Recipient.of(current.certificate, f"{name}/{current.version}"))
        claims = validation_claims(app_id=self.sim.app_id, tenant_id=self.sim.tenants[0], now=self.sim.clock.now())
        items = [change_notification(build(kind, Options()), to) for _ in range(count)]
        return collection(items, [self.sim.entra.signing_key.sign(claims)])

    def _post(self, body: bytes) -> float:
        started = time.perf_counter()
        status = self._send(body)
        if status != 202:
            raise RuntimeError(f"a POST was answered {status}")
        return time.perf_counter() - started

    def _send(self, body: bytes) -> int:
        connection = http.client.HTTPConnection(urlsplit(self.host.url).netloc, timeout=60)
        try:
            connection.request("POST", "/api/notifications", body, {"Content-Type": "application/json"})
            return connection.getresponse().status
        finally:
            connection.close()


class _Storage(Protocol):
    @property
    def connection_string(self) -> str: ...

    def wait(self, count: int) -> None:
        """Until so many events of emergencies have been written in all."""


@dataclass(frozen=True, slots=True)
class _InMemory:
    url: str

    @property
    def connection_string(self) -> str:
        return connection_string(self.url)

    def wait(self, count: int) -> None:
        address = f"{self.url}/wait?queue={EMERGENCY_CALL_EVENTS.events_queue}&count={count}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            answer.read()


@contextmanager
def _in_memory() -> Iterator[_InMemory]:
    with queue_stub() as url:
        yield _InMemory(url)


@dataclass(frozen=True, slots=True)
class _Emulator:
    connection_string: str
    queue: QueueClient

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(ResourceNotFoundError):
                if (self.queue.get_queue_properties().approximate_message_count or 0) >= count:
                    return
            time.sleep(_POLL_SECONDS)
        raise TimeoutError


@contextmanager
def _emulator() -> Iterator[_Emulator]:
    with (
        tempfile.TemporaryDirectory(prefix="switchboard-bench-", ignore_cleanup_errors=True) as folder,
        Azurite.start(Path(folder)) as azurite,
        QueueServiceClient.from_connection_string(azurite.connection_string) as queues,
        queues.get_queue_client(EMERGENCY_CALL_EVENTS.events_queue) as queue,
    ):
        for name in (*RAW_QUEUES, *EVENT_QUEUES):  # the host makes no queue that it listens on
            queues.create_queue(name)
        yield _Emulator(azurite.connection_string, queue)


@contextmanager
def _hostile(setup: _Setup) -> Iterator[None]:
    """Senders of hostile bodies, each posting the next once the last is answered, at most for a minute."""
    setup.emergencies(_WARM_UP)
    over = threading.Event()

    def send() -> None:
        deadline = time.monotonic() + 60
        while not over.is_set() and time.monotonic() < deadline:
            with suppress(OSError):  # whoever is not answered comes again
                setup.post_hostile()

    senders = [threading.Thread(target=send) for _ in range(_SENDERS)]
    for sender in senders:
        sender.start()
    try:
        yield
    finally:
        over.set()
        for sender in senders:
            sender.join()


def _without(group: set[str]) -> dict[str, str]:
    """Settings that leave only some functions."""
    return {f"AzureWebJobs.{name}.Disabled": "true" for name in _functions() if name not in group}


@cache
def _functions() -> tuple[str, ...]:
    """The app's functions, which an app lists once."""
    return tuple(str(function.get_function_name()) for function in function_app.app.get_functions())


def _p99(seconds: Sequence[float]) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
