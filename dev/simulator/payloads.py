"""What Graph says about calls: outer items and inner resources, in every spelling that its pages show. Needs no server.

Sources: Graph, "Get change notifications for Microsoft Teams calls", "… meeting call event updates", "… call records",
"… transcripts and recordings", "… emergency call event updates", "… presence", and "callEvent resource type".
"""

import base64
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Literal
from urllib.parse import quote

from dev.simulator.clock import graph_time

JSON = dict[str, Any]

JOIN_WEB_URL: Final = (
    "https://teams.microsoft.com/l/meetup-join/19%3ameeting_OTkxNDZkNGEtMzk1Yy00ZjI3%40thread.v2/0"
    "?context=%7b%22Tid%22%3a%22f69f5191-20ae-4093-8dae-3ec09edeb253%22%7d"
)
POLICY_NAME: Final = "EmergencyPolicy"


class Kind(StrEnum):
    """One kind of happening, in an order in which they may happen."""

    CALL_STARTED = "call-started"
    CALL_ROSTER = "call-roster"
    CALL_RECORDING = "call-recording-state"
    CALL_TRANSCRIPTION = "call-transcription-state"
    MEETING_STARTED = "meeting-started"
    ROSTER_LOBBY = "roster-lobby"
    ROSTER_JOINED = "roster-joined"
    MEETING_RECORDING = "meeting-recording-state"
    MEETING_TRANSCRIPTION = "meeting-transcription-state"
    PRESENCE = "presence"
    ONLINE_MEETING_UPDATED = "online-meeting-updated"
    EMERGENCY_NESTED = "emergency-nested"
    EMERGENCY_FLAT = "emergency-flat"
    EMERGENCY_ENDED = "emergency-ended"
    ROSTER_INACTIVE = "roster-inactive"
    ROSTER_EXITED = "roster-exited"
    MEETING_ENDED = "meeting-ended"
    LEGACY_MEETING_STARTED = "legacy-meeting-started"
    LEGACY_ROSTER = "legacy-roster"
    LEGACY_MEETING_ENDED = "legacy-meeting-ended"
    CALL_ENDED = "call-ended"
    CALL_RECORD_CREATED = "call-record-created"
    CALL_RECORD_UPDATED = "call-record-updated"
    TRANSCRIPT = "transcript"
    RECORDING = "recording"
    AD_HOC_TRANSCRIPT = "ad-hoc-transcript"
    AD_HOC_RECORDING = "ad-hoc-recording"


class Spelling(StrEnum):
    """How an event's type is written; Graph's pages disagree with one another."""

    DRAFT = "draft"  # {Microsoft.Communication.CallEventType.CallStarted}
    QUALIFIED = "qualified"  # Microsoft.Communication.CallStarted
    HASHED = "hashed"  # #Microsoft.Communication.CallStarted
    PLAIN = "plain"  # callStarted
    ENTITY = "entity"  # the published callEvent: callEventType, eventDateTime, id


@dataclass(frozen=True)
class Payload:
    """One happening, before it is addressed to a subscription.

    `content` is the resource that a rich notification carries encrypted; `basic` stands for it in `resourceData` of a
    basic notification (most kinds say no more there than the id). `content_name` is what the item calls its content.
    """

    resource: str
    change_type: str
    resource_data: JSON
    content: JSON | None = None
    basic: JSON = field(default_factory=dict)
    organization_id: bool = True
    content_name: str = "encryptedContent"


@dataclass(frozen=True)
class Options:
    """What a payload may vary in; every builder uses what concerns it.

    `id` names the notification, call record or presence; `participants` counts those in a roster update; `roster` picks
    the property names of the older roster payloads.
    """

    resource: str | None = None
    tenant_id: str = "f69f5191-20ae-4093-8dae-3ec09edeb253"
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    spelling: Spelling | None = None
    participants: int = 1
    roster: Literal["joined-exited", "delta-remove"] = "joined-exited"
    availability: str = "Busy"
    activity: str = "InACall"


