"""What is asked of Graph for each action, and what is made of each answer."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from shared.subscriptions.actions import Action, Outcome, Reason, Result, RunContext, Verb, carry_out, creation_body
from shared.subscriptions.desired import Desired
from shared.values import graph_errors, resources
from shared.values.endpoint import Endpoint
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import Call, Reply, Subscription, format_time
from shared.values.lifetimes import Lifetimes
from tests.unit.model_graph import CERTIFICATE, TENANT, subscription
from tests.unit.model_graph import START as NOW

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
URL = "https://calls.example.com/api/notifications"
LIFECYCLE = "https://calls.example.com/api/lifecycleNotifications"
ENDPOINT = Endpoint(f"{URL}?code=key", LIFECYCLE, ("newer", "older"))
BEFORE = Endpoint(f"{URL}?code=key", LIFECYCLE, ("older",))
REKEYED = Endpoint(f"{URL}?code=yesterday", LIFECYCLE, ("newer",))
CERTIFICATE_FIELDS = {"encryptionCertificate": "TUlJ", "encryptionCertificateId": CERTIFICATE.id}
OUTDATED = "calls/" + "0" * 32
CALLS = Desired(TENANT, resources.CALL_EVENTS, "users/u1/communications/callEvents", rich=True)
RECORDS = Desired(TENANT, resources.CALL_RECORDS, "communications/callRecords", rich=False)
PRESENCE = Desired(TENANT, resources.PRESENCE, "communications/presences/u1", rich=True)
ASKED = Lifetimes().ask(TENANT, resources.CALL_EVENTS, CALLS.resource)
WHOLE = format_time(NOW + ASKED)

REJECTED = graph_errors.RequestRejectedError("400")
NOT_FOUND = graph_errors.NotFoundError("404")
QUOTA = graph_errors.QuotaExceededError("403")
BUSY = UnavailableError("Graph")
UNKNOWN = graph_errors.OutcomeUnknownError()
NOT_VALIDATED = graph_errors.EndpointValidationError("400 ValidationError")


def refused(hours: float) -> graph_errors.LifetimeExceededError:
    return graph_errors.LifetimeExceededError("400", hours * HOUR)


def existing(want: Desired = CALLS, **changes: Any) -> Subscription:
    return subscription(want, **{"notification_url": ENDPOINT.url(rich=want.rich), "expires": NOW + HOUR} | changes)


OLD = existing()
RENEWED = existing(expires=NOW + ASKED)
NEW = existing(id="new", expires=NOW + ASKED)


class Play:
    """An action and Graph's answers to it, one after another; all of them must be asked for, and no more."""

    def __init__(self, action: Action, *replies: Reply, **context: Any) -> None:
        self.lifetimes = Lifetimes()
        given: dict[str, Any] = {"endpoint": ENDPOINT, "certificate": CERTIFICATE, "now": lambda: NOW}
        steps = carry_out(action, RunContext(**(given | {"lifetimes": self.lifetimes} | context)))
        self.calls: list[Call] = []
        answers: list[Reply] = [None, *replies]
        try:
            for answer in answers:
                self.calls.append(steps.send(answer))
        except StopIteration as end:
            self.result: Result = end.value
        assert len(self.calls) == len(replies)
        assert self.result.action is action

    @property
    def methods(self) -> list[str]:
        return [call.method for call in self.calls]

    @property
    def bodies(self) -> list[Any]:
        return [call.body for call in self.calls]

    @property
    def end(self) -> tuple[Outcome, Subscription | None, SwitchboardError | None]:
        return self.result.outcome, self.result.subscription, self.result.error


def create(*replies: Reply, want: Desired = CALLS, **context: Any) -> Play:
    return Play(Action(Verb.CREATE, Reason.MISSING, TENANT, want.kind, NOW, want), *replies, **context)


def renew(*replies: Reply, old: Subscription = OLD, want: Desired | None = CALLS, **context: Any) -> Play:
    return Play(Action(Verb.RENEW, Reason.HALF_LIFE, TENANT, old.kind, NOW, want, old), *replies, **context)


