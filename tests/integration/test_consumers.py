"""The consumers in `examples/`, on events that the app itself has written."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from azure.storage.queue import QueueClient, QueueServiceClient
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from dev.azurite import Azurite, node
from dev.clients import NODE_MODULES, build_npm_package, build_wheel
from shared.notifications.decrypt import Decryptor
from shared.notifications.event_writer import EventWriter
from shared.notifications.quarantine import Quarantine
from shared.notifications.raw_messages import RawMessages
from shared.settings import StorageSettings
from shared.storage.account import StorageAccount
from shared.storage.blobs import AzureBlobs
from shared.storage.queues import AzureQueues
from shared.values.envelope import Envelope
from shared.values.errors import UnknownCertificateError
from shared.values.message_text import Encoding
from shared.values.resources import CALL_RECORDS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RECEIVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SUBSCRIPTION = "76222963-cc7b-42d2-882d-8aaa69cb2ba3"
DEADLINE = 90

RECORDS: list[dict[str, Any]] = [
    {"id": "record-0"},
    {"id": "record-1", "newProperty": "Adele Example <&>"},
    {"id": "record-2", "newProperty": "x" * 70_000},  # more than a message holds
    {"id": "record-3"},
]


@dataclass
class Prefixed:
    """Queues under names that no other test uses."""

    queues: AzureQueues
    prefix: str

    async def put(self, queue: str, body: bytes, encoding: Encoding) -> None:
        await self.queues.put(f"{self.prefix}-{queue}", body, encoding)


class NoKeys:
    async def private_key(self, certificate_id: str) -> RSAPrivateKey:
        raise UnknownCertificateError


@dataclass
class Storage:
    """One queue of events, and what an example needs to read it."""

    connection_string: str
    prefix: str
    queues: QueueServiceClient

    @property
    def name(self) -> str:
        return f"{self.prefix}-{CALL_RECORDS.events_queue}"

    @property
    def queue(self) -> QueueClient:
        return self.queues.get_queue_client(self.name)

    def write(
        self, records: Iterable[dict[str, Any]], *, times: int = 1, encoding: Encoding = "base64", batched: bool = False
    ) -> None:
        """Let the app write events of missed call records; `times` says how often the platform hands it the message."""
        notifications = [
            {
                "subscriptionId": SUBSCRIPTION,
                "changeType": "created",
                "tenantId": "f69f5191-20ae-4093-8dae-3ec09edeb253",
                "resource": f"communications/callRecords/{record['id']}",
                "resourceData": record,
            }
            for record in records
        ]
        raws = tuple(msgspec.Raw(json.dumps(notification).encode()) for notification in notifications)
        envelope = Envelope(
            v=1, id=self.prefix, received=RECEIVED, traceparent=TRACE, notifications=raws, backfilled=True
        )
        asyncio.run(self._write(msgspec.json.encode(envelope).decode(), times, encoding, batched))

    async def _write(self, text: str, times: int, encoding: Encoding, batched: bool) -> None:
        account = StorageAccount(StorageSettings(self.connection_string, None, None, None))
        async with account.queues, account.blobs:
            blobs = AzureBlobs(account)
            quarantine = Quarantine(blobs, lambda: RECEIVED)
            decryptor = Decryptor(
                raw_messages=RawMessages(AzureQueues(account), blobs, quarantine, lambda: RECEIVED),
                writer=EventWriter(Prefixed(AzureQueues(account), self.prefix), blobs, encoding, batched),
                private_keys=NoKeys(),
            )
            for attempt in range(times):
                await decryptor.handle(text, queue="raw-notifications", attempts=attempt + 1)

    def waiting(self) -> int:
        """How many messages there are, those that somebody is handling included."""
        return self.queue.get_queue_properties().approximate_message_count or 0

    def parked(self) -> list[str]:
        """The texts of what was put aside."""
        poison = self.queues.get_queue_client(f"{self.name}-poison")
        return [message.content for message in poison.peek_messages(32)]


@pytest.fixture
def storage(azurite: Azurite, unique_name: Callable[[str], str]) -> Iterator[Storage]:
    with QueueServiceClient.from_connection_string(azurite.connection_string) as queues:
        yield Storage(azurite.connection_string, unique_name("c")[:20], queues)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


class Example(Protocol):
    """One of the examples that read queues: how to start it, by itself and with a handler of ours."""

    def command(self, storage: Storage) -> list[str]: ...

    def driver(self, storage: Storage) -> list[str]: ...

    environment: dict[str, str]


@dataclass
class PythonExample:
    """Runs on the wheel that consumers install."""

    wheel: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": os.pathsep.join([str(self.wheel), str(EXAMPLES / "python")])}

    def command(self, storage: Storage) -> list[str]:
        return [sys.executable, str(EXAMPLES / "python" / "consume.py"), storage.name]

    def driver(self, storage: Storage) -> list[str]:
        return [sys.executable, "-c", PYTHON_DRIVER, storage.name]


@dataclass
class JavaScriptExample:
    """Runs on the package that consumers install, beside Azure's own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, storage: Storage) -> list[str]:
        return [node(), str(self.folder / "consume.mjs"), storage.name]

    def driver(self, storage: Storage) -> list[str]:
        return [node(), str(self.folder / "driver.mjs"), storage.name]


