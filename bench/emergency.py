"""How long an emergency takes from its POST to its event: opened where it is received, and the usual way.

Receiving and decrypting run in processes of their own, as on Flex Consumption, over the Queue service in memory. What
is written is seen as it is put, so no consumer's polling is in the figures.
"""

import http.client
import os
import random
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import urlsplit

import function_app
from bench.measure import Finding
from bench.queue_stub import connection_string, queue_stub
from dev.host import HostProcess
from dev.simulator import Kind, Options, Simulator, build
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import Recipient
from dev.simulator.tokens import validation_claims
from dev.stack import APP
from shared.domain.resources import EMERGENCY_CALL_EVENTS

_STATE: Final = "a-client-state-of-thirty-two-characters"
_POST: Final = 40
_HOSTILE: Final = b'{"value":[' + b"1," * (2 * 1024 * 1024 - 10) + b"1]}"
_SENDERS: Final = 10
_WARM_UP: Final = 3
_QUIET_SECONDS: Final = (3.0, 4.0)  # after which a queue is polled each second
_RECEIVING: Final = {"receive_notifications", "health", "status"}
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
                setup.ordinary(backlog)
                found[setting, "behind"] = setup.emergencies(count)
                yield Finding(f"an emergency {behind}, {way}", str(found[setting, "behind"]))
        for where, aim in (("alone", 5), ("behind", 10)):
            times = found["off", where].median / found["on", where].median
            yield Finding(f"sooner {where}, at the median (aim {aim})", f"{times:.1f} times")
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
    storage: str
    host: HostProcess
    written: int = 0

    @classmethod
    @contextmanager
    def start(cls, sim: Simulator, settings: Mapping[str, str], *, one_process: bool = False) -> "Iterator[_Setup]":
        with ExitStack() as stack:
            storage = stack.enter_context(queue_stub())
            everything = {
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", ""),
                **sim.environment(),
                "AzureWebJobsStorage": connection_string(storage),
                "CLIENT_STATE": _STATE,
                "NOTIFICATION_URL": "https://switchboard.example/api/notifications",
                **settings,
            }
            groups = [_RECEIVING | _DECRYPTING] if one_process else [_RECEIVING, _DECRYPTING]
            hosts = [stack.enter_context(HostProcess(APP, everything | _without(group))) for group in groups]
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
            self._wait(EMERGENCY_CALL_EVENTS.events_queue, self.written + 1)
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

    def _wait(self, queue: str, count: int) -> None:
        with urllib.request.urlopen(f"{self.storage}/wait?queue={queue}&count={count}", timeout=60) as answer:
            answer.read()


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