def exchange(
    *replies: Reply,
    old: Subscription = OLD,
    want: Desired = CALLS,
    reason: Reason = Reason.UNKNOWN_MARK,
    first: bool = True,
    probe: bool = False,
    **context: Any,
) -> Play:
    action = Action(Verb.REPLACE, reason, TENANT, want.kind, NOW, want, old, delete_first=first, probe=probe)
    return Play(action, *replies, **context)


def delete(*replies: Reply, old: Subscription = OLD, kept: Subscription | None = None) -> Play:
    return Play(Action(Verb.DELETE, Reason.DUPLICATE, TENANT, old.kind, NOW, None, old, kept=kept), *replies)


def test_outcomes_have_the_names_that_reports_and_logs_give_them() -> None:
    assert " ".join(Outcome) == "created renewed replaced adopted deleted gone kept unchanged unsettled failed deferred"


def test_what_is_to_be_left_is_left() -> None:
    play = Play(Action(Verb.LEAVE, Reason.FRESH, TENANT, CALLS.kind, NOW, CALLS, OLD))
    assert play.end == (Outcome.UNCHANGED, OLD, None)


class TestCreate:
    @pytest.mark.parametrize("want", [CALLS, RECORDS, PRESENCE])
    def test_asks_for_almost_the_longest_life(self, want: Desired) -> None:
        made = existing(want, id="new", expires=NEW.expires)
        play = create(made, want=want)
        assert play.end == (Outcome.CREATED, made, None)
        body = creation_body(want, NOW + Lifetimes().ask(TENANT, want.kind, want.resource), ENDPOINT, CERTIFICATE)
        delegated = want is PRESENCE
        assert play.calls == [Call("POST", TENANT, want.form.api_version, delegated, None, body)]

    def test_is_remembered_by_what_was_sent_and_granted_whatever_is_answered(self) -> None:
        answer = replace(NEW, resource="x", notification_url="y", change_type="", certificate_id="z")
        made = create(replace(answer, expires=NOW + 6 * HOUR)).result.subscription
        assert made == replace(NEW, expires=NOW + 6 * HOUR)
        assert made is not None
        assert (made.life, made.remembered, made.spelling) == (6 * HOUR, True, "x")

    def test_assumes_the_least_where_no_expiration_is_told(self) -> None:
        for play in (create(replace(NEW, expires_told=False)), renew(replace(RENEWED, expires_told=False))):
            assert play.result.subscription is not None
            assert play.result.subscription.expires == NOW + timedelta(minutes=45)

    def test_waits_for_the_certificate_where_there_is_something_to_encrypt(self) -> None:
        outcome, subscription, error = create(certificate=None).end
        assert (outcome, subscription) == (Outcome.FAILED, None)
        assert isinstance(error, UnavailableError)
        assert (error.reason, str(error)) == ("certificate", "Key Vault's certificate is unavailable")
        made = existing(RECORDS, id="new", expires=NEW.expires)
        assert create(made, want=RECORDS, certificate=None).end == (Outcome.CREATED, made, None)

    @pytest.mark.parametrize(
        ("reply", "outcome"),
        [
            (graph_errors.SubscriptionConflictError("409"), Outcome.UNSETTLED),
            (UNKNOWN, Outcome.UNSETTLED),
            (BUSY, Outcome.FAILED),
            (REJECTED, Outcome.FAILED),
            (QUOTA, Outcome.FAILED),
        ],
    )
    def test_tells_what_may_have_been_done_from_what_was_not(self, reply: SwitchboardError, outcome: Outcome) -> None:
        assert create(reply).end == (outcome, None, reply)

    def test_does_not_take_an_empty_answer_for_a_subscription(self) -> None:
        outcome, subscription, error = create(None).end
        assert (outcome, subscription) == (Outcome.FAILED, None)
        assert str(error) == "Graph answered without doing what was asked"

    def test_shortens_a_life_that_is_refused(self) -> None:
        play = create(refused(20), refused(20), NEW)
        assert play.end == (Outcome.CREATED, NEW, None)
        assert [body["expirationDateTime"] for body in play.bodies] == [
            WHOLE,
            format_time(NOW + 20 * HOUR * 0.99),
            format_time(NOW + 20 * HOUR * 0.99 * 0.9),
        ]

    def test_believes_the_fourth_refusal(self) -> None:
        last = refused(5)
        assert create(refused(20), refused(15), refused(10), last).end == (Outcome.FAILED, None, last)

    def test_wakes_an_endpoint_that_was_asleep_once(self) -> None:
        assert create(NOT_VALIDATED, NEW).end == (Outcome.CREATED, NEW, None)
        assert create(NOT_VALIDATED, refused(20), refused(15), NEW).end == (Outcome.CREATED, NEW, None)
        outcome, subscription, error = create(NOT_VALIDATED, NOT_VALIDATED).end
        assert (outcome, subscription, type(error)) == (Outcome.FAILED, None, graph_errors.EndpointValidationError)
        assert str(error) == f"400 ValidationError (of {URL} and {LIFECYCLE})"


