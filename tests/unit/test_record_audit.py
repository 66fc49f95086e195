"""The audit of call records, against a list and storage in memory."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from dev.simulation.storage_model import Crash, StorageModel
from shared.call_records.audit import PAGES, RecordAudit
from shared.call_records.coverage import Gap, ListedRecord, RecordPage, Step, parse_record
from shared.call_records.deliveries import DELIVERIES_CONTAINER, Deliveries
from shared.call_records.missing import EVERY, SETTLED, Audit, Delivered, KnownDeliveries, delivered_by, first_audit
from shared.notifications.events import Event, with_record
from shared.storage.ports import STATE_CONTAINER
from shared.telemetry import Telemetry
from shared.values.envelope import parse_envelope
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import Subscription
from shared.values.graph_errors import PermissionDeniedError
from tests.fakes import event_from
from tests.unit.model_graph import OTHER_TENANT, START, TENANT, ModelGraph, VirtualClock, call_records, user

NONE, MINUTE, HOUR, DAY = timedelta(0), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def notification(record_id: str, change_type: str = "created", **changes: Any) -> Event:
    """The event of a notification as Graph sends it: it names the record, and no version."""
    item = {
        "changeType": change_type,
        "tenantId": TENANT,
        "subscriptionId": "s",
        "resource": f"communications/callRecords/{record_id}",
        "resourceData": {"@odata.type": "#microsoft.graph.callRecord", "id": record_id},
    }
    return event_from(item | changes, fallback_id=f"{record_id}-{change_type}", received=NOW)


def fetched(record_id: str, version: int) -> Event:
    return with_record(notification(record_id), json.dumps({"id": record_id, "version": version}).encode())


def listed(record_id: str, version: int, modified: datetime | None = NOW) -> ListedRecord:
    value = {"id": record_id, "version": version, "lastModifiedDateTime": modified and modified.isoformat()}
    return parse_record(value)


def known(*deliveries: Delivered | None) -> KnownDeliveries:
    deliveries_of_tenant = KnownDeliveries()
    for delivered in deliveries:
        assert delivered is not None
        deliveries_of_tenant.add(delivered)
    return deliveries_of_tenant


class TestDelivered:
    def test_an_event_that_carries_the_record_delivers_its_version(self) -> None:
        assert delivered_by(fetched("r", 3), NOW) == Delivered("r", 3, NOW)

    def test_of_a_mere_notification_the_version_is_not_known(self) -> None:
        event = notification("r")
        assert delivered_by(event, NOW) == Delivered("r", None, NOW, event.id)

    def test_other_events_deliver_no_record(self) -> None:
        presence = "communications/presences/11111111-1111-1111-1111-111111111111"
        assert delivered_by(notification("r", resource=presence, resourceData={"id": "x"}), NOW) is None
        assert delivered_by(notification("r", resource="communications/callRecords", resourceData=None), NOW) is None


class TestKnownDeliveries:
    def test_nothing_is_known_of_what_was_never_delivered(self) -> None:
        assert not known(delivered_by(fetched("other", 9), NOW)).includes(listed("r", 1))

    @pytest.mark.parametrize(("version", "included"), [(1, True), (2, True), (3, False)])
    def test_a_later_version_stands_for_those_before_it(self, version: int, included: bool) -> None:
        found = known(delivered_by(fetched("r", 2), NOW), delivered_by(fetched("r", 1), NOW))
        assert found.includes(listed("r", version)) is included

    def test_a_notification_that_came_after_the_version_was_of_it(self) -> None:
        found = known(delivered_by(notification("r"), NOW + HOUR))
        assert found.includes(listed("r", 1, NOW))
        assert found.includes(listed("r", 1, None))
        assert found.includes(listed("r", 1, NOW + HOUR + 5 * MINUTE))  # by which clocks may differ
        assert not found.includes(listed("r", 1, NOW + 2 * HOUR))

    def test_a_later_version_needs_a_notification_of_its_own(self) -> None:
        """Whether its time is its own, or the first version's, is not documented: both are coped with."""
        first = delivered_by(notification("r"), NOW + HOUR)
        assert not known(first, first).includes(listed("r", 2, NOW))  # the same one, handled twice
        assert known(first, delivered_by(notification("r", "updated"), NOW + 2 * HOUR)).includes(listed("r", 2, NOW))


