"""Deleting what an operator has named: by nothing but a whole picture, in the tenant's turn, and after a last look."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dev.simulation.known import Known
from shared.subscriptions.actions import Outcome, Reason, Verb
from shared.subscriptions.desired import Desired, DesiredState, DesiredStateError, Group, parse_desired
from shared.subscriptions.desired_source import Stage
from shared.subscriptions.run_report import Removal, RenewalReport
from shared.values import graph_errors
from shared.values.errors import MalformedInputError, UnavailableError
from shared.values.graph import Call, Reply, Subscription
from tests.unit import model_graph as model
from tests.unit.model_graph import ENDPOINT, OTHER_TENANT, TENANT, call_events, call_records, presence, user
from tests.unit.test_renew import HOUR, Scenario

MINUTE = timedelta(minutes=1)
GROUP = Group(TENANT, user(900))
PRESENCE = presence(1, rich=False)


async def settled(*desired: Desired, groups: tuple[Group, ...] = (), members: int = 0, **rules: Any) -> Scenario:
    """A scenario whose timer has read the same for two hours; `members` are those of the group, from 1 on."""
    scenario = Scenario(*desired, groups=groups, **rules)
    scenario.graph.members[GROUP.group_id] = tuple(user(number) for number in range(1, members + 1))
    await timer(scenario, 2 * HOUR)
    return scenario


async def timer(scenario: Scenario, length: timedelta) -> None:
    """Runs of the timer, the last of them at the end of that time."""
    for _ in range(max(length // (20 * MINUTE), 1)):
        scenario.clock.advance(20 * MINUTE)
        await scenario.process().run()


async def survey(scenario: Scenario) -> tuple[set[str], set[Stage]]:
    """What an operator is asked about, and where something is not known."""
    forecast = await scenario.process().plan(prune=True)
    ids = {
        action.subscription.id
        for action in forecast.actions
        if action.verb is Verb.DELETE and action.reason is Reason.UNWANTED and action.subscription is not None
    }
    return ids, {failure.stage for failure in forecast.failures}


def everything(scenario: Scenario) -> set[str]:
    return {one.id for one in scenario.graph.live()}


async def assert_nothing_goes(scenario: Scenario, *stages: Stage) -> Removal:
    """Neither is an operator asked about anything, nor does anything go where one has agreed to all."""
    before = everything(scenario)
    assert await survey(scenario) == (set(), set(stages))
    removal = await scenario.process().prune(before)
    assert everything(scenario) == before
    assert {failure.stage for failure in removal.failures} == set(stages)
    return removal


class TestGroups:
    @pytest.mark.parametrize("left", [0, 1, 8])
    async def test_one_that_is_empty_or_shrunk_is_not_believed_for_an_hour(self, left: int) -> None:
        scenario = await settled(call_records(), groups=(GROUP,), members=9)
        scenario.graph.members[GROUP.group_id] = tuple(user(number) for number in range(1, left + 1))
        removal = await assert_nothing_goes(scenario, Stage.GROUP)
        assert f"group {GROUP.group_id} has {left} entries" in removal.failures[0].detail
        await scenario.process().run()
        scenario.clock.advance(59 * MINUTE)
        await assert_nothing_goes(scenario, Stage.GROUP)
        scenario.clock.advance(MINUTE)
        doomed, failures = await survey(scenario)
        assert (len(doomed), failures) == (9 - left, set())
        removal = await scenario.process().prune(doomed)
        assert [result.outcome for result in removal.results] == [Outcome.DELETED] * len(doomed)
        assert len(everything(scenario)) == 1 + left

    async def test_one_that_reads_otherwise_begins_its_hour_anew(self) -> None:
        scenario = await settled(groups=(GROUP,), members=9)
        for minute in range(0, 180, 20):
            scenario.graph.members[GROUP.group_id] = (user(1), user(2 + minute % 3))
            await scenario.process().run()
            scenario.clock.advance(20 * MINUTE)
            await assert_nothing_goes(scenario, Stage.GROUP)

    async def test_little_by_little_is_shrinking_too(self) -> None:
        scenario = await settled(groups=(GROUP,), members=40)
        for left in (38, 36, 34):
            scenario.graph.members[GROUP.group_id] = tuple(user(number) for number in range(1, left + 1))
            await timer(scenario, 20 * MINUTE)
        await assert_nothing_goes(scenario, Stage.GROUP)

    async def test_one_that_has_lost_less_than_a_tenth_or_grown_is_believed(self) -> None:
        scenario = await settled(groups=(GROUP,), members=40)
        scenario.graph.members[GROUP.group_id] = tuple(user(number) for number in range(3, 42))
        doomed, failures = await survey(scenario)
        assert (len(doomed), failures) == (2, set())

    async def test_one_that_has_never_been_read_is_not_believed(self) -> None:
        scenario = await settled(*(call_events(number) for number in range(1, 10)))
        scenario.source.state = DesiredState((), (GROUP,))
        scenario.graph.members[GROUP.group_id] = (user(1),)
        await assert_nothing_goes(scenario, Stage.GROUP, Stage.DESIRED_STATE)

    async def test_one_that_cannot_be_read_holds_everything_of_its_tenant(self) -> None:
        scenario = await settled(call_records(), groups=(GROUP,), members=3)
        scenario.source.state = DesiredState((), (GROUP,))
        await timer(scenario, 2 * HOUR)
        del scenario.graph.members[GROUP.group_id]
        await assert_nothing_goes(scenario, Stage.GROUP)


class TestDesiredState:
    TEXT = f"""
