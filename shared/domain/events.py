"""From a notification's plaintext to a CloudEvent, and back for those who consume it.

Sources: CloudEvents 1.0 (attributes, JSON format, JSON batch format, the Dataref and Distributed Tracing extensions);
the Graph pages on notifications for calls, meetings, emergency calls, call records, presence and online meetings for
the payloads and their spellings.
"""

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec

from shared.domain import resources
from shared.domain.errors import MalformedInputError
from shared.domain.notifications import BYTE_ORDER_MARK, ChangeNotification, Item

UNRECOGNIZED: Final = "Microsoft.Graph.Unrecognized"
JSON_CONTENT_TYPE: Final = "application/json"

_GRAPH: Final = "https://graph.microsoft.com"
_MAX_ID_CHARS: Final = 256
# RFC 3339, with as many digits of a second as Graph likes (seven).
_RFC3339: Final = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})",
    re.ASCII,
)


# --- what Graph says happened ---------------------------------------------------------------------------------------


class _Clues(msgspec.Struct):
    """The few fields of a plaintext that decide its type and time, whatever their types."""

    eventType: Any = None  # noqa: N815 - Graph's names
    callEventType: Any = None  # noqa: N815
    eventDateTime: Any = None  # noqa: N815
    emergencyCallEvent: Any = None  # noqa: N815


_read_clues = msgspec.json.Decoder(_Clues).decode
_read_raw = msgspec.json.Decoder(msgspec.Raw).decode
_read_id = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def event_word(value: object) -> str:
    """Reduce any spelling of an event type to one word in lower case.

    `{Microsoft.Communication.CallEventType.CallStarted}`, `Microsoft.Communication.CallStarted` and `callStarted` are
    all "callstarted"; whatever is not a string is "".
    """
    if not isinstance(value, str):
        return ""
    return value.strip().strip("{}#").rpartition(".")[2].lower()


def _clues(plaintext: bytes) -> tuple[str, Any]:
    """The word and the time in a plaintext; ("", None) where it has none.

    Raises:
        MalformedInputError: it is not JSON in UTF-8.
    """
    try:
        plaintext.decode("utf-8")  # the JSON parser does not look inside what it passes through
        clues = _read_clues(plaintext)
    except msgspec.ValidationError:
        _check_json(plaintext)  # the parser stopped at once where it found something else than an object
        return "", None
    except (ValueError, RecursionError):
        raise _not_json() from None
    nested = clues.emergencyCallEvent if isinstance(clues.emergencyCallEvent, Mapping) else {}
    # The published emergency page nests the event, the entity page has it flat.
    candidates = (nested.get("callEventType"), nested.get("eventType"), clues.eventType, clues.callEventType)
    word = next((found for found in map(event_word, candidates) if found), "")
    return word, nested.get("eventDateTime") or clues.eventDateTime


def _check_json(plaintext: bytes) -> None:
    try:
        _read_raw(plaintext)
    except (ValueError, RecursionError):
        raise _not_json() from None


def _not_json() -> MalformedInputError:
    return MalformedInputError("the content is not JSON", reason="plaintext-not-json")


# --- the event ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """An event ready to be written: the CloudEvents attributes, and `data` as JSON, byte for byte as Graph sent it."""

    queue: str
    attributes: Mapping[str, str]
    data: bytes

    @property
    def id(self) -> str:
        return self.attributes["id"]

    @property
    def type(self) -> str:
        return self.attributes["type"]

    def to_json(self) -> bytes:
        """The event in the CloudEvents JSON format, `data` inline."""
        return b'%b,"data":%b}' % (msgspec.json.encode(self.attributes)[:-1], self.data)

    def to_json_with_ref(self, url: str) -> bytes:
        """The event without its data, and with `dataref` to say where the data lies."""
        return msgspec.json.encode({**self.attributes, "dataref": url})