class TestAudit:
    AUDIT = Audit(NOW - 9 * DAY, NOW - SETTLED - EVERY)

    def test_nothing_of_before_the_first_sight_is_judged(self) -> None:
        """Else an upgrade would send again what the version before delivered, and noted nowhere."""
        first = first_audit(NOW)
        audit = first.begun(first.since + SETTLED + EVERY)
        assert audit.under_way == Gap(first.since, first.since + EVERY)
        assert not audit.judges(listed("r", 1, audit.since))
        assert audit.judges(listed("r", 1, audit.since + MINUTE))

    def test_it_begins_when_four_hours_of_records_have_settled(self) -> None:
        assert self.AUDIT.begun(NOW - MINUTE) is self.AUDIT
        assert self.AUDIT.begun(NOW).under_way == Gap(self.AUDIT.audited_until, NOW - SETTLED)

    def test_what_graph_may_still_notify_of_is_not_judged(self) -> None:
        audit = self.AUDIT.begun(NOW)
        assert audit.judges(listed("r", 1, NOW - SETTLED))
        assert not audit.judges(listed("r", 1, NOW - SETTLED + MINUTE))
        assert audit.judges(listed("r", 1, None))

    def test_what_was_audited_before_is_judged_again(self) -> None:
        """A later version may have been made, with the time of the first."""
        audit = self.AUDIT.begun(NOW)
        assert audit.judges(listed("r", 2, self.AUDIT.audited_until - DAY))

    def test_one_under_way_goes_on_and_the_next_begins_where_it_ended(self) -> None:
        audit = self.AUDIT.begun(NOW)
        assert audit.begun(NOW + DAY) is audit
        assert audit.under_way is not None
        onward = msgspec.structs.replace(audit.under_way, done=3)
        assert audit.progressed(onward, 2, finished=False) == msgspec.structs.replace(audit, under_way=onward, absent=2)
        ended = audit.progressed(onward, 2, finished=True)
        assert ended == Audit(self.AUDIT.since, NOW - SETTLED)
        assert ended.begun(NOW + EVERY - MINUTE).under_way is None

    def test_nothing_is_listed_of_whose_deliveries_the_notes_are_gone(self) -> None:
        audit = msgspec.structs.replace(self.AUDIT, audited_until=NOW - 20 * DAY).begun(NOW)
        assert audit.under_way == Gap(NOW - 4 * DAY, NOW - SETTLED)

    def test_one_that_takes_days_begins_anew(self) -> None:
        audit = self.AUDIT.begun(NOW).progressed(Gap(NOW - 2 * DAY, NOW - SETTLED, 7), 1, finished=False)
        later = NOW + 2 * DAY + MINUTE
        assert audit.begun(later - MINUTE) is audit
        again = audit.begun(later)
        assert again.under_way == Gap(self.AUDIT.audited_until, later - SETTLED)
        assert again.absent == 0


@dataclass
class CountingTelemetry(Telemetry):
    unnotified_records: int = 0

    def unnotified(self, count: int) -> None:
        self.unnotified_records += count


@dataclass
class Records:
    """Graph's list: by the start of the call, each with some hours' delay; `size` to a page."""

    clock: VirtualClock
    held: list[tuple[str, datetime, ListedRecord]] = field(default_factory=list)
    size: int = 60
    seconds: float = 0.0
    errors: list[SwitchboardError] = field(default_factory=list)  # one for each page, as long as there are any
    pages: Counter[str] = field(default_factory=Counter)
    asked: list[str | None] = field(default_factory=list)

    def make(
        self, record_id: str, version: int = 1, *, ago: timedelta = NONE, tenant_id: str = TENANT, **more: Any
    ) -> None:
        """A record that was made so long ago, of a call that had begun an hour before; one of its id is replaced."""
        made = self.clock.now() - ago
        value = {"id": record_id, "version": version, "lastModifiedDateTime": made.isoformat()} | more
        self.held = [one for one in self.held if one[2].id != record_id]
        self.held.append((tenant_id, made - HOUR, parse_record(value)))

    async def page(self, tenant_id: str, step: Step, link: str | None) -> RecordPage:
        self.pages[tenant_id] += 1
        self.asked.append(step.participant)
        self.clock.advance(timedelta(seconds=self.seconds))
        if self.errors:
            raise self.errors.pop(0)
        found = [
            record for tenant, start, record in self.held if tenant == tenant_id and step.start <= start < step.end
        ]
        first = int(link or 0)
        after = first + self.size
        return RecordPage(tuple(found[first:after]), str(after) if after < len(found) else None)


