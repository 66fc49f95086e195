"""A downstream consumer: reads events from their queues, as any system behind Switchboard would."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.blob import BlobClient
from azure.storage.queue import QueueClient, QueueMessage
from rich.text import Text

from shared.values.event_types import CloudEvent, parse
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
        """What it is, in one line for people; nothing of its data."""
        event = self.event
        size = "" if event.dataref is None else f"  {len(self.data) / 1000:.0f} KB, from its blob"
        line = Text(f"  {event.time:%H:%M:%S}  ")
        line.append(f"{event.type.removeprefix('Microsoft.Graph.'):24}", style=_COLOURS.get(self.queue, "white"))
        line.append(f"{self.queue:24}")
        line.append(f"{event.id[:12]}…{size}", style="dim")
        return line


class Consumer:
    """Takes events off queues, in a thread for each; what it cannot delete shows again after `hidden_seconds`.

    That is long by default, because a message that shows again only because this machine is slow tells nothing. It
    looks again after `idle_seconds` where there was nothing.
    """

    def __init__(
        self,
        connection_string: str,
        account_key: str,
        on_arrival: Callable[[Arrival], None],
        *,
        queues: Sequence[str] = EVENT_QUEUES,
        hidden_seconds: int = 120,
        idle_seconds: float = _IDLE_SECONDS,
    ) -> None:
        self._connection_string = connection_string
        self._account_key = account_key
        self._on_arrival = on_arrival
        self._hidden_seconds = hidden_seconds
        self._idle_seconds = idle_seconds
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._consume, args=(queue,), daemon=True) for queue in queues]

    def __enter__(self) -> "Consumer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _consume(self, queue: str) -> None:
        with QueueClient.from_connection_string(self._connection_string, queue, retry_total=0) as client:
            while not self._stopping.is_set():
                if not self._take(client, queue):
                    self._stopping.wait(self._idle_seconds)

    def _take(self, client: QueueClient, queue: str) -> bool:
        """Handle what is there; False where there was nothing."""
        hidden_until = time.monotonic() + self._hidden_seconds
        try:
            messages = list(
                client.receive_messages(messages_per_page=32, max_messages=32, visibility_timeout=self._hidden_seconds)
            )
            for message in messages:
                self._handle(client, queue, message, hidden_until)
        except ResourceNotFoundError:
            return False  # no event of this kind has come yet
        except AzureError:
            return False  # storage is away; it will be back
        return bool(messages)

    def _handle(self, client: QueueClient, queue: str, message: QueueMessage, hidden_until: float) -> None:
        for event in parse(message.content):
            data = self._insist(lambda event=event: self._data(event), hidden_until)
            self._on_arrival(Arrival(queue, event, data, datetime.now(UTC)))
        # Last: a crash before this brings the event once more, and loses none.
        self._insist(lambda: _delete(client, message), hidden_until)

    def _insist[T](self, request: Callable[[], T], hidden_until: float) -> T:
        """Repeat what fails for as long as the message is hidden; then it comes again in any case."""
        while True:
            try:
                return request()
            except AzureError:
                if self._stopping.wait(_IDLE_SECONDS) or time.monotonic() > hidden_until:
                    raise

    def _data(self, event: CloudEvent) -> bytes:
        if event.dataref is None:
            return bytes(event.data)
        with BlobClient.from_blob_url(event.dataref, credential=self._account_key) as blob:
            return blob.download_blob().readall()


def _delete(client: QueueClient, message: QueueMessage) -> None:
    with suppress(ResourceNotFoundError):  # deleted by an attempt whose answer was lost
        client.delete_message(message)
