"""An emergency opened where it is received: at once if all goes well, never later than the usual way, never lost."""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from dev.simulation.keys import SigningKeysModel
from dev.simulation.storage_model import START, Crash, QueuesModel, StorageModel
from dev.simulation.virtual_time import InlineLoop
from dev.simulator import Kind, Options, build
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import Recipient
from dev.simulator.tokens import validation_claims
from shared.notifications.decrypt import Decryptor
from shared.notifications.event_writer import EventWriter
from shared.notifications.express import Express
from shared.notifications.quarantine import QUARANTINE_CONTAINER, Quarantine
from shared.notifications.raw_messages import CLAIM_CHECKS_CONTAINER, RawMessages
from shared.notifications.receive import Receiver
from shared.storage.ports import Receipt
from shared.telemetry import ExpressOutcome, Telemetry
from shared.values.errors import UnavailableError, UnknownCertificateError
from shared.values.events.event_types import CloudEvent, parse
from shared.values.message_text import Encoding
from shared.values.resources import EMERGENCY_QUEUE
from tests.keys import PAIR, SIGNING_KEY
from tests.unit.test_receive import APP, STATE, TENANT, receiver_of

EVENTS = "emergency-call-events"
CERTIFICATE_ID = "calls/" + "0" * 32
TRIES_OF_THE_PLATFORM = 5

type Fault = Callable[[Callable[[], Any]], Any]


class _Counted(Telemetry):
    """Telemetry of which some figures are looked at."""

    def __init__(self, world: "World") -> None:
        self.express = world.outcomes.append
        self._world = world

    def received(self, queue: str, count: int) -> None:
        self._world.received[queue] += count

    def refused(self, reason: str, count: int) -> None:
        self._world.refused[reason] += count

    def written(self, event_type: str, queue: str, *, since_event: float | None, since_receipt: float) -> None:
        self._world.written.append(queue)


@dataclass(frozen=True)
class SlowQueues(QueuesModel):
    """Queues that take their time; by operation and queue, in seconds."""

    world: "World"

    async def put(self, queue: str, body: bytes, encoding: Encoding, delay: timedelta = timedelta(0)) -> Receipt:
        await self.world.passes(("put", queue))
        return await super().put(queue, body, encoding, delay)

    async def delete(self, receipt: Receipt) -> bool:
        await self.world.passes(("delete", receipt.queue))
        return await super().delete(receipt)

    async def show(self, receipt: Receipt) -> bool:
        await self.world.passes(("show", receipt.queue))
        return await super().show(receipt)


