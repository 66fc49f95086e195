"""What is said to Microsoft Graph about subscriptions, and what it answers: values, bodies and errors, no I/O.

Sources: the Graph pages "subscription resource type" (https://learn.microsoft.com/graph/api/resources/subscription),
"Create subscription" (https://learn.microsoft.com/graph/api/subscription-post-subscriptions), "Update subscription"
(https://learn.microsoft.com/graph/api/subscription-update), "Combine multiple HTTP requests using JSON batching"
(https://learn.microsoft.com/graph/json-batching) and "Microsoft Graph error responses and resource types"
(https://learn.microsoft.com/graph/errors).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, ClassVar, Final, Literal

from shared.values import resources
from shared.values.errors import MalformedInputError, SwitchboardError, UnavailableError
from shared.values.resource_row import ApiVersion, ResourceKind

API_VERSIONS: Final[tuple[ApiVersion, ...]] = ("v1.0", "beta")
BATCH_SIZE: Final = 20  # requests in a $batch, at most
SIGN_IN_REQUIRED: Final = "sign-in-required"
_LONGEST_WAIT: Final = 3600.0
_LIFETIME_MINUTES: Final = re.compile(r"can only be (\d+) minutes in the future", re.IGNORECASE)
_LIFETIME_SPAN: Final = re.compile(r"beyond allowed max '(?:(\d+)\.)?(\d+):(\d+):(\d+)", re.IGNORECASE)
_INNER_STATUS: Final = re.compile(r"Status Code: (\w+)")
_INNER_STATUSES: Final = {
    status.phrase.replace(" ", "").casefold(): status.value for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST
}
_FOR_THIS_ONE: Final = re.compile(r"does not match the token tenant", re.IGNORECASE)  # a meeting of somebody else's
_TRANSCRIPTS_OFF: Final = "GraphAccessToTranscriptsDisabled"  # the code of innerError
_QUOTA: Final = re.compile(r"\b(limit|quota|maximum|exceed\w*)\b", re.IGNORECASE)
_LIMIT: Final = re.compile(r"\blimit of '?(\d+)", re.IGNORECASE)
_OF_ORGANIZATION: Final = re.compile(r"\b(tenant|organi[sz]ation)\b", re.IGNORECASE)
_HANDSHAKE: Final = re.compile(
    r"validation request (failed|timed out)|validation of the (notification|endpoint)", re.IGNORECASE
)
_GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_QUERY: Final = re.compile(r"\?[^\s\"']+")


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as Graph describes it, or, where it is `remembered`, by what we sent to make and renew it.

    `certificate_id` is None where Graph does not say: for a basic subscription, or where an answer leaves it out.
    `life` is what Graph granted at the last renewal, None where that is not known. `kept_certificate` is the id of a
    certificate that Graph did not take in a renewal. `sent` says that the resource is, to the letter, what we asked for
    when we made it. `spelling` is the resource as Graph spells it. `expires_told` is False where Graph left the
    expiration out, and `expires` is an assumption.
    """

    id: str
    tenant_id: str
    api_version: ApiVersion
    resource: str
    change_type: str
    notification_url: str = field(repr=False)  # may carry a function key
    expires: datetime
    certificate_id: str | None = None
    life: timedelta | None = field(default=None, compare=False)
    kept_certificate: str | None = field(default=None, compare=False)
    spelling: str | None = field(default=None, compare=False)
    remembered: bool = field(default=False, compare=False)
    sent: bool = field(default=False, compare=False)
    expires_told: bool = field(default=True, compare=False)

    @property
    def kind(self) -> ResourceKind | None:
        """The row of the catalogue, or None where no row knows the resource."""
        return resources.match(self.resource)


@dataclass(frozen=True, slots=True)
class Call:
    """One request about subscriptions: a part of a batch.

    `subscription_id` is None for the collection itself (POST). `delegated` asks for a signed-in user's token. `expires`
    is the end of the subscription that it is about: how long the call may be put off depends on it.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    tenant_id: str
    api_version: ApiVersion
    delegated: bool
    subscription_id: str | None = None
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    expires: datetime | None = field(default=None, compare=False)

    @property
    def channel(self) -> tuple[str, ApiVersion, bool]:
        """Calls of one channel can share a batch."""
        return self.tenant_id, self.api_version, self.delegated

    @property
    def path(self) -> str:
        """The URL of the batch part, relative to the API version."""
        return "/subscriptions" if self.subscription_id is None else f"/subscriptions/{self.subscription_id}"


class GraphError(SwitchboardError):
    """Graph understood the request and will not do it; asking the same again will not help."""

    reason_of_class: ClassVar[str] = "rejected"

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=self.reason_of_class)


class RequestRejectedError(GraphError):
    """400 or another status that no other leaf explains."""


class UnchangedError(GraphError):
    """200, and the expiration is as it was (microsoftgraph/microsoft-graph-docs, issue 9421)."""

    reason_of_class = "unchanged"

    def __init__(self) -> None:
        super().__init__("Graph answered a renewal without prolonging anything")


class UnseenError(GraphError):
    """What was made again and again is not to be seen: no more of it until some time has passed."""

    reason_of_class = "unseen"

    def __init__(self, until: datetime) -> None:
        super().__init__(
            f"what was made of it is neither listed nor read: nothing more is made until {until:%H:%M} UTC"
        )


class LifetimeExceededError(GraphError):
    """400: the expiration lies further ahead than Graph allows; `maximum` is what it allows."""

    reason_of_class = "lifetime"

    def __init__(self, message: str, maximum: timedelta) -> None:
        super().__init__(message)
        self.maximum = maximum


class EndpointValidationError(GraphError):
    """400: our own endpoint did not answer the validation handshake to Graph's liking."""

    reason_of_class = "endpoint-validation"


