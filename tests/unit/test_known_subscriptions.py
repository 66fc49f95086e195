"""What is remembered of subscriptions, as it is kept; and whose turn it is."""

from datetime import timedelta

import msgspec
import pytest

from dev.simulation.storage_model import START, StorageModel
from shared.storage.ports import STATE_CONTAINER
from shared.subscriptions.desired_source import read_again
from shared.subscriptions.state import LONGEST_LIFE, Changes, Creation, KnownSubscriptions, Memory, Refusal, Remembered
from shared.values.errors import NoTurnError, UnavailableError
from tests.fakes import write_blob, write_blob_in_between

TENANT, OTHER = "f69f5191-20ae-4093-8dae-3ec09edeb253", "909c6581-5130-43e9-88f3-fcb3582cde37"
HOUR = timedelta(hours=1)
WHOLE, IDS = f"known/{TENANT}.json", f"subscriptions-{TENANT}.json"


def remembered(user: str = "u1") -> Remembered:
    return Remembered(
        kind="callEvents",
        resource=f"users/{user}/communications/callEvents",
        url="https://calls.example.com/api/notifications?code=key&mark=1",
        change_type="updated",
        expires=START + 24 * HOUR,
        life=86_000.0,
        certificate_id="calls/1",
    )


def knowing(**known: Remembered) -> Changes:
    return Changes(known=dict(known))


async def test_each_tenant_has_its_own() -> None:
    known = KnownSubscriptions(StorageModel().blobs)
    await known.save(TENANT, knowing(a=remembered("a"), b=remembered("b")), START)
    await known.save(OTHER, knowing(c=remembered("c")), START)
    assert (await known.load(TENANT)).memory.known == {"a": remembered("a"), "b": remembered("b")}
    assert (await known.load(OTHER)).memory.known == {"c": remembered("c")}
    await known.save(TENANT, Changes(gone={"a"}), START)
    assert set((await known.load(TENANT)).memory.known) == {"b"}


async def test_before_the_first_run_there_are_none() -> None:
    found = await KnownSubscriptions(StorageModel().blobs).load(TENANT)
    assert (found.memory, found.problems, found.is_first) == (Memory(), (), True)


async def test_a_run_that_has_read_what_is_desired_and_made_nothing_leaves_the_next_one_the_first() -> None:
    """A client state that is too short is not taken into use by the second run."""
    storage = StorageModel()
    known = KnownSubscriptions(storage.blobs)
    await known.save(TENANT, Changes(readings={"g": read_again("ab", None, START)}), START)
    assert (await known.load(TENANT)).is_first
    await known.save(TENANT, knowing(a=remembered()), START)
    assert not (await known.load(TENANT)).is_first
    write_blob(storage, STATE_CONTAINER, WHOLE, b"{")
    write_blob(storage, STATE_CONTAINER, IDS, b"[]")
    assert not (await known.load(TENANT)).is_first


async def test_what_two_have_learned_is_kept_of_both() -> None:
    storage = StorageModel()
    known = KnownSubscriptions(storage.blobs)
    await known.save(TENANT, knowing(a=remembered("a")), START)
    other = Memory(known={"a": remembered("a"), "b": remembered("b")})
    write_blob_in_between(storage, STATE_CONTAINER, WHOLE, msgspec.json.encode(other))
    await known.save(TENANT, knowing(c=remembered("c")), START)
    assert set((await known.load(TENANT)).memory.known) == {"a", "b", "c"}


async def test_nothing_is_written_where_nothing_was_learned() -> None:
    storage = StorageModel()
    known = KnownSubscriptions(storage.blobs)
    await known.save(TENANT, knowing(a=remembered()), START)
    written = storage.log.count(("put blob", STATE_CONTAINER))
    await known.save(TENANT, knowing(a=remembered()), START)
    assert storage.log.count(("put blob", STATE_CONTAINER)) == written


class TestTheVersionBefore:
    """It keeps a list of ids in a blob of its own, and reads it strictly."""

    async def test_reads_what_is_kept_up_beside(self) -> None:
        storage = StorageModel()
        await KnownSubscriptions(storage.blobs).save(TENANT, knowing(b=remembered("b"), a=remembered("a")), START)
        assert msgspec.json.decode(storage.containers[STATE_CONTAINER][IDS].data, type=frozenset[str]) == {
            "a",
            "b",
        }  # as it reads it

    async def test_its_ids_count_for_the_longest_life_after_its_last_word(self) -> None:
        storage = StorageModel()
        write_blob(storage, STATE_CONTAINER, IDS, b'["x","y"]')
        known = KnownSubscriptions(storage.blobs)
        assert (await known.load(TENANT)).memory.faceless == dict.fromkeys("xy", START + LONGEST_LIFE)
        storage.now = START + HOUR
        await known.save(TENANT, Changes(known={"x": remembered()}, gone=set()), START + HOUR)
        memory = (await known.load(TENANT)).memory
        assert (set(memory.known), memory.faceless) == ({"x"}, {"y": START + LONGEST_LIFE})
        storage.now = START + LONGEST_LIFE
        await known.save(TENANT, Changes(), START + LONGEST_LIFE)
        assert (await known.load(TENANT)).memory == Memory()
        assert storage.containers[STATE_CONTAINER][IDS].data == b"[]"

    async def test_what_it_makes_while_both_run_is_known(self) -> None:
        storage = StorageModel()
        known = KnownSubscriptions(storage.blobs)
        await known.save(TENANT, knowing(a=remembered()), START)
        write_blob(storage, STATE_CONTAINER, IDS, b'["a","b"]')
        memory = (await known.load(TENANT)).memory
        assert (set(memory.known), set(memory.faceless)) == ({"a"}, {"b"})


