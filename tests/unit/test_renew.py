"""Renewal against a model of Graph, under virtual time."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dev.simulation.known import Known
from dev.simulation.virtual_time import VirtualLoop
from shared.subscriptions.actions import Outcome
from shared.subscriptions.desired import Desired, DesiredState, DesiredStateError, Group
from shared.subscriptions.desired_source import Stage
from shared.subscriptions.run import Renewal
from shared.values import graph_errors
from shared.values.endpoint import ClientStateVersion, Endpoint
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import Call
from shared.values.graph_errors import CredentialError
from tests.unit import model_graph as model
from tests.unit.model_graph import (
    CERTIFICATE,
    ENDPOINT,
    NEXT_CERTIFICATE,
    OTHER_TENANT,
    TENANT,
    Certificates,
    ModelGraph,
    Source,
    VirtualClock,
    call_events,
    call_records,
    policy,
    presence,
    user,
)

HOUR = timedelta(hours=1)


class Scenario:
    """A renewal and all that it touches."""

    def __init__(self, *desired: Desired, groups: tuple[Group, ...] = (), **graph_rules: object) -> None:
        self.clock = VirtualClock()
        self.graph = ModelGraph(self.clock, **graph_rules)  # type: ignore[arg-type]
        self.certificates = Certificates()
        self.source = Source(DesiredState(desired, groups))
        self.known = Known()
        self.endpoint = ENDPOINT
        self.desired = desired
        self.renewal = self.process()

    def process(self, **options: object) -> Renewal:
        """A new process: it has learned nothing yet."""
        return Renewal(
            graph=self.graph,
            certificates=self.certificates,
            desired=self.source,
            known=self.known,
            endpoint=self.endpoint,
            tenant_ids=(TENANT, OTHER_TENANT),
            **{"clock": self.clock, **options},  # type: ignore[arg-type]
        )


async def begun(*desired: Desired, **options: Any) -> Scenario:
    """A scenario after its first run."""
    scenario = Scenario(*desired, **options)
    await scenario.renewal.run()
    return scenario


def on(method: str, fault: model.Fault) -> Callable[[Call], model.Fault | None]:
    return lambda call: fault if call.method == method else None


def put_in_place(scenario: Scenario, wanted: Sequence[Desired], states: Sequence[str]) -> None:
    """A subscription of each in its state; the client state has just been rotated."""
    scenario.endpoint = Endpoint(ENDPOINT.notification_url, ENDPOINT.lifecycle_url, ("newer", "secret"))
    current, now = scenario.endpoint.url(rich=True), scenario.clock.now()
    for want, state in zip(wanted, states, strict=True):
        if state != "absent":
            url = {"unmarked": model.URL, "previous": ENDPOINT.url(rich=True)}.get(state, current)
            scenario.graph.add(
                want, expires=now + (20 if state in {"fresh", "pair"} else 2) * HOUR, notification_url=url
            )
        if state in {"twice", "pair"}:
            scenario.graph.add(want, notification_url=current)


STATES = st.sampled_from(("absent", "fresh", "due", "unmarked", "previous", "twice", "pair"))


async def test_a_first_run_creates_and_a_second_does_nothing() -> None:
    scenario = Scenario(call_records(), call_events(1), call_events(2, OTHER_TENANT))
    report = await scenario.renewal.run()
    assert (report.outcomes, report.failures, report.live) == ({Outcome.CREATED: 3}, (), 3)
    assert report.nearest is not None
    assert timedelta(hours=23) < report.nearest < timedelta(days=1)
    report = await scenario.process().run()
    assert report.outcomes == {Outcome.UNCHANGED: 3}
    assert scenario.graph.methods() == {"POST": 3}


class TestSettingsOfConcern:
    """What lives is renewed; with what Graph does not give back as it was sent, nothing is made, moved or deleted."""

    @pytest.mark.parametrize(
        "url",
        [
            ENDPOINT.notification_url + "#here",
            ENDPOINT.notification_url.replace("://", "://user:password@"),
            ENDPOINT.notification_url.replace("/api/", "/a pi/"),
            "https://another.example/a pi/notifications",
        ],
    )
    @pytest.mark.parametrize("remembered", [True, False])
    async def test_a_url_that_is_not_plain(self, url: str, remembered: bool) -> None:
        scenario = await begun(call_records(), call_events(1))
        before = scenario.graph.methods()
        scenario.endpoint = replace(ENDPOINT, notification_url=url)
        if remembered:
            scenario.endpoint = replace(scenario.endpoint, lifecycle_url=url)
        else:
            scenario.known.memories.clear()
        scenario.source.state = DesiredState((call_records(), call_events(1), call_events(2)), ())
        for _ in range(20):
            scenario.clock.advance(timedelta(hours=5))
            report = await scenario.process(concerns={"NOTIFICATION_URL": "is not plain"}).run()
        made = {method: count - before.get(method, 0) for method, count in scenario.graph.methods().items()}
        assert (made["POST"], made.get("DELETE", 0)) == (0, 0)
        assert {one.kind.key for one in scenario.graph.live() if one.kind is not None} == {"callRecords", "callEvents"}
        (told,) = {failure.detail for failure in report.failures if failure.tenant_id == "*"}
        assert "NOTIFICATION_URL is not plain" in told

    async def test_a_client_state_that_is_too_short_to_begin_with(self) -> None:
        scenario = Scenario(call_records())
        concerns = {"CLIENT_STATE": "is short"}
        for _ in range(2):
            report = await scenario.process(concerns=concerns).run()
        assert (scenario.graph.methods().get("POST", 0), report.live) == (0, 0)
        assert {failure.stage for failure in report.failures} == {Stage.SETTINGS}

        await scenario.process().run()
        scenario.source.state = DesiredState((call_records(), call_events(1)), ())
        report = await scenario.process(concerns=concerns).run()
        assert report.outcomes == {Outcome.UNCHANGED: 1, Outcome.CREATED: 1}
        assert [failure.stage for failure in report.failures] == [Stage.SETTINGS]


class TestAListThatShowsNothing:
    """Graph has been seen to list nothing for days, while every subscription was there."""

    @pytest.mark.parametrize("unique", [True, False])
    async def test_has_nothing_made_twice_and_nothing_lapse(self, *, unique: bool) -> None:
        wanted = [call_records(), call_events(1), call_events(2, OTHER_TENANT)]
        scenario = await begun(*wanted, unique=unique)
        first = {one.id for one in scenario.graph.live()}
        scenario.graph.blind = True
        for _ in range(2 * 24):
            scenario.clock.advance(HOUR)
            report = await scenario.process().run()
            assert report.failures == ()
            assert {one.id for one in scenario.graph.live()} == first
        assert scenario.graph.methods()["POST"] == 3

    async def test_does_not_hide_what_has_vanished(self) -> None:
        scenario = await begun(call_records(), call_events(1))
        scenario.graph.blind = True
        [gone] = scenario.graph.holds(call_events(1))
        del scenario.graph.all[gone.id]
        report = await scenario.process().run()
        assert report.outcomes == {Outcome.UNCHANGED: 1, Outcome.CREATED: 1}
        assert scenario.known.ids[TENANT] == {one.id for one in scenario.graph.live()}

    async def test_is_no_reason_to_make_what_may_be_there(self) -> None:
        scenario = await begun(call_records(), call_events(1), call_events(2, OTHER_TENANT), unique=False)
        [hidden] = scenario.graph.holds(call_events(1))
        scenario.graph.blind = True
        scenario.graph.reading = lambda found: UnavailableError("Graph") if found == hidden.id else None
        report = await scenario.process().run()
        assert (report.outcomes, report.live) == ({Outcome.UNCHANGED: 3}, 3)
        assert [(failure.tenant_id, failure.stage, failure.reason) for failure in report.failures] == [
            (TENANT, Stage.READ, "unavailable")
        ]
        scenario.graph.reading = lambda _: None
        report = await scenario.process().run()
        assert report.outcomes == {Outcome.UNCHANGED: 3}

    @pytest.mark.parametrize(
        "refusal",
        [
            graph_errors.PermissionDeniedError("403"),
            graph_errors.RequestRejectedError("400"),
            CredentialError("Key Vault"),
            graph_errors.OutcomeUnknownError(),
        ],
    )
    async def test_counts_what_graph_refuses_to_show_as_there_until_its_end(self, refusal: SwitchboardError) -> None:
        scenario = await begun(call_records(), call_events(1))
        scenario.graph.blind = True
        [hidden] = scenario.graph.holds(call_events(1))
        del scenario.graph.all[hidden.id]
        scenario.graph.reading = lambda found: refusal if found == hidden.id else None
        scenario.graph.faults = lambda call: model.refuse(refusal) if call.subscription_id == hidden.id else None
        for _ in range(17):
            await scenario.process().run()
            scenario.clock.advance(HOUR)
        assert scenario.graph.methods()["POST"] == 2
        for _ in range(7):
            scenario.clock.advance(HOUR)
            await scenario.process().run()
        assert scenario.graph.holds(call_events(1))

    async def test_of_thousands_is_seen_through_by_and_by(self) -> None:
        """What was found gone in one run is not asked for again in the next, which has no more time either."""
        wanted = [call_events(number) for number in range(100)]
        scenario = await begun(*wanted)
        scenario.graph.all.clear()
        budget = timedelta(seconds=60)

        def slowly(_: str) -> None:
            scenario.clock.advance(timedelta(seconds=1))

        scenario.graph.reading = slowly
        await scenario.process(budget=budget).run()
        assert 0 < len(scenario.known.ids[TENANT]) < 50
        for _ in range(2):
            await scenario.process(budget=budget).run()
        assert len(scenario.graph.live()) == 100

    async def test_costs_a_good_list_nothing(self) -> None:
        scenario = await begun(call_records(), call_events(1), call_events(2, OTHER_TENANT))
        assert scenario.known.saves == 2
        for _ in range(3):
            scenario.clock.advance(HOUR)
            await scenario.process().run()
        assert (scenario.known.saves, scenario.graph.reads) == (4, 0)  # once more, that what is desired has settled

    async def test_a_plan_sees_through_it_and_leaves_no_trace(self) -> None:
        scenario = await begun(call_records(), call_events(1))
        scenario.graph.blind = True
        del scenario.graph.all[scenario.graph.holds(call_events(1))[0].id]
        forecast = await scenario.process().plan()
        assert [str(action.verb) for action in forecast.actions] == ["create", "leave"]
        assert scenario.known.saves == 2


async def test_a_run_goes_on_without_what_is_known() -> None:
    """Renewal needs no storage; what is made or deleted waits for it, and that is said."""
    scenario = Scenario(call_records(), call_events(1), unique=False)
    scenario.graph.add(call_events(1), expires=scenario.clock.now() + HOUR)
    scenario.known.error = UnavailableError("storage", reason="storage-503")
    report = await scenario.renewal.run()
    assert report.outcomes == {Outcome.RENEWED: 1, Outcome.DEFERRED: 1}
    assert {(failure.stage, failure.reason) for failure in report.failures} == {
        (Stage.KNOWN, "storage-503"),
        (Stage.TURN, "storage-503"),
    }
    scenario.known.error = None
    assert (await scenario.renewal.run()).outcomes == {Outcome.UNCHANGED: 1, Outcome.CREATED: 1}


async def test_five_hundred_are_renewed_in_25_batches() -> None:
    wanted = [call_events(number) for number in range(500)]
    scenario = Scenario(*wanted, page=250)
    for want in wanted:
        scenario.graph.add(want, expires=scenario.clock.now() + 11 * HOUR)
    report = await scenario.renewal.run()
    assert report.outcomes == {Outcome.RENEWED: 500}
    assert scenario.graph.batches == 25


async def test_what_is_due_is_renewed_though_the_list_breaks_off() -> None:
    wanted = [call_events(number) for number in range(250)]
    scenario = Scenario(*wanted)
    for want in wanted:
        scenario.graph.add(want, expires=scenario.clock.now() + HOUR)
    scenario.graph.readable_pages = 2
    report = await scenario.renewal.run()
    assert report.outcomes == {Outcome.RENEWED: 200}
    assert [(failure.stage, failure.reason) for failure in report.failures] == [(Stage.LIST, "unavailable")]
    assert scenario.graph.methods() == {"PATCH": 200}  # nothing is created or deleted by half a list


async def test_an_emergency_policy_does_not_wait_behind_hundreds() -> None:
    emergency = policy("Headquarters")
    wanted = [call_events(number) for number in range(600)]
    scenario = Scenario(*wanted, emergency)
    for want in wanted[:300]:
        scenario.graph.add(want, expires=scenario.clock.now() + HOUR)
    await scenario.renewal.run()
    places = [
        place
        for place, call in enumerate(scenario.graph.calls)
        if (call.body or {}).get("resource") == emergency.resource
    ]
    assert places
    assert places[0] < 300  # among the first after the list was read
    creations = [place for place, call in enumerate(scenario.graph.calls) if call.method == "POST"]
    assert creations[len(creations) // 2] < len(scenario.graph.calls) - 120  # they take turns with renewals


async def test_nothing_lapses_in_days_of_ticks() -> None:
    scenario = await begun(call_records(), call_events(1), call_events(2))
    first = set(scenario.graph.all)
    for _ in range(2 * 24 * 4):
        scenario.clock.advance(timedelta(minutes=15))
        await scenario.renewal.run()
        assert {one.id for one in scenario.graph.live()} == first
    patches = scenario.graph.methods()["PATCH"]
    assert 8 <= patches <= 10  # two a day for each of callEvents, one in 35 hours for callRecords


async def test_an_outage_just_short_of_half_a_life_costs_nothing() -> None:
    scenario = await begun(call_events(1))
    identity = next(iter(scenario.graph.all))
    scenario.clock.advance(timedelta(hours=11, minutes=50))  # not yet due
    await scenario.renewal.run()
    scenario.clock.advance(timedelta(hours=11, minutes=45))
    await scenario.renewal.run()
    assert [one.id for one in scenario.graph.live()] == [identity]
    assert scenario.graph.methods() == {"POST": 1, "PATCH": 1}


async def test_a_lifetime_refused_is_made_shorter_and_remembered() -> None:
    scenario = Scenario(*(call_events(number) for number in range(30)), maximum={"callEvents": 6 * HOUR})
    report = await scenario.renewal.run()
    assert report.outcomes == {Outcome.CREATED: 30}
    scenario.clock.advance(2 * HOUR)
    assert (await scenario.renewal.run()).outcomes == {Outcome.UNCHANGED: 30}
    scenario.clock.advance(HOUR)
    calls = len(scenario.graph.calls)
    assert (await scenario.renewal.run()).outcomes == {Outcome.RENEWED: 30}
    assert len(scenario.graph.calls) == calls + 30


async def test_a_clock_that_is_ahead_may_ask_for_less_than_the_least_that_graph_grants() -> None:
    """Otherwise 45 minutes on a fast clock would be refused for ever where Graph allows 46."""
    scenario = Scenario(call_events(1), maximum={"callEvents": timedelta(minutes=41)})  # 46, as a clock 5 ahead sees it
    for _ in range(4):
        await scenario.renewal.run()
    assert len(scenario.graph.live()) == 1


async def test_certificate_rotation_patches() -> None:
    scenario = await begun(call_events(1), call_records())
    ids = set(scenario.graph.all)
    scenario.certificates.certificate = NEXT_CERTIFICATE
    assert (await scenario.renewal.run()).outcomes == {Outcome.RENEWED: 1, Outcome.UNCHANGED: 1}
    assert set(scenario.graph.all) == ids
    assert scenario.graph.holds(call_events(1))[0].certificate_id == NEXT_CERTIFICATE.id


@pytest.mark.parametrize("unique", [True, False])
async def test_certificate_rotation_replaces_where_graph_ignores_the_fields(unique: bool) -> None:
    scenario = await begun(call_events(1), unique=unique, honours_certificate=False)
    scenario.graph.calls.clear()
    scenario.certificates.certificate = NEXT_CERTIFICATE
    report = await scenario.renewal.run()
    outcome = Outcome.KEPT if unique else Outcome.REPLACED
    assert (report.outcomes, report.failures) == ({outcome: 1}, ())
    methods = [call.method for call in scenario.graph.calls]
    assert methods == (["PATCH", "POST"] if unique else ["PATCH", "POST", "DELETE"])
    if unique:  # what delivers is deleted first only when its life is nearly over
        scenario.clock.advance(17 * HOUR)
        assert (await scenario.process().run()).outcomes == {Outcome.KEPT: 1}
        assert scenario.graph.methods()["DELETE"] == 0
        scenario.clock.advance(HOUR)
        assert (await scenario.process().run()).outcomes == {Outcome.REPLACED: 1}
    assert [one.certificate_id for one in scenario.graph.live()] == [NEXT_CERTIFICATE.id]


async def test_renewal_goes_on_while_key_vault_is_away() -> None:
    scenario = Scenario(call_events(1), call_events(2))
    scenario.graph.add(call_events(1), expires=scenario.clock.now() + HOUR)
    scenario.certificates.certificate = None
    report = await scenario.renewal.run()
    assert report.outcomes == {Outcome.RENEWED: 1, Outcome.FAILED: 1}
    assert {failure.reason for failure in report.failures} == {"unavailable", "certificate"}


async def test_renewal_goes_on_while_the_desired_state_cannot_be_read() -> None:
    scenario = Scenario()
    scenario.graph.add(call_events(1), expires=scenario.clock.now() + HOUR)
    scenario.graph.add(call_events(2))
    scenario.source.state = DesiredStateError("subscriptions.toml", ["line 1: wrong"])
    report = await scenario.renewal.run()
    assert report.outcomes == {Outcome.RENEWED: 1, Outcome.UNCHANGED: 1}
    assert [failure.reason for failure in report.failures] == ["desired-state"]
    assert len(scenario.graph.live()) == 2


async def test_what_is_refused_of_the_desired_state_is_told_and_the_rest_made() -> None:
    scenario = Scenario()
    scenario.source.state = DesiredState(
        (call_events(1),), (), DesiredStateError("subscriptions.toml", ["line 9: refused"])
    )
    unwanted = scenario.graph.add(call_events(2))
    report = await scenario.renewal.run()
    assert report.outcomes == {Outcome.CREATED: 1, Outcome.UNCHANGED: 1}
    assert [(failure.stage, failure.reason) for failure in report.failures] == [(Stage.DESIRED_STATE, "desired-state")]
    assert unwanted.id in scenario.graph.all


async def test_members_of_a_group_and_what_is_left_while_they_are_not_known() -> None:
    group = Group(TENANT, user(900))
    scenario = Scenario(call_events(1), groups=(group,))
    scenario.graph.members[group.group_id] = (user(1), user(2), user(3))
    assert (await scenario.renewal.run()).outcomes == {Outcome.CREATED: 3}
    del scenario.graph.members[group.group_id]
    report = await scenario.renewal.run()
    assert report.outcomes == {Outcome.UNCHANGED: 3}
    assert [failure.stage for failure in report.failures] == [Stage.GROUP]
    scenario.graph.members[group.group_id] = (user(2),)
    assert (await scenario.renewal.run()).outcomes == {Outcome.UNCHANGED: 3}


@pytest.mark.parametrize(
    ("gone", "outcome", "last"), [(True, Outcome.CREATED, "POST"), (False, Outcome.RENEWED, "PATCH")]
)
async def test_what_is_not_found_is_recreated_only_if_a_second_look_says_so(
    gone: bool, outcome: Outcome, last: str
) -> None:
    scenario = Scenario(call_events(1))
    old = scenario.graph.add(call_events(1), expires=scenario.clock.now() + HOUR)
    answers = iter([model.NOT_FOUND])

    def faults(_: Call) -> model.Fault | None:
        if gone:
            scenario.graph.all.pop(old.id, None)
        return next(answers, None)

    scenario.graph.faults = faults
    assert (await scenario.renewal.run()).outcomes == {outcome: 1}
    assert [call.method for call in scenario.graph.calls] == ["PATCH", "GET", last]
    assert (old.id in scenario.graph.all) is not gone


async def test_a_creation_whose_answer_is_lost_is_adopted() -> None:
    scenario = Scenario(*(call_events(number) for number in range(25)))
    scenario.graph.faults = on("POST", model.lose_answer)
    report = await scenario.renewal.run()
    assert (report.outcomes, report.failures) == ({Outcome.ADOPTED: 25}, ())
    assert scenario.graph.methods() == {"POST": 25}
    assert scenario.graph.lists == 3  # two tenants, and once more where creations were open


async def test_what_no_list_shows_is_found_by_its_id_and_kept_alive() -> None:
    scenario = Scenario(call_events(1))
    old = scenario.graph.add(call_events(1), expires=scenario.clock.now() + HOUR)
    scenario.graph.unlisted.add(old.id)
    report = await scenario.renewal.run()
    assert (report.outcomes, report.failures, report.live) == ({Outcome.RENEWED: 1}, (), 1)
    report = await scenario.renewal.run()
    assert (report.outcomes, report.failures, report.live) == ({Outcome.UNCHANGED: 1}, (), 1)
    assert list(scenario.graph.all) == [old.id]


async def test_a_place_held_by_somebody_else_is_reported_and_not_fought_over() -> None:
    scenario = Scenario(call_events(1))
    foreign = scenario.graph.add(call_events(1), notification_url="https://other.example.com/api/notifications")
    report = await scenario.renewal.run()
    assert [failure.reason for failure in report.failures] == ["conflict"]
    assert list(scenario.graph.all) == [foreign.id]
    assert scenario.graph.methods()["POST"] <= 3


async def test_a_place_held_for_our_former_address_is_taken_over() -> None:
    for unique in (True, False):
        scenario = Scenario(call_events(1), call_events(2), unique=unique)
        scenario.endpoint = Endpoint(
            "https://old.example.com/api/notifications", "https://old.example.com/life", ("secret",)
        )
        await scenario.process().run()
        scenario.endpoint = Endpoint(
            "https://new.example.com/api/notifications", "https://new.example.com/life", ("secret",)
        )
        report = await scenario.process().run()
        assert (report.outcomes, report.failures) == ({Outcome.REPLACED: 2}, ())
        assert {one.notification_url.partition("?")[0] for one in scenario.graph.live()} == {
            "https://new.example.com/api/notifications"
        }
        assert (await scenario.process().run()).outcomes == {Outcome.UNCHANGED: 2}


async def test_a_place_held_by_another_deployment_of_ours_is_not_fought_over() -> None:
    scenario = Scenario(call_events(1))
    scenario.endpoint = Endpoint("https://blue.example.com/n", "https://blue.example.com/n", ("secret of blue",))
    await scenario.process().run()
    held = set(scenario.graph.all)
    scenario.known = Known()
    scenario.endpoint = Endpoint("https://green.example.com/n", "https://green.example.com/n", ("secret of green",))
    report = await scenario.process().run()
    assert [failure.reason for failure in report.failures] == ["conflict"]
    assert set(scenario.graph.all) == held


async def test_a_fast_clock_renews_what_it_takes_for_expired() -> None:
    scenario = Scenario(call_events(1))
    old = scenario.graph.add(call_events(1), expires=scenario.clock.now() + timedelta(minutes=3))
    fast = VirtualClock(scenario.clock.now() + timedelta(minutes=5))
    report = await scenario.process(clock=fast).run()
    assert (report.outcomes, report.failures) == ({Outcome.RENEWED: 1}, ())
    assert list(scenario.graph.all) == [old.id]


async def test_of_two_the_one_that_seems_expired_goes() -> None:
    scenario = Scenario(call_events(1), unique=False)
    fresh = scenario.graph.add(call_events(1))
    lapsing = scenario.graph.add(call_events(1), expires=scenario.clock.now() + timedelta(minutes=3))
    assert lapsing.id > fresh.id
    scenario.graph.all[fresh.id], scenario.graph.all[lapsing.id] = (
        replace(lapsing, id=fresh.id),
        replace(fresh, id=lapsing.id),
    )
    fast = VirtualClock(scenario.clock.now() + timedelta(minutes=5))
    assert (await scenario.process(clock=fast).run()).outcomes == {Outcome.UNCHANGED: 1, Outcome.RENEWED: 1}
    assert (await scenario.process(clock=fast).run()).outcomes == {Outcome.UNCHANGED: 1, Outcome.DELETED: 1}
    assert len(scenario.graph.all) == 1


async def test_an_endpoint_that_does_not_answer_is_named_without_its_key() -> None:
    scenario = Scenario(*(call_events(number) for number in range(500)))
    scenario.graph.faults = lambda _: model.NOT_VALIDATED
    report = await scenario.renewal.run()
    [failure] = report.failures
    assert (failure.reason, failure.count) == ("endpoint-validation", 500)
    assert "https://calls.example.com/api/notifications" in failure.detail
    assert "https://calls.example.com/api/lifecycleNotifications" in failure.detail
    assert "key" not in failure.detail
    assert scenario.graph.methods()["POST"] <= 200  # the others are not even tried


async def test_a_quota_stops_creations_of_its_kind_and_nothing_else() -> None:
    scenario = Scenario(*(call_events(number) for number in range(200)), call_records(), quota=30)
    scenario.graph.add(call_records(), expires=scenario.clock.now() + HOUR)
    report = await scenario.renewal.run()
    assert report.outcomes == {Outcome.CREATED: 29, Outcome.RENEWED: 1, Outcome.FAILED: 171}
    assert [(failure.reason, failure.count) for failure in report.failures] == [("quota", 171)]
    assert scenario.graph.methods()["POST"] < 140  # what was in flight, and no more


async def test_a_missing_permission_is_named() -> None:
    scenario = Scenario(call_events(1), call_records())
    scenario.graph.faults = lambda call: model.FORBIDDEN if "callEvents" in str(call.body) else None
    report = await scenario.renewal.run()
    assert report.outcomes == {Outcome.CREATED: 1, Outcome.FAILED: 1}
    assert "CallEvents.Read.All" in report.failures[0].detail


async def test_throttling_is_waited_out_within_the_budget() -> None:
    scenario = Scenario(*(call_events(number) for number in range(60)))
    seen: set[str] = set()

    def faults(call: Call) -> model.Fault | None:
        resource = (call.body or {})["resource"]
        if resource in seen:
            return None
        seen.add(resource)
        return model.THROTTLED

    scenario.graph.faults = faults
    assert (await scenario.renewal.run()).outcomes == {Outcome.CREATED: 60}


async def test_a_run_ends_when_its_time_is_over_and_the_next_goes_on() -> None:
    scenario = Scenario(*(call_events(number) for number in range(300)))

    def slow(_: Call) -> None:
        scenario.clock.advance(timedelta(seconds=5))

    scenario.graph.faults = slow
    report = await scenario.renewal.run()
    assert report.outcomes[Outcome.DEFERRED] > 0
    assert report.finished - report.started < timedelta(minutes=17)
    scenario.graph.faults = lambda _: None
    assert (await scenario.renewal.run()).outcomes[Outcome.CREATED] == report.outcomes[Outcome.DEFERRED]


async def test_one_tenant_without_consent_does_not_stop_the_others() -> None:
    scenario = Scenario(call_events(1), call_events(2, OTHER_TENANT))
    scenario.graph.list_errors[OTHER_TENANT] = CredentialError("Entra ID's token")
    report = await scenario.renewal.run()
    assert report.outcomes == {Outcome.CREATED: 1}
    assert [(failure.tenant_id, failure.reason) for failure in report.failures] == [(OTHER_TENANT, "credential")]


@pytest.mark.parametrize("everything_down", [True, False])
async def test_a_run_that_can_do_nothing_raises(everything_down: bool) -> None:
    scenario = Scenario(call_events(1))
    if everything_down:
        scenario.graph.list_errors = {tenant_id: UnavailableError("Graph") for tenant_id in (TENANT, OTHER_TENANT)}
    else:
        scenario.certificates.certificate = None
    with pytest.raises(UnavailableError):
        await scenario.renewal.run()


async def test_a_new_client_state_replaces_each_at_its_next_renewal() -> None:
    scenario = await begun(call_events(1), call_events(2))
    scenario.clock.advance(12 * HOUR)
    scenario.graph.all = {
        identity: replace(one, expires=one.expires + 11 * HOUR) if place else one
        for place, (identity, one) in enumerate(scenario.graph.all.items())
    }
    scenario.endpoint = Endpoint(ENDPOINT.notification_url, ENDPOINT.lifecycle_url, ("newer", "secret"))
    report = await scenario.process().run()
    assert (report.outcomes, report.previous_client_state) == ({Outcome.KEPT: 1, Outcome.UNCHANGED: 1}, 2)
    scenario.clock.advance(6 * HOUR)
    report = await scenario.process().run()
    assert (report.outcomes, report.previous_client_state) == ({Outcome.REPLACED: 1, Outcome.UNCHANGED: 1}, 1)
    scenario.clock.advance(11 * HOUR)
    assert (await scenario.process().run()).outcomes == {Outcome.REPLACED: 1, Outcome.UNCHANGED: 1}
    assert {scenario.graph.client_states[one.id] for one in scenario.graph.live()} == {"newer"}


async def test_an_unknown_mark_is_replaced_at_once_even_under_a_full_quota() -> None:
    scenario = Scenario(call_events(1), unique=False, quota=1)
    scenario.graph.add(call_events(1), notification_url=model.URL)
    assert (await scenario.renewal.run()).outcomes == {Outcome.REPLACED: 1}
    assert scenario.graph.client_states[scenario.graph.live()[0].id] == "secret"


async def test_resync_is_shared_by_those_who_wait() -> None:
    scenario = Scenario(call_events(1))
    reports = await asyncio.gather(*(scenario.renewal.resync(TENANT) for _ in range(20)))
    assert len({id(report) for report in reports}) == 1
    assert scenario.graph.lists == 1


async def test_reauthorize_patches_once_and_alone() -> None:
    scenario = await begun(call_events(1))
    [identity] = scenario.graph.all
    scenario.clock.advance(HOUR)
    assert await scenario.renewal.reauthorize(TENANT, identity) is Outcome.RENEWED
    assert scenario.graph.methods() == {"POST": 1, "PATCH": 1}
    assert await scenario.renewal.reauthorize(TENANT, user(77)) is Outcome.GONE
    foreign = scenario.graph.add(call_events(5), notification_url="https://other.example.com/api/notifications")
    assert await scenario.renewal.reauthorize(TENANT, foreign.id) is Outcome.UNCHANGED
    scenario.graph.faults = lambda _: model.FORBIDDEN
    with pytest.raises(graph_errors.PermissionDeniedError):
        await scenario.renewal.reauthorize(TENANT, identity)


@pytest.mark.parametrize("answer", [model.NOT_DONE, model.refuse(graph_errors.SubscriptionConflictError("409"))])
async def test_a_second_presence_subscription_never_costs_the_first(answer: model.Fault) -> None:
    first, second = presence(1), presence(2)
    scenario = Scenario(first, second)
    old = scenario.graph.add(first)
    scenario.graph.faults = on("POST", answer)
    for _ in range(2):
        await scenario.renewal.run()
    assert [one.id for one in scenario.graph.live()] == [old.id]
    scenario.graph.faults = lambda _: None
    assert (await scenario.renewal.run()).failures == ()
    assert len(scenario.graph.live()) == 2
    assert old.id in scenario.graph.all


async def test_what_vanishes_while_a_creation_is_looked_for_is_forgotten() -> None:
    scenario = await begun(call_events(1), unique=False)
    [old] = scenario.graph.live()
    scenario.source.state = DesiredState((call_events(1), call_events(2)), ())

    def vanish(call: Call) -> model.Fault | None:
        scenario.graph.all.pop(old.id, None)
        return model.lose_answer if call.method == "POST" else None

    scenario.graph.faults = vanish
    report = await scenario.process().run()
    assert (report.outcomes, report.live) == ({Outcome.UNCHANGED: 1, Outcome.ADOPTED: 1}, 1)
    assert old.id not in scenario.known.ids[TENANT]


async def test_a_run_without_time_asks_for_no_list() -> None:
    scenario = Scenario(call_events(1))
    with pytest.raises(UnavailableError) as caught:
        await scenario.process(budget=timedelta(0)).run()
    assert (caught.value.reason, scenario.graph.lists) == ("out-of-time", 0)


async def test_a_longer_list_of_presence_users_replaces_the_shorter_one() -> None:
    scenario = Scenario(presence(1, 2, 3))
    old = scenario.graph.add(presence(1, 2))
    # Graph holds one for each signed-in user, whatever its list.
    scenario.graph.faults = lambda call: (
        model.refuse(graph_errors.SubscriptionConflictError("409"))
        if call.method == "POST" and old.id in scenario.graph.all
        else None
    )
    assert (await scenario.renewal.run()).outcomes == {Outcome.REPLACED: 1}
    assert [one.resource for one in scenario.graph.live()] == [presence(1, 2, 3).resource]
    assert all(call.delegated for call in scenario.graph.calls)


FAULTS = (
    None,
    model.lose_answer,
    model.UNAVAILABLE,
    model.THROTTLED,
    model.NOT_DONE,
    model.NOT_FOUND,
    model.REJECTED,
    model.FORBIDDEN,
    model.QUOTA,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    faults=st.lists(st.sampled_from(FAULTS), max_size=40),
    states=st.lists(STATES, min_size=1, max_size=6),
    unique=st.booleans(),
    honours=st.booleans(),
    tells=st.booleans(),
    rotated=st.booleans(),
)
@example(
    faults=[model.NOT_FOUND, model.NOT_FOUND, model.lose_answer],  # of the old one, which is there, and of the new one
    states=["fresh"],
    unique=False,
    honours=False,
    tells=True,
    rotated=True,
)
def test_no_order_of_faults_loses_a_desired_subscription(
    *, faults: list[model.Fault | None], states: list[str], unique: bool, honours: bool, tells: bool, rotated: bool
) -> None:
    wanted = [call_events(number) for number in range(len(states))]
    scenario = Scenario(*wanted, unique=unique, honours_certificate=honours, tells_certificate=tells)
    put_in_place(scenario, wanted, states)
    scenario.certificates.certificate = NEXT_CERTIFICATE if rotated else CERTIFICATE
    remaining = iter(faults)

    def watch(call: Call) -> model.Fault | None:
        """A live subscription may be deleted only if another is there, or Graph just refused to hold two."""
        if call.method == "DELETE" and (going := scenario.graph.all.get(call.subscription_id or "")) is not None:
            same = [one for one in scenario.graph.live() if one.resource == going.resource]
            good = scenario.endpoint.read_mark(going.notification_url)[0] is not ClientStateVersion.UNKNOWN
            assert len(same) > 1 or unique or not good
        return next(remaining, None)

    scenario.graph.faults = watch

    def at_most_two() -> None:
        assert all(len(scenario.graph.holds(want)) <= 2 for want in wanted)

    async def live() -> None:
        for _ in range(4):
            with contextlib.suppress(UnavailableError):
                await scenario.process().run()
            at_most_two()
            scenario.clock.advance(timedelta(minutes=5))
        scenario.graph.faults = lambda _: None
        for _ in range(8):  # what delivers is replaced only when its life is nearly over
            for _ in range(2):
                report = await scenario.process().run()
                at_most_two()
            scenario.clock.advance(3 * HOUR)
        scenario.clock.advance(-3 * HOUR)
        assert report.failures == ()
        calls = len(scenario.graph.calls)
        report = await scenario.process().run()
        assert set(report.outcomes) == {Outcome.UNCHANGED}
        assert len(scenario.graph.calls) == calls
        for want in wanted:
            [one] = scenario.graph.holds(want)
            version, _ = scenario.endpoint.read_mark(one.notification_url)
            assert version is not ClientStateVersion.UNKNOWN
            if tells:
                assert one.certificate_id == scenario.certificates.certificate.id  # type: ignore[union-attr]

    asyncio.run(live(), loop_factory=VirtualLoop)