@dataclass
class World:
    """Receiving and decrypting over storage and a vault in memory, in virtual time."""

    storage: StorageModel = field(default_factory=StorageModel)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    batched: bool = False
    key_seconds: float = 0.0
    key_error: Exception | None = None
    keys_asked: int = 0
    outcomes: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    made: int = 0  # decryptors: how often one was asked for
    began: datetime = START  # the time in virtual time
    expected: bool = False  # whether an emergency subscription is alive
    expected_asked: int = 0
    received: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.queues = SlowQueues(self.storage, self)
        self.telemetry: Any = _Counted(self)
        self._key: asyncio.Task[RSAPrivateKey] | None = None

    def now(self) -> datetime:
        """Storage's clock; in virtual time it goes by the loop's."""
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            if isinstance(loop, InlineLoop):
                self.storage.now = self.began + timedelta(seconds=loop.time())
        return self.storage.now

    async def passes(self, operation: tuple[str, str]) -> None:
        """The time that an operation takes."""
        await asyncio.sleep(self.seconds.get(operation, 0))
        self.now()

    async def private_key(self, certificate_id: str) -> RSAPrivateKey:
        """As `KeyVaultCertificates`: a fetch goes on though its caller has gone, and is made once."""
        if certificate_id != CERTIFICATE_ID:
            raise UnknownCertificateError
        if self._key is None or (self._key.done() and self._key.exception() is not None):
            self._key = asyncio.create_task(self._fetch())
        return await asyncio.shield(self._key)

    async def _fetch(self) -> RSAPrivateKey:
        self.keys_asked += 1
        await asyncio.sleep(self.key_seconds)

        def apply() -> RSAPrivateKey:
            if self.key_error is not None:
                raise self.key_error
            return PAIR.private_key

        key: RSAPrivateKey = self.storage.operate("vault", "get", apply)
        return key

    def raw_messages(self) -> RawMessages:
        return RawMessages(self.queues, self.storage.blobs, Quarantine(self.storage.blobs, self.now), self.now)

    def decryptor(self) -> Decryptor:
        self.made += 1
        return Decryptor(
            raw_messages=self.raw_messages(),
            writer=EventWriter(self.queues, self.storage.blobs, "none", self.batched),
            private_keys=self,
            telemetry=self.telemetry,
        )

    async def emergencies_expected(self) -> bool:
        self.expected_asked += 1
        return self.expected

    def receiver(self) -> Receiver:
        express = Express(
            raw_messages=self.raw_messages(),
            decryptor=self.decryptor,
            expected=self.emergencies_expected,
            telemetry=self.telemetry,
        )
        parts = {"raw_messages": self.raw_messages(), "express": express, "telemetry": self.telemetry}
        return receiver_of(self.storage, SigningKeysModel(), self.now, **parts)

    def usual_way(self) -> None:
        """The platform's: until the raw queue is empty."""

        async def run() -> None:
            while waiting := self.storage.messages[EMERGENCY_QUEUE]:
                message = min(waiting, key=lambda found: found.visible)
                await asyncio.sleep(max((message.visible - self.now()).total_seconds(), 0))
                await self._take(message)

        in_virtual_time(self, run)

    async def _take(self, message: Any) -> None:
        message.dequeued += 1
        message.receipt = self.storage.number()
        assert message.dequeued <= TRIES_OF_THE_PLATFORM
        try:
            await self.decryptor().handle(message.body, queue=EMERGENCY_QUEUE, attempts=message.dequeued)
        except UnavailableError:
            message.visible = self.storage.now + timedelta(seconds=30)
        else:
            self.storage.messages[EMERGENCY_QUEUE].remove(message)

    def events(self) -> list[CloudEvent]:
        return [event for message in self.storage.messages[EVENTS] for event in parse(message.text)]

    def waits(self) -> list[float]:
        """Of each raw message, in how many seconds it shows."""
        return [(one.visible - self.storage.now).total_seconds() for one in self.storage.messages[EMERGENCY_QUEUE]]


def items(count: int = 1, certificate_id: str = CERTIFICATE_ID, **changes: Any) -> list[dict[str, Any]]:
    to = Addressee(TENANT, STATE, Recipient.of(PAIR, certificate_id))
    return [
        change_notification(build(Kind.EMERGENCY_NESTED, Options(id=str(number), **changes)), to)
        for number in range(count)
    ]


def large_item() -> dict[str, Any]:
    payload = build(Kind.EMERGENCY_NESTED)
    assert payload.content is not None
    to = Addressee(TENANT, STATE, Recipient.of(PAIR, CERTIFICATE_ID))
    return change_notification(replace(payload, content={**payload.content, "x": "x" * 100_000}), to)


def body(*notifications: dict[str, Any], token: bool = True) -> bytes:
    claims = validation_claims(app_id=APP, tenant_id=TENANT, now=START)
    return collection(notifications, [SIGNING_KEY.sign(claims)] if token else [])


def in_virtual_time[T](world: World, work: Callable[[], Awaitable[T]]) -> T:
    """Run to the end of `work`, and storage's clock with it."""

    async def run() -> T:
        world.began = world.storage.now
        try:
            return await work()
        finally:
            world.now()

    with asyncio.Runner(loop_factory=InlineLoop) as runner:
        return runner.run(run())


