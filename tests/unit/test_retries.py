"""What fails for now is tried for more than an hour, and what fails for good once; a crash anywhere loses nothing."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from dev.simulation.storage_model import START, Crash, Message, StorageModel
from dev.simulator.crypto import Recipient, encrypt
from shared.notifications import decrypt
from shared.notifications.decrypt import Decryptor
from shared.notifications.event_writer import EventWriter
from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.notifications.raw_messages import CLAIM_CHECKS_CONTAINER
from shared.values.consumers import NO_OTHERS, Consumers, parse_consumers
from shared.values.envelope import GIVE_UP_AFTER, Envelope, RawMessage, pause
from shared.values.errors import UnavailableError, UnknownCertificateError
from shared.values.events.event_types import parse
from shared.values.resources import EMERGENCY_QUEUE, RAW_QUEUE
from tests.keys import PAIR

TRIES_OF_THE_PLATFORM = 5
CERTIFICATE_ID = "switchboard/0123456789abcdef0123456789abcdef"


@dataclass
class World:
    """Storage, Key Vault and the platform, in memory and with a clock of their own; any operation may crash or fail."""

    storage: StorageModel = field(default_factory=StorageModel)
    crash_at: int | None = None
    vault_until: datetime = START
    asked: Counter[str] = field(default_factory=Counter)
    batched: bool = False
    consumers: Consumers = NO_OTHERS

    def __post_init__(self) -> None:
        self.storage.fault = self._crash

    def _crash(self, _what: str, _operation: str, apply: Callable[[], Any]) -> Any:
        if len(self.storage.log) == self.crash_at:
            raise Crash
        return apply()

    async def private_key(self, certificate_id: str) -> RSAPrivateKey:
        def apply() -> RSAPrivateKey:
            self.asked[certificate_id] += 1
            if certificate_id != CERTIFICATE_ID:
                raise UnknownCertificateError
            if self.now < self.vault_until:
                raise UnavailableError("Key Vault", reason="key-vault-503")
            return PAIR.private_key

        key: RSAPrivateKey = self.storage.operate("vault", "get", apply)
        return key

    # --- the platform

    @property
    def now(self) -> datetime:
        return self.storage.now

    def decryptor(self) -> Decryptor:
        return Decryptor(
            raw_messages=self.storage.raw_messages,
            writer=EventWriter(self.storage.queues, self.storage.blobs, "none", self.batched, self.consumers),
            private_keys=self,
        )

    async def run(self, queue: str = RAW_QUEUE) -> None:
        """Deliver until the queue is empty, jumping to the time when the next message shows."""
        for _ in range(10_000):
            waiting = self.storage.messages[queue]
            if not waiting:
                return
            message = min(waiting, key=lambda found: found.visible)
            self.storage.now = max(self.now, message.visible)
            await self.deliver(message, queue)
        pytest.fail("it never ends")

    async def deliver_first(self) -> Message:
        """Deliver what has lain longest on the raw queue, once; returned as it lay there."""
        message = self.storage.messages[RAW_QUEUE][0]
        await self.deliver(message, RAW_QUEUE)
        return message

    async def deliver(self, message: Message, queue: str) -> None:
        message.dequeued += 1
        decryptor = self.decryptor()
        try:
            if message.dequeued > TRIES_OF_THE_PLATFORM:
                await decryptor.raw_messages.requeue_or_quarantine(
                    message.body, queue=queue, attempts=TRIES_OF_THE_PLATFORM
                )
            else:
                await decryptor.handle(message.body, queue=queue, attempts=message.dequeued)
        except (Crash, UnavailableError):
            message.visible = self.now + timedelta(seconds=30)
        else:
            self.storage.messages[queue].remove(message)

    # --- what has come out

    def events(self) -> Counter[str]:
        """How often each item came out, by the name in its data."""
        return Counter(data["id"] for _, data in self.storage.events())

    def parked(self) -> list[dict[str, Any]]:
        return self.storage.parked()

    def claims(self) -> list[str]:
        return self.storage.names(CLAIM_CHECKS_CONTAINER)


def basic(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "subscriptionId": "s",
        "changeType": "created",
        "resource": f"communications/callRecords/{name}",
        "resourceData": {"@odata.type": "#microsoft.graph.callRecord", "id": name},
        **changes,
    }


def rich(name: str, size: int = 0, certificate_id: str = CERTIFICATE_ID) -> dict[str, Any]:
    plain = json.dumps({"@odata.type": "#microsoft.graph.callEvent", "id": name, "x": "x" * size}).encode()
    content = encrypt(plain, Recipient.of(PAIR, certificate_id))
    return {
        "subscriptionId": "s",
        "changeType": "created",
        "resource": "users/u/communications/callEvents",
        "encryptedContent": content,
    }


async def put(world: World, *items: Mapping[str, Any], queue: str = RAW_QUEUE, **changes: Any) -> None:
    raws = tuple(msgspec.Raw(json.dumps(item).encode()) for item in items)
    envelope = Envelope(**{"v": 1, "id": "d", "received": START, "traceparent": "00-t", **changes}, notifications=raws)
    await world.storage.raw_messages.put(queue, RawMessage.of(envelope))


async def holding(*items: Mapping[str, Any], **parts: Any) -> World:
    """A world whose raw queue holds these in one message."""
    world = World(**parts)
    await put(world, *items)
    return world


# --- several consumers ----------------------------------------------------------------------------------------------

BILLING = '{"name": "billing", "kinds": ["callRecords", "callEvents"]}'


def keys(world: World, queue: str) -> list[tuple[str, str]]:
    """Source and id of each event on a queue, in the order in which they were put."""
    return [event.key for message in world.storage.messages[queue] for event in parse(message.text)]


@pytest.mark.parametrize("batched", [False, True])
async def test_each_consumer_gets_the_same_events_under_the_same_ids(batched: bool) -> None:
    items = basic("a"), basic("b"), rich("c"), rich("d", size=100_000)
    world = await holding(*items, batched=batched, consumers=parse_consumers(f"[{BILLING}]"))
    await world.run()
    for queue in ("call-record-events", "call-events"):
        assert sorted(keys(world, queue)) == sorted(keys(world, f"{queue}-billing"))
        assert len(keys(world, queue)) == 2
    assert len(world.storage.names("event-data")) == 1  # large data is kept once, for all


async def test_the_queues_of_today_can_be_ended_by_name() -> None:
    world = await holding(basic("a"), consumers=parse_consumers(f'[{BILLING}, {{"name": "default", "kinds": []}}]'))
    await world.run()
    assert keys(world, "call-record-events") == []
    assert len(keys(world, "call-record-events-billing")) == 1


@pytest.mark.parametrize("batched", [False, True])
async def test_an_item_is_done_when_every_consumer_has_it_and_a_retry_repeats_its_id(batched: bool) -> None:
    world = await holding(basic("a"), batched=batched, consumers=parse_consumers(f"[{BILLING}]"))
    world.storage.refused = {"call-record-events-billing"}
    await world.deliver_first()
    assert len(world.storage.messages[RAW_QUEUE]) == 1
    world.storage.refused.clear()
    await world.run()
    (late,) = keys(world, "call-record-events-billing")
    assert keys(world, "call-record-events") == [late, late]
    assert world.parked() == []


# --- the policy -----------------------------------------------------------------------------------------------------


def test_pauses_double_up_to_a_limit_which_is_short_for_emergencies() -> None:
    seconds = [pause(RAW_QUEUE, tries).total_seconds() for tries in range(1, 12)]
    assert seconds == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert pause(EMERGENCY_QUEUE, 4).total_seconds() == 16
    assert {pause(EMERGENCY_QUEUE, tries).total_seconds() for tries in (5, 50, 10**6)} == {20}


def test_a_pause_that_was_asked_for_is_kept_within_the_limit() -> None:
    assert pause(RAW_QUEUE, 1, 60).total_seconds() == 60
    assert pause(RAW_QUEUE, 8, 60).total_seconds() == 256
    assert pause(RAW_QUEUE, 1, 86_400).total_seconds() == 300


def test_it_is_given_up_by_time_alone() -> None:
    assert timedelta(hours=1) < GIVE_UP_AFTER
    envelope = Envelope(v=1, id="d", received=START, traceparent="00-t", attempts=10**6)
    assert not envelope.is_exhausted(START + 2 * GIVE_UP_AFTER)
    envelope = msgspec.structs.replace(envelope, failing_since=START)
    assert not envelope.is_exhausted(START + GIVE_UP_AFTER - timedelta(microseconds=1))
    assert envelope.is_exhausted(START + GIVE_UP_AFTER)


# --- what it does to messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("minutes", [1, 60, 95])
async def test_an_outage_of_key_vault_loses_nothing_and_repeats_nothing(minutes: int, batched: bool) -> None:
    items = rich("a"), basic("b"), rich("c"), rich("d"), basic("e")
    world = await holding(*items, vault_until=START + timedelta(minutes=minutes), batched=batched)
    await world.run()
    assert world.events() == Counter("abcde")
    assert world.parked() == []
    assert world.now - world.vault_until < timedelta(minutes=5)


async def test_an_outage_costs_an_emergency_call_seconds() -> None:
    world = World(vault_until=START + timedelta(minutes=60))
    await put(world, rich("a"), queue=EMERGENCY_QUEUE)
    await world.run(EMERGENCY_QUEUE)
    assert world.events() == Counter("a")
    assert world.now - world.vault_until <= timedelta(seconds=20)


async def test_what_fails_for_longer_is_parked_item_by_item_with_its_last_reason() -> None:
    world = await holding(rich("a"), basic("b"), rich("c"), vault_until=START + timedelta(days=1))
    await world.run()
    assert world.events() == Counter("b")
    assert timedelta(hours=1) < GIVE_UP_AFTER <= world.now - START < timedelta(hours=2)
    parked = world.parked()
    assert [(found["reason"], found["error"]) for found in parked] == [("key-vault-503", "UnavailableError")] * 2
    assert sorted(found["envelope"].get("first", 0) for found in parked) == [0, 2]
    assert all(found["attempts"] > 10 for found in parked)


async def test_a_permanent_failure_is_tried_once_also_beside_a_transient_one() -> None:
    world = World(vault_until=START + timedelta(minutes=30))
    unknown = "switchboard/ffffffffffffffffffffffffffffffff"
    await put(world, rich("a"), rich("b", certificate_id=unknown), basic("c"))
    await world.run()
    assert world.events() == Counter("ac")
    (parked,) = world.parked()
    assert (parked["reason"], parked["attempts"]) == ("unknown-certificate", 1)
    assert world.asked[unknown] == 1


@pytest.mark.parametrize("what", ["call-events", CLAIM_CHECKS_CONTAINER])
async def test_a_claim_check_waits_like_everything_else(what: str) -> None:
    world = await holding(rich("a", size=100_000))
    world.storage.refused = {what}
    await world.deliver_first()
    await world.deliver_first()
    assert len(world.claims()) == 1
    world.storage.refused.clear()
    await world.run()
    assert world.events() == Counter("a")
    assert world.claims() == []


async def test_what_stands_together_is_put_back_together() -> None:
    world = await holding(
        basic("a"), rich("b"), rich("c"), basic("d"), rich("e"), vault_until=START + timedelta(minutes=1)
    )
    await world.deliver_first()
    waiting = [json.loads(one.body) for one in world.storage.messages[RAW_QUEUE]]
    assert sorted((one["first"], len(one["notifications"])) for one in waiting) == [(1, 2), (4, 1)]


async def test_an_item_with_a_claim_check_is_put_back_as_its_ticket() -> None:
    world = await holding(rich("a", size=100_000), vault_until=START + timedelta(minutes=1))
    message = await world.deliver_first()
    (again,) = world.storage.messages[RAW_QUEUE]
    assert json.loads(again.body)["claim"] == json.loads(message.body)["claim"]
    assert world.storage.log.count(("put blob", CLAIM_CHECKS_CONTAINER)) == 1


async def test_what_is_put_back_shows_when_whoever_failed_has_asked_for_it() -> None:
    world = World()
    raw_messages = world.storage.raw_messages
    await put(world, basic("a"), basic("b"))
    (message,) = world.storage.messages[RAW_QUEUE]
    unpacked = await raw_messages.open(message.body, queue=RAW_QUEUE, attempts=1)
    assert unpacked is not None
    throttled = UnavailableError("Graph", reason="throttled", retry_after=120.0)
    await raw_messages.finish(unpacked, {0: UnavailableError("Graph"), 1: throttled})
    assert world.storage.messages[RAW_QUEUE][-1].visible == START + timedelta(seconds=120)


async def test_what_the_platform_gives_up_after_all_that_time_is_parked_item_by_item() -> None:
    world = World()
    await put(world, basic("a"), basic("b"), failing_since=START - GIVE_UP_AFTER)
    world.storage.messages[RAW_QUEUE][0].dequeued = TRIES_OF_THE_PLATFORM
    await world.run()
    assert [one["reason"] for one in world.parked()] == ["retries-exhausted"] * 2
    assert world.events() == Counter()


async def test_what_the_platform_gave_up_after_its_claim_check_was_settled_is_done_with() -> None:
    world = World()
    await put(world, rich("a", size=100_000), failing_since=START - GIVE_UP_AFTER)
    (message,) = world.storage.messages[RAW_QUEUE]
    world.storage.containers.clear()
    message.dequeued = TRIES_OF_THE_PLATFORM
    await world.run()
    assert (world.storage.messages[RAW_QUEUE], world.parked()) == ([], [])


async def test_a_claim_check_that_stays_unreadable_is_parked_with_its_blob() -> None:
    world = await holding(rich("a", size=100_000))
    world.storage.refused = {CLAIM_CHECKS_CONTAINER}
    await world.run()
    (parked,) = world.parked()
    assert parked["reason"] == "storage-503"
    assert [parked["envelope"]["claim"]] == world.claims()


async def test_while_quarantine_is_away_what_belongs_there_is_put_back() -> None:
    world = await holding(basic("a", resourceData=7, resource=7), rich("b", certificate_id="other/1"))
    world.storage.refused = {QUARANTINE_CONTAINER}
    message = await world.deliver_first()
    (again,) = world.storage.messages[RAW_QUEUE]
    assert again is not message
    assert len(json.loads(again.body)["notifications"]) == 1
    world.storage.refused.clear()
    await world.run()
    assert len(world.parked()) == 1


async def test_where_only_the_raw_queue_takes_nothing_the_platform_tries_and_then_it_begins_anew() -> None:
    world = await holding(rich("a"), vault_until=START + timedelta(minutes=30))
    world.storage.refused = {RAW_QUEUE}
    (message,) = world.storage.messages[RAW_QUEUE]
    for _ in range(TRIES_OF_THE_PLATFORM + 3):
        await world.deliver(message, RAW_QUEUE)
    assert world.storage.messages[RAW_QUEUE] == [message]
    world.storage.refused.clear()
    await world.run()
    assert world.events() == Counter("a")
    assert world.parked() == []


async def test_a_fault_of_ours_costs_its_own_item_one_try_and_tells_no_data(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def event_of(item: Any, *args: Any, **kwargs: Any) -> Any:
        if item.notification.resource.endswith("/b"):
            raise ZeroDivisionError("+49 89 1234567")
        return found(item, *args, **kwargs)

    found = decrypt.event_of
    monkeypatch.setattr(decrypt, "event_of", event_of)
    world = await holding(basic("a"), basic("b"), basic("c"))
    await world.run()
    assert world.events() == Counter("ac")
    (parked,) = world.parked()
    assert (parked["reason"], parked["error"], parked["attempts"]) == ("unexpected", "ZeroDivisionError", 1)
    assert "ZeroDivisionError" in caplog.text
    assert "1234567" not in caplog.text + json.dumps(parked)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("large", [False, True])
async def test_a_crash_at_any_point_loses_nothing(large: bool, batched: bool) -> None:
    """One crash at each operation in turn, in a run with a transient and a permanent failure in it."""

    async def prepared() -> World:
        world = World(vault_until=START + timedelta(seconds=3), batched=batched)
        if large:
            await put(world, rich("a", size=100_000))
        else:
            await put(world, rich("a"), basic("b"), rich("bad", certificate_id="other/1"), rich("c"))
        world.storage.log.clear()
        return world

    wanted = {"a"} if large else {"a", "b", "c"}
    straight = await prepared()
    await straight.run()
    assert straight.events() == Counter(wanted)
    assert len(straight.storage.log) > 5
    for crash_at in range(1, len(straight.storage.log) + 1):
        world = await prepared()
        world.crash_at = crash_at
        await world.run()
        assert set(world.events()) == wanted, f"crash at operation {crash_at}"
        assert [found["reason"] for found in world.parked()] == ([] if large else ["unknown-certificate"])
        assert world.claims() == []
