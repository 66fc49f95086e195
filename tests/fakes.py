"""What several tests let happen to the storage that they share (`dev.simulation.storage_model`)."""

from collections.abc import Callable
from typing import Any

from dev.simulation.storage_model import Blob, StorageModel


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
