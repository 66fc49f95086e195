"""From a notification's plaintext to a CloudEvent.

Sources: CloudEvents 1.0 (attributes, JSON format, JSON batch format, the Dataref and Distributed Tracing extensions);
the Graph pages on notifications for calls, meetings, emergency calls, call records, presence and online meetings for
the payloads and their spellings.
"""

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Meta

from shared.values import resources
from shared.values.errors import MalformedInputError
from shared.values.items import BYTE_ORDER_MARK, ChangeNotification, Item
from shared.values.resource_row import ResourceKind, Rich
from shared.values.unusual_json import read_leniently, replace_lone_surrogates

JSON_CONTENT_TYPE: Final = "application/json"

_GRAPH: Final = "https://graph.microsoft.com"
CALL_RECORDS_SOURCE: Final = f"{_GRAPH}/v1.0/communications/callRecords"
"""The source of events that carry a call record: the same in whichever way the record has become known."""

_MAX_ID_CHARS: Final = 256
_NAMES: Final = frozenset({"id", "@odata.type", "@odata.id", "@odata.etag"})
_HIDDEN: Final = frozenset({"clientState", "encryptedContent"})
# RFC 3339, with as many digits of a second as Graph likes (seven).
_RFC3339: Final = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})",
    re.ASCII,
)


# --- what Graph says happened ---------------------------------------------------------------------------------------


_NO_OBJECT: Final = "-"  # a word that no row knows
_TIME_FIELDS: Final = ("eventDateTime",)


class _Clues(msgspec.Struct):
    """The few fields of a plaintext that decide its type and time, whatever their types."""

    eventType: Any = None  # noqa: N815 - Graph's names
    callEventType: Any = None  # noqa: N815
    eventDateTime: Any = None  # noqa: N815
    endDateTime: Any = None  # noqa: N815
    createdDateTime: Any = None  # noqa: N815
    emergencyCallEvent: Any = None  # noqa: N815


class _RecordClues(msgspec.Struct):
    """What names a version of a call record, and when it was made."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    version: int = 0
    lastModifiedDateTime: Any = None  # noqa: N815


_read_record_clues = msgspec.json.Decoder(_RecordClues).decode
_read_clues = msgspec.json.Decoder(_Clues).decode
_read_raw = msgspec.json.Decoder(msgspec.Raw).decode
_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_string = msgspec.json.Decoder(str).decode


def event_word(value: object) -> str:
    """Reduce any spelling of an event type to one word in lower case.

    `{Microsoft.Communication.CallEventType.CallStarted}`, `Microsoft.Communication.CallStarted` and `callStarted` are
    all "callstarted"; whatever is not a string is "".
    """
    if not isinstance(value, str):
        return ""
    return value.strip().strip("{}#").rpartition(".")[2].lower()


def _clues(plaintext: bytes, time_fields: tuple[str, ...]) -> tuple[str, str | None]:
    """The word and the time in a plaintext; "" and None where it has none, `_NO_OBJECT` where it is no object.

    Args:
        plaintext: the decrypted content.
        time_fields: where the time stands, by preference.

    Raises:
        MalformedInputError: it is not JSON in UTF-8.
    """
    try:
        return _strict_clues(plaintext, time_fields)
    except MalformedInputError:
        mended = replace_lone_surrogates(plaintext)
        if mended is plaintext:
            raise
        return _strict_clues(mended, time_fields)


def _strict_clues(plaintext: bytes, time_fields: tuple[str, ...]) -> tuple[str, str | None]:
    try:
        if not plaintext.isascii():
            plaintext.decode()  # the JSON parser does not look inside what it passes through
        clues = _read_clues(plaintext)
    except msgspec.ValidationError:
        _check_json(plaintext)  # the parser stopped at once where it found something that it makes no value of
        fields = _strings(plaintext)
        if fields is None:
            return _NO_OBJECT, None
        clues = _Clues(*(fields.get(name) for name in _Clues.__struct_fields__))
    except (ValueError, RecursionError):
        raise _not_json() from None
    nested = clues.emergencyCallEvent if isinstance(clues.emergencyCallEvent, dict) else {}
    # The published emergency page nests the event, the entity page has it flat.
    candidates = (nested.get("callEventType"), nested.get("eventType"), clues.eventType, clues.callEventType)
    word = next(filter(None, map(event_word, candidates)), "")
    times = (nested.get("eventDateTime"), *(getattr(clues, name) for name in time_fields))
    return word, next((time for time in times if isinstance(time, str) and _is_time(time)), None)


def _strings(data: msgspec.Raw | bytes, *, nested: bool = True) -> dict[str, Any] | None:
    """The strings of an object, and those of the objects in it; None where it is none.

    Numbers, of which the parser takes some (`1e999`) for none, and all the rest are left out.
    """
    try:
        fields = _read_fields(data)
    except msgspec.ValidationError:
        return None
    strings: dict[str, Any] = {}
    for name, raw in fields.items():
        match bytes(raw)[:1]:
            case b'"':
                strings[name] = _read_string(raw)
            case b"{" if nested:
                strings[name] = _strings(raw, nested=False)
    return strings


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


def event_of(
    item: Item,
    plaintext: bytes | None,
    *,
    fallback_id: str,
    received: datetime,
    traceparent: str,
    backfilled: bool = False,
) -> Event:
    """Make the event of one authentic notification.

    Args:
        item: the notification.
        plaintext: its decrypted content; None for a basic notification, of which nothing but ids is believed.
        fallback_id: names this delivery of this item, for a notification that carries nothing unique.
        received: when it was received, aware; the event's time where Graph gives none.
        traceparent: W3C trace context.
        backfilled: nobody sent it; it stands for a notification that was missed, and holds the call record.

    Raises:
        MalformedInputError: the plaintext is not JSON, or what was backfilled is no call record.
    """
    notification = item.notification
    kind = notification.kind
    word, when = "", None
    if plaintext is not None:
        data = plaintext.removeprefix(BYTE_ORDER_MARK)
        word, when = _clues(data, _TIME_FIELDS if kind is None else kind.time_fields)
    else:
        data = _resource_data(item) if backfilled else _unsigned_data(item)
    if kind is not None and kind.typed_by_change and word is not _NO_OBJECT:
        word = event_word(notification.change_type)
    # What Graph only ever says encrypted is not believed in the clear.
    is_believed = kind is not None and not (plaintext is None and kind.rich is Rich.ALWAYS)
    known = kind.event_types.get(word) if kind is not None and is_believed else None
    event_type = resources.UNRECOGNIZED if known is None else known.name
    attributes = {
        "specversion": "1.0",
        "id": _event_id(notification) or fallback_id,
        "source": _source(notification, kind),
        "type": event_type,
        "datacontenttype": JSON_CONTENT_TYPE,
        "dataschema": schema_id(event_type),
        "time": when or received.isoformat(),
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
    event = Event(queue, attributes, data)
    if not backfilled:
        return event
    return with_record(replace(event, attributes={**attributes, "backfilled": "true"}), data)


def with_record(event: Event, record: bytes) -> Event:
    """The event of a call record that carries the record itself.

    It is named after the record and its version, and not after a delivery or subscription, so that the same version is
    the same event in whichever way, and however often, it has become known.

    Raises:
        MalformedInputError: it is no callRecord ("callRecord resource type").
    """
    try:
        clues = read_leniently(_read_record_clues, record)
    except (ValueError, RecursionError):
        raise MalformedInputError("not a call record", reason="call-record-malformed") from None
    modified = clues.lastModifiedDateTime
    attributes = {**event.attributes, "id": f"{clues.id}/{clues.version}", "source": CALL_RECORDS_SOURCE}
    if isinstance(modified, str) and _is_time(modified):
        attributes["time"] = modified
    return replace(event, attributes=attributes, data=record)


def record_id_of(event: Event) -> str:
    """The id of the call record that an event's data names; "" where it names none."""
    try:
        return read_leniently(_read_record_clues, event.data).id
    except (ValueError, RecursionError):
        return ""


