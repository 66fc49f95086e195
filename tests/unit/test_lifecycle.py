"""Lifecycle notifications against a model of Graph."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shared.subscriptions.lifecycle import Handled, Lifecycle
from shared.values.errors import MalformedInputError, UnavailableError
from tests.unit import model_graph as model
from tests.unit.model_graph import TENANT, ModelGraph, call_events
from tests.unit.test_renew import Scenario

WANTED = tuple(call_events(number) for number in range(3))


@pytest.fixture
def scenario() -> Scenario:
    found = Scenario(*WANTED)
    for want in WANTED:
        found.graph.add(want)
    return found


@pytest.fixture
def graph(scenario: Scenario) -> ModelGraph:
    return scenario.graph


@pytest.fixture
def lifecycle(scenario: Scenario) -> Lifecycle:
    return Lifecycle(scenario.process())


def item(event: object, identity: str, **changes: Any) -> dict[str, Any]:
    return {"subscriptionId": identity, "tenantId": TENANT, "lifecycleEvent": event, **changes}


@pytest.mark.parametrize(
    "identity", ["../../beta/users?$top=999&x=", "a\nforged: line", "a b", "a" * 65, "a/b", "%2e%2e", "é", "a\n"]
)
async def test_an_id_from_outside_is_checked_before_it_is_part_of_a_url_or_a_log_line(
    graph: ModelGraph, lifecycle: Lifecycle, identity: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    asked = len(graph.calls)
    for event in ("reauthorizationRequired", "subscriptionRemoved", "missed", "somethingNew"):
        with pytest.raises(MalformedInputError) as caught:
            await lifecycle.handle(item(event, identity))
        assert caught.value.reason == "lifecycle-malformed"
        assert identity not in str(caught.value)
        assert (len(graph.calls), caplog.text) == (asked, "")


@pytest.mark.parametrize("event", ["reauthorizationRequired", "ReauthorizationRequired"])
async def test_reauthorization_is_one_patch_of_that_subscription(
    graph: ModelGraph, lifecycle: Lifecycle, event: str
) -> None:
    first, second, *_ = graph.live()
    graph.clock.advance(timedelta(hours=1))
    assert await lifecycle.handle(item(event, first.id)) is Handled.RENEWED
    assert [(call.method, call.subscription_id) for call in graph.calls] == [("PATCH", first.id)]
    assert set(graph.calls[0].body or {}) == {"expirationDateTime"}
    assert graph.all[first.id].expires > second.expires
    assert graph.lists == 0


async def test_reauthorization_by_a_process_that_has_not_seen_the_renewals_of_another(scenario: Scenario) -> None:
    await scenario.renewal.run()
    lifecycle = Lifecycle(scenario.process())
    first, second, *_ = scenario.graph.live()
    assert await lifecycle.handle(item("reauthorizationRequired", first.id)) is Handled.RENEWED
    for _ in range(30):
        scenario.clock.advance(timedelta(hours=1))
        await scenario.renewal.run()
    before = len(scenario.graph.calls)
    assert await lifecycle.handle(item("reauthorizationRequired", second.id)) is Handled.RENEWED
    calls = scenario.graph.calls[before:]
    assert [(call.method, call.subscription_id) for call in calls] == [("PATCH", second.id)]


async def test_reauthorization_of_one_that_lives_longer_than_anybody_knows(
    graph: ModelGraph, scenario: Scenario
) -> None:
    await scenario.renewal.run()
    first, *_ = graph.live()
    graph.clock.advance(timedelta(hours=25))
    graph.all[first.id] = replace(first, expires=graph.clock.now() + timedelta(hours=1))
    graph.echo = lambda one: replace(one, notification_url=one.notification_url.partition("?")[0])
    assert await Lifecycle(scenario.process()).handle(item("reauthorizationRequired", first.id)) is Handled.RENEWED
    assert graph.methods() == {"PATCH": 1}


async def test_reauthorization_of_one_that_is_gone_recreates_it(graph: ModelGraph, lifecycle: Lifecycle) -> None:
    gone = graph.live()[0]
    del graph.all[gone.id]
    assert await lifecycle.handle(item("reauthorizationRequired", gone.id)) is Handled.RECREATED
    assert all(len(graph.holds(want)) == 1 for want in WANTED)


async def test_one_that_is_not_ours_is_left(graph: ModelGraph, lifecycle: Lifecycle) -> None:
    foreign = graph.add(call_events(9), notification_url="https://other.example.com/")
    assert await lifecycle.handle(item("reauthorizationRequired", foreign.id)) is Handled.LEFT
    assert graph.calls == []


@pytest.mark.parametrize("still_listed", [True, False])
async def test_a_removed_one_is_recreated(graph: ModelGraph, lifecycle: Lifecycle, still_listed: bool) -> None:
    removed = graph.live()[0]
    if still_listed:
        # Its place is free; only the list lags behind.
        graph.unique = False
    else:
        del graph.all[removed.id]
    assert await lifecycle.handle(item("subscriptionRemoved", removed.id)) is Handled.RECREATED
    assert graph.methods() == {"POST": 1}
    assert any(one.id != removed.id for one in graph.holds(WANTED[0]))


async def test_missed_makes_everything_in_the_tenant_right(graph: ModelGraph, lifecycle: Lifecycle) -> None:
    lost = graph.live()[1]
    del graph.all[lost.id]
    assert await lifecycle.handle(item("missed", graph.live()[0].id)) is Handled.RESYNCED
    assert all(len(graph.holds(want)) == 1 for want in WANTED)


@pytest.mark.parametrize("event", ["somethingNew", "", None, 7])
async def test_other_kinds_are_kept_for_somebody_to_look_at(
    graph: ModelGraph, lifecycle: Lifecycle, event: object
) -> None:
    assert await lifecycle.handle(item(event, "s1")) is Handled.UNKNOWN
    assert (graph.calls, graph.lists) == ([], 0)


async def test_older_items_name_their_tenant_otherwise(graph: ModelGraph, lifecycle: Lifecycle) -> None:
    found = graph.live()[0]
    changed = item("reauthorizationRequired", found.id, tenantId=None, organizationId=TENANT.upper())
    assert await lifecycle.handle(changed) is Handled.RENEWED


@pytest.mark.parametrize("changes", [{"tenantId": None}, {"subscriptionId": 5}, {"tenantId": "elsewhere"}])
async def test_items_that_name_nothing_of_ours(lifecycle: Lifecycle, changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedInputError):
        await lifecycle.handle(item("missed", "s1", **changes))


@pytest.mark.parametrize("event", ["reauthorizationRequired", "missed"])
async def test_when_graph_is_away_it_is_tried_again(graph: ModelGraph, lifecycle: Lifecycle, event: str) -> None:
    graph.faults = lambda _: model.UNAVAILABLE
    graph.list_errors[TENANT] = UnavailableError("Graph")
    with pytest.raises(UnavailableError):
        await lifecycle.handle(item(event, graph.live()[0].id))
