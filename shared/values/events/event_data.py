"""The data of each type of event.

Imports msgspec alone, and so does what it imports relatively, since consumers get these very files.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from .event_parts import (
    Array,
    CallerInfo,
    IdentitySet,
    MediaState,
    OutOfOffice,
    Participant,
    StatusMessage,
    WithArrays,
    WorkLocation,
    doc,
)


class GraphData(WithArrays, frozen=True, kw_only=True):
    """What the data of all events shares."""

    odata_type: Annotated[str | None, doc("Graph's name for the shape of the payload.")] = msgspec.field(
        default=None, name="@odata.type"
    )
    odata_id: Annotated[str | None, doc("Path of the resource in Graph.")] = msgspec.field(
        default=None, name="@odata.id"
    )
    id: Annotated[
        str | None,
        doc("Graph's id of the resource; in call and older meeting payloads a path, the same every time."),
    ] = None


class CallEvent(GraphData, frozen=True, kw_only=True):
    """What happened to a call."""

    event_type: Annotated[str | None, doc("What happened, in one of Graph's spellings.")] = None
    call_event_type: Annotated[
        str | None,
        doc(
            "What happened, where Graph sends a callEvent entity: in place of `eventType`.",
            "callStarted",
            "callEnded",
            "unknownFutureValue",
            "rosterUpdated",
            "transcriptionStateUpdated",
            "recordingStateUpdated",
        ),
    ] = None
    event_date_time: Annotated[str | None, doc("When it happened, in RFC 3339.")] = None
    call_conversation_id: Annotated[str | None, doc("Id of the conversation that the call belongs to.")] = None
    recording_state: Annotated[MediaState | None, doc("Whether the call is recorded.")] = None
    transcription_state: Annotated[MediaState | None, doc("Whether the call is transcribed.")] = None
    participants: Annotated[Array[Participant], doc("The roster, where Graph sends a callEvent entity with it.")] = ()
    participants_delta: Annotated[Array[Participant], doc("The roster's changes, not the roster.")] = msgspec.field(
        default=(), name="participants@delta"
    )


class CallEventData(CallEvent, frozen=True, kw_only=True):
    """A call of a subscribed user: `CallStarted`, `CallEnded`, `CallRosterUpdated`, `CallRecordingStateUpdated`,
    `CallTranscriptionStateUpdated`."""

    direction: Annotated[str | None, doc("Which way, for the user.", "incoming", "outgoing")] = None
    join_call_url: Annotated[str | None, doc("URL with which the call can be joined.")] = None
    call_id: Annotated[str | None, doc("Id of the call.")] = None


class MeetingCallEventData(CallEvent, frozen=True, kw_only=True):
    """A meeting's call: `MeetingCallStarted`, `MeetingCallEnded`, `MeetingRosterUpdated`,
    `MeetingRecordingStateUpdated`, `MeetingTranscriptionStateUpdated`.

    Older payloads (`#Microsoft.Graph.onlineMeeting`) carry the roster in the `activeParticipants@…` fields, in a shape
    of their own, which stays untyped.
    """

    state: Annotated[str | None, doc("Older payloads: whether the call goes on.", "active", "inactive")] = None
    active_participants_delta: Annotated[Array[Any], doc("Older payloads: who joined.")] = msgspec.field(
        default=(), name="activeParticipants@delta"
    )
    active_participants_joined: Annotated[Array[Any], doc("Older payloads: who joined.")] = msgspec.field(
        default=(), name="activeParticipants@joined"
    )
    active_participants_remove: Annotated[Array[Any], doc("Older payloads: who left.")] = msgspec.field(
        default=(), name="activeParticipants@remove"
    )
    active_participants_exited: Annotated[Array[Any], doc("Older payloads: who left.")] = msgspec.field(
        default=(), name="activeParticipants@exited"
    )


class EmergencyCall(CallEvent, frozen=True, kw_only=True):
    """An emergency call."""

    policy_name: Annotated[str | None, doc("Emergency calling policy that applied.")] = None
    emergency_number_dialed: Annotated[str | None, doc("Number that was dialled.")] = None
    caller_info: Annotated[CallerInfo | None, doc("Who called, and from where.")] = None


class EmergencyCallEventData(EmergencyCall, frozen=True, kw_only=True):
    """`EmergencyCallStarted`, `EmergencyCallEnded`, in one of two shapes: nested (`emergencyCallEvent`) or flat."""

    emergency_call_event: Annotated[
        EmergencyCall | None, doc("The nested shape; without it the fields of an EmergencyCall are here.")
    ] = None

    @property
    def call(self) -> EmergencyCall:
        """The emergency call, whichever shape it came in."""
        if self.emergency_call_event is not None:
            return self.emergency_call_event
        return EmergencyCall(**{name: getattr(self, name) for name in EmergencyCall.__struct_fields__})


class CallRecordData(GraphData, frozen=True, kw_only=True):
    """`CallRecordCreated`, `CallRecordUpdated`: `id` is the call record's.

    The other fields are there when the event carries the record: all of them where records are fetched, and all but
    `sessions` and `participants_v2` where it is only backfilled.
    """

    version: Annotated[int | None, doc("Rises with each change: the highest counts.")] = None
    type: Annotated[
        str | None, doc("What kind of call.", "unknown", "groupCall", "peerToPeer", "unknownFutureValue")
    ] = None
    modalities: Annotated[
        Array[str],
        doc(
            "What was used.",
            "audio",
            "video",
            "videoBasedScreenSharing",
            "data",
            "screenSharing",
            "unknownFutureValue",
        ),
    ] = ()
    start_date_time: Annotated[str | None, doc("When the first user joined, in RFC 3339.")] = None
    end_date_time: Annotated[str | None, doc("When the last user left, in RFC 3339.")] = None
    last_modified_date_time: Annotated[str | None, doc("When Graph made the record, in RFC 3339.")] = None
    join_web_url: Annotated[str | None, doc("URL of the meeting, for group calls.")] = None
    sessions: Annotated[Array[Any], doc("All sessions with their segments, as Graph has them.")] = ()
    participants_v2: Annotated[Array[Any], doc("All participants, as Graph has them.")] = msgspec.field(
        default=(), name="participants_v2"
    )


class PresenceData(GraphData, frozen=True, kw_only=True):
    """`PresenceUpdated`: `id` is the user's. A basic notification has that alone."""

    availability: Annotated[
        str | None, doc("Compare without regard to case.", "Available", "Busy", "DoNotDisturb", "Away", "Offline")
    ] = None
    activity: Annotated[str | None, doc("Compare without regard to case.", "InACall", "InAMeeting", "Presenting")] = (
        None
    )
    sequence_number: Annotated[
        str | None, doc("Version of the presence: the highest in alphabetical order counts.")
    ] = None
    status_message: Annotated[StatusMessage | None, doc("What the user has written beside it.")] = None
    out_of_office_settings: Annotated[OutOfOffice | None, doc("Whether the user is out of office.")] = None
    work_location: Annotated[WorkLocation | None, doc("Where the user works.")] = None


