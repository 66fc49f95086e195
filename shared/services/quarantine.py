"""Quarantine: where what cannot be handled waits, with its reason, to be looked at and replayed."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import msgspec

from shared.domain.errors import MalformedInputError
from shared.domain.notifications import Envelope, parse_envelope

logger = logging.getLogger(__name__)

QUARANTINE_CONTAINER: Final = "quarantine"


class Parked(msgspec.Struct, frozen=True, omit_defaults=True):
    """A quarantine blob: why, when, and a raw message that can be put on `queue` as it stands."""

    v: int
    reason: str
    error: str
    queue: str
    quarantined: datetime
    attempts: int
    envelope: msgspec.Raw | None = None
    text: str | None = None  # instead of `envelope`, of a message that is none


class QuarantineBlobs(Protocol):
    async def put(self, container: str, name: str, data: bytes) -> str: ...


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Parks single items and whole messages. `now` is the clock, aware."""

    blobs: QuarantineBlobs
    now: Callable[[], datetime]

    async def park_item(
        self, envelope: Envelope, index: int, *, queue: str, error: Exception, reason: str, attempts: int
    ) -> None:
        """Park one item of a raw message, as received, in an envelope of its own that keeps its lasting name.

        Raises:
            UnavailableError: storage did not take it.
        """
        alone = msgspec.structs.replace(
            envelope,
            first=envelope.first + index,
            notifications=(envelope.notifications[index],),
            claim=None,
        )
        await self._park(
            envelope.item_id(index),
            Parked(
                v=1,
                reason=reason,
                error=type(error).__name__,
                queue=queue,
                quarantined=self.now(),
                attempts=attempts,
                envelope=msgspec.Raw(msgspec.json.encode(alone)),
            ),
        )

    async def park_message(self, text: str, *, queue: str, reason: str, error: str, attempts: int) -> None:
        """Park a whole message: one that is no raw message, or one whose every try has failed.

        Raises:
            UnavailableError: storage did not take it.
        """
        try:
            envelope = parse_envelope(text)
        except MalformedInputError:
            name = hashlib.sha256(text.encode()).hexdigest()[:32]
            parked = Parked(1, reason, error, queue, self.now(), attempts, text=text)
        else:
            name = envelope.item_id(0)
            parked = Parked(1, reason, error, queue, self.now(), attempts, envelope=msgspec.Raw(text.encode()))
        await self._park(name, parked)

    async def _park(self, name: str, parked: Parked) -> None:
        # The same item has the same name at every try, so that a crash between this and its end makes no second blob.
        await self.blobs.put(QUARANTINE_CONTAINER, f"{parked.queue}/{name}.json", msgspec.json.encode(parked))
        logger.error(
            "quarantined: reason=%s queue=%s item=%s attempts=%d", parked.reason, parked.queue, name, parked.attempts
        )
