"""What the rest of the app asks of storage: one port for queues and one for blobs, and what they answer with.

Operations of storage are named as in "Queue Storage REST API" (https://learn.microsoft.com/rest/api/storageservices/queue-service-rest-api).
"""

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

from shared.values.message_text import Encoding

STATE_CONTAINER: Final = "state"
"""Where what outlives a worker is kept: small blobs that every worker can read."""


class Version(NamedTuple):
    """A blob as it was at one time."""

    data: bytes
    etag: str
    modified: datetime | None = None


class Listed(NamedTuple):
    """A blob as a list shows it."""

    name: str
    metadata: Mapping[str, str]
    modified: datetime


class Receipt(NamedTuple):
    """What shows or deletes a message, for as long as nobody else has taken it ("Put Message", "Get Messages").

    Both ids are empty where storage named none: then it can be neither shown nor deleted.
    """

    queue: str
    message_id: str
    pop_receipt: str


class LeasedMessage(NamedTuple):
    """A message that nobody else sees until its lease is over: its text as it lies there, and since when it does."""

    receipt: Receipt
    text: str
    inserted: datetime


class Queues(Protocol):
    """See `shared.storage.queues.AzureQueues`, which says what each does and raises."""

    async def put(self, queue: str, body: bytes, encoding: Encoding, delay: timedelta = ...) -> Receipt: ...

    async def show(self, receipt: Receipt) -> bool: ...

    async def delete(self, receipt: Receipt) -> bool: ...

    async def lease(self, queue: str, lease: timedelta, *, at_most: int) -> list[LeasedMessage]: ...

    async def oldest(self, queue: str) -> datetime | None: ...

    async def count(self, queue: str) -> int: ...

    async def names(self) -> list[str]: ...

    async def peek(self, queue: str) -> list[str]: ...

    async def take(self, queue: str, see: Callable[[str], bool], *, at_most: int) -> int: ...


class Blobs(Protocol):
    """See `shared.storage.blobs.AzureBlobs`, which says what each does and raises."""

    async def put(self, container: str, name: str, data: bytes, metadata: Mapping[str, str] = ...) -> str: ...

    async def get(self, container: str, name: str) -> bytes | None: ...

    async def get_version(self, container: str, name: str) -> Version | None: ...

    async def put_version(self, container: str, name: str, data: bytes, etag: str | None) -> bool: ...

    async def append(self, container: str, name: str, data: bytes) -> None: ...

    def list(self, container: str) -> AsyncIterator[Listed]: ...

    async def delete(self, container: str, name: str) -> None: ...

    async def delete_version(self, container: str, name: str, etag: str) -> bool: ...

    async def acquire_lease(self, container: str, name: str, lease_id: str, seconds: int) -> bool: ...

    async def renew_lease(self, container: str, name: str, lease_id: str) -> bool: ...

    async def release_lease(self, container: str, name: str, lease_id: str) -> None: ...
