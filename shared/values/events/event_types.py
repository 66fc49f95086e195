"""The events as those who consume them read them: their types, and the text of a queue message.

Imports msgspec alone, and so does what it imports relatively, since consumers get these very files.
"""

import binascii
from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from .event_data import DATA_TYPES, EventData
from .event_parts import doc
from .unusual_json import read_leniently

_DATA_DECODERS: Final = {name: msgspec.json.Decoder(shape) for name, shape in DATA_TYPES.items()}
_read_anything: Final = msgspec.json.Decoder()


class EventError(ValueError):
    """A message holds no event, or an event's data is not of its type or not in the message."""


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
    dataschema: Annotated[str | None, Meta(description="`$id` of the JSON Schema that `data` adheres to.")] = None
    subject: Annotated[str | None, Meta(description="The notification's `resource`, as Graph sent it.")] = None
    tenantid: Annotated[str | None, Meta(description="Id of the Entra ID tenant that it happened in.")] = None
    subscriptionid: Annotated[str | None, Meta(description="Id of the Graph subscription.")] = None
    changetype: Annotated[
        str | None, doc("Graph's `changeType`.", "created", "updated", "deleted", "unknownFutureValue")
    ] = None
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

        Returns:
            One of the types in `event_data`; what JSON decodes to where the event's type is unknown.

        Raises:
            EventError: there is no data, or it does not fit the type.
        """
        source = bytes(self.data) if data is None else data
        if not source:
            raise EventError("the event's data is in the blob that its dataref names")
        try:
            return read_leniently(_DATA_DECODERS.get(self.type, _read_anything).decode, source)
        except (ValueError, RecursionError) as error:
            raise EventError(f"the data of a {self.type} does not fit its type") from error


_read_events = msgspec.json.Decoder(CloudEvent | list[CloudEvent]).decode


def parse(message: str | bytes) -> list[CloudEvent]:
    """Read a queue message: one event, or several in the JSON batch format.

    Args:
        message: its text. Base64, which is how a Functions queue trigger expects it, is recognised by itself.

    Returns:
        The events in their order; one of one where the message is no batch.

    Raises:
        EventError: it is neither.
    """
    try:
        raw = message.encode() if isinstance(message, str) else message
        if not raw.lstrip().startswith((b"{", b"[")):
            raw = binascii.a2b_base64(raw, strict_mode=True)
        events = read_leniently(_read_events, raw)
    except (ValueError, RecursionError) as error:
        raise EventError("the message is not a CloudEvent") from error
    return events if isinstance(events, list) else [events]
