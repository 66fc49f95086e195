"""Raw messages by themselves: what lies on their queues, what is parked of them, and what is logged of them by id."""

import asyncio
import json
import logging
from datetime import datetime, timedelta
from typing import Any

import pytest

from dev.simulation.storage_model import Message
from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.notifications.raw_messages import (
    CLAIM_CHECKS_CONTAINER,
    HANDLED_CONTAINER,
    all_of,
    unavailable,
    unexpected,
)
from shared.notifications.replay import Done, Replay
from shared.values.envelope import GIVE_UP_AFTER, Envelope, parse_envelope
from shared.values.errors import AbandonedError, MalformedInputError, UnavailableError
from shared.values.message_text import decode, encode
from shared.values.resources import RAW_QUEUE
from tests.unit.test_retries import START, TRIES_OF_THE_PLATFORM, World, basic, put, rich

UNKNOWN = "other/1"
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def waiting(world: World) -> list[Envelope]:
    return [parse_envelope(message.body) for message in world.storage.messages[RAW_QUEUE]]


async def given_up(world: World, text: str, attempts: int = TRIES_OF_THE_PLATFORM) -> None:
    await world.storage.raw_messages.requeue_or_quarantine(text, queue=RAW_QUEUE, attempts=attempts)


def taken(world: World) -> Message:
    """The only message, which the platform takes off its queue."""
    (message,) = world.storage.messages.pop(RAW_QUEUE)
    return message


class TestOnTheQueue:
    async def test_the_host_can_read_it(self) -> None:
        world = World()
        for item in (basic("a"), rich("b", size=100_000)):
            await put(world, item)
            assert json.loads(decode(taken(world).text))["id"] == "d"

    @pytest.mark.parametrize("options", [{}, {"backfilled": True}])
    async def test_what_comes_at_once_is_one_delivery_and_what_comes_again_is_another(
        self, options: dict[str, Any]
    ) -> None:
        world = World()
        raws = [json.dumps(basic(name)).encode() for name in "ab"]
        for _ in range(2):
            await world.storage.raw_messages.send(RAW_QUEUE, raws, received=START, traceparent="00-t", **options)
        one, other = waiting(world)
        assert one.id != other.id
        for found in (one, other):
            assert [bytes(item) for item in found.notifications] == raws
            assert (found.received, found.traceparent, found.first) == (START, "00-t", 0)
            assert (found.attempts, found.failing_since, found.backfilled) == (0, None, bool(options))

    async def test_what_is_put_anew_out_of_quarantine_has_all_its_tries_again(self) -> None:
        world = World()
        await put(world, basic("a"), attempts=70, failing_since=START - DAY)
        (parked,) = waiting(world)
        world.storage.messages.clear()
        await world.storage.raw_messages.put_anew(RAW_QUEUE, parked)
        (again,) = waiting(world)
        assert (again.attempts, again.failing_since, again.notifications) == (0, None, parked.notifications)

    async def test_what_is_put_back_counts_its_tries_from_its_first_failure_on(self) -> None:
        world = World(vault_until=START + 10 * MINUTE)
        await put(world, rich("a"))
        for tries in (1, 2):
            (message,) = world.storage.messages[RAW_QUEUE]
            world.storage.now = message.visible
            await world.deliver(message, RAW_QUEUE)
            (again,) = waiting(world)
            assert (again.attempts, again.failing_since) == (tries, START)

    async def test_a_ticket_that_is_put_back_counts_its_tries_too(self) -> None:
        world = World(vault_until=START + 10 * MINUTE)
        await put(world, rich("a", size=100_000))
        for tries in (1, 2):
            (message,) = world.storage.messages[RAW_QUEUE]
            world.storage.now = message.visible
            await world.deliver(message, RAW_QUEUE)
            (again,) = waiting(world)
            assert (again.attempts, again.failing_since, [again.claim]) == (tries, START, world.claims())