# A handler that prints the record's id, fails for ever at one record, and ends the process once at another.
PYTHON_DRIVER = """
import asyncio, json, os, sys
from pathlib import Path
import consume

async def handle(event, data):
    record = json.loads(data)["id"]
    if record == "fails":
        raise ConnectionError
    if record == "ends" and not Path("ended").exists():
        Path("ended").touch()
        os._exit(7)
    print(record, flush=True)

timing = {"lease_seconds": 2, "retry_seconds": 0, "poll_seconds": 0.1}
asyncio.run(consume.consume([sys.argv[1]], Path("handled.sqlite"), handle, **timing))
"""
JAVASCRIPT_DRIVER = """
import { existsSync, writeFileSync } from "node:fs";
import { clients, EventQueue, Handled } from "./consume.mjs";

function handle(event, { id: record }) {
  if (record === "fails") throw new Error();
  if (record === "ends" && !existsSync("ended")) {
    writeFileSync("ended", "");
    process.exit(7);
  }
  console.log(record);
}

const timing = { leaseSeconds: 2, retrySeconds: 0, pollSeconds: 0.1 };
await new EventQueue(...clients(), process.argv[2], new Handled("handled.txt"), handle, timing).run();
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> PythonExample:
    return PythonExample(build_wheel(tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> JavaScriptExample:
    if sys.platform == "win32":
        pytest.skip("links Azure's packages, for which Windows wants a privilege")
    folder = tmp_path_factory.mktemp("javascript")
    shutil.copy(EXAMPLES / "javascript" / "consume.mjs", folder)
    (folder / "driver.mjs").write_text(JAVASCRIPT_DRIVER)
    modules = folder / "node_modules"
    modules.mkdir()
    (modules / "@azure").symlink_to(NODE_MODULES / "@azure")
    with tarfile.open(build_npm_package(folder)) as package:
        package.extractall(modules, filter="data")
    (modules / "package").rename(modules / "switchboard-events")
    return JavaScriptExample(folder)


@pytest.fixture(params=["python", "javascript"])
def example(request: pytest.FixtureRequest) -> Example:
    return request.getfixturevalue(request.param)


@dataclass
class Running:
    """An example as a program of its own, in a folder that keeps its memory."""

    example: Example
    storage: Storage
    folder: Path

    def run(self, command: list[str], over: Callable[[], bool]) -> tuple[list[str], int | None]:
        """Until it ends or something is over; the lines that it printed, and its exit code if it ended by itself."""
        output = self.folder / "output"
        settings = {"AZURE_STORAGE_CONNECTION_STRING": self.storage.connection_string, **self.example.environment}
        with (
            output.open("wb") as file,
            subprocess.Popen(command, stdout=file, cwd=self.folder, env=os.environ | settings) as process,
        ):
            try:
                until(lambda: process.poll() is not None or over())
                return output.read_text().splitlines(), process.poll()
            finally:
                process.terminate()


@pytest.fixture
def running(example: Example, storage: Storage, tmp_path: Path) -> Running:
    return Running(example, storage, tmp_path)


def test_each_event_is_handled_once_whatever_happens_around_it(running: Running) -> None:
    storage = running.storage
    storage.write([{"id": "ends"}])
    lines, code = running.run(running.example.driver(storage), lambda: False)
    assert (lines, code) == ([], 7)
    storage.write([*RECORDS, {"id": "fails"}], times=2)
    storage.queue.send_message("{no json")
    lines, code = running.run(running.example.driver(storage), lambda: storage.waiting() == 0)
    assert code is None
    assert sorted(lines) == sorted(["ends", *(record["id"] for record in RECORDS)])
    parked = storage.parked()
    assert len(parked) == 3
    assert "{no json" in parked
    # What it remembers outlives it.
    storage.write([RECORDS[0], {"id": "record-4"}])
    lines, _ = running.run(running.example.driver(storage), lambda: storage.waiting() == 0)
    assert lines == ["record-4"]


def test_runs_by_itself_and_prints_no_personal_data(running: Running) -> None:
    storage = running.storage
    storage.write(RECORDS, times=2, encoding="none", batched=True)
    lines, _ = running.run(running.example.command(storage), lambda: storage.waiting() == 0)
    source = "https://graph.microsoft.com/v1.0/communications/callRecords"
    ids = sorted(line.split()[3] for line in lines if source in line)
    assert ids == [f"{record['id']}/0" for record in RECORDS]
    assert "Adele" not in "".join(lines)
