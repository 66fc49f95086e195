"""What Graph's answers mean."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.values import graph, graph_errors, resources
from shared.values.errors import MalformedInputError, SwitchboardError, UnavailableError

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


@pytest.fixture
def in_india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On a machine whose clock shows another time than UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        yield
    time.tzset()


def error(status: int, message: str = "", **options: Any) -> SwitchboardError:
    return graph_errors.error_of(status, {"error": {"code": "ExtensionError", "message": message}}, **options)


@pytest.mark.parametrize(
    ("status", "message", "leaf", "reason"),
    [
        (400, "Bad", graph_errors.RequestRejectedError, "rejected"),
        (
            400,
            "Operation: Create; Exception: [Status Code: Forbidden; Reason: The request is not authorized.]",
            graph_errors.PermissionDeniedError,
            "permission",
        ),
        *(
            (status, f"Exception: [Status Code: {inner}; Reason: x]", leaf, reason)
            for status in (400, 500)
            for inner, leaf, reason in (
                ("ServiceUnavailable", UnavailableError, "unavailable"),
                ("TooManyRequests", UnavailableError, "throttled"),
                ("Conflict", graph_errors.SubscriptionConflictError, "conflict"),
                ("BadRequest", graph_errors.RequestRejectedError, "rejected"),
                ("PreconditionFailed", graph_errors.RequestRejectedError, "rejected"),
                ("FailedDependency", graph_errors.RequestRejectedError, "rejected"),
                ("Unauthorized", graph_errors.UnauthorizedError, "credential"),
                ("NotFound", graph_errors.NotFoundError, "not-found"),
                ("InternalServerError", graph_errors.OutcomeUnknownError, "outcome-unknown"),
                ("BadGateway", graph_errors.OutcomeUnknownError, "outcome-unknown"),
                ("GatewayTimeout", graph_errors.OutcomeUnknownError, "outcome-unknown"),
            )
        ),
        (400, "[Status Code: OK; Reason: x]", graph_errors.RequestRejectedError, "rejected"),
        (500, "[Status Code: OK; Reason: x]", graph_errors.OutcomeUnknownError, "outcome-unknown"),
        (
            400,
            "Subscription validation request failed. Notification endpoint must respond with 200 OK.",
            graph_errors.EndpointValidationError,
            "endpoint-validation",
        ),
        (401, "InvalidAuthenticationToken", graph_errors.UnauthorizedError, "credential"),
        (
            403,
            "The request is not authorized for this user or application.",
            graph_errors.PermissionDeniedError,
            "permission",
        ),
        (403, "The meeting tenant does not match the token tenant.", graph_errors.RequestRejectedError, "rejected"),
        (403, "The organization has reached its limit of 100 subscriptions.", graph_errors.QuotaExceededError, "quota"),
        (404, "", graph_errors.NotFoundError, "not-found"),
        (410, "Gone", graph_errors.NotFoundError, "not-found"),
        (408, "", graph_errors.OutcomeUnknownError, "outcome-unknown"),
        (409, "", graph_errors.SubscriptionConflictError, "conflict"),
        (429, "", UnavailableError, "throttled"),
        (500, "", graph_errors.OutcomeUnknownError, "outcome-unknown"),
        (502, "", graph_errors.OutcomeUnknownError, "outcome-unknown"),
        (503, "", UnavailableError, "unavailable"),
        (504, "", graph_errors.OutcomeUnknownError, "outcome-unknown"),
    ],
)
def test_each_error_is_one_leaf(status: int, message: str, leaf: type[SwitchboardError], reason: str) -> None:
    found = error(status, message)
    assert type(found) is leaf
    assert found.reason == reason
    if isinstance(found, graph_errors.GraphError):
        assert str(found).endswith(f" ExtensionError: {message}".rstrip())


@pytest.mark.parametrize(
    ("status", "message", "leaf"),
    [
        (400, "Subscription expiration can only be 60 minutes in the future.", graph_errors.LifetimeExceededError),
        (400, "Expiration time is beyond allowed max '1.00:00:00'", graph_errors.LifetimeExceededError),
        (400, "Subscription validation request timed out.", graph_errors.EndpointValidationError),
        (400, "Validation of the endpoint failed", graph_errors.EndpointValidationError),
        (403, "The meeting tenant does not match the token tenant.", graph_errors.RequestRejectedError),
        (403, "Quota reached", graph_errors.QuotaExceededError),
    ],
)
def test_an_error_is_known_in_any_case(status: int, message: str, leaf: type[SwitchboardError]) -> None:
    for text in (message, message.lower(), message.upper()):
        assert type(error(status, text)) is leaf


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (400, "Bad", "400 ExtensionError: Bad"),
        (400, "[Status Code: NotFound; Reason: x]", "404 ExtensionError: [Status Code: NotFound; Reason: x]"),
        (401, "", "Graph did not take the token: 401 ExtensionError:"),
        *((status, "", "Graph is unavailable") for status in (429, 502, 503)),
        (400, "x" * 501, "400 ExtensionError: " + "x" * 500),
        (400, {"error": {"code": "c" * 101, "message": "m"}}, f"400 {'c' * 100}: m"),
        (400, {"error": {"message": "m"}}, "400 : m"),
        (400, {"error": {"code": "c"}}, "400 c:"),
        (400, {}, "400 :"),
        (
            403,
            {"error": {"code": "Forbidden", "message": "No.", "innerError": {"code": "Disabled", "message": "No."}}},
            "403 Forbidden: No. (Disabled)",
        ),
    ],
)
def test_what_an_error_reads(status: int, body: Any, text: str) -> None:
    assert str(error(status, body) if isinstance(body, str) else graph_errors.error_of(status, body)) == text


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_that_graph_asks_for_is_told(status: int) -> None:
    found = error(status, retry_after=7.0)
    assert isinstance(found, UnavailableError)
    assert found.retry_after == 7.0


@pytest.mark.parametrize(
    ("message", "maximum"),
    [
        ("Subscription expiration can only be 4230 minutes in the future.", timedelta(minutes=4230)),
        (
            "[Status Code: BadRequest; Reason: Expiration time '2026-01-09' is beyond allowed max '3.00:00:00'.]",
            timedelta(days=3),
        ),
        ("Expiration time 'x' is beyond allowed max '01:30:15'.", timedelta(hours=1, minutes=30, seconds=15)),
    ],
)
def test_a_lifetime_refused_names_its_maximum(message: str, maximum: timedelta) -> None:
    found = error(400, message)
    assert isinstance(found, graph_errors.LifetimeExceededError)
    assert (found.reason, found.maximum) == ("lifetime", maximum)
    assert str(found) == f"400 ExtensionError: {message}"


def test_a_conflict_names_the_holder() -> None:
    holder, user = "AAAAAAAA-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000001"
    for message, holders in (
        (f"Subscription Id {holder} already exists for the requested combination", (holder.lower(),)),
        ("Subscription Id <> already exists for the requested combination", ()),
        (f"users/{user}/communications/callEvents is held by {holder}", (user, holder.lower())),
    ):
        found = error(409, message)
        assert isinstance(found, graph_errors.SubscriptionConflictError)
        assert found.holders == holders


def test_an_expiration_that_is_not_told_is_assumed() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for told in (None, "", 7, "tomorrow", "0001-01-01T00:00:00Z"):
        found = graph.parse_subscription(FOUND | {"expirationDateTime": told}, "t1", "v1.0", assumed=now)
        assert (found.expires, found.expires_told) == (now, False)
    assert graph.parse_subscription(FOUND, "t1", "v1.0", assumed=now).expires_told


@pytest.mark.parametrize("body", [None, "<html>", [], {}, {"error": "x"}, {"error": {"code": 1, "message": []}}])
def test_an_error_without_a_body_is_still_one(body: object) -> None:
    assert isinstance(graph_errors.error_of(403, body), graph_errors.PermissionDeniedError)


def test_no_key_of_ours_gets_into_a_message() -> None:
    found = error(400, "The url https://calls.example.com/api/notifications?code=sesame&mark=1 is not valid")
    assert "https://calls.example.com/api/notifications?… is not valid" in str(found)


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
    found = graph.parse_subscription(FOUND | {"encryptionCertificateId": "calls/1"}, "t1", "v1.0")
    assert found == graph.Subscription(
        id="s1",
        tenant_id="t1",
        api_version="beta",  # the row's own, wherever it was listed
        resource="/users/u1/communications/callEvents",
        change_type="updated",
        notification_url="https://calls.example.com/api/notifications",
        expires=datetime(2026, 1, 2, 0, 0, 0, 123456, tzinfo=UTC),
        certificate_id="calls/1",
    )
    assert found.kind is resources.CALL_EVENTS
    other = graph.parse_subscription(FOUND | {"resource": "users/u1/messages"}, "t1", "v1.0")
    assert (other.api_version, other.kind) == ("v1.0", None)


@pytest.mark.parametrize("nothing", [None, "", ...])
def test_a_subscription_of_which_graph_tells_little(nothing: object) -> None:
    told = {"id", "resource", "expirationDateTime"}
    fields = {name: value if name in told else nothing for name, value in FOUND.items()}
    found = graph.parse_subscription({name: v for name, v in fields.items() if v is not ...}, "t1", "v1.0")
    assert (found.change_type, found.notification_url, found.certificate_id) == ("", "", None)
    odd = graph.parse_subscription(FOUND | {"encryptionCertificateId": 7}, "t1", "v1.0")
    assert odd.certificate_id is None  # which is text


@pytest.mark.parametrize(
    ("value", "reason", "text"),
    [
        *(
            (value, "subscription-malformed", "not a subscription")
            for value in (
                *(None, [], {}, FOUND | {"id": ""}, FOUND | {"id": 7}, FOUND | {"resource": None}),
                FOUND | {"expirationDateTime": 7},
            )
        ),
        *(
            (FOUND | {"expirationDateTime": text}, "time-malformed", "not a time")
            for text in ("tomorrow", "", "2026-02-31T00:00:00Z", "0001-01-01T00:00:00+01:00")
        ),
    ],
)
def test_what_is_not_a_subscription(value: object, reason: str, text: str) -> None:
    with pytest.raises(MalformedInputError) as caught:
        graph.parse_subscription(value, "t1", "v1.0")
    assert (caught.value.reason, str(caught.value)) == (reason, text)


@pytest.mark.usefixtures("in_india")
@pytest.mark.parametrize(
    "text",
    ["2026-01-01T00:00:00", "2026-01-01T00:00:00Z", "2026-01-01T02:00:00+02:00", "2025-12-31T19:00:00.0000000-05:00"],
)
def test_times_are_utc_wherever_they_are_read(text: str) -> None:
    found = graph.parse_time(text)
    assert found == NOW
    assert found.utcoffset() == timedelta(0)
    assert graph.format_time(found + timedelta(microseconds=5)) == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(("identity", "path"), [(None, "/subscriptions"), ("s1", "/subscriptions/s1")])
def test_a_call_is_one_part_of_a_batch(identity: str | None, path: str) -> None:
    call = graph.Call("GET", "t1", "beta", True, identity)
    assert (call.path, call.channel) == (path, ("t1", "beta", True))


def test_no_secret_is_in_a_representation() -> None:
    found = graph.parse_subscription(FOUND | {"notificationUrl": "https://x.example/?code=sesame"}, "t1", "v1.0")
    call = graph.Call("POST", "t1", "beta", False, None, {"clientState": "sesame"})
    assert "sesame" not in repr((found, call))


def test_whoever_has_to_sign_in_is_told_how() -> None:
    found = graph_errors.SignInRequiredError()
    assert (found.reason, found.permanent) == ("sign-in-required", False)
    assert str(found) == "the sign-in for presence (run: manage.py login) is unavailable"
    assert "(run: manage.py login; it expired)" in str(graph_errors.SignInRequiredError("it expired"))