@pytest.mark.parametrize("name", [WHOLE, IDS])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"{",
        b'{"known": []}',
        b"\xff",
        b'{"known": {"a": {}}}',
        b'{"known": {"\xff": {}}}',
        b'["\xff"]',
        b'{"more": ' + b"[" * 20_000,
        b'{"faceless": {"a": "2026-01-01T00:00:00"}}',
        msgspec.json.encode(Memory(known={"a": remembered()})).replace(b"86000.0", b"1e300"),
    ],
)
async def test_what_cannot_be_read_counts_as_nothing_and_is_reported(name: str, data: bytes) -> None:
    storage = StorageModel()
    write_blob(storage, STATE_CONTAINER, name, data)
    known = KnownSubscriptions(storage.blobs)
    found = await known.load(TENANT)
    assert (found.memory, [problem.reason for problem in found.problems]) == (Memory(), ["state-unreadable"])
    await known.save(TENANT, Changes(), START)
    assert (await known.load(TENANT)).problems == ()
    await known.save(TENANT, knowing(a=remembered()), START)
    assert (await known.load(TENANT)).memory.known == {"a": remembered()}


async def test_a_newer_version_may_have_written_more() -> None:
    storage = StorageModel()
    whole = msgspec.to_builtins(Memory(known={"a": remembered()})) | {"more": [1]}
    whole["known"]["a"]["more"] = 1
    write_blob(storage, STATE_CONTAINER, WHOLE, msgspec.json.encode(whole))
    assert (await KnownSubscriptions(storage.blobs).load(TENANT)).memory.known == {"a": remembered()}


async def test_one_at_a_time_has_the_turn() -> None:
    known = KnownSubscriptions(StorageModel().blobs)
    one, other, elsewhere = known.turn(TENANT), known.turn(TENANT), known.turn(OTHER)
    await one.take()
    await elsewhere.take()
    for ask in (other.take, other.keep):
        with pytest.raises(NoTurnError):
            await ask()
    await one.keep()
    await other.release()
    await one.keep()
    await one.release()
    await other.take()
    with pytest.raises(NoTurnError):
        await one.keep()


async def test_without_storage_there_is_no_turn() -> None:
    storage = StorageModel(refused={STATE_CONTAINER})
    with pytest.raises(UnavailableError) as caught:
        await KnownSubscriptions(storage.blobs).turn(TENANT).take()
    assert caught.value.reason == "storage-503"


class TestChanges:
    def test_what_is_over_is_forgotten(self) -> None:
        memory = Memory(
            known={"a": remembered()},
            unseen={"r": [Creation(at=START, until=START + HOUR), Creation(at=START, until=START + 2 * HOUR)]},
        )
        later = Changes().applied(memory, START + HOUR)
        assert (set(later.known), len(later.unseen["r"])) == ({"a"}, 1)
        assert Changes().applied(memory, START + 25 * HOUR) == Memory()

    def test_a_refusal_lasts_until_something_is_accepted_or_nobody_wants_it(self) -> None:
        memory = Memory(refusals={"callEvents": Refusal(resource="r", reason="quota")})
        assert Changes().applied(memory, START) == memory
        assert Changes(wanted=frozenset({"r"})).applied(memory, START) == memory
        assert Changes(wanted=frozenset({"s"})).applied(memory, START) == Memory()
        assert Changes(refusals={"callEvents": None}).applied(memory, START) == Memory()

    def test_readings_are_kept_of_what_is_still_asked_for(self) -> None:
        memory = Memory(readings={source: read_again("ab", None, START) for source in ("g", "h")})
        later = read_again("abc", None, START + HOUR)
        assert Changes(readings={"g": later}).applied(memory, START).readings == {"g": later, "h": memory.readings["h"]}
        changes = Changes(readings={"g": later}, sources=frozenset({"g"}))
        assert changes.applied(memory, START).readings == {"g": later}

    def test_what_could_not_be_saved_is_saved_with_what_is_learned_later(self) -> None:
        before, after = Changes(), Changes()
        for changes, identity, gone in ((before, "a", "b"), (after, "b", "a")):
            changes.known[identity] = remembered()
            changes.gone.add(gone)
        lost = Creation(at=START, until=START + HOUR)
        before.unseen["r"].append(lost)
        before.refusals["callRecords"] = Refusal(resource="r", reason="quota")
        before.readings["g"] = read_again("ab", None, START)
        after.refusals["callRecords"] = None
        before.add(after)
        memory = before.applied(Memory(), START)
        assert (set(memory.known), memory.refusals) == ({"b"}, {})
        assert (memory.unseen, set(memory.readings)) == ({"r": [lost]}, {"g"})
        assert before.applied(memory, START) == memory

    def test_what_has_been_seen_is_unseen_no_more(self) -> None:
        memory = Memory(unseen={"r": [Creation(at=START, until=START + HOUR)]})
        assert Changes(seen={"r"}).applied(memory, START) == Memory()
