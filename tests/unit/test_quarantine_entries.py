"""One entry for one item, and content that goes only with its entry."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.notifications.raw_messages import CLAIM_CHECKS_CONTAINER
from shared.notifications.replay import Done, Replay
from shared.values.envelope import Envelope, item_key
from shared.values.errors import AbandonedError, UnavailableError
from shared.values.resources import RAW_QUEUE
from tests.unit.test_retries import START, World, basic, holding, put, rich

UNKNOWN = "switchboard/ffffffffffffffffffffffffffffffff"


async def test_an_item_that_graph_repeats_has_one_entry() -> None:
    world, item = World(), rich("a", certificate_id=UNKNOWN)
    for delivery in ("first", "again"):
        await put(world, item, id=delivery)
    await world.run()
    (entry,) = world.parked()
    assert entry["envelope"]["id"] == "again"


@pytest.mark.parametrize(
    "other",
    [
        lambda item: rich("b", certificate_id=UNKNOWN) | {"id": item["id"]},
        lambda item: item | {"subscriptionId": "another"},
        lambda item: item | {"id": "another"},
        lambda item: item | {"encryptedContent": item["encryptedContent"] | {"dataSignature": "AAAA"}},
        lambda item: item | {"resource": "users/v/communications/callEvents"},
    ],
)
async def test_an_item_overwrites_no_other(other: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    world, item = World(), rich("a", certificate_id=UNKNOWN) | {"id": "1"}
    await put(world, item, other(item))
    await world.run()
    assert len(world.parked()) == 2


@pytest.mark.parametrize("identity", [None, "", "1"])
def test_what_graph_adds_to_a_repetition_makes_another_item_only_where_it_has_no_id(identity: str | None) -> None:
    item = basic("a") | {"id": identity}
    keys = {item_key(json.dumps(item | {"subscriptionExpirationDateTime": at}).encode()) for at in ("x", "y")}
    assert len(keys) == (1 if identity else 2)


@pytest.mark.parametrize("raw", [b"", b"7", b"[]", b"{", b'{"id":1e999}', b"\xff"])
def test_anything_has_a_name(raw: bytes) -> None:
    assert item_key(raw) == item_key(raw) != item_key(raw + b" ")


async def ticket_in_quarantine() -> tuple[World, str]:
    """An entry whose content lies in the blob of a claim check."""
    world = await holding(rich("a", size=100_000))
    (message,) = world.storage.messages.pop(RAW_QUEUE)
    quarantine = world.storage.raw_messages.quarantine
    await quarantine.park(message.body, queue=RAW_QUEUE, error=AbandonedError(), attempts=9)
    (name,) = world.storage.names(QUARANTINE_CONTAINER)
    return world, name


async def test_discarding_deletes_the_content_with_its_entry() -> None:
    world, name = await ticket_in_quarantine()
    assert await Replay(world.storage.raw_messages).discard(name) is Done.DISCARDED
    assert (world.parked(), world.claims()) == ([], [])


async def test_what_a_failed_replay_has_left_goes_with_the_entry_that_is_discarded() -> None:
    world = await holding(rich("a", size=100_000, certificate_id=UNKNOWN))
    await world.run()
    (name,) = world.storage.names(QUARANTINE_CONTAINER)
    replay = Replay(world.storage.raw_messages)
    world.storage.refused = {RAW_QUEUE}
    with pytest.raises(UnavailableError):
        await replay.replay(name)
    world.storage.refused.clear()
    assert len(world.claims()) == 1
    assert await replay.discard(name) is Done.DISCARDED
    assert (world.parked(), world.claims()) == ([], [])


@pytest.mark.parametrize("gone", [False, True])
async def test_discarding_an_entry_that_has_changed_meanwhile_leaves_its_content(gone: bool) -> None:
    world, name = await ticket_in_quarantine()
    entries = world.storage.containers[QUARANTINE_CONTAINER]

    def meanwhile(what: str, operation: str, apply: Callable[[], Any]) -> Any:
        if (what, operation) == (QUARANTINE_CONTAINER, "delete blob"):
            entry = entries.pop(name)
            if not gone:
                entries[name] = entry._replace(etag="another")
        return apply()

    world.storage.fault = meanwhile
    outcome = await Replay(world.storage.raw_messages).discard(name)
    assert outcome is (Done.GONE if gone else Done.CHANGED)
    assert len(world.storage.names(CLAIM_CHECKS_CONTAINER)) == 1


def test_a_claim_check_and_its_ticket_are_named_like_their_item() -> None:
    raws = (json.dumps(rich("a")).encode(),)
    envelope = Envelope(v=1, id="d", received=START, traceparent="t", notifications=raws)  # type: ignore[arg-type]
    ticket = Envelope(v=1, id="e", received=START, traceparent="t", claim=f"2026/01/01/{RAW_QUEUE}/{envelope.key}.json")
    assert ticket.key == envelope.key == item_key(raws[0])
