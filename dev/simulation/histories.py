"""A few notifications from POST to event, and what becomes of them if one call or two go wrong on the way.

A history is a scenario and one or two faults, each at a call to storage, Key Vault or Graph, counted from the POST on:
the call fails, or is made and its answer is lost, is made twice, or the process dies before or after it. Time is
virtual and goes on until nothing waits any more: the platform's leases and tries, the poison queues, the drain and the
sweep, Graph's own repetitions, and an operator who replays what lies in quarantine.
"""

import asyncio
import json
import logging
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from dev.simulation.history_scenarios import CERTIFICATE_ID, CLIENT_STATE, TENANT, Fault, Mode, Scenario, scenarios
from dev.simulation.keys import PAIR, SIGNING_KEY, SigningKeysModel
from dev.simulation.storage_model import Crash, Message, StorageModel
from dev.simulation.virtual_time import InlineLoop
from dev.simulator.tokens import validation_claims
from shared.call_records.fetch import CallRecordFetch
from shared.notifications.collection import ClientStates
from shared.notifications.decrypt import Decryptor
from shared.notifications.event_writer import EventWriter
from shared.notifications.express import Express
from shared.notifications.paced_log import PacedLog
from shared.notifications.poison import POISON_QUEUES, PoisonDrain, PoisonStates
from shared.notifications.raw_messages import CLAIM_CHECKS_CONTAINER, HANDLED_CONTAINER, handled_name
from shared.notifications.receive import Receiver
from shared.notifications.replay import Replay, Selection
from shared.notifications.tokens import PUBLIC_CLOUD
from shared.storage.ports import Receipt
from shared.subscriptions.lifecycle import Handled, LifecycleMessages
from shared.values.errors import MalformedInputError, SwitchboardError, UnavailableError, UnknownCertificateError
from shared.values.message_text import decode
from shared.values.resources import CALL_RECORDS_QUEUE, LIFECYCLE_QUEUE, RAW_QUEUES

APP: Final = "7f4f3c3a-6a1e-4d0e-9a53-0d4f7a3c9b11"
START: Final = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)

_LEASE: Final = timedelta(minutes=10)
_RETRY: Final = timedelta(seconds=30)  # visibilityTimeout in host.json
_TRIES: Final = 5  # maxDequeueCount in host.json
_POISON_LIVES: Final = timedelta(days=7)
_DRAIN: Final = timedelta(minutes=1)
_PAUSES_OF_GRAPH: Final = [timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800, 3600)]
_LONGEST: Final = timedelta(days=14)