@dataclass
class Scenario:
    clock: VirtualClock = field(default_factory=VirtualClock)
    storage: StorageModel = field(default_factory=StorageModel)
    telemetry: CountingTelemetry = field(default_factory=CountingTelemetry)

    def __post_init__(self) -> None:
        self.records = Records(self.clock)
        self.graph = ModelGraph(self.clock)
        self.one = self.graph.add(call_records())

    def audit(self) -> RecordAudit:
        """A process of its own: nothing is known but what storage holds."""
        storage = self.storage
        deliveries = Deliveries(storage.blobs, self.clock.now)
        return RecordAudit(storage.blobs, deliveries, storage.raw_messages, self.records, self.clock, self.telemetry)

    async def deliver(self, event: Event, received: datetime | None = None) -> None:
        """What the worker does that has written an event, in a process of its own."""
        worker = Deliveries(self.storage.blobs, self.clock.now)
        worker.add(event, received or self.clock.now())
        await worker.flush()

    async def run(self, *subscriptions: Subscription) -> None:
        await self.audit().run(subscriptions or (self.one,), self.clock.now() + 2 * MINUTE)

    async def begin(self, *subscriptions: Subscription) -> None:
        """See the subscription for the first time, long ago, and audit the quiet time since."""
        await self.run(*subscriptions)
        self.clock.advance(2 * DAY)
        await self.run(*subscriptions)

    async def later(self, wait: timedelta = timedelta(hours=11)) -> None:
        self.clock.advance(wait)
        await self.run()

    def sent(self) -> list[str]:
        """The versions that were put on the raw queue, as their events will be named."""
        envelopes = [parse_envelope(message.body) for message in self.storage.messages["raw-call-records"]]
        events = [
            event_from(bytes(raw), backfilled=True)
            for envelope in envelopes
            if envelope.backfilled
            for raw in envelope.notifications
        ]
        assert len(events) == sum(len(envelope.notifications) for envelope in envelopes)
        return [event.id for event in events]

    def state(self, tenant_id: str = TENANT) -> Audit:
        blobs = self.storage.containers[STATE_CONTAINER]
        (found,) = (blob for name, blob in blobs.items() if name.startswith(f"call-record-audits/{tenant_id}/"))
        return msgspec.json.decode(found.data, type=Audit)


@pytest.fixture
def scenario() -> Scenario:
    return Scenario()


async def test_silence_while_the_subscription_lives_is_made_up_for(scenario: Scenario) -> None:
    await scenario.begin()
    for number in range(3):
        scenario.records.make(f"r{number}")
    await scenario.deliver(fetched("r1", 1))
    await scenario.later()
    assert scenario.sent() == ["r0/1", "r2/1"]
    assert scenario.telemetry.unnotified_records == 2


async def test_what_was_made_up_for_is_not_sent_again(scenario: Scenario) -> None:
    """Even where its event has not been written yet, or never will be."""
    await scenario.begin()
    scenario.records.make("r")
    for _ in range(10):
        await scenario.later(EVERY)
    assert scenario.sent() == ["r/1"]


async def test_nothing_is_sent_of_what_the_version_before_delivered(scenario: Scenario) -> None:
    scenario.records.make("before", ago=HOUR)
    await scenario.run()
    scenario.records.make("while rolling")
    for _ in range(20):
        await scenario.later(EVERY)
    assert scenario.sent() == []


async def test_a_version_after_the_delivered_one_is_absent(scenario: Scenario) -> None:
    await scenario.begin()
    scenario.records.make("r")
    await scenario.deliver(fetched("r", 1))
    await scenario.later()
    scenario.records.make("r", 2)
    await scenario.later()
    assert scenario.sent() == ["r/2"]


