"""Taking a raw message off its queue: unpacking it, claim check included, and letting go of it when all is done."""

import logging
from dataclasses import dataclass
from typing import Final, Protocol

from shared.domain.errors import MalformedInputError
from shared.domain.notifications import Envelope, parse_envelope
from shared.services.quarantine import Quarantine

logger = logging.getLogger(__name__)

CLAIMS_CONTAINER: Final = "raw-claims"


class ClaimBlobs(Protocol):
    async def get(self, container: str, name: str) -> bytes | None: ...
    async def delete(self, container: str, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The envelope of a raw message, and the claim check that it came by, if any."""

    envelope: Envelope
    claim: str | None


@dataclass(frozen=True, slots=True)
class RawMessages:
    """Opens raw messages; what is none goes to quarantine."""

    blobs: ClaimBlobs
    quarantine: Quarantine

    async def open(self, text: str, *, queue: str, attempts: int) -> Unpacked | None:
        """Unpack a message.

        Args:
            text: the message, decoded.
            queue: the raw queue it came from.
            attempts: how often it has been delivered, this time included.

        Returns:
            None where there is nothing to do: it is no raw message and was parked, or an earlier try has handled it.

        Raises:
            UnavailableError: storage did not answer.
        """
        try:
            ticket = parse_envelope(text)
            envelope = ticket if ticket.claim is None else await self._redeem(ticket.claim, attempts)
        except MalformedInputError as error:
            await self.quarantine.park_message(
                text, queue=queue, reason=error.reason, error=type(error).__name__, attempts=attempts
            )
            return None
        if envelope is None:
            logger.info("raw message already handled: id=%s", ticket.id)
            return None
        return Unpacked(envelope, ticket.claim)

    async def close(self, unpacked: Unpacked) -> None:
        """Drop the blob of a claim check. The last thing to do: a missing blob tells a later try that all is done.

        Raises:
            UnavailableError: storage did not answer.
        """
        if unpacked.claim is not None:
            await self.blobs.delete(CLAIMS_CONTAINER, unpacked.claim)

    async def _redeem(self, claim: str, attempts: int) -> Envelope | None:
        body = await self.blobs.get(CLAIMS_CONTAINER, claim)
        if body is not None:
            return parse_envelope(body)
        if attempts > 1:
            return None
        raise MalformedInputError("the blob of a claim check is missing", reason="claim-missing")