@dataclass
class History:
    """One life of a scenario. `violations` says which promises it broke."""

    scenario: Scenario
    faults: Sequence[Fault] = ()
    storage: StorageModel = field(default_factory=lambda: StorageModel(now=START))
    calls: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    posts: list[tuple[datetime, int, str]] = field(default_factory=list)  # when, which try, and its items
    handled: set[str] = field(default_factory=set)  # lifecycle notifications
    accepted: bool = False
    _dead: bool = False

    async def live(self) -> None:
        """Live it to its end, and judge it."""
        self.storage.fault = self._operate
        items = ",".join(item.body for item in self.scenario.items)
        token = SIGNING_KEY.sign(validation_claims(app_id=APP, tenant_id=TENANT, now=START))
        body = f'{{"value":[{items}],"validationTokens":["{token}"]}}'
        self.posts = [(self.storage.now, 0, body)]
        if self.scenario.text is not None:
            self.storage.put(RAW_QUEUES[0], self.scenario.text)
        self._drained = self._swept = self.storage.now
        while self.storage.now - START < _LONGEST:
            if not await self._next():
                break
        else:
            self.violations.append("it never ends")
        self._judge()

    # --- calls --------------------------------------------------------------------------------------------------------

    def _operate(self, what: str, operation: str, apply: Callable[[], Any]) -> Any:
        if self._dead:
            raise Crash
        self.calls.append(f"{operation} {what}")
        mode = next((fault.mode for fault in self.faults if fault.at == len(self.calls)), None)
        if mode is Mode.DIES_BEFORE or mode is Mode.DIES_AFTER:
            if mode is Mode.DIES_AFTER:
                with suppress(SwitchboardError):
                    apply()
            self._dead = True
            raise Crash
        if mode is Mode.FAILS or self._refuses(what, operation):
            raise UnavailableError(what, reason="storage-503")
        if mode is Mode.TWICE:
            apply()
        answer = apply()
        if mode is Mode.ANSWER_LOST:
            raise UnavailableError(what, reason="storage-no-answer")
        return answer

    def _refuses(self, what: str, operation: str) -> bool:
        since, scenario = (self.storage.now - START).total_seconds(), self.scenario
        if what == CLAIM_CHECKS_CONTAINER and operation == "get blob":
            return since < scenario.claims_seconds
        return operation == "put" and what in RAW_QUEUES and 0 < since < scenario.put_back_seconds

    async def private_key(self, certificate_id: str) -> RSAPrivateKey:
        def apply() -> RSAPrivateKey:
            if certificate_id != CERTIFICATE_ID:
                raise UnknownCertificateError
            if (self.storage.now - START).total_seconds() < self.scenario.vault_seconds:
                raise UnavailableError("Key Vault", reason="key-vault-503")
            return PAIR.private_key

        key: RSAPrivateKey = self._operate("vault", "get", apply)
        return key

    async def record(self, _tenant_id: str, record_id: str) -> bytes:
        def apply() -> bytes:
            if (self.storage.now - START).total_seconds() < self.scenario.records_seconds:
                raise UnavailableError("the call record", reason="call-record-not-found")
            return json.dumps({"id": record_id, "version": 1}).encode()

        found: bytes = self._operate("graph", "get record", apply)
        return found

    async def handle(self, item: Mapping[str, Any]) -> Handled:
        """A lifecycle notification."""
        self._operate("graph", "renew", lambda: self.handled.add(item["subscriptionId"]))
        return Handled.RESYNCED

    # --- the app ------------------------------------------------------------------------------------------------------

    def _decryptor(self, *, fetch: bool = False) -> Decryptor:
        return Decryptor(
            raw_messages=self.storage.raw_messages,
            writer=EventWriter(self.storage.queues, self.storage.blobs, "none", self.scenario.batched),
            private_keys=self,
            enrichment=CallRecordFetch(self, {TENANT}) if fetch else None,
        )

    def _receiver(self) -> Receiver:
        raw_messages, now = self.storage.raw_messages, lambda: self.storage.now
        return Receiver(
            raw_messages=raw_messages,
            signing_keys=SigningKeysModel(),
            client_states=ClientStates((CLIENT_STATE,)),
            app_ids={APP},
            tenant_ids={TENANT},
            issuers=PUBLIC_CLOUD,
            max_body_bytes=10**6,
            now=now,
            log=PacedLog(logging.getLogger("shared.notifications.receive"), now),
            call_records_queue=CALL_RECORDS_QUEUE,
            express=Express(
                raw_messages=raw_messages,
                decryptor=self._decryptor,
                expected=self._no_emergency_expected,
            ),
        )

    async def _no_emergency_expected(self) -> bool:
        return False

    # --- time ---------------------------------------------------------------------------------------------------------

    async def _next(self) -> bool:
        """Let the next thing happen; False: nothing will."""
        due: list[tuple[datetime, int, Callable[[], Any]]] = []
        if self.posts:
            due.append((self.posts[0][0], 0, self._post))
        due += [
            (message.visible, 1, partial(self._trigger, queue, message))
            for queue in RAW_QUEUES
            for message in self.storage.messages[queue]
        ]
        if any(self.storage.messages[poison] for poison in POISON_QUEUES):
            due.append((self._drained + _DRAIN, 2, self._drain))
        if self.storage.containers[CLAIM_CHECKS_CONTAINER]:
            due.append((self._swept + timedelta(days=1), 3, self._sweep))
        if not due and any(one["reason"] not in _FOR_GOOD for one in self.storage.parked()):
            due.append((max(self.storage.now + timedelta(hours=1), START + timedelta(hours=4)), 4, self._replay))
        if not due:
            return False
        at, _, act = min(due, key=lambda one: one[:2])
        self.storage.now = max(self.storage.now, at) + timedelta(milliseconds=1)
        self._dead = False
        await act()
        # What a process has begun goes on in it; a dead one does nothing.
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        if "claim-missing" in (one["reason"] for one in self.storage.parked()):
            self.violations.append("a claim check is missing")
            return False
        return True

    async def _post(self) -> None:
        _, number, body = self.posts.pop(0)
        status = 503
        with suppress(Crash):
            status = (await self._receiver().receive(body.encode(), None)).status
            with suppress(UnavailableError):
                self._operate("graph", "answer", lambda: None)
                self.accepted |= status == 202
                status = status if status != 202 else 200
        if status != 200 and number < len(_PAUSES_OF_GRAPH):
            self.posts.append((self.storage.now + _PAUSES_OF_GRAPH[number], number + 1, body))

    async def _trigger(self, queue: str, message: Message) -> None:
        """What the host does with one message ("Azure Queue storage trigger")."""
        message.visible = self.storage.now + _LEASE
        message.dequeued += 1
        message.receipt = self.storage.number()
        receipt = Receipt(queue, message.id, message.receipt)
        with suppress(Crash, UnavailableError):
            try:
                text = decode(message.text)
            except MalformedInputError:
                await self._to_poison(receipt, message)
                return
            if message.dequeued > _TRIES:
                await self._to_poison(receipt, message)
                return
            try:
                await self._function(queue, text, message.dequeued)
            except UnavailableError:
                if message.dequeued >= _TRIES:
                    await self._to_poison(receipt, message)
                else:
                    message.visible = self.storage.now + _RETRY
            else:
                await self.storage.queues.delete(receipt)

    async def _to_poison(self, receipt: Receipt, message: Message) -> None:
        poison = f"{receipt.queue}-poison"
        self._operate(poison, "put", lambda: self.storage.put(poison, message.text, lives=_POISON_LIVES))
        await self.storage.queues.delete(receipt)

    async def _function(self, queue: str, text: str, attempts: int) -> None:
        if queue == LIFECYCLE_QUEUE:
            await LifecycleMessages(self.storage.raw_messages, self).handle(text, queue=queue, attempts=attempts)
        else:
            await self._decryptor(fetch=queue == CALL_RECORDS_QUEUE).handle(text, queue=queue, attempts=attempts)

    async def _drain(self) -> None:
        self._drained = self.storage.now
        drain = PoisonDrain(self.storage.raw_messages, PoisonStates(self.storage.blobs))
        with suppress(Crash, UnavailableError):
            await drain.run(self.storage.now + timedelta(minutes=5))

    async def _sweep(self) -> None:
        self._swept = self.storage.now
        with suppress(Crash, UnavailableError):
            await self.storage.raw_messages.sweep()

    async def _replay(self) -> None:
        for one in self.storage.parked():
            claim = one.get("envelope", {}).get("claim")
            if claim is not None and handled_name(claim) in self.storage.containers[HANDLED_CONTAINER]:
                self.violations.append("the ticket of what is done with is in quarantine")
        replay = Replay(self.storage.raw_messages)
        with suppress(Crash, UnavailableError):
            async for entry in replay.entries(Selection(), self.storage.now):
                if entry.reason not in _FOR_GOOD:
                    await replay.replay(entry.name)

    # --- judgement ----------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        ids: defaultdict[str, set[str]] = defaultdict(set)
        for event, data in self.storage.events():
            ids[data["id"]].add(event.id)
        entries = Counter(map(_name, self.storage.parked()))
        for item in self.scenario.items:
            done = item.name in (self.handled if item.lifecycle else ids)
            if self.accepted and item.deliverable and not done:
                self.violations.append(f"{item.name} is lost")
            if self.accepted and not item.deliverable and entries[item.name] != 1:
                self.violations.append(f"{item.name} has {entries[item.name]} entries in quarantine")
            if item.deliverable and entries[item.name]:
                self.violations.append(f"{item.name} is in quarantine, and delivered")
            if item.has_id and len(ids[item.name]) > 1:
                self.violations.append(f"{item.name} has events under {len(ids[item.name])} ids")
        if self.scenario.text is not None and entries["?"] != 1:
            self.violations.append("the text is not in quarantine")
        if claims := self.storage.names(CLAIM_CHECKS_CONTAINER):
            self.violations.append(f"claim checks are left: {claims}")


