"""Records put into events: at once, in time, and within Graph's limits."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest

from shared.call_records.coverage import Gap
from shared.call_records.fetch import CallRecordFetch
from shared.call_records.listing import CallRecords
from shared.graph.client import GraphClient
from shared.graph.throttling import RateLimiter
from shared.notifications.decrypt import Opened
from shared.notifications.events import Event
from shared.values.errors import MalformedContentError, SwitchboardError, UnavailableError
from tests.fakes import event_from
from tests.unit.model_graph import START, TENANT, VirtualClock


def opened(index: int, record_id: str, **changes: Any) -> Opened:
    item = {
        "changeType": "updated",
        "tenantId": TENANT,
        "subscriptionId": "s",
        "resource": f"communications/callRecords/{record_id}",
        "resourceData": {"@odata.type": "#microsoft.graph.callRecord", "id": record_id},
    }
    return Opened(index, event_from(item | changes, fallback_id=f"{index}"))


@dataclass
class Records:
    versions: dict[str, int] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    at_once: int = 0
    most: int = 0

    async def record(self, tenant_id: str, record_id: str) -> bytes:
        assert tenant_id == TENANT
        self.asked.append(record_id)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(0)
            if record_id in self.hanging:
                await asyncio.Event().wait()
        finally:
            self.at_once -= 1
        if record_id not in self.versions:
            raise UnavailableError("the call record", reason="call-record-not-found")
        return json.dumps({"id": record_id, "version": self.versions[record_id]}).encode()


def ids(found: Sequence[Opened]) -> dict[int, str]:
    """The event's id, or the error's reason, by index."""
    return {
        one.index: one.result.id if isinstance(one.result, Event) else one.result.reason
        for one in found
        if isinstance(one.result, Event | SwitchboardError)
    }


async def test_each_gets_its_own_and_the_rest_is_left_alone() -> None:
    records = Records({"a": 1, "b": 7})
    other = opened(3, "x", resource="users/1/presence", resourceData={"@odata.type": "#microsoft.graph.presence"})
    broken = Opened(4, MalformedContentError())
    found = await CallRecordFetch(records, {TENANT}).enrich(
        [opened(0, "a"), opened(1, "b"), opened(2, "c"), other, broken]
    )
    assert ids(found) == {0: "a/1", 1: "b/7", 2: "call-record-not-found", 3: "3", 4: broken.result.reason}  # type: ignore[union-attr]
    assert sorted(records.asked) == ["a", "b", "c"]


async def test_a_change_of_an_unknown_sort_is_delivered_as_it_is() -> None:
    records = Records()
    found = await CallRecordFetch(records, {TENANT}).enrich([opened(0, "a", changeType="archived")])
    assert (ids(found), records.asked) == ({0: "0"}, [])


async def test_several_notifications_of_a_record_are_one_event_and_one_question() -> None:
    records = Records({"a": 3})
    found = await CallRecordFetch(records, {TENANT}).enrich([opened(number, "a") for number in range(5)])
    assert (ids(found), records.asked) == ({0: "a/3"}, ["a"])


async def test_if_it_cannot_be_read_none_of_them_is_done_with() -> None:
    found = await CallRecordFetch(Records(), {TENANT}).enrich([opened(number, "a") for number in range(2)])
    assert ids(found) == dict.fromkeys(range(2), "call-record-not-found")


async def test_few_are_read_at_once() -> None:
    records = Records({f"{number}": 1 for number in range(20)})
    await CallRecordFetch(records, {TENANT}).enrich([opened(number, f"{number}") for number in range(20)])
    assert records.most == 3


async def test_what_hangs_holds_nothing_up_for_good() -> None:
    records = Records({"a": 1}, hanging={"b"})
    fetch = CallRecordFetch(records, {TENANT}, seconds=0.05)
    assert ids(await fetch.enrich([opened(0, "a"), opened(1, "b")])) == {0: "a/1", 1: "out-of-time"}
    records.hanging.clear()
    assert ids(await fetch.enrich([opened(0, "a")])) == {0: "a/1"}


@dataclass
class Client:
    """Graph's answers at once, within the limits that the caller keeps."""

    clock: VirtualClock
    asked: int = 0

    async def get(self, url: str, tenant_id: str, *, limiter: RateLimiter) -> Mapping[str, Any]:
        async with limiter.enter(tenant_id, 1):
            self.asked += 1
        return {"id": "r", "value": []}

    async def pages(
        self, url: str, tenant_id: str, *, limiter: RateLimiter
    ) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        yield (await self.get(url, tenant_id, limiter=limiter))["value"]


@pytest.mark.parametrize(("lists", "seconds"), [(40, 0), (41, 20), (80, 20), (81, 40)])
async def test_lists_keep_within_the_limit(lists: int, seconds: int) -> None:
    clock = VirtualClock()
    reader = CallRecords(cast(GraphClient, Client(clock)), "https://graph.example", clock)
    step = Gap(START, START).steps((), START)[0]
    for _ in range(lists):
        await reader.page(TENANT, step, None)
    assert clock.now() - START == timedelta(seconds=seconds)


async def test_reads_keep_within_the_limit() -> None:
    clock = VirtualClock()
    client = Client(clock)
    reader = CallRecords(cast(GraphClient, client), "https://graph.example", clock)
    for _ in range(751):
        await reader.record(TENANT, "r")
    assert client.asked == 1502
    assert clock.now() - START == timedelta(seconds=20)
