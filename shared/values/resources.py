"""The catalogue: one row for each Microsoft Graph resource that Switchboard knows.

Matching, desired state, lifetimes, API versions, permissions, queues and event types all follow from this table, and so
do the names that the templates deploy, the tables of the documents and the traffic of the demo (`dev.catalogue`).

Sources: "subscription resource type" for lifetimes (https://learn.microsoft.com/graph/api/resources/subscription),
"Create subscription" for permissions (https://learn.microsoft.com/graph/api/subscription-post-subscriptions), and the
pages on change notifications of calls, meetings, call records, emergency calls, presence and online meetings.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from shared.values.call_artifacts import artifact_row
from shared.values.resource_row import (
    JOIN_URL,
    KEY,
    POLICY,
    USER,
    ApiVersion,
    EventType,
    Gather,
    PathForm,
    ResourceKind,
    Rich,
    normal_path,
)

RAW_QUEUE: Final = "raw-notifications"
EMERGENCY_QUEUE: Final = "raw-emergency"
LIFECYCLE_QUEUE: Final = "lifecycle-notifications"
CALL_RECORDS_QUEUE: Final = "raw-call-records"
"""For what takes its time, so that no call waits behind it: records that are fetched, and those of a gap."""

UNRECOGNIZED_QUEUE: Final = "unrecognized-events"
UNRECOGNIZED: Final = "Microsoft.Graph.Unrecognized"
"""The type of an event that no row has a type for."""

_CACHED_CHARS: Final = 512  # of a path; what is remembered of other people's paths has a bound in bytes by that


def call_records_path(*participants: str) -> str:
    """All call records, or those with one of the participants (Graph's filter on a callRecords subscription)."""
    if not participants:
        return "communications/callRecords"
    if len(participants) == 1:
        condition = f"p/id eq '{participants[0]}'"
    else:
        condition = f"p/id in ({','.join(f"'{participant}'" for participant in participants)})"
    return f"communications/callRecords?$filter=participants/any(p:{condition})"


def meeting_call_events_path(join_web_url: str) -> str:
    """The resource of a meeting's call events; `join_web_url` as Graph gives it, which is encoded once more here."""
    return f"communications/onlineMeetings(joinWebUrl='{quote(join_web_url, safe='')}')/meetingCallEvents"


def online_meeting_path(join_web_url: str) -> str:
    """The resource of an online meeting; `join_web_url` as Graph gives it."""
    return f"communications/onlineMeetings/?$filter=JoinWebUrl eq '{join_web_url}'"


def call_events_path(user_id: str) -> str:
    return f"users/{user_id}/communications/callEvents"


def emergency_path(policy_name: str) -> str:
    """The resource of a policy's emergency calls; a quote in the name is doubled, as OData strings want it."""
    return f"communications/calls/getEmergencyEventsByPolicy(policyName='{policy_name.replace("'", "''")}')"


def presence_path(user_ids: tuple[str, ...]) -> str:
    """The resource of up to 650 users' presence."""
    if len(user_ids) == 1:
        return f"communications/presences/{user_ids[0]}"
    listed = ",".join(f"'{user_id}'" for user_id in user_ids)
    return f"communications/presences?$filter=id in ({listed})"