@pytest.mark.parametrize(
    ("more", "delivered", "sent"),
    [
        ({}, None, ["r/1"]),
        ({"endDateTime": None}, None, ["r/1"]),
        ({"lastModifiedDateTime": None}, None, ["r/1"]),
        ({}, fetched("r", 1), []),
        ({}, notification("r"), []),  # under notify it alone tells
    ],
)
async def test_a_record_is_absent_unless_its_event_was_delivered(
    scenario: Scenario, more: dict[str, Any], delivered: Event | None, sent: list[str]
) -> None:
    await scenario.begin()
    scenario.records.make("r", **more)
    if delivered is not None:
        await scenario.deliver(delivered)
    await scenario.later()
    assert scenario.sent() == sent


async def test_a_notification_may_come_hours_later(scenario: Scenario) -> None:
    await scenario.begin()
    scenario.records.make("r")
    scenario.clock.advance(6 * HOUR)
    await scenario.run()
    assert scenario.sent() == []
    await scenario.deliver(notification("r"))
    await scenario.later()
    assert scenario.sent() == []


async def test_what_was_delivered_days_before_the_audit_is_known(scenario: Scenario) -> None:
    await scenario.begin()
    scenario.records.make("r")
    await scenario.deliver(fetched("r", 1))
    await scenario.later(4 * DAY - HOUR)
    assert scenario.records.pages[TENANT]
    assert scenario.sent() == []


async def test_a_long_list_is_read_a_few_pages_at_a_time(scenario: Scenario) -> None:
    await scenario.begin()
    scenario.records.size = 1
    for number in range(2 * PAGES):
        scenario.records.make(f"r{number}")
    scenario.records.pages.clear()
    await scenario.later()
    assert scenario.records.pages[TENANT] == PAGES
    runs = 1
    while scenario.state().under_way is not None:
        await scenario.later(5 * MINUTE)
        runs += 1
    assert runs == 3
    assert scenario.sent() == [f"r{number}/1" for number in range(2 * PAGES)]
    assert scenario.state().audited_until == scenario.clock.now() - SETTLED - 2 * 5 * MINUTE


async def test_the_count_is_that_of_the_whole_audit(scenario: Scenario, caplog: pytest.LogCaptureFixture) -> None:
    await scenario.begin()
    scenario.records.size = 1
    for number in range(PAGES):
        scenario.records.make(f"r{number}")
    with caplog.at_level("INFO", logger="shared"):
        await scenario.later()
        await scenario.later(5 * MINUTE)
    assert f"absent={PAGES}" in caplog.messages[-1]


@dataclass
class Trouble:
    """Graph's list, until two records were sent on."""

    scenario: Scenario
    error: SwitchboardError | Crash

    async def page(self, tenant_id: str, step: Step, link: str | None) -> RecordPage:
        if len(self.scenario.sent()) == 2:
            raise self.error
        return await self.scenario.records.page(tenant_id, step, link)


async def meet(scenario: Scenario, error: SwitchboardError | Crash) -> None:
    """Four records are absent, and two of them found when trouble comes."""
    await scenario.begin()
    for number in range(4):
        scenario.records.make(f"r{number}", ago=-number * 6 * HOUR)
    scenario.clock.advance(30 * HOUR)
    troubled = replace(scenario.audit(), records=Trouble(scenario, error))
    await troubled.run((scenario.one,), scenario.clock.now() + 2 * MINUTE)


@pytest.mark.parametrize(
    "error", [UnavailableError("Graph", reason="throttled", retry_after=300.0), PermissionDeniedError("403")]
)
async def test_one_that_ends_midway_goes_on_where_it_was(scenario: Scenario, error: SwitchboardError) -> None:
    await meet(scenario, error)
    assert scenario.sent() == ["r0/1", "r1/1"]
    under_way = scenario.state().under_way
    assert under_way is not None
    scenario.records.pages.clear()
    await scenario.later(5 * MINUTE)
    assert scenario.sent() == [f"r{number}/1" for number in range(4)]
    assert scenario.records.pages[TENANT] == len(under_way.steps((), scenario.clock.now())) - under_way.done


async def test_one_whose_worker_dies_sends_nothing_again(scenario: Scenario) -> None:
    """Its progress is lost, and its notes are not."""

    def storage(what: str, operation: str, apply: Callable[[], Any]) -> Any:
        if (what, operation) == (STATE_CONTAINER, "put blob") and scenario.sent():
            raise Crash
        return apply()

    scenario.storage.fault = storage
    with pytest.raises(Crash):
        await meet(scenario, Crash())
    assert scenario.sent() == ["r0/1", "r1/1"]
    scenario.storage.fault = lambda _what, _operation, apply: apply()
    await scenario.later(5 * MINUTE)
    assert scenario.sent() == [f"r{number}/1" for number in range(4)]


