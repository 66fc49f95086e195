"""What Graph allows for each resource, and the errors with which it refuses the rest.

Sources: Graph, "subscription resource type", "Create subscription", "Change notifications overview", "Receive change
notifications through webhooks", and the page of each resource.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any, Final
from urllib.parse import unquote


class GraphError(Exception):
    """A refusal of Graph's; `retry_after` in seconds, `inner` the code of its `innerError`."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int | None = None, inner: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after, self.inner = status, code, message, retry_after, inner


class Unique(Enum):
    """Of what there may be one subscription only, besides app and tenant."""

    CHANGE_TYPE_AND_RESOURCE = "changeType+resource"
    RESOURCE = "resource"
    USER = "user"


_BOTH: Final = frozenset({"v1.0", "beta"})
_BETA: Final = frozenset({"beta"})
_UPDATED: Final = frozenset({"updated"})
_MINUTES_4230: Final = timedelta(minutes=4230)
_DAY: Final = timedelta(days=1)
_EITHER: Final = frozenset({True, False})


@dataclass(frozen=True)
class ResourceRule:
    """One kind of resource. `rich` is what `includeResourceData` may be; `quota` names the limit that it counts for."""

    name: str
    pattern: re.Pattern[str]
    permission: str
    versions: frozenset[str] = _BETA
    rich: frozenset[bool] = _EITHER
    max_lifetime: timedelta = _MINUTES_4230
    change_types: frozenset[str] = _UPDATED
    delegated: bool = False
    unique: Unique = Unique.RESOURCE
    quota: str = "teams"
    teams: bool = False
    """Whether lifecycleNotificationUrl is demanded above an hour. The samples for meetings and emergency calls omit it,
    so for those the switch `GraphSettings.lifecycle_url_everywhere` decides."""
    limited: bool = False
    """Whether a second one is a limit that has been reached, 403, and no conflict, 409."""
    most: int | None = None
    """How many there may be to one path, of all applications together; more are a limit that has been reached."""
    of_transcripts: bool = False
    """Whether the tenant's switch for transcripts decides (`GraphSettings.transcript_access`)."""


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(rf"/?{text}", re.IGNORECASE)


def _made_of_calls(name: str, function: str, segment: str, of_meetings: str, of_calls: str) -> tuple[ResourceRule, ...]:
    """The rules for transcripts or recordings.

    Source: "Get change notifications for transcripts and recordings using Microsoft Graph"
    (https://learn.microsoft.com/graph/teams-changenotifications-callrecording-and-calltranscript); the lifetimes are of
    "subscription resource type", and that v1.0 knows ad hoc calls of a user is of "What's new in Microsoft Graph". The
    limits are of "Change notifications overview" (https://learn.microsoft.com/graph/change-notifications-overview):
    1 per app and meeting, 1 per app and user, 10 per user for those of all meetings that the user organizes.
    """

    def rule(path: str, versions: frozenset[str], permission: str, most: int | None = None) -> ResourceRule:
        return ResourceRule(
            name=name,
            pattern=_pattern(path),
            versions=versions,
            rich=_EITHER,
            max_lifetime=timedelta(minutes=4320),
            change_types=frozenset({"created"}),
            permission=permission,
            delegated=False,
            unique=Unique.RESOURCE,
            quota="teams",
            teams=True,
            limited=True,
            most=most,
            of_transcripts=segment == "transcripts",
        )

    return (
        rule(rf"communications/onlineMeetings/{function}", _BOTH, of_meetings),
        rule(rf"users/[^/]+/onlineMeetings/{function}", _BOTH, of_meetings, most=10),
        rule(rf"communications/onlineMeetings/[^/()]+/{segment}", _BOTH, of_meetings),
        rule(rf"communications/adhocCalls/{function}", _BETA, of_calls),
        rule(rf"users/[^/]+/adhocCalls/{function}", _BOTH, of_calls),
    )