def event_of(item: Item, plaintext: bytes | None, *, fallback_id: str, received: datetime, traceparent: str) -> Event:
    """Make the event of one authentic notification.

    Args:
        item: the notification.
        plaintext: its decrypted content; None for a basic notification, whose data is `resourceData`.
        fallback_id: names this delivery of this item, for a notification that carries nothing unique.
        received: when it was received; the event's time where Graph gives none.
        traceparent: W3C trace context.

    Raises:
        MalformedInputError: the plaintext is not JSON.
    """
    notification = item.notification
    kind = notification.kind
    data = _basic_data(item) if plaintext is None else plaintext.removeprefix(BYTE_ORDER_MARK)
    word, when = _clues(data)
    if kind is resources.CALL_RECORDS:
        word = event_word(notification.change_type)
    elif plaintext is None and kind is not None and kind.rich is resources.Rich.ALWAYS:
        word = ""  # what Graph only ever says encrypted is not believed in the clear
    event_type = UNRECOGNIZED if kind is None else kind.event_types.get(word, UNRECOGNIZED)
    attributes = {
        "specversion": "1.0",
        "id": _event_id(notification) or fallback_id,
        "source": _source(notification, kind),
        "type": event_type,
        "datacontenttype": JSON_CONTENT_TYPE,
        "dataschema": schema_id(event_type),
        "time": when if isinstance(when, str) and _is_time(when) else received.astimezone(UTC).isoformat(),
        "traceparent": traceparent,
    }
    optional = {
        "subject": notification.resource,
        "tenantid": notification.tenant,
        "subscriptionid": notification.subscription_id,
        "changetype": notification.change_type,
    }
    # CloudEvents knows no empty attribute.
    attributes |= {name: value for name, value in optional.items() if isinstance(value, str) and value}
    queue = resources.UNRECOGNIZED_QUEUE if kind is None else kind.events_queue
    return Event(queue, attributes, data)


def schema_id(event_type: str) -> str:
    """The `dataschema` of a type, which is the ``$id`` of the JSON Schema published for it."""
    return f"urn:switchboard:schema:{event_type.removeprefix('Microsoft.Graph.')}:1"


def _event_id(notification: ChangeNotification) -> str | None:
    """The id that every redelivery of a notification shares, or None where it carries nothing unique."""
    if isinstance(notification.id, str) and 0 < len(notification.id) <= _MAX_ID_CHARS:
        return notification.id
    if not notification.has_content:
        return None
    try:
        signature = _read_id(notification.encrypted_content).get("dataSignature", msgspec.Raw(b""))
        # The key is single-use, so the signature is unique; decoding it first makes every base64 spelling one.
        return binascii.a2b_base64(msgspec.json.decode(signature, type=str), strict_mode=True).hex() or None
    except (ValueError, RecursionError):
        return None


def _source(notification: ChangeNotification, kind: resources.ResourceKind | None) -> str:
    version = "v1.0" if kind is None else kind.api_version
    subscription = notification.subscription_id
    if not isinstance(subscription, str) or not subscription:
        return f"{_GRAPH}/{version}/subscriptions"
    return f"{_GRAPH}/{version}/subscriptions/{quote(subscription, safe='')}"


def _is_time(text: str) -> bool:
    if _RFC3339.fullmatch(text) is None:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:  # the 31st of February, an offset of 99 hours
        return False
    return True


def _basic_data(item: Item) -> bytes:
    """What a basic notification says, verbatim: its `resourceData`, else all but the secret and the ciphertext."""
    fields = _read_id(item.raw)
    data = fields.get("resourceData")
    if data is not None and isinstance(item.notification.resource_data, Mapping):
        return bytes(data)
    return msgspec.json.encode({k: v for k, v in fields.items() if k not in {"clientState", "encryptedContent"}})


# --- for consumers --------------------------------------------------------------------------------------------------


