"""The search of gaps, against a list of call records in memory."""

from dataclasses import dataclass, field, replace
from datetime import timedelta

import msgspec
import pytest

from dev.simulation.storage_model import StorageModel
from shared.call_records.backfill import Backfill
from shared.call_records.coverage import Coverage, Gap, ListedRecord, RecordPage, Step
from shared.storage.ports import STATE_CONTAINER
from shared.values.envelope import parse_envelope
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import Subscription
from shared.values.graph_errors import PermissionDeniedError, RequestRejectedError
from tests.fakes import write_blob, write_blob_in_between
from tests.unit.model_graph import OTHER_TENANT, START, TENANT, ModelGraph, VirtualClock, call_records, user

HOUR = timedelta(hours=1)
LONG = timedelta(minutes=5)


@dataclass
class Records:
    """Every step has the same pages, of one record each; reading one takes `seconds`."""

    clock: VirtualClock
    pages: int = 3
    seconds: float = 1.0
    errors: dict[int, SwitchboardError] = field(default_factory=dict)
    asked: list[tuple[str, Step, str | None]] = field(default_factory=list)
    stale: set[str] = field(default_factory=set)

    async def page(self, tenant_id: str, step: Step, link: str | None) -> RecordPage:
        self.asked.append((tenant_id, step, link))
        self.clock.advance(timedelta(seconds=self.seconds))
        if link in self.stale:
            raise RequestRejectedError("the link has lapsed")
        if (error := self.errors.pop(len(self.asked), None)) is not None:
            raise error
        number = int(link or 0)
        identity = f"{step.start:%d-%H}-{number}"
        record = ListedRecord(identity, 2, None, msgspec.json.encode({"id": identity, "version": 2}))
        return RecordPage((record,), str(number + 1) if number + 1 < self.pages else None)


@dataclass
class Scenario:
    clock: VirtualClock = field(default_factory=VirtualClock)
    storage: StorageModel = field(default_factory=StorageModel)

    def __post_init__(self) -> None:
        self.records = Records(self.clock)
        self.graph = ModelGraph(self.clock)
        self.backfill = Backfill(self.storage.blobs, self.storage.raw_messages, self.records, self.clock)

    @property
    def states(self) -> dict[str, Coverage]:
        """What is remembered of each subscription, by the name of its blob."""
        blobs = self.storage.containers[STATE_CONTAINER]
        return {name: msgspec.json.decode(blob.data, type=Coverage) for name, blob in blobs.items()}

    def coverage(self, tenant_id: str = TENANT) -> Coverage:
        (coverage,) = (coverage for name, coverage in self.states.items() if f"/{tenant_id}/" in name)
        return coverage

    def written(self) -> list[str]:
        """The ids of the records that were put on the raw queue."""
        envelopes = [parse_envelope(message.body) for message in self.storage.messages["raw-call-records"]]
        assert all(envelope.backfilled for envelope in envelopes)
        items = [msgspec.json.decode(raw) for envelope in envelopes for raw in envelope.notifications]
        return [item["resourceData"]["id"] for item in items]

    async def lose(self, gap: timedelta = HOUR, tenant_id: str = TENANT) -> Subscription:
        """A subscription that was there is replaced after a while."""
        await self.backfill.observe([self.graph.add(call_records(tenant_id))])
        self.clock.advance(gap)
        found = self.graph.add(call_records(tenant_id))
        await self.backfill.observe([found])
        return found

    async def run(self, *subscriptions: Subscription, time: timedelta = LONG) -> None:
        await self.backfill.run(subscriptions, self.clock.now() + time)


@pytest.fixture
def scenario() -> Scenario:
    return Scenario()


def wanted(gap: Gap, pages: int) -> list[str]:
    steps = gap.steps((), START)
    return [f"{step.start:%d-%H}-{number}" for step in steps for number in range(pages)]


async def test_a_gap_is_searched_to_its_end_and_forgotten(scenario: Scenario) -> None:
    found = await scenario.lose()
    (gap,) = scenario.coverage().gaps
    await scenario.run(found)
    assert scenario.written() == wanted(gap, 3)
    assert scenario.coverage() == Coverage(found.id, START + HOUR)


