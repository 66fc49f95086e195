"""What lies in storage: each version reads what the other wrote, after an upgrade and after a roll-back."""

import json
from collections import Counter
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
import pytest

from dev.simulation.storage_model import START
from shared.notifications.quarantine import QUARANTINE_CONTAINER, Parked
from shared.notifications.raw_messages import CLAIM_CHECKS_CONTAINER
from shared.notifications.replay import Done, Replay, Selection
from shared.values.envelope import Envelope
from shared.values.errors import AbandonedError, MalformedInputError
from shared.values.message_text import decode
from shared.values.resources import RAW_QUEUE
from tests.unit.test_retries import World, basic, put, rich


class FirstEnvelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """A raw message as the first version writes and reads it."""

    v: Literal[1]
    id: str
    received: datetime
    traceparent: str
    first: int = 0
    notifications: tuple[msgspec.Raw, ...] = ()
    claim: str | None = None
    attempts: int = 0
    failing_since: datetime | None = None
    backfilled: bool = False


class FirstParked(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of quarantine as the first version writes and reads it."""

    v: int
    reason: str
    error: str
    queue: str
    kind: str
    quarantined: datetime
    attempts: int
    envelope: FirstEnvelope | None = None
    text: str | None = None


def required(kind: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind) if field.required}


@pytest.mark.parametrize(("new", "first"), [(Envelope, FirstEnvelope), (Parked, FirstParked)])
def test_a_field_that_is_new_has_a_default(new: type[msgspec.Struct], first: type[msgspec.Struct]) -> None:
    assert required(new) == required(first)
    assert set(first.__struct_fields__) <= set(new.__struct_fields__)


def first_envelope(*items: dict[str, Any], **changes: Any) -> FirstEnvelope:
    raws = tuple(msgspec.Raw(json.dumps(item).encode()) for item in items)
    return FirstEnvelope(1, "d", START, "00-t", notifications=raws, **changes)


# --- what the first version wrote, after an upgrade -------------------------------------------------------------------


async def test_its_raw_messages_and_those_that_it_put_back_are_handled() -> None:
    world = World()
    for envelope in (
        first_envelope(basic("a"), rich("b")),
        first_envelope(rich("c"), first=2, attempts=3, failing_since=START),
    ):
        await world.storage.queues.put(RAW_QUEUE, msgspec.json.encode(envelope), "base64")
    await world.run()
    assert world.events() == Counter("abc")


async def test_its_claim_checks_are_redeemed_and_settled() -> None:
    world, name = World(), "2026/01/01/d-0.json"
    whole = first_envelope(rich("a", size=100_000))
    await world.storage.blobs.put(CLAIM_CHECKS_CONTAINER, name, msgspec.json.encode(whole))
    ticket = msgspec.structs.replace(whole, notifications=(), claim=name)
    for _ in range(2):
        await world.storage.queues.put(RAW_QUEUE, msgspec.json.encode(ticket), "base64")
    await world.run()
    assert (world.events(), world.claims(), world.parked()) == ({"a": 1}, [], [])


async def test_what_it_has_done_with_is_not_missing() -> None:
    """It left no marker: a second try concludes from the missing blob."""
    world = World()
    ticket = first_envelope(claim="2026/01/01/d-0.json", attempts=1)
    await world.storage.queues.put(RAW_QUEUE, msgspec.json.encode(ticket), "base64")
    await world.run()
    assert world.parked() == []


@pytest.mark.parametrize("discard", [False, True])
async def test_its_entries_are_listed_shown_replayed_and_discarded(discard: bool) -> None:
    world = World()
    claim = "2026/01/01/d-7.json"
    large = first_envelope(rich("c", size=100_000), first=7)
    await world.storage.blobs.put(CLAIM_CHECKS_CONTAINER, claim, msgspec.json.encode(large))
    about = ("storage-503", "UnavailableError", RAW_QUEUE, "callEvents", START, 9)
    entries = {
        "d-0": FirstParked(1, *about, envelope=first_envelope(rich("a"), attempts=9, failing_since=START)),
        "d-7": FirstParked(1, *about, envelope=msgspec.structs.replace(large, notifications=(), claim=claim)),
        "0" * 32: FirstParked(1, *about, text='{"odd":1}'),
    }
    for name, parked in entries.items():
        await world.storage.blobs.put(QUARANTINE_CONTAINER, f"{RAW_QUEUE}/{name}.json", msgspec.json.encode(parked))
    replay = Replay(world.storage.raw_messages)
    names = [entry.name async for entry in replay.entries(Selection(), world.now)]
    assert sorted(names) == sorted(f"{RAW_QUEUE}/{name}.json" for name in entries)
    for name in names:
        assert await replay.show(name) is not None
        assert await (replay.discard if discard else replay.replay)(name) is (
            Done.DISCARDED if discard else Done.REPLAYED
        )
    await world.run()
    assert (set(world.events()), world.claims()) == (set() if discard else {"a", "c"}, [])
    assert [one["reason"] for one in world.parked()] == ([] if discard else ["raw-message-malformed"])


# --- what this version writes, after a roll-back ----------------------------------------------------------------------


async def test_it_reads_our_raw_messages_tickets_and_claim_checks() -> None:
    world = World()
    await put(world, basic("a"), rich("b"), attempts=3, failing_since=START)
    await put(world, rich("c", size=100_000))
    small, ticket = (
        msgspec.json.decode(decode(message.text), type=FirstEnvelope) for message in world.storage.messages[RAW_QUEUE]
    )
    assert (small.id, len(small.notifications), small.attempts, small.failing_since) == ("d", 2, 3, START)
    assert (ticket.claim, ticket.notifications) == (world.claims()[0], ())
    # Its sweep reads a day before the first slash but two, in the order of the names.
    assert datetime.strptime(world.claims()[0][:10], "%Y/%m/%d").replace(tzinfo=START.tzinfo) == START
    blob = world.storage.containers[CLAIM_CHECKS_CONTAINER][world.claims()[0]]
    whole = msgspec.json.decode(blob.data, type=FirstEnvelope)
    assert (whole.id, len(whole.notifications)) == ("d", 1)


async def test_it_reads_our_entries() -> None:
    world = World()
    quarantine = world.storage.raw_messages.quarantine
    raws = (msgspec.Raw(json.dumps(rich("a")).encode()),)
    envelope = Envelope(v=1, id="d", received=START, traceparent="00-t", notifications=raws)
    ticket = envelope.ticket("2026/01/01/raw-notifications/x.json")
    await quarantine.park(envelope, queue=RAW_QUEUE, error=AbandonedError(), attempts=9)
    await quarantine.park(ticket, queue=RAW_QUEUE, error=AbandonedError(), attempts=9)
    unreadable = MalformedInputError("x", reason="message-unreadable")
    await quarantine.park('{"plain":1}', queue=RAW_QUEUE, error=unreadable, attempts=5, unreadable=True)
    blobs = world.storage.containers[QUARANTINE_CONTAINER].values()
    found = [msgspec.json.decode(blob.data, type=FirstParked) for blob in blobs]
    envelopes = [one.envelope for one in found if one.envelope is not None]
    assert Counter(len(one.notifications) for one in envelopes) == {1: 1, 0: 1}
    # Put back by it, an unreadable text is a message that can be read.
    assert [one.text for one in found if one.envelope is None] == ['{"plain":1}']
    assert all(one.queue == RAW_QUEUE and one.quarantined == START + timedelta(0) for one in found)
