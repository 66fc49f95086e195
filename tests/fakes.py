"""What several tests let happen to the storage that they share (`dev.simulation.storage_model`), and make events of."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from dev.simulation.storage_model import START, Blob, StorageModel
from shared.notifications.events import Event, event_of
from shared.values.items import parse_item


def event_from(
    item: Mapping[str, Any] | bytes,
    plaintext: bytes | None = None,
    *,
    fallback_id: str = "f",
    received: datetime = START,
    traceparent: str = "00-t",
    backfilled: bool = False,
) -> Event:
    """The event of a notification's item, given as it came or as what it says."""
    parsed = parse_item(item if isinstance(item, bytes) else json.dumps(item).encode())
    return event_of(
        parsed,
        plaintext,
        fallback_id=fallback_id,
        received=received,
        traceparent=traceparent,
        backfilled=backfilled,
    )


def write_blob(storage: StorageModel, container: str, name: str, data: bytes) -> None:
    """Write a blob as another worker, or whoever has damaged it, does."""
    storage.containers[container][name] = Blob(data, {}, storage.number(), storage.now)


def write_blob_in_between(storage: StorageModel, container: str, name: str, data: bytes) -> None:
    """Let another worker write a blob between the next read of the app's and the write after it."""

    def write_first(_container: str, operation: str, apply: Callable[[], Any]) -> Any:
        if operation == "put blob":
            storage.fault = fault
            write_blob(storage, container, name, data)
        return apply()

    fault, storage.fault = storage.fault, write_first