class TestRenew:
    def test_changes_nothing_but_the_expiration(self) -> None:
        for want in (CALLS, None):
            play = renew(RENEWED, want=want)
            assert play.end == (Outcome.RENEWED, RENEWED, None)
            assert play.calls == [Call("PATCH", TENANT, "beta", False, "old", {"expirationDateTime": WHOLE})]

    def test_is_done_for_the_signed_in_user_where_only_that_is_possible(self) -> None:
        old = existing(PRESENCE, tenant_id="t2")
        [call] = renew(replace(old, expires=NOW + 2 * HOUR), old=old, want=PRESENCE).calls
        assert (call.tenant_id, call.api_version, call.delegated) == ("t2", "v1.0", True)

    @pytest.mark.parametrize("granted", [6 * HOUR, timedelta(minutes=46)])
    def test_takes_any_other_expiration_for_a_grant_and_remembers_its_length(self, granted: timedelta) -> None:
        play = renew(replace(OLD, expires=NOW + granted))
        assert play.end == (Outcome.RENEWED, replace(OLD, expires=NOW + granted), None)
        assert play.result.subscription is not None
        assert play.result.subscription.life == granted

    def test_believes_no_echo(self) -> None:
        echo = replace(RENEWED, resource="x", notification_url="y", change_type="z", certificate_id="other")
        assert renew(echo).result.subscription == RENEWED

    @pytest.mark.parametrize("certificate_id", [OUTDATED, None])
    def test_brings_a_certificate_up_to_date_that_is_another_or_not_told(self, certificate_id: str | None) -> None:
        play = renew(RENEWED, old=existing(certificate_id=certificate_id))
        assert play.bodies == [{"expirationDateTime": WHOLE, **CERTIFICATE_FIELDS}]

    def test_names_no_certificate_where_there_is_none_to_name(self) -> None:
        expiration_alone = [{"expirationDateTime": WHOLE}]
        assert renew(RENEWED, old=existing(certificate_id=OUTDATED), certificate=None).bodies == expiration_alone
        basic = existing(notification_url=ENDPOINT.url(rich=False), certificate_id=None)
        assert renew(RENEWED, old=basic).bodies == expiration_alone

    def test_brings_the_urls_query_up_to_date(self) -> None:
        for rich in (True, False):
            play = renew(RENEWED, old=existing(notification_url=REKEYED.url(rich=rich)))
            assert play.bodies[0]["notificationUrl"] == ENDPOINT.url(rich=rich)

    def test_leaves_the_url_alone_where_the_secret_is_not_the_current_one(self) -> None:
        """A new URL would bear the current one's mark, and Graph would go on sending the previous one."""
        old = existing(notification_url=BEFORE.url(rich=True).replace("key", "yesterday"))
        assert "notificationUrl" not in renew(RENEWED, old=old).bodies[0]

    def test_shortens_a_life_that_is_refused_and_believes_the_third_refusal(self) -> None:
        play = renew(refused(20), refused(20), RENEWED)
        assert play.end == (Outcome.RENEWED, RENEWED, None)
        assert [body["expirationDateTime"] for body in play.bodies] == [
            WHOLE,
            format_time(NOW + 20 * HOUR * 0.99),
            format_time(NOW + 20 * HOUR * 0.99 * 0.9),
        ]
        last = refused(10)
        assert renew(refused(20), refused(15), last, want=None).end == (Outcome.KEPT, OLD, last)

    def test_looks_again_for_what_is_not_found(self) -> None:
        play = renew(NOT_FOUND, OLD, RENEWED)
        assert play.end == (Outcome.RENEWED, RENEWED, None)
        assert play.calls[1] == Call("GET", TENANT, "beta", False, "old")
        assert play.calls[2] == play.calls[0]

    def test_changes_at_the_second_attempt_what_was_to_be_changed_at_the_first(self) -> None:
        play = renew(NOT_FOUND, OLD, RENEWED, old=existing(certificate_id=OUTDATED))
        assert play.bodies[2] == {"expirationDateTime": WHOLE, **CERTIFICATE_FIELDS}

    def test_says_that_it_is_gone_and_makes_nothing(self) -> None:
        for want in (CALLS, None):
            play = renew(NOT_FOUND, NOT_FOUND, want=want)
            assert play.end == (Outcome.GONE, None, None)
            assert (play.methods, play.result.removed) == (["PATCH", "GET"], "old")

    def test_fails_while_it_cannot_look_again(self) -> None:
        assert renew(NOT_FOUND, BUSY).end == (Outcome.FAILED, OLD, BUSY)

    @pytest.mark.parametrize("want", [CALLS, None])
    def test_fails_for_now_while_graph_is_away(self, want: Desired | None) -> None:
        assert renew(BUSY, want=want).end == (Outcome.FAILED, OLD, BUSY)

    def test_asks_for_the_time_alone_where_the_changes_are_refused(self) -> None:
        old = existing(certificate_id=OUTDATED)
        play = renew(REJECTED, RENEWED, old=old)
        assert play.end == (Outcome.RENEWED, replace(old, expires=RENEWED.expires), None)
        assert play.bodies[1] == {"expirationDateTime": WHOLE}
        assert play.result.subscription is not None
        assert play.result.subscription.kept_certificate == CERTIFICATE.id

    @pytest.mark.parametrize(
        "refusal",
        [
            REJECTED,
            NOT_VALIDATED,
            QUOTA,
            graph_errors.SubscriptionConflictError("409"),
            graph_errors.PermissionDeniedError("403"),
        ],
    )
    def test_keeps_what_graph_does_not_renew(self, refusal: SwitchboardError) -> None:
        for want in (CALLS, None):
            assert renew(refusal, want=want).end == (Outcome.KEPT, OLD, refusal)

    @pytest.mark.parametrize(("short", "outcome"), [(60, Outcome.RENEWED), (61, Outcome.KEPT)])
    def test_takes_a_whole_life_for_prolonged_and_an_unchanged_one_for_refused(
        self, short: int, outcome: Outcome
    ) -> None:
        """Two renewals within a minute get the same expiration."""
        old = existing(expires=NOW + ASKED - short * SECOND)
        play = renew(old, old=old)
        assert (play.result.outcome, play.methods) == (outcome, ["PATCH"])
        assert play.result.error is None or play.result.error.reason == "unchanged"

    def test_says_which_certificate_was_not_taken(self) -> None:
        old, told = existing(certificate_id=OUTDATED), replace(RENEWED, certificate_id=OUTDATED)
        assert renew(told, old=old).end == (Outcome.RENEWED, told, None)
        for answer, kept in (
            (OUTDATED, CERTIFICATE.id),
            (CERTIFICATE.id.upper(), None),
            (CERTIFICATE.id, None),
            (None, None),
        ):
            found = renew(replace(RENEWED, certificate_id=answer), old=old).result.subscription
            assert found is not None
            assert found.kept_certificate == kept
            assert found.certificate_id == (OUTDATED if kept else CERTIFICATE.id)


