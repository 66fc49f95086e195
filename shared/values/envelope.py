"""Raw messages: how notifications travel from where they are received to where they are handled.

A raw message is an envelope, in JSON::

    {"v": 1, "id": "…", "first": 0, "received": "2026-01-01T00:00:00Z", "traceparent": "00-…", "notifications": [ … ]}

`notifications` holds items exactly as Graph sent them; `first` is the place of the first of them in what `id` names,
so that ``{id}-{place}`` names an item for good. Where one item is too large for a queue message the envelope lies in a
blob (claim check) and the message, its ticket, is the same envelope with ``"claim": "{blob name}"`` and no
notifications. What has failed for now and was put back says so:
``"attempts": 3, "failing_since": "2026-01-01T00:00:00Z"``.

The platform tries a queue message five times and then gives it up (`maxDequeueCount`, "Azure Queue storage trigger",
https://learn.microsoft.com/azure/azure-functions/functions-bindings-storage-queue-trigger). An outage of minutes lasts
longer than that. So what fails for a reason that may pass is put back as a new message, which stays invisible for a
while, and the platform's count begins anew.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from shared.values.errors import MalformedInputError
from shared.values.message_text import QUEUE_MESSAGE_BYTES, base64_bytes
from shared.values.resources import EMERGENCY_QUEUE

GIVE_UP_AFTER: Final = timedelta(minutes=100)
"""Counted from the first failure, whatever the number of tries."""

_VERSION: Final = 1
_RETRY_BYTES: Final = len('"attempts":100000,"failing_since":"2026-01-01T00:00:00.000000Z",')
# Room is left in a new message, so that one which is put back still fits.
_NEW_BYTES: Final = QUEUE_MESSAGE_BYTES - base64_bytes(_RETRY_BYTES)
_KEY_LENGTH: Final = 32

_FIRST_PAUSE: Final = 2.0  # seconds
_LONGEST_PAUSE: Final = 300.0
_LONGEST_PAUSE_OF_EMERGENCIES: Final = 20.0  # the end of an outage must not cost an emergency call minutes
_DOUBLINGS: Final = 10  # past the longest pause of either


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """A raw message. `received` is when the POST arrived; `traceparent` is W3C's.

    `attempts` counts the tries before it was put on its queue once more; `failing_since` is when the first one failed.
    `backfilled` says that nobody posted it: it stands for notifications that were missed.
    """

    v: Literal[1]
    id: Annotated[str, Meta(max_length=128)]
    received: datetime
    traceparent: str
    first: int = 0
    notifications: tuple[msgspec.Raw, ...] = ()
    claim: Annotated[str, Meta(min_length=1, max_length=512)] | None = None
    attempts: int = 0
    failing_since: datetime | None = None
    backfilled: bool = False

    def item_id(self, index: int) -> str:
        """The lasting name of the item at `index` of `notifications`."""
        return f"{self.id}-{self.first + index}"

    @property
    def key(self) -> str:
        """A name that is the same whenever Graph repeats the items, and for their claim check as for themselves."""
        if self.claim is not None:
            return self.claim.rpartition("/")[2].removesuffix(".json")
        match self.notifications:
            case [raw]:
                return item_key(bytes(raw))
            case raws:
                return _hash(map(bytes, raws))

    def part(self, start: int, stop: int) -> "Envelope":
        """The items from `start` up to `stop`, under the names that they have here."""
        return msgspec.structs.replace(self, first=self.first + start, notifications=self.notifications[start:stop])

    def ticket(self, claim: str) -> "Envelope":
        """What stands for it once it lies in the blob `claim`."""
        return msgspec.structs.replace(self, notifications=(), claim=claim)

    def is_exhausted(self, now: datetime) -> bool:
        """Whether to give up what has failed once more."""
        return self.failing_since is not None and now - self.failing_since >= GIVE_UP_AFTER


_decode = msgspec.json.Decoder(Envelope).decode


def parse_envelope(text: str | bytes) -> Envelope:
    """Parse a raw message. A time without an offset is taken for UTC.

    Raises:
        MalformedInputError: it is not one of ours.
    """
    try:
        envelope = _decode(text)
    except (ValueError, RecursionError):
        raise MalformedInputError("not a raw message of Switchboard's", reason="raw-message-malformed") from None
    since = envelope.failing_since
    if envelope.received.tzinfo is None or (since is not None and since.tzinfo is None):
        return msgspec.structs.replace(
            envelope, received=_in_utc(envelope.received), failing_since=None if since is None else _in_utc(since)
        )
    return envelope


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


_MISSING: Final = msgspec.Raw(b"")


class _Identity(msgspec.Struct, frozen=True, rename="camel"):
    """What tells an item from any other; every field may be missing or of any type."""

    subscription_id: msgspec.Raw = _MISSING
    id: msgspec.Raw = _MISSING
    change_type: msgspec.Raw = _MISSING
    lifecycle_event: msgspec.Raw = _MISSING
    resource: msgspec.Raw = _MISSING
    resource_data: msgspec.Raw = _MISSING
    encrypted_content: msgspec.Raw = _MISSING


_decode_identity = msgspec.json.Decoder(_Identity).decode


def item_key(raw: bytes) -> str:
    """A name for an item that is the same whenever Graph repeats it, and differs from that of any other item.

    A hash of the subscription, Graph's id for the notification and what it says, or of all bytes where it has no id:
    items of one id and different content are different items.
    """
    try:
        identity = _decode_identity(raw)
    except (ValueError, RecursionError):
        return _hash((raw,))
    if not bytes(identity.id).startswith(b'"') or bytes(identity.id) == b'""':
        return _hash((raw,))
    return _hash(bytes(part) for part in msgspec.structs.astuple(identity))


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()[:_KEY_LENGTH]


@dataclass(frozen=True, slots=True)
class RawMessage:
    """An envelope, and its JSON as it would be put on a queue."""

    envelope: Envelope
    body: bytes

    @classmethod
    def of(cls, envelope: Envelope) -> "RawMessage":
        """Encode an envelope."""
        return cls(envelope, msgspec.json.encode(envelope))

    @property
    def needs_claim_check(self) -> bool:
        """Whether it is too large for a queue message, or would be once it is put back for the first time."""
        limit = _NEW_BYTES if self.envelope.failing_since is None else QUEUE_MESSAGE_BYTES
        return base64_bytes(len(self.body)) > limit

    def claim_name(self, queue: str) -> str:
        """The blob of its claim check: the same one whenever Graph repeats the item on the same day."""
        return f"{self.envelope.received:%Y/%m/%d}/{queue}/{self.envelope.key}.json"


def pack(
    raws: Sequence[bytes],
    *,
    delivery_id: str,
    received: datetime,
    traceparent: str,
    backfilled: bool = False,
) -> list[RawMessage]:
    """Pack notifications into as few raw messages as their limit allows, in their order.

    Only a single item ever needs a claim check.

    Args:
        raws: notifications as Graph sent them.
        delivery_id: unique to these notifications, on this queue.
        received: when they arrived.
        traceparent: W3C trace context.
        backfilled: they were missed, and are made up from what Graph lists.
    """
    whole = Envelope(
        v=_VERSION,
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
        while stop < len(raws) and base64_bytes(size + len(",") + len(raws[stop])) <= _NEW_BYTES:
            size += len(",") + len(raws[stop])
            stop += 1
        messages.append(RawMessage.of(whole.part(start, stop)))
        start = stop
    return messages


def pause(queue: str, tries: int, asked: float = 0.0) -> timedelta:
    """How long to wait for the next try: doubled at each, up to a limit; whole seconds, as queues count them.

    Args:
        queue: the raw queue, which sets the limit.
        tries: that have failed so far, at least 1.
        asked: seconds that the other side asked for (Retry-After); more than the limit is not granted.
    """
    longest = _LONGEST_PAUSE_OF_EMERGENCIES if queue == EMERGENCY_QUEUE else _LONGEST_PAUSE
    seconds = max(_FIRST_PAUSE * 2 ** min(tries - 1, _DOUBLINGS), asked)
    return timedelta(seconds=round(min(seconds, longest)))
