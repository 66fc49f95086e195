"""The catalogue: one row for each Microsoft Graph resource that Switchboard knows.

Matching, lifetimes, API version, permissions, queues and event types all follow from this table.

Sources: the Graph pages "subscription resource type" (lifetimes), "Create subscription" (permissions), and the
change-notification pages for calls, meetings, call records, emergency calls, presence and online meetings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, Literal
from urllib.parse import quote

RAW_QUEUE: Final = "raw-notifications"
EMERGENCY_QUEUE: Final = "raw-emergency"
LIFECYCLE_QUEUE: Final = "lifecycle-notifications"
CALL_RECORDS_QUEUE: Final = "raw-call-records"
"""For what takes its time, so that no call waits behind it: records that are fetched, and those of a gap."""

UNRECOGNIZED_QUEUE: Final = "unrecognized-events"
UNRECOGNIZED: Final = "Microsoft.Graph.Unrecognized"
"""The type of an event that no row has a type for."""

MAX_PRESENCE_IDS: Final = 650

_CACHED_CHARS: Final = 512  # of a path; what is remembered of other people's paths has a bound in bytes by that


class Rich(StrEnum):
    """Whether notifications of a resource carry (encrypted) resource data."""

    NEVER = "never"
    OPTIONAL = "optional"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """One row of the catalogue.

    `event_types` maps a normalized word of Graph's (see `events.event_word`) to the CloudEvents `type`; the key ``""``
    is the type of a payload that carries no such word. `max_lifetime` is Graph's documented limit.
    """

    key: str
    api_version: Literal["v1.0", "beta"]
    rich: Rich
    max_lifetime: timedelta
    permission: str
    delegated_only: bool
    change_type: str
    events_queue: str
    raw_queue: str
    odata_types: frozenset[str]
    event_types: Mapping[str, str]


_MEETING_TYPES: Final = {
    "callstarted": "Microsoft.Graph.MeetingCallStarted",
    "callended": "Microsoft.Graph.MeetingCallEnded",
    "rosterupdated": "Microsoft.Graph.MeetingRosterUpdated",
    "callrosterupdate": "Microsoft.Graph.MeetingRosterUpdated",  # the older spelling on onlineMeeting payloads
    "callrosterupdated": "Microsoft.Graph.MeetingRosterUpdated",
}

CALL_RECORDS: Final = ResourceKind(
    key="callRecords",
    api_version="v1.0",
    rich=Rich.NEVER,
    max_lifetime=timedelta(minutes=4230),
    permission="CallRecords.Read.All",
    delegated_only=False,
    change_type="created,updated",
    events_queue="call-record-events",
    raw_queue=RAW_QUEUE,
    odata_types=frozenset({"microsoft.graph.callrecord", "microsoft.graph.callrecords.callrecord"}),
    event_types={
        "created": "Microsoft.Graph.CallRecordCreated",
        "updated": "Microsoft.Graph.CallRecordUpdated",
    },
)
CALL_EVENTS: Final = ResourceKind(
    key="callEvents",
    api_version="beta",
    rich=Rich.ALWAYS,
    max_lifetime=timedelta(days=1),
    permission="CallEvents.Read.All",
    delegated_only=False,
    change_type="updated",
    events_queue="call-events",
    raw_queue=RAW_QUEUE,
    odata_types=frozenset(),  # callEvent is the type of two rows: the resource path alone tells them apart
    event_types={
        "callstarted": "Microsoft.Graph.CallStarted",
        "callended": "Microsoft.Graph.CallEnded",
        "rosterupdated": "Microsoft.Graph.CallRosterUpdated",
        "callrosterupdate": "Microsoft.Graph.CallRosterUpdated",
        "callrosterupdated": "Microsoft.Graph.CallRosterUpdated",
    },
)
MEETING_CALL_EVENTS: Final = ResourceKind(
    key="meetingCallEvents",
    api_version="beta",
    rich=Rich.OPTIONAL,  # basic ones exist, but no API resolves the id that they carry: subscribe to rich ones
    max_lifetime=timedelta(minutes=4230),  # "three days" on one page, 4,230 minutes in the table: the lower one
    permission="OnlineMeetings.Read.All",
    delegated_only=False,
    change_type="updated",
    events_queue="meeting-events",
    raw_queue=RAW_QUEUE,
    odata_types=frozenset(),
    event_types=_MEETING_TYPES,
)
EMERGENCY_CALL_EVENTS: Final = ResourceKind(
    key="emergencyCallEvents",
    api_version="beta",
    rich=Rich.ALWAYS,
    max_lifetime=timedelta(days=1),
    permission="CallEvents-Emergency.Read.All",
    delegated_only=False,
    change_type="updated",
    events_queue="emergency-call-events",
    raw_queue=EMERGENCY_QUEUE,
    odata_types=frozenset({"microsoft.graph.emergencycallevent"}),
    event_types={
        "callstarted": "Microsoft.Graph.EmergencyCallStarted",
        "callended": "Microsoft.Graph.EmergencyCallEnded",
    },
)
PRESENCE: Final = ResourceKind(
    key="presence",
    api_version="v1.0",
    rich=Rich.OPTIONAL,
    max_lifetime=timedelta(minutes=60),
    permission="Presence.Read.All",
    delegated_only=True,
    change_type="updated",
    events_queue="presence-events",
    raw_queue=RAW_QUEUE,
    odata_types=frozenset({"microsoft.graph.presence"}),
    event_types={"": "Microsoft.Graph.PresenceUpdated"},
)
ONLINE_MEETING: Final = ResourceKind(
    key="onlineMeeting",
    api_version="beta",
    rich=Rich.OPTIONAL,
    max_lifetime=timedelta(minutes=4230),
    permission="OnlineMeetings.Read.All",
    delegated_only=False,
    change_type="updated",
    events_queue="online-meeting-events",
    raw_queue=RAW_QUEUE,
    odata_types=frozenset({"microsoft.graph.onlinemeeting"}),
    event_types={**_MEETING_TYPES, "": "Microsoft.Graph.OnlineMeetingUpdated"},
)

SELF_TEST: Final = ResourceKind(
    key="selfTest",
    api_version="v1.0",
    rich=Rich.OPTIONAL,
    max_lifetime=timedelta(0),
    permission="",
    delegated_only=False,
    change_type="created",
    events_queue="self-test-events",
    raw_queue=RAW_QUEUE,
    odata_types=frozenset(),
    event_types={"": "Switchboard.SelfTest"},
)
"""What Switchboard sends to itself; no resource of Graph's, and so not in the catalogue."""