def build(kind: Kind, options: Options | None = None) -> Payload:
    """The payload of `kind`; without a `resource` in `options`, of a plausible one of its catalogue row."""
    chosen = options or Options()
    if chosen.resource is None:
        chosen = replace(chosen, resource=default_resource(kind))
    return _BUILDERS[kind](kind, chosen, (chosen.resource or "").lstrip("/"))


def meeting_resource(join_web_url: str) -> str:
    """The `meetingCallEvents` resource of a meeting: its join URL is encoded once more."""
    return f"communications/onlineMeetings(joinWebUrl='{quote(join_web_url, safe='')}')/meetingCallEvents"


def default_resource(kind: Kind) -> str:
    """A plausible resource to subscribe to for notifications of `kind`."""
    return _RESOURCES[kind]


# Graph shows none of the recordings', transcriptions' and the ended emergencies': they are what its metadata says.
_WORDS: Final = {
    Kind.CALL_STARTED: "CallStarted",
    Kind.CALL_ENDED: "CallEnded",
    Kind.CALL_ROSTER: "RosterUpdated",
    Kind.CALL_RECORDING: "RecordingStateUpdated",
    Kind.CALL_TRANSCRIPTION: "TranscriptionStateUpdated",
    Kind.MEETING_STARTED: "CallStarted",
    Kind.MEETING_ENDED: "CallEnded",
    Kind.ROSTER_JOINED: "RosterUpdated",
    Kind.ROSTER_LOBBY: "RosterUpdated",
    Kind.ROSTER_INACTIVE: "RosterUpdated",
    Kind.ROSTER_EXITED: "RosterUpdated",
    Kind.MEETING_RECORDING: "RecordingStateUpdated",
    Kind.MEETING_TRANSCRIPTION: "TranscriptionStateUpdated",
    Kind.LEGACY_MEETING_STARTED: "CallStarted",
    Kind.LEGACY_MEETING_ENDED: "CallEnded",
    Kind.LEGACY_ROSTER: "CallRosterUpdate",
    Kind.EMERGENCY_NESTED: "CallStarted",
    Kind.EMERGENCY_FLAT: "CallStarted",
    Kind.EMERGENCY_ENDED: "CallEnded",
}


def _details(kind: Kind, options: Options) -> JSON:
    """What an event of a call says besides what has happened."""
    match _WORDS[kind]:
        case "RosterUpdated":
            return {"participants@delta": [_participant(kind, options, n) for n in range(options.participants)]}
        case "RecordingStateUpdated":
            return {"recordingState": {"sequenceNumber": 1, "state": "active"}}
        case "TranscriptionStateUpdated":
            return {"transcriptionState": {"sequenceNumber": 1, "state": "active"}}
    return {}


def _call(kind: Kind, options: Options, resource: str) -> Payload:
    word = _WORDS[kind]
    path = f"/{resource}"
    if options.spelling is Spelling.ENTITY:
        content: JSON = {
            "@odata.type": "#microsoft.graph.callEvent",
            "id": options.id,
            "callEventType": word[0].lower() + word[1:],
            "eventDateTime": graph_time(options.at),
        }
    else:
        content = {
            "@odata.type": "#Microsoft.Graph.CallEvent",
            "@odata.id": path,
            "id": path,
            "eventType": _spell(word, options.spelling or Spelling.DRAFT, "Microsoft.Communication.CallEventType"),
            "direction": "outgoing",
            "joinCallUrl": f"https://api.flightproxy.teams.microsoft.com/api/v2/ep/conv.skype.com/conv/{options.id}",
            "callId": options.id,
        }
    content |= _details(kind, options)
    outer = {"@odata.type": "microsoft.graph.callEvent", "@odata.id": f"{path}/{options.id}", "id": options.id}
    return Payload(path, "updated", outer, content, organization_id=False)


