"""Raw messages: notifications on their way from where they are received to where they are handled.

They are put on a raw queue, opened, and finished: each item is then done with, parked in quarantine, or put back.

An item that is too large for a queue message travels by claim check: it lies in a blob, and the message, its ticket,
names the blob. The blob is written before the ticket is put, and deleted once the item is done with. Its name follows
from the item, so Graph's next delivery takes over the blob that a failed put has left. One blob can have two tickets:
after an answer of storage that was lost, or after a sweep. So whoever is done with an item leaves a marker. A ticket
that finds the marker instead of the blob has nothing left to do.
"""

import asyncio
import itertools
import logging
import secrets
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.notifications.quarantine import QUARANTINE_CONTAINER, Quarantine, entry_name
from shared.storage.ports import Blobs, Listed, Queues, Receipt
from shared.values.envelope import Envelope, RawMessage, pack, parse_envelope, pause
from shared.values.errors import (
    AbandonedError,
    MalformedInputError,
    SwitchboardError,
    UnavailableError,
    UnexpectedError,
)
from shared.values.items import parse_item
from shared.values.resources import RAW_QUEUES

logger = logging.getLogger(__name__)

CLAIM_CHECKS_CONTAINER: Final = "raw-claims"
HANDLED_CONTAINER: Final = "handled-claims"