class TestParked:
    async def test_what_is_no_raw_message_is_parked_with_where_it_came_from(self) -> None:
        world = World()
        world.storage.put(RAW_QUEUE, encode(b'{"odd":1}', "base64"))
        await world.run()
        (entry,) = world.parked()
        assert (entry["text"], entry["queue"], entry["attempts"]) == ('{"odd":1}', RAW_QUEUE, 1)
        assert entry["error"] == "MalformedInputError"
        await given_up(world, '{"odd":2}')
        (entry,) = (entry for entry in world.parked() if entry["text"] == '{"odd":2}')
        assert (entry["queue"], entry["attempts"], entry["reason"]) == (RAW_QUEUE, 5, "retries-exhausted")

    async def test_of_several_the_one_that_fails_is_parked_under_its_own_name(self) -> None:
        world, bad = World(), rich("b", certificate_id=UNKNOWN)
        await put(world, basic("a"), bad, basic("c"), attempts=2)
        await world.run()
        (entry,) = world.parked()
        assert (entry["queue"], entry["attempts"], entry["reason"]) == (RAW_QUEUE, 3, "unknown-certificate")
        assert (entry["envelope"]["first"], entry["envelope"]["notifications"]) == (1, [bad])

    async def test_what_is_given_up_at_last_is_parked_under_its_own_name(self) -> None:
        world, items = World(), [basic("a"), basic("b")]
        await put(world, *items, attempts=60, failing_since=START - GIVE_UP_AFTER)
        await given_up(world, taken(world).body)
        entries = sorted(world.parked(), key=lambda entry: str(entry["envelope"].get("first", 0)))
        assert [entry["envelope"]["notifications"] for entry in entries] == [[item] for item in items]
        assert {(entry["queue"], entry["attempts"], entry["reason"]) for entry in entries} == {
            (RAW_QUEUE, 65, "retries-exhausted")
        }

    async def test_a_missing_claim_check_is_parked_as_its_ticket(self) -> None:
        world = World()
        await put(world, rich("a", size=100_000))
        (claim,) = world.claims()
        world.storage.containers.clear()
        await world.run()
        (entry,) = world.parked()
        assert (entry["queue"], entry["attempts"], entry["reason"]) == (RAW_QUEUE, 1, "claim-missing")
        assert entry["envelope"]["claim"] == claim

    async def test_a_claim_check_that_stays_out_of_reach_is_parked_with_all_its_tries(self) -> None:
        world = World()
        await put(world, rich("a", size=100_000), attempts=40, failing_since=START - GIVE_UP_AFTER)
        world.storage.refused = {CLAIM_CHECKS_CONTAINER}
        await world.run()
        (entry,) = world.parked()
        assert (entry["queue"], entry["attempts"], entry["reason"]) == (RAW_QUEUE, 41, "storage-503")
        assert [entry["envelope"]["claim"]] == world.claims()

    async def test_one_that_another_ticket_has_handled_is_not_parked_though_it_is_out_of_reach(self) -> None:
        world, item = World(), rich("a", size=100_000)
        await put(world, item)
        await put(world, item, attempts=40, failing_since=START - GIVE_UP_AFTER)
        first, late = world.storage.messages[RAW_QUEUE]
        await world.deliver(first, RAW_QUEUE)
        world.storage.refused = {CLAIM_CHECKS_CONTAINER}
        await world.deliver(late, RAW_QUEUE)
        assert (world.storage.messages[RAW_QUEUE], world.parked()) == ([], [])

    async def test_a_claim_check_in_trouble_is_put_back_with_its_tries(self) -> None:
        world = World()
        await put(world, rich("a", size=100_000))
        world.storage.refused = {CLAIM_CHECKS_CONTAINER}
        (message,) = world.storage.messages[RAW_QUEUE]
        await world.deliver(message, RAW_QUEUE)
        (again,) = waiting(world)
        assert (again.attempts, again.failing_since, [again.claim]) == (1, START, world.claims())


