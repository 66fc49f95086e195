"""Renewal against a Graph that spells, refuses, hides and forgets, as public reports say that it does."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dev.simulation.known import Known
from dev.simulation.virtual_time import VirtualLoop
from shared.subscriptions.actions import Outcome
from shared.subscriptions.desired import Desired, DesiredState, Group
from shared.subscriptions.desired_source import Stage
from shared.subscriptions.lifecycle import Lifecycle
from shared.subscriptions.run_report import RenewalReport
from shared.values import graph, graph_errors, resources
from shared.values.endpoint import ClientStateVersion, Endpoint
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import Call, Subscription
from shared.values.resource_paths import normal_form
from tests.unit import model_graph as model
from tests.unit.model_graph import (
    ENDPOINT,
    NEXT_CERTIFICATE,
    OTHER_TENANT,
    TENANT,
    call_events,
    call_records,
    policy,
    user,
)
from tests.unit.test_renew import HOUR, STATES, Scenario, begun, on, put_in_place

MINUTE = timedelta(minutes=1)
RUN = 5 * MINUTE
WRAPPED_401 = graph_errors.error_of(
    400,
    {
        "error": {
            "code": "ExtensionError",
            "message": "Operation: Update; Exception: [Status Code: Unauthorized; Reason: p#S256 doesn't match.]",
        }
    },
)
TIMED_OUT = graph_errors.error_of(
    400, {"error": {"code": "InvalidRequest", "message": "Subscription validation request timed out."}}
)


def wrapped(status: str) -> SwitchboardError:
    return graph_errors.error_of(
        400, {"error": {"code": "ExtensionError", "message": f"[Status Code: {status}; Reason: x]"}}
    )


REFUSALS = (  # one of each kind; which answers are of which, tests/unit/test_graph.py says
    graph_errors.RequestRejectedError("400"),
    graph_errors.PermissionDeniedError("403"),
    graph_errors.SubscriptionConflictError("409"),
    TIMED_OUT,
    wrapped("GatewayTimeout"),
    wrapped("Unauthorized"),
)


def refusing(method: str, error: SwitchboardError) -> Callable[[Call], model.Fault | None]:
    return on(method, model.refuse(error))


async def run(scenario: Scenario) -> RenewalReport | None:
    """A run of a new process; None where nothing at all could be done."""
    try:
        return await scenario.process().run()
    except UnavailableError:
        return None


async def runs(scenario: Scenario, count: int, step: timedelta = RUN) -> None:
    for _ in range(count):
        await run(scenario)
        scenario.clock.advance(step)


class TestSpelling:
    """What is remembered is judged by what was sent."""

    @pytest.mark.parametrize("unique", [True, False])
    @pytest.mark.parametrize(
        "echo",
        [
            lambda one: replace(one, change_type="updated"),
            lambda one: replace(one, change_type=""),
            lambda one: replace(one, notification_url=one.notification_url.partition("?")[0]),
            lambda one: replace(one, notification_url=one.notification_url.replace("/api/", "/API/")),
            lambda one: replace(one, notification_url=""),
            lambda one: replace(one, certificate_id=one.certificate_id and one.certificate_id.upper()),
            lambda one: replace(one, certificate_id="another"),
            lambda one: replace(one, resource=one.resource.replace(" ", "+").replace("'", "%27").replace("?", "/?")),
            lambda one: replace(one, resource=f"/{one.resource.upper()}"),
            lambda one: replace(one, resource="nobody/knows"),
        ],
    )
    async def test_no_echo_has_anything_made_or_deleted(
        self, echo: Callable[[Subscription], Subscription], *, unique: bool
    ) -> None:
        filtered = Desired(
            TENANT,
            resources.CALL_RECORDS,
            f"communications/callRecords?$filter=participants/any(p:p/id in ('{user(1)}','{user(2)}'))",
            rich=False,
        )
        meeting = Desired(
            TENANT,
            resources.ONLINE_MEETING,
            resources.online_meeting_path("https://teams.microsoft.com/l/meetup-join/19%3aA%2bB"),
            rich=True,
        )
        wanted = [call_records(), call_events(1), filtered, meeting]
        scenario = Scenario(*wanted, unique=unique, echo=echo)
        await runs(scenario, 4)
        await runs(scenario, 16, 2.5 * HOUR)
        assert scenario.graph.methods()["POST"] == 4
        assert scenario.graph.methods()["DELETE"] == 0
        assert len(scenario.graph.live()) == 4

    async def test_what_one_answer_took_for_gone_is_known_again(self) -> None:
        scenario = await begun(call_events(1))
        [one] = scenario.graph.live()
        scenario.graph.blind = True
        blips = iter([graph_errors.NotFoundError("404")])
        scenario.graph.reading = lambda _: next(blips, None)
        scenario.graph.echo = lambda one: replace(one, notification_url=one.notification_url.partition("?")[0])
        for _ in range(3):
            report = await scenario.process().run()
        assert (report.outcomes, report.failures) == ({Outcome.UNCHANGED: 1}, ())
        assert [found.id for found in scenario.graph.live()] == [one.id]
        assert scenario.graph.methods()["DELETE"] == 0

    async def test_what_is_not_remembered_is_recognised(self) -> None:
        scenario = await begun(call_records(), call_events(1))
        scenario.known = Known()
        scenario.graph.echo = lambda one: replace(one, resource=f"/{one.resource.replace('users/', 'Users%28%27')}")
        scenario.graph.echo = lambda one: replace(
            one, resource=f"/{one.resource.replace(user(1), f'(%27{user(1).upper()}%27)').replace('users/(', 'Users(')}"
        )
        assert (await scenario.process().run()).outcomes == {Outcome.UNCHANGED: 2}
        assert scenario.graph.methods() == {"POST": 2}

    @pytest.mark.parametrize(("one", "other"), [("Site+1", "Site 1"), ("100%25", "100%"), ("north", "North")])
    @pytest.mark.parametrize("remembered", [True, False])
    async def test_policies_are_told_apart_by_their_exact_names(
        self, one: str, other: str, *, remembered: bool
    ) -> None:
        wanted = [policy(one), policy(other)]
        scenario = await begun(*wanted, unique=False)
        if not remembered:
            scenario.known = Known()
        await runs(scenario, 3)
        assert sorted(found.resource for found in scenario.graph.live()) == sorted(want.resource for want in wanted)
        assert scenario.graph.methods() == {"POST": 2}

    @pytest.mark.parametrize(("one", "other"), [("Site+1", "Site 1"), ("100%25", "100%"), ("a//b", "a/b")])
    @pytest.mark.parametrize("blind", [True, False])
    async def test_what_was_made_is_for_no_other_policy_of_the_same_normal_form(
        self, one: str, other: str, *, blind: bool
    ) -> None:
        made, wanted = policy(one), policy(other)
        scenario = await begun(made, unique=False)
        scenario.source.state = DesiredState((wanted,), ())
        scenario.graph.blind = blind
        await runs(scenario, 3)
        await runs(scenario, 3, 13 * HOUR)
        assert sorted(found.resource for found in scenario.graph.live()) == sorted([made.resource, wanted.resource])
        assert (scenario.graph.methods()["POST"], scenario.graph.methods()["DELETE"]) == (2, 0)
        scenario.source.state = DesiredState((made,), ())
        await runs(scenario, 2)
        assert (scenario.graph.methods()["POST"], scenario.graph.methods()["DELETE"]) == (2, 0)

    async def test_what_was_renewed_by_graphs_spelling_alone_is_recognised_later(self) -> None:
        scenario = await begun(call_events(1), policy("Site 1"), unique=False)
        scenario.known = Known()
        scenario.graph.echo = lambda one: replace(one, resource=f"/{one.resource.replace(' ', '%20')}")
        desired, scenario.source.state = scenario.source.state, UnavailableError("storage")
        scenario.clock.advance(13 * HOUR)
        await scenario.process().run()
        scenario.source.state = desired
        await runs(scenario, 2)
        assert scenario.graph.methods()["POST"] == 2


class TestRenewalRefused:
    """What Graph does not renew is kept, and tried run after run."""

    @pytest.mark.parametrize("refusal", REFUSALS, ids=str)
    @pytest.mark.parametrize("unique", [True, False])
    async def test_nothing_is_deleted_or_made_before_a_quarter_is_left(
        self, refusal: SwitchboardError, *, unique: bool
    ) -> None:
        scenario = await begun(*(call_events(number) for number in range(5)), unique=unique)
        scenario.clock.advance(13 * HOUR)
        scenario.graph.faults = refusing("PATCH", refusal)
        await runs(scenario, 4, HOUR)
        methods = scenario.graph.methods()
        assert (methods["POST"], methods["DELETE"]) == (5, 0)
        assert methods["PATCH"] >= 20
        scenario.graph.faults = lambda _: None
        assert (await scenario.process().run()).outcomes == {Outcome.RENEWED: 5}

    async def test_what_happens_next_and_when_is_told(self) -> None:
        scenario = await begun(call_events(1))
        scenario.clock.advance(13 * HOUR)
        scenario.graph.faults = refusing("PATCH", graph_errors.RequestRejectedError("400 Bad: no"))
        report = await scenario.process().run()
        [failure] = report.failures
        assert (report.outcomes, report.live) == ({Outcome.KEPT: 1}, 1)
        assert "400 Bad: no; it is kept, and tried again by every run; from 2026-01-01 17:49 UTC on" in failure.detail

    @pytest.mark.parametrize("refusal", [refusal for refusal in REFUSALS if refusal is not TIMED_OUT], ids=str)
    async def test_then_it_is_replaced_and_never_lapses(self, refusal: SwitchboardError) -> None:
        scenario = await begun(call_events(1), call_events(2), unique=False)
        scenario.graph.faults = refusing("PATCH", refusal)
        for _ in range(2 * 24):
            await run(scenario)
            for want in scenario.desired:
                assert 1 <= len(scenario.graph.holds(want)) <= 2
            scenario.clock.advance(HOUR)

    @pytest.mark.parametrize("unique", [True, False])
    async def test_a_failed_validation_of_our_endpoint_never_leads_to_delete(self, *, unique: bool) -> None:
        scenario = await begun(*(call_events(number) for number in range(5)), unique=unique)
        scenario.graph.faults = lambda call: model.refuse(TIMED_OUT) if call.method in {"PATCH", "POST"} else None
        for _ in range(23 * 2):
            await scenario.process().run()
            scenario.clock.advance(30 * MINUTE)
        assert scenario.graph.methods()["DELETE"] == 0
        assert len(scenario.graph.live()) == 5
        scenario.graph.faults = lambda _: None
        assert (await scenario.process().run()).outcomes == {Outcome.RENEWED: 5}

    @pytest.mark.parametrize("refused", [model.QUOTA, model.REJECTED, model.NOT_VALIDATED, model.UNAVAILABLE])
    async def test_one_goes_first_and_the_others_only_after_its_successor_is_there(self, refused: model.Fault) -> None:
        scenario = await begun(*(call_events(number) for number in range(20)), honours_certificate=False)
        scenario.certificates.certificate = NEXT_CERTIFICATE
        scenario.graph.faults = lambda call: refused if call.method == "POST" and not same(scenario, call) else None
        await scenario.process().run()
        assert len(scenario.graph.live()) == 20
        scenario.clock.advance(18 * HOUR)
        await runs(scenario, 12)
        assert len(scenario.graph.live()) == 19  # the one that went first
        scenario.graph.faults = lambda _: None
        await runs(scenario, 3)
        scenario.clock.advance(18 * HOUR)
        await runs(scenario, 2)
        assert {one.certificate_id for one in scenario.graph.live()} == {NEXT_CERTIFICATE.id}
        assert len(scenario.graph.live()) == 20

    async def test_what_nobody_can_read_goes_at_once_but_one_first(self) -> None:
        scenario = await begun(*(call_events(number) for number in range(20)))
        scenario.endpoint = Endpoint(ENDPOINT.notification_url, ENDPOINT.lifecycle_url, ("unknown to them",))
        refusing = True
        scenario.graph.faults = lambda call: (
            model.QUOTA if refusing and call.method == "POST" and not same(scenario, call) else None
        )
        await runs(scenario, 3)
        assert len(scenario.graph.live()) == 19
        refusing = False
        await runs(scenario, 2)
        assert {scenario.endpoint.read_mark(one.notification_url)[0] for one in scenario.graph.live()} == {
            ClientStateVersion.CURRENT
        }
        assert len(scenario.graph.live()) == 20

    @pytest.mark.parametrize("refusal", REFUSALS, ids=str)
    async def test_what_is_not_listed_either_is_looked_for(self, refusal: SwitchboardError) -> None:
        scenario = await begun(call_events(1), call_events(2), page=1)
        scenario.clock.advance(13 * HOUR)
        [gone] = scenario.graph.holds(call_events(1))
        del scenario.graph.all[gone.id]
        scenario.graph.faults = refusing("PATCH", refusal)
        await scenario.process().run()
        assert [len(scenario.graph.holds(want)) for want in scenario.desired] == [1, 1]
        assert scenario.graph.methods()["DELETE"] == 0

    async def test_a_grant_of_less_than_was_asked_for_is_a_grant(self) -> None:
        scenario = await begun(call_events(1))
        scenario.clock.advance(13 * HOUR)
        scenario.graph.grant = timedelta(minutes=50)
        assert (await scenario.process().run()).outcomes == {Outcome.RENEWED: 1}
        await runs(scenario, 40, 10 * MINUTE)
        assert scenario.graph.methods()["POST"] == 1
        assert len(scenario.graph.live()) == 1


def same(scenario: Scenario, call: Call) -> bool:
    return any(one.resource == (call.body or {}).get("resource") for one in scenario.graph.live())


class TestBegunAndDouble:
    """A renewal that turns into something else, while lists are read that change from page to page."""

    @pytest.mark.parametrize("unique", [True, False])
    @pytest.mark.parametrize("what", ["404", "400", "unchanged", "lost"])
    async def test_all_stay_covered(self, what: str, *, unique: bool) -> None:
        wanted = [call_events(number) for number in range(12)]
        scenario = await begun(*wanted, unique=unique, page=3, pause=0.5)
        scenario.clock.advance(19 * HOUR)
        faults = {"404": model.NOT_FOUND, "400": model.REJECTED, "lost": model.lose_answer}

        def befall(call: Call) -> model.Fault | None:
            if call.method != "PATCH":
                return None
            if what == "404":
                scenario.graph.all.pop(call.subscription_id or "", None)
            if what == "unchanged":
                return lambda _: scenario.graph.all[call.subscription_id or ""]
            return faults[what]

        scenario.graph.faults = befall
        for _ in range(3):
            await run(scenario)
            assert all(1 <= len(scenario.graph.holds(want)) <= 2 for want in wanted)
        scenario.graph.faults = lambda _: None
        await runs(scenario, 2)
        assert all(len(scenario.graph.holds(want)) == 1 for want in wanted)

    async def test_a_duplicate_stays_while_the_kept_one_cannot_be_looked_at(self) -> None:
        scenario = Scenario(call_events(1), unique=False)
        for _ in range(2):
            scenario.graph.add(call_events(1))
        scenario.graph.reading = lambda _: graph_errors.OutcomeUnknownError()
        await scenario.process().run()
        assert len(scenario.graph.live()) == 2
        scenario.graph.reading = lambda _: None
        assert (await scenario.process().run()).outcomes == {Outcome.UNCHANGED: 1, Outcome.DELETED: 1}


class TestNeverMoreThanTwo:
    async def test_where_only_creation_works(self) -> None:
        """The proof of a token's origin is refused by everything but POST (microsoftgraph/msgraph-sdk-java, 1711)."""
        wanted = [call_events(1), call_events(2), call_records()]
        scenario = await begun(*wanted, unique=False)
        scenario.graph.faults = lambda call: model.refuse(WRAPPED_401) if call.method != "POST" else None
        for _ in range(7 * 12):
            await run(scenario)
            assert all(1 <= len(scenario.graph.holds(want)) <= 2 for want in wanted)
            scenario.clock.advance(2 * HOUR)

    @pytest.mark.parametrize("lost", [True, False])
    async def test_what_is_not_to_be_seen_is_not_made_again_and_again(self, *, lost: bool) -> None:
        scenario = Scenario(call_records(), unique=False)
        scenario.graph.blind = True
        scenario.graph.reading = lambda _: graph_errors.NotFoundError("404")
        if lost:
            scenario.graph.faults = refusing("POST", graph_errors.OutcomeUnknownError())
        said = 0
        for _ in range(70 * 2):
            report = await run(scenario)
            said += report is not None and any(failure.reason == "unseen" for failure in report.failures)
            scenario.clock.advance(30 * MINUTE)
        assert scenario.graph.methods()["POST"] < 40
        assert said > 100

    async def test_what_was_not_to_be_seen_for_long_is_made_soon_after(self) -> None:
        scenario = Scenario(call_records(), call_events(1), unique=False)
        scenario.graph.blind = True
        scenario.graph.faults = refusing("POST", graph_errors.OutcomeUnknownError())
        await runs(scenario, 23 * 4, 15 * MINUTE)
        scenario.graph.blind = False
        scenario.graph.faults = lambda _: None
        await runs(scenario, 11, 15 * MINUTE)
        assert len(scenario.graph.live()) == 2

    @pytest.mark.parametrize("named", [True, False])
    async def test_a_holder_is_adopted_only_if_it_is_for_the_same_thing(self, *, named: bool) -> None:
        """Graph's message may name the user, and not the holder."""
        scenario = Scenario(call_events(1), call_events(2))
        other, held = scenario.graph.add(call_events(2)), scenario.graph.add(call_events(1))
        scenario.graph.unlisted.add(held.id)
        conflict = graph_errors.SubscriptionConflictError("409", user(1), other.id, *([held.id] if named else []))
        scenario.graph.faults = refusing("POST", conflict)
        report = await scenario.process().run()
        assert set(scenario.graph.all) == {other.id, held.id}
        assert report.outcomes == {Outcome.UNCHANGED: 1, (Outcome.ADOPTED if named else Outcome.FAILED): 1}


