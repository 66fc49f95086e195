"""Read Switchboard's events from a queue: each is handled once, and none is lost.

    python consume.py call-events

AZURE_STORAGE_CONNECTION_STRING says where the queue is. Without it, AZURE_STORAGE_ACCOUNT names the account, and the
identity that `DefaultAzureCredential` finds needs two roles: Storage Queue Data Contributor, Storage Blob Data Reader.

Packages: azure-identity, azure-storage-blob, azure-storage-queue.
"""

import argparse
import base64
import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from azure.core.exceptions import ResourceExistsError
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobClient, BlobServiceClient
from azure.storage.queue import QueueMessage, QueueServiceClient

VISIBILITY_SECONDS = 300  # the time to handle the messages of one request; then another consumer gets those not deleted
MAX_TRIES = 5
MEMORY_DAYS = 30  # how long an event is known to have been handled

type Event = dict[str, Any]
type Handler = Callable[[Event, Any], None]


def handle(event: Event, data: Any) -> None:
    """Do your work here. Events hold personal data: this shows ids alone, and so should a log."""
    known = sorted(data) if isinstance(data, dict) else type(data).__name__
    print(event["time"], event["type"], event["source"], event["id"], known, flush=True)


def consume(
    queues: QueueServiceClient,
    blobs: BlobServiceClient,
    name: str,
    memory: sqlite3.Connection,
    handle: Handler = handle,
) -> None:
    """Handle all messages that wait on a queue."""
    queue = queues.get_queue_client(name)
    for message in queue.receive_messages(messages_per_page=16, visibility_timeout=VISIBILITY_SECONDS):
        if (message.dequeue_count or 0) > MAX_TRIES:
            park(queues, name, message)
        else:
            for event in events_in(message):
                handle_once(event, blobs, memory, handle)
        queue.delete_message(message)  # last: a crash before this line brings the message back


def handle_once(event: Event, blobs: BlobServiceClient, memory: sqlite3.Connection, handle: Handler) -> None:
    """Handle an event unless that was done; if your own writes join this transaction, they happen exactly once."""
    with memory:
        new = memory.execute(
            "INSERT INTO handled (source, id, at) VALUES (?, ?, unixepoch()) ON CONFLICT DO NOTHING",
            (event["source"], event["id"]),
        )
        if new.rowcount:
            handle(event, data_of(event, blobs))


def events_in(message: QueueMessage) -> list[Event]:
    """The events of a message: base64 or plain, one or a batch."""
    text = message.content
    if not text.startswith(("{", "[")):
        text = base64.b64decode(text, validate=True)
    found = json.loads(text)
    return found if isinstance(found, list) else [found]


def data_of(event: Event, blobs: BlobServiceClient) -> Any:
    """An event's data, from the blob that `dataref` names where it was too large for a queue."""
    if "dataref" not in event:
        return event["data"]
    named = BlobClient.from_blob_url(event["dataref"])
    # Only our own account is asked, so that no credential goes anywhere else.
    blob = blobs.get_blob_client(named.container_name, named.blob_name)
    return json.loads(blob.download_blob().readall())


def park(queues: QueueServiceClient, name: str, message: QueueMessage) -> None:
    """Put a message that fails again and again aside, as a Functions queue trigger does."""
    poison = queues.get_queue_client(f"{name}-poison")
    with suppress(ResourceExistsError):
        poison.create_queue()
    poison.send_message(message.content, time_to_live=-1)
    print(f"message {message.id} failed {MAX_TRIES} times; it is now on {name}-poison", flush=True)


def remembering(path: Path) -> sqlite3.Connection:
    """The memory of what has been handled. One file serves one machine: use your own database for several."""
    memory = sqlite3.connect(path)
    with memory:
        memory.execute("CREATE TABLE IF NOT EXISTS handled (source, id, at, PRIMARY KEY (source, id)) WITHOUT ROWID")
        memory.execute("DELETE FROM handled WHERE at < unixepoch() - ?", (MEMORY_DAYS * 86400,))
    return memory


def clients() -> tuple[QueueServiceClient, BlobServiceClient]:
    """Clients for the account that the environment names."""
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    if text:
        return QueueServiceClient.from_connection_string(text), BlobServiceClient.from_connection_string(text)
    account, credential = os.environ["AZURE_STORAGE_ACCOUNT"], DefaultAzureCredential()
    return (
        QueueServiceClient(f"https://{account}.queue.core.windows.net", credential),
        BlobServiceClient(f"https://{account}.blob.core.windows.net", credential),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Read Switchboard's events from a queue.")
    parser.add_argument("queue", help="call-events, meeting-events, emergency-call-events…")
    parser.add_argument("--memory", type=Path, default=Path("handled.sqlite"), help="a file; default: %(default)s")
    given = parser.parse_args()
    queues, blobs = clients()
    with closing(remembering(given.memory)) as memory:
        while True:
            consume(queues, blobs, given.queue, memory)
            time.sleep(2)


if __name__ == "__main__":
    main()