_FOR_GOOD: Final = ("unknown-certificate", "message-unreadable")


def _name(parked: Mapping[str, Any]) -> str:
    """The item that an entry is of, by what was planted in it; "?" where it does not show."""
    for raw in parked.get("envelope", {}).get("notifications", ()):
        return _NAMES.get(json.dumps(raw, sort_keys=True), "?")
    return "?"


_NAMES: Final[dict[str, str]] = {}


def lived(scenario: Scenario, *faults: Fault) -> History:
    """A history, from beginning to end."""
    for item in scenario.items:
        _NAMES[json.dumps(json.loads(item.body), sort_keys=True)] = item.name
    history = History(scenario, faults)
    loop = InlineLoop()
    try:
        loop.run_until_complete(history.live())
    finally:
        loop.close()
    return history


@dataclass
class Tried:
    """Histories tried, and the promises that some broke."""

    histories: int = 0
    violations: list[str] = field(default_factory=list)


def try_some(count: int, seed: int) -> Tried:
    """Draw histories of every scenario: one fault in two of three, two in the others."""
    draw, tried = random.Random(seed), Tried()
    known = [(scenario, len(lived(scenario).calls)) for scenario in scenarios()]
    for number in range(count):
        scenario, calls = known[number % len(known)]
        faults = tuple(
            Fault(draw.randint(1, calls + 4), draw.choice(list(Mode))) for _ in range(1 if number % 3 else 2)
        )
        history = lived(scenario, *faults)
        tried.histories += 1
        if history.violations:
            what = [f"{fault.mode} (call {fault.at}: {_call(history, fault.at)})" for fault in faults]
            names = ", ".join(item.name for item in scenario.items)
            tried.violations.append(f"{number}: [{names}] {'; '.join(what)}: {'; '.join(history.violations)}")
    return tried


def _call(history: History, at: int) -> str:
    return history.calls[at - 1] if at <= len(history.calls) else "none"


if __name__ == "__main__":
    found = try_some(int(sys.argv[1]), int(sys.argv[2]))
    print(f"{found.histories} histories, {len(found.violations)} with violations")
    print("\n".join(found.violations[:40]))