_AT_ONCE: Final = timedelta(0)
_DAY: Final = len("2026/01/01/")
_ORPHAN_AFTER: Final = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A raw message that has been opened.

    Attributes:
        envelope: with its notifications, also where they came by claim check.
        claim_check: its blob, if it came by one.
        queue: the raw queue it came from.
        attempts: tries so far, this one and those before it was put back included.
    """

    envelope: Envelope
    claim_check: str | None
    queue: str
    attempts: int


@dataclass(frozen=True, slots=True)
class RawMessages:
    """Puts, opens and finishes raw messages; no other module does. `now` is the clock, aware.

    What is put back or parked is durable before `finish` returns, and only then may the platform delete the message. A
    crash before that brings the whole message again, and with it events of the same ids.
    """

    queues: Queues
    blobs: Blobs
    quarantine: Quarantine
    now: Callable[[], datetime]

    # --- onto a raw queue ---------------------------------------------------------------------------------------------

    async def send(
        self, queue: str, raws: Sequence[bytes], *, received: datetime, traceparent: str, backfilled: bool = False
    ) -> None:
        """Put notifications that have just come on a raw queue, in as few messages as they fit into.

        Raises:
            UnavailableError: storage did not take all of them.
        """
        delivery_id = secrets.token_hex(16)
        packed = pack(raws, delivery_id=delivery_id, received=received, traceparent=traceparent, backfilled=backfilled)
        await self.put_all(queue, packed)

    async def put_all(self, queue: str, messages: Sequence[RawMessage]) -> None:
        """Put raw messages on their queue.

        Raises:
            UnavailableError: storage did not take all of them; no put is under way any more.
        """
        await all_of(self.put(queue, message) for message in messages)

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
            await self.blobs.put(CLAIM_CHECKS_CONTAINER, claim, message.body)
            message = RawMessage.of(message.envelope.ticket(claim))
        return await self.queues.put(queue, message.body, "base64", delay)

    # --- off a raw queue ----------------------------------------------------------------------------------------------

    async def open(self, text: str, *, queue: str, attempts: int) -> Unpacked | None:
        """Unpack a message.

        Args:
            text: the message, decoded.
            queue: the raw queue it came from.
            attempts: how often the platform has delivered it, this time included.

        Returns:
            None where there is nothing left to do: it is no raw message and was parked, its claim check cannot be
            fetched now and it was put back, or an earlier try has handled it.

        Raises:
            UnavailableError: storage did not answer.
        """
        try:
            ticket = parse_envelope(text)
        except MalformedInputError as error:
            await self.quarantine.park(text, queue=queue, error=error, attempts=attempts)
            return None
        return await self._unpack(ticket, queue, attempts + ticket.attempts)

    async def finish(self, unpacked: Unpacked, failures: Mapping[int, SwitchboardError]) -> None:
        """Park what failed for good, put back what failed for now, and let go of the rest.

        Args:
            unpacked: from `open`.
            failures: of items, by index; whatever is not in it has been done with.

        Raises:
            UnavailableError: storage took neither, so that the platform has to bring the whole message again.
        """
        envelope, queue, attempts = unpacked.envelope, unpacked.queue, unpacked.attempts
        exhausted = envelope.is_exhausted(self.now())
        postponed = {index: error for index, error in failures.items() if not (error.permanent or exhausted)}
        postponed |= await unavailable(
            {
                index: self.quarantine.park(
                    envelope.part(index, index + 1), queue=queue, error=error, attempts=attempts
                )
                for index, error in failures.items()
                if index not in postponed
            }
        )
        if postponed:
            await self._put_back(unpacked, postponed)
        elif unpacked.claim_check is not None:
            await self._settle(unpacked.claim_check)  # last of all: the marker says that nothing is left to do

    async def requeue_or_quarantine(self, text: str, *, queue: str, attempts: int) -> None:
        """Handle a message that the platform has given up: put it back while it has not failed for long, else park it.

        Args:
            text: the message, decoded.
            queue: the raw queue it came from first.
            attempts: the platform's tries.

        Raises:
            UnavailableError: storage did not take it.
        """
        error = AbandonedError()
        try:
            ticket = parse_envelope(text)
        except MalformedInputError:
            await self.quarantine.park(text, queue=queue, error=error, attempts=attempts)
            return
        attempts += ticket.attempts
        if not ticket.is_exhausted(self.now()):
            await self._put_again(ticket, queue, attempts, error)
        elif (unpacked := await self._unpack(ticket, queue, attempts)) is not None:
            await self.finish(unpacked, dict.fromkeys(range(len(unpacked.envelope.notifications)), error))

    async def _unpack(self, ticket: Envelope, queue: str, attempts: int) -> Unpacked | None:
        if ticket.claim is None:
            return Unpacked(ticket, None, queue, attempts)
        try:
            envelope = await self._redeem(ticket, ticket.claim, attempts)
        except MalformedInputError as error:
            await self.quarantine.park(ticket, queue=queue, error=error, attempts=attempts)
            return None
        except UnavailableError as error:
            if not ticket.is_exhausted(self.now()):
                await self._put_again(ticket, queue, attempts, error)
            elif not await self._is_settled(ticket.claim):
                await self.quarantine.park(ticket, queue=queue, error=error, attempts=attempts)
            return None
        if envelope is None:
            logger.info("raw message already handled: id=%s", ticket.id)
            return None
        return Unpacked(envelope, ticket.claim, queue, attempts)

    async def _put_back(self, unpacked: Unpacked, failures: Mapping[int, SwitchboardError]) -> None:
        if unpacked.claim_check is not None:
            parts = [unpacked.envelope.ticket(unpacked.claim_check)]
        else:
            # Neighbours stay together, but no part may have a gap: `first` counts its items without one.
            parts = [unpacked.envelope.part(run[0], run[-1] + 1) for run in _runs(sorted(failures))]
        error = max(failures.values(), key=_retry_after)
        await all_of(self._put_again(part, unpacked.queue, unpacked.attempts, error) for part in parts)

    async def _put_again(self, envelope: Envelope, queue: str, attempts: int, error: SwitchboardError) -> None:
        again = msgspec.structs.replace(envelope, attempts=attempts, failing_since=envelope.failing_since or self.now())
        delay = pause(queue, attempts, _retry_after(error))
        await self.put(queue, RawMessage.of(again), delay)
        logger.warning(
            "put back: reason=%s queue=%s id=%s items=%d attempts=%d seconds=%d",
            error.reason,
            queue,
            envelope.item_id(0),
            len(envelope.notifications),
            attempts,
            delay.total_seconds(),
        )

    # --- out of quarantine --------------------------------------------------------------------------------------------

    async def put_anew(self, queue: str, envelope: Envelope) -> None:
        """Put what was parked on its queue, as if it had just come.

        Raises:
            UnavailableError: storage did not take it.
        """
        await self.put(queue, RawMessage.of(msgspec.structs.replace(envelope, attempts=0, failing_since=None)))

    async def discard(self, queue: str, envelope: Envelope) -> None:
        """Let go of the claim check of what was parked: the one it names, or one that a failed replay may have left.

        Raises:
            UnavailableError: storage did not answer.
        """
        message = RawMessage.of(envelope)
        claim = message.claim_name(queue) if message.needs_claim_check else envelope.claim
        if claim is not None:
            await self._settle(claim)

    # --- claim checks -------------------------------------------------------------------------------------------------

    async def _redeem(self, ticket: Envelope, claim: str, attempts: int) -> Envelope | None:
        """What a ticket stands for; None where it has been done with.

        Raises:
            MalformedInputError: the blob is no raw message, or is missing and nobody has marked it as done with.
            UnavailableError: storage did not answer.
        """
        body = await self.blobs.get(CLAIM_CHECKS_CONTAINER, claim)
        if body is not None:
            return msgspec.structs.replace(
                parse_envelope(body), attempts=ticket.attempts, failing_since=ticket.failing_since
            )
        # Versions that left no marker let a second try conclude from the missing blob alone.
        if attempts > 1 or await self._is_settled(claim):
            return None
        raise MalformedInputError("the blob of a claim check is missing", reason="claim-missing")

    async def _is_settled(self, claim: str) -> bool:
        return await self.blobs.get(HANDLED_CONTAINER, handled_name(claim)) is not None

    async def _settle(self, claim: str) -> None:
        await self.blobs.put(HANDLED_CONTAINER, handled_name(claim), b"{}")
        await self.blobs.delete(CLAIM_CHECKS_CONTAINER, claim)

    async def sweep(self) -> int:
        """Put a new ticket for each claim check that has lain there for two days; returns how many.

        A worker that ends before it has put the ticket leaves a blob that no ticket names. It cannot be told from one
        whose ticket still waits, so either gets a ticket: at worst an event is repeated under its id. A blob is deleted
        only where its item was done with after the blob was written.

        Raises:
            UnavailableError: storage did not answer.
        """
        orphans = [listed async for listed in self._claim_checks_until(self.now() - _ORPHAN_AFTER)]
        if not orphans:
            return 0
        handled = {marker.name: marker.modified async for marker in self.blobs.list(HANDLED_CONTAINER)}
        count = 0
        for orphan in orphans:
            done = handled.get(handled_name(orphan.name))
            if done is not None and done > orphan.modified:
                await self.blobs.delete(CLAIM_CHECKS_CONTAINER, orphan.name)
            else:
                count += await self._put_new_ticket(orphan.name)
        return count

    async def _claim_checks_until(self, limit: datetime) -> AsyncIterator[Listed]:
        last = f"{limit:%Y/%m/%d}"
        async for listed in self.blobs.list(CLAIM_CHECKS_CONTAINER):
            if listed.name >= last:  # names begin with the day, and a list is in the order of names
                return
            if listed.modified < limit:  # a blob that was written again keeps the name of the day when its item came
                yield listed

    async def _put_new_ticket(self, claim: str) -> bool:
        body = await self.blobs.get(CLAIM_CHECKS_CONTAINER, claim)
        if body is None:
            return False
        try:
            envelope = parse_envelope(body)
            queues = _queues_of(claim, envelope)
        except (MalformedInputError, IndexError):
            logger.warning("not a claim check: blob=%s", claim)
            return False
        # It counts as tried once, because then a missing blob means that another ticket's item was handled.
        ticket = msgspec.structs.replace(envelope.ticket(claim), attempts=1)
        for queue in queues:
            # An older ticket may be parked because the blob could not be fetched. The new one replaces it; should the
            # put below fail, the blob stays, and the next sweep puts a ticket.
            await self.blobs.delete(QUARANTINE_CONTAINER, entry_name(queue, ticket))
            await self.put(queue, RawMessage.of(ticket))
        logger.warning("a claim check without a message: id=%s", envelope.item_id(0))
        return True


def handled_name(claim: str) -> str:
    """The name of a claim check's marker: without the day, since Graph may repeat an item on the next."""
    return claim[_DAY:]


