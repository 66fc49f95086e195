"""Queues and blobs in memory, with a clock of their own: storage as the services know it, and its faults."""

import base64
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

from shared.notifications.event_writer import DATA_CONTAINER
from shared.notifications.quarantine import QUARANTINE_CONTAINER, Quarantine
from shared.notifications.raw_messages import RawMessages
from shared.storage.ports import LeasedMessage, Receipt
from shared.values.errors import UnavailableError
from shared.values.events.event_types import CloudEvent, parse
from shared.values.message_text import QUEUE_MESSAGE_BYTES, Encoding, encode

START = datetime(2026, 1, 1, tzinfo=UTC)


class Crash(BaseException):
    """The worker is gone."""


@dataclass
class Message:
    """A message as it lies on its queue; `text` as it was encoded."""

    id: str
    text: str
    inserted: datetime
    visible: datetime
    expires: datetime | None = None
    dequeued: int = 0
    receipt: str = ""

    @property
    def body(self) -> str:
        """What it says, decoded."""
        return self.text if self.text.startswith(("{", "[")) else base64.b64decode(self.text).decode()


class Blob(NamedTuple):
    data: bytes
    metadata: Mapping[str, str]
    etag: str
    modified: datetime


class Lease(NamedTuple):
    id: str
    until: datetime


def _no_fault(_what: str, _operation: str, apply: Callable[[], Any]) -> Any:
    return apply()


@dataclass
class StorageModel:
    """`fault` is asked to carry out each operation: it may fail, crash, or do it and say nothing of it."""

    now: datetime = START
    messages: defaultdict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    containers: defaultdict[str, dict[str, Blob]] = field(default_factory=lambda: defaultdict(dict))
    refused: set[str] = field(default_factory=set)  # queues and containers that take nothing
    fault: Callable[[str, str, Callable[[], Any]], Any] = _no_fault
    log: list[tuple[str, str]] = field(default_factory=list)  # operations: what they were, and on what
    leases: dict[tuple[str, str], Lease] = field(default_factory=dict)  # by container and name of the blob
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def queues(self) -> "QueuesModel":
        return QueuesModel(self)

    @property
    def blobs(self) -> "BlobsModel":
        return BlobsModel(self)

    @property
    def raw_messages(self) -> RawMessages:
        """What the app puts, opens and finishes raw messages with, over this storage."""
        quarantine = Quarantine(self.blobs, lambda: self.now)
        return RawMessages(self.queues, self.blobs, quarantine, lambda: self.now)

    def operate(self, what: str, operation: str, apply: Callable[[], Any]) -> Any:
        self.log.append((operation, what))
        if what in self.refused:
            raise UnavailableError(what, reason="storage-503")
        return self.fault(what, operation, apply)

    def number(self) -> str:
        return str(next(self._numbers))

    def put(self, queue: str, text: str, *, delay: timedelta = timedelta(0), lives: timedelta | None = None) -> Message:
        """A message that somebody else has put; its text as it is encoded."""
        expires = None if lives is None else self.now + lives
        message = Message(self.number(), text, self.now, self.now + delay, expires, 0, self.number())
        self.messages[queue].append(message)
        return message

    def take(self, queue: str, lease: timedelta, at_most: int) -> list[Message]:
        """Lease what is visible, the oldest first."""
        self.messages[queue] = [one for one in self.messages[queue] if one.expires is None or one.expires > self.now]
        taken = [one for one in self.messages[queue] if one.visible <= self.now][:at_most]
        for message in taken:
            message.visible = self.now + lease
            message.dequeued += 1
            message.receipt = self.number()
        return taken

    def found(self, receipt: Receipt) -> Message | None:
        """The message of a receipt that still counts."""
        for message in self.messages[receipt.queue]:
            if (message.id, message.receipt) == (receipt.message_id, receipt.pop_receipt):
                return message
        return None

    def names(self, container: str) -> list[str]:
        return sorted(self.containers[container])

    def events(self) -> Iterator[tuple[CloudEvent, Any]]:
        """The events on all queues of events, each with its data, wherever that lies."""
        for queue, messages in self.messages.items():
            if queue.endswith("-events"):
                for event in itertools.chain.from_iterable(parse(message.text) for message in messages):
                    data = bytes(event.data)
                    if event.dataref is not None:
                        name = event.dataref.partition(f"/{DATA_CONTAINER}/")[2]
                        data = self.containers[DATA_CONTAINER][name].data
                    yield event, json.loads(data)

    def parked(self) -> list[dict[str, Any]]:
        """The entries of quarantine."""
        return [json.loads(blob.data) for blob in self.containers[QUARANTINE_CONTAINER].values()]


