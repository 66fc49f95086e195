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

from shared.subscriptions.actions import Outcome
from shared.subscriptions.desired import DesiredState, Group
from shared.subscriptions.endpoint import ClientStateVersion, Endpoint
from shared.subscriptions.lifecycle import Lifecycle
from shared.subscriptions.memory import normal_form
from shared.subscriptions.planned import Desired
from shared.subscriptions.run_report import RenewalReport
from shared.subscriptions.tenant_contract import Stage
from shared.values import graph, resources
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import Call, Subscription
from tests.simulation.virtual_time import VirtualLoop
from tests.unit import model_graph as model
from tests.unit.model_graph import (
    ENDPOINT,
    NEXT_CERTIFICATE,
    OTHER_TENANT,
    TENANT,
    Known,
    call_events,
    call_records,
    user,
)
from tests.unit.test_renew import HOUR, House

MINUTE = timedelta(minutes=1)
RUN = 5 * MINUTE
WRAPPED_401 = graph.error_of(
    400,
    {
        "error": {
            "code": "ExtensionError",
            "message": "Operation: Update; Exception: [Status Code: Unauthorized; Reason: p#S256 doesn't match.]",
        }
    },
)
TIMED_OUT = graph.error_of(
    400, {"error": {"code": "InvalidRequest", "message": "Subscription validation request timed out."}}
)


def wrapped(status: str) -> SwitchboardError:
    return graph.error_of(400, {"error": {"code": "ExtensionError", "message": f"[Status Code: {status}; Reason: x]"}})


REFUSALS = (
    graph.RequestRejectedError("400"),
    graph.PermissionDeniedError("403"),
    graph.SubscriptionConflictError("409"),
    graph.error_of(412, None),
    graph.error_of(424, None),
    TIMED_OUT,
    *(wrapped(status) for status in ("InternalServerError", "BadGateway", "GatewayTimeout", "Unauthorized")),
)


def policy(name: str) -> Desired:
    return Desired(TENANT, resources.EMERGENCY_CALL_EVENTS, resources.emergency_path(name), rich=True)


def on(method: str, error: SwitchboardError) -> Callable[[Call], model.Fault | None]:
    return lambda call: model.refuse(error) if call.method == method else None


async def run(house: House) -> RenewalReport | None:
    """A run of a new process; None where nothing at all could be done."""
    try:
        return await house.process().run()
    except UnavailableError:
        return None


