"""The plan at its limits, and what becomes of what a run has found out already."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.subscriptions.actions import Action, Reason, Verb
from shared.subscriptions.desired import Desired
from shared.subscriptions.plan import PATIENCE, Course, plan, renewals
from shared.subscriptions.state import SKEW
from shared.values.endpoint import Endpoint
from shared.values.errors import UnavailableError
from shared.values.graph import Subscription
from shared.values.graph_errors import (
    EndpointValidationError,
    OutcomeUnknownError,
    RequestRejectedError,
    UnauthorizedError,
)
from shared.values.lifetimes import LEAST_GRANTED, SMALLEST_MARGIN, Lifetimes, half_life, last_resort
from shared.values.resource_row import UNKNOWN
from tests.unit.test_subscriptions import (
    BEFORE,
    CALLS,
    CERTIFICATE,
    ENDPOINT,
    HOUR,
    LIFECYCLE,
    NOW,
    OUTDATED,
    PRESENCE,
    RECORDS,
    REKEYED,
    TENANT,
    URL,
    existing,
)

SECOND = timedelta(seconds=1)
HALF = half_life(existing(CALLS), Lifetimes())
LAST = last_resort(existing(CALLS), Lifetimes())
AT_LEISURE = datetime.max.replace(tzinfo=UTC)
PREVIOUS = {"notification_url": BEFORE.url(rich=True)}
UNREADABLE = {"notification_url": URL}
KEPT = {"certificate_id": OUTDATED, "kept_certificate": CERTIFICATE.id}
OTHER_KEY = {"notification_url": REKEYED.url(rich=True)}
ELSEWHERE = {"notification_url": "https://other.example.com/api/notifications"}
REJECTED = RequestRejectedError("no")


def planned(desired: list[Desired], actual: list[Subscription], **options: Any) -> tuple[Action, ...]:
    actions = plan(
        desired,
        actual,
        NOW,
        **{"endpoint": ENDPOINT, "certificate_id": CERTIFICATE.id, "lifetimes": Lifetimes()} | options,
    )
    for action in actions:
        assert action.verb is Verb.REPLACE or not action.delete_first
    return actions


def begun(actual: list[Subscription], **options: Any) -> tuple[Action, ...]:
    given = {"endpoint": ENDPOINT, "certificate_id": CERTIFICATE.id, "lifetimes": Lifetimes()}
    return renewals(actual, NOW, **given | options)


def by_id(actions: tuple[Action, ...]) -> dict[str, Action]:
    return {action.subscription.id: action for action in actions if action.subscription is not None}


class TestRenewals:
    """What is renewed before the desired state is known."""

    def test_what_is_due_is_renewed_as_what_it_is(self) -> None:
        for want in (CALLS, RECORDS):
            found = existing(want, left=HOUR)
            wanted = Action(Verb.RENEW, Reason.HALF_LIFE, TENANT, want.kind, found.expires, want, found)
            assert begun([found]) == (wanted,)

    def test_what_no_row_knows_is_renewed_as_something_unknown(self) -> None:
        found = existing(CALLS, left=timedelta(minutes=20), resource="users/u1/messages")
        [action] = begun([found])
        want = Desired(TENANT, UNKNOWN, found.resource, rich=True)
        assert action == Action(Verb.RENEW, Reason.HALF_LIFE, TENANT, UNKNOWN, found.expires, want, found)

    def test_the_one_that_ends_first_comes_first(self) -> None:
        actual = [existing(CALLS, name, left=left * HOUR) for name, left in (("s1", 3), ("s2", 1), ("s3", 2))]
        assert list(by_id(begun(actual))) == ["s2", "s3", "s1"]

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"left": HALF}, Reason.HALF_LIFE),
            ({"left": HALF + SECOND}, None),
            ({"left": SECOND - SKEW}, Reason.HALF_LIFE),
            ({"left": -SKEW}, None),
            ({"certificate_id": OUTDATED}, Reason.CERTIFICATE),
            ({"certificate_id": None}, None),
            ({**KEPT, "left": HOUR}, None),
            ({"certificate_id": OUTDATED, "kept_certificate": OUTDATED}, Reason.CERTIFICATE),
            (OTHER_KEY, Reason.NOTIFICATION_URL),
            ({**PREVIOUS, "left": HOUR}, None),
            ({**UNREADABLE, "left": HOUR}, None),
            ({**ELSEWHERE, "left": HOUR}, None),
        ],
    )
    def test_only_what_needs_nothing_but_a_renewal(self, changes: dict[str, Any], reason: Reason | None) -> None:
        assert [action.reason for action in begun([existing(CALLS, **changes)])] == ([] if reason is None else [reason])

    def test_a_basic_one_has_no_certificate_to_be_outdated(self) -> None:
        assert begun([existing(RECORDS, left=60 * HOUR, certificate_id=OUTDATED)]) == ()

    def test_nothing_of_a_kind_that_is_paused(self) -> None:
        actual = [existing(CALLS, "s1", left=HOUR), existing(RECORDS, "s2", left=HOUR)]
        assert set(by_id(begun(actual, paused={CALLS.kind.key}))) == {"s2"}

    @pytest.mark.parametrize(
        ("changes", "renewed"),
        [
            ({}, True),
            (PREVIOUS, False),
            (UNREADABLE, False),
            ({**UNREADABLE, "remembered": True}, True),
        ],
    )
    def test_where_graph_may_give_our_url_back_changed_a_mark_or_our_memory_makes_it_ours(
        self, changes: dict[str, Any], renewed: bool
    ) -> None:
        encoded = Endpoint(f"{URL}?code=a|b", LIFECYCLE, ("newer",))
        found = existing(CALLS, **{"left": HOUR, "notification_url": encoded.url(rich=True), **changes})
        assert [action.reason for action in begun([found], endpoint=encoded)] == [Reason.HALF_LIFE] * renewed
        assert begun([replace(found, expires=NOW + 20 * HOUR)], endpoint=encoded) == ()


class TestReplacement:
    @pytest.mark.parametrize(("left", "delete_first"), [(LAST, True), (LAST + SECOND, False)])
    @pytest.mark.parametrize(
        ("changes", "reason"), [(PREVIOUS, Reason.CLIENT_STATE), (KEPT, Reason.CERTIFICATE)], ids=["secret", "kept"]
    )
    def test_what_delivers_is_deleted_first_only_as_a_last_resort(
        self, changes: dict[str, Any], reason: Reason, left: timedelta, delete_first: bool
    ) -> None:
        found = existing(CALLS, left=left, **changes)
        [action] = planned([CALLS], [found])
        assert (action.verb, action.reason, action.delete_first) == (Verb.REPLACE, reason, delete_first)
        assert (action.subscription, action.desired, action.deadline) == (found, CALLS, found.expires)
        refused_kinds = {(TENANT, CALLS.kind.key)}
        [action] = planned([CALLS], [found], course=Course(refused_kinds=refused_kinds))
        assert (action.verb, action.delete_first) == (Verb.REPLACE, False)
        [action] = planned([CALLS], [found], course=Course(refused_kinds={(TENANT, RECORDS.kind.key)}))
        assert action.delete_first is delete_first

    @pytest.mark.parametrize(
        ("left", "course", "probe"),
        [
            (20 * HOUR, Course(), True),
            (20 * HOUR, Course(begun={"s1"}), False),
            (LEAST_GRANTED + SMALLEST_MARGIN + SECOND, Course(), True),
            (LEAST_GRANTED + SMALLEST_MARGIN, Course(), False),
        ],
    )
    def test_another_renewal_is_tried_where_graph_would_not_prolong_it(
        self, left: timedelta, course: Course, probe: bool
    ) -> None:
        [action] = planned([CALLS], [existing(CALLS, left=left, **KEPT)], course=course)
        assert (action.verb, action.reason, action.probe) == (Verb.REPLACE, Reason.CERTIFICATE, probe)
        [action] = planned([CALLS], [existing(CALLS, left=left, **UNREADABLE)], course=course)
        assert (action.verb, action.probe) == (Verb.REPLACE, False)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"notification_url": ENDPOINT.url(rich=False)}, Reason.RESOURCE_DATA),
            ({"change_type": "deleted"}, Reason.CHANGE_TYPE),
        ],
    )
    def test_what_delivers_nothing_usable_is_deleted_first(self, changes: dict[str, Any], reason: Reason) -> None:
        found = existing(CALLS, **changes)
        [action] = planned([CALLS], [found])
        assert (action.reason, action.delete_first, action.deadline) == (reason, True, found.expires)

    @pytest.mark.parametrize("left", [20 * HOUR, PATIENCE - SECOND])
    def test_what_nobody_can_read_is_as_urgent_as_what_is_missing(self, left: timedelta) -> None:
        [action] = planned([CALLS], [existing(CALLS, left=left, **UNREADABLE)])
        assert (action.reason, action.delete_first) == (Reason.UNKNOWN_MARK, True)
        assert action.deadline == NOW + min(left, PATIENCE)

    def test_what_is_missing_waits_for_nothing_but_what_lapses_sooner(self) -> None:
        [action] = planned([CALLS], [])
        assert action == Action(Verb.CREATE, Reason.MISSING, TENANT, CALLS.kind, NOW + PATIENCE, CALLS)

    def test_the_place_of_a_former_list_of_users_is_made_free_and_it_is_named_once(self) -> None:
        longer = replace(PRESENCE, resource="communications/presences?$filter=id in ('u1','u2')")
        found = existing(PRESENCE)
        [action] = planned([longer], [found])
        wanted = (Verb.REPLACE, Reason.SUPERSEDED, found, NOW + PATIENCE, True)
        assert (action.verb, action.reason, action.subscription, action.deadline, action.delete_first) == wanted


class TestRefused:
    """What Graph did not renew."""

    @pytest.mark.parametrize(
        ("error", "replaced", "delete_first"),
        [
            (REJECTED, True, True),
            (EndpointValidationError("no handshake"), True, False),
            (OutcomeUnknownError(), True, False),
            (UnauthorizedError("no"), True, False),
            (UnavailableError("Graph"), False, False),
        ],
    )
    def test_is_replaced_when_it_is_nearly_over_and_itself_to_blame(
        self, error: Any, replaced: bool, delete_first: bool
    ) -> None:
        found = existing(CALLS, left=LAST)
        course = Course(begun={"s1"}, refused={"s1": error})
        [action] = planned([CALLS], [found], course=course)
        assert (action.verb, action.reason) == (Verb.REPLACE if replaced else Verb.LEAVE, Reason.REFUSED)
        assert (action.desired, action.subscription, action.delete_first) == (CALLS, found, delete_first)
        assert action.deadline == (found.expires if replaced else AT_LEISURE)
        [action] = planned([CALLS], [replace(found, expires=found.expires + SECOND)], course=course)
        assert (action.verb, action.reason, action.desired) == (Verb.LEAVE, Reason.REFUSED, CALLS)
        assert action.deadline == AT_LEISURE

    def test_what_was_begun_is_not_begun_again(self) -> None:
        for changes in ({"left": HOUR}, {"certificate_id": OUTDATED}, OTHER_KEY):
            found = existing(CALLS, **changes)
            [action] = planned([CALLS], [found])
            assert action.verb is Verb.RENEW
            [action] = planned([CALLS], [found], course=Course(begun={"s1"}))
            assert (action.verb, action.reason, action.desired) == (Verb.LEAVE, Reason.FRESH, CALLS)


class TestRenewal:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"left": HALF}, Reason.HALF_LIFE),
            ({"certificate_id": OUTDATED}, Reason.CERTIFICATE),
            (OTHER_KEY, Reason.NOTIFICATION_URL),
        ],
    )
    def test_is_due_before_the_end(self, changes: dict[str, Any], reason: Reason) -> None:
        found = existing(CALLS, **changes)
        assert planned([CALLS], [found]) == (
            Action(Verb.RENEW, reason, TENANT, CALLS.kind, found.expires, CALLS, found),
        )

    def test_what_is_fresh_is_left_at_leisure(self) -> None:
        found = existing(CALLS, left=HALF + SECOND)
        [action] = planned([CALLS], [found])
        assert action == Action(Verb.LEAVE, Reason.FRESH, TENANT, CALLS.kind, AT_LEISURE, CALLS, found)

    def test_an_old_function_key_beside_the_previous_secret_waits_for_the_replacement(self) -> None:
        url = replace(BEFORE, notification_url=f"{URL}?code=yesterday").url(rich=True)
        [action] = planned([CALLS], [existing(CALLS, notification_url=url)])
        assert (action.verb, action.reason) == (Verb.LEAVE, Reason.FRESH)

    def test_what_graph_asks_for_is_renewed_however_long_it_has(self) -> None:
        actual = [existing(CALLS, "s1"), existing(RECORDS, "s2", left=70 * HOUR)]
        actions = by_id(planned([CALLS, RECORDS], actual, reauthorize=frozenset({"s1"})))
        assert (actions["s1"].verb, actions["s1"].reason) == (Verb.RENEW, Reason.REAUTHORIZATION)
        assert actions["s2"].verb is Verb.LEAVE

    def test_what_is_expired_on_every_clock_is_absent(self) -> None:
        for left, verb in ((-SKEW, Verb.CREATE), (SECOND - SKEW, Verb.RENEW)):
            [action] = planned([CALLS], [existing(CALLS, left=left)])
            assert action.verb is verb


class TestDuplicates:
    @pytest.mark.parametrize(
        ("changes", "verb", "reason"),
        [
            ({"left": HOUR, **UNREADABLE}, Verb.LEAVE, Reason.UNKNOWN_MARK),
            ({"left": HOUR, "notification_url": ENDPOINT.url(rich=False)}, Verb.LEAVE, Reason.RESOURCE_DATA),
            ({"left": HOUR, **PREVIOUS}, Verb.RENEW, Reason.HALF_LIFE),
            ({"left": 20 * HOUR, **KEPT}, Verb.LEAVE, Reason.CERTIFICATE),
        ],
    )
    def test_of_two_to_be_replaced_the_kept_one_is_renewed_if_it_is_due_and_of_use(
        self, changes: dict[str, Any], verb: Verb, reason: Reason
    ) -> None:
        actual = [existing(CALLS, name, **changes) for name in ("s1", "s2")]
        kept = by_id(planned([CALLS], actual))["s1"]
        assert (kept.verb, kept.reason) == (verb, reason)
        assert by_id(planned([CALLS], actual, course=Course(begun={"s1"})))["s1"].verb is Verb.LEAVE

    @pytest.mark.parametrize(
        ("best", "other", "goes"),
        [
            ({}, {}, True),
            ({}, UNREADABLE, True),
            (UNREADABLE, UNREADABLE, True),
            ({"left": HALF}, {}, False),
            ({"left": HALF + SECOND}, {}, True),
        ],
    )
    def test_the_other_goes_while_the_kept_one_has_more_than_half_its_life(
        self, best: dict[str, Any], other: dict[str, Any], goes: bool
    ) -> None:
        one, two = existing(CALLS, "s1", **best), existing(CALLS, "s2", **other)
        actions = by_id(planned([CALLS], [two, one]))
        assert (actions["s2"].verb, actions["s2"].reason) == (Verb.DELETE if goes else Verb.LEAVE, Reason.DUPLICATE)
        assert (actions["s2"].deadline, actions["s2"].kind) == (AT_LEISURE, CALLS.kind)
        assert actions["s2"].kept == (one if goes and best is not UNREADABLE else None)

    def test_what_is_of_use_never_goes_for_what_has_expired(self) -> None:
        expired = existing(CALLS, "s1", left=timedelta(0))
        live = existing(CALLS, "s2", left=HOUR, certificate_id=OUTDATED)
        actions = by_id(planned([CALLS], [expired, live]))
        assert (actions["s2"].desired, actions["s1"].verb) == (CALLS, Verb.LEAVE)


class TestUnwanted:
    @pytest.mark.parametrize(
        ("changes", "options", "verb", "reason"),
        [
            ({"left": HALF, **PREVIOUS}, {}, Verb.LEAVE, Reason.UNWANTED),
            ({"left": LAST + SECOND, **PREVIOUS}, {}, Verb.LEAVE, Reason.UNWANTED),
            ({"left": LAST, **PREVIOUS}, {}, Verb.RENEW, Reason.HALF_LIFE),
            (PREVIOUS, {"reauthorize": frozenset({"s1"})}, Verb.RENEW, Reason.REAUTHORIZATION),
            ({"left": HALF}, {}, Verb.RENEW, Reason.HALF_LIFE),
            ({"left": HALF + SECOND}, {}, Verb.LEAVE, Reason.UNWANTED),
            ({"left": HALF}, {"course": Course(begun={"s1"})}, Verb.LEAVE, Reason.UNWANTED),
            (UNREADABLE, {"reauthorize": frozenset({"s1"})}, Verb.LEAVE, Reason.UNKNOWN_MARK),
        ],
    )
    def test_is_kept_alive_while_it_may_be_wanted_again(
        self, changes: dict[str, Any], options: dict[str, Any], verb: Verb, reason: Reason
    ) -> None:
        found = existing(CALLS, **changes)
        deadline = found.expires if verb is Verb.RENEW else AT_LEISURE
        assert planned([], [found], **options) == (Action(verb, reason, TENANT, CALLS.kind, deadline, None, found),)

    @pytest.mark.parametrize(
        ("of_records", "sent", "verb"),
        [
            ([existing(RECORDS, "r", left=60 * HOUR)], False, Verb.DELETE),
            ([existing(RECORDS, "r", left=timedelta(0))], False, Verb.LEAVE),
            ([existing(RECORDS, "r", left=60 * HOUR, notification_url=URL)], False, Verb.LEAVE),
            ([], False, Verb.LEAVE),
            ([], True, Verb.DELETE),
        ],
    )
    def test_what_we_may_not_have_asked_for_goes_only_while_all_that_is_desired_is_there(
        self, of_records: list[Subscription], sent: bool, verb: Verb
    ) -> None:
        found = existing(CALLS, "c", sent=sent)
        for desired in ([RECORDS], [RECORDS, PRESENCE], [PRESENCE, RECORDS]):
            there = [existing(PRESENCE, "p", left=timedelta(minutes=50))] if PRESENCE in desired else []
            actions = by_id(planned(desired, [found, *of_records, *there], prune=True))
            assert actions["c"].verb is verb
            assert by_id(planned(desired, [found, *of_records, *there]))["c"].verb is Verb.LEAVE


class TestAddresses:
    def test_of_two_at_our_former_address_one_gives_way_and_the_other_is_left(self) -> None:
        former = Endpoint("https://old.example.com/n", "https://old.example.com/n", ("newer",)).url(rich=True)
        actual = [existing(CALLS, name, notification_url=former) for name in ("s1", "s2")]
        actions = by_id(planned([CALLS], actual))
        assert {name: (action.verb, action.reason) for name, action in actions.items()} == {
            "s1": (Verb.REPLACE, Reason.NOTIFICATION_URL),
            "s2": (Verb.LEAVE, Reason.FOREIGN),
        }
        assert (actions["s1"].deadline, actions["s1"].delete_first) == (NOW + PATIENCE, True)

    def test_what_we_remember_making_is_ours_wherever_it_delivers(self) -> None:
        found = existing(CALLS, remembered=True, **ELSEWHERE)
        [action] = planned([CALLS], [found])
        assert (action.verb, action.reason, action.subscription) == (Verb.REPLACE, Reason.NOTIFICATION_URL, found)
        foreign = existing(CALLS, **ELSEWHERE)
        assert {action.verb for action in planned([CALLS], [foreign])} == {Verb.CREATE, Verb.LEAVE}

    def test_the_spelling_that_was_first_seen_is_kept(self) -> None:
        told = "/Users('U1')/communications/callevents"
        for spelling in (None, "users/U1/communications/callEvents"):
            [action] = planned([CALLS], [existing(CALLS, resource=told, spelling=spelling)])
            assert action.subscription is not None
            assert action.subscription.spelling == (spelling or told)


class TestPaused:
    PAUSED = Course(paused={CALLS.kind.key})

    @pytest.mark.parametrize("changes", [{"left": HOUR}, {"certificate_id": OUTDATED}, UNREADABLE, PREVIOUS, {}])
    def test_what_is_of_a_paused_kind_is_left_as_it_is(self, changes: dict[str, Any]) -> None:
        calls, records = existing(CALLS, "c", **changes), existing(RECORDS, "r", left=HOUR)
        actions = by_id(planned([CALLS, RECORDS], [calls, records], course=self.PAUSED))
        assert (actions["c"].verb, actions["c"].reason) == (Verb.LEAVE, Reason.REFUSED)
        assert (actions["c"].subscription, actions["c"].desired) == (calls, CALLS)
        assert (actions["r"].verb, actions["r"].reason) == (Verb.RENEW, Reason.HALF_LIFE)

    def test_nothing_of_it_is_made_and_the_rest_is(self) -> None:
        for desired in ([CALLS, RECORDS], [RECORDS, CALLS]):
            for course in (self.PAUSED, Course(held={CALLS.key})):
                [action] = planned(desired, [], course=course)
                assert (action.verb, action.desired) == (Verb.CREATE, RECORDS)

    def test_what_is_unwanted_goes_all_the_same(self) -> None:
        [action] = planned([], [existing(CALLS)], course=self.PAUSED, prune=True)
        assert (action.verb, action.reason) == (Verb.DELETE, Reason.UNWANTED)
