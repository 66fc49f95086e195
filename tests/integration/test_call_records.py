"""Call records from end to end: gaps that are filled, and records that are fetched."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dev.simulator import Fault, Kind, Options
from dev.simulator.directory import CallRecord
from dev.simulator.payloads import build
from shared import triggers
from shared.call_records.coverage import Coverage
from shared.call_records.missing import EVERY, SETTLED, Audit
from shared.storage.ports import STATE_CONTAINER
from shared.values.envelope import GIVE_UP_AFTER
from shared.values.events.event_types import CloudEvent
from shared.values.resources import CALL_RECORDS_QUEUE, RAW_QUEUE
from tests.integration.app import App, Message

EVENTS = "call-record-events"
TENANT = "f69f5191-20ae-4093-8dae-3ec09edeb253"
SOURCE = "https://graph.microsoft.com/v1.0/communications/callRecords"
HOUR = timedelta(hours=1)


@pytest.fixture
def desired(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """The app with a subscription to all call records; nobody is there to answer handshakes."""
    path = tmp_path / "subscriptions.toml"
    path.write_text(f'[[callRecords]]\ntenant = "{TENANT}"\n')
    monkeypatch.setenv("SUBSCRIPTIONS", str(path))
    monkeypatch.setattr(app.sim.graph.settings, "handshake", False)
    for subscription in app.sim.graph.subscriptions:
        app.sim.graph.remove(subscription.id)
    app.sim.directory.call_records.clear()
    yield app
    app.sim.directory.call_records.clear()


@pytest.fixture
def fetching(desired: App, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setenv("CALL_RECORDS", "fetch")
    return desired


def record(app: App, name: str, ago: timedelta, **changes: Any) -> CallRecord:
    """A record that was made `ago`, of a call that had started an hour before."""
    made = app.sim.clock.now() - ago
    found = CallRecord(name, made - HOUR, modified=made, **changes)
    app.sim.directory.call_records[name] = found
    return found


async def lose_the_subscription(app: App, ago: timedelta) -> None:
    """Subscribe; then the subscription was seen last some time ago, and is gone."""
    await triggers.renew(app.parts)
    (subscription,) = app.sim.graph.subscriptions
    app.sim.graph.remove(subscription.id)
    (name,) = await states(app)
    coverage = await coverage_of(app)
    seen = msgspec.structs.replace(coverage, covered_until=app.sim.clock.now() - ago)
    await app.parts.blobs.put(STATE_CONTAINER, name, msgspec.json.encode(seen))


async def states(app: App) -> list[str]:
    return [name for name in await app.blobs_in(STATE_CONTAINER) if name.startswith("call-records/")]


async def coverage_of(app: App) -> Coverage:
    (name,) = await states(app)
    return msgspec.json.decode((await app.blobs_in(STATE_CONTAINER))[name], type=Coverage)


async def handle(app: App, queue: str = CALL_RECORDS_QUEUE) -> None:
    """Run the function of a queue on all that waits."""
    waiting = (await app.raw()).get(queue, [])
    if waiting:
        await app.queues.get_queue_client(queue).clear_messages()
    for message in waiting:
        await triggers.decrypt(app.parts, Message(json.dumps(message), 1), queue)


async def events(app: App) -> list[CloudEvent]:
    return sorted(await app.on(EVENTS), key=lambda event: event.id)


async def test_what_a_gap_holds_is_written_and_marked(desired: App) -> None:
    await lose_the_subscription(desired, timedelta(hours=6))
    record(desired, "long-before", timedelta(hours=12))
    record(desired, "in-the-gap", timedelta(hours=5))
    record(desired, "updated-in-the-gap", timedelta(hours=3), version=2)
    await triggers.renew(desired.parts)
    await handle(desired)
    first, second = await events(desired)
    assert (first.id, first.source, first.type) == ("in-the-gap/1", SOURCE, "Microsoft.Graph.CallRecordCreated")
    assert (second.id, second.source, second.type) == (
        "updated-in-the-gap/2",
        SOURCE,
        "Microsoft.Graph.CallRecordUpdated",
    )
    assert {(one.backfilled, one.tenantid, one.subscriptionid) for one in (first, second)} == {("true", TENANT, None)}
    assert json.loads(bytes(first.data)) == desired.sim.directory.call_records["in-the-gap"].entity()
    assert first.time == desired.sim.directory.call_records["in-the-gap"].modified
    assert (await coverage_of(desired)).gaps == ()


async def test_a_gap_is_filled_once(desired: App) -> None:
    await lose_the_subscription(desired, timedelta(hours=6))
    record(desired, "one", timedelta(hours=5))
    await triggers.renew(desired.parts)
    await handle(desired)
    desired.sim.faults.forget_requests()
    await triggers.renew(desired.parts)
    assert CALL_RECORDS_QUEUE not in await desired.raw()
    assert not [one for one in desired.sim.faults.requests if "callRecords" in one.path]
    assert len(await events(desired)) == 1


async def test_a_second_search_of_the_same_time_gives_the_same_ids(desired: App) -> None:
    await lose_the_subscription(desired, timedelta(hours=6))
    record(desired, "one", timedelta(hours=5))
    await triggers.renew(desired.parts)
    await lose_the_subscription(desired, timedelta(hours=7))
    await triggers.renew(desired.parts)
    await handle(desired)
    assert [event.key for event in await events(desired)] == [(SOURCE, "one/1")] * 2


async def test_all_pages_are_read(desired: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desired.sim.directory, "record_page", 2)
    await lose_the_subscription(desired, timedelta(hours=6))
    for number in range(5):
        record(desired, f"{number}", timedelta(hours=5))
    await triggers.renew(desired.parts)
    await handle(desired)
    assert [event.id for event in await events(desired)] == [f"{number}/1" for number in range(5)]


async def test_graph_says_that_some_were_missed(desired: App) -> None:
    await triggers.renew(desired.parts)
    record(desired, "one", timedelta(hours=2))
    (subscription,) = desired.sim.graph.subscriptions
    item = {
        "subscriptionId": subscription.id,
        "tenantId": TENANT,
        "clientState": subscription.client_state,
        "lifecycleEvent": "missed",
    }
    await desired.post(desired.collection(item, tokens=[]))
    for message in (await desired.raw())["lifecycle-notifications"]:
        await triggers.handle_lifecycle(desired.parts, Message(json.dumps(message), 1), "lifecycle-notifications")
    assert len((await coverage_of(desired)).gaps) == 1
    await triggers.renew(desired.parts)
    await handle(desired)
    assert [event.id for event in await events(desired)] == ["one/1"]


async def test_graph_has_removed_the_subscription(desired: App) -> None:
    await triggers.renew(desired.parts)
    (gone,) = desired.sim.graph.subscriptions
    record(desired, "one", timedelta(seconds=1))
    desired.sim.graph.remove(gone.id)
    item = {
        "subscriptionId": gone.id,
        "tenantId": TENANT,
        "clientState": gone.client_state,
        "lifecycleEvent": "subscriptionRemoved",
    }
    await desired.post(desired.collection(item, tokens=[]))
    for message in (await desired.raw())["lifecycle-notifications"]:
        await triggers.handle_lifecycle(desired.parts, Message(json.dumps(message), 1), "lifecycle-notifications")
    (made,) = desired.sim.graph.subscriptions
    coverage = await coverage_of(desired)
    assert (coverage.subscription_id, len(coverage.gaps)) == (made.id, 1)
    await triggers.renew(desired.parts)
    await handle(desired)
    assert [(event.id, event.backfilled) for event in await events(desired)] == [("one/1", "true")]


async def test_a_subscription_that_is_merely_renewed_leaves_no_gap(desired: App) -> None:
    await triggers.renew(desired.parts)
    before = await coverage_of(desired)
    await triggers.renew(desired.parts)
    after = await coverage_of(desired)
    assert (after.subscription_id, after.gaps) == (before.subscription_id, ())
    assert after.covered_until > before.covered_until


async def test_while_graph_lists_nothing_the_gap_stays(desired: App) -> None:
    await lose_the_subscription(desired, timedelta(hours=6))
    record(desired, "one", timedelta(hours=5))
    desired.sim.faults.add(Fault("graph", "GET", "communications/callRecords", status=403), times=None)
    await triggers.renew(desired.parts)
    assert len((await coverage_of(desired)).gaps) == 1
    desired.sim.faults.clear()
    await triggers.renew(desired.parts)
    await handle(desired)
    assert [event.id for event in await events(desired)] == ["one/1"]


async def test_a_record_is_fetched_with_all_its_pages(fetching: App) -> None:
    found = record(fetching, "r", HOUR, participants=300, sessions=70, version=3)
    await fetching.post(fetching.collection(fetching.item(build(Kind.CALL_RECORD_CREATED, Options(id="r"))), tokens=[]))
    assert list(await fetching.raw()) == [CALL_RECORDS_QUEUE]
    await handle(fetching)
    (event,) = await events(fetching)
    assert (event.id, event.source, event.type) == ("r/3", SOURCE, "Microsoft.Graph.CallRecordCreated")
    assert (event.backfilled, event.time) == (None, found.modified)
    assert event.dataref is not None
    (data,) = [json.loads(blob) for blob in (await fetching.data()).values()]
    assert len({session["id"] for session in data["sessions"]}) == 70
    assert all(session["segments"] for session in data["sessions"])
    assert [person["id"] for person in data["participants_v2"]] == list(found.user_ids)
    assert not [name for name in data if "nextLink" in name]


async def test_a_record_that_cannot_be_read_yet_is_tried_again(fetching: App) -> None:
    await fetching.post(
        fetching.collection(
            fetching.item(build(Kind.CALL_RECORD_CREATED, Options(id="late"))),
            fetching.item(build(Kind.CALL_RECORD_CREATED, Options(id="there"))),
            tokens=[],
        )
    )
    record(fetching, "there", HOUR)
    await handle(fetching)
    assert [event.id for event in await events(fetching)] == ["there/1"]
    assert await fetching.quarantined() == []
    record(fetching, "late", HOUR)
    properties = await fetching.queues.get_queue_client(CALL_RECORDS_QUEUE).get_queue_properties()
    assert properties.approximate_message_count == 1


async def test_a_record_that_never_comes_ends_in_quarantine(fetching: App) -> None:
    await fetching.post(
        fetching.collection(fetching.item(build(Kind.CALL_RECORD_CREATED, Options(id="never"))), tokens=[])
    )
    (message,) = (await fetching.raw())[CALL_RECORDS_QUEUE]
    since = (fetching.sim.clock.now() - GIVE_UP_AFTER).isoformat()
    await triggers.decrypt(
        fetching.parts, Message(json.dumps(message | {"attempts": 30, "failing_since": since}), 1), CALL_RECORDS_QUEUE
    )
    (parked,) = await fetching.quarantined()
    assert (parked["reason"], parked["queue"]) == ("call-record-not-found", CALL_RECORDS_QUEUE)


async def test_where_graph_throttles_the_record_waits_as_long_as_it_asks(fetching: App) -> None:
    record(fetching, "r", HOUR)
    fetching.sim.faults.add(Fault("graph", "GET", "callRecords", status=429, retry_after=90), times=None)
    await fetching.post(fetching.collection(fetching.item(build(Kind.CALL_RECORD_CREATED, Options(id="r"))), tokens=[]))
    before = fetching.sim.clock.now()
    put: list[timedelta] = []
    queues = fetching.parts.queues
    original = queues.put

    async def watched(queue: str, body: bytes, encoding: Any, delay: timedelta = timedelta(0)) -> None:
        put.append(delay)
        await original(queue, body, encoding, delay)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queues, "put", watched)
        await handle(fetching)
    assert fetching.sim.clock.now() - before < timedelta(seconds=90)
    assert put == [timedelta(seconds=90)]
    assert len([one for one in fetching.sim.faults.requests if "callRecords" in one.path]) == 1


async def test_two_notifications_of_one_record_are_one_event(fetching: App) -> None:
    record(fetching, "r", HOUR, version=2)
    items = [
        fetching.item(build(kind, Options(id="r"))) for kind in (Kind.CALL_RECORD_CREATED, Kind.CALL_RECORD_UPDATED)
    ]
    await fetching.post(fetching.collection(*items, tokens=[]))
    await handle(fetching)
    assert [event.id for event in await events(fetching)] == ["r/2"]
    assert await fetching.quarantined() == []


async def test_what_was_missed_is_fetched_too(fetching: App) -> None:
    await lose_the_subscription(fetching, timedelta(hours=6))
    record(fetching, "one", timedelta(hours=5))
    await triggers.renew(fetching.parts)
    await handle(fetching)
    (event,) = await events(fetching)
    assert (event.id, event.backfilled) == ("one/1", "true")
    assert len(json.loads(bytes(event.data))["participants_v2"]) == 2


async def rewind_the_audit(app: App) -> None:
    """The audit is due, and all that was delivered in the last days is noted."""
    (name,) = [name for name in await app.blobs_in(STATE_CONTAINER) if name.startswith("call-record-audits/")]
    now = app.sim.clock.now()
    audit = Audit(now - timedelta(days=3), now - SETTLED - 2 * EVERY)
    await app.parts.blobs.put(STATE_CONTAINER, name, msgspec.json.encode(audit))


async def test_silence_while_the_subscription_lives(desired: App, caplog: pytest.LogCaptureFixture) -> None:
    await triggers.renew(desired.parts)
    for name in ("told", "untold"):
        record(desired, name, SETTLED + HOUR)
    record(desired, "fresh", HOUR)  # its notification may still come
    await desired.post(desired.collection(desired.item(build(Kind.CALL_RECORD_CREATED, Options(id="told"))), tokens=[]))
    await handle(desired, RAW_QUEUE)
    (live,) = await events(desired)
    await desired.parts.deliveries.flush()
    for _ in range(2):  # of which the second finds nothing
        await rewind_the_audit(desired)
        await triggers.renew(desired.parts)
        await handle(desired)
    found = [event for event in await events(desired) if event.id != live.id]
    assert [(event.key, event.backfilled) for event in found] == [((SOURCE, "untold/1"), "true")]
    assert sum("no notification" in message for message in caplog.messages) == 1


async def test_a_notification_that_comes_after_all_gives_the_same_event(fetching: App) -> None:
    await triggers.renew(fetching.parts)
    record(fetching, "late", SETTLED + HOUR)
    await rewind_the_audit(fetching)
    await triggers.renew(fetching.parts)
    await handle(fetching)
    await fetching.post(
        fetching.collection(fetching.item(build(Kind.CALL_RECORD_CREATED, Options(id="late"))), tokens=[])
    )
    await handle(fetching)
    first, second = await events(fetching)
    assert first.key == second.key == (SOURCE, "late/1")


async def test_gaps_come_before_an_audit(desired: App) -> None:
    await lose_the_subscription(desired, timedelta(hours=6))
    record(desired, "one", SETTLED + HOUR)
    await rewind_the_audit(desired)
    desired.sim.faults.add(Fault("graph", "GET", "communications/callRecords", status=403), times=1)
    desired.sim.faults.forget_requests()
    await triggers.renew(desired.parts)
    assert len((await coverage_of(desired)).gaps) == 1
    assert len([one for one in desired.sim.faults.requests if "callRecords" in one.path]) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tenantId": "00000000-0000-0000-0000-000000000000"}, "unknown-tenant"),
        (
            {"resource": "communications/callRecords", "resourceData": {"id": "../users"}},
            "call-record-malformed",
        ),
        ({"resource": "communications/callRecords", "resourceData": None}, "call-record-malformed"),
    ],
)
async def test_what_names_no_record_of_ours_asks_graph_nothing(
    fetching: App, changes: dict[str, Any], reason: str
) -> None:
    item = fetching.item(build(Kind.CALL_RECORD_CREATED, Options(id="r")), **changes)
    await fetching.post(fetching.collection(item, tokens=[]))
    await handle(fetching)
    (parked,) = await fetching.quarantined()
    assert parked["reason"] == reason
    assert not [one for one in fetching.sim.faults.requests if "callRecords" in one.path]