async def runs(house: House, count: int, step: timedelta = RUN) -> None:
    for _ in range(count):
        await run(house)
        house.clock.advance(step)


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
        house = House(*wanted, unique=unique, echo=echo)
        await runs(house, 4)
        await runs(house, 16, 2.5 * HOUR)
        assert house.graph.methods()["POST"] == 4
        assert house.graph.methods()["DELETE"] == 0
        assert len(house.graph.live()) == 4

    async def test_what_one_answer_took_for_gone_is_known_again(self) -> None:
        house = House(call_events(1))
        await house.renewal.run()
        [one] = house.graph.live()
        house.graph.blind = True
        blips = iter([graph.NotFoundError("404")])
        house.graph.reading = lambda _: next(blips, None)
        house.graph.echo = lambda one: replace(one, notification_url=one.notification_url.partition("?")[0])
        for _ in range(3):
            report = await house.process().run()
        assert (report.outcomes, report.failures) == ({Outcome.LEFT: 1}, ())
        assert [found.id for found in house.graph.live()] == [one.id]
        assert house.graph.methods()["DELETE"] == 0

    async def test_what_is_not_remembered_is_recognised(self) -> None:
        house = House(call_records(), call_events(1))
        await house.renewal.run()
        house.known = Known()
        house.graph.echo = lambda one: replace(one, resource=f"/{one.resource.replace('users/', 'Users%28%27')}")
        house.graph.echo = lambda one: replace(
            one, resource=f"/{one.resource.replace(user(1), f'(%27{user(1).upper()}%27)').replace('users/(', 'Users(')}"
        )
        assert (await house.process().run()).outcomes == {Outcome.LEFT: 2}
        assert house.graph.methods() == {"POST": 2}

    @pytest.mark.parametrize(("one", "other"), [("Site+1", "Site 1"), ("100%25", "100%"), ("north", "North")])
    @pytest.mark.parametrize("remembered", [True, False])
    async def test_policies_are_told_apart_by_their_exact_names(
        self, one: str, other: str, *, remembered: bool
    ) -> None:
        wanted = [policy(one), policy(other)]
        house = House(*wanted, unique=False)
        await house.renewal.run()
        if not remembered:
            house.known = Known()
        await runs(house, 3)
        assert sorted(found.resource for found in house.graph.live()) == sorted(want.resource for want in wanted)
        assert house.graph.methods() == {"POST": 2}

    @pytest.mark.parametrize(("one", "other"), [("Site+1", "Site 1"), ("100%25", "100%"), ("a//b", "a/b")])
    @pytest.mark.parametrize("blind", [True, False])
    async def test_what_was_made_is_for_no_other_policy_of_the_same_normal_form(
        self, one: str, other: str, *, blind: bool
    ) -> None:
        made, wanted = policy(one), policy(other)
        house = House(made, unique=False)
        await house.renewal.run()
        house.source.state = DesiredState((wanted,), ())
        house.graph.blind = blind
        await runs(house, 3)
        await runs(house, 3, 13 * HOUR)
        assert sorted(found.resource for found in house.graph.live()) == sorted([made.resource, wanted.resource])
        assert (house.graph.methods()["POST"], house.graph.methods()["DELETE"]) == (2, 0)
        house.source.state = DesiredState((made,), ())
        await runs(house, 2)
        assert (house.graph.methods()["POST"], house.graph.methods()["DELETE"]) == (2, 0)

    async def test_what_was_renewed_by_graphs_spelling_alone_is_recognised_later(self) -> None:
        house = House(call_events(1), policy("Site 1"), unique=False)
        await house.renewal.run()
        house.known = Known()
        house.graph.echo = lambda one: replace(one, resource=f"/{one.resource.replace(' ', '%20')}")
        desired, house.source.state = house.source.state, UnavailableError("storage")
        house.clock.advance(13 * HOUR)
        await house.process().run()
        house.source.state = desired
        await runs(house, 2)
        assert house.graph.methods()["POST"] == 2


