"""Sweeping up claim checks whose message was lost.

A worker that ends between writing a claim check's blob and putting its message leaves a blob that nothing refers to.
Graph's next delivery takes it over, unless the day has changed or Graph has given up. Such a blob cannot be told from
one whose message still waits. So the sweep puts another message for it; at worst that repeats an event under the id
that it had before. The sweep deletes a blob only where the same item was done with after the blob was written.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.notifications.quarantine import QUARANTINE_CONTAINER, entry_name
from shared.notifications.raw_queues import CLAIMS_CONTAINER, HANDLED_CONTAINER, RawQueues, handled_name
from shared.storage.ports import Blobs, Listed
from shared.values.envelope import Envelope, RawMessage, parse_envelope
from shared.values.errors import MalformedInputError
from shared.values.items import parse_item
from shared.values.resources import RAW_QUEUES

logger = logging.getLogger(__name__)

_ORPHAN_AFTER: Final = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class ClaimSweep:
    """Finds the claim checks that have lain there for two days."""

    blobs: Blobs
    queues: RawQueues

    async def run(self, now: datetime) -> int:
        """Put a new message for each of them; returns how many.

        Raises:
            UnavailableError: storage did not answer.
        """
        orphans = [listed async for listed in self._older_than(now - _ORPHAN_AFTER)]
        if not orphans:
            return 0
        handled = {mark.name: mark.modified async for mark in self.blobs.list(HANDLED_CONTAINER)}
        count = 0
        for orphan in orphans:
            mark = handled.get(handled_name(orphan.name))
            if mark is not None and mark > orphan.modified:
                await self.blobs.delete(CLAIMS_CONTAINER, orphan.name)
            else:
                count += await self._put(orphan.name)
        return count

    async def _older_than(self, limit: datetime) -> AsyncIterator[Listed]:
        last = f"{limit:%Y/%m/%d}"
        async for listed in self.blobs.list(CLAIMS_CONTAINER):
            if listed.name >= last:  # names begin with the day, and lists are in their order
                return
            if listed.modified < limit:  # what is put back has the name of the day when it came
                yield listed

    async def _put(self, claim: str) -> bool:
        body = await self.blobs.get(CLAIMS_CONTAINER, claim)
        if body is None:
            return False
        try:
            envelope = parse_envelope(body)
            queues = _queues(claim, envelope)
        except (MalformedInputError, IndexError):
            logger.warning("not a claim check: blob=%s", claim)
            return False
        # It counts as tried once, because then a missing blob means that another message has handled the item.
        ticket = msgspec.structs.replace(envelope, notifications=(), claim=claim, attempts=1)
        for queue in queues:
            # A message that could not fetch the blob may have been parked. It is on its way again, now or, as the blob
            # stays until it is handled, with the next sweep.
            await self.blobs.delete(QUARANTINE_CONTAINER, entry_name(queue, ticket))
            await self.queues.put(queue, RawMessage.of(ticket))
        logger.warning("a claim check without a message: id=%s", envelope.item_id(0))
        return True


def _queues(claim: str, envelope: Envelope) -> tuple[str, ...]:
    """The raw queue that the name tells, or, before names did so, those that the item belongs on."""
    named = handled_name(claim).partition("/")[0]
    return (named,) if named in RAW_QUEUES else parse_item(bytes(envelope.notifications[0])).notification.queues
