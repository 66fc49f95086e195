"""The change-notification collection that Graph posts.

Sources: "changeNotificationCollection" and "changeNotification" resource types (Microsoft Graph).
"""

import hmac
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from shared.domain import resources
from shared.domain.errors import MalformedInputError

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # some writers put one; JSON knows none


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
