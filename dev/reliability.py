"""A load, a schedule of faults, and a ledger that must balance.

The app in its host (two workers as processes of their own, or one for each function group), storage and the simulator
stand as they do for the demo. Notifications come in waves, by Graph's own rules for retries. Each wave meets one fault;
once that is over, the run waits until the wave is all there, and so learns how long recovery takes. Forged and
undecryptable items travel among the good ones.
"""

import asyncio
import itertools
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import psutil
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient

from dev import traffic
from dev.azurite import ACCOUNT, ACCOUNT_KEY, Ports
from dev.consumer import Arrival, Consumer
from dev.host.process import has_groups
from dev.ports import HOST, held_port
from dev.queue_proxy import Fault as StorageFault
from dev.queue_proxy import QueueProxy
from dev.simulator import Fault, Kind
from dev.simulator.crypto import KeyCertificate, Recipient, encrypt
from dev.simulator.delivery import Notification
from dev.simulator.tokens import Forgery, forge
from dev.stack import Stack, StackPorts
from dev.tcp_proxy import TcpProxy
from shared.http_client import HttpClient
from shared.notifications.event_writer import DATA_CONTAINER
from shared.notifications.quarantine import QUARANTINE_CONTAINER, Quarantine
from shared.notifications.raw_messages import CLAIM_CHECKS_CONTAINER, RawMessages
from shared.settings import StorageSettings
from shared.storage.account import StorageAccount
from shared.storage.blobs import AzureBlobs
from shared.storage.queues import AzureQueues
from shared.values.resources import EMERGENCY_CALL_EVENTS, EMERGENCY_QUEUE, RAW_QUEUE

_ON_EXPRESS_WAY: Final = "host killed on an emergency's express way"
_ON_USUAL_WAY: Final = "host killed on an emergency's usual way"
FAULTS: Final = (
    "host killed",
    _ON_EXPRESS_WAY,
    _ON_USUAL_WAY,
    "host stopped while a get is under way",
    "rolling deployment",
    "worker killed",
    "worker killed three times",
    "storage killed",
    "storage restarted",
    "storage slow",
    "storage unreachable",
    "storage unreachable until the host ends",
    "Key Vault answers 503",
    "Key Vault answers 429",
    "signing keys unreachable",
    "certificate rotated",
    "signing keys rotated",
    "duplicated deliveries",
    "reordered deliveries",
)

_AUTOSAVE_SECONDS: Final = 6.0  # Azurite saves its tables every five
_POLL_SECONDS: Final = 0.02
_BLOBS_SECONDS: Final = 0.5  # between two looks at a container, each of which reads all its blobs
_CHUNK: Final = 200  # notifications sent at a time
_LAST_WORDS: Final = 4000  # characters of the host's log that tell why something did not come
_ROLLING_SECONDS: Final = 60.0  # that both hosts of a rolling deployment run, at a time scale of 1
_TOO_MANY: Final = 5  # emergencies in one POST for the express way


@dataclass(frozen=True)
class Plan:
    """What a run does.

    `faults` names them in their order, one for each wave; `time_scale` shortens Graph's waits between retries; `seed`
    decides everything random; `visibility_timeout` is host.json's: the platform's own wait before its next try;
    `lease_seconds` is what the ten minutes are shortened to for which the host leases a message, and
    `emergency_lease_seconds` the same where a host is killed that handles an emergency: longer than what that costs on
    the express way; `idle_seconds` pass before the consumer looks again at a queue that was empty.
    """

    notifications: int
    faults: tuple[str, ...]
    seed: int = 1
    time_scale: float = 1.0
    outage_seconds: float = 5.0
    visibility_timeout: str = "00:00:30"
    lease_seconds: int = 2
    emergency_lease_seconds: int = 60
    idle_seconds: float = 0.05
    patience: float = 240.0  # seconds to wait for anything
    forged: int = 20
    undecryptable: int = 20