class TestRenewalRefused:
    """What Graph does not renew is kept, and tried run after run."""

    @pytest.mark.parametrize("refusal", REFUSALS, ids=str)
    @pytest.mark.parametrize("unique", [True, False])
    async def test_nothing_is_deleted_or_made_before_a_quarter_is_left(
        self, refusal: SwitchboardError, *, unique: bool
    ) -> None:
        house = House(*(call_events(number) for number in range(5)), unique=unique)
        await house.renewal.run()
        house.clock.advance(13 * HOUR)
        house.graph.faults = on("PATCH", refusal)
        await runs(house, 4, HOUR)
        methods = house.graph.methods()
        assert (methods["POST"], methods["DELETE"]) == (5, 0)
        assert methods["PATCH"] >= 20
        house.graph.faults = lambda _: None
        assert (await house.process().run()).outcomes == {Outcome.RENEWED: 5}

    async def test_what_happens_next_and_when_is_told(self) -> None:
        house = House(call_events(1))
        await house.renewal.run()
        house.clock.advance(13 * HOUR)
        house.graph.faults = on("PATCH", graph.RequestRejectedError("400 Bad: no"))
        report = await house.process().run()
        [failure] = report.failures
        assert (report.outcomes, report.live) == ({Outcome.KEPT: 1}, 1)
        assert "400 Bad: no; it is kept, and tried again by every run; from 2026-01-01 17:49 UTC on" in failure.detail

    @pytest.mark.parametrize("refusal", [refusal for refusal in REFUSALS if refusal is not TIMED_OUT], ids=str)
    async def test_then_it_is_replaced_and_never_lapses(self, refusal: SwitchboardError) -> None:
        house = House(call_events(1), call_events(2), unique=False)
        await house.renewal.run()
        house.graph.faults = on("PATCH", refusal)
        for _ in range(3 * 24):
            await run(house)
            for want in house.desired:
                assert 1 <= len(house.graph.holds(want)) <= 2
            house.clock.advance(HOUR)

    @pytest.mark.parametrize("unique", [True, False])
    async def test_a_failed_validation_of_our_endpoint_never_leads_to_delete(self, *, unique: bool) -> None:
        house = House(*(call_events(number) for number in range(5)), unique=unique)
        await house.renewal.run()
        house.graph.faults = lambda call: model.refuse(TIMED_OUT) if call.method in {"PATCH", "POST"} else None
        for _ in range(23 * 4):
            await house.process().run()
            house.clock.advance(15 * MINUTE)
        assert house.graph.methods()["DELETE"] == 0
        assert len(house.graph.live()) == 5
        house.graph.faults = lambda _: None
        assert (await house.process().run()).outcomes == {Outcome.RENEWED: 5}

    @pytest.mark.parametrize("refused", [model.QUOTA, model.REJECTED, model.NOT_VALIDATED, model.UNAVAILABLE])
    async def test_one_goes_first_and_the_others_only_after_its_successor_is_there(self, refused: model.Fault) -> None:
        house = House(*(call_events(number) for number in range(20)), honours_certificate=False)
        await house.renewal.run()
        house.certificates.certificate = NEXT_CERTIFICATE
        house.graph.faults = lambda call: refused if call.method == "POST" and not same(house, call) else None
        await house.process().run()
        assert len(house.graph.live()) == 20
        house.clock.advance(18 * HOUR)
        await runs(house, 12)
        assert len(house.graph.live()) == 19  # the one that went first
        house.graph.faults = lambda _: None
        await runs(house, 3)
        house.clock.advance(18 * HOUR)
        await runs(house, 2)
        assert {one.certificate_id for one in house.graph.live()} == {NEXT_CERTIFICATE.id}
        assert len(house.graph.live()) == 20

    async def test_what_nobody_can_read_goes_at_once_but_one_first(self) -> None:
        house = House(*(call_events(number) for number in range(20)))
        await house.renewal.run()
        house.endpoint = Endpoint(ENDPOINT.notification_url, ENDPOINT.lifecycle_url, ("unknown to them",))
        refusing = True
        house.graph.faults = lambda call: (
            model.QUOTA if refusing and call.method == "POST" and not same(house, call) else None
        )
        await runs(house, 3)
        assert len(house.graph.live()) == 19
        refusing = False
        await runs(house, 2)
        assert {house.endpoint.read_mark(one.notification_url)[0] for one in house.graph.live()} == {
            ClientStateVersion.CURRENT
        }
        assert len(house.graph.live()) == 20

    @pytest.mark.parametrize("refusal", REFUSALS, ids=str)
    async def test_what_is_not_listed_either_is_looked_for(self, refusal: SwitchboardError) -> None:
        house = House(call_events(1), call_events(2), page=1)
        await house.renewal.run()
        house.clock.advance(13 * HOUR)
        [gone] = house.graph.holds(call_events(1))
        del house.graph.all[gone.id]
        house.graph.faults = on("PATCH", refusal)
        await house.process().run()
        assert [len(house.graph.holds(want)) for want in house.desired] == [1, 1]
        assert house.graph.methods()["DELETE"] == 0

    async def test_a_grant_of_less_than_was_asked_for_is_a_grant(self) -> None:
        house = House(call_events(1))
        await house.renewal.run()
        house.clock.advance(13 * HOUR)
        house.graph.grant = timedelta(minutes=50)
        assert (await house.process().run()).outcomes == {Outcome.RENEWED: 1}
        await runs(house, 40, 10 * MINUTE)
        assert house.graph.methods()["POST"] == 1
        assert len(house.graph.live()) == 1


def same(house: House, call: Call) -> bool:
    return any(one.resource == (call.body or {}).get("resource") for one in house.graph.live())


