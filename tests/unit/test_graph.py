"""What Graph's answers mean."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.domain import graph
from shared.domain.errors import MalformedInputError, SwitchboardError, UnavailableError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FOUND = {
    "id": "s1",
    "resource": "/users/u1/communications/callEvents",
    "changeType": "updated",
    "clientState": None,
    "notificationUrl": "https://calls.example.com/api/notifications",
    "expirationDateTime": "2026-01-02T00:00:00.1234567Z",
    "encryptionCertificateId": None,
}


def error(status: int, message: str = "", **options: Any) -> SwitchboardError:
    return graph.error_of(status, {"error": {"code": "ExtensionError", "message": message}}, **options)


@pytest.mark.parametrize(
    ("status", "message", "leaf", "reason"),
    [
        (400, "Bad", graph.RequestRejectedError, "rejected"),
        (
            400,
            "Operation: Create; Exception: [Status Code: Forbidden; Reason: The request is not authorized.]",
            graph.PermissionDeniedError,
            "permission",
        ),
        (400, "[Status Code: ServiceUnavailable; Reason: busy]", UnavailableError, "unavailable"),
        (400, "[Status Code: BadRequest; Reason: no]", graph.RequestRejectedError, "rejected"),
        (
            400,
            "Subscription validation request failed. Notification endpoint must respond with 200 OK.",
            graph.EndpointValidationError,
            "endpoint-validation",
        ),
        (401, "InvalidAuthenticationToken", graph.CredentialError, "credential"),
        (403, "The request is not authorized for this user or application.", graph.PermissionDeniedError, "permission"),
        (403, "The meeting tenant does not match the token tenant.", graph.RequestRejectedError, "rejected"),
        (403, "The organization has reached its limit of 100 subscriptions.", graph.QuotaExceededError, "quota"),
        (404, "", graph.SubscriptionNotFoundError, "not-found"),
        (408, "", graph.OutcomeUnknownError, "outcome-unknown"),
        (409, "", graph.SubscriptionConflictError, "conflict"),
        (429, "", UnavailableError, "throttled"),
        (500, "", graph.OutcomeUnknownError, "outcome-unknown"),
        (502, "", graph.OutcomeUnknownError, "outcome-unknown"),
        (503, "", UnavailableError, "unavailable"),
        (504, "", graph.OutcomeUnknownError, "outcome-unknown"),
    ],
)
def test_each_error_is_one_leaf(status: int, message: str, leaf: type[SwitchboardError], reason: str) -> None:
    found = error(status, message)
    assert type(found) is leaf
    assert found.reason == reason


@pytest.mark.parametrize(
    ("message", "maximum"),
    [
        ("Subscription expiration can only be 4230 minutes in the future.", timedelta(minutes=4230)),
        (
            "[Status Code: BadRequest; Reason: Expiration time '2026-01-09' is beyond allowed max '3.00:00:00'.]",
            timedelta(days=3),
        ),
        ("Expiration time 'x' is beyond allowed max '01:30:00'.", timedelta(hours=1.5)),
    ],
)
def test_a_lifetime_refused_names_its_maximum(message: str, maximum: timedelta) -> None:
    found = error(400, message)
    assert isinstance(found, graph.LifetimeExceededError)
    assert found.maximum == maximum


def test_a_conflict_names_the_holder() -> None:
    holder = "AAAAAAAA-0000-4000-8000-000000000001"
    found = error(409, f"Subscription Id {holder} already exists for the requested combination")
    assert isinstance(found, graph.SubscriptionConflictError)
    assert found.holder == holder.lower()
    unnamed = error(409, "Subscription Id <> already exists for the requested combination")
    assert isinstance(unnamed, graph.SubscriptionConflictError)
    assert unnamed.holder is None


@pytest.mark.parametrize("body", [None, "<html>", [], {}, {"error": "x"}, {"error": {"code": 1, "message": []}}])
def test_an_error_without_a_body_is_still_one(body: object) -> None:
    assert isinstance(graph.error_of(403, body), graph.PermissionDeniedError)


def test_no_key_of_ours_gets_into_a_message() -> None:
    found = error(400, "The url https://calls.example.com/api/notifications?code=sesame&mark=1 is not valid")
    assert "sesame" not in str(found)
    assert "calls.example.com" in str(found)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (7, 7.0),
        ("0.5", 0.5),
        ("Thu, 01 Jan 2026 00:01:30 GMT", 90.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("-5", 0.0),
        ("999999", 3600.0),
        ("nan", None),
        ("soon", None),
        (None, None),
        ([], None),
    ],
)
def test_retry_after(value: object, seconds: float | None) -> None:
    assert graph.parse_retry_after(value, NOW) == seconds


def test_a_subscription_as_graph_tells_it() -> None:
    found = graph.parse_subscription(FOUND, "t1", "v1.0")
    assert (found.id, found.tenant_id, found.certificate_id) == ("s1", "t1", None)
    assert found.api_version == "beta"  # the row's own, wherever it was listed
    assert found.expires == datetime(2026, 1, 2, 0, 0, 0, 123456, tzinfo=UTC)
    assert found.kind is not None
    other = graph.parse_subscription(FOUND | {"resource": "users/u1/messages"}, "t1", "v1.0")
    assert (other.api_version, other.kind) == ("v1.0", None)


@pytest.mark.parametrize(
    "value",
    [None, [], {}, FOUND | {"id": ""}, FOUND | {"resource": None}, FOUND | {"expirationDateTime": "tomorrow"}],
)
def test_what_is_not_a_subscription(value: object) -> None:
    with pytest.raises(MalformedInputError):
        graph.parse_subscription(value, "t1", "v1.0")


def test_times_without_an_offset_are_utc() -> None:
    assert graph.parse_time("2026-01-01T00:00:00") == NOW
    assert graph.parse_time("2026-01-01T02:00:00+02:00") == NOW
    assert graph.format_time(NOW + timedelta(microseconds=5)) == "2026-01-01T00:00:00Z"
