"""The consumers in `examples/`, on events that the app itself has written."""

import asyncio
import base64
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import azure.functions as func
import msgspec
import pytest
from azure.storage.queue import QueueClient, QueueServiceClient
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from dev.azurite import Azurite, node
from dev.clients import NODE_MODULES, TSC, build_npm_package, build_wheel
from dev.queue_proxy import QueueProxy
from shared.http_client import HttpClient
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
from shared.values.events.event_types import EventError, parse
from shared.values.message_text import Encoding
from shared.values.resources import CALL_RECORDS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DRIVERS = ROOT / "tests" / "integration" / "example_drivers"
SAMPLES = ROOT / "docs" / "samples"
RECEIVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SUBSCRIPTION = "76222963-cc7b-42d2-882d-8aaa69cb2ba3"
DEADLINE = 240

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
        with closing(HttpClient()) as http:
            account = StorageAccount(StorageSettings(self.connection_string, None, None, None), http)
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
    """Wait for it; asked ever less often, as what is asked is storage, which works for each answer."""
    deadline, pause = time.monotonic() + DEADLINE, 0.05
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(pause)
        pause = min(1.2 * pause, 0.3)


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
        return [sys.executable, str(DRIVERS / "drive.py"), storage.name]


@dataclass
class JavaScriptExample:
    """Runs on the package that consumers install, beside Azure's own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, storage: Storage) -> list[str]:
        return [node(), str(self.folder / "consume.mjs"), storage.name]

    def driver(self, storage: Storage) -> list[str]:
        return [node(), str(self.folder / "drive.mjs"), storage.name]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> PythonExample:
    return PythonExample(build_wheel(tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> JavaScriptExample:
    if sys.platform == "win32":
        pytest.skip("links Azure's packages, for which Windows wants a privilege")
    folder = tmp_path_factory.mktemp("javascript")
    for script in (EXAMPLES / "javascript" / "consume.mjs", DRIVERS / "drive.mjs"):
        shutil.copy(script, folder)
    modules = folder / "node_modules"
    modules.mkdir()
    for scope in ("@azure", "@types"):
        (modules / scope).symlink_to(NODE_MODULES / scope)
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
    storage, known = running.storage, RECORDS[0]
    storage.write([known])

    def ends_after_it() -> bool:
        if storage.waiting() == 0:
            storage.write([{"id": "ends"}])
        return False

    lines, code = running.run(running.example.driver(storage), ends_after_it)
    assert (lines, code) == ([known["id"]], 7)
    storage.write([*RECORDS, {"id": "fails"}], times=2)
    storage.queue.send_message("{no json")
    lines, code = running.run(running.example.driver(storage), lambda: storage.waiting() == 0)
    assert code is None
    assert sorted(lines) == sorted(["ends", *(record["id"] for record in RECORDS if record is not known)])
    parked = storage.parked()
    assert len(parked) == 3
    assert "{no json" in parked


def test_what_takes_longer_than_the_lease_stays_hidden(
    javascript: JavaScriptExample, azurite: Azurite, storage: Storage, tmp_path: Path
) -> None:
    """In JavaScript, where the example renews by itself; Python's reader has a test of its own.

    Storage is made to give more than the two seconds that are asked for: on a slow machine they would be over at times.
    """
    storage.write([{"id": "slow"}])

    def over() -> bool:
        if "begun" not in (tmp_path / "output").read_text():
            return False
        assert list(storage.queue.receive_messages(max_messages=1, visibility_timeout=1)) == []
        if proxy.renewed > 3:
            (tmp_path / "go-on").touch()
        return storage.waiting() == 0

    with QueueProxy.before(azurite.queue_url, lease_seconds=300, asked_seconds=2) as proxy:
        url = f"{proxy.connection_string}BlobEndpoint={azurite.blob_url};"
        behind = replace(storage, connection_string=url)
        lines, _ = Running(javascript, behind, tmp_path).run(javascript.driver(storage), over)
    assert lines == ["begun", "slow"]


def test_runs_by_itself_and_prints_no_personal_data(running: Running) -> None:
    storage = running.storage
    storage.write(RECORDS, times=2, encoding="none", batched=True)
    lines, _ = running.run(running.example.command(storage), lambda: storage.waiting() == 0)
    source = "https://graph.microsoft.com/v1.0/communications/callRecords"
    ids = sorted(line.split()[3] for line in lines if source in line)
    assert ids == [f"{record['id']}/0" for record in RECORDS]
    assert "Adele" not in "".join(lines)


class TestWheel:
    def test_asks_for_msgspec_alone_unless_storage_is_wanted(self, python: PythonExample) -> None:
        with zipfile.ZipFile(python.wheel) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
            asked = re.findall(
                r"^Requires-Dist: ([\w-]+).*?(; extra == 'storage')?$", wheel.read(name).decode(), re.MULTILINE
            )
        assert {package for package, extra in asked if not extra} == {"msgspec"}
        assert {package for package, extra in asked if extra} == {"azure-storage-blob", "azure-storage-queue"}

    def test_reads_events_where_there_is_nothing_else(self, python: PythonExample) -> None:
        sample = SAMPLES / "MeetingRosterUpdated" / "plain.json"
        command = [sys.executable, "-I", "-c", READ_SAMPLE, str(python.wheel), str(sample)]
        printed = subprocess.check_output(command, text=True).split()
        assert printed == ["MeetingCallEventData", "msgspec", "switchboard_events"]


READ_SAMPLE = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
from switchboard_events import parse

(event,) = parse(Path(sys.argv[2]).read_bytes())
print(type(event.typed()).__name__)
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - sys.stdlib_module_names - {"typing_extensions"}))  # which msgspec takes where it is
"""