class PermissionDeniedError(GraphError):
    """403: the application lacks the resource's permission in that tenant, or an administrator's consent."""

    reason_of_class = "permission"


class TranscriptAccessError(GraphError):
    """403: the tenant's administrators do not let Graph have transcripts, which is so until they say otherwise.

    Source: "Manage Graph API access to meeting transcripts"
    (https://learn.microsoft.com/microsoftteams/meeting-transcript-api-access).
    """

    reason_of_class = "transcript-access"
    REMEDY: ClassVar[str] = (
        "a Teams administrator has to let Graph have transcripts: in the Teams admin center, Meetings, Meeting "
        "settings, Transcript API access, or with Set-CsTeamsMeetingConfiguration -Identity Global "
        "-EnableGraphTranscriptAccess $true (it takes up to an hour, and is noticed by itself)"
    )

    def __init__(self) -> None:
        super().__init__(f"this tenant does not let Graph have transcripts; {self.REMEDY}")


class QuotaExceededError(GraphError):
    """403: there are as many subscriptions of this sort as Graph allows.

    `limit` is how many, None where Graph does not say; `of_organization` is whether it names the organization.
    """

    reason_of_class = "quota"

    def __init__(self, message: str, *, limit: int | None = None, of_organization: bool = False) -> None:
        super().__init__(message)
        self.limit = limit
        self.of_organization = of_organization


class NotFoundError(GraphError):
    """404: there is no such thing, or not for this application."""

    reason_of_class = "not-found"


class SubscriptionConflictError(GraphError):
    """409: another subscription holds the place.

    `holders` are the ids in Graph's message: one may be the holder's, and the others a user's or a tenant's.
    """

    reason_of_class = "conflict"

    def __init__(self, message: str, *holders: str) -> None:
        super().__init__(message)
        self.holders = holders


class PathLimitError(SubscriptionConflictError):
    """403: the subscriptions that Graph allows to one path are there; it does not say which they are.

    With `all_apps` these are several applications', and none of ours has to be among them.
    """

    reason_of_class = "quota"

    def __init__(self, message: str, *, all_apps: bool) -> None:
        super().__init__(message)
        self.all_apps = all_apps


class OutcomeUnknownError(UnavailableError):
    """The request may or may not have been carried out: a time-out, a broken connection, a 500, 502 or 504."""

    def __init__(self, what: str = "Graph") -> None:
        super().__init__(what, reason="outcome-unknown")


class CredentialError(UnavailableError):
    """No token was to be had for a tenant: Entra ID is down, the identity is not set up, or nobody is signed in."""

    def __init__(self, what: str) -> None:
        super().__init__(what, reason="credential")


class UnauthorizedError(CredentialError):
    """401: Graph, or the service behind it, does not take the token."""

    def __init__(self, said: str) -> None:
        super().__init__("Graph's consent")
        self.args = (f"Graph did not take the token: {said}",)


class SignInRequiredError(CredentialError):
    """Presence needs somebody who is signed in, and nobody is, or not any more: an operator can mend that."""

    def __init__(self, why: str | None = None) -> None:
        super().__init__(f"the sign-in for presence (run: manage.py login{'' if why is None else f'; {why}'})")
        self.reason = SIGN_IN_REQUIRED


class SignedInListError(UnavailableError):
    """The application's subscriptions were listed to the end, and those of who is signed in could not be."""

    def __init__(self, error: SwitchboardError) -> None:
        super().__init__("the list of the signed-in user's subscriptions", reason=error.reason)
        self.args = (f"the signed-in user's subscriptions cannot be listed: {error}",)


type Reply = Subscription | SwitchboardError | None
"""What comes of a call: the subscription (GET, POST, PATCH), None (DELETE), or why not."""


