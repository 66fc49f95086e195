"""Putting raw messages on their queues, and the claim checks of those that are too large for one.

No other module does either. A claim check's blob is written before its message, and deleted once its item is done with.
Its name follows from the item, so that Graph's next delivery takes over what a failed put has left. After a lost answer
of storage, or after a sweep, one blob can have two messages. So each item that is done with leaves a mark: where a
message finds the mark instead of the blob, there is nothing left to do.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.storage.ports import Blobs, Queues, Receipt
from shared.values.envelope import Envelope, RawMessage, pack, parse_envelope
from shared.values.errors import MalformedInputError
from shared.values.message_text import Encoding

logger = logging.getLogger(__name__)

CLAIMS_CONTAINER: Final = "raw-claims"
HANDLED_CONTAINER: Final = "handled-claims"

_AT_ONCE: Final = timedelta(0)
_DAY: Final = len("2026/01/01/")


@dataclass(frozen=True, slots=True)
class RawQueues:
    """Where raw messages are put, shown and deleted, and claim checks redeemed and settled."""

    queues: Queues
    blobs: Blobs

    async def send(
        self,
        queue: str,
        raws: Sequence[bytes],
        *,
        received: datetime,
        traceparent: str,
        backfilled: bool = False,
    ) -> None:
        """Put notifications that have just come on a raw queue, in as few messages as they fit into.

        Raises:
            UnavailableError: storage did not take all of them.
        """
        delivery_id = secrets.token_hex(16)
        packed = pack(raws, delivery_id=delivery_id, received=received, traceparent=traceparent, backfilled=backfilled)
        await self.put_all(queue, packed)

    async def put_all(self, queue: str, messages: Sequence[RawMessage]) -> None:
        """Put raw messages on their queue, each by claim check where it is too large.

        Raises:
            UnavailableError: storage did not take all of them.
        """
        results = await asyncio.gather(*(self.put(queue, message) for message in messages), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def put(self, queue: str, message: RawMessage, delay: timedelta = _AT_ONCE) -> Receipt:
        """Put a raw message, by claim check where it is too large.

        Args:
            queue: the raw queue.
            message: from `pack`, or an envelope that is put back.
            delay: how long nobody sees it; whole seconds.

        Returns:
            What shows or deletes the message, for as long as nobody has taken it.

        Raises:
            UnavailableError: storage did not take it, or its answer was lost and it is there all the same.
        """
        if message.needs_claim_check:
            claim = message.claim_name(queue)
            await self.blobs.put(CLAIMS_CONTAINER, claim, message.body)
            message = message.ticket(claim)
        return await self.queues.put(queue, message.body, "base64", delay)

    async def put_text(self, queue: str, body: bytes, encoding: Encoding = "base64") -> None:
        """Put back what is no raw message; by the encoding "none", as it lay on its queue.

        Raises:
            UnavailableError: storage did not take it.
        """
        await self.queues.put(queue, body, encoding, _AT_ONCE)

    async def show(self, receipt: Receipt) -> bool:
        """Show a message that was put with a delay; False: somebody else has taken it, or is done with it.

        Raises:
            UnavailableError: storage did not answer.
        """
        return await self.queues.show(receipt)

    async def delete(self, receipt: Receipt) -> bool:
        """Delete a message; False: somebody else has taken it, or is done with it.

        Raises:
            UnavailableError: storage did not answer.
        """
        return await self.queues.delete(receipt)

    async def redeem(self, ticket: Envelope, claim: str, *, attempts: int) -> Envelope | None:
        """What a ticket stands for; None where it has been done with.

        Args:
            ticket: the envelope that came off the queue.
            claim: the blob that it names.
            attempts: how often it has been delivered, this time included.

        Raises:
            MalformedInputError: the blob is no raw message, or is missing and nobody has marked it as done with.
            UnavailableError: storage did not answer.
        """
        body = await self.blobs.get(CLAIMS_CONTAINER, claim)
        if body is not None:
            return msgspec.structs.replace(
                parse_envelope(body), attempts=ticket.attempts, failing_since=ticket.failing_since
            )
        # Versions that set no mark let a second try conclude from the missing blob alone.
        if attempts > 1 or await self.is_settled(claim):
            return None
        raise MalformedInputError("the blob of a claim check is missing", reason="claim-missing")

    async def is_settled(self, claim: str) -> bool:
        """Whether the item of a claim check has been done with.

        Raises:
            UnavailableError: storage did not answer.
        """
        return await self.blobs.get(HANDLED_CONTAINER, handled_name(claim)) is not None

    async def settle(self, claim: str) -> None:
        """Let go of a claim check whose item is done with.

        Raises:
            UnavailableError: storage did not answer.
        """
        await self.blobs.put(HANDLED_CONTAINER, handled_name(claim), b"{}")
        await self.blobs.delete(CLAIMS_CONTAINER, claim)


def handled_name(claim: str) -> str:
    """The mark of a claim check: without its day, since Graph may repeat an item on the next."""
    return claim[_DAY:]
