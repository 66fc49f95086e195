"""The plan, and what a subscription's notification URL says about it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.call_records.coverage import resource_key
from shared.subscriptions.actions import Action, Reason, Verb, creation_body
from shared.subscriptions.desired import Desired
from shared.subscriptions.plan import PATIENCE, Course, plan
from shared.values import resources
from shared.values.endpoint import ClientStateVersion, EncryptionCertificate, Endpoint
from shared.values.graph import Subscription
from shared.values.lifetimes import Lifetimes, half_life, last_resort
from shared.values.resource_row import UNKNOWN
from tests.unit.test_execution import (
    BEFORE,
    CALLS,
    CERTIFICATE,
    ENDPOINT,
    LIFECYCLE,
    NOW,
    OUTDATED,
    PRESENCE,
    RECORDS,
    REKEYED,
    TENANT,
    URL,
)
from tests.unit.test_execution import existing as of_execution

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def existing(want: Desired, identity: str = "s1", left: timedelta = 20 * HOUR, **changes: Any) -> Subscription:
    return of_execution(want, id=identity, expires=NOW + left, **changes)


def decide(
    desired: list[Desired],
    actual: list[Subscription],
    *,
    prune: bool = False,
    certificate_id: str | None = CERTIFICATE.id,
    course: Course | None = None,
) -> tuple[Action, ...]:
    actions = plan(
        desired,
        actual,
        NOW,
        endpoint=ENDPOINT,
        certificate_id=certificate_id,
        lifetimes=Lifetimes(),
        course=course,
        **({"prune": True} if prune else {}),
    )
    for action in actions:
        for about in (action.desired, action.subscription):
            kinds = () if about is None else (about.kind, about.kind or UNKNOWN)
            assert about is None or (action.tenant_id == about.tenant_id and action.kind in kinds)
    return actions


def verdict(found: Subscription, want: Desired = CALLS) -> tuple[Verb, Reason]:
    [action] = decide([want], [found])
    assert (action.desired, action.subscription) == (want, found)
    return action.verb, action.reason


def test_verbs_and_reasons_have_the_names_that_plans_and_logs_give_them() -> None:
    assert " ".join(Verb) == "create renew replace delete leave"
    assert " ".join(ClientStateVersion) == "current previous unknown"
    assert " ".join(Reason) == (
        "missing half-life reauthorization certificate notification-url client-state unknown-mark resource-data "
        "change-type refused superseded duplicate unwanted fresh foreign"
    )


class TestPlan:
    def test_missing_and_expired_ones_are_created(self) -> None:
        for actual in ([], [existing(CALLS, left=-5 * MINUTE)]):
            [action] = decide([CALLS], actual)
            assert (action.verb, action.reason, action.subscription) == (Verb.CREATE, Reason.MISSING, None)

    @pytest.mark.parametrize(
        ("changes", "want", "verb", "reason"),
        [
            ({"left": timedelta(seconds=1) - 5 * MINUTE}, CALLS, Verb.RENEW, Reason.HALF_LIFE),  # it may only seem over
            ({"left": 0.01 * HOUR}, CALLS, Verb.RENEW, Reason.HALF_LIFE),
            ({"left": 11.88 * HOUR}, CALLS, Verb.RENEW, Reason.HALF_LIFE),
            ({"left": 11.8801 * HOUR}, CALLS, Verb.LEAVE, Reason.FRESH),
            ({"left": 23 * HOUR}, CALLS, Verb.LEAVE, Reason.FRESH),
            ({"certificate_id": OUTDATED}, CALLS, Verb.RENEW, Reason.CERTIFICATE),
            ({"certificate_id": None}, CALLS, Verb.LEAVE, Reason.FRESH),  # Graph does not tell
            # The previous secret is good until renewal, and goes with an outdated certificate.
            ({"notification_url": BEFORE.url(rich=True)}, CALLS, Verb.LEAVE, Reason.FRESH),
            ({"notification_url": BEFORE.url(rich=True), "left": HOUR}, CALLS, Verb.REPLACE, Reason.CLIENT_STATE),
            (
                {"notification_url": BEFORE.url(rich=True), "certificate_id": OUTDATED},
                CALLS,
                Verb.REPLACE,
                Reason.CLIENT_STATE,
            ),
            # Without a known mark nobody can read what it delivers.
            *(
                ({"notification_url": url}, CALLS, Verb.REPLACE, Reason.UNKNOWN_MARK)
                for url in (
                    URL,
                    f"{URL}?code=key&mark=000000000000",
                    Endpoint(URL, LIFECYCLE, ("forgotten",)).url(rich=True),
                    Endpoint(URL, "https://calls.example.com/elsewhere", ("newer",)).url(rich=True),
                )
            ),
            ({"notification_url": REKEYED.url(rich=True)}, CALLS, Verb.RENEW, Reason.NOTIFICATION_URL),
            ({"notification_url": ENDPOINT.url(rich=False)}, CALLS, Verb.REPLACE, Reason.RESOURCE_DATA),
            ({"change_type": "updated, Created", "left": 60 * HOUR}, RECORDS, Verb.LEAVE, Reason.FRESH),
            ({"change_type": "updated"}, RECORDS, Verb.REPLACE, Reason.CHANGE_TYPE),
        ],
    )
    def test_what_lives_is_judged_by_what_is_desired(
        self, changes: dict[str, Any], want: Desired, verb: Verb, reason: Reason
    ) -> None:
        assert verdict(existing(want, **changes), want) == (verb, reason)

    def test_a_resource_is_the_same_however_graph_spells_its_path(self) -> None:
        found = existing(CALLS, resource="/Users('U1')/communications/callevents")
        [action] = decide([CALLS], [found])
        assert (action.verb, action.reason) == (Verb.LEAVE, Reason.FRESH)
        assert action.subscription is not None
        assert (action.subscription.resource, action.subscription.spelling) == (CALLS.resource, found.resource)

    def test_what_is_quoted_keeps_its_case(self) -> None:
        assert resource_key("/a(x='Bc')/D") == "a(x='Bc')/d"
        assert resource_key("Xa") == "xa"

    def test_no_certificate_is_outdated_while_the_current_one_is_unknown(self) -> None:
        [action] = decide([CALLS], [existing(CALLS, certificate_id=OUTDATED)], certificate_id=None)
        assert action.verb is Verb.LEAVE

    def test_the_best_of_several_is_kept_whatever_their_order(self) -> None:
        good = existing(CALLS, "s9")
        others = [
            existing(CALLS, "s1", notification_url=URL),
            existing(CALLS, "s2", notification_url=BEFORE.url(rich=True)),
            existing(CALLS, "s3", certificate_id=OUTDATED),
        ]
        for actual in ([good, *others], [*others, good]):
            actions = {action.subscription.id: action for action in decide([CALLS], actual) if action.subscription}
            assert actions.pop("s9").verb is Verb.LEAVE
            assert {action.kept for action in actions.values()} == {good}
            assert {(action.verb, action.reason) for action in actions.values()} == {(Verb.DELETE, Reason.DUPLICATE)}

    @pytest.mark.parametrize(
        ("better", "worse"),
        [
            ({"notification_url": URL}, {"left": timedelta(0)}),
            ({"notification_url": ENDPOINT.url(rich=False)}, {"notification_url": URL}),
            ({"notification_url": BEFORE.url(rich=True)}, {"notification_url": ENDPOINT.url(rich=False)}),
            ({"notification_url": BEFORE.url(rich=True)}, {"change_type": "created"}),
            ({"certificate_id": OUTDATED}, {"notification_url": BEFORE.url(rich=True)}),
            ({}, {"certificate_id": OUTDATED}),
        ],
    )
    def test_of_two_the_one_with_the_lesser_fault_is_kept(self, better: dict[str, Any], worse: dict[str, Any]) -> None:
        for name, other in (("s1", "s2"), ("s2", "s1")):
            actions = decide([CALLS], [existing(CALLS, name, **better), existing(CALLS, other, **worse)])
            kept = {action.reason is not Reason.DUPLICATE: action.subscription for action in actions}[True]
            assert kept == existing(CALLS, name, **better)

    def test_a_third_one_is_never_made(self) -> None:
        """Of two that nobody can read one goes first, and the other is replaced by a later run."""
        actual = [existing(CALLS, name, notification_url=URL) for name in ("s1", "s2")]
        kept, deleted = sorted(decide([CALLS], actual), key=lambda action: action.verb is Verb.DELETE)
        assert (kept.verb, deleted.verb, deleted.kept) == (Verb.LEAVE, Verb.DELETE, None)
        previous = [existing(CALLS, name, notification_url=BEFORE.url(rich=True), left=HOUR) for name in ("s1", "s2")]
        assert {action.verb for action in decide([CALLS], previous)} == {Verb.RENEW, Verb.LEAVE}

    def test_no_duplicate_is_deleted_beside_one_that_is_due_or_was_begun(self) -> None:
        for one, course in (
            (existing(CALLS, "s1", left=11 * HOUR), Course()),
            (existing(CALLS, "s1"), Course(begun={"s1"})),
            (existing(CALLS, "s1"), Course(begun={"s2"})),
        ):
            actions = decide([CALLS], [one, existing(CALLS, "s2")], course=course)
            assert Verb.DELETE not in {action.verb for action in actions}

    def test_of_equals_the_same_is_kept_however_long_each_has(self) -> None:
        one, other = existing(CALLS, "s1", left=13 * HOUR), existing(CALLS, "s2")
        for actual in ([one, other], [other, one], [replace(one, expires=NOW + 23 * HOUR), other]):
            deleted = [action.subscription for action in decide([CALLS], actual) if action.verb is Verb.DELETE]
            assert deleted == [other]

    def test_undesired_ones_are_renewed_and_pruned_only_on_demand(self) -> None:
        fresh, due = existing(CALLS, "s1"), existing(CALLS, "s2", left=HOUR)
        due = replace(due, resource="users/u2/communications/callEvents")
        assert [(action.verb, action.reason, action.subscription) for action in decide([], [fresh, due])] == [
            (Verb.RENEW, Reason.HALF_LIFE, due),
            (Verb.LEAVE, Reason.UNWANTED, fresh),
        ]
        assert [(action.verb, action.reason) for action in decide([], [fresh, due], prune=True)] == [
            (Verb.DELETE, Reason.UNWANTED)
        ] * 2

    def test_undesired_ones_that_nobody_could_read_are_left_to_lapse(self) -> None:
        found = existing(CALLS, left=HOUR, notification_url=URL)
        [action] = decide([], [found])
        assert (action.verb, action.reason) == (Verb.LEAVE, Reason.UNKNOWN_MARK)

    def test_what_a_later_version_has_made_is_renewed_though_no_row_knows_it(self) -> None:
        ours = existing(CALLS, left=timedelta(minutes=20), resource="users/u1/messages")
        [action] = decide([], [ours])
        assert (action.verb, action.reason) == (Verb.RENEW, Reason.HALF_LIFE)
        [action] = decide([], [replace(ours, expires=NOW + HOUR)])
        assert (action.verb, action.reason) == (Verb.LEAVE, Reason.UNWANTED)
        [action] = decide([], [replace(ours, notification_url="https://other.example.com/api/notifications")])
        assert (action.verb, action.reason) == (Verb.LEAVE, Reason.FOREIGN)

    @pytest.mark.parametrize(
        "url",
        [
            "https://other.example.com/api/notifications",
            "https://calls.example.com/api/other",
            "https://calls.example.com/api/notificationsX",
            "https://calls.example.com:8443/api/notifications",
            "http://calls.example.com/api/notifications",
            "EventHub:https://x.servicebus.windows.net/eventhubname/y",
            "",
        ],
    )
    def test_what_is_not_ours_is_never_touched(self, url: str) -> None:
        foreign = existing(CALLS, notification_url=url, left=HOUR)
        [action] = decide([], [foreign], prune=True)
        assert (action.verb, action.reason) == (Verb.LEAVE, Reason.FOREIGN)
        assert {action.verb for action in decide([CALLS], [foreign])} == {Verb.CREATE, Verb.LEAVE}

    def test_what_our_former_address_has_left_is_taken_over_if_wanted_and_else_never_touched(self) -> None:
        former = Endpoint("https://old.example.com/n", "https://old.example.com/n", ("newer",))
        old = existing(CALLS, notification_url=former.url(rich=True), left=HOUR)
        assert verdict(old) == (Verb.REPLACE, Reason.NOTIFICATION_URL)
        for prune in (True, False):
            [action] = decide([], [old], prune=prune)
            assert (action.verb, action.reason, action.subscription) == (Verb.LEAVE, Reason.FOREIGN, old)
        actions = decide([CALLS], [old, replace(old, id="s2")])
        assert {(action.verb, action.reason) for action in actions} == {
            (Verb.REPLACE, Reason.NOTIFICATION_URL),
            (Verb.LEAVE, Reason.FOREIGN),
        }

    def test_another_list_of_users_takes_the_place_of_the_former_one(self) -> None:
        longer = replace(PRESENCE, resource="communications/presences?$filter=id in ('u1','u2')")
        assert verdict(existing(PRESENCE), longer) == (Verb.REPLACE, Reason.SUPERSEDED)

    @pytest.mark.parametrize(
        ("want", "found"),
        [
            (PRESENCE, replace(PRESENCE, tenant_id="aaaaaaaa-0000-4000-8000-000000000002")),
            (PRESENCE, CALLS),
            (CALLS, PRESENCE),
            (CALLS, replace(CALLS, resource="users/u2/communications/callEvents")),
        ],
    )
    def test_nothing_else_takes_the_place_of_another(self, want: Desired, found: Desired) -> None:
        actions = decide([want], [existing(found, left=timedelta(minutes=50))])
        assert Verb.REPLACE not in {action.verb for action in actions}

    def test_the_most_urgent_comes_first(self) -> None:
        def calls(name: str) -> Desired:
            return replace(CALLS, resource=f"users/{name}/communications/callEvents")

        lapsing = existing(calls("a"), "lapsing", left=PATIENCE - timedelta(minutes=1))
        refused = existing(calls("e"), "refused", notification_url=URL)
        due = existing(calls("c"), "due", left=HOUR)
        fresh = existing(calls("d"), "fresh")
        actions = decide([calls(name) for name in "bcdae"], [refused, fresh, due, lapsing])
        order = [action.subscription and action.subscription.id for action in actions]
        assert order[0] == "lapsing"
        assert set(order[1:3]) == {None, "refused"}  # nothing comes of the one nor of the other
        assert order[3:] == ["due", "fresh"]

    def test_tenants_are_apart(self) -> None:
        found = existing(replace(CALLS, tenant_id="aaaaaaaa-0000-4000-8000-000000000002"))
        assert {action.verb for action in decide([CALLS], [found])} == {Verb.CREATE, Verb.LEAVE}

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([CALLS, RECORDS]),
                st.sampled_from([URL, ENDPOINT.url(rich=True), ENDPOINT.url(rich=False), BEFORE.url(rich=True), "x:"]),
                st.sampled_from([CERTIFICATE.id, None, "calls/old"]),
                st.integers(-1, 70),
            ),
            max_size=8,
        ),
        st.booleans(),
    )
    def test_every_desired_one_is_seen_to_and_one_always_stays(
        self, rows: list[tuple[Desired, str, str | None, int]], prune: bool
    ) -> None:
        actual = [
            existing(want, f"s{place}", left=left * HOUR, notification_url=url, certificate_id=certificate_id)
            for place, (want, url, certificate_id, left) in enumerate(rows)
        ]
        actions = decide([CALLS, RECORDS], actual, prune=prune)
        for want in (CALLS, RECORDS):
            of_it = [action for action in actions if action.desired == want]
            assert sum(action.verb is not Verb.DELETE for action in of_it) == 1
            there = [one for one in actual if ENDPOINT.owns(one.notification_url) and one.resource == want.resource]
            if sum(one.expires > NOW for one in there) > 1:
                assert {action.verb for action in of_it} <= {Verb.LEAVE, Verb.RENEW}
        touched = [action.subscription.id for action in actions if action.subscription is not None]
        assert len(touched) == len(set(touched))
        deleted = {action.subscription.id for action in actions if action.verb is Verb.DELETE and action.subscription}
        ours = [one for one in actual if ENDPOINT.owns(one.notification_url)]
        assert deleted <= {one.id for one in ours}
        for want in (CALLS, RECORDS):
            live = {one.id for one in ours if one.expires > NOW and one.resource == want.resource}
            assert not live or live - deleted


class TestEndpoint:
    @pytest.mark.parametrize("url", [URL, f"{URL}?code=a%2Bb%3D%3D", f"{URL}?code=x&y=z"])
    @pytest.mark.parametrize("rich", [True, False])
    def test_a_url_says_what_it_was_made_for(self, url: str, rich: bool) -> None:
        endpoint = Endpoint(url, LIFECYCLE, ("newer", "older"))
        made = endpoint.url(rich=rich)
        assert made.startswith(url)
        assert endpoint.owns(made)
        assert endpoint.read_mark(made) == (ClientStateVersion.CURRENT, rich)
        assert endpoint.up_to_date(made)
        later = Endpoint(url, LIFECYCLE, ("newest", "newer"))
        assert later.read_mark(made) == (ClientStateVersion.PREVIOUS, rich)
        assert Endpoint(url, LIFECYCLE, ("newest",)).read_mark(made) == (ClientStateVersion.UNKNOWN, False)

    def test_the_mark_outlives_releases(self) -> None:
        """Subscriptions carry it; were it made in another way, all of them would have to be made anew."""
        made = [ENDPOINT.url(rich=rich).partition("&mark=")[2] for rich in (True, False)]
        assert made == ["a3a2432caa23", "4b0680d2d084"]

    def test_the_host_in_any_case_and_the_default_port(self) -> None:
        assert ENDPOINT.owns("https://CALLS.example.com:443/api/notifications/?x=y")

    @pytest.mark.parametrize("query", ["?code=", "?code=yesterday", "?code=key&flag=", ""])
    def test_any_difference_of_the_query_but_the_mark_is_to_be_mended(self, query: str) -> None:
        assert not ENDPOINT.up_to_date(f"{URL}{query}")
        assert not Endpoint(f"{URL}{query}", LIFECYCLE, ("newer",)).up_to_date(ENDPOINT.url(rich=True))

    def test_it_is_named_without_what_is_secret(self) -> None:
        assert Endpoint(f"{URL}?code=a?b", f"{LIFECYCLE}?code=c", ("x",)).addresses == f"{URL} and {LIFECYCLE}"
        assert Endpoint(f"{URL}?code=a", URL, ("x",)).addresses == URL

    @pytest.mark.parametrize("url", ["https://[", "https://calls.example.com:port/api/notifications", "%", "//"])
    def test_nonsense_is_not_ours(self, url: str) -> None:
        assert not ENDPOINT.owns(url)
        assert not ENDPOINT.was_ours(url)

    @pytest.mark.parametrize(
        "lifecycle",
        [
            "https://old.example.com/api/lifecycleNotifications",
            "http://old.example.com:8080/api/lifecycleNotifications",
            "https://old.example/n",
        ],
    )
    def test_a_former_address_is_known_by_its_mark(self, lifecycle: str) -> None:
        former = Endpoint(lifecycle.replace("lifecycleN", "n"), lifecycle, ENDPOINT.client_states)
        assert ENDPOINT.was_ours(former.url(rich=True))
        assert not ENDPOINT.was_ours(replace(former, client_states=("another",)).url(rich=True))
        assert not ENDPOINT.was_ours(former.notification_url)

    def test_the_secret_is_not_in_the_url_nor_in_a_representation(self) -> None:
        endpoint = Endpoint(URL, LIFECYCLE, ("sesame",))
        assert "sesame" not in endpoint.url(rich=True) + repr(endpoint)


class TestLifetimes:
    @pytest.mark.parametrize(("kind", "minutes"), [("presence", 58), ("callEvents", 1425.6), ("callRecords", 4187.7)])
    def test_a_little_less_than_the_maximum_is_asked_for(self, kind: str, minutes: float) -> None:
        assert Lifetimes().ask(TENANT, resources.CATALOGUE[kind], "") == timedelta(minutes=minutes)

    def test_refusals_heard_at_the_same_time_count_once(self) -> None:
        lifetimes = Lifetimes()
        asked = lifetimes.ask(TENANT, resources.CALL_EVENTS, CALLS.resource)
        for _ in range(20):
            lifetimes.refused(TENANT, resources.CALL_EVENTS, CALLS.resource, asked, 10 * HOUR)
        assert lifetimes.ask(TENANT, resources.CALL_EVENTS, CALLS.resource) == 10 * HOUR * 0.99
        assert lifetimes.ask("another", resources.CALL_EVENTS, CALLS.resource) == asked
        assert lifetimes.ask(TENANT, resources.EMERGENCY_CALL_EVENTS, resources.emergency_path("a")) == asked

    def test_a_maximum_that_was_kept_to_is_undercut(self) -> None:
        lifetimes = Lifetimes()
        lifetimes.refused(TENANT, resources.CALL_EVENTS, CALLS.resource, 20 * HOUR, 24 * HOUR)
        assert lifetimes.ask(TENANT, resources.CALL_EVENTS, CALLS.resource) == 18 * HOUR

    def test_half_is_of_what_this_very_one_was_granted(self) -> None:
        assert half_life(existing(CALLS, life=6 * HOUR), Lifetimes()) == 3 * HOUR
        assert half_life(existing(CALLS), Lifetimes()) == timedelta(minutes=712.8)

    def test_no_grant_moves_the_half_below_what_the_timer_can_keep(self) -> None:
        assert half_life(existing(CALLS, life=timedelta(minutes=-5)), Lifetimes()) == timedelta(minutes=22.5)

    def test_the_last_resort_is_a_quarter_and_three_runs_of_the_timer(self) -> None:
        assert last_resort(existing(CALLS, life=24 * HOUR), Lifetimes()) == 6 * HOUR
        assert last_resort(existing(CALLS, life=50 * MINUTE), Lifetimes()) == 15 * MINUTE


@pytest.mark.parametrize(
    ("want", "certificate", "rich"),
    [
        (RECORDS, CERTIFICATE, False),
        (replace(PRESENCE, rich=False), CERTIFICATE, False),
        (CALLS, None, False),
        (CALLS, CERTIFICATE, True),
    ],
)
def test_the_body_of_a_creation(want: Desired, certificate: EncryptionCertificate | None, rich: bool) -> None:
    basic = {
        "changeType": want.kind.change_type,
        "notificationUrl": ENDPOINT.url(rich=want.rich),
        "lifecycleNotificationUrl": LIFECYCLE,
        "resource": want.resource,
        "expirationDateTime": "2026-01-01T00:00:00Z",
        "clientState": "newer",
    }
    of_a_rich_one = {
        "includeResourceData": True,
        "encryptionCertificate": "TUlJ",
        "encryptionCertificateId": CERTIFICATE.id,
    }
    assert creation_body(want, NOW, ENDPOINT, certificate) == basic | (of_a_rich_one if rich else {})
