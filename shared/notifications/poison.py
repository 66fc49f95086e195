"""Draining the poison queues of our own triggers.

The Functions host moves a message there that has failed five times, or whose text it cannot read ("Azure Queue storage
trigger", https://learn.microsoft.com/azure/azure-functions/functions-bindings-storage-queue-trigger). A function on
such a queue would be called again only when the host's lease of ten minutes is over, and never for text that is not
Base64, which ends unseen after seven days. So a timer reads the queues itself.

A message that the drain cannot take away stays leased. Neither a peek nor the next drain sees it before the lease is
over, so the drain keeps since when the oldest of them lies there.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.notifications.raw_messages import RawMessages, unexpected
from shared.storage.ports import STATE_CONTAINER, Blobs, LeasedMessage
from shared.values.errors import MalformedInputError, UnavailableError
from shared.values.message_text import decode
from shared.values.resources import RAW_QUEUES
from shared.values.times import Moment

logger = logging.getLogger(__name__)

POISON_QUEUES: Final = {f"{queue}-poison": queue for queue in RAW_QUEUES}
"""By poison queue, the raw queue that its messages come from."""

STUCK_AFTER: Final = timedelta(minutes=15)
"""A message that has lain in a poison queue for so long is stuck: the drain has tried three times by then."""

_STATE: Final = "poison.json"
TRIES: Final = 5  # maxDequeueCount in host.json
_AT_ONCE: Final = 32
# Longer than the handling of a batch can take, with each retry of each operation.
_LEASE: Final = timedelta(minutes=5)


class _Left(msgspec.Struct, frozen=True):
    """For each poison queue that could not be emptied: since when the oldest message that was seen lies there."""

    oldest: Mapping[str, Moment] = {}


@dataclass(frozen=True, slots=True)
class PoisonStates:
    """Keeps what the last drains could not take away."""

    blobs: Blobs

    async def oldest(self) -> Mapping[str, datetime]:
        """By poison queue, since when the oldest message that is left there lies there.

        Raises:
            UnavailableError: storage did not answer.
        """
        data = await self.blobs.get(STATE_CONTAINER, _STATE)
        try:
            return {} if data is None else msgspec.json.decode(data, type=_Left).oldest
        except (ValueError, RecursionError):
            return {}  # damaged: the next drain that leaves something writes it anew

    async def save(self, oldest: Mapping[str, datetime]) -> None:
        """Keep it.

        Raises:
            UnavailableError: storage did not take it.
        """
        await self.blobs.put(STATE_CONTAINER, _STATE, msgspec.json.encode(_Left(oldest)))


@dataclass(frozen=True, slots=True)
class PoisonDrain:
    """Empties the poison queues. Several may run at once: each message is leased by one of them."""

    raw_messages: RawMessages
    states: PoisonStates

    async def run(self, deadline: datetime) -> None:
        """Put back or park what lies there, until no message is visible or the deadline has passed.

        Raises:
            UnavailableError: storage did not answer.
        """
        results = await asyncio.gather(
            *(self._drain(poison, queue, deadline) for poison, queue in POISON_QUEUES.items()), return_exceptions=True
        )
        before = await self.states.oldest()
        oldest: dict[str, datetime] = {}
        for poison, result in zip(POISON_QUEUES, results, strict=True):
            left = [before[poison]] if poison in before else []
            if isinstance(result, datetime):
                oldest[poison] = min([result, *left])
            elif left and (isinstance(result, BaseException) or await self.raw_messages.queues.count(poison)):
                oldest[poison] = min(left)
        if oldest != before:
            await self.states.save(oldest)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _drain(self, poison: str, queue: str, deadline: datetime) -> datetime | None:
        """Empty one queue; returns since when the oldest message that could not be taken away lies there."""
        left: list[datetime] = []
        while self.raw_messages.now() < deadline:
            batch = await self.raw_messages.queues.lease(poison, _LEASE, at_most=_AT_ONCE)
            if not batch:
                break
            done = await asyncio.gather(*(self._take_away(message, queue) for message in batch))
            left += [message.inserted for message, gone in zip(batch, done, strict=True) if not gone]
        if left:
            logger.error("poison queue not emptied: queue=%s messages=%d oldest=%s", poison, len(left), min(left))
        return min(left, default=None)

    async def _take_away(self, message: LeasedMessage, queue: str) -> bool:
        """Put a message back or park it, then delete it; returns whether it is gone. No other message is harmed."""
        try:
            await self._handle(message, queue)
            await self.raw_messages.queues.delete(message.receipt)
        except UnavailableError as error:
            logger.warning("poison message left for the next drain: queue=%s reason=%s", queue, error.reason)
            return False
        return True

    async def _handle(self, message: LeasedMessage, queue: str) -> None:
        park = self.raw_messages.quarantine.park
        try:
            text = decode(message.text)
        except MalformedInputError as error:
            await park(message.text, queue=queue, error=error, attempts=TRIES, unreadable=True)
            return
        try:
            await self.raw_messages.requeue_or_quarantine(text, queue=queue, attempts=TRIES)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - kept in quarantine, and no neighbour has to pay for a fault of ours
            fault = unexpected(error, message.receipt.message_id)
            await park(text, queue=queue, error=fault, attempts=TRIES)