def post(world: World, *bodies: bytes, then: float = 60.0) -> list[tuple[int, float]]:
    """Post one after another to one process, and let its time pass; returns statuses, and seconds until the answer."""

    async def work() -> list[tuple[int, float]]:
        receiver, answers = world.receiver(), []
        for one in bodies:
            began = asyncio.get_running_loop().time()
            status = (await receiver.receive(one, None)).status
            answers.append((status, round(asyncio.get_running_loop().time() - began, 2)))
            await asyncio.sleep(0.001)
        await asyncio.sleep(then)
        return answers

    return in_virtual_time(world, work)


# --- the way itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [False, True])
def test_an_emergency_is_written_before_its_post_is_answered_and_leaves_nothing_behind(batched: bool) -> None:
    world = World(batched=batched)
    assert post(world, body(*items(2)), then=0) == [(202, 0.0)]
    assert len(world.events()) == 2
    assert world.storage.messages[EMERGENCY_QUEUE] == []
    assert world.outcomes == [ExpressOutcome.DONE]
    assert world.written == [EMERGENCY_QUEUE] * 2


def test_telemetry_is_told_what_came_in_what_was_refused_and_what_became_of_it() -> None:
    world = World()
    post(world, body(*items()), body(*items(5)), body(*items(), token=False))
    assert Counter(world.outcomes) == {"done": 1, "many": 1}
    assert world.received == {EMERGENCY_QUEUE: 6}
    assert world.refused == {"not-covered-by-a-validation-token": 1}


def test_its_event_is_the_one_that_the_usual_way_would_write() -> None:
    world, other = World(), World()
    one = body(*items())
    post(world, one)
    other.storage.refused = {EVENTS}
    post(other, one, then=0)
    other.storage.refused = set()
    other.usual_way()
    (event,), (usual,) = world.events(), other.events()
    assert (event.id, event.type, event.data) == (usual.id, usual.type, usual.data)


def test_the_raw_message_is_durable_before_anything_else_is_even_made() -> None:
    world = World()
    world.storage.refused = {EMERGENCY_QUEUE}
    assert [status for status, _ in post(world, body(*items()))] == [503]
    assert (world.made, world.keys_asked, world.events()) == (0, 0, [])


def test_a_process_that_dies_meanwhile_costs_fifteen_seconds() -> None:
    world = World(seconds={("put", EVENTS): 10})
    assert post(world, body(*items()), then=0) == [(202, 0.5)]
    (left,) = world.waits()
    assert 14 < left <= 15


# --- not taken, and given up ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notifications", "outcome"),
    [(items(5), ExpressOutcome.MANY), ([large_item()], ExpressOutcome.LARGE)],
)
def test_what_it_is_not_for_is_visible_at_once(notifications: list[dict[str, Any]], outcome: ExpressOutcome) -> None:
    world = World()
    assert post(world, body(*notifications), then=0) == [(202, 0.0)]
    assert max(world.waits()) <= 0
    assert (world.outcomes, world.made, world.keys_asked) == ([outcome], 0, 0)
    world.usual_way()
    assert len(world.events()) == len(notifications)
    assert world.storage.names(CLAIM_CHECKS_CONTAINER) == []


def test_a_key_that_is_slow_is_not_waited_for_again_until_it_is_there() -> None:
    world = World(key_seconds=30)
    assert post(world, body(*items()), body(*items()), then=0) == [(202, 0.5), (202, 0.0)]
    assert world.outcomes == [ExpressOutcome.NO_KEY] * 2
    assert max(world.waits()) <= 0
    assert world.keys_asked == 1


def test_a_slow_key_goes_on_being_fetched_and_serves_the_next() -> None:
    world = World(key_seconds=2)

    async def work() -> list[int]:
        receiver = world.receiver()
        first = (await receiver.receive(body(*items()), None)).status
        await asyncio.sleep(21)
        return [first, (await receiver.receive(body(*items()), None)).status]

    assert in_virtual_time(world, work) == [202, 202]
    assert world.outcomes == [ExpressOutcome.NO_KEY, ExpressOutcome.DONE]
    assert world.keys_asked == 1