@dataclass(frozen=True)
class QueuesModel:
    """What `shared.storage.queues.Queues` offers."""

    storage: StorageModel

    async def put(self, queue: str, body: bytes, encoding: Encoding, delay: timedelta = timedelta(0)) -> Receipt:
        text = encode(body, encoding)

        def apply() -> Receipt:
            if len(text.encode()) > QUEUE_MESSAGE_BYTES:
                raise UnavailableError(queue, reason="storage-RequestBodyTooLarge")
            message = self.storage.put(queue, text, delay=delay)
            return Receipt(queue, message.id, message.receipt)

        return self.storage.operate(queue, "put", apply)

    async def show(self, receipt: Receipt) -> bool:
        def apply() -> bool:
            message = self.storage.found(receipt)
            if message is not None:
                message.visible, message.receipt = self.storage.now, self.storage.number()
            return message is not None

        return self.storage.operate(receipt.queue, "show", apply)

    async def delete(self, receipt: Receipt) -> bool:
        def apply() -> bool:
            message = self.storage.found(receipt)
            if message is not None:
                self.storage.messages[receipt.queue].remove(message)
            return message is not None

        return self.storage.operate(receipt.queue, "delete", apply)

    async def lease(self, queue: str, lease: timedelta, *, at_most: int) -> list[LeasedMessage]:
        def apply() -> list[LeasedMessage]:
            return [
                LeasedMessage(Receipt(queue, one.id, one.receipt), one.text, one.inserted)
                for one in self.storage.take(queue, lease, at_most)
            ]

        return self.storage.operate(queue, "lease", apply)

    async def oldest(self, queue: str) -> datetime | None:
        def apply() -> datetime | None:
            visible = [
                message.inserted for message in self.storage.messages[queue] if message.visible <= self.storage.now
            ]
            return min(visible, default=None)

        return self.storage.operate(queue, "peek", apply)

    async def count(self, queue: str) -> int:
        return self.storage.operate(queue, "count", lambda: len(self.storage.messages[queue]))


@dataclass(frozen=True)
class BlobsModel:
    """What `shared.storage.blobs.Blobs` offers."""

    storage: StorageModel

    async def put(self, container: str, name: str, data: bytes, metadata: Mapping[str, str] | None = None) -> str:
        def apply() -> str:
            self._write(container, name, data, metadata or {})
            return f"https://storage.example/{container}/{name}"

        return self.storage.operate(container, "put blob", apply)

    async def append(self, container: str, name: str, data: bytes) -> None:
        def apply() -> None:
            found = self.storage.containers[container].get(name)
            self._write(container, name, (b"" if found is None else found.data) + data, {})

        self.storage.operate(container, "append blob", apply)

    async def get(self, container: str, name: str) -> bytes | None:
        found = await self.get_version(container, name)
        return None if found is None else found.data

    async def get_version(self, container: str, name: str) -> Blob | None:
        return self.storage.operate(container, "get blob", lambda: self.storage.containers[container].get(name))

    async def put_version(self, container: str, name: str, data: bytes, etag: str | None) -> bool:
        def apply() -> bool:
            found = self.storage.containers[container].get(name)
            if (None if found is None else found.etag) != etag:
                return False
            self._write(container, name, data, {})
            return True

        return self.storage.operate(container, "put blob", apply)

    async def list(self, container: str) -> AsyncIterator[Any]:
        blobs = self.storage.operate(container, "list", lambda: sorted(self.storage.containers[container].items()))
        for name, blob in blobs:
            yield SimpleNamespace(name=name, metadata=blob.metadata, modified=blob.modified)

    async def delete(self, container: str, name: str) -> None:
        self.storage.operate(container, "delete blob", lambda: self.storage.containers[container].pop(name, None))

    async def delete_version(self, container: str, name: str, etag: str) -> bool:
        def apply() -> bool:
            found = self.storage.containers[container].get(name)
            if found is None or found.etag != etag:
                return False
            del self.storage.containers[container][name]
            return True

        return self.storage.operate(container, "delete blob", apply)

    async def acquire_lease(self, container: str, name: str, lease_id: str, seconds: int) -> bool:
        assert 15 <= seconds <= 60, 'what "Lease Blob" allows'

        def apply() -> bool:
            held = self.storage.leases.get((container, name))
            if held is not None and held.id != lease_id and held.until > self.storage.now:
                return False
            self.storage.leases[container, name] = Lease(lease_id, self.storage.now + timedelta(seconds=seconds))
            return True

        return self.storage.operate(container, "acquire lease", apply)

    async def renew_lease(self, container: str, name: str, lease_id: str) -> bool:
        def apply() -> bool:
            held = self.storage.leases.get((container, name))
            return held is not None and held.id == lease_id

        return self.storage.operate(container, "renew lease", apply)

    async def release_lease(self, container: str, name: str, lease_id: str) -> None:
        def apply() -> None:
            held = self.storage.leases.get((container, name))
            if held is not None and held.id == lease_id:
                del self.storage.leases[container, name]

        self.storage.operate(container, "release lease", apply)

    def _write(self, container: str, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        self.storage.containers[container][name] = Blob(data, metadata, self.storage.number(), self.storage.now)
