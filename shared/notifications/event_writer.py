"""Writing events on their queues: each in a message of its own, or as many in one as fit into it."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from shared.notifications.events import Event
from shared.notifications.raw_messages import unavailable
from shared.storage.ports import Blobs, Queues
from shared.values.consumers import NO_OTHERS, Consumers
from shared.values.envelope import Envelope
from shared.values.errors import UnavailableError
from shared.values.message_text import Encoding, batches, fits, join

DATA_CONTAINER: Final = "event-data"


@dataclass(frozen=True, slots=True)
class EventWriter:
    """Puts events on the queues of all `consumers`; where it is `batched`, a message holds as many as fit into it.

    The data of an event that is too large for a message goes to a blob, and the event carries its address.
    """

    queues: Queues
    blobs: Blobs
    encoding: Encoding
    batched: bool
    consumers: Consumers = NO_OTHERS

    async def write(self, queue: str, events: Mapping[int, Event], envelope: Envelope) -> dict[int, UnavailableError]:
        """Put events on a queue of the catalogue, and on those that other consumers have in its place or beside it.

        Args:
            queue: the catalogue's.
            events: by the index of their item in the envelope.
            envelope: the raw message that they come from.

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
        ready = iter(bodies)
        groups = batches(bodies.values(), self.encoding) if self.batched else ([body] for body in bodies.values())
        puts = {}
        for group in groups:
            indexes, text = tuple(islice(ready, len(group))), message(group)
            for target in self.consumers.targets(queue):
                puts[indexes, target] = self.queues.put(target, text, self.encoding)
        for (indexes, _), error in (await unavailable(puts)).items():
            failures |= dict.fromkeys(indexes, error)
        return failures