[[callRecords]]
participants = [
  "{user(1)}",
]

[[callEvents]]
users = [
  "{user(1)}",
  "{user(2)}",
]

[[presence]]
users = ["{user(1)}"]

[[callEvents]]
users = ["{user(3)}"]

[[presence]]
users = ["{user(2)}"]
"""

    async def test_no_file_that_was_cut_off_has_anything_deleted(self) -> None:
        scenario = await settled(*parse_desired(self.TEXT, tenant_ids=[TENANT]).subscriptions)
        before = everything(scenario)
        assert len(before) == 5
        valid = 0
        for length in range(len(self.TEXT)):
            try:
                state = parse_desired(self.TEXT[:length], tenant_ids=[TENANT])
            except DesiredStateError as error:
                if length % 5:
                    continue
                scenario.source.state = error
            else:
                scenario.source.state = state
                valid += 0 < len(state.subscriptions) < len(before)
            await scenario.process().prune(before)
            assert everything(scenario) == before
        assert valid > 5

    async def test_one_that_asks_for_nothing_is_never_believed(self) -> None:
        scenario = await settled(call_records(), call_events(1, OTHER_TENANT))
        scenario.source.state = DesiredState((), ())
        await timer(scenario, 3 * HOUR)
        await assert_nothing_goes(scenario, Stage.DESIRED_STATE)

    async def test_one_that_asks_for_nothing_of_a_tenant_is_after_an_hour(self) -> None:
        scenario = await settled(call_records(), call_events(1, OTHER_TENANT))
        scenario.source.state = DesiredState((call_records(),), ())
        await scenario.process().run()
        await assert_nothing_goes(scenario, Stage.DESIRED_STATE)
        scenario.clock.advance(HOUR)
        [doomed] = scenario.graph.holds(call_events(1, OTHER_TENANT))
        assert await survey(scenario) == ({doomed.id}, set())

    @pytest.mark.parametrize(
        "state",
        [
            DesiredStateError("subscriptions.toml", ["line 1: wrong"]),
            UnavailableError("storage"),
            DesiredState((call_records(),), (), DesiredStateError("subscriptions.toml", ["line 9: refused"])),
        ],
        ids=str,
    )
    async def test_one_that_cannot_be_read_has_nothing_deleted(self, state: Any) -> None:
        scenario = await settled(call_records(), call_events(1))
        scenario.source.state = state
        await timer(scenario, 2 * HOUR)
        await assert_nothing_goes(scenario, Stage.DESIRED_STATE)

    async def test_what_was_read_outlives_the_process_and_storage_that_forgets_costs_an_hour(self) -> None:
        scenario = await settled(call_records(), call_events(1))
        scenario.source.state = DesiredState((call_records(),), ())
        await timer(scenario, 2 * HOUR)
        assert len((await survey(scenario))[0]) == 1
        memory = scenario.known.memories[TENANT]
        scenario.known.memories[TENANT] = type(memory)(known=memory.known)  # as the version before saves it
        await assert_nothing_goes(scenario, Stage.DESIRED_STATE)


class TestSpelling:
    async def scenario(self, echo: Callable[[Subscription], Subscription], *, unique: bool = True) -> Scenario:
        scenario = await settled(call_records(), call_events(1), unique=unique)
        scenario.graph.echo = echo
        return scenario

    @pytest.mark.parametrize(
        "echo",
        [
            lambda one: replace(one, resource="nobody/knows"),
            lambda one: replace(one, resource=one.resource.replace("users", "people")),
            lambda one: replace(one, resource="", notification_url=ENDPOINT.url(rich=False)),
        ],
    )
    async def test_what_covers_something_desired_never_goes_by_it(
        self, echo: Callable[[Subscription], Subscription]
    ) -> None:
        scenario = await self.scenario(echo)
        assert await survey(scenario) == (set(), set())  # by what was sent
        scenario.known.memories[TENANT] = replace_known(scenario)
        before = everything(scenario)
        doomed, _ = await survey(scenario)
        await scenario.process().prune(doomed | before)
        assert everything(scenario) == before

    async def test_what_nobody_recognises_goes_once_all_that_is_desired_is_there(self) -> None:
        scenario = await self.scenario(lambda one: one)
        stray = scenario.graph.add(call_events(7), resource="communications/of/another/age")
        assert await survey(scenario) == ({stray.id}, set())
        [covering] = scenario.graph.holds(call_events(1))
        del scenario.graph.all[covering.id]
        assert await survey(scenario) == (set(), set())

    async def test_what_is_remembered_goes_though_something_is_missing(self) -> None:
        scenario = await self.scenario(lambda one: one)
        scenario.source.state = DesiredState((call_records(), call_events(2)), ())
        await timer(scenario, 2 * HOUR)
        [missing], [unwanted] = scenario.graph.holds(call_events(2)), scenario.graph.holds(call_events(1))
        del scenario.graph.all[missing.id]
        assert await survey(scenario) == ({unwanted.id}, set())

    async def test_what_is_remembered_by_graphs_spelling_alone_stays_while_something_is_missing(self) -> None:
        scenario = await self.scenario(lambda one: replace(one, resource=one.resource.replace("/comm", "/of/x/comm")))
        scenario.known.memories[TENANT] = replace_known(scenario)
        [covering] = scenario.graph.holds(call_events(1))
        desired, scenario.source.state = scenario.source.state, UnavailableError("storage")
        scenario.graph.faults = lambda call: model.UNAVAILABLE if call.method == "POST" else None
        scenario.clock.advance(13 * HOUR)
        await scenario.process().run()  # by which it is remembered
        assert covering.id in scenario.known.memories[TENANT].known
        scenario.source.state = desired
        await timer(scenario, 2 * HOUR)
        doomed, _ = await survey(scenario)
        await scenario.process().prune(doomed | {covering.id})
        assert covering.id in everything(scenario)


def replace_known(scenario: Scenario) -> Any:
    """What is remembered, without any subscription."""
    memory = scenario.known.memories[TENANT]
    return type(memory)(readings=memory.readings)


def leave_out_signed_in(scenario: Scenario) -> None:
    """Graph does not list what was subscribed to for who is signed in."""
    pages = scenario.graph.subscription_pages

    async def without(tenant_id: str) -> AsyncIterator[Sequence[Subscription]]:
        async for page in pages(tenant_id):
            yield page
        raise graph_errors.SignedInListError(UnavailableError("Graph", reason="throttled"))

    scenario.graph.subscription_pages = without  # type: ignore[method-assign]


class TestLists:
    async def prepared(self) -> tuple[Scenario, Subscription]:
        scenario = await settled(call_records(), call_events(1), call_events(2, OTHER_TENANT))
        scenario.source.state = DesiredState((call_records(), call_events(2, OTHER_TENANT)), ())
        await timer(scenario, 2 * HOUR)
        [doomed] = scenario.graph.holds(call_events(1))
        assert await survey(scenario) == ({doomed.id}, set())
        return scenario, doomed

    async def test_a_list_that_breaks_off(self) -> None:
        scenario, _ = await self.prepared()
        scenario.graph.list_errors[OTHER_TENANT] = UnavailableError("Graph")
        assert (await survey(scenario))[1] == {Stage.LIST}
        scenario.graph.list_errors = {TENANT: UnavailableError("Graph")}
        await assert_nothing_goes(scenario, Stage.LIST)

    async def test_one_without_what_the_signed_in_user_subscribed_to(self) -> None:
        scenario, _ = await self.prepared()
        leave_out_signed_in(scenario)
        removal = await assert_nothing_goes(scenario, Stage.LIST)
        assert {(failure.kind, failure.reason) for failure in removal.failures} == {("presence", "throttled")}
        report = await scenario.process().run()  # and the others are none the worse for it
        assert (report.failures, report.outcomes) == ((), {Outcome.UNCHANGED: 3})

    async def test_a_refusal_beside_such_a_list_is_not_nothing_at_all(self) -> None:
        scenario = Scenario(PRESENCE)
        leave_out_signed_in(scenario)
        scenario.graph.faults = lambda _: model.FORBIDDEN
        report = await scenario.process().run()
        assert {(failure.kind, failure.reason) for failure in report.failures} == {
            ("presence", "throttled"),
            ("presence", "permission"),
        }

    async def test_such_a_list_does_not_tell_that_nothing_was_made(self) -> None:
        scenario = Scenario(call_records(), PRESENCE)
        leave_out_signed_in(scenario)
        await scenario.process().run()
        [made] = scenario.graph.holds(PRESENCE)
        scenario.graph.unlisted.add(made.id)
        scenario.known = Known()
        scenario.graph.faults = lambda call: model.NOT_DONE if call.method == "POST" else None
        await scenario.process().run()
        assert list(scenario.known.memories[TENANT].unseen) == [PRESENCE.resource]

    async def test_a_list_that_shows_what_is_not_there_any_more(self) -> None:
        scenario, doomed = await self.prepared()
        scenario.graph.reading = lambda found: graph_errors.NotFoundError("404") if found == doomed.id else None
        removal = await scenario.process().prune([doomed.id])
        assert [(result.outcome, result.removed) for result in removal.results] == [(Outcome.GONE, doomed.id)]
        assert scenario.graph.methods()["DELETE"] == 0

    async def test_what_cannot_be_read_by_its_id_stays(self) -> None:
        scenario, doomed = await self.prepared()
        scenario.graph.reading = lambda _: graph_errors.OutcomeUnknownError()
        removal = await scenario.process().prune([doomed.id])
        assert [(result.outcome, str(result.error)) for result in removal.results] == [
            (Outcome.FAILED, "Graph is unavailable")
        ]
        assert doomed.id in everything(scenario)

    async def test_what_is_desired_by_the_time_of_the_answer_stays(self) -> None:
        scenario, doomed = await self.prepared()
        scenario.source.state = DesiredState(scenario.desired, ())
        removal = await scenario.process().prune([doomed.id])
        assert (removal.results, {failure.stage for failure in removal.failures}) == ((), {Stage.DESIRED_STATE})
        await timer(scenario, 2 * HOUR)
        removal = await scenario.process().prune([doomed.id])
        assert (removal.results, removal.failures) == ((), ())
        assert doomed.id in everything(scenario)

    async def test_only_what_was_agreed_to_goes_and_is_forgotten(self) -> None:
        scenario, doomed = await self.prepared()
        scenario.source.state = DesiredState((call_events(2, OTHER_TENANT),), ())
        await timer(scenario, 2 * HOUR)
        assert len((await survey(scenario))[0]) == 2
        await scenario.process().prune([doomed.id])
        assert len(everything(scenario)) == 2
        assert doomed.id not in scenario.known.ids[TENANT]
        assert scenario.known.memories[TENANT].unseen == {}


type _Do = Callable[[Scenario, Subscription], Any]
DELETING: dict[str, _Do] = {
    "prune": lambda scenario, one: scenario.process().prune([one.id]),
    "delete": lambda scenario, one: scenario.process().delete([one.id]),
}


@pytest.mark.parametrize("way", DELETING)
class TestTurn:
    async def prepared(self) -> tuple[Scenario, Subscription]:
        scenario = await settled(call_records(), call_events(1))
        scenario.source.state = DesiredState((call_records(),), ())
        await timer(scenario, 2 * HOUR)
        [doomed] = scenario.graph.holds(call_events(1))
        return scenario, doomed

    async def test_it_is_waited_for_and_given_back(self, way: str) -> None:
        scenario, doomed = await self.prepared()
        other = scenario.known.turn(TENANT)
        await other.take()
        sleep = scenario.clock.sleep

        async def other_ends(seconds: float) -> None:
            await other.release()
            await sleep(seconds)

        scenario.clock.sleep = other_ends  # type: ignore[method-assign]
        removal = await DELETING[way](scenario, doomed)
        assert [result.outcome for result in removal.results] == [Outcome.DELETED]
        assert scenario.known.holders == {}

    async def test_while_another_has_it_nothing_goes(self, way: str) -> None:
        scenario, doomed = await self.prepared()
        await scenario.known.turn(TENANT).take()
        removal = await DELETING[way](scenario, doomed)
        assert (removal.results, [failure.stage for failure in removal.failures]) == ((), [Stage.TURN])
        assert doomed.id in everything(scenario)

    async def test_without_storage_nothing_goes(self, way: str) -> None:
        scenario, doomed = await self.prepared()
        scenario.known.error = UnavailableError("storage", reason="storage-503")
        removal = await DELETING[way](scenario, doomed)
        assert {failure.reason for failure in removal.failures} == {"storage-503"}
        assert doomed.id in everything(scenario)

    async def test_it_is_asked_for_once_more_just_before(self, way: str) -> None:
        """Another run takes over while Graph is being read."""
        scenario, doomed = await self.prepared()

        def taken_over(call: Call) -> None:
            if call.method == "GET":
                scenario.known.holders[TENANT] = object()

        scenario.graph.faults = taken_over
        removal = await DELETING[way](scenario, doomed)
        assert [(result.outcome, result.error.reason) for result in removal.results if result.error] == [
            (Outcome.FAILED, "turn")
        ]
        assert scenario.graph.methods()["DELETE"] == 0

    async def test_a_run_beside_it_makes_nothing_meanwhile(self, way: str) -> None:
        scenario, doomed = await self.prepared()
        reported: list[RenewalReport] = []

        async def meanwhile(calls: Sequence[Call]) -> list[Reply]:
            if calls[0].method == "DELETE":
                scenario.graph.send = send  # type: ignore[method-assign]
                scenario.source.state = DesiredState((call_records(), call_events(5)), ())
                reported.append(await scenario.process().run())
            return await send(calls)

        send = scenario.graph.send
        scenario.graph.send = meanwhile  # type: ignore[method-assign]
        await DELETING[way](scenario, doomed)
        assert reported[0].outcomes == {Outcome.DEFERRED: 1, Outcome.UNCHANGED: 2}
        assert not scenario.graph.holds(call_events(5))


class TestDelete:
    async def test_what_graphs_list_hides_is_found_by_its_id(self) -> None:
        scenario = await settled(call_records(), call_events(1, OTHER_TENANT))
        scenario.graph.blind = True
        [one] = scenario.graph.holds(call_events(1, OTHER_TENANT))
        for _ in range(2):
            removal = await scenario.process().delete([one.id])
            assert [result.removed for result in removal.results] == [one.id]
            scenario.graph.all[one.id] = one
            scenario.known = Known()

    async def test_a_desired_one_comes_back_with_the_next_run(self) -> None:
        scenario = await settled(call_records())
        for _ in range(4):
            [one] = scenario.graph.holds(call_records())
            await scenario.process().delete([one.id])
            assert (await scenario.process().run()).outcomes == {Outcome.CREATED: 1}

    @pytest.mark.parametrize("name", ["11111111-1111-4111-8111-111111111111", "../users", "?"])
    async def test_nothing_goes_where_one_of_them_is_not_there(self, name: str) -> None:
        scenario = await settled(call_records())
        [one] = scenario.graph.holds(call_records())
        with pytest.raises((MalformedInputError, graph_errors.NotFoundError)):
            await scenario.process().delete([one.id, name])
        assert everything(scenario) == {one.id}

    async def test_nothing_goes_that_delivers_elsewhere(self) -> None:
        scenario = await settled(call_records())
        foreign = scenario.graph.add(call_events(1), notification_url="https://elsewhere.example/api/notifications")
        with pytest.raises(MalformedInputError, match="not ours"):
            await scenario.process().delete([foreign.id, *everything(scenario)])
        assert len(everything(scenario)) == 2

    async def test_what_cannot_be_asked_for_is_said(self) -> None:
        scenario = await settled(call_records())
        scenario.graph.reading = lambda _: UnavailableError("Graph", reason="throttled")
        with pytest.raises(UnavailableError):
            await scenario.process().delete([user(5)])

    async def test_graphs_refusal_is_told(self) -> None:
        scenario = await settled(call_records())
        [one] = scenario.graph.holds(call_records())
        scenario.graph.faults = lambda call: model.REJECTED if call.method == "DELETE" else None
        removal = await scenario.process().delete([one.id])
        assert [result.error.reason for result in removal.results if result.error is not None] == ["rejected"]