def test_a_key_that_is_refused_is_asked_for_again_after_twenty_seconds() -> None:
    world = World(key_error=UnavailableError("Key Vault", reason="key-vault-503"))

    async def work() -> None:
        receiver = world.receiver()
        for pause in (0, 19, 2):
            await asyncio.sleep(pause)
            await receiver.receive(body(*items()), None)

    in_virtual_time(world, work)
    assert world.keys_asked == 2
    assert max(world.waits()) <= 0
    assert world.outcomes == [ExpressOutcome.NO_KEY] * 3


def test_of_a_message_with_an_item_that_cannot_be_opened_nothing_is_written_and_the_usual_way_judges() -> None:
    world = World()
    bad = items(certificate_id="calls/" + "f" * 32)
    assert post(world, body(*items(), *bad), then=0) == [(202, 0.0)]
    assert (world.events(), world.outcomes) == ([], [ExpressOutcome.UNOPENED])
    assert max(world.waits()) <= 0
    assert world.storage.names(QUARANTINE_CONTAINER) == []
    world.usual_way()
    assert len(world.events()) == 1
    assert len(world.storage.names(QUARANTINE_CONTAINER)) == 1


def test_events_that_storage_does_not_take_show_the_message_at_once() -> None:
    world = World()
    world.storage.refused = {EVENTS}
    assert post(world, body(*items()), then=0) == [(202, 0.0)]
    assert max(world.waits()) <= 0
    assert (world.outcomes, world.written) == ([ExpressOutcome.UNWRITTEN], [])


def test_a_fault_of_ours_shows_the_message_and_tells_no_data(caplog: pytest.LogCaptureFixture) -> None:
    world = World(key_error=ZeroDivisionError("+49 89 1234567"))
    assert post(world, body(*items()), then=0) == [(202, 0.0)]
    assert max(world.waits()) <= 0
    assert world.outcomes == [ExpressOutcome.FAILED]
    assert "ZeroDivisionError" in caplog.text
    assert "1234567" not in caplog.text


# --- the key, ahead of the first emergency ---------------------------------------------------------------------------


def call(**changes: Any) -> dict[str, Any]:
    to = Addressee(TENANT, STATE, Recipient.of(PAIR, CERTIFICATE_ID))
    return {**change_notification(build(Kind.CALL_STARTED), to), **changes}


def test_the_key_is_fetched_once_after_the_first_authentic_call_where_an_emergency_may_come() -> None:
    world = World(expected=True, key_seconds=2)
    assert post(world, body(call()), body(call())) == [(202, 0.0)] * 2
    assert (world.keys_asked, world.expected_asked) == (1, 1)


def test_no_key_is_fetched_where_no_emergency_may_come() -> None:
    world = World(expected=False)
    post(world, body(call()))
    assert (world.keys_asked, world.made, world.expected_asked) == (0, 0, 1)


def test_nothing_that_is_not_vouched_for_has_a_key_fetched() -> None:
    world = World(expected=True)
    post(world, body(call(), token=False), body(call(clientState="guessed")), b"{}")
    assert (world.keys_asked, world.expected_asked) == (0, 0)


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw_put", "event_put", "answer"),
    [
        (0.1, 0.1, (202, 0.2)),
        (0.1, 5.0, (202, 0.6)),  # half a second after what is durable
        (1.8, 5.0, (202, 2.0)),
        (2.4, 5.0, (202, 2.4)),
        (3.0, 0.0, (503, 2.5)),
    ],
)
def test_graph_is_answered_in_time(raw_put: float, event_put: float, answer: tuple[int, float]) -> None:
    world = World(seconds={("put", EMERGENCY_QUEUE): raw_put, ("put", EVENTS): event_put})
    assert post(world, body(*items())) == [answer]
    if answer[0] == 202:
        assert len(world.events()) == 1  # a put that has begun is not cancelled with the answer
        assert world.storage.messages[EMERGENCY_QUEUE] == []


def test_deleting_does_not_keep_graph_waiting_for_longer_either() -> None:
    world = World(seconds={("delete", EMERGENCY_QUEUE): 5.0})
    assert post(world, body(*items())) == [(202, 0.5)]
    assert world.storage.messages[EMERGENCY_QUEUE] == []


