"""Quarantine: where what cannot be handled waits, with its reason, to be looked at and replayed."""

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from shared.storage.ports import Blobs
from shared.telemetry import NO_TELEMETRY, Telemetry
from shared.values.envelope import Envelope, parse_envelope
from shared.values.errors import MalformedInputError, SwitchboardError, UnexpectedError
from shared.values.items import parse_item
from shared.values.resources import LIFECYCLE_QUEUE

logger = logging.getLogger(__name__)

QUARANTINE_CONTAINER: Final = "quarantine"


def entry_name(queue: str, envelope: Envelope) -> str:
    """The name of the entry for a raw message of one item, or for a claim check that could not be redeemed."""
    return f"{queue}/{envelope.key}.json"


class Parked(msgspec.Struct, frozen=True, omit_defaults=True):
    """A quarantine blob: why, when, and the raw message to put on `queue` when it is replayed.

    `kind` is the catalogue's key, "lifecycle" or "unknown"; `error` the type of the last try's error; `attempts` counts
    all tries. Nothing in it has been decrypted. `unreadable` says that `text` is as it lay on its queue, not decoded.
    """

    v: int
    reason: str
    error: str
    queue: str
    kind: str
    quarantined: datetime
    attempts: int
    envelope: Envelope | None = None
    text: str | None = None  # instead of `envelope`, of a message that is none
    unreadable: bool = False


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Parks items and messages. `now` is the clock, aware.

    What a list shows (reason, kind, queue and time) is also metadata of the blob, so that a list reads no blob.
    """

    blobs: Blobs
    now: Callable[[], datetime]
    telemetry: Telemetry = NO_TELEMETRY

    async def park(
        self, content: Envelope | str, *, queue: str, error: SwitchboardError, attempts: int, unreadable: bool = False
    ) -> None:
        """Park what cannot be handled.

        Args:
            content: one item of a raw message, as received, in an envelope of its own that keeps its lasting name; a
                ticket whose claim check could not be redeemed; or the text of a message.
            queue: the raw queue that a replay puts it on.
            error: why.
            attempts: all tries.
            unreadable: the text is as it lies on its queue, not decoded.

        Raises:
            UnavailableError: storage did not take it.
        """
        if isinstance(content, str) and not unreadable:
            with suppress(MalformedInputError):
                content = parse_envelope(content)
        if isinstance(content, str):
            name, envelope, text = hashlib.sha256(content.encode()).hexdigest()[:32], None, content
        else:
            name, envelope, text = content.key, content, None
        parked = Parked(
            v=1,
            reason=error.reason,
            error=error.cause if isinstance(error, UnexpectedError) else type(error).__name__,
            queue=queue,
            kind=_kind(content, queue),
            quarantined=self.now(),
            attempts=attempts,
            envelope=envelope,
            text=text,
            unreadable=unreadable,
        )
        metadata = {
            "reason": parked.reason,
            "kind": parked.kind,
            "queue": queue,
            "quarantined": parked.quarantined.isoformat(),
        }
        # The same item has the same name at every try and delivery, so that neither a crash nor a repetition of Graph's
        # makes a second entry of it.
        await self.blobs.put(QUARANTINE_CONTAINER, f"{queue}/{name}.json", msgspec.json.encode(parked), metadata)
        self.telemetry.quarantined(parked.reason, queue)
        logger.error("quarantined: reason=%s queue=%s item=%s attempts=%d", parked.reason, queue, name, attempts)


def _kind(content: Envelope | str, queue: str) -> str:
    """The catalogue's key of what is parked, as far as that can be told."""
    if queue == LIFECYCLE_QUEUE:
        return "lifecycle"
    if isinstance(content, str) or not content.notifications:
        return "unknown"
    try:
        kind = parse_item(bytes(content.notifications[0])).notification.kind
    except MalformedInputError:
        return "unknown"
    return "unknown" if kind is None else kind.key
