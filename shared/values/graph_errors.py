"""Why Microsoft Graph did not do what it was asked, each error with what that means for a subscription.

Source: "Microsoft Graph error responses and resource types" (https://learn.microsoft.com/graph/errors), and the pages
that `shared.values.graph` names.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, ClassVar, Final

from shared.values.errors import SwitchboardError, UnavailableError

SIGN_IN_REQUIRED: Final = "sign-in-required"
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