class TestBegunAndDouble:
    """A renewal that turns into something else, while lists are read that change from page to page."""

    @pytest.mark.parametrize("unique", [True, False])
    @pytest.mark.parametrize("what", ["404", "400", "unchanged", "lost"])
    async def test_all_stay_covered(self, what: str, *, unique: bool) -> None:
        wanted = [call_events(number) for number in range(12)]
        house = House(*wanted, unique=unique, page=3, pause=0.5)
        await house.renewal.run()
        house.clock.advance(19 * HOUR)
        faults = {
            "404": model.NOT_FOUND,
            "400": model.REJECTED,
            "unchanged": lambda _: next(iter(house.graph.live())),
            "lost": model.lose_answer,
        }

        def befall(call: Call) -> model.Fault | None:
            if call.method != "PATCH":
                return None
            if what == "404":
                house.graph.all.pop(call.subscription_id or "", None)
            if what == "unchanged":
                return lambda _: house.graph.all[call.subscription_id or ""]
            return faults[what]  # type: ignore[return-value]

        house.graph.faults = befall
        for _ in range(3):
            await run(house)
            assert all(1 <= len(house.graph.holds(want)) <= 2 for want in wanted)
        house.graph.faults = lambda _: None
        await runs(house, 2)
        assert all(len(house.graph.holds(want)) == 1 for want in wanted)

    async def test_a_duplicate_stays_while_the_kept_one_cannot_be_looked_at(self) -> None:
        house = House(call_events(1), unique=False)
        for _ in range(2):
            house.graph.add(call_events(1))
        house.graph.reading = lambda _: graph.OutcomeUnknownError()
        await house.process().run()
        assert len(house.graph.live()) == 2
        house.graph.reading = lambda _: None
        assert (await house.process().run()).outcomes == {Outcome.LEFT: 1, Outcome.DELETED: 1}


class TestNeverMoreThanTwo:
    async def test_where_only_creation_works(self) -> None:
        """The proof of a token's origin is refused by everything but POST (microsoftgraph/msgraph-sdk-java, 1711)."""
        wanted = [call_events(1), call_events(2), call_records()]
        house = House(*wanted, unique=False)
        await house.renewal.run()
        house.graph.faults = lambda call: model.refuse(WRAPPED_401) if call.method != "POST" else None
        for _ in range(8 * 24):
            await run(house)
            assert all(1 <= len(house.graph.holds(want)) <= 2 for want in wanted)
            house.clock.advance(HOUR)

    @pytest.mark.parametrize("lost", [True, False])
    async def test_what_is_not_to_be_seen_is_not_made_again_and_again(self, *, lost: bool) -> None:
        house = House(call_records(), unique=False)
        house.graph.blind = True
        house.graph.reading = lambda _: graph.NotFoundError("404")
        if lost:
            house.graph.faults = on("POST", graph.OutcomeUnknownError())
        said = 0
        for _ in range(70 * 4):
            report = await run(house)
            said += report is not None and any(failure.reason == "unseen" for failure in report.failures)
            house.clock.advance(15 * MINUTE)
        assert house.graph.methods()["POST"] < 40
        assert said > 230

    async def test_what_was_not_to_be_seen_for_long_is_made_soon_after(self) -> None:
        house = House(call_records(), call_events(1), unique=False)
        house.graph.blind = True
        house.graph.faults = on("POST", graph.OutcomeUnknownError())
        await runs(house, 23 * 4, 15 * MINUTE)
        house.graph.blind = False
        house.graph.faults = lambda _: None
        await runs(house, 11, 15 * MINUTE)
        assert len(house.graph.live()) == 2

    @pytest.mark.parametrize("named", [True, False])
    async def test_a_holder_is_adopted_only_if_it_is_for_the_same_thing(self, *, named: bool) -> None:
        """Graph's message may name the user, and not the holder."""
        house = House(call_events(1), call_events(2))
        other, held = house.graph.add(call_events(2)), house.graph.add(call_events(1))
        house.graph.unlisted.add(held.id)
        conflict = graph.SubscriptionConflictError("409", user(1), other.id, *([held.id] if named else []))
        house.graph.faults = on("POST", conflict)
        report = await house.process().run()
        assert set(house.graph.all) == {other.id, held.id}
        assert report.outcomes == {Outcome.LEFT: 1, (Outcome.ADOPTED if named else Outcome.FAILED): 1}