async def test_a_tenant_in_trouble_costs_the_others_nothing(scenario: Scenario) -> None:
    other = scenario.graph.add(call_records(OTHER_TENANT))
    await scenario.begin(scenario.one, other)
    scenario.records.make("ours")
    scenario.records.make("theirs", tenant_id=OTHER_TENANT)
    scenario.clock.advance(11 * HOUR)
    scenario.records.errors = [UnavailableError("Graph", reason="throttled")]
    await scenario.run(scenario.one, other)
    assert scenario.sent() == ["theirs/1"]
    assert scenario.state(OTHER_TENANT).under_way is None
    await scenario.run(scenario.one, other)
    assert scenario.sent() == ["theirs/1", "ours/1"]


async def test_a_subscription_with_much_to_do_leaves_time_to_the_next(scenario: Scenario) -> None:
    resource = f"communications/callRecords?$filter=participants/any(p:p/id eq '{user(1)}')"
    other = scenario.graph.add(call_records(), resource=resource)
    await scenario.begin(scenario.one, other)
    scenario.clock.advance(11 * HOUR)
    scenario.records.asked.clear()
    scenario.records.seconds = 20.0
    await scenario.run(scenario.one, other)
    assert scenario.records.asked == [None, None, None, user(1)]


async def test_deliveries_are_told_apart_by_tenant(scenario: Scenario) -> None:
    other = scenario.graph.add(call_records(OTHER_TENANT))
    await scenario.begin(scenario.one, other)
    scenario.records.make("r", tenant_id=OTHER_TENANT)
    await scenario.deliver(fetched("r", 1))
    scenario.clock.advance(11 * HOUR)
    await scenario.run(scenario.one, other)
    assert scenario.sent() == ["r/1"]


async def test_past_the_deadline_nothing_is_begun(scenario: Scenario) -> None:
    await scenario.begin()
    scenario.clock.advance(11 * HOUR)
    scenario.records.pages.clear()
    await scenario.audit().run((scenario.one,), scenario.clock.now())
    assert not scenario.records.pages


