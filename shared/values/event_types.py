"""The events as those who consume them read them: their types, and the text of a queue message."""

import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from shared.values.errors import MalformedInputError
from shared.values.resources import UNRECOGNIZED
from shared.values.unusual_json import read_leniently


class _Graph(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What all of Graph's payloads share. Unknown fields are ignored; every known one may be absent."""

    odata_type: Annotated[str | None, Meta(description="Graph's name for the shape of the payload.")] = msgspec.field(
        default=None, name="@odata.type"
    )
    odata_id: Annotated[str | None, Meta(description="Path of the resource in Graph.")] = msgspec.field(
        default=None, name="@odata.id"
    )
    id: Annotated[
        str | None,
        Meta(description="Graph's id of the resource; in call and older meeting payloads a path, the same every time."),
    ] = None


class Identity(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One identity of a communicationsIdentitySet."""

    id: Annotated[str | None, Meta(description="Id of the user, guest, application or phone.")] = None
    display_name: Annotated[str | None, Meta(description="Name as Teams shows it.")] = None
    tenant_id: Annotated[str | None, Meta(description="Id of the identity's Entra ID tenant.")] = None


class ParticipantInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who a participant is."""

    identity: Annotated[
        dict[str, Identity | None] | None,
        Meta(description="An identity for each key that applies: user, guest, phone, application…"),
    ] = None


class RemovedState(msgspec.Struct, frozen=True, kw_only=True):
    """Why a participant left."""

    reason: Annotated[str | None, Meta(description="A sentence of Graph's: left the call, or became inactive.")] = None


class Participant(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One change of a roster."""

    id: Annotated[str | None, Meta(description="Id of the participant in this call.")] = None
    info: Annotated[ParticipantInfo | None, Meta(description="Who it is.")] = None
    is_in_lobby: Annotated[bool | None, Meta(description="Whether the participant waits to be let in.")] = None
    removed_state: Annotated[
        RemovedState | None, Meta(description="There only when the participant has left or become inactive.")
    ] = None


class CallEventData(_Graph, frozen=True, kw_only=True):
    """A call of a subscribed user: `CallStarted`, `CallEnded`, `CallRosterUpdated`."""

    event_type: Annotated[str | None, Meta(description="What happened, in one of Graph's spellings.")] = None
    call_event_type: Annotated[
        str | None, Meta(description="What happened, where Graph sends a callEvent entity: in place of `eventType`.")
    ] = None
    event_date_time: Annotated[
        str | None, Meta(description="When it happened, in RFC 3339; only callEvent entities have it.")
    ] = None
    direction: Annotated[str | None, Meta(description="`incoming` or `outgoing`.")] = None
    join_call_url: Annotated[str | None, Meta(description="URL with which the call can be joined.")] = None
    call_id: Annotated[str | None, Meta(description="Id of the call.")] = None
    participants_delta: Annotated[
        tuple[Participant, ...], Meta(description="The roster's changes, not the roster.")
    ] = msgspec.field(default=(), name="participants@delta")


class MeetingCallEventData(_Graph, frozen=True, kw_only=True):
    """A meeting's call: `MeetingCallStarted`, `MeetingCallEnded`, `MeetingRosterUpdated`.

    Older payloads (`#Microsoft.Graph.onlineMeeting`) carry the roster in the `activeParticipants@…` fields, in a shape
    of their own, which stays untyped.
    """

    event_type: Annotated[str | None, Meta(description="What happened, in one of Graph's spellings.")] = None
    call_event_type: Annotated[
        str | None, Meta(description="What happened, where Graph sends a callEvent entity: in place of `eventType`.")
    ] = None
    event_date_time: Annotated[str | None, Meta(description="When it happened, in RFC 3339.")] = None
    state: Annotated[str | None, Meta(description="Older payloads: `active` or `inactive`.")] = None
    participants_delta: Annotated[
        tuple[Participant, ...], Meta(description="The roster's changes, not the roster.")
    ] = msgspec.field(default=(), name="participants@delta")
    active_participants_delta: Annotated[list[Any], Meta(description="Older payloads: who joined.")] = msgspec.field(
        default_factory=list, name="activeParticipants@delta"
    )
    active_participants_joined: Annotated[list[Any], Meta(description="Older payloads: who joined.")] = msgspec.field(
        default_factory=list, name="activeParticipants@joined"
    )
    active_participants_remove: Annotated[list[Any], Meta(description="Older payloads: who left.")] = msgspec.field(
        default_factory=list, name="activeParticipants@remove"
    )
    active_participants_exited: Annotated[list[Any], Meta(description="Older payloads: who left.")] = msgspec.field(
        default_factory=list, name="activeParticipants@exited"
    )


class CallerAddress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A civic address."""

    street: Annotated[str | None, Meta(description="Street.")] = None
    city: Annotated[str | None, Meta(description="City.")] = None
    state: Annotated[str | None, Meta(description="State or province.")] = None
    country_or_region: Annotated[str | None, Meta(description="Country or region.")] = None
    postal_code: Annotated[str | None, Meta(description="Postal code.")] = None
    additional_data: Annotated[
        dict[str, Any] | None, Meta(description="The rest as Graph sends it: companyName, houseNumber…")
    ] = None


class Coordinates(msgspec.Struct, frozen=True, kw_only=True):
    """A place on the map. Graph's sample has strings, its entity page numbers."""

    latitude: Annotated[str | float | None, Meta(description="Degrees.")] = None
    longitude: Annotated[str | float | None, Meta(description="Degrees.")] = None


class CallerLocation(msgspec.Struct, frozen=True, kw_only=True):
    """Where an emergency call came from."""

    address: Annotated[CallerAddress | None, Meta(description="Civic address.")] = None
    coordinates: Annotated[Coordinates | None, Meta(description="Place on the map.")] = None


class CallerInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who made an emergency call."""

    display_name: Annotated[str | None, Meta(description="Name of the caller.")] = None
    upn: Annotated[str | None, Meta(description="User principal name.")] = None
    phone_number: Annotated[str | None, Meta(description="Number of the caller.")] = None
    tenant_id: Annotated[str | None, Meta(description="Id of the caller's Entra ID tenant.")] = None
    location: Annotated[CallerLocation | None, Meta(description="Where the call came from.")] = None


class EmergencyCall(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An emergency call."""

    id: Annotated[str | None, Meta(description="Graph's id of the event.")] = None
    call_event_type: Annotated[str | None, Meta(description="What happened, in one of Graph's spellings.")] = None
    policy_name: Annotated[str | None, Meta(description="Emergency calling policy that applied.")] = None
    event_date_time: Annotated[str | None, Meta(description="When it happened, in RFC 3339.")] = None
    emergency_number_dialed: Annotated[str | None, Meta(description="Number that was dialled.")] = None
    caller_info: Annotated[CallerInfo | None, Meta(description="Who called, and from where.")] = None


class EmergencyCallEventData(_Graph, frozen=True, kw_only=True):
    """`EmergencyCallStarted`, `EmergencyCallEnded`, in one of two shapes: nested (`emergencyCallEvent`) or flat."""

    emergency_call_event: Annotated[
        EmergencyCall | None, Meta(description="The nested shape; without it the fields below are there.")
    ] = None
    call_event_type: Annotated[str | None, Meta(description="What happened, in one of Graph's spellings.")] = None
    policy_name: Annotated[str | None, Meta(description="Emergency calling policy that applied.")] = None
    event_date_time: Annotated[str | None, Meta(description="When it happened, in RFC 3339.")] = None
    emergency_number_dialed: Annotated[str | None, Meta(description="Number that was dialled.")] = None
    caller_info: Annotated[CallerInfo | None, Meta(description="Who called, and from where.")] = None

    @property
    def call(self) -> EmergencyCall:
        """The emergency call, whichever shape it came in."""
        return self.emergency_call_event or EmergencyCall(
            id=self.id,
            call_event_type=self.call_event_type,
            policy_name=self.policy_name,
            event_date_time=self.event_date_time,
            emergency_number_dialed=self.emergency_number_dialed,
            caller_info=self.caller_info,
        )


class CallRecordData(_Graph, frozen=True, kw_only=True):
    """`CallRecordCreated`, `CallRecordUpdated`: `id` is the call record's.

    The other fields are there when the event carries the record: all of them where records are fetched, and all but
    `sessions` and `participants_v2` where it is only backfilled.
    """

    version: Annotated[int | None, Meta(description="Rises with each change: the highest counts.")] = None
    type: Annotated[str | None, Meta(description="`groupCall` or `peerToPeer`.")] = None
    modalities: Annotated[list[str] | None, Meta(description="`audio`, `video`, `videoBasedScreenSharing`…")] = None
    start_date_time: Annotated[str | None, Meta(description="When the first user joined, in RFC 3339.")] = None
    end_date_time: Annotated[str | None, Meta(description="When the last user left, in RFC 3339.")] = None
    last_modified_date_time: Annotated[str | None, Meta(description="When Graph made the record, in RFC 3339.")] = None
    join_web_url: Annotated[str | None, Meta(description="URL of the meeting, for group calls.")] = None
    sessions: Annotated[list[Any] | None, Meta(description="All sessions with their segments, as Graph has them.")] = (
        None
    )
    participants_v2: Annotated[list[Any] | None, Meta(description="All participants, as Graph has them.")] = (
        msgspec.field(default=None, name="participants_v2")
    )


class PresenceData(_Graph, frozen=True, kw_only=True):
    """`PresenceUpdated`: `id` is the user's. A basic notification has no availability and no activity."""

    availability: Annotated[str | None, Meta(description="`Available`, `Busy`, `DoNotDisturb`, `Away`, `Offline`…")] = (
        None
    )
    activity: Annotated[str | None, Meta(description="`InACall`, `InAMeeting`, `Presenting`…")] = None


class OnlineMeetingData(_Graph, frozen=True, kw_only=True):
    """`OnlineMeetingUpdated`."""

    event_type: Annotated[str | None, Meta(description="What happened, if Graph says so.")] = None
    event_date_time: Annotated[str | None, Meta(description="When it happened, in RFC 3339.")] = None
    state: Annotated[str | None, Meta(description="`active` or `inactive`.")] = None


type EventData = (
    CallEventData
    | MeetingCallEventData
    | EmergencyCallEventData
    | CallRecordData
    | PresenceData
    | OnlineMeetingData
    | Any
)
DATA_TYPES: Final[Mapping[str, Any]] = {
    "Microsoft.Graph.CallStarted": CallEventData,
    "Microsoft.Graph.CallEnded": CallEventData,
    "Microsoft.Graph.CallRosterUpdated": CallEventData,
    "Microsoft.Graph.MeetingCallStarted": MeetingCallEventData,
    "Microsoft.Graph.MeetingCallEnded": MeetingCallEventData,
    "Microsoft.Graph.MeetingRosterUpdated": MeetingCallEventData,
    "Microsoft.Graph.EmergencyCallStarted": EmergencyCallEventData,
    "Microsoft.Graph.EmergencyCallEnded": EmergencyCallEventData,
    "Microsoft.Graph.CallRecordCreated": CallRecordData,
    "Microsoft.Graph.CallRecordUpdated": CallRecordData,
    "Microsoft.Graph.PresenceUpdated": PresenceData,
    "Microsoft.Graph.OnlineMeetingUpdated": OnlineMeetingData,
    UNRECOGNIZED: Any,
}
_DATA_DECODERS: Final = {name: msgspec.json.Decoder(shape) for name, shape in DATA_TYPES.items()}


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent as it lies on an events queue. Extensions that this version does not know are ignored."""

    specversion: Annotated[Literal["1.0"], Meta(description="Version of CloudEvents.")]
    id: Annotated[
        str,
        Meta(
            description="With `source`, the identity of the event: redeliveries share it.",
            extra_json_schema={"minLength": 1},
        ),
    ]
    source: Annotated[
        str,
        Meta(
            description="The Graph subscription: `https://graph.microsoft.com/{version}/subscriptions/{id}`. Where the "
            "event carries a call record: `https://graph.microsoft.com/v1.0/communications/callRecords`.",
            extra_json_schema={"format": "uri"},
        ),
    ]
    type: Annotated[str, Meta(description="What happened.")]
    time: Annotated[
        datetime,
        Meta(
            description="When it happened by Graph's clock; where Graph does not say, when it was received.",
            extra_json_schema={"format": "date-time"},
        ),
    ]
    datacontenttype: Annotated[str | None, Meta(description="Media type of `data`.")] = None
    dataschema: Annotated[str | None, Meta(description="`$id` of the JSON Schema that describes the event.")] = None
    subject: Annotated[str | None, Meta(description="The notification's `resource`, as Graph sent it.")] = None
    tenantid: Annotated[str | None, Meta(description="Id of the Entra ID tenant that it happened in.")] = None
    subscriptionid: Annotated[str | None, Meta(description="Id of the Graph subscription.")] = None
    changetype: Annotated[str | None, Meta(description="Graph's `changeType`: `created`, `updated`…")] = None
    backfilled: Annotated[
        Literal["true"] | None,
        Meta(
            description="There if Graph's notification was missed and the event was made from a list of call records."
        ),
    ] = None
    traceparent: Annotated[str | None, Meta(description="W3C trace context of the delivery.")] = None
    dataref: Annotated[
        str | None,
        Meta(
            description="URL of the blob that holds the data, where it is too large for a queue message.",
            extra_json_schema={"format": "uri"},
        ),
    ] = None
    data: Annotated[msgspec.Raw, Meta(description="The resource, as Graph sent it.")] = msgspec.field(
        default_factory=msgspec.Raw
    )

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the event: a second one with this key is a redelivery (CloudEvents: `source` and `id`)."""
        return self.source, self.id

    def typed(self, data: bytes | None = None) -> EventData:
        """The data in the Python type of `type`.

        Args:
            data: the content of the blob that `dataref` names, where the event has no data of its own.

        Raises:
            MalformedInputError: there is no data, or it does not fit the type.
        """
        source = bytes(self.data) if data is None else data
        if not source:
            raise MalformedInputError("the event's data is in the blob that its dataref names", reason="data-elsewhere")
        try:
            return read_leniently(_DATA_DECODERS.get(self.type, _DATA_DECODERS[UNRECOGNIZED]).decode, source)
        except (ValueError, RecursionError) as error:
            raise MalformedInputError(f"the data of a {self.type} does not fit its type", reason="data") from error


_read_events = msgspec.json.Decoder(CloudEvent | list[CloudEvent]).decode


def parse_message(text: str | bytes) -> list[CloudEvent]:
    """Read a queue message: one event, or several in the JSON batch format.

    Args:
        text: the message's text. Base64, which is how a Functions queue trigger expects it, is recognised by itself.

    Raises:
        MalformedInputError: it is neither.
    """
    raw = text.encode() if isinstance(text, str) else text
    try:
        if not raw.lstrip().startswith((b"{", b"[")):
            raw = binascii.a2b_base64(raw, strict_mode=True)
        events = read_leniently(_read_events, raw)
    except (ValueError, RecursionError) as error:
        raise MalformedInputError("not a CloudEvent", reason="not-a-cloudevent") from error
    return events if isinstance(events, list) else [events]