class TestSweep:
    async def test_tells_how_many_got_a_ticket(self) -> None:
        world = World()
        assert await world.storage.raw_messages.sweep() == 0
        for name in "abc":
            await put(world, rich(name, size=100_000))
        await world.storage.blobs.put(CLAIM_CHECKS_CONTAINER, "2025/01/01/x", b"x")
        world.storage.messages.clear()
        world.storage.now += 3 * DAY
        assert await world.storage.raw_messages.sweep() == 3

    async def test_nothing_counts_that_is_gone_or_was_done_with(self) -> None:
        world = World()
        await put(world, rich("a", size=100_000))
        await put(world, rich("b", size=100_000), received=START + DAY)
        await world.run()
        await put(world, rich("c", size=100_000))
        world.storage.now += 3 * DAY
        (listed,) = world.claims()

        def gone(what: str, operation: str, apply: Any) -> Any:
            if (what, operation) == (CLAIM_CHECKS_CONTAINER, "get blob"):
                world.storage.containers[what].pop(listed, None)
            return apply()

        world.storage.fault = gone
        assert await world.storage.raw_messages.sweep() == 0

    async def test_a_ticket_takes_the_place_of_one_that_was_parked(self) -> None:
        world = World()
        await put(world, rich("a", size=100_000), failing_since=START - GIVE_UP_AFTER)
        world.storage.refused = {CLAIM_CHECKS_CONTAINER}
        await world.run()
        assert len(world.storage.names(QUARANTINE_CONTAINER)) == 1
        world.storage.refused.clear()
        world.storage.now += 3 * DAY
        assert await world.storage.raw_messages.sweep() == 1
        assert world.parked() == []
        (ticket,) = waiting(world)
        assert (ticket.attempts, [ticket.claim]) == (1, world.claims())
        await world.run()
        assert (set(world.events()), world.claims(), world.parked()) == ({"a"}, [], [])

    @pytest.mark.parametrize("received", [START, START - DAY])
    async def test_a_blob_is_swept_when_it_is_more_than_two_days_old(self, received: datetime) -> None:
        """Its name has the day when its item came, which may be before it was written."""
        world = World()
        await put(world, rich("a", size=100_000), received=received)
        world.storage.messages.clear()
        world.storage.now = START + 2 * DAY
        assert await world.storage.raw_messages.sweep() == 0
        world.storage.now += DAY
        assert await world.storage.raw_messages.sweep() == 1

    async def test_a_blob_of_the_second_in_which_its_item_was_done_with_gets_a_ticket(self) -> None:
        world, item = World(), rich("a", size=100_000)
        await put(world, item)
        world.storage.messages.clear()
        await put(world, item, received=START + DAY)
        await world.run()
        world.storage.now += 3 * DAY
        assert await world.storage.raw_messages.sweep() == 1

    async def test_a_ticket_of_the_sweep_that_finds_no_blob_has_nothing_left_to_do(self) -> None:
        """Versions that left no marker may have handled it."""
        world = World()
        await put(world, rich("a", size=100_000))
        world.storage.messages.clear()
        world.storage.now += 3 * DAY
        await world.storage.raw_messages.sweep()
        world.storage.containers.clear()
        await world.run()
        assert (world.events(), world.parked()) == ({}, [])


class TestDiscarded:
    async def test_what_was_parked_itself_has_no_claim_check_to_let_go_of(self) -> None:
        world = World()
        await put(world, rich("a", certificate_id=UNKNOWN))
        await world.run()
        (name,) = world.storage.names(QUARANTINE_CONTAINER)
        assert await Replay(world.storage.raw_messages).discard(name) is Done.DISCARDED
        assert (world.parked(), world.storage.names(HANDLED_CONTAINER)) == ([], [])

    async def test_a_claim_check_of_an_early_version_goes_by_the_name_that_it_has(self) -> None:
        world = World()
        await put(world, rich("a", size=100_000))
        (claim,) = world.claims()
        blobs = world.storage.containers[CLAIM_CHECKS_CONTAINER]
        blobs["2025/12/31/d-0.json"] = blobs.pop(claim)
        ticket = parse_envelope(taken(world).body).ticket("2025/12/31/d-0.json")
        await world.storage.raw_messages.discard(RAW_QUEUE, ticket)
        assert world.claims() == []


