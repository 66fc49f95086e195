"""The items that Graph posts.

Source: "changeNotification resource type" (https://learn.microsoft.com/graph/api/resources/changenotification).
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeGuard

import msgspec

from shared.values import resources
from shared.values.errors import MalformedInputError
from shared.values.resource_row import ResourceKind, Rich

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # some writers put one; JSON knows none

_OLDER_CONTENT: Final = b'"EncryptedContent"'
_PLAIN_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")


class ChangeNotification(msgspec.Struct, frozen=True, dict=True, rename="camel"):
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
    def certificate_id(self) -> str | None:
        """The certificate that its encrypted content names; None where it has none, or names none."""
        content = self.encrypted_content
        value = content.get("encryptionCertificateId") if isinstance(content, dict) else None
        return value if isinstance(value, str) else None

    @cached_property
    def kind(self) -> ResourceKind | None:
        """The row of the catalogue."""
        return resources.match(self.resource, resources.odata_type_of(self.resource_data))

    @cached_property
    def tenant(self) -> str | None:
        """The tenant, lower case: `tenantId`, else `organizationId`."""
        for value in (self.tenant_id, self.organization_id):
            if isinstance(value, str) and value:
                return value.lower()
        return None

    @cached_property
    def needs_token(self) -> bool:
        """Whether only a validation token can show that the item is Graph's.

        A resource that has nothing but rich notifications needs one even for an item without content: else leaving the
        content out would be a way around the tokens. A lifecycle notification needs none, whichever fields it has:
        Graph's pages show them without tokens, and no content of them is read.
        """
        if self.lifecycle_event is not None and self.change_type is None:
            return False
        kind = self.kind
        return self.has_content or (kind is not None and kind.rich is Rich.ALWAYS)

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


_decode_notification = msgspec.json.Decoder(ChangeNotification).decode


_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def parse_item(raw: bytes) -> Item:
    """Parse one notification.

    Raises:
        MalformedInputError: it is not a JSON object.
    """
    try:
        if _OLDER_CONTENT in raw:
            raw = _in_todays_spelling(raw)
        return Item(raw, _decode_notification(raw))
    except (ValueError, RecursionError):
        raise MalformedInputError("not a change notification", reason="item-malformed") from None


def _in_todays_spelling(raw: bytes) -> bytes:
    """An item whose content is called as it is today.

    An older copy of "Get change notifications for transcripts and recordings using Microsoft Graph"
    (https://learn.microsoft.com/graph/teams-changenotifications-callrecording-and-calltranscript) writes it with a
    capital letter.
    """
    fields = _read_fields(raw)
    content = fields.pop("EncryptedContent", None)
    if content is None:
        return raw
    return msgspec.json.encode({"encryptedContent": content} | fields)


def with_tenant(item: Item, tenant_id: str) -> Item:
    """The same item, of a tenant that it does not name itself.

    Of duplicate keys the last counts, so that one that is null or no text does not undo it.
    """
    raw = b'%b,"tenantId":%b}' % (item.raw.rstrip()[:-1], msgspec.json.encode(tenant_id))
    return parse_item(raw)


def is_plain_id(value: object) -> TypeGuard[str]:
    """Whether it has the shape of Graph's ids, so that it may stand in a URL or a log line as it is."""
    return isinstance(value, str) and _PLAIN_ID.fullmatch(value) is not None