def _meeting(kind: Kind, options: Options, resource: str) -> Payload:
    outer = {"@odata.id": resource, "@odata.type": "#microsoft.graph.callevent", "id": options.id}
    content: JSON = {
        "@odata.type": "#microsoft.graph.callevent",
        "@odata.id": resource,
        "id": options.id,
        "eventType": _spell(_WORDS[kind], options.spelling or Spelling.PLAIN, "Microsoft.Communication"),
        "eventDateTime": graph_time(options.at),
    }
    if options.spelling is Spelling.ENTITY:
        content["callEventType"] = content.pop("eventType")
    return Payload(resource, "updated", outer, content | _details(kind, options))


_REMOVED: Final = {
    Kind.ROSTER_INACTIVE: "Participant has entered an inactive state in the roster.",
    Kind.ROSTER_EXITED: "Participant has left the meeting call.",
}


def _participant(kind: Kind, options: Options, number: int) -> JSON:
    user = {
        "id": _derived(options.id, f"user-{number}"),
        "displayName": f"Participant {number}",
        "tenantId": options.tenant_id,
    }
    participant: JSON = {"info": {"identity": {"user": user}}, "isInLobby": kind is Kind.ROSTER_LOBBY}
    if kind in _REMOVED:
        participant["removedState"] = {"reason": _REMOVED[kind]}
    return participant | {"id": _derived(options.id, f"participant-{number}")}


def _legacy(kind: Kind, options: Options, resource: str) -> Payload:
    content: JSON = {
        "@odata.type": "#Microsoft.Graph.onlineMeeting",
        "@odata.id": resource,
        "id": resource,
        "eventType": _spell(_WORDS[kind], options.spelling or Spelling.QUALIFIED, "Microsoft.Communication"),
        "eventDateTime": graph_time(options.at),
        "state": "inactive" if kind is Kind.LEGACY_MEETING_ENDED else "active",
    }
    if kind is Kind.LEGACY_ROSTER:
        came, left = {"joined-exited": ("joined", "exited"), "delta-remove": ("delta", "remove")}[options.roster]
        content[f"activeParticipants@{came}"] = [_legacy_participant(options, n) for n in range(options.participants)]
        content[f"activeParticipants@{left}"] = [_services_participant(options)]
    outer = {"@odata.id": resource, "@odata.type": "#Microsoft.Graph.onlineMeeting", "id": resource}
    # Without encryption the page moves the event's own properties into resourceData.
    basic = {name: value for name, value in content.items() if name not in outer}
    return Payload(resource, "updated", outer, content, basic=basic)


def _legacy_participant(options: Options, number: int) -> JSON:
    user = {
        "Id": _derived(options.id, f"user-{number}"),
        "DisplayName": f"Participant {number}",
        "TenantId": options.tenant_id,
    }
    return {"Id": _derived(options.id, f"participant-{number}"), "Identity": {"User": user}}


def _services_participant(options: Options) -> JSON:
    resource_id = _derived(options.id, "communication-services")
    user = {
        "AzureCommunicationServicesResourceId": resource_id,
        "Id": f"8:acs:{resource_id}_{_derived(options.id, 'guest')}",
        "DisplayName": "Guest",
    }
    return {"Id": _derived(options.id, "guest"), "Identity": {"AzureCommunicationServicesUser": user}}


def _online_meeting(kind: Kind, options: Options, resource: str) -> Payload:
    outer = {"@odata.id": resource, "@odata.type": "#Microsoft.Graph.onlineMeeting", "id": options.id}
    content = outer | {"subject": "Planning", "lastModifiedDateTime": graph_time(options.at)}
    return Payload(resource, "updated", outer, content)