class OnlineMeetingData(GraphData, frozen=True, kw_only=True):
    """`OnlineMeetingUpdated`: of the meeting what Graph sends."""

    event_type: Annotated[str | None, doc("What happened, if Graph says so.")] = None
    event_date_time: Annotated[str | None, doc("When it happened, in RFC 3339.")] = None
    state: Annotated[str | None, doc("Whether its call goes on.", "active", "inactive")] = None
    subject: Annotated[str | None, doc("Subject of the meeting.")] = None
    meeting_type: Annotated[
        str | None,
        doc("What kind of meeting.", "adhoc", "scheduled", "recurring", "broadcast", "meetnow", "unknownFutureValue"),
    ] = None
    creation_date_time: Annotated[str | None, doc("When it was made, in RFC 3339.")] = None
    start_date_time: Annotated[str | None, doc("When it begins, in RFC 3339.")] = None
    end_date_time: Annotated[str | None, doc("When it ends, in RFC 3339.")] = None
    expiry_date_time: Annotated[str | None, doc("When it can be joined no longer, in RFC 3339.")] = None
    join_web_url: Annotated[str | None, doc("URL with which it can be joined.")] = None
    join_url: Annotated[str | None, doc("The same; older.")] = None
    meeting_options_web_url: Annotated[str | None, doc("URL of its options.")] = None
    external_id: Annotated[str | None, doc("Id that the application which made it has given it.")] = None
    video_teleconference_id: Annotated[str | None, doc("Id for video conferencing devices.")] = None
    meeting_template_id: Annotated[str | None, doc("Id of its template.")] = None
    meeting_spoken_language_tag: Annotated[str | None, doc("Language that is spoken.")] = None
    is_broadcast: Annotated[bool | None, doc("Whether it is a live event.")] = None
    capabilities: Annotated[
        Array[str], doc("What a live event offers.", "questionAndAnswer", "unknownFutureValue")
    ] = ()
    is_end_to_end_encryption_enabled: Annotated[bool | None, doc("Whether it is encrypted end to end.")] = None
    is_entry_exit_announced: Annotated[bool | None, doc("Whether coming and going is announced.")] = None
    record_automatically: Annotated[bool | None, doc("Whether it is recorded from the beginning.")] = None
    allow_recording: Annotated[bool | None, doc("Whether it may be recorded.")] = None
    allow_transcription: Annotated[bool | None, doc("Whether it may be transcribed.")] = None
    allow_attendee_to_enable_camera: Annotated[bool | None, doc("Whether attendees may turn on cameras.")] = None
    allow_attendee_to_enable_mic: Annotated[bool | None, doc("Whether attendees may turn on microphones.")] = None
    allow_breakout_rooms: Annotated[bool | None, doc("Whether it may have breakout rooms.")] = None
    allow_copying_and_sharing_meeting_content: Annotated[
        bool | None, doc("Whether its content may be copied and shared.")
    ] = None
    allow_participants_to_change_name: Annotated[bool | None, doc("Whether participants may change names.")] = None
    allow_power_point_sharing: Annotated[bool | None, doc("Whether slides may be shared.")] = None
    allow_teamwork_reactions: Annotated[bool | None, doc("Whether there are reactions.")] = None
    allow_whiteboard: Annotated[bool | None, doc("Whether there is a whiteboard.")] = None
    allow_live_share: Annotated[
        str | None, doc("Whether Live Share may be used.", "enabled", "disabled", "unknownFutureValue")
    ] = None
    allow_meeting_chat: Annotated[
        str | None, doc("Whether there is a chat.", "enabled", "disabled", "limited", "unknownFutureValue")
    ] = None
    share_meeting_chat_history_default: Annotated[
        str | None, doc("How much of the chat who joins later sees.", "none", "all", "unknownFutureValue")
    ] = None
    allowed_presenters: Annotated[
        str | None,
        doc("Who may present.", "everyone", "organization", "roleIsPresenter", "organizer", "unknownFutureValue"),
    ] = None
    allowed_lobby_admitters: Annotated[
        str | None,
        doc(
            "Who may let others in.",
            "organizerAndCoOrganizersAndPresenters",
            "organizerAndCoOrganizers",
            "unknownFutureValue",
        ),
    ] = None
    anonymize_identity_for_roles: Annotated[
        Array[str],
        doc("Whose names are hidden.", "attendee", "presenter", "producer", "unknownFutureValue", "coorganizer"),
    ] = ()


