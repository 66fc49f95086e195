"""From a notification's plaintext to a CloudEvent.

The form of an event is that of CloudEvents 1.0: attributes, JSON format, JSON batch format, and the extensions Dataref
and Distributed Tracing (https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents). The payloads and their spellings
are those of Graph's pages on each resource, which `shared.values.resources` names.
"""

import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Meta

from shared.values import resources
from shared.values.errors import MalformedInputError
from shared.values.events.unusual_json import read_leniently, replace_lone_surrogates
from shared.values.items import BYTE_ORDER_MARK, ChangeNotification, Item
from shared.values.resource_row import ResourceKind, Rich

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
_NOTHING: Final = msgspec.Raw()


class _Clues(msgspec.Struct):
    """The few fields of a plaintext that decide its type and time; any of them may be missing or no string."""

    eventType: msgspec.Raw = _NOTHING  # noqa: N815 - Graph's names
    callEventType: msgspec.Raw = _NOTHING  # noqa: N815
    eventDateTime: msgspec.Raw = _NOTHING  # noqa: N815
    endDateTime: msgspec.Raw = _NOTHING  # noqa: N815
    createdDateTime: msgspec.Raw = _NOTHING  # noqa: N815
    emergencyCallEvent: msgspec.Raw = _NOTHING  # noqa: N815


_NO_CLUES: Final = _Clues()


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
            plaintext.decode()  # the JSON parser does not check what it passes over
        try:
            clues = _read_clues(plaintext)
        except msgspec.ValidationError:
            _read_raw(plaintext)  # the parser stopped where it saw that this is no object
            return _NO_OBJECT, None
        # The page about emergency calls nests the event; that of the entity has it flat.
        is_nested = clues.emergencyCallEvent and bytes(clues.emergencyCallEvent)[:1] == b"{"
        nested = _read_clues(clues.emergencyCallEvent) if is_nested else _NO_CLUES
        words = (nested.callEventType, nested.eventType, clues.eventType, clues.callEventType)
        times = (nested.eventDateTime, *(getattr(clues, name) for name in time_fields))
        return (
            next(filter(None, map(event_word, _texts(words))), ""),
            next(filter(_is_time, _texts(times)), None),
        )
    except (ValueError, RecursionError):
        raise _not_json() from None


def _texts(values: Iterable[msgspec.Raw]) -> Iterator[str]:
    """Those of some values that are strings."""
    return (_read_string(raw) for raw in values if raw and bytes(raw)[:1] == b'"')


def _not_json() -> MalformedInputError:
    return MalformedInputError("the content is not JSON", reason="plaintext-not-json")


# --- the event ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """An event ready to be written: the CloudEvents attributes, and `data`, JSON byte for byte as Graph sent it."""

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
        plaintext: its decrypted content; None for a basic notification, of which only ids are believed.
        fallback_id: names this delivery of this item, for a notification that carries nothing unique.
        received: when it was received, aware; the event's time where Graph gives none.
        traceparent: W3C trace context.
        backfilled: nobody sent the notification. It stands for one that was missed, and holds the call record.

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
    # Graph always encrypts the content of some resources, so a notification without content is not one of Graph's.
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

    Its id is that of the record and its version. So the same version is the same event, in whichever way and however
    often it has become known.

    Raises:
        MalformedInputError: it is no callRecord ("callRecord resource type",
            https://learn.microsoft.com/graph/api/resources/callrecords-callrecord).
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
        # The key is used once, so the signature is unique. It is decoded because base64 has several spellings of it.
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
    """`resourceData` as it is: the record, of what is backfilled."""
    return bytes(_read_fields(item.raw).get("resourceData", b"null"))


def _unsigned_data(item: Item) -> bytes:
    """What is believed of an item without encrypted content, which anybody who knows the secret could have written.

    That is what names the resource in `resourceData`; and of an item of an unknown kind without it, the item's fields.
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