def schema_id(event_type: str) -> str:
    """The `dataschema` of a type, which is the ``$id`` of the JSON Schema published for its data."""
    return f"urn:switchboard:schema:{event_type.removeprefix('Microsoft.Graph.')}:2"


def _event_id(notification: ChangeNotification) -> str | None:
    """The id that every redelivery of a notification shares, or None where it carries nothing unique."""
    if isinstance(notification.id, str) and 0 < len(notification.id) <= _MAX_ID_CHARS:
        return notification.id
    content = notification.encrypted_content
    signature = content.get("dataSignature") if isinstance(content, dict) else None
    if not isinstance(signature, str):
        return None
    try:
        # The key is single-use, so the signature is unique; decoding it first makes every base64 spelling one.
        return binascii.a2b_base64(signature, strict_mode=True).hex() or None
    except ValueError:
        return None


def _source(notification: ChangeNotification, kind: ResourceKind | None) -> str:
    version = "v1.0" if kind is None else kind.form(notification.resource).api_version
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


def _resource_data(item: Item) -> bytes:
    """`resourceData` as it is; what is backfilled has the whole record there."""
    return bytes(_read_fields(item.raw).get("resourceData", b"null"))


def _unsigned_data(item: Item) -> bytes:
    """What is believed of an item without encrypted content, which anybody who knows the secret could have written.

    Of `resourceData` that is what names the resource. An item of an unknown kind that has none keeps its own fields.
    """
    kind, fields = item.notification.kind, _read_fields(item.raw)
    inner = fields.pop("resourceData", msgspec.Raw(b"null"))
    if bytes(inner)[:1] == b"{":
        said = {name: raw for name, raw in _read_fields(inner).items() if name in _NAMES and bytes(raw)[:1] == b'"'}
    elif kind is None:
        said = {name: raw for name, raw in fields.items() if name not in _HIDDEN}
    else:
        said = {}
    # The path names the resource; the id beside it has been seen to be a user's.
    if kind is not None and (named := kind.id_of(item.notification.resource)) is not None:
        said["id"] = msgspec.Raw(msgspec.json.encode(named))
    return msgspec.json.encode(said)