class TestOneBadThing:
    async def test_an_expiration_that_is_not_told_is_no_reason_to_make_another(self) -> None:
        scenario = await begun(call_records(), call_events(1), call_events(2, OTHER_TENANT))
        scenario.graph.echo = lambda one: replace(one, expires=scenario.clock.now(), expires_told=False)
        await runs(scenario, 50, 30 * MINUTE)
        assert scenario.graph.methods()["POST"] == 3
        assert len(scenario.graph.live()) == 3

    async def test_one_users_refusal_turns_nobody_else_away(self) -> None:
        scenario = Scenario(*(call_events(number) for number in range(200)))
        refusal = graph_errors.error_of(
            403, {"error": {"code": "Forbidden", "message": "No application access policy found"}}
        )

        def faults(call: Call) -> model.Fault | None:
            return model.refuse(refusal) if (call.body or {}).get("resource") == call_events(7).resource else None

        scenario.graph.faults = faults
        report = await scenario.renewal.run()
        assert report.outcomes == {Outcome.CREATED: 199, Outcome.FAILED: 1}
        [failure] = report.failures
        assert "No application access policy found" in failure.detail

    async def test_a_fault_of_ours_in_one_tenant_stops_no_other(self) -> None:
        scenario = Scenario(call_events(1), call_events(2, OTHER_TENANT))

        class Odd(dict[str, SwitchboardError]):
            def __contains__(self, tenant_id: object) -> bool:
                if tenant_id == TENANT:
                    raise ZeroDivisionError
                return False

        scenario.graph.list_errors = Odd()
        report = await scenario.renewal.run()
        assert report.outcomes == {Outcome.CREATED: 1}
        assert [(failure.tenant_id, failure.reason) for failure in report.failures] == [(TENANT, "unexpected")]

    async def test_what_lives_is_renewed_whatever_the_desired_state_raises(self) -> None:
        scenario = Scenario()
        scenario.graph.add(call_events(1), expires=scenario.clock.now() + HOUR)

        async def load() -> DesiredState:
            raise RecursionError

        scenario.source.load = load  # type: ignore[method-assign]
        report = await scenario.process().run()
        assert report.outcomes == {Outcome.RENEWED: 1}
        assert [failure.stage for failure in report.failures] == [Stage.DESIRED_STATE]