class TestOneBadThing:
    async def test_an_expiration_that_is_not_told_is_no_reason_to_make_another(self) -> None:
        house = House(call_records(), call_events(1), call_events(2, OTHER_TENANT))
        await house.renewal.run()
        house.graph.echo = lambda one: replace(one, expires=house.clock.now(), expires_told=False)
        await runs(house, 150, 10 * MINUTE)
        assert house.graph.methods()["POST"] == 3
        assert len(house.graph.live()) == 3

    async def test_one_users_refusal_turns_nobody_else_away(self) -> None:
        house = House(*(call_events(number) for number in range(200)))
        refusal = graph.error_of(403, {"error": {"code": "Forbidden", "message": "No application access policy found"}})

        def faults(call: Call) -> model.Fault | None:
            return model.refuse(refusal) if (call.body or {}).get("resource") == call_events(7).resource else None

        house.graph.faults = faults
        report = await house.renewal.run()
        assert report.outcomes == {Outcome.CREATED: 199, Outcome.FAILED: 1}
        [failure] = report.failures
        assert "No application access policy found" in failure.detail

    async def test_a_fault_of_ours_in_one_tenant_stops_no_other(self) -> None:
        house = House(call_events(1), call_events(2, OTHER_TENANT))

        class Odd(dict[str, SwitchboardError]):
            def __contains__(self, tenant_id: object) -> bool:
                if tenant_id == TENANT:
                    raise ZeroDivisionError
                return False

        house.graph.list_errors = Odd()
        report = await house.renewal.run()
        assert report.outcomes == {Outcome.CREATED: 1}
        assert [(failure.tenant_id, failure.reason) for failure in report.failures] == [(TENANT, "unexpected")]

    async def test_what_lives_is_renewed_whatever_the_desired_state_raises(self) -> None:
        house = House()
        house.graph.add(call_events(1), expires=house.clock.now() + HOUR)

        async def load() -> DesiredState:
            raise RecursionError

        house.source.load = load  # type: ignore[method-assign]
        report = await house.process().run()
        assert report.outcomes == {Outcome.RENEWED: 1}
        assert [failure.stage for failure in report.failures] == [Stage.DESIRED_STATE]


class TestClientStateRotated:
    async def test_members_of_a_group_that_cannot_be_read_keep_living_and_are_replaced_later(self) -> None:
        group = Group(TENANT, user(900))
        house = House(groups=(group,), unique=False)
        house.graph.members[group.group_id] = members = tuple(user(number) for number in range(1, 6))
        await house.renewal.run()
        house.endpoint = Endpoint(ENDPOINT.notification_url, ENDPOINT.lifecycle_url, ("newer", "secret"))
        house.graph.members.clear()
        for _ in range(17 * 3):  # not prolonged yet: the group may be read in time
            report = await house.process().run()
            house.clock.advance(20 * MINUTE)
        assert report.previous_client_state == 5
        assert house.graph.methods()["PATCH"] == 0
        for _ in range(2 * 24 * 3):
            await house.process().run()
            assert len(house.graph.live()) == 5
            house.clock.advance(20 * MINUTE)
        house.graph.members[group.group_id] = members
        for _ in range(24 * 3):
            report = await house.process().run()
            assert len(house.graph.live()) >= 5
            house.clock.advance(20 * MINUTE)
        assert report.previous_client_state == 0


BUSY = UnavailableError("Graph", reason="throttled", retry_after=30.0)
BUSY_WITHOUT_A_WORD = UnavailableError("Graph", reason="throttled")


def hanging(house: House) -> Callable[[str, str], Awaitable[tuple[str, ...]]]:
    async def hang(*_: str) -> tuple[str, ...]:
        await house.clock.sleep(100.0)
        raise UnavailableError("Graph")

    return hang