async def test_two_at_once_send_the_same_and_neither_undoes_the_others_progress(scenario: Scenario) -> None:
    await scenario.begin()
    scenario.records.make("r")
    scenario.clock.advance(11 * HOUR)
    original, once = scenario.records.page, [True]

    async def overtaken(tenant_id: str, step: Step, link: str | None) -> RecordPage:
        if once and once.pop():
            await scenario.run()
        return await original(tenant_id, step, link)

    scenario.records.page = overtaken  # type: ignore[method-assign]
    await scenario.run()
    assert set(scenario.sent()) == {"r/1"}
    assert scenario.state().under_way is None


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b'{"\xff": 1}',
        b'{"more": ' + b"[" * 20_000,
        b'{"since": "2026-01-01T00:00:00", "audited_until": "2026-01-01T00:00:00"}',
    ],
)
async def test_a_damaged_state_begins_anew_and_says_so(
    scenario: Scenario, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await scenario.begin()
    blobs = scenario.storage.containers[STATE_CONTAINER]
    for name in blobs:
        blobs[name] = blobs[name]._replace(data=data)
    await scenario.later()
    assert scenario.state() == first_audit(scenario.clock.now())
    assert any("cannot be read" in message for message in caplog.messages)


async def test_ids_are_all_that_is_logged(scenario: Scenario, caplog: pytest.LogCaptureFixture) -> None:
    await scenario.begin()
    scenario.records.make("r", organizer="Kim Example", joinWebUrl="https://teams.example/secret")
    with caplog.at_level("INFO", logger="shared"):
        await scenario.later()
    (line,) = (message for message in caplog.messages if "no notification" in message)
    assert line.endswith(f"tenant={TENANT} count=1 ids=r")
    assert not any("Kim" in message or "secret" in message for message in caplog.messages)


class TestByHand:
    async def test_only_what_is_absent_of_that_time_is_sent_with_its_progress(self, scenario: Scenario) -> None:
        for number in range(3):
            scenario.records.make(f"r{number}")
        scenario.records.make("long before", ago=9 * DAY)
        await scenario.deliver(notification("r1"))
        seen = await self.by_hand(scenario, scenario.one.resource)
        assert scenario.sent() == ["r0/1", "r2/1"]
        assert (seen[-1].listed, seen[-1].absent) == (3, 2)
        assert [found.done for found in seen] == [*range(seen[-1].steps), seen[-1].steps]

    async def by_hand(self, scenario: Scenario, resource: str) -> list[Any]:
        gap = Gap(START - HOUR, START + HOUR)
        return [found async for found in scenario.audit().backfill(TENANT, resource, gap)]

    async def test_again_it_finds_nothing(self, scenario: Scenario) -> None:
        scenario.records.make("r")
        assert [(await self.by_hand(scenario, scenario.one.resource))[-1].absent for _ in range(2)] == [1, 0]

    async def test_of_a_filter_its_participants_are_asked_for(self, scenario: Scenario) -> None:
        resource = f"communications/callRecords?$filter=participants/any(p:p/id in ('{user(1)}','{user(2)}'))"
        scenario.records.make("shared")
        last = (await self.by_hand(scenario, resource))[-1]
        assert (last.steps, last.listed, last.absent) == (2, 2, 1)


class TestDeliveries:
    async def test_what_comes_together_is_one_write(self, scenario: Scenario) -> None:
        worker = Deliveries(scenario.storage.blobs, scenario.clock.now)
        for number in range(50):
            worker.add(fetched(f"r{number}", 1), START)
        await worker.flush()
        assert scenario.storage.log == [("append blob", DELIVERIES_CONTAINER)]

    async def test_while_storage_is_away_they_wait(self, scenario: Scenario) -> None:
        worker = Deliveries(scenario.storage.blobs, scenario.clock.now)
        scenario.storage.refused.add(DELIVERIES_CONTAINER)
        worker.add(fetched("r", 1), START)
        await worker.flush()
        scenario.storage.refused.clear()
        await worker.flush()
        found = await worker.known(TENANT, START)
        assert found.includes(listed("r", 1))

    async def test_they_are_written_by_themselves_soon_and_then_not_too_often(self) -> None:
        storage, seconds = StorageModel(), list[float]()

        def fault(what: str, operation: str, apply: Callable[[], Any]) -> Any:
            if operation == "append blob":
                seconds.append(asyncio.get_running_loop().time() - begun)
                if seconds[-1] < 50:
                    raise UnavailableError(what, reason="storage-503")
            return apply()

        begun = asyncio.get_running_loop().time()
        storage.fault = fault
        worker = Deliveries(storage.blobs, lambda: START)
        for number in range(99):
            worker.add(fetched(f"r{number}", 1), START)
            await asyncio.sleep(1)
        await asyncio.sleep(20)
        found = await worker.known(TENANT, START)
        assert all(found.includes(listed(f"r{number}", 1)) for number in range(99))
        assert seconds == [1, 16, 31, 46, 61, 76, 91, 106]

    async def test_a_line_that_cannot_be_read_costs_no_other(self, scenario: Scenario) -> None:
        worker = Deliveries(scenario.storage.blobs, scenario.clock.now)
        await worker.write(TENANT, [Delivered("a", 1, START)])
        (name,) = scenario.storage.names(DELIVERIES_CONTAINER)
        await scenario.storage.blobs.append(
            DELIVERIES_CONTAINER,
            name,
            b'["b"]\n\xff\n["\xff",1,"2026-01-01T00:00:00Z"]\n["c",null,"2026-01-01T00:00:00","n"]\n',
        )
        await worker.write(TENANT, [Delivered("c", 1, START)])
        found = await worker.known(TENANT, START)
        assert found.includes(listed("a", 1))
        assert found.includes(listed("c", 1))

    @pytest.mark.parametrize("tenant", ["", "../state", None])
    async def test_what_names_no_tenant_is_passed_over(self, scenario: Scenario, tenant: str | None) -> None:
        worker = Deliveries(scenario.storage.blobs, scenario.clock.now)
        worker.add(notification("r", tenantId=tenant), START)
        await worker.flush()
        assert scenario.storage.log == []