class TestReplace:
    def test_makes_the_new_one_before_it_deletes_the_old_one(self) -> None:
        for deleted in (None, BUSY, NOT_FOUND):
            play = exchange(NEW, deleted)
            assert play.end == (Outcome.REPLACED, NEW, None)
            assert play.methods == ["POST", "DELETE"]
            assert play.calls[1] == Call("DELETE", TENANT, "beta", False, "old")

    @pytest.mark.parametrize("holders", [(), ("old",), ("u1",), ("u1", "old")])
    @pytest.mark.parametrize("deleted", [None, NOT_FOUND])
    def test_goes_the_other_way_round_where_both_cannot_be(self, holders: tuple[str, ...], deleted: Reply) -> None:
        """The first id in Graph's message may be the user's."""
        play = exchange(graph_errors.SubscriptionConflictError("409", *holders), deleted, NEW)
        assert play.end == (Outcome.REPLACED, NEW, None)
        assert play.methods == ["POST", "DELETE", "POST"]
        assert play.calls[1] == Call("DELETE", TENANT, "beta", False, "old")
        assert play.bodies[0] == play.bodies[2]

    def test_does_not_delete_first_what_it_may_not(self) -> None:
        old, conflict = existing(expires=NOW + 20 * HOUR), graph_errors.SubscriptionConflictError("409", "old")
        assert exchange(conflict, old=old, first=False).end == (Outcome.KEPT, old, conflict)
        for reason in (Reason.CERTIFICATE, Reason.CLIENT_STATE):
            assert exchange(conflict, old=old, first=False, reason=reason).end == (Outcome.KEPT, old, None)

    def test_renews_what_may_not_be_deleted_first_only_when_it_has_to_be(self) -> None:
        conflict = graph_errors.SubscriptionConflictError("409", "old")
        waiting = existing(expires=NOW + ASKED / 4 + SECOND)
        assert exchange(conflict, old=waiting, first=False, reason=Reason.CLIENT_STATE).end[0] is Outcome.KEPT
        last = existing(expires=NOW + ASKED / 4)
        play = exchange(conflict, RENEWED, old=last, first=False, reason=Reason.CLIENT_STATE)
        assert (play.result.outcome, play.methods) == (Outcome.RENEWED, ["POST", "PATCH"])

    def test_tries_a_certificate_once_more_without_prolonging_anything(self) -> None:
        old = existing(certificate_id=OUTDATED, expires=NOW + 15 * HOUR)
        taken = replace(old, certificate_id=CERTIFICATE.id)
        play = exchange(old, taken, old=old, reason=Reason.CERTIFICATE, probe=True)
        assert play.end == (Outcome.RENEWED, taken, None)
        assert (play.methods, play.bodies) == (["GET", "PATCH"], [None, self.probe_of(old.expires)])
        play = exchange(old, old, NEW, None, old=old, reason=Reason.CERTIFICATE, probe=True)
        assert (play.result.outcome, play.methods) == (Outcome.REPLACED, ["GET", "PATCH", "POST", "DELETE"])

    def test_tries_a_certificate_without_shortening_what_another_run_has_prolonged(self) -> None:
        old = existing(certificate_id=OUTDATED, expires=NOW + 15 * HOUR)
        prolonged = replace(old, expires=NOW + 23 * HOUR)
        play = exchange(prolonged, prolonged, BUSY, old=old, reason=Reason.CERTIFICATE, probe=True)
        assert play.bodies[1] == self.probe_of(prolonged.expires)
        play = exchange(BUSY, NEW, None, old=old, reason=Reason.CERTIFICATE, probe=True)
        assert play.methods == ["GET", "POST", "DELETE"], "what is not read is not tried"

    @staticmethod
    def probe_of(end: datetime) -> dict[str, str]:
        return {"expirationDateTime": format_time(end), **CERTIFICATE_FIELDS}

    def test_deletes_nothing_for_a_place_that_another_holds(self) -> None:
        conflict = graph_errors.SubscriptionConflictError("409", "another")
        assert exchange(conflict).end == (Outcome.UNSETTLED, None, conflict)

    def test_deletes_for_the_quotas_sake_only_what_nobody_can_read(self) -> None:
        useless = existing(notification_url=URL, expires=NOW + 20 * HOUR)
        assert exchange(QUOTA, None, NEW, old=useless).end == (Outcome.REPLACED, NEW, None)
        useful = existing(expires=NOW + 20 * HOUR)
        assert exchange(QUOTA, old=useful).end == (Outcome.FAILED, useful, QUOTA)
        assert exchange(REJECTED, old=useless).end == (Outcome.FAILED, useless, REJECTED)

    def test_keeps_the_old_one_while_it_cannot_be_deleted(self) -> None:
        old = existing(expires=NOW + 20 * HOUR)
        assert exchange(graph_errors.SubscriptionConflictError("409"), BUSY, old=old).end == (Outcome.FAILED, old, BUSY)

    def test_says_that_nothing_is_left_where_the_new_one_fails_after_the_old_one_went(self) -> None:
        conflict = graph_errors.SubscriptionConflictError("409")
        assert exchange(conflict, None, BUSY).end == (Outcome.FAILED, None, BUSY)
        assert exchange(conflict, None, UNKNOWN).end == (Outcome.UNSETTLED, None, UNKNOWN)

    @pytest.mark.parametrize(("left", "due"), [(ASKED / 2, True), (ASKED / 2 + SECOND, False)])
    def test_prolongs_the_old_one_where_the_new_one_fails_and_it_is_due(self, left: timedelta, due: bool) -> None:
        old = existing(expires=NOW + left, certificate_id=OUTDATED)
        if due:
            play = exchange(BUSY, RENEWED, old=old)
            assert play.end == (Outcome.RENEWED, replace(old, expires=RENEWED.expires), BUSY)
            assert play.calls[1] == Call("PATCH", TENANT, "beta", False, "old", {"expirationDateTime": WHOLE})
            assert exchange(BUSY, REJECTED, old=old).end == (Outcome.FAILED, old, BUSY)
        else:
            assert exchange(BUSY, old=old).end == (Outcome.FAILED, old, BUSY)

    def test_leaves_to_the_next_list_what_may_have_been_done(self) -> None:
        assert exchange(UNKNOWN).end == (Outcome.UNSETTLED, None, UNKNOWN)