@dataclass
class Report:
    """What came of it; times in seconds."""

    notifications: int = 0
    events: int = 0
    deliveries_repeated: int = 0
    lost: int = 0
    forged_sent: int = 0
    forged_accepted: int = 0
    duplicates_by_id: int = 0
    second_ids_of_basic_items: int = 0
    undecryptable_sent: int = 0
    quarantined: int = 0
    quarantine_exact: bool = False
    claims_swept: int = 0
    claims_left: int = 0
    data_blobs_without_event: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    recovery: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    emergency_delays: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by fault, from POST
    repeated: Counter[str] = field(default_factory=Counter)  # of `deliveries_repeated`, by the fault of their wave
    posts: int = 0
    posts_failed: int = 0
    seconds: float = 0.0

    @property
    def balances(self) -> bool:
        """Whether every promise was kept."""
        return (
            self.lost == self.forged_accepted == self.duplicates_by_id == 0
            and self.quarantine_exact
            and self.claims_left == self.data_blobs_without_event == 0
        )


class Ledger:
    """What was sent, and what has arrived of it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[str] = set()
        self.sent: set[str] = set()
        self.basic: set[str] = set()  # those that carry no id of Graph's
        self.ids: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self.arrivals = 0
        self.datarefs: set[str] = set()

    def expect(self, notifications: list[Notification]) -> None:
        """Enter what is about to be sent."""
        with self._lock:
            for one in notifications:
                content = _canonical(one.plaintext or one.item["resourceData"])
                self.sent.add(content)
                self._waiting.add(content)
                if not one.rich and "id" not in one.item:
                    self.basic.add(content)

    def arrive(self, arrival: Arrival) -> None:
        """Enter an event that has come."""
        content = _canonical(json.loads(arrival.data))
        with self._lock:
            self.arrivals += 1
            self.ids[content].add(arrival.event.key)
            self._waiting.discard(content)
            if arrival.event.dataref is not None:
                self.datarefs.add(arrival.event.dataref.rpartition(f"/{DATA_CONTAINER}/")[2])

    @property
    def repeated(self) -> int:
        """How many events came again under an id that had come before."""
        with self._lock:
            return self.arrivals - sum(map(len, self.ids.values()))

    @property
    def missing(self) -> int:
        """How many have not come yet."""
        with self._lock:
            return len(self._waiting)


def _canonical(data: Mapping[str, Any]) -> str:
    return json.dumps(data, sort_keys=True)


class Run:
    """One run, from start to report."""

    def __init__(
        self,
        stack: Stack,
        plan: Plan,
        ledger: Ledger,
        note: Callable[[str], None],
        *,
        proxies: list[TcpProxy],
        front: TcpProxy,
        proxy: QueueProxy,
    ) -> None:
        self._stack = stack
        self._proxies = proxies
        self._front = front
        self._proxy = proxy
        self._plan = plan
        self._ledger = ledger
        self._note = note
        self._random = random.Random(plan.seed)
        self._happenings = traffic.a_day()
        self._bad: Counter[str] = Counter()  # subscription ids of what is to be quarantined
        self._report = Report()
        vault = self._key_vault
        self._faults: dict[str, Callable[[], None]] = dict(
            zip(
                FAULTS,
                (
                    self._kill_host,
                    lambda: self._kill_host_at(_ON_EXPRESS_WAY, emergencies=1),
                    lambda: self._kill_host_at(_ON_USUAL_WAY, emergencies=_TOO_MANY),
                    self._stop_host_in_mid_get,
                    self._roll_out,
                    self._kill_worker,
                    self._kill_workers_until_the_host_ends,
                    self._kill_storage,
                    self._restart_storage,
                    self._slow_storage,
                    self._unreachable_storage,
                    self._unreachable_storage_until_the_host_ends,
                    lambda: vault(503),
                    lambda: vault(429),
                    self._signing_keys_unreachable,
                    self._rotate_certificate,
                    self._rotate_signing_keys,
                    self._duplicate,
                    self._reorder,
                ),
                strict=True,
            )
        )

    @classmethod
    @contextmanager
    def start(cls, directory: Path, plan: Plan, note: Callable[[str], None]) -> "Iterator[Run]":
        """Bring everything up; `note` is told what goes on."""
        with (
            held_port() as host_port,
            held_port() as blob_port,
            held_port() as queue_port,
            TcpProxy.to(host_port) as front,
            TcpProxy.to(blob_port) as blob,
            TcpProxy.to(queue_port) as queue,
            QueueProxy.before(f"http://{HOST}:{queue.port}/{ACCOUNT}", lease_seconds=plan.lease_seconds) as proxy,
        ):
            # The host, its triggers and the app reach storage over proxies that can be slow or cut, and Graph reaches
            # the app over one that may lead to another host.
            settings = {
                "NOTIFICATION_URL": f"http://{HOST}:{front.port}/api/notifications",
                "AzureWebJobsStorage": (
                    f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
                    f"BlobEndpoint=http://{HOST}:{blob.port}/{ACCOUNT};"
                    f"QueueEndpoint={proxy.url};"
                ),
                # A dozen groups are processes enough.
                "FUNCTIONS_WORKER_PROCESS_COUNT": "1" if has_groups() else "2",
                "AzureFunctionsJobHost__extensions__queues__visibilityTimeout": plan.visibility_timeout,
            }
            ledger = Ledger()
            with (
                Stack.start(
                    directory,
                    subscriptions=traffic.SUBSCRIPTIONS,
                    settings=settings,
                    ports=StackPorts(host=host_port, storage=Ports(blob_port, queue_port)),
                ) as stack,
                Consumer(
                    stack.azurite.connection_string, ledger.arrive, hidden_seconds=5, idle_seconds=plan.idle_seconds
                ),
            ):
                stack.sim.graph.delivery.time_scale = plan.time_scale
                run = cls(stack, plan, ledger, note, proxies=[blob, queue], front=front, proxy=proxy)
                run._renew()
                yield run

    def execute(self) -> Report:
        """Send all waves, meet all faults, wait for everything, and draw up the balance."""
        started = time.monotonic()
        plan = self._plan
        waves = len(plan.faults)
        for number, name in enumerate(plan.faults):
            # Graph may or may not give its notifications ids; what is promised holds for both.
            self._stack.sim.graph.settings.notification_ids = number % 2 == 0
            count = plan.notifications * (number + 1) // waves - plan.notifications * number // waves
            self._wave(name, count, _share(plan.forged, number, waves), _share(plan.undecryptable, number, waves))
        self._await(self._is_quarantined, "quarantine", pause=_BLOBS_SECONDS)
        self._report.claims_swept = self._sweep_claims()
        self._await(lambda: not self._blobs(CLAIM_CHECKS_CONTAINER), "the last claim checks", pause=_BLOBS_SECONDS)
        self._balance()
        self._report.seconds = time.monotonic() - started
        return self._report

    def _wave(self, name: str, count: int, forged: int, undecryptable: int) -> None:
        repeated_before = self._ledger.repeated
        for _ in range(forged):
            self._send_forged()
        self._send([], self._spoil(undecryptable))
        self._load(count // 2)
        waiting = self._ledger.missing
        self._await(lambda: self._ledger.missing < max(waiting, 1), "a sign of life")
        self._faults[name]()
        ended = time.monotonic()
        self._load(count - count // 2)
        self._await(lambda: not self._ledger.missing, f"what came before and after: {name}")
        self._stack.sim.graph.drain(self._plan.patience)
        recovery = time.monotonic() - ended
        self._report.faults[name] += 1
        self._report.recovery[name].append(recovery)
        self._report.repeated[name] += self._ledger.repeated - repeated_before
        self._settle()
        self._note(f"{name}: {count} notifications, all there {recovery:.1f} s after its end")

    # --- what is sent

    def _prepare(self, count: int) -> list[Notification]:
        prepared: list[Notification] = []
        while len(prepared) < count:
            resource, kind, options = next(self._happenings)
            if kind is Kind.PRESENCE:
                continue
            if self._random.random() < 0.005:  # too large for a queue message: by claim check, and data in a blob
                options = replace(options, participants=300)
            prepared += self._stack.sim.graph.prepare(resource, kind, options)
        return prepared

    def _load(self, count: int) -> None:
        """Send so many, no faster than they arrive: this is about faults; bench says how fast it can be."""
        for start in range(0, count, _CHUNK):
            self._await(lambda: self._ledger.missing < 2 * _CHUNK, "the load before")
            self._send(self._prepare(min(_CHUNK, count - start)), [])

    def _send(self, good: list[Notification], bad: list[Notification]) -> None:
        self._ledger.expect(good)
        together = good + bad
        self._random.shuffle(together)
        self._report.notifications += len(good)
        self._stack.sim.graph.send(together)

    def _spoil(self, count: int) -> list[Notification]:
        """Authentic items that nobody can decrypt."""
        spoilt: list[Notification] = []
        ways = itertools.cycle(("key", "signature", "certificate"))
        while len(spoilt) < count:
            (one,) = self._stack.sim.graph.prepare(traffic.CALL, Kind.CALL_STARTED, traffic.unique(traffic.CALL))
            content = dict(one.item["encryptedContent"])
            match next(ways):
                case "key":
                    content = encrypt(b"{}", Recipient.of(_stranger(), content["encryptionCertificateId"]))
                case "signature":
                    content["dataSignature"] = "AAAA" + content["dataSignature"][4:]
                case _:
                    content["encryptionCertificateId"] = f"switchboard/{self._random.getrandbits(128):032x}"
            spoilt.append(replace(one, item=dict(one.item) | {"encryptedContent": content}))
            self._bad[_canonical(content)] += 1
        self._report.undecryptable_sent += len(spoilt)
        return spoilt

    def _send_forged(self) -> None:
        """A collection that Graph never made; sent again until it is answered, as a patient forger would."""
        sim = self._stack.sim
        (one,) = sim.graph.prepare(traffic.CALL, Kind.CALL_STARTED, traffic.unique(traffic.CALL))
        way = self._random.choice((*(f for f in Forgery if f is not Forgery.UNKNOWN_KID), "client state", "no token"))
        item = dict(one.item)
        body = json.loads(sim.graph.collection([one]))
        if way == "client state":
            item["clientState"] = "guessed"
        elif way == "no token":
            body["validationTokens"] = []
        elif isinstance(way, Forgery):
            body["validationTokens"] = [
                forge(
                    way,
                    sim.entra.signing_key,
                    app_id=sim.app_id,
                    tenant_id=sim.tenants[0],
                    now=sim.clock.now(),
                )
            ]
        body["value"] = [item]
        text = json.dumps(body).encode()
        self._await(lambda: sim.graph.post(one.url, text).status == 202, "an answer to a forger")
        self._report.forged_sent += 1

    # --- what goes wrong

    def _kill_host(self) -> None:
        self._stack.kill_host()
        self._stack.restart_host()

    def _kill_host_at(self, name: str, *, emergencies: int) -> None:
        """Kill the host while an emergency's event is on its way to storage, and see how late it comes."""
        self._await(lambda: not self._ledger.missing, "what came before")
        for _ in range(4):  # so that every worker has the key, and goes the express way
            self._send_emergencies(1)
            self._await(lambda: not self._ledger.missing, "an emergency")
        self._proxy.lease_seconds = self._plan.emergency_lease_seconds
        self._proxy.faults = [StorageFault(operation="put", queue=EMERGENCY_CALL_EVENTS.events_queue, action="hold")]
        if emergencies < _TOO_MANY:  # nothing but the express way can bring it so far
            self._proxy.faults.append(StorageFault(operation="get", queue=EMERGENCY_QUEUE))
        held = self._proxy.held
        began = time.monotonic()
        sent = self._send_emergencies(emergencies)
        self._await(lambda: self._proxy.held > held, "an event on its way")
        self._await(lambda: self._is_accepted(sent), "Graph's answer")  # what comes later comes from the raw message
        answered = time.monotonic() - began
        self._stack.kill_host()
        self._proxy.faults = []
        self._stack.restart_host()
        self._await(lambda: not self._ledger.missing, "the emergency")
        self._note(f"{name}: Graph had its answer {answered:.1f} s after it began to send")
        self._report.emergency_delays[name].append(time.monotonic() - began)
        self._proxy.lease_seconds = self._plan.lease_seconds

    def _stop_host_in_mid_get(self) -> None:
        """Storage has leased messages to a host that is told to end before it has the answer."""
        held = self._proxy.held
        self._proxy.faults = [StorageFault(operation="get", queue=RAW_QUEUE, action="withhold")]
        self._send_some()
        self._await(lambda: self._proxy.held > held, "a get under way")
        self._stack.host.terminate()
        self._proxy.faults = []
        self._stack.host.start()

    def _roll_out(self) -> None:
        """A second host starts, both work side by side, and the first one ends; and back again."""
        first = self._front.target
        with self._stack.second_host() as second:
            targets = itertools.cycle((second.port, first))
            over = time.monotonic() + _ROLLING_SECONDS * self._plan.time_scale
            while time.monotonic() < over:
                self._front.target = next(targets)
                self._send(self._prepare(10), [])
                self._await(lambda: self._ledger.missing < _CHUNK, "the load before")
            self._front.target = second.port
            self._stack.host.terminate()
            self._send_some()
            self._stack.host.start()
            self._front.target = first

    def _kill_worker(self) -> None:
        _kill(_workers(self._stack.host.pid)[-1:])

    def _kill_workers_until_the_host_ends(self) -> None:
        """What takes a dead worker's place dies too, until the host gives up and is started again."""
        host = self._stack.host
        ends, pid = host.ends, host.pid
        spared = {worker.pid for worker in _workers(pid)[:-1]} if has_groups() else set()

        def has_ended() -> bool:
            _kill(worker for worker in _workers(pid) if worker.pid not in spared)
            return host.ends > ends

        self._await(has_ended, "the host's end")

    def _kill_storage(self) -> None:
        # Real storage has written down what it confirmed. The emulator does so every few seconds, hence the wait.
        self._cut()
        time.sleep(_AUTOSAVE_SECONDS)
        self._stack.kill_azurite()
        self._stack.restart_azurite()
        self._mend()

    def _restart_storage(self) -> None:
        self._stack.restart_azurite()

    def _slow_storage(self) -> None:
        for proxy in self._proxies:
            proxy.delay = 1.0
        time.sleep(self._plan.outage_seconds)
        self._mend()

    def _unreachable_storage(self) -> None:
        self._cut()
        self._send_some()
        time.sleep(self._plan.outage_seconds)
        self._mend()

    def _unreachable_storage_until_the_host_ends(self) -> None:
        """The host gives up after six tries at storage, and the stack starts it again, as Azure does.

        Storage is back by then: the real host is not ready before it is.
        """
        ends = self._stack.host.ends
        self._cut()
        self._send_some()
        self._await(lambda: self._stack.host.ends > ends, "the host's end")
        self._mend()

    def _key_vault(self, status: int) -> None:
        """Key Vault goes away while a certificate is new, so that its key is in nobody's memory."""
        self._stack.sim.vault.rotate_certificate()
        self._renew()
        self._stack.sim.faults.add(Fault("vault", status=status), times=None)
        self._stack.kill_host()
        self._stack.restart_host()
        self._send_some()
        time.sleep(self._plan.outage_seconds)
        self._stack.sim.faults.clear()

    def _signing_keys_unreachable(self) -> None:
        self._stack.sim.entra.rotate_keys()
        self._stack.sim.faults.add(Fault("login", hang_up="before"), times=None)
        self._stack.kill_host()
        self._stack.restart_host()
        self._send_some()
        time.sleep(self._plan.outage_seconds)
        self._stack.sim.faults.clear()

    def _rotate_certificate(self) -> None:
        self._stack.sim.vault.rotate_certificate()
        self._renew()

    def _rotate_signing_keys(self) -> None:
        self._stack.sim.entra.rotate_keys()

    def _duplicate(self) -> None:
        delivery = self._stack.sim.graph.delivery
        delivery.copies = 2
        self._send_some()
        delivery.copies = 1

    def _reorder(self) -> None:
        delivery = self._stack.sim.graph.delivery
        delivery.shuffle, delivery.seed = True, self._random.getrandbits(32)
        self._send_some()
        delivery.shuffle = False

    def _send_some(self) -> None:
        self._send(self._prepare(40), [])

    def _send_emergencies(self, count: int) -> list[Notification]:
        """Send so many in one POST, and return them."""
        graph, resource = self._stack.sim.graph, traffic.EMERGENCY
        happenings = (traffic.unique(resource) for _ in range(count))
        sent = [one for each in happenings for one in graph.prepare(resource, Kind.EMERGENCY_NESTED, each)]
        self._send(sent, [])
        return sent

    def _is_accepted(self, sent: list[Notification]) -> bool:
        keys = {one.key for one in sent}
        return all(
            delivery.state == "delivered"
            for delivery in self._stack.sim.graph.deliveries
            if any(one.key in keys for one in delivery.notifications)
        )

    def _cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    def _mend(self) -> None:
        for proxy in self._proxies:
            proxy.mend()

    # --- what is waited for, and what is found

    def _renew(self) -> None:
        """Fire the renewal timer, and wait until every subscription names the current certificate."""
        graph = self._stack.sim.graph
        wanted = f"{self._stack.sim.vault.certificate_name}/{self._stack.sim.vault.certificate().version}"

        def is_current() -> bool:
            found = graph.subscriptions
            return len(found) == traffic.SUBSCRIPTION_COUNT and all(
                one.addressee.recipient is None or one.addressee.recipient.certificate_id == wanted for one in found
            )

        def fire() -> bool:
            self._stack.host.start_function("renew_subscriptions")
            deadline = time.monotonic() + 5
            while not is_current() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            return is_current()

        self._await(fire, "the subscriptions")

    def _await(self, ready: Callable[[], bool], what: str, *, pause: float = _POLL_SECONDS) -> None:
        deadline = time.monotonic() + self._plan.patience
        while not ready():
            if time.monotonic() > deadline:
                said = self._stack.host.logs[-_LAST_WORDS:]
                raise TimeoutError(f"waited for {what}, in vain: {self._ledger.missing} missing; the host said\n{said}")
            time.sleep(pause)

    def _settle(self) -> None:
        """Count the POSTs of the wave, and forget their bodies."""
        for one in self._stack.sim.graph.deliveries:
            self._report.posts += len(one.attempts)
            self._report.posts_failed += sum(attempt.status != 202 for attempt in one.attempts)
        self._stack.sim.graph.forget_deliveries()
        self._stack.sim.faults.forget_requests()

    def _is_quarantined(self) -> bool:
        return len(self._blobs(QUARANTINE_CONTAINER)) >= len(self._bad)

    def _sweep_claims(self) -> int:
        """What the app's own timer does about claim checks that a crash has orphaned, three days later."""

        def later() -> datetime:
            return datetime.now(UTC) + timedelta(days=3)

        async def sweep_later() -> int:
            with closing(HttpClient()) as http:
                account = StorageAccount(StorageSettings(self._stack.azurite.connection_string, None, None, None), http)
                blobs = AzureBlobs(account)
                return await RawMessages(AzureQueues(account), blobs, Quarantine(blobs, later), later).sweep()

        return asyncio.run(sweep_later())

    def _balance(self) -> None:
        report, ledger = self._report, self._ledger
        arrived = set(ledger.ids)
        report.events = len(arrived)
        report.lost = len(ledger.sent - arrived)
        report.forged_accepted = len(arrived - ledger.sent)
        again = {content for content, ids in ledger.ids.items() if len(ids) > 1}
        report.duplicates_by_id = len(again - ledger.basic)
        report.second_ids_of_basic_items = len(again & ledger.basic)
        report.deliveries_repeated = ledger.repeated
        parked: Counter[str] = Counter()
        for data in self._blobs(QUARANTINE_CONTAINER).values():
            (item,) = json.loads(data)["envelope"]["notifications"]
            parked[_canonical(item["encryptedContent"])] += 1
        report.quarantined = parked.total()
        report.quarantine_exact = set(parked) == set(self._bad)
        report.claims_left = len(self._blobs(CLAIM_CHECKS_CONTAINER))
        report.data_blobs_without_event = len(set(self._blobs(DATA_CONTAINER)) - ledger.datarefs)

    def _blobs(self, container: str) -> dict[str, bytes]:
        with ContainerClient.from_connection_string(self._stack.azurite.connection_string, container) as client:
            try:
                return {blob.name: client.download_blob(blob.name).readall() for blob in client.list_blobs()}
            except ResourceNotFoundError:
                return {}


def _workers(host: int) -> list[psutil.Process]:
    """The processes in which a host's functions run, the busiest last; the host may be gone."""
    found: list[tuple[float, psutil.Process]] = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(host).children(recursive=True):
            if process.name().startswith("python"):
                times = process.cpu_times()
                found.append((times.user + times.system, process))
    return [process for _, process in sorted(found, key=lambda each: each[0])]


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@cache
def _stranger() -> KeyCertificate:
    return KeyCertificate.generate()


def _share(total: int, number: int, parts: int) -> int:
    return total * (number + 1) // parts - total * number // parts