def _queues_of(claim: str, envelope: Envelope) -> tuple[str, ...]:
    """The raw queue that the blob's name tells; those of the item where an early version wrote the blob."""
    named = handled_name(claim).partition("/")[0]
    return (named,) if named in RAW_QUEUES else parse_item(bytes(envelope.notifications[0])).notification.queues


def unexpected(error: Exception, item: str) -> UnexpectedError:
    """Report an error that nobody foresaw, whose message may hold data, and make of it one to be parked with."""
    where, name = traceback.extract_tb(error.__traceback__)[-1], type(error).__name__
    logger.error("unexpected error: type=%s at=%s:%s item=%s", name, where.name, where.lineno, item)
    return UnexpectedError(name)


async def all_of[T](work: Iterable[Awaitable[T]]) -> list[T]:
    """Do all of it at once; an error is raised once none of it is under way any more."""
    tasks = [asyncio.ensure_future(each) for each in work]
    await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]


async def unavailable[K](attempts: Mapping[K, Awaitable[object]]) -> dict[K, UnavailableError]:
    """Make all attempts at once, and return the errors of those that storage did not take.

    Raises any other error once no attempt is under way any more.
    """
    tasks = {key: asyncio.ensure_future(attempt) for key, attempt in attempts.items()}
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    errors: dict[K, UnavailableError] = {}
    for key, task in tasks.items():
        try:
            task.result()
        except UnavailableError as error:
            errors[key] = error
    return errors


def _retry_after(error: SwitchboardError) -> float:
    return (error.retry_after or 0.0) if isinstance(error, UnavailableError) else 0.0


def _runs(indexes: Iterable[int]) -> Iterator[list[int]]:
    """Split ascending numbers where there is a gap."""
    for _, run in itertools.groupby(enumerate(indexes), key=lambda pair: pair[1] - pair[0]):
        yield [index for _, index in run]