async def test_what_one_run_leaves_the_next_ones_do(scenario: Scenario) -> None:
    found = await scenario.lose()
    (gap,) = scenario.coverage().gaps
    runs = 0
    while scenario.coverage().gaps:
        await scenario.run(found, time=timedelta(seconds=4))
        runs += 1
    assert scenario.written() == wanted(gap, 3)
    assert runs == -(-len(wanted(gap, 3)) // 4)


async def test_a_link_that_has_lapsed_costs_a_step_and_no_more(scenario: Scenario) -> None:
    found = await scenario.lose()
    (gap,) = scenario.coverage().gaps
    await scenario.run(found, time=timedelta(seconds=5))
    assert scenario.coverage().gaps == (msgspec.structs.replace(gap, done=1, link="2"),)
    scenario.records.stale = {"2"}
    asked = len(scenario.records.asked)
    scenario.records.pages = 2
    await scenario.run(found)
    again, *_ = scenario.records.asked[asked + 1 :]
    assert again[1:] == (gap.steps((), START)[1], None)
    assert set(scenario.written()) >= set(wanted(gap, 2))
    assert scenario.coverage().gaps == ()


@pytest.mark.parametrize(
    ("error", "at", "done", "link"),
    [(UnavailableError("Graph"), 6, 1, "2"), (PermissionDeniedError("403"), 7, 2, None)],
)
async def test_an_error_keeps_what_was_done_and_harms_no_other_tenant(
    scenario: Scenario, error: SwitchboardError, at: int, done: int, link: str | None
) -> None:
    one, other = await scenario.lose(), await scenario.lose(tenant_id=OTHER_TENANT)
    (gap,) = scenario.coverage().gaps
    scenario.records.errors = {at: error}
    await scenario.run(one, other)
    assert scenario.coverage().gaps == (msgspec.structs.replace(gap, done=done, link=link),)
    assert scenario.coverage(OTHER_TENANT).gaps == ()
    await scenario.run(one)
    ours = wanted(gap, 3)  # the other tenant's gap, and so its steps, begin an hour later
    assert [name for name in scenario.written() if name in ours] == ours


async def test_a_list_that_goes_round_in_circles_is_left(scenario: Scenario) -> None:
    found = await scenario.lose()
    original = scenario.records.page

    async def circular(tenant_id: str, step: Step, link: str | None) -> RecordPage:
        page = await original(tenant_id, step, link)
        return page if link is None else RecordPage(page.records, link)

    scenario.records.page = circular  # type: ignore[method-assign]
    await scenario.run(found)
    assert len(scenario.records.asked) == 2
    assert len(scenario.coverage().gaps) == 1


async def test_a_tenant_with_much_to_do_leaves_time_to_the_next(scenario: Scenario) -> None:
    one, other = await scenario.lose(), await scenario.lose(tenant_id=OTHER_TENANT)
    scenario.records.pages = 1000
    await scenario.run(one, other, time=timedelta(seconds=60))
    tenants = [tenant_id for tenant_id, _, _ in scenario.records.asked]
    assert (tenants.count(TENANT), tenants.count(OTHER_TENANT)) == (30, 30)


async def test_what_graph_has_forgotten_is_not_asked_for(scenario: Scenario) -> None:
    found = await scenario.lose(timedelta(days=60))
    await scenario.run(found, time=timedelta(days=1))
    assert min(step.end for _, step, _ in scenario.records.asked) > START + timedelta(days=30)
    assert scenario.coverage().gaps == ()


async def test_a_filtered_subscription_is_searched_by_its_participants(scenario: Scenario) -> None:
    resource = f"communications/callRecords?$filter=participants/any(p:p/id in ('{user(1)}','{user(2)}'))"
    await scenario.backfill.observe([scenario.graph.add(call_records(), resource=resource)])
    scenario.clock.advance(HOUR)
    found = scenario.graph.add(call_records(), resource=resource)
    await scenario.backfill.observe([found])
    await scenario.run(found)
    assert list(dict.fromkeys(step.participant for _, step, _ in scenario.records.asked)) == [user(1), user(2)]


async def test_subscriptions_of_one_tenant_have_each_their_own_past(scenario: Scenario) -> None:
    resource = f"communications/callRecords?$filter=participants/any(p:p/id eq '{user(1)}')"
    all_records, of_one = scenario.graph.add(call_records()), scenario.graph.add(call_records(), resource=resource)
    await scenario.backfill.observe([all_records, of_one])
    scenario.clock.advance(LONG)
    await scenario.backfill.observe([all_records, of_one])
    assert [coverage.gaps for coverage in scenario.states.values()] == [(), ()]


async def test_missed_while_nothing_was_known_yet(scenario: Scenario) -> None:
    await scenario.backfill.missed(scenario.graph.add(call_records()))
    assert len(scenario.coverage().gaps) == 1


async def test_two_that_write_at_once_lose_nothing(scenario: Scenario) -> None:
    found = await scenario.lose()
    (name,) = scenario.states
    theirs = scenario.coverage().noted(START - 9 * HOUR, START - 8 * HOUR)
    write_blob_in_between(scenario.storage, STATE_CONTAINER, name, msgspec.json.encode(theirs))
    await scenario.run(found, time=timedelta(seconds=4))
    first, second = scenario.coverage().gaps
    assert (first.done, first.link) == (1, "1")
    assert second == Gap(START - 9 * HOUR, START - 8 * HOUR)
    assert list(scenario.states) == [name]


async def test_what_was_kept_under_graphs_spelling_is_carried_over(scenario: Scenario) -> None:
    """Before, the blob was named after the resource as Graph spelled it that day."""
    want = call_records()
    spelled = scenario.graph.add(want, resource="Communications/CallRecords/?x")
    await scenario.backfill.observe([spelled])
    scenario.clock.advance(HOUR)
    found = replace(scenario.graph.add(want), spelling=spelled.resource)
    await scenario.backfill.observe([found])
    former, carried = scenario.states.values()
    assert (former.gaps, carried.gaps) == ((), (Gap(START, START + HOUR),))


@pytest.mark.parametrize(
    "data",
    [b"", b'["\xff"]', b'{"more": ' + b"[" * 20_000, b'{"subscription_id": "s", "covered_until": "2026-01-01T00:00"}'],
)
async def test_what_is_damaged_begins_anew_and_holds_up_no_other(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    scenario = Scenario()
    found = [scenario.graph.add(call_records(tenant_id)) for tenant_id in (TENANT, OTHER_TENANT)]
    await scenario.backfill.observe(found)
    (name,) = (name for name in scenario.states if TENANT in name)
    write_blob(scenario.storage, STATE_CONTAINER, name, data)
    assert await scenario.backfill.run(found, scenario.clock.now() + LONG) == found
    await scenario.backfill.observe(found)
    assert scenario.coverage() == Coverage(found[0].id, scenario.clock.now())
    assert any("cannot be read" in message and TENANT in message for message in caplog.messages)
