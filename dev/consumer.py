"""A downstream consumer: reads events from their queues, as any system behind Switchboard would."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueServiceClient
from rich.text import Text

from clients.python.switchboard_events.storage import EventQueue
from shared.values.events.event_types import CloudEvent
from shared.values.resources import EVENT_QUEUES

_IDLE_SECONDS: Final = 0.05
_COLOURS: Final = {"emergency-call-events": "bold red", "call-events": "green", "meeting-events": "cyan"}


@dataclass(frozen=True)
class Arrival:
    """An event, its data as JSON (from the blob where it has a `dataref`), and when it was taken off its queue."""

    queue: str
    event: CloudEvent
    data: bytes
    at: datetime

    def line(self) -> Text:
        """What it is, in one line of 80 characters for people: nothing of its data but the size, where it is large."""
        event = self.event
        size = "" if event.dataref is None else f"  {len(self.data) / 1000:.0f} KB"
        line = Text(f"{event.time:%H:%M:%S} ")
        line.append(f"{event.type.removeprefix('Microsoft.Graph.'):33}", style=_COLOURS.get(self.queue, "white"))
        line.append(f"{self.queue:22}")
        line.append(f"{event.id[:8]}…{size}", style="dim")
        return line


class Consumer:
    """Takes events off queues, in a thread; what it cannot delete shows again after `hidden_seconds`.

    That is long by default, because a message that shows again only because this machine is slow tells nothing. It
    looks again after `idle_seconds` where there was nothing.
    """

    def __init__(
        self,
        connection_string: str,
        on_arrival: Callable[[Arrival], None],
        *,
        queues: Sequence[str] = EVENT_QUEUES,
        hidden_seconds: int = 120,
        idle_seconds: float = _IDLE_SECONDS,
    ) -> None:
        self._connection_string = connection_string
        self._on_arrival = on_arrival
        self._queues = queues
        self._hidden_seconds = hidden_seconds
        self._idle_seconds = idle_seconds
        self._loop = asyncio.new_event_loop()
        self._reading = self._loop.create_task(self._read_all())
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Consumer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._reading.cancel)
        self._thread.join()

    def _run(self) -> None:
        with suppress(asyncio.CancelledError), closing(self._loop):
            self._loop.run_until_complete(self._reading)

    async def _read_all(self) -> None:
        async with (
            QueueServiceClient.from_connection_string(self._connection_string, retry_total=0) as queues,
            BlobServiceClient.from_connection_string(self._connection_string, retry_total=0) as blobs,
            asyncio.TaskGroup() as group,
        ):
            for name in self._queues:
                group.create_task(self._read(name, queues, blobs))

    async def _read(self, name: str, queues: QueueServiceClient, blobs: BlobServiceClient) -> None:
        async def arrive(event: CloudEvent, data: bytes) -> None:
            self._on_arrival(Arrival(name, event, data, datetime.now(UTC)))

        # Without a deduplicator: whoever asks how often an event comes wants to see each time.
        queue = EventQueue(
            queues, blobs, name, at_once=32, lease_seconds=self._hidden_seconds, poll_seconds=self._idle_seconds
        )
        async for _ in queue.handle(arrive):
            pass