RULES: Final = (
    *_made_of_calls(
        "transcripts",
        "getAllTranscripts",
        "transcripts",
        "OnlineMeetingTranscript.Read.All",
        "CallTranscripts.Read.All",
    ),
    *_made_of_calls(
        "recordings", "getAllRecordings", "recordings", "OnlineMeetingRecording.Read.All", "CallRecordings.Read.All"
    ),
    ResourceRule(
        name="callRecords",
        pattern=_pattern(r"communications/callRecords/?(\?\$filter=.+)?"),
        versions=_BOTH,
        rich=frozenset({False}),
        change_types=frozenset({"created", "updated"}),
        permission="CallRecords.Read.All",
        unique=Unique.CHANGE_TYPE_AND_RESOURCE,
        quota="callRecords",
        teams=True,
    ),
    ResourceRule(
        name="callEvents",
        pattern=_pattern(r"users/[^/]+/communications/callEvents"),
        rich=frozenset({True}),
        max_lifetime=_DAY,
        permission="CallEvents.Read.All",
        unique=Unique.CHANGE_TYPE_AND_RESOURCE,
        teams=True,
    ),
    ResourceRule(
        name="meetingCallEvents",
        pattern=_pattern(r"communications/onlineMeetings\(joinWebUrl='(?P<url>[^']+)'\)/meetingCallEvents"),
        permission="OnlineMeetings.Read.All",
    ),
    ResourceRule(
        name="emergencyCallEvents",
        pattern=_pattern(r"communications/calls/getEmergencyEventsByPolicy\(policyName='[^']+'\)"),
        versions=_BOTH,
        rich=frozenset({True}),
        max_lifetime=_DAY,
        permission="CallEvents-Emergency.Read.All",
    ),
    ResourceRule(
        name="presence",
        pattern=_pattern(r"communications/presences(/[^/?]+|\?\$filter=id in \((?P<ids>.+)\))"),
        versions=_BOTH,
        max_lifetime=timedelta(minutes=60),
        permission="Presence.Read.All",
        delegated=True,
        unique=Unique.USER,
        teams=True,
    ),
    ResourceRule(
        name="onlineMeeting",
        pattern=_pattern(r"communications/onlineMeetings/?\?\$filter=JoinWebUrl eq '(?P<url>[^']+)'"),
        permission="OnlineMeetings.Read.All",
    ),
)
_MAX_PRESENCES: Final = 650
_MAX_CLIENT_STATE: Final = 128
_MAX_CERTIFICATE_ID: Final = 128
_REQUIRED: Final = ("changeType", "notificationUrl", "resource", "expirationDateTime")


def bad_request(message: str, code: str = "InvalidRequest") -> GraphError:
    """A 400."""
    return GraphError(400, code, message)


def rule_for(resource: str, version: str) -> ResourceRule:
    """The rule for `resource` under an API version.

    Raises:
        GraphError: 400, an unknown resource, one that this version does not know, or an ill-formed one.
    """
    for rule in RULES:
        match = rule.pattern.fullmatch(resource)
        if match is None:
            continue
        if version not in rule.versions:
            raise bad_request(f"Resource '{rule.name}' is not supported on {version}.")
        named = match.groupdict()
        if (named.get("ids") or "").count("','") >= _MAX_PRESENCES:
            raise bad_request(f"No more than {_MAX_PRESENCES} presences can be subscribed to at once.")
        if "url" in named and not _is_join_url(named["url"], encoded=rule.name == "meetingCallEvents"):
            raise bad_request("The meeting join url in subscription is not valid.")
        return rule
    raise bad_request(f"Resource '{resource}' is not supported for subscriptions.")


def _is_join_url(text: str, *, encoded: bool) -> bool:
    # The join URL is encoded once more inside the key of the resource; decoding once gives it back.
    return (unquote(text) if encoded else text).startswith("https://") and not (encoded and "/" in text)


def check_body(body: Any, rule: ResourceRule) -> None:
    """Check the fields of a new subscription against its rule.

    Raises:
        GraphError: 400, what is wrong.
    """
    changes = {word.strip() for word in str(body["changeType"]).split(",")}
    if not changes <= rule.change_types:
        raise bad_request(f"The change type '{body['changeType']}' is not supported for {rule.name}.")
    rich = body.get("includeResourceData") is True
    if rich not in rule.rich:
        word = "not supported" if rich else "required"
        raise bad_request(f"includeResourceData is {word} for {rule.name}.")
    if rich:
        for name in ("encryptionCertificate", "encryptionCertificateId"):
            if not body.get(name):
                raise bad_request(f"{name} is required when includeResourceData is true.")
    if len(body.get("encryptionCertificateId") or "") > _MAX_CERTIFICATE_ID:
        raise bad_request("encryptionCertificateId must not exceed 128 characters.")
    if len(body.get("clientState") or "") > _MAX_CLIENT_STATE:
        raise bad_request("clientState must not exceed 128 characters.")


def check_required(body: Any) -> None:
    """Check that a new subscription's body is an object with all required fields as strings.

    Raises:
        GraphError: 400, what is missing.
    """
    if not isinstance(body, dict):
        raise bad_request("The request body must be a JSON object.", "BadRequest")
    for name in _REQUIRED:
        if not isinstance(body.get(name), str) or not body[name]:
            raise bad_request(f"The property '{name}' is required.")
    texts = ("clientState", "encryptionCertificate", "encryptionCertificateId", "lifecycleNotificationUrl")
    for name in texts:
        if not isinstance(body.get(name), str | None):
            raise bad_request(f"The property '{name}' must be a string.")
