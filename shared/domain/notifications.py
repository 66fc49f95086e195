"""The change-notification collection that Graph posts, and the raw messages that carry its items onward.

Sources: "changeNotificationCollection" and "changeNotification" resource types (Microsoft Graph).

A raw message is an envelope, in JSON::

    {"v": 1, "id": "…", "first": 0, "received": "2026-01-01T00:00:00Z", "traceparent": "00-…", "notifications": [ … ]}

`notifications` holds items exactly as Graph sent them; `first` is the place of the first of them in what `id` names,
so that ``{id}-{place}`` names an item for good. Where one item is too large for a queue message the envelope lies in a
blob (claim check) and the message is the same envelope with ``"claim": "{blob name}"`` and no notifications. What has
failed for now and was put back says so: ``"attempts": 3, "failing_since": "2026-01-01T00:00:00Z"``.
"""

import hmac
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from shared.domain import resources
from shared.domain.errors import MalformedInputError
from shared.domain.queue_text import QUEUE_MESSAGE_BYTES, base64_bytes

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # some writers put one; JSON knows none

_ENVELOPE_VERSION: Final = 1
# Room that `pack` leaves, so that a message which is put back still fits.
_RETRY_BYTES: Final = len('"attempts":100000,"failing_since":"2026-01-01T00:00:00.000000Z",')
_PACKED_BYTES: Final = QUEUE_MESSAGE_BYTES - base64_bytes(_RETRY_BYTES)


class ChangeNotification(msgspec.Struct, frozen=True, rename="camel"):
    """One item of a collection. Every field may be missing or of any type: nothing is trusted before it is checked."""

    id: Any = None
    subscription_id: Any = None
    client_state: Any = None
    change_type: Any = None
    lifecycle_event: Any = None
    tenant_id: Any = None
    organization_id: Any = None
    resource: Any = None
    resource_data: Any = None
    encrypted_content: Any = None

    @property
    def has_content(self) -> bool:
        """Whether there is encrypted content."""
        return self.encrypted_content is not None

    @property
    def kind(self) -> resources.ResourceKind | None:
        """The row of the catalogue."""
        return resources.match(self.resource, resources.odata_type_of(self.resource_data))

    @property
    def tenant(self) -> str | None:
        """The tenant, lower case: `tenantId`, else `organizationId`."""
        for value in (self.tenant_id, self.organization_id):
            if isinstance(value, str) and value:
                return value.lower()
        return None

    @property
    def needs_token(self) -> bool:
        """Whether only a validation token can show that the item is Graph's.

        A resource that has nothing but rich notifications needs one even for an item without content: else leaving the
        content out would be a way around the tokens.
        """
        kind = self.kind
        return self.has_content or (kind is not None and kind.rich is resources.Rich.ALWAYS)

    @property
    def queues(self) -> tuple[str, ...]:
        """The raw queues it belongs on.

        `changeType` and `lifecycleEvent` exclude each other ("changeNotification resource type"). An item with both
        goes both ways: acting on a lifecycle notification twice is harmless, and neither reading is lost.
        """
        if self.lifecycle_event is None:
            return (self._change_queue,)
        if self.change_type is None:
            return (resources.LIFECYCLE_QUEUE,)
        return (resources.LIFECYCLE_QUEUE, self._change_queue)

    @property
    def _change_queue(self) -> str:
        kind = self.kind
        return resources.RAW_QUEUE if kind is None else kind.raw_queue


@dataclass(frozen=True, slots=True)
class Item:
    """A notification and its own bytes."""

    raw: bytes
    notification: ChangeNotification


@dataclass(frozen=True, slots=True)
class Collection:
    """What one POST carried. `malformed` counts items that are not even JSON objects of a known shape."""

    items: tuple[Item, ...]
    malformed: int
    validation_tokens: tuple[str, ...]


class _CollectionBody(msgspec.Struct):
    value: list[msgspec.Raw]
    validationTokens: list[Any] | None = None  # noqa: N815 - Graph's name


_decode_collection = msgspec.json.Decoder(_CollectionBody).decode
_decode_notification = msgspec.json.Decoder(ChangeNotification).decode


def parse_collection(body: bytes) -> Collection:
    """Parse the body of a POST.

    Raises:
        MalformedInputError: it is not JSON in UTF-8, or not a changeNotificationCollection; the message says which.
    """
    body = body.removeprefix(BYTE_ORDER_MARK)
    if not body.strip():
        raise MalformedInputError("the body is empty", reason="empty-body")
    try:
        body.decode()  # the JSON parser does not look inside what it passes through
        parsed = _decode_collection(body)
    except UnicodeDecodeError:
        raise MalformedInputError("the body is not UTF-8", reason="not-utf-8") from None
    except msgspec.ValidationError:
        raise MalformedInputError(
            "the body is not a change notification collection: an object with an array named value", reason="shape"
        ) from None
    except (msgspec.DecodeError, RecursionError):
        raise MalformedInputError("the body is not JSON", reason="not-json") from None
    tokens = tuple(token for token in parsed.validationTokens or () if isinstance(token, str))
    items = tuple(_items(parsed.value))
    return Collection(items, len(parsed.value) - len(items), tuple(dict.fromkeys(tokens)))