_MEETING_STARTED: Final = EventType(
    "Microsoft.Graph.MeetingCallStarted", "MeetingCallEventData", "The call of a subscribed meeting has started."
)
_MEETING_ENDED: Final = EventType(
    "Microsoft.Graph.MeetingCallEnded", "MeetingCallEventData", "The call of a subscribed meeting has ended."
)
_MEETING_ROSTER: Final = EventType(
    "Microsoft.Graph.MeetingRosterUpdated",
    "MeetingCallEventData",
    "Participants of a subscribed meeting's call have come, gone or changed.",
)
_MEETING_TYPES: Final = {
    "callstarted": _MEETING_STARTED,
    "callended": _MEETING_ENDED,
    "rosterupdated": _MEETING_ROSTER,
    "callrosterupdate": _MEETING_ROSTER,  # the older spelling on onlineMeeting payloads
    "callrosterupdated": _MEETING_ROSTER,
    "recordingstateupdated": EventType(
        "Microsoft.Graph.MeetingRecordingStateUpdated",
        "MeetingCallEventData",
        "Recording of a subscribed meeting has begun or ended; so far in Graph's metadata alone.",
    ),
    "transcriptionstateupdated": EventType(
        "Microsoft.Graph.MeetingTranscriptionStateUpdated",
        "MeetingCallEventData",
        "Transcription of a subscribed meeting has begun or ended; so far in Graph's metadata alone.",
    ),
}
_CALL_ROSTER: Final = EventType(
    "Microsoft.Graph.CallRosterUpdated",
    "CallEventData",
    "Participants of a subscribed user's call have come, gone or changed.",
)