def parse_subscription(
    value: object, tenant_id: str, listed_in: ApiVersion, *, assumed: datetime | None = None
) -> Subscription:
    """Read a subscription as Graph returns it.

    Args:
        value: the decoded JSON.
        tenant_id: the tenant of the token that it was read with; Graph does not say it.
        listed_in: the API version that it was read from. A resource of the catalogue is spoken of in its own version.
        assumed: the expiration to go by where Graph tells none that can be read.

    Raises:
        MalformedInputError: it lacks an id, a resource, or a readable expiration in place of which none is assumed.
    """
    fields = value if isinstance(value, Mapping) else {}
    identity, resource = fields.get("id"), fields.get("resource")
    certificate_id = fields.get("encryptionCertificateId")
    told = _expiration(fields.get("expirationDateTime"), needed=assumed is None)
    expires = told or assumed
    if not (isinstance(identity, str) and identity and isinstance(resource, str) and expires is not None):
        raise MalformedInputError("not a subscription", reason="subscription-malformed")
    kind = resources.match(resource)
    return Subscription(
        id=identity,
        tenant_id=tenant_id,
        api_version=listed_in if kind is None else kind.form(resource).version_near(listed_in),
        resource=resource,
        change_type=str(fields.get("changeType") or ""),
        notification_url=str(fields.get("notificationUrl") or ""),
        expires=expires,
        certificate_id=certificate_id if isinstance(certificate_id, str) and certificate_id else None,
        expires_told=told is not None,
    )


def _expiration(value: object, *, needed: bool) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        return parse_time(value)
    except MalformedInputError:
        if needed:
            raise
        return None


def parse_time(text: str) -> datetime:
    """Read Graph's ISO 8601, with any number of decimals; without an offset it is UTC.

    Raises:
        MalformedInputError: it is not a time.
    """
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the first hours of the year 1, east of Greenwich, are before it
        raise MalformedInputError("not a time", reason="time-malformed") from error


def format_time(moment: datetime) -> str:
    """Write a time as Graph takes it, in whole seconds of UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_retry_after(value: object, now: datetime) -> float | None:
    """Read a Retry-After header, in seconds or as a date; None where there is none that can be read."""
    if not isinstance(value, str | int | float):
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(str(value)) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None  # noqa: PLR0124 - NaN


def error_of(status: int, body: object, retry_after: float | None = None) -> SwitchboardError:  # noqa: PLR0911 - a table
    """Turn an error answer into the leaf that says what to do about it.

    Args:
        status: the HTTP status, 300 or higher.
        body: the decoded JSON, ``{"error": {"code", "message"}}`` if all is well.
        retry_after: seconds, where Graph asked for a pause.
    """
    code, message = _code_and_message(body)
    inner = _INNER_STATUS.search(message)
    if status in {400, 500} and inner is not None:  # ExtensionError: what a workload answered, wrapped
        status = _INNER_STATUSES.get(inner[1].casefold(), status)
    text = f"{status} {code}: {message}".strip()
    match status:
        case 429:
            return UnavailableError("Graph", reason="throttled", retry_after=retry_after)
        case 503:
            return UnavailableError("Graph", retry_after=retry_after)
        case 401:
            return UnauthorizedError(text)
        case 403 if _TRANSCRIPTS_OFF in text:
            return TranscriptAccessError()
        case 403 if _FOR_THIS_ONE.search(message):
            return RequestRejectedError(text)
        case 403 if _QUOTA.search(message):
            limit, of_organization = _LIMIT.search(message), _OF_ORGANIZATION.search(message) is not None
            return QuotaExceededError(
                text, limit=None if limit is None else int(limit[1]), of_organization=of_organization
            )
        case 403:
            return PermissionDeniedError(text)
        case 404 | 410:
            return NotFoundError(text)
        case 409:
            return SubscriptionConflictError(text, *dict.fromkeys(guid.lower() for guid in _GUID.findall(message)))
        case _ if status >= 500 or status == 408:
            return OutcomeUnknownError()
    if (maximum := _allowed_lifetime(message)) is not None:
        return LifetimeExceededError(text, maximum)
    return EndpointValidationError(text) if _HANDSHAKE.search(message) else RequestRejectedError(text)


def _code_and_message(body: object) -> tuple[str, str]:
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return "", ""
    code, message = _words(error)
    inner = error.get("innerError", error.get("innererror"))
    if isinstance(inner, Mapping):
        said = ": ".join(word for word in _words(inner) if word and word not in {code, message})
        message = f"{message} ({said})" if said else message
    return code, message


def _words(error: Mapping[str, Any]) -> tuple[str, str]:
    # A message may repeat our notification URL, whose query may carry a function key.
    return str(error.get("code") or "")[:100], _QUERY.sub("?…", str(error.get("message") or ""))[:500]


def _allowed_lifetime(message: str) -> timedelta | None:
    if match := _LIFETIME_MINUTES.search(message):
        return timedelta(minutes=int(match[1]))
    if match := _LIFETIME_SPAN.search(message):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return None