class TestClientStateRotated:
    async def test_members_of_a_group_that_cannot_be_read_keep_living_and_are_replaced_later(self) -> None:
        group = Group(TENANT, user(900))
        scenario = Scenario(groups=(group,), unique=False)
        scenario.graph.members[group.group_id] = members = tuple(user(number) for number in range(1, 6))
        await scenario.renewal.run()
        scenario.endpoint = Endpoint(ENDPOINT.notification_url, ENDPOINT.lifecycle_url, ("newer", "secret"))
        scenario.graph.members.clear()
        for _ in range(17 * 3):  # not prolonged yet: the group may be read in time
            report = await scenario.process().run()
            scenario.clock.advance(20 * MINUTE)
        assert report.previous_client_state == 5
        assert scenario.graph.methods()["PATCH"] == 0
        for _ in range(2 * 24):
            await scenario.process().run()
            assert len(scenario.graph.live()) == 5
            scenario.clock.advance(HOUR)
        scenario.graph.members[group.group_id] = members
        for _ in range(24):
            report = await scenario.process().run()
            assert len(scenario.graph.live()) >= 5
            scenario.clock.advance(HOUR)
        assert report.previous_client_state == 0


BUSY = UnavailableError("Graph", reason="throttled", retry_after=30.0)
BUSY_WITHOUT_A_WORD = UnavailableError("Graph", reason="throttled")