class _Graph(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What all of Graph's payloads share. Unknown fields are ignored; every known one may be absent."""

    odata_type: str | None = msgspec.field(default=None, name="@odata.type")
    odata_id: str | None = msgspec.field(default=None, name="@odata.id")
    id: str | None = None


class Identity(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One identity of a communicationsIdentitySet."""

    id: str | None = None
    display_name: str | None = None
    tenant_id: str | None = None


class ParticipantInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`identity` has a key for each kind of identity: user, guest, phone, application…"""

    identity: dict[str, Identity | None] | None = None


class RemovedState(msgspec.Struct, frozen=True, kw_only=True):
    """Why a participant left."""

    reason: str | None = None


class Participant(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One change of a roster. With `removed_state` the participant has left or is inactive."""

    id: str | None = None
    info: ParticipantInfo | None = None
    is_in_lobby: bool | None = None
    removed_state: RemovedState | None = None


class CallEventData(_Graph, frozen=True, kw_only=True):
    """A call of a subscribed user: `CallStarted`, `CallEnded`, `CallRosterUpdated`."""

    event_type: str | None = None
    call_event_type: str | None = None
    event_date_time: str | None = None
    direction: str | None = None
    join_call_url: str | None = None
    call_id: str | None = None
    participants_delta: tuple[Participant, ...] = msgspec.field(default=(), name="participants@delta")


class MeetingCallEventData(_Graph, frozen=True, kw_only=True):
    """A meeting's call: `MeetingCallStarted`, `MeetingCallEnded`, `MeetingRosterUpdated`.

    Older payloads (`#Microsoft.Graph.onlineMeeting`) carry the roster in the `activeParticipants@…` fields, in a shape
    of their own, which stays untyped.
    """

    event_type: str | None = None
    event_date_time: str | None = None
    state: str | None = None
    participants_delta: tuple[Participant, ...] = msgspec.field(default=(), name="participants@delta")
    active_participants_delta: list[Any] = msgspec.field(default_factory=list, name="activeParticipants@delta")
    active_participants_joined: list[Any] = msgspec.field(default_factory=list, name="activeParticipants@joined")
    active_participants_remove: list[Any] = msgspec.field(default_factory=list, name="activeParticipants@remove")
    active_participants_exited: list[Any] = msgspec.field(default_factory=list, name="activeParticipants@exited")


class CallerAddress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A civic address; `additional_data` as Graph sends it (companyName, houseNumber…)."""

    street: str | None = None
    city: str | None = None
    state: str | None = None
    country_or_region: str | None = None
    postal_code: str | None = None
    additional_data: dict[str, Any] | None = None


class Coordinates(msgspec.Struct, frozen=True, kw_only=True):
    """Degrees; Graph's sample has strings, its entity page numbers."""

    latitude: str | float | None = None
    longitude: str | float | None = None


class CallerLocation(msgspec.Struct, frozen=True, kw_only=True):
    """Where an emergency call came from."""

    address: CallerAddress | None = None
    coordinates: Coordinates | None = None


class CallerInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who made an emergency call."""

    display_name: str | None = None
    upn: str | None = None
    phone_number: str | None = None
    tenant_id: str | None = None
    location: CallerLocation | None = None


class EmergencyCall(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An emergency call."""

    id: str | None = None
    call_event_type: str | None = None
    policy_name: str | None = None
    event_date_time: str | None = None
    emergency_number_dialed: str | None = None
    caller_info: CallerInfo | None = None


class EmergencyCallEventData(_Graph, frozen=True, kw_only=True):
    """`EmergencyCallStarted`, `EmergencyCallEnded`. There are two shapes, nested and flat: `call` reads both."""

    emergency_call_event: EmergencyCall | None = None
    call_event_type: str | None = None
    policy_name: str | None = None
    event_date_time: str | None = None
    emergency_number_dialed: str | None = None
    caller_info: CallerInfo | None = None

    @property
    def call(self) -> EmergencyCall:
        """The emergency call, from whichever shape it came in."""
        return self.emergency_call_event or EmergencyCall(
            id=self.id,
            call_event_type=self.call_event_type,
            policy_name=self.policy_name,
            event_date_time=self.event_date_time,
            emergency_number_dialed=self.emergency_number_dialed,
            caller_info=self.caller_info,
        )


class CallRecordData(_Graph, frozen=True, kw_only=True):
    """`CallRecordCreated`, `CallRecordUpdated`: `id` is the call record's; the record itself is read from Graph."""


class PresenceData(_Graph, frozen=True, kw_only=True):
    """`PresenceUpdated`. A basic notification has no availability and no activity."""

    availability: str | None = None
    activity: str | None = None


class OnlineMeetingData(_Graph, frozen=True, kw_only=True):
    """`OnlineMeetingUpdated`."""

    event_type: str | None = None
    event_date_time: str | None = None
    state: str | None = None


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

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    time: datetime
    datacontenttype: str | None = None
    dataschema: str | None = None
    subject: str | None = None
    tenantid: str | None = None
    subscriptionid: str | None = None
    changetype: str | None = None
    traceparent: str | None = None
    dataref: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")

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
            return _DATA_DECODERS.get(self.type, _DATA_DECODERS[UNRECOGNIZED]).decode(source)
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
        events = _read_events(raw)
    except (ValueError, RecursionError) as error:
        raise MalformedInputError("not a CloudEvent", reason="not-a-cloudevent") from error
    return events if isinstance(events, list) else [events]