def test_where_the_usual_way_was_quicker_the_event_comes_twice_under_one_id() -> None:
    world = World(seconds={("put", EVENTS): 20.0})

    async def work() -> None:
        await world.receiver().receive(body(*items()), None)
        await asyncio.sleep(16)
        world.now()
        (message,) = world.storage.messages[EMERGENCY_QUEUE]
        assert message.visible <= world.storage.now
        message.receipt = world.storage.number()  # taken by the platform, which will write the event as well
        await asyncio.sleep(30)
        assert world.storage.messages[EMERGENCY_QUEUE] == [message]

    in_virtual_time(world, work)
    world.seconds.clear()
    world.usual_way()
    assert [event.id for event in world.events()] == [world.events()[0].id] * 2


# --- who may have anything opened ------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"clientState": "guessed"}, {}], ids=["neither", "the client state alone"])
def test_without_a_valid_token_nothing_is_made_opened_or_fetched(changes: dict[str, Any]) -> None:
    world = World()
    forged = body(*({**item, **changes} for item in items()), token=False)
    stolen = body(*({**item, **changes} for item in items()), token=bool(changes))
    assert [status for status, _ in post(world, forged, stolen)] == [202, 202]
    assert (world.made, world.keys_asked, world.outcomes) == (0, 0, [])
    assert world.storage.messages[EMERGENCY_QUEUE] == []


# --- crashes and failures, one and two at a time ---------------------------------------------------------------------


def fails(_apply: Callable[[], Any]) -> Any:
    raise UnavailableError("storage", reason="storage-503")


def answer_is_lost(apply: Callable[[], Any]) -> Any:
    apply()
    raise UnavailableError("storage", reason="storage-no-answer")


def dies_before(_apply: Callable[[], Any]) -> Any:
    raise Crash


def dies_after(apply: Callable[[], Any]) -> Any:
    apply()
    raise Crash


FAULTS: Sequence[Fault] = (fails, answer_is_lost, dies_before, dies_after)


def history(one: bytes, faults: dict[int, Fault], *, batched: bool) -> tuple[World, int]:
    """What becomes of a POST with faults at some operations; returns how many operations the first try made, too."""
    world = World(batched=batched)
    dead = False

    def fault(_what: str, _operation: str, apply: Callable[[], Any]) -> Any:
        nonlocal dead
        if dead:
            raise Crash
        try:
            return faults.get(len(world.storage.log), lambda apply: apply())(apply)
        except Crash:
            dead = True
            raise

    world.storage.fault = fault
    answered = False
    with suppress(Crash):
        answered = post(world, one, then=1)[0][0] == 202
    count = len(world.storage.log)
    world.storage.fault = lambda _what, _operation, apply: apply()
    if dead or not answered:
        post(world, one, then=1)  # Graph sends it again, unless the process died just after its answer
    world.usual_way()
    return world, count


def histories() -> Iterator[tuple[bytes, dict[int, Fault], bool]]:
    for count, batched in itertools.product((1, 2), (False, True)):
        one = body(*items(count))
        length = history(one, {}, batched=batched)[1]
        places = range(1, length + 2)  # one more than without a fault: what follows a failure
        for place, fault in itertools.product(places, FAULTS):
            yield one, {place: fault}, batched
        pairs = list(itertools.product(itertools.combinations(places, 2), itertools.product(FAULTS, repeat=2)))
        for pair, faults in random.sample(pairs, 15):
            yield one, dict(zip(pair, faults, strict=True)), batched


def test_no_history_loses_anything_or_gives_it_two_ids() -> None:
    tried: Counter[int] = Counter()
    for one, faults, batched in histories():
        world, _ = history(one, faults, batched=batched)
        wanted = len(json.loads(one)["value"])
        ids = {event.id for event in world.events()}
        assert len(ids) == wanted, faults
        assert world.storage.names(QUARANTINE_CONTAINER) == [], faults
        tried[len(faults)] += 1
    assert min(tried.values()) > 50
