"""Function apps in a folder of the test, and what their functions have noted."""

import base64
import json
import textwrap
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue import QueueClient

HEAD = """
import asyncio, json, os, time
import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


def note(**fields):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(json.dumps(fields) + "\\n")

"""


class App:
    """A function app and what its functions have noted.

    Attributes:
        folder: where it is.
        name: no other app's, valid for queues and blob containers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"app-{uuid.uuid4().hex}"
        self._notes = folder / "notes.jsonl"

    def write(self, source: str, *, head: str = HEAD, queues: dict[str, Any] | None = None) -> None:
        (self.folder / "function_app.py").write_text(head + textwrap.dedent(source))
        options = {"maxPollingInterval": "00:00:00.2"} | (queues or {})
        # Another host than the local one has its queue triggers from there.
        bundle = {"id": "Microsoft.Azure.Functions.ExtensionBundle", "version": "[4.0.0, 5.0.0)"}
        host_json = {"version": "2.0", "extensionBundle": bundle, "extensions": {"queues": options}}
        (self.folder / "host.json").write_text(json.dumps(host_json))

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTES": str(self._notes)}

    @property
    def notes(self) -> list[dict[str, Any]]:
        if not self._notes.exists():
            return []
        return [json.loads(line) for line in self._notes.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def await_notes(self, count: int, *, seconds: float = 240) -> list[dict[str, Any]]:
        eventually(lambda: len(self.notes) >= count, seconds=seconds)
        return self.notes


def eventually(condition: Callable[[], bool], *, seconds: float = 240) -> None:
    """Wait for it, and ask the less often the longer it takes: what is asked is often storage, which works for it."""
    deadline, pause = time.monotonic() + seconds, 0.01
    while not condition():
        assert time.monotonic() < deadline, "it has not come true in time"
        time.sleep(pause)
        pause = min(1.5 * pause, 0.2)


def encoded(text: str) -> str:
    """A message as it lies on a queue of the host's default encoding."""
    return base64.b64encode(text.encode()).decode()


def count(queue: QueueClient) -> int:
    """Messages in a queue, invisible ones included; none if there is no queue."""
    try:
        return queue.get_queue_properties().approximate_message_count or 0
    except ResourceNotFoundError:
        return 0