def hanging(scenario: Scenario) -> Callable[[str, str], Awaitable[tuple[str, ...]]]:
    async def hang(*_: str) -> tuple[str, ...]:
        await scenario.clock.sleep(100.0)
        raise UnavailableError("Graph")

    return hang


def all_of_it(fault: model.Fault) -> Callable[[Scenario], None]:
    """Every call of the other tenant meets this."""

    def befall(scenario: Scenario) -> None:
        scenario.graph.faults = lambda call: fault if call.tenant_id == OTHER_TENANT else None

    return befall


def hide(scenario: Scenario) -> None:
    scenario.graph.unlisted.update(one.id for one in scenario.graph.live() if one.tenant_id == OTHER_TENANT)
    scenario.graph.reading = lambda one: graph_errors.OutcomeUnknownError() if one in scenario.graph.unlisted else None


TROUBLES: dict[str, Callable[[Scenario], object]] = {
    "its list hangs": lambda scenario: scenario.graph.slow.update({OTHER_TENANT: 100.0}),
    "its list fails": lambda scenario: scenario.graph.list_errors.update({OTHER_TENANT: UnavailableError("Graph")}),
    "its lists are refused": lambda scenario: scenario.graph.list_errors.update({OTHER_TENANT: WRAPPED_401}),
    "it is throttled": all_of_it(model.refuse(BUSY)),
    "it is throttled without a word": all_of_it(model.refuse(BUSY_WITHOUT_A_WORD)),
    "its group hangs": lambda scenario: setattr(scenario.graph, "group_members", hanging(scenario)),
    "its list shows nothing, and nothing of it can be read": hide,
    "nothing of it is answered": all_of_it(model.NOT_DONE),
    "everything of it is refused": all_of_it(model.REJECTED),
    "another run is at work in it": lambda scenario: scenario.known.holders.update({OTHER_TENANT: "another run"}),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("remembered", [True, False])
async def test_a_tenant_in_trouble_costs_the_others_nothing(trouble: str, *, remembered: bool) -> None:
    """The same renewals in the same order, none later by more than a second."""

    async def renewals(befall: Callable[[Scenario], object]) -> list[tuple[str, float]]:
        of_one = [call_events(number) for number in range(25)]
        of_other = [call_events(number, OTHER_TENANT) for number in range(100, 121)]
        group = Group(OTHER_TENANT, user(900))
        scenario = Scenario(*of_one, *of_other, groups=(group,), page=10)
        scenario.graph.members[group.group_id] = tuple(user(number) for number in range(200, 205))
        if remembered:
            await scenario.renewal.run()
        else:
            for want in (*of_one, *of_other):
                scenario.graph.add(want)
        scenario.graph.sent.clear()
        scenario.clock.advance(13 * HOUR)
        befall(scenario)
        start = scenario.clock.now()
        await scenario.process(budget=MINUTE).run()
        return [
            (call.subscription_id or "", (at - start).total_seconds())
            for at, call in scenario.graph.sent
            if call.method == "PATCH" and call.tenant_id == TENANT
        ]

    alone, beside = await renewals(lambda _: None), await renewals(TROUBLES[trouble])
    assert [name for name, _ in beside] == [name for name, _ in alone]
    assert len(beside) == 25
    assert all(late - early <= 1 for (_, late), (_, early) in zip(beside, alone, strict=True))


class TestTenants:
    async def test_lives_are_apart(self) -> None:
        scenario = await begun(call_events(1), call_events(2, OTHER_TENANT))
        [short] = scenario.graph.holds(call_events(2, OTHER_TENANT))
        scenario.clock.advance(13 * HOUR)
        scenario.graph.faults = lambda call: setattr(  # type: ignore[func-returns-value]
            scenario.graph, "grant", 50 * MINUTE if call.subscription_id == short.id else None
        )
        await scenario.renewal.run()
        for _ in range(24 * 6):
            scenario.clock.advance(10 * MINUTE)
            await scenario.renewal.run()
            assert len(scenario.graph.live()) == 2
        assert scenario.graph.methods()["POST"] == 2

    async def test_groups_that_hang_elsewhere_keep_nobody_waiting(self) -> None:
        groups = tuple(Group(OTHER_TENANT, user(number)) for number in range(900, 910))
        scenario = Scenario(call_events(1), groups=groups)
        scenario.graph.add(call_events(1), expires=scenario.clock.now() + HOUR)
        renewed = asyncio.Event()

        async def hang(*_: str) -> tuple[str, ...]:
            async with asyncio.timeout(5):
                await renewed.wait()
            return ()

        scenario.graph.group_members = hang  # type: ignore[method-assign]

        def faults(call: Call) -> None:
            if call.method == "PATCH":
                renewed.set()

        scenario.graph.faults = faults
        report = await scenario.process().run()
        assert report.outcomes == {Outcome.RENEWED: 1}

    async def test_nothing_is_waited_for_before_what_is_remembered_is_renewed(self) -> None:
        scenario = Scenario(call_events(1), groups=(Group(TENANT, user(900)),))
        scenario.graph.members[user(900)] = ()
        await scenario.renewal.run()
        scenario.clock.advance(13 * HOUR)
        renewed = asyncio.Event()

        async def late(*_: object) -> Any:
            async with asyncio.timeout(5):
                await renewed.wait()
            raise UnavailableError("it")

        async def no_pages(_: str) -> Any:
            await late()
            yield ()

        scenario.graph.subscription_pages = no_pages  # type: ignore[method-assign]
        scenario.graph.group_members = late  # type: ignore[method-assign]
        scenario.source.load = late  # type: ignore[method-assign]
        scenario.known.load = late  # type: ignore[method-assign]
        scenario.known.save = late  # type: ignore[method-assign]
        scenario.graph.faults = lambda _: renewed.set()  # type: ignore[func-returns-value]
        report = await scenario.renewal.run()
        assert report.outcomes == {Outcome.RENEWED: 1}


class TestStorageAway:
    """What a process learned meanwhile counts also once storage is back, with what it held before."""

    @pytest.mark.parametrize("asked_for", [False, True])
    async def test_what_was_renewed_meanwhile_is_renewed_in_time(self, *, asked_for: bool) -> None:
        scenario = await begun(call_events(1))
        [one] = scenario.graph.live()
        scenario.clock.advance(13 * HOUR)
        scenario.known.error = UnavailableError("storage", reason="storage-503")
        if asked_for:
            await scenario.renewal.reauthorize(TENANT, one.id)
        else:
            await scenario.renewal.run()
        scenario.clock.advance(11.5 * HOUR)
        scenario.known.error = None
        scenario.graph.list_errors[TENANT] = UnavailableError("Graph")
        for _ in range(30):
            with contextlib.suppress(UnavailableError):
                await scenario.renewal.run()
            scenario.clock.advance(HOUR)
        assert [found.id for found in scenario.graph.live()] == [one.id]
        assert scenario.known.memories[TENANT].known[one.id].expires == scenario.graph.all[one.id].expires

    async def test_what_was_found_gone_meanwhile_is_not_asked_for_again(self) -> None:
        scenario = await begun(call_events(1), call_events(2))
        [gone] = scenario.graph.holds(call_events(1))
        del scenario.graph.all[gone.id]
        scenario.known.error = UnavailableError("storage", reason="storage-503")
        await scenario.renewal.run()
        scenario.known.error = None
        reads = scenario.graph.reads
        await scenario.renewal.run()
        assert scenario.graph.reads == reads
        assert [len(scenario.graph.holds(want)) for want in scenario.desired] == [1, 1]


class TestTwoAtOnce:
    async def test_without_the_turn_nothing_is_made_or_deleted_and_all_is_renewed(self) -> None:
        scenario = Scenario(call_events(1), call_events(2), call_events(3), unique=False)
        scenario.graph.add(call_events(1), expires=scenario.clock.now() + HOUR)
        for _ in range(2):
            scenario.graph.add(call_events(2))
        scenario.known.holders[TENANT] = "another run"
        report = await scenario.process().run()
        assert scenario.graph.methods() == {"PATCH": 1}
        assert report.outcomes == {Outcome.RENEWED: 1, Outcome.UNCHANGED: 2, Outcome.DEFERRED: 1}
        assert [(failure.stage, failure.reason) for failure in report.failures] == [(Stage.TURN, "turn")]

    async def test_a_turn_that_is_lost_on_the_way_deletes_nothing(self) -> None:
        scenario = Scenario(call_events(1), unique=False)
        for _ in range(2):
            scenario.graph.add(call_events(1))

        def lose(call: Call) -> None:
            if call.method == "GET":
                scenario.known.holders[TENANT] = "another run"

        scenario.graph.faults = lose
        await scenario.process().run()
        assert len(scenario.graph.live()) == 2

    async def test_whoever_waits_for_its_turn_looks_again(self) -> None:
        scenario = Scenario(*(call_events(number) for number in range(10)), unique=False)
        first, second = await asyncio.gather(scenario.process().run(), scenario.process().run())
        assert scenario.graph.methods() == {"POST": 10}
        assert (first.outcomes, second.outcomes) == ({Outcome.CREATED: 10}, {Outcome.UNCHANGED: 10})

    async def test_a_renewal_that_graph_asked_for_is_remembered(self) -> None:
        scenario = await begun(call_events(1))
        [one] = scenario.graph.live()
        scenario.clock.advance(HOUR)
        item = {"tenantId": TENANT, "subscriptionId": one.id, "lifecycleEvent": "reauthorizationRequired"}
        await Lifecycle(scenario.process()).handle(item)
        assert scenario.known.memories[TENANT].known[one.id].expires == scenario.graph.all[one.id].expires
        assert scenario.graph.reads == 0


def landed(scenario: Scenario) -> Callable[[], Any]:
    """A run of the version before: no turn, no memory; it goes by Graph's list alone."""

    async def run() -> None:
        found = [one async for page in scenario.graph.subscription_pages(TENANT) for one in page]
        for want in scenario.desired:
            same_thing = sorted(
                (one for one in found if normal_form(one.resource) == normal_form(want.resource)),
                key=lambda one: (
                    list(ClientStateVersion).index(scenario.endpoint.read_mark(one.notification_url)[0]),
                    one.id,
                ),
            )
            if not same_thing:
                await scenario.graph.send([_post(scenario, want)])
            for one in same_thing[:1]:
                if one.expires - scenario.clock.now() < 12 * HOUR:
                    expiry = graph.format_time(scenario.clock.now() + 23 * HOUR)
                    body = {"expirationDateTime": expiry}
                    await scenario.graph.send([Call("PATCH", TENANT, one.api_version, False, one.id, body)])
            for one in same_thing[1:]:
                await scenario.graph.send([Call("DELETE", TENANT, one.api_version, False, one.id)])

    return run


def _post(scenario: Scenario, want: Desired) -> Call:
    body = {
        "changeType": want.kind.change_type,
        "notificationUrl": scenario.endpoint.url(rich=want.rich),
        "resource": want.resource,
        "expirationDateTime": graph.format_time(scenario.clock.now() + 23 * HOUR),
        "clientState": scenario.endpoint.client_states[0],
        "encryptionCertificateId": model.CERTIFICATE.id,
    }
    return Call("POST", TENANT, want.form.api_version, False, None, body)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    states=st.lists(STATES, min_size=1, max_size=4),
    others=st.lists(
        st.sampled_from(("timer", "by hand", "lifecycle", "reauthorize", "landed")), min_size=1, max_size=2
    ),
    unique=st.booleans(),
)
def test_whoever_runs_at_once_in_whatever_order_ends_as_one_after_the_other_would(
    *, seed: int, states: Sequence[str], others: Sequence[str], unique: bool
) -> None:
    wanted = [call_events(number) for number in range(len(states))]
    scenario = Scenario(*wanted, unique=unique, delays=random.Random(seed))
    put_in_place(scenario, wanted, states)
    usable = {one.resource for one in scenario.graph.live() if "mark" in one.notification_url}

    def watch(call: Call) -> None:
        """What delivers is deleted only beside another, or where Graph holds no two and its life is nearly over."""
        going = scenario.graph.all.get(call.subscription_id or "")
        if call.method == "DELETE" and going is not None and "mark" in going.notification_url:
            beside = [one for one in scenario.graph.live() if one.resource == going.resource and one is not going]
            if not (beside or unique):
                alone.append(going.id)

    alone: list[str] = []
    scenario.graph.faults = watch

    async def begin(what: str) -> None:
        process = scenario.process()
        first = next(iter(scenario.graph.all), user(77))
        match what:
            case "landed":
                await landed(scenario)()
            case "lifecycle":
                await process.resync(TENANT, gone=None)
            case "reauthorize":
                await process.reauthorize(TENANT, first)
            case _:
                await process.run()

    async def live() -> None:
        await asyncio.gather(begin("timer"), *(begin(other) for other in others))
        for want in wanted:
            assert 1 <= len(scenario.graph.holds(want)) <= 2 + ("landed" in others)
        assert usable <= {one.resource for one in scenario.graph.live()}
        assert not alone
        for _ in range(3):
            await scenario.process().run()
        report = await scenario.process().run()
        assert (report.failures, report.live) == ((), len(wanted))
        assert set(report.outcomes) <= {Outcome.UNCHANGED}
        for want in wanted:
            [one] = scenario.graph.holds(want)
            assert scenario.endpoint.read_mark(one.notification_url)[0] is not ClientStateVersion.UNKNOWN

    asyncio.run(live(), loop_factory=VirtualLoop)