TROUBLES: dict[str, Callable[[House], object]] = {
    "its list hangs": lambda house: house.graph.slow.update({OTHER_TENANT: 100.0}),
    "its list fails": lambda house: house.graph.list_errors.update({OTHER_TENANT: UnavailableError("Graph")}),
    "its lists are refused": lambda house: house.graph.list_errors.update({OTHER_TENANT: WRAPPED_401}),
    "it is throttled": lambda house: setattr(
        house.graph, "faults", lambda call: model.refuse(BUSY) if call.tenant_id == OTHER_TENANT else None
    ),
    "it is throttled without a word": lambda house: setattr(
        house.graph,
        "faults",
        lambda call: model.refuse(BUSY_WITHOUT_A_WORD) if call.tenant_id == OTHER_TENANT else None,
    ),
    "its group hangs": lambda house: setattr(house.graph, "group_members", hanging(house)),
    "its list shows nothing, and nothing of it can be read": lambda house: (
        house.graph.unlisted.update(one.id for one in house.graph.live() if one.tenant_id == OTHER_TENANT),
        setattr(
            house.graph,
            "reading",
            lambda identity: graph.OutcomeUnknownError() if identity in house.graph.unlisted else None,
        ),
    ),
    "nothing of it is answered": lambda house: setattr(
        house.graph, "faults", lambda call: model.NOT_DONE if call.tenant_id == OTHER_TENANT else None
    ),
    "everything of it is refused": lambda house: setattr(
        house.graph, "faults", lambda call: model.REJECTED if call.tenant_id == OTHER_TENANT else None
    ),
    "another run is at work in it": lambda house: house.known.holders.update({OTHER_TENANT: "another run"}),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("remembered", [True, False])
async def test_a_tenant_in_trouble_costs_the_others_nothing(trouble: str, *, remembered: bool) -> None:
    """The same renewals in the same order, none later by more than a second."""

    async def renewals(befall: Callable[[House], object]) -> list[tuple[str, float]]:
        of_one = [call_events(number) for number in range(25)]
        of_other = [call_events(number, OTHER_TENANT) for number in range(100, 145)]
        group = Group(OTHER_TENANT, user(900))
        house = House(*of_one, *of_other, groups=(group,), page=10)
        house.graph.members[group.group_id] = tuple(user(number) for number in range(200, 215))
        if remembered:
            await house.renewal.run()
        else:
            for want in (*of_one, *of_other):
                house.graph.add(want)
        house.graph.sent.clear()
        house.clock.advance(13 * HOUR)
        befall(house)
        start = house.clock.now()
        await house.process(budget=MINUTE).run()
        return [
            (call.subscription_id or "", (at - start).total_seconds())
            for at, call in house.graph.sent
            if call.method == "PATCH" and call.tenant_id == TENANT
        ]

    alone, beside = await renewals(lambda _: None), await renewals(TROUBLES[trouble])
    assert [name for name, _ in beside] == [name for name, _ in alone]
    assert len(beside) == 25
    assert all(late - early <= 1 for (_, late), (_, early) in zip(beside, alone, strict=True))


class TestTenants:
    async def test_lives_are_apart(self) -> None:
        house = House(call_events(1), call_events(2, OTHER_TENANT))
        await house.renewal.run()
        [short] = house.graph.holds(call_events(2, OTHER_TENANT))
        house.clock.advance(13 * HOUR)
        house.graph.faults = lambda call: setattr(  # type: ignore[func-returns-value]
            house.graph, "grant", 50 * MINUTE if call.subscription_id == short.id else None
        )
        await house.renewal.run()
        for _ in range(24 * 6):
            house.clock.advance(10 * MINUTE)
            await house.renewal.run()
            assert len(house.graph.live()) == 2
        assert house.graph.methods()["POST"] == 2

    async def test_groups_that_hang_elsewhere_keep_nobody_waiting(self) -> None:
        groups = tuple(Group(OTHER_TENANT, user(number)) for number in range(900, 910))
        house = House(call_events(1), groups=groups)
        house.graph.add(call_events(1), expires=house.clock.now() + HOUR)
        renewed = asyncio.Event()

        async def hang(*_: str) -> tuple[str, ...]:
            async with asyncio.timeout(5):
                await renewed.wait()
            return ()

        house.graph.group_members = hang  # type: ignore[method-assign]

        def faults(call: Call) -> None:
            if call.method == "PATCH":
                renewed.set()

        house.graph.faults = faults
        report = await house.process().run()
        assert report.outcomes == {Outcome.RENEWED: 1}

    async def test_nothing_is_waited_for_before_what_is_remembered_is_renewed(self) -> None:
        house = House(call_events(1), groups=(Group(TENANT, user(900)),))
        house.graph.members[user(900)] = ()
        await house.renewal.run()
        house.clock.advance(13 * HOUR)
        renewed = asyncio.Event()

        async def late(*_: object) -> Any:
            async with asyncio.timeout(5):
                await renewed.wait()
            raise UnavailableError("it")

        async def no_pages(_: str) -> Any:
            await late()
            yield ()

        house.graph.subscription_pages = no_pages  # type: ignore[method-assign]
        house.graph.group_members = late  # type: ignore[method-assign]
        house.source.load = late  # type: ignore[method-assign]
        house.known.load = late  # type: ignore[method-assign]
        house.known.save = late  # type: ignore[method-assign]
        house.graph.faults = lambda _: renewed.set()  # type: ignore[func-returns-value]
        report = await house.renewal.run()
        assert report.outcomes == {Outcome.RENEWED: 1}


class TestStorageAway:
    """What a process learned meanwhile counts also once storage is back, with what it held before."""

    @pytest.mark.parametrize("asked_for", [False, True])
    async def test_what_was_renewed_meanwhile_is_renewed_in_time(self, *, asked_for: bool) -> None:
        house = House(call_events(1))
        await house.renewal.run()
        [one] = house.graph.live()
        house.clock.advance(13 * HOUR)
        house.known.error = UnavailableError("storage", reason="storage-503")
        if asked_for:
            await house.renewal.reauthorize(TENANT, one.id)
        else:
            await house.renewal.run()
        house.clock.advance(11.5 * HOUR)
        house.known.error = None
        house.graph.list_errors[TENANT] = UnavailableError("Graph")
        for _ in range(30):
            with contextlib.suppress(UnavailableError):
                await house.renewal.run()
            house.clock.advance(HOUR)
        assert [found.id for found in house.graph.live()] == [one.id]
        assert house.known.memories[TENANT].known[one.id].expires == house.graph.all[one.id].expires

    async def test_what_was_found_gone_meanwhile_is_not_asked_for_again(self) -> None:
        house = House(call_events(1), call_events(2))
        await house.renewal.run()
        [gone] = house.graph.holds(call_events(1))
        del house.graph.all[gone.id]
        house.known.error = UnavailableError("storage", reason="storage-503")
        await house.renewal.run()
        house.known.error = None
        reads = house.graph.reads
        await house.renewal.run()
        assert house.graph.reads == reads
        assert [len(house.graph.holds(want)) for want in house.desired] == [1, 1]


class TestTwoAtOnce:
    async def test_without_the_turn_nothing_is_made_or_deleted_and_all_is_renewed(self) -> None:
        house = House(call_events(1), call_events(2), call_events(3), unique=False)
        house.graph.add(call_events(1), expires=house.clock.now() + HOUR)
        for _ in range(2):
            house.graph.add(call_events(2))
        house.known.holders[TENANT] = "another run"
        report = await house.process().run()
        assert house.graph.methods() == {"PATCH": 1}
        assert report.outcomes == {Outcome.RENEWED: 1, Outcome.LEFT: 2, Outcome.DEFERRED: 1}
        assert [(failure.stage, failure.reason) for failure in report.failures] == [(Stage.TURN, "turn")]

    async def test_a_turn_that_is_lost_on_the_way_deletes_nothing(self) -> None:
        house = House(call_events(1), unique=False)
        for _ in range(2):
            house.graph.add(call_events(1))

        def lose(call: Call) -> None:
            if call.method == "GET":
                house.known.holders[TENANT] = "another run"

        house.graph.faults = lose
        await house.process().run()
        assert len(house.graph.live()) == 2

    async def test_whoever_waits_for_its_turn_looks_again(self) -> None:
        house = House(*(call_events(number) for number in range(10)), unique=False)
        first, second = await asyncio.gather(house.process().run(), house.process().run())
        assert house.graph.methods() == {"POST": 10}
        assert (first.outcomes, second.outcomes) == ({Outcome.CREATED: 10}, {Outcome.LEFT: 10})

    async def test_a_renewal_that_graph_asked_for_is_remembered(self) -> None:
        house = House(call_events(1))
        await house.renewal.run()
        [one] = house.graph.live()
        house.clock.advance(HOUR)
        item = {"tenantId": TENANT, "subscriptionId": one.id, "lifecycleEvent": "reauthorizationRequired"}
        await Lifecycle(house.process()).handle(item)
        assert house.known.memories[TENANT].known[one.id].expires == house.graph.all[one.id].expires
        assert house.graph.reads == 0


def landed(house: House) -> Callable[[], Any]:
    """A run of the version before: no turn, no memory; it goes by Graph's list alone."""

    async def run() -> None:
        found = [one async for page in house.graph.subscription_pages(TENANT) for one in page]
        for want in house.desired:
            same_thing = sorted(
                (one for one in found if normal_form(one.resource) == normal_form(want.resource)),
                key=lambda one: (
                    list(ClientStateVersion).index(house.endpoint.read_mark(one.notification_url)[0]),
                    one.id,
                ),
            )
            if not same_thing:
                await house.graph.send([_post(house, want)])
            for one in same_thing[:1]:
                if one.expires - house.clock.now() < 12 * HOUR:
                    expiry = graph.format_time(house.clock.now() + 23 * HOUR)
                    body = {"expirationDateTime": expiry}
                    await house.graph.send([Call("PATCH", TENANT, one.api_version, False, one.id, body)])
            for one in same_thing[1:]:
                await house.graph.send([Call("DELETE", TENANT, one.api_version, False, one.id)])

    return run


def _post(house: House, want: Desired) -> Call:
    body = {
        "changeType": want.kind.change_type,
        "notificationUrl": house.endpoint.url(rich=want.rich),
        "resource": want.resource,
        "expirationDateTime": graph.format_time(house.clock.now() + 23 * HOUR),
        "clientState": house.endpoint.client_states[0],
        "encryptionCertificateId": model.CERTIFICATE.id,
    }
    return Call("POST", TENANT, want.form.api_version, False, None, body)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    states=st.lists(
        st.sampled_from(("absent", "fresh", "due", "unmarked", "previous", "twice")), min_size=1, max_size=4
    ),
    others=st.lists(
        st.sampled_from(("timer", "by hand", "lifecycle", "reauthorize", "landed")), min_size=1, max_size=2
    ),
    unique=st.booleans(),
)
def test_whoever_runs_at_once_in_whatever_order_ends_as_one_after_the_other_would(
    *, seed: int, states: Sequence[str], others: Sequence[str], unique: bool
) -> None:
    wanted = [call_events(number) for number in range(len(states))]
    house = House(*wanted, unique=unique, delays=random.Random(seed))
    house.endpoint = Endpoint(ENDPOINT.notification_url, ENDPOINT.lifecycle_url, ("newer", "secret"))
    current, now = house.endpoint.url(rich=True), house.clock.now()
    for want, state in zip(wanted, states, strict=True):
        if state != "absent":
            url = {"unmarked": model.URL, "previous": ENDPOINT.url(rich=True)}.get(state, current)
            house.graph.add(want, expires=now + (20 if state in {"fresh", "twice"} else 2) * HOUR, notification_url=url)
        if state == "twice":
            house.graph.add(want, notification_url=current)
    usable = {one.resource for one in house.graph.live() if "mark" in one.notification_url}

    def watch(call: Call) -> None:
        """What delivers is deleted only beside another, or where Graph holds no two and its life is nearly over."""
        going = house.graph.all.get(call.subscription_id or "")
        if call.method == "DELETE" and going is not None and "mark" in going.notification_url:
            beside = [one for one in house.graph.live() if one.resource == going.resource and one is not going]
            if not (beside or unique):
                alone.append(going.id)

    alone: list[str] = []
    house.graph.faults = watch

    async def begin(what: str) -> None:
        process = house.process()
        first = next(iter(house.graph.all), user(77))
        match what:
            case "landed":
                await landed(house)()
            case "lifecycle":
                await process.resync(TENANT, gone=None)
            case "reauthorize":
                await process.reauthorize(TENANT, first)
            case _:
                await process.run()

    async def scenario() -> None:
        await asyncio.gather(begin("timer"), *(begin(other) for other in others))
        for want in wanted:
            assert 1 <= len(house.graph.holds(want)) <= 2 + ("landed" in others)
        assert usable <= {one.resource for one in house.graph.live()}
        assert not alone
        for _ in range(3):
            await house.process().run()
        report = await house.process().run()
        assert (report.failures, report.live) == ((), len(wanted))
        assert set(report.outcomes) <= {Outcome.LEFT}
        for want in wanted:
            [one] = house.graph.holds(want)
            assert house.endpoint.read_mark(one.notification_url)[0] is not ClientStateVersion.UNKNOWN

    asyncio.run(scenario(), loop_factory=VirtualLoop)