class TestDelete:
    @pytest.mark.parametrize(
        ("old", "delegated"),
        [(OLD, False), (existing(PRESENCE), True), (existing(resource="users/u1/messages"), False)],
    )
    def test_needs_no_more_than_the_id(self, old: Subscription, delegated: bool) -> None:
        play = delete(None, old=old)
        assert play.end == (Outcome.DELETED, None, None)
        assert play.calls == [Call("DELETE", TENANT, old.api_version, delegated, "old")]

    def test_is_done_where_there_is_nothing_to_delete(self) -> None:
        assert delete(NOT_FOUND).end == (Outcome.DELETED, None, None)

    def test_fails_for_now_while_graph_is_away(self) -> None:
        assert delete(BUSY).end == (Outcome.FAILED, OLD, BUSY)

    def test_of_a_duplicate_looks_at_what_stays_before(self) -> None:
        kept = existing(id="kept", expires=NOW + 20 * HOUR)
        play = delete(kept, None, kept=kept)
        assert (play.methods, [call.subscription_id for call in play.calls]) == (["GET", "DELETE"], ["kept", "old"])
        assert delete(NOT_FOUND, kept=kept).end == (Outcome.FAILED, OLD, NOT_FOUND)
        assert delete(BUSY, kept=kept).end == (Outcome.FAILED, OLD, BUSY)
        assert delete(replace(kept, expires=NOW + ASKED / 2), kept=kept).end == (Outcome.UNCHANGED, OLD, None)