CALL_RECORDS: Final = ResourceKind(
    key="callRecords",
    sentence="Call records of the whole organization, or of the calls with certain participants.",
    forms=(
        PathForm(
            pattern=r"communications/+callrecords/*\?",
            path=call_records_path,
            api_versions=("v1.0",),
            permission="CallRecords.Read.All",
            key="participants",
            value=USER,
            gather=Gather.ENTRY,
            most=50,  # keeps the resource within what fits a URL everywhere
        ),
        PathForm(
            pattern=r"communications/+callrecords(?![a-z])",
            path=call_records_path,
            api_versions=("v1.0",),
            permission="CallRecords.Read.All",
        ),
    ),
    rich=Rich.NEVER,
    max_lifetime=timedelta(minutes=4230),
    change_type="created,updated",
    events_queue="call-record-events",
    raw_queue=RAW_QUEUE,
    odata_types=frozenset({"microsoft.graph.callrecord", "microsoft.graph.callrecords.callrecord"}),
    id_pattern=r"callRecords(?:/|\(')([0-9A-Za-z_-]{1,128})(?:'\))?$",
    typed_by_change=True,
    is_fetchable=True,
    event_types={
        "created": EventType(
            "Microsoft.Graph.CallRecordCreated", "CallRecordData", "A call record can be read from Graph."
        ),
        "updated": EventType(
            "Microsoft.Graph.CallRecordUpdated",
            "CallRecordData",
            "A call record has changed, or can be read for the first time.",
        ),
    },
)
CALL_EVENTS: Final = ResourceKind(
    key="callEvents",
    sentence="Calls of single users, and of everybody in a group: start, end and roster.",
    forms=(
        PathForm(
            pattern=r"users(?![a-z]).*/communications/+callevents",
            path=call_events_path,
            api_versions=("beta",),
            permission="CallEvents.Read.All",
            key="users",
            value=USER,
            group_key="groups",
        ),
    ),
    rich=Rich.ALWAYS,
    max_lifetime=timedelta(days=1),
    change_type="updated",
    events_queue="call-events",
    raw_queue=RAW_QUEUE,
    # No `odata_types`: callEvent is the type of two rows, and the resource path alone tells them apart.
    event_types={
        "callstarted": EventType(
            "Microsoft.Graph.CallStarted", "CallEventData", "A call of a subscribed user has started."
        ),
        "callended": EventType("Microsoft.Graph.CallEnded", "CallEventData", "A call of a subscribed user has ended."),
        "rosterupdated": _CALL_ROSTER,
        "callrosterupdate": _CALL_ROSTER,
        "callrosterupdated": _CALL_ROSTER,
        "recordingstateupdated": EventType(
            "Microsoft.Graph.CallRecordingStateUpdated",
            "CallEventData",
            "Recording of a subscribed user's call has begun or ended; so far in Graph's metadata alone.",
        ),
        "transcriptionstateupdated": EventType(
            "Microsoft.Graph.CallTranscriptionStateUpdated",
            "CallEventData",
            "Transcription of a subscribed user's call has begun or ended; so far in Graph's metadata alone.",
        ),
    },
)
MEETING_CALL_EVENTS: Final = ResourceKind(
    key="meetingCallEvents",
    sentence="Calls of single meetings: start, end and roster.",
    forms=(
        PathForm(
            pattern=r"communications/+onlinemeetings.*/meetingcallevents",
            path=meeting_call_events_path,
            api_versions=("beta",),
            permission="OnlineMeetings.Read.All",
            key="joinWebUrls",
            value=JOIN_URL,
        ),
    ),
    rich=Rich.OPTIONAL,  # basic ones exist, but no API resolves the id that they carry: subscribe to rich ones
    max_lifetime=timedelta(minutes=4230),  # "three days" on one page, 4,230 minutes in the table: the lower one
    change_type="updated",
    events_queue="meeting-events",
    raw_queue=RAW_QUEUE,
    event_types=_MEETING_TYPES,
)
EMERGENCY_CALL_EVENTS: Final = ResourceKind(
    key="emergencyCallEvents",
    sentence="Emergency calls under an emergency calling policy.",
    forms=(
        PathForm(
            pattern=r"communications/+calls/+getemergencyeventsbypolicy",
            path=emergency_path,
            api_versions=("beta",),
            permission="CallEvents-Emergency.Read.All",
            key="policies",
            value=POLICY,
        ),
    ),
    rich=Rich.ALWAYS,
    max_lifetime=timedelta(days=1),
    change_type="updated",
    events_queue="emergency-call-events",
    raw_queue=EMERGENCY_QUEUE,
    odata_types=frozenset({"microsoft.graph.emergencycallevent"}),
    event_types={
        "callstarted": EventType(
            "Microsoft.Graph.EmergencyCallStarted",
            "EmergencyCallEventData",
            "A user under a subscribed emergency calling policy has made an emergency call.",
        ),
        "callended": EventType(
            "Microsoft.Graph.EmergencyCallEnded",
            "EmergencyCallEventData",
            "Such an emergency call has ended. Graph documents no such event so far.",
        ),
    },
)
PRESENCE: Final = ResourceKind(
    key="presence",
    sentence="Presence of up to 650 users of a tenant, by the sign-in of somebody who may read it.",
    forms=(
        PathForm(
            pattern=r"communications/+presences(?![a-z])",
            path=lambda *user_ids: presence_path(user_ids),
            api_versions=("v1.0",),
            permission="Presence.Read.All",
            key="users",
            value=USER,
            # Graph allows an application one presence subscription for each signed-in user, of 650 users ("Change
            # notifications for presence", https://learn.microsoft.com/graph/changenotifications-for-presence).
            gather=Gather.TENANT,
            most=650,
        ),
    ),
    rich=Rich.OPTIONAL,
    rich_is_choice=True,
    max_lifetime=timedelta(minutes=60),
    delegated_only=True,
    change_type="updated",
    events_queue="presence-events",
    raw_queue=RAW_QUEUE,
    odata_types=frozenset({"microsoft.graph.presence"}),
    event_types={
        "": EventType("Microsoft.Graph.PresenceUpdated", "PresenceData", "A subscribed user's presence has changed.")
    },
)
ONLINE_MEETING: Final = ResourceKind(
    key="onlineMeeting",
    sentence="Single meetings, in Graph's older form.",
    forms=(
        PathForm(
            # The meeting itself, and nothing that belongs to it or is a function of all meetings.
            pattern=rf"communications/+onlinemeetings(?!/+getall)(?:{KEY})?/*(?:\?|$)",
            path=online_meeting_path,
            api_versions=("beta",),
            permission="OnlineMeetings.Read.All",
            key="joinWebUrls",
            value=JOIN_URL,
        ),
    ),
    rich=Rich.OPTIONAL,
    rich_is_choice=True,
    max_lifetime=timedelta(minutes=4230),
    change_type="updated",
    events_queue="online-meeting-events",
    raw_queue=RAW_QUEUE,
    odata_types=frozenset({"microsoft.graph.onlinemeeting"}),
    event_types={
        **_MEETING_TYPES,
        "": EventType(
            "Microsoft.Graph.OnlineMeetingUpdated",
            "OnlineMeetingData",
            "A subscribed online meeting has changed in a way that is not one of its call.",
        ),
    },
)