class TestLogged:
    """By its id a message is found in the log."""

    async def test_what_is_put_back(self, caplog: pytest.LogCaptureFixture) -> None:
        world = World(vault_until=START + MINUTE)
        await put(world, basic("a"), rich("b"), rich("c"))
        (message,) = world.storage.messages[RAW_QUEUE]
        await world.deliver(message, RAW_QUEUE)
        assert (
            f"put back: reason=key-vault-503 queue={RAW_QUEUE} id=d-1 items=2 attempts=1 seconds=2" in caplog.messages
        )

    async def test_whoever_asks_for_a_pause_is_named(self, caplog: pytest.LogCaptureFixture) -> None:
        world = World()
        await put(world, basic("a"), basic("b"))
        unpacked = await world.storage.raw_messages.open(taken(world).body, queue=RAW_QUEUE, attempts=1)
        assert unpacked is not None
        asks = UnavailableError("Graph", reason="throttled", retry_after=0.5)
        for other in (UnavailableError("x"), AbandonedError()):
            for failures in ({0: asks, 1: other}, {0: other, 1: asks}):
                caplog.clear()
                await world.storage.raw_messages.finish(unpacked, failures)
                assert "reason=throttled" in caplog.text

    async def test_what_was_handled_already(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        world, item = World(), rich("a", size=100_000)
        for _ in range(2):
            await put(world, item)
        await world.run()
        assert "raw message already handled: id=d" in caplog.messages

    async def test_what_the_sweep_finds(self, caplog: pytest.LogCaptureFixture) -> None:
        world = World()
        await put(world, rich("a", size=100_000), first=7)
        await world.storage.blobs.put(CLAIM_CHECKS_CONTAINER, "2025/01/01/x", b"x")
        world.storage.now += 3 * DAY
        await world.storage.raw_messages.sweep()
        assert caplog.messages == ["not a claim check: blob=2025/01/01/x", "a claim check without a message: id=d-7"]

    def test_where_a_fault_of_ours_was_raised(self, caplog: pytest.LogCaptureFixture) -> None:
        def inner() -> None:
            raise ZeroDivisionError("+49 89 1234567")

        def outer() -> None:
            inner()

        with pytest.raises(ZeroDivisionError) as caught:
            outer()
        assert unexpected(caught.value, "d-7").cause == "ZeroDivisionError"
        line = inner.__code__.co_firstlineno + 1
        assert caplog.messages == [f"unexpected error: type=ZeroDivisionError at=inner:{line} item=d-7"]


class TestAtOnce:
    """An error comes when nothing is under way any more."""

    @staticmethod
    async def work(done: list[str], name: str, error: Exception | None = None) -> str:
        if error is not None:
            raise error
        for _ in range(5):
            await asyncio.sleep(0)
        done.append(name)
        return name

    async def test_of_all_that_is_done(self) -> None:
        done: list[str] = []
        assert await all_of([self.work(done, "a"), self.work(done, "b")]) == ["a", "b"]
        done.clear()
        with pytest.raises(UnavailableError):
            await all_of([self.work(done, "a", UnavailableError("x")), self.work(done, "b")])
        assert done == ["b"]

    async def test_of_what_storage_did_not_take_and_any_other(self) -> None:
        done: list[str] = []
        away, malformed = UnavailableError("x"), MalformedInputError("x", reason="y")
        assert await unavailable({"a": self.work(done, "a"), "b": self.work(done, "b", away)}) == {"b": away}
        assert done == ["a"]
        with pytest.raises(MalformedInputError):
            await unavailable({"a": self.work(done, "a", malformed), "b": self.work(done, "b")})
        assert done == ["a", "b"]
