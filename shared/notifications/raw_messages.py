"""Opening a raw message, and finishing it: each of its items is done with, parked in quarantine, or put back."""

import asyncio
import itertools
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from shared.notifications.quarantine import Quarantine
from shared.notifications.raw_queues import RawQueues
from shared.notifications.retries import is_exhausted, pause
from shared.values.envelope import Envelope, RawMessage, parse_envelope
from shared.values.errors import (
    AbandonedError,
    MalformedInputError,
    SwitchboardError,
    UnavailableError,
    UnexpectedError,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A raw message under way.

    Attributes:
        envelope: with its notifications, also where they came by claim check.
        claim: the claim check's blob, if it came by one.
        queue: the raw queue it came from.
        attempts: tries so far, this one and those before it was put back included.
    """

    envelope: Envelope
    claim: str | None
    queue: str
    attempts: int


@dataclass(frozen=True, slots=True)
class RawMessages:
    """Opens and finishes raw messages. `now` is the clock, aware.

    A message is left to the platform only once nothing depends on it any more: what is put back or parked is durable
    before `finish` returns. A crash before that brings the whole message again, and with it events of the same ids.
    """

    queues: RawQueues
    quarantine: Quarantine
    now: Callable[[], datetime]

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
            await self.quarantine.park_message(text, queue=queue, error=error, attempts=attempts)
            return None
        return await self._unpack(ticket, text, queue, attempts + ticket.attempts)

    async def _unpack(self, ticket: Envelope, text: str, queue: str, attempts: int) -> Unpacked | None:
        if ticket.claim is None:
            return Unpacked(ticket, None, queue, attempts)
        try:
            envelope = await self.queues.redeem(ticket, ticket.claim, attempts=attempts)
        except MalformedInputError as error:
            await self.quarantine.park_message(text, queue=queue, error=error, attempts=attempts)
            return None
        except UnavailableError as error:
            if self._is_exhausted(ticket) and await self.queues.is_settled(ticket.claim):
                return None  # what another message has done with is not parked
            await self._put_back_whole(ticket, queue, attempts, error)
            return None
        if envelope is None:
            logger.info("raw message already handled: id=%s", ticket.id)
            return None
        return Unpacked(envelope, ticket.claim, queue, attempts)

    async def finish(self, unpacked: Unpacked, failures: Mapping[int, SwitchboardError]) -> None:
        """Park what failed for good, put back what failed for now, and let go of the rest.

        Args:
            unpacked: from `open`.
            failures: of items, by index; whatever is not in it has been done with.

        Raises:
            UnavailableError: storage took neither, so that the platform has to bring the whole message again.
        """
        exhausted = self._is_exhausted(unpacked.envelope)
        postponed = {index: error for index, error in failures.items() if not (error.permanent or exhausted)}
        parked = [index for index in failures if index not in postponed]
        results = await asyncio.gather(
            *(
                self.quarantine.park_item(
                    unpacked.envelope,
                    index,
                    queue=unpacked.queue,
                    error=failures[index],
                    attempts=unpacked.attempts,
                )
                for index in parked
            ),
            return_exceptions=True,
        )
        for index, result in zip(parked, results, strict=True):
            if isinstance(result, UnavailableError):
                postponed[index] = result
            elif isinstance(result, BaseException):
                raise result
        if postponed:
            await self._put_back(unpacked, postponed)
        elif unpacked.claim is not None:
            # The last thing to do: a settled claim check tells a later try that all is done.
            await self.queues.settle(unpacked.claim)

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
            envelope = parse_envelope(text)
        except MalformedInputError:
            await self.quarantine.park_message(text, queue=queue, error=error, attempts=attempts)
            return
        attempts += envelope.attempts
        if not self._is_exhausted(envelope):
            await self._put_back_whole(envelope, queue, attempts, error)
            return
        unpacked = await self._unpack(envelope, text, queue, attempts)
        if unpacked is not None:
            await self.finish(unpacked, dict.fromkeys(range(len(unpacked.envelope.notifications)), error))

    def _is_exhausted(self, envelope: Envelope) -> bool:
        return envelope.failing_since is not None and is_exhausted(envelope.failing_since, self.now())

    async def _put_back(self, unpacked: Unpacked, failures: Mapping[int, SwitchboardError]) -> None:
        if unpacked.claim is not None:
            ticket = msgspec.structs.replace(unpacked.envelope, notifications=(), claim=unpacked.claim)
            parts = [ticket]
        else:
            # Neighbours stay together. A message can have lost items in between, and `first` counts without gaps.
            parts = [unpacked.envelope.part(run[0], run[-1] + 1) for run in _runs(sorted(failures))]
        error = max(failures.values(), key=_asked)
        await asyncio.gather(*(self._put(part, unpacked.queue, unpacked.attempts, error) for part in parts))

    async def _put_back_whole(self, ticket: Envelope, queue: str, attempts: int, error: SwitchboardError) -> None:
        """Put a message back, or park it, without looking inside."""
        if self._is_exhausted(ticket):
            text = msgspec.json.encode(ticket).decode()
            await self.quarantine.park_message(text, queue=queue, error=error, attempts=attempts)
        else:
            await self._put(ticket, queue, attempts, error)

    async def _put(self, envelope: Envelope, queue: str, attempts: int, error: SwitchboardError) -> None:
        again = msgspec.structs.replace(envelope, attempts=attempts, failing_since=envelope.failing_since or self.now())
        delay = pause(queue, attempts, _asked(error))
        await self.queues.put(queue, RawMessage.of(again), delay)
        logger.warning(
            "put back: reason=%s queue=%s id=%s items=%d attempts=%d seconds=%d",
            error.reason,
            queue,
            envelope.item_id(0),
            len(envelope.notifications),
            attempts,
            delay.total_seconds(),
        )


def unexpected(error: Exception, item: str) -> UnexpectedError:
    """Report an error that nobody foresaw, whose message may hold data, and make of it one to be parked with."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    name = type(error).__name__
    logger.error("unexpected error: type=%s at=%s:%s item=%s", name, where.name, where.lineno, item)
    return UnexpectedError(name)


def _asked(error: SwitchboardError) -> float:
    return (error.retry_after or 0.0) if isinstance(error, UnavailableError) else 0.0


def _runs(indexes: Iterable[int]) -> Iterator[list[int]]:
    """Split ascending numbers where there is a gap."""
    for _, run in itertools.groupby(enumerate(indexes), key=lambda pair: pair[1] - pair[0]):
        yield [index for _, index in run]