TRANSCRIPTS: Final = artifact_row(
    "transcripts",
    "getAllTranscripts",
    EventType(
        "Microsoft.Graph.CallTranscriptCreated", "CallTranscriptData", "A transcript of a call or meeting can be read."
    ),
    "OnlineMeetingTranscript.Read.All",
    "CallTranscripts.Read.All",
    raw_queue=RAW_QUEUE,
)
RECORDINGS: Final = artifact_row(
    "recordings",
    "getAllRecordings",
    EventType(
        "Microsoft.Graph.CallRecordingCreated", "CallRecordingData", "A recording of a call or meeting can be read."
    ),
    "OnlineMeetingRecording.Read.All",
    "CallRecordings.Read.All",
    raw_queue=RAW_QUEUE,
)

SELF_TEST: Final = ResourceKind(
    key="selfTest",
    sentence="What Switchboard sends to itself.",
    forms=(PathForm(pattern="switchboard/selftest/", path=str, api_versions=("v1.0",), permission=""),),
    rich=Rich.OPTIONAL,
    max_lifetime=timedelta(0),
    change_type="created",
    events_queue="self-test-events",
    raw_queue=RAW_QUEUE,
    event_types={"": EventType("Switchboard.SelfTest", "Any", "Switchboard has tested itself.")},
)
"""No resource of Graph's, and so not in the catalogue."""

CATALOGUE: Final[Mapping[str, ResourceKind]] = {
    kind.key: kind
    for kind in (
        CALL_RECORDS,
        CALL_EVENTS,
        MEETING_CALL_EVENTS,
        EMERGENCY_CALL_EVENTS,
        PRESENCE,
        ONLINE_MEETING,
        TRANSCRIPTS,
        RECORDINGS,
    )
}

EVENT_QUEUES: Final = (*(kind.events_queue for kind in CATALOGUE.values()), UNRECOGNIZED_QUEUE)
RAW_QUEUES: Final = (RAW_QUEUE, EMERGENCY_QUEUE, LIFECYCLE_QUEUE, CALL_RECORDS_QUEUE)
DELEGATED: Final = tuple(kind for kind in CATALOGUE.values() if kind.delegated_only)
DELEGATED_VERSIONS: Final[tuple[ApiVersion, ...]] = tuple(
    dict.fromkeys(version for kind in DELEGATED for form in kind.forms for version in form.api_versions)
)
"""The API versions in which there are subscriptions of signed-in users."""


def match(resource: object, odata_type: object = None) -> ResourceKind | None:
    """Find the row of a notification by its `resource` path, else by its `resourceData`'s `@odata.type`.

    Args:
        resource: the path as Graph sent it; a leading slash, letter case and quoting style do not matter.
        odata_type: with or without ``#``, in any case.

    Returns:
        The row, or None where no row knows it.
    """
    if isinstance(resource, str):
        path = normal_path(resource)
        kind = _match_known_path(path) if len(path) <= _CACHED_CHARS else _match_path(path)
        if kind is not None:
            return kind
    if isinstance(odata_type, str):
        name = odata_type.lstrip("#").lower()
        for kind in CATALOGUE.values():
            if name in kind.odata_types:
                return kind
    return None


def _match_path(path: str) -> ResourceKind | None:
    return next((kind for kind in (*CATALOGUE.values(), SELF_TEST) if kind.matches(path)), None)


_match_known_path = lru_cache(maxsize=1024)(_match_path)  # a subscription's notifications all name the same few


def odata_type_of(resource_data: object) -> Any:
    """`@odata.type` of a resource-data object, whatever that is; None where there is none."""
    return resource_data.get("@odata.type") if isinstance(resource_data, dict) else None
