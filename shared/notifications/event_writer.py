"""Writing events on their queues: each in a message of its own, or as many in one as fit into it."""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from shared.notifications.events import Event
from shared.notifications.raw_messages import unavailable
from shared.storage.ports import Blobs, Queues
from shared.values.consumers import NO_OTHERS, Consumers
from shared.values.envelope import Envelope
from shared.values.errors import UnavailableError
from shared.values.message_text import Batch, Encoding, fits, join

DATA_CONTAINER: Final = "event-data"

type Puts = dict[tuple[str, tuple[int, ...]], Awaitable[object]]
"""Puts of messages, by their queue and the indexes of the events in them."""

LINGER: Final = 0.05
"""Seconds for which a message waits for more events: as long as decrypting a raw message of RSA-4096 takes."""


@dataclass(slots=True, eq=False)
class _OpenMessage:
    """A message that still takes events, from so many raw messages as yet, and the task that puts it."""

    batch: Batch
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    raw_messages: int = 0
    put: asyncio.Task[None] = field(init=False)


@dataclass(slots=True)
class EventWriter:
    """Puts events on the queues of all `consumers`. Belongs to one event loop.

    The data of an event that is too large for a message goes to a blob, and the event carries its address.

    Where it is `batched`, a message holds an array of as many events as fit into it, also of several raw messages. It
    is put when it is full, when each raw message under way has added its events, or after `linger` seconds. Events of
    an item that has failed before share a message only with events of their own raw message, so that an event which
    storage refuses does not make others fail again and again.

    `under_way` counts the raw messages that are being handled.
    """

    queues: Queues
    blobs: Blobs
    encoding: Encoding
    batched: bool
    consumers: Consumers = NO_OTHERS
    linger: float = LINGER
    _open: dict[tuple[str, str], _OpenMessage] = field(default_factory=dict, init=False)
    under_way: int = field(default=0, init=False)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Around the handling of a raw message, whose events may share a message with those of others."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def write(
        self, queue: str, events: Mapping[int, Event], envelope: Envelope, *, urgent: bool = False
    ) -> dict[int, UnavailableError]:
        """Put events on a queue of the catalogue, and on those that other consumers have in its place or beside it.

        Args:
            queue: the catalogue's.
            events: by the index of their item in the envelope.
            envelope: the raw message that they come from.
            urgent: whether they wait for no others.

        Returns:
            What did not get to every consumer, by index: it is for all to be tried again.
        """
        message = join if self.batched else b"".join
        bodies = {index: event.to_json() for index, event in events.items()}
        large = {index: events[index] for index, body in bodies.items() if not fits(message([body]), self.encoding)}

        async def check_in(index: int, event: Event) -> None:
            # At every try it is the same blob.
            name = f"{event.queue}/{envelope.received:%Y/%m/%d}/{envelope.item_id(index)}.json"
            bodies[index] = event.to_json_with_ref(await self.blobs.put(DATA_CONTAINER, name, event.data))

        failures = await unavailable({index: check_in(index, event) for index, event in large.items()})
        for index in failures:
            del bodies[index]
        group = "" if envelope.failing_since is None else envelope.id
        puts: Puts = {}
        for target in self.consumers.targets(queue):
            if self.batched:
                puts |= self._share(target, group, bodies, urgent=urgent)
            else:
                puts |= {
                    (target, (index,)): self.queues.put(target, body, self.encoding) for index, body in bodies.items()
                }
        for (_, indexes), error in (await unavailable(puts)).items():
            failures |= dict.fromkeys(indexes, error)
        return failures

    def _share(self, queue: str, group: str, bodies: Mapping[int, bytes], *, urgent: bool) -> Puts:
        """Add events to open messages, and return the puts of those."""
        indexes: dict[asyncio.Task[None], list[int]] = {}
        for index, body in bodies.items():
            message = self._open.get((queue, group))
            if message is None or not message.batch.add(body):
                if message is not None:
                    message.complete.set()
                message = self._open[queue, group] = _OpenMessage(Batch(self.encoding))
                message.batch.add(body)
                message.put = asyncio.create_task(self._put(queue, group, message))
            if message.put not in indexes:
                message.raw_messages += 1
                if urgent or group or message.raw_messages >= self.under_way:
                    message.complete.set()
            indexes.setdefault(message.put, []).append(index)
        # A caller that is cancelled must not take the events of others with it.
        return {(queue, tuple(places)): asyncio.shield(put) for put, places in indexes.items()}

    async def _put(self, queue: str, group: str, message: _OpenMessage) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.linger):
                await message.complete.wait()
        if self._open.get((queue, group)) is message:
            del self._open[queue, group]
        await self.queues.put(queue, join(message.batch.bodies), self.encoding)