def _emergency(kind: Kind, options: Options, resource: str) -> Payload:
    policy = resource.partition("policyName='")[2].partition("'")[0] or POLICY_NAME
    event: JSON = {
        "id": options.id,
        "callEventType": _spell(_WORDS[kind], options.spelling or Spelling.PLAIN, "Microsoft.Communication"),
        "policyName": policy,
        "eventDateTime": graph_time(options.at),
        "emergencyNumberDialed": "911",
        "callerInfo": {
            "displayName": "Adele Example",
            "upn": "adele@contoso.example",
            "phoneNumber": "5550100",
            "tenantId": options.tenant_id,
            "location": {
                "address": {
                    "street": "Example Way",
                    "city": "Springfield",
                    "state": "WA",
                    "countryOrRegion": "United States",
                    "postalCode": "00000",
                    "additionalData": {
                        "companyName": "Contoso",
                        "additionalInfo": "Floor 7",
                        "houseNumber": "725",
                        "county": "Example County",
                        "streetSuffix": "Way",
                    },
                },
                "coordinates": {"latitude": "47.6400", "longitude": "-122.1200"},
            },
        },
    }
    outer = {"@odata.id": resource, "@odata.type": "#microsoft.graph.emergencyCallEvent", "id": options.id}
    content = outer | (event if kind is Kind.EMERGENCY_FLAT else {"emergencyCallEvent": event})
    return Payload(resource, "updated", outer, content)


def _call_record(kind: Kind, options: Options, _resource: str) -> Payload:
    path = f"communications/callRecords/{options.id}"
    outer = {"@odata.type": "#Microsoft.Graph.callrecord", "@odata.id": path, "id": options.id}
    change = "created" if kind is Kind.CALL_RECORD_CREATED else "updated"
    return Payload(path, change, outer, organization_id=False)


def _presence(kind: Kind, options: Options, resource: str) -> Payload:
    single = resource.rpartition("/")[2] if "?" not in resource else ""
    user = single or options.id
    outer = {"@odata.id": f"users/{user}/presence", "@odata.type": "#microsoft.graph.presence", "id": user}
    content = outer | {"availability": options.availability, "activity": options.activity}
    return Payload(f"communications/presences/{user}", "updated", outer, content)


def _artifact(kind: Kind, options: Options, resource: str) -> Payload:
    """A transcript or a recording. How its path is written depends on the spelling: the page has all of these forms."""
    is_transcript = kind in {Kind.TRANSCRIPT, Kind.AD_HOC_TRANSCRIPT}
    is_ad_hoc = kind in {Kind.AD_HOC_TRANSCRIPT, Kind.AD_HOC_RECORDING}
    word, segment = ("transcript", "transcripts") if is_transcript else ("recording", "recordings")
    organizer = _organizer(resource) or _derived(options.id, "organizer")
    call = _derived(options.id, "call")
    thread = f"19:{options.id}@thread.v2"
    meeting = None if is_ad_hoc else _base64(f"1*{organizer}*0**{thread}")
    name = _base64(f"{'3' if is_ad_hoc else '1' if is_transcript else 'V2'}##{thread}##{options.id}##{word}")
    odata_id = path = _artifact_path(options.spelling, organizer, meeting or call, segment, name, ad_hoc=is_ad_hoc)
    if is_ad_hoc and not is_transcript:
        odata_id = path.replace("'", "")
    outer = {
        # For ad hoc transcripts the page shows the user's id here.
        "id": organizer if is_ad_hoc and is_transcript else name,
        "@odata.type": f"#Microsoft.Graph.call{word.capitalize()}",
        "@odata.id": odata_id,
    }
    content: JSON = {
        "id": name,
        "meetingId": meeting,
        "callId": call,
        f"{word}ContentUrl": f"users/{organizer}/onlineMeetings/{meeting or call}/{segment}/{name}/content",
        "createdDateTime": None if is_transcript else graph_time(options.at),
        "endDateTime": graph_time(options.at),
        "contentCorrelationId": f"{call}-0" if is_ad_hoc else call,
        "meetingOrganizer": {
            "application": None,
            "device": None,
            "user": {
                "userIdentityType": "aadUser",
                "id": organizer,
                "displayName": None,
                "tenantId": options.tenant_id,
            },
        },
    }
    if not is_transcript:
        content["content"] = None
    older = options.spelling is Spelling.DRAFT and not is_ad_hoc
    return Payload(
        path,
        "created",
        outer,
        content,
        organization_id=False,
        content_name="EncryptedContent" if older else "encryptedContent",
    )


