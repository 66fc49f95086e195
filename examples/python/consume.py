"""Read Switchboard's events from queues, as a service of its own: each is handled once, and none is lost.

    python consume.py call-events

AZURE_STORAGE_CONNECTION_STRING says where the queues are. Without it, AZURE_STORAGE_ACCOUNT names the account, which is
reached with the identity that `DefaultAzureCredential` finds. README.md says what that may have to be given.
"""

import argparse
import asyncio
import logging
import os
import sqlite3
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from azure.identity.aio import DefaultAzureCredential
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueServiceClient
from switchboard_events import CloudEvent, Deduplicator
from switchboard_events.storage import EventQueue, Handler

MEMORY_DAYS = 30  # how long an event is known to have been handled


async def handle(event: CloudEvent, data: bytes) -> None:
    """Do your work here. Events hold personal data: this shows ids and the name of a type, and so should a log."""
    kind = type(event.typed(data)).__name__
    print(event.time.isoformat(), event.type, event.source, event.id, kind, flush=True)


class SqliteStore:
    """Keeps what has been handled in a file. One file serves one machine: use your own database for several."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, autocommit=True)
        self._database.execute("CREATE TABLE IF NOT EXISTS handled (source, id, at, PRIMARY KEY (source, id))")
        self._database.execute("DELETE FROM handled WHERE at < unixepoch() - ?", (MEMORY_DAYS * 86400,))

    async def has(self, key: tuple[str, str]) -> bool:
        found = self._database.execute("SELECT 1 FROM handled WHERE source = ? AND id = ?", key)
        return found.fetchone() is not None

    async def add(self, key: tuple[str, str]) -> None:
        self._database.execute("INSERT OR IGNORE INTO handled VALUES (?, ?, unixepoch())", key)


async def consume(names: Sequence[str], memory: Path, handler: Handler = handle, **timing: int) -> None:
    """Handle what is on queues and what comes."""
    async with AsyncExitStack() as stack:
        queues, blobs = await clients(stack)
        deduplicator = Deduplicator(SqliteStore(memory))

        async def read(name: str) -> None:
            async for _ in EventQueue(queues, blobs, name, deduplicator, **timing).handle(handler):
                pass

        await asyncio.gather(*map(read, names))


async def clients(stack: AsyncExitStack) -> tuple[QueueServiceClient, BlobServiceClient]:
    """Clients for the account that the environment names."""
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    if text:
        queues, blobs = QueueServiceClient.from_connection_string(text), BlobServiceClient.from_connection_string(text)
    else:
        account = os.environ["AZURE_STORAGE_ACCOUNT"]
        credential = await stack.enter_async_context(DefaultAzureCredential())
        queues = QueueServiceClient(f"https://{account}.queue.core.windows.net", credential)
        blobs = BlobServiceClient(f"https://{account}.blob.core.windows.net", credential)
    return await stack.enter_async_context(queues), await stack.enter_async_context(blobs)


def main() -> None:
    parser = argparse.ArgumentParser(description="Read Switchboard's events from queues.")
    parser.add_argument(
        "queues", nargs="+", metavar="QUEUE", help="call-events, meeting-events, emergency-call-events…"
    )
    parser.add_argument("--memory", type=Path, default=Path("handled.sqlite"), help="a file; default: %(default)s")
    given = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    with suppress(KeyboardInterrupt):
        asyncio.run(consume(given.queues, given.memory))


if __name__ == "__main__":
    main()