class TestNpmPackage:
    def test_reads_messages_as_the_wheel_does(self, javascript: JavaScriptExample) -> None:
        events = [path.read_text() for path in sorted(SAMPLES.rglob("*.json"))]
        messages = [
            *events,
            *(base64.b64encode(event.encode()).decode() for event in events),
            f"\r\n [{','.join(events)}]",
            *("[]", "", "x", "{}", "[7]", "?W10=", "[[]]", "null", "/w==", "[" * 10**5),
            *(events[0].replace('"1.0"', '"0.3"'), re.sub(r'"time": "[^"]+"', '"time": "then"', events[0])),
            events[0].replace('"data": {', '"data": {"name": "Kim \\ud83d",'),
        ]
        reader = javascript.folder / "read.mjs"
        reader.write_text(READ_MESSAGES)
        printed = subprocess.check_output([node(), str(reader)], input=json.dumps(messages), text=True)
        assert json.loads(printed) == [ids(message) for message in messages]

    def test_is_what_the_example_takes_it_for(self, javascript: JavaScriptExample) -> None:
        options = ["--noEmit", "--allowJs", "--checkJs", "--strict", "--skipLibCheck", "--types", "node"]
        command = [node(), str(TSC), *options, "--target", "es2022", "--module", "nodenext", "consume.mjs"]
        done = subprocess.run(command, cwd=javascript.folder, check=False, capture_output=True, text=True)
        assert done.stdout == ""


READ_MESSAGES = """
import { readFileSync } from "node:fs";
import { EventError, parse } from "switchboard-events";

function ids(message) {
  try {
    return parse(message).map(({ id }) => id);
  } catch (error) {
    if (error instanceof EventError) return null;
    throw error;
  }
}

console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(ids)));
"""


def ids(message: str) -> list[str] | None:
    """The ids of a message's events; None where it has none."""
    try:
        return [event.id for event in parse(message)]
    except EventError:
        return None


async def test_the_function_handles_each_event_once_and_logs_no_personal_data(
    storage: Storage, python: PythonExample, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("Switchboard", storage.connection_string)
    monkeypatch.syspath_prepend(python.wheel)
    spec = importlib.util.spec_from_file_location("example_function", EXAMPLES / "python-function" / "function_app.py")
    assert spec
    assert spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    handle = example.handle_call_events.build().get_user_function()
    caplog.set_level(logging.INFO, "example_function")
    await asyncio.to_thread(storage.write, RECORDS[1:3], times=2)
    async with example.blob_service():
        for message in storage.queue.peek_messages(32):
            await handle(func.QueueMessage(body=base64.b64decode(message.content)))
    logged = [record.getMessage() for record in caplog.records if record.name == "example_function"]
    assert sorted(line.split()[2] for line in logged) == ["record-1/0", "record-2/0"]
    assert "Adele" not in caplog.text