def _items(raws: Iterable[msgspec.Raw]) -> Iterator[Item]:
    for raw in raws:
        try:
            yield parse_item(bytes(raw))
        except MalformedInputError:
            continue


def parse_item(raw: bytes) -> Item:
    """Parse one notification.

    Raises:
        MalformedInputError: it is not a JSON object.
    """
    try:
        return Item(raw, _decode_notification(raw))
    except (ValueError, RecursionError):
        raise MalformedInputError("not a change notification", reason="item-malformed") from None


def client_state_matches(notification: ChangeNotification, accepted: Sequence[str]) -> bool:
    """Compare `clientState` with each accepted value, in a time that tells nothing about them."""
    given = notification.client_state
    if not isinstance(given, str):
        return False
    encoded = given.encode(errors="surrogatepass")
    matches = [hmac.compare_digest(encoded, value.encode()) for value in accepted if value]
    return any(matches)


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """A raw message. `received` is when the POST arrived; `traceparent` is W3C's.

    `attempts` counts the tries before it was put on its queue once more; `failing_since` is when the first one failed.
    `backfilled` says that nobody posted it: it stands for notifications that were missed.
    """

    v: Literal[1]
    id: str
    received: datetime
    traceparent: str
    first: int = 0
    notifications: tuple[msgspec.Raw, ...] = ()
    claim: str | None = None
    attempts: int = 0
    failing_since: datetime | None = None
    backfilled: bool = False

    def item_id(self, index: int) -> str:
        """The lasting name of the item at `index` of `notifications`."""
        return f"{self.id}-{self.first + index}"

    def part(self, start: int, stop: int) -> "Envelope":
        """The items from `start` up to `stop`, under the names that they have here."""
        return msgspec.structs.replace(self, first=self.first + start, notifications=self.notifications[start:stop])


_decode_envelope = msgspec.json.Decoder(Envelope).decode


def parse_envelope(text: str | bytes) -> Envelope:
    """Parse a raw message.

    Raises:
        MalformedInputError: it is not one of ours.
    """
    try:
        return _decode_envelope(text)
    except (ValueError, RecursionError):
        raise MalformedInputError("not a raw message of Switchboard's", reason="raw-message-malformed") from None


@dataclass(frozen=True, slots=True)
class RawMessage:
    """What to put on a raw queue: `body` itself, or, where it is too large, a claim on the blob `claim_name`."""

    body: bytes
    claim_name: str | None
    claim_ticket: bytes | None

    @property
    def queue_body(self) -> bytes:
        return self.body if self.claim_ticket is None else self.claim_ticket


def pack(
    raws: Sequence[bytes],
    *,
    delivery_id: str,
    received: datetime,
    traceparent: str,
    backfilled: bool = False,
) -> list[RawMessage]:
    """Pack notifications into as few raw messages as their limit allows, in their order.

    Args:
        raws: notifications as Graph sent them.
        delivery_id: unique to these notifications, on this queue.
        received: when they arrived.
        traceparent: W3C trace context.
        backfilled: they were missed, and are made up from what Graph lists.
    """
    whole = Envelope(
        v=_ENVELOPE_VERSION,
        id=delivery_id,
        received=received,
        traceparent=traceparent,
        notifications=tuple(map(msgspec.Raw, raws)),
        backfilled=backfilled,
    )
    messages = []
    start = 0
    while start < len(raws):
        stop = start + 1
        size = len(msgspec.json.encode(whole.part(start, start))) + len('"notifications":[],') + len(raws[start])
        while stop < len(raws) and base64_bytes(size + len(",") + len(raws[stop])) <= _PACKED_BYTES:
            size += len(",") + len(raws[stop])
            stop += 1
        messages.append(to_message(whole.part(start, stop), limit=_PACKED_BYTES))
        start = stop
    return messages


def to_message(envelope: Envelope, *, limit: int = QUEUE_MESSAGE_BYTES) -> RawMessage:
    """The raw message of an envelope: a claim check where it exceeds the limit, which only a single item ever does.

    Args:
        envelope: with its notifications.
        limit: bytes of a message as it is stored, after base64.
    """
    body = msgspec.json.encode(envelope)
    if base64_bytes(len(body)) <= limit:
        return RawMessage(body, None, None)
    name = f"{envelope.received:%Y/%m/%d}/{envelope.item_id(0)}.json"
    ticket = msgspec.structs.replace(envelope, notifications=(), claim=name)
    return RawMessage(body, name, msgspec.json.encode(ticket))