CATALOGUE: Final[Mapping[str, ResourceKind]] = {
    kind.key: kind
    for kind in (
        CALL_RECORDS,
        CALL_EVENTS,
        MEETING_CALL_EVENTS,
        EMERGENCY_CALL_EVENTS,
        PRESENCE,
        ONLINE_MEETING,
    )
}

EVENT_QUEUES: Final = (*(kind.events_queue for kind in CATALOGUE.values()), UNRECOGNIZED_QUEUE)
RAW_QUEUES: Final = (RAW_QUEUE, EMERGENCY_QUEUE, LIFECYCLE_QUEUE, CALL_RECORDS_QUEUE)


def match(resource: object, odata_type: object = None) -> ResourceKind | None:
    """Find the row of a notification by its `resource` path, else by its `resourceData`'s `@odata.type`.

    Args:
        resource: the path as Graph sent it; a leading slash, letter case and quoting style do not matter.
        odata_type: with or without ``#``, in any case.

    Returns:
        The row, or None where no row knows it.
    """
    if isinstance(resource, str):
        path = resource.strip().lstrip("/").lower()
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
    head, _, rest = path.partition("/")
    if head == "communications":
        if rest.startswith("callrecords"):
            return CALL_RECORDS
        if rest.startswith("calls/getemergencyeventsbypolicy"):
            return EMERGENCY_CALL_EVENTS
        if rest.startswith("presences"):
            return PRESENCE
        if rest.startswith("onlinemeetings"):
            return MEETING_CALL_EVENTS if "/meetingcallevents" in rest else ONLINE_MEETING
    if head.startswith("users") and "communications/callevents" in rest:
        return CALL_EVENTS
    return SELF_TEST if head == "switchboard" and rest.startswith("selftest/") else None


_match_known_path = lru_cache(maxsize=1024)(_match_path)  # a subscription's notifications all name the same few


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


def odata_type_of(resource_data: object) -> Any:
    """`@odata.type` of a resource-data object, whatever that is; None where there is none."""
    return resource_data.get("@odata.type") if isinstance(resource_data, dict) else None