class MadeOfCall(GraphData, frozen=True, kw_only=True):
    """What was made of a call, and where it is read: a transcript or a recording."""

    meeting_id: Annotated[str | None, doc("Id of the online meeting; null for an ad hoc call.")] = None
    call_id: Annotated[str | None, doc("Id of the call: for an ad hoc call the one in Graph's paths.")] = None
    created_date_time: Annotated[str | None, doc("When it began, in RFC 3339; of transcripts mostly null.")] = None
    end_date_time: Annotated[str | None, doc("When it ended, in RFC 3339.")] = None
    content_correlation_id: Annotated[
        str | None, doc("The same in a transcript and in the recording that belongs to it.")
    ] = None
    meeting_organizer: Annotated[
        IdentitySet | None, doc("Who organizes the meeting; for an ad hoc call, who started the making.")
    ] = None


class CallTranscriptData(MadeOfCall, frozen=True, kw_only=True):
    """`CallTranscriptCreated`: what the transcript is of, and where its text is read; never the text itself."""

    transcript_content_url: Annotated[str | None, doc("Where the text is read: relative, without an API version.")] = (
        None
    )


class CallRecordingData(MadeOfCall, frozen=True, kw_only=True):
    """`CallRecordingCreated`: what the recording is of, and where it is read; never the recording itself."""

    recording_content_url: Annotated[str | None, doc("Where the video is read: relative, without an API version.")] = (
        None
    )


type EventData = (
    CallEventData
    | MeetingCallEventData
    | EmergencyCallEventData
    | CallRecordData
    | PresenceData
    | OnlineMeetingData
    | CallTranscriptData
    | CallRecordingData
    | Any
)
DATA_TYPES: Final[Mapping[str, Any]] = {
    "Microsoft.Graph.CallStarted": CallEventData,
    "Microsoft.Graph.CallEnded": CallEventData,
    "Microsoft.Graph.CallRosterUpdated": CallEventData,
    "Microsoft.Graph.CallRecordingStateUpdated": CallEventData,
    "Microsoft.Graph.CallTranscriptionStateUpdated": CallEventData,
    "Microsoft.Graph.MeetingCallStarted": MeetingCallEventData,
    "Microsoft.Graph.MeetingCallEnded": MeetingCallEventData,
    "Microsoft.Graph.MeetingRosterUpdated": MeetingCallEventData,
    "Microsoft.Graph.MeetingRecordingStateUpdated": MeetingCallEventData,
    "Microsoft.Graph.MeetingTranscriptionStateUpdated": MeetingCallEventData,
    "Microsoft.Graph.EmergencyCallStarted": EmergencyCallEventData,
    "Microsoft.Graph.EmergencyCallEnded": EmergencyCallEventData,
    "Microsoft.Graph.CallRecordCreated": CallRecordData,
    "Microsoft.Graph.CallRecordUpdated": CallRecordData,
    "Microsoft.Graph.PresenceUpdated": PresenceData,
    "Microsoft.Graph.OnlineMeetingUpdated": OnlineMeetingData,
    "Microsoft.Graph.CallTranscriptCreated": CallTranscriptData,
    "Microsoft.Graph.CallRecordingCreated": CallRecordingData,
    "Microsoft.Graph.Unrecognized": Any,
}
"""The shape of an event's data by its `type`; Any where it may be any JSON."""
