"""Claim checks that nobody holds a ticket for.

A worker that ends between writing a claim check's blob and putting its message leaves a blob that nothing refers to;
Graph sends the notification again, under another name. From the outside such a blob looks like one whose message waits.
So it is not deleted: it gets a message of its own, which makes at worst an event of an id that was there before, and
ends like any other.
"""

import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from shared.domain.errors import MalformedInputError
from shared.domain.notifications import parse_envelope, parse_item
from shared.domain.queue_text import Encoding
from shared.services.raw_messages import CLAIMS_CONTAINER

logger = logging.getLogger(__name__)

_ORPHAN_AFTER: Final = timedelta(days=2)


class Listed(Protocol):
    @property
    def name(self) -> str: ...


class ClaimBlobs(Protocol):
    def list(self, container: str) -> AsyncIterator[Listed]: ...
    async def get(self, container: str, name: str) -> bytes | None: ...


class RawQueues(Protocol):
    async def put(self, queue: str, body: bytes, encoding: Encoding) -> None: ...


async def sweep(blobs: ClaimBlobs, queues: RawQueues, now: datetime) -> int:
    """Put a new message for each claim check that has lain there for two days; returns how many.

    Raises:
        UnavailableError: storage did not answer.
    """
    last = f"{now - _ORPHAN_AFTER:%Y/%m/%d}"
    found = 0
    async for listed in blobs.list(CLAIMS_CONTAINER):
        if listed.name >= last:  # names begin with the day, and lists are in their order
            break
        body = await blobs.get(CLAIMS_CONTAINER, listed.name)
        if body is None:
            continue
        try:
            envelope = parse_envelope(body)
            tickets = parse_item(bytes(envelope.notifications[0])).notification.queues
        except (MalformedInputError, IndexError):
            logger.warning("not a claim check: blob=%s", listed.name)
            continue
        # Counted as tried: where another message has done it meanwhile, the missing blob says that all is well.
        ticket = msgspec.structs.replace(envelope, notifications=(), claim=listed.name, attempts=1)
        for queue in tickets:
            await queues.put(queue, msgspec.json.encode(ticket), "base64")
        logger.warning("a claim check without a message: id=%s", envelope.item_id(0))
        found += 1
    return found