def _artifact_path(spelling: Spelling | None, organizer: str, of: str, segment: str, name: str, *, ad_hoc: bool) -> str:
    user = f"users/{organizer}"
    if not ad_hoc:
        before = "communications" if spelling is Spelling.DRAFT else user
        return f"{before}/onlineMeetings('{of}')/{segment}('{name}')"
    match spelling:
        case Spelling.DRAFT:
            return f"{user}/adhocCalls/{of}/{segment}/{name}"
        case Spelling.QUALIFIED:
            return f"{user}/adhoccalls/adhocCalls/{of}/{segment}('{name}')"
        case Spelling.HASHED:
            return f"{user}/adhoccalls('{of}')/{segment}('{name}')"
    return f"{user}/adhoccalls/{of}/{segment}('{name}')"


def _organizer(resource: str) -> str | None:
    first, _, rest = resource.partition("/")
    return rest.partition("/")[0] if first == "users" else None


def _base64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def _spell(word: str, spelling: Spelling, prefix: str) -> str:
    plain = word[0].lower() + word[1:]
    return {
        Spelling.DRAFT: f"{{{prefix}.{word}}}",
        Spelling.QUALIFIED: f"Microsoft.Communication.{word}",
        Spelling.HASHED: f"#Microsoft.Communication.{word}",
        Spelling.PLAIN: plain,
        Spelling.ENTITY: plain,
    }[spelling]


def _derived(seed: str, name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{seed}/{name}"))


_Builder = Callable[[Kind, Options, str], Payload]

_FAMILIES: Final[Sequence[tuple[_Builder, str, Sequence[Kind]]]] = (
    (
        _call,
        "/users/048c94fb-dda6-48b8-9fc8-6740ee418fb9/communications/callEvents",
        (Kind.CALL_STARTED, Kind.CALL_ENDED, Kind.CALL_ROSTER, Kind.CALL_RECORDING, Kind.CALL_TRANSCRIPTION),
    ),
    (
        _meeting,
        meeting_resource(JOIN_WEB_URL),
        (
            Kind.MEETING_STARTED,
            Kind.MEETING_ENDED,
            Kind.ROSTER_JOINED,
            Kind.ROSTER_LOBBY,
            Kind.ROSTER_INACTIVE,
            Kind.ROSTER_EXITED,
            Kind.MEETING_RECORDING,
            Kind.MEETING_TRANSCRIPTION,
        ),
    ),
    (
        _legacy,
        f"communications/onlineMeetings/?$filter=JoinWebUrl eq '{JOIN_WEB_URL}'",
        (Kind.LEGACY_MEETING_STARTED, Kind.LEGACY_MEETING_ENDED, Kind.LEGACY_ROSTER),
    ),
    (
        _online_meeting,
        f"communications/onlineMeetings/?$filter=JoinWebUrl eq '{JOIN_WEB_URL}'",
        (Kind.ONLINE_MEETING_UPDATED,),
    ),
    (
        _emergency,
        f"communications/calls/getEmergencyEventsByPolicy(policyName='{POLICY_NAME}')",
        (Kind.EMERGENCY_NESTED, Kind.EMERGENCY_FLAT, Kind.EMERGENCY_ENDED),
    ),
    (_call_record, "communications/callRecords", (Kind.CALL_RECORD_CREATED, Kind.CALL_RECORD_UPDATED)),
    (_artifact, "communications/onlineMeetings/getAllTranscripts", (Kind.TRANSCRIPT,)),
    (_artifact, "communications/onlineMeetings/getAllRecordings", (Kind.RECORDING,)),
    (_artifact, "communications/adhocCalls/getAllTranscripts", (Kind.AD_HOC_TRANSCRIPT,)),
    (_artifact, "communications/adhocCalls/getAllRecordings", (Kind.AD_HOC_RECORDING,)),
    (_presence, "communications/presences/048c94fb-dda6-48b8-9fc8-6740ee418fb9", (Kind.PRESENCE,)),
)
_BUILDERS: Final = {kind: builder for builder, _, kinds in _FAMILIES for kind in kinds}
_RESOURCES: Final = {kind: resource for _, resource, kinds in _FAMILIES for kind in kinds}
