"""The consumers in `examples/`, on events that the app itself has written."""

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueClient, QueueServiceClient
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from dev.azurite import Azurite
from shared.notifications.decrypt import Decryptor
from shared.notifications.event_writer import DATA_CONTAINER, EventWriter
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
PYTHON = EXAMPLES / "python" / "consume.py"
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
    blobs: BlobServiceClient
    memory: Path

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


@pytest.fixture
def storage(azurite: Azurite, unique_name: Callable[[str], str], tmp_path: Path) -> Iterator[Storage]:
    text = azurite.connection_string
    with (
        QueueServiceClient.from_connection_string(text) as queues,
        BlobServiceClient.from_connection_string(text) as blobs,
    ):
        yield Storage(text, unique_name("c")[:20], queues, blobs, tmp_path / "handled.sqlite")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("consume", PYTHON)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


class Consumer:
    """The Python example, with a handler of ours."""

    def __init__(self, example: ModuleType, storage: Storage) -> None:
        self._example = example
        self._storage = storage
        self.handled: list[Any] = []
        self.fails = False

    def handle(self, event: dict[str, Any], data: Any) -> None:
        if self.fails:
            raise ConnectionError
        self.handled.append(data)

    def run(self) -> None:
        with closing(self._example.remembering(self._storage.memory)) as memory:
            self._example.consume(self._storage.queues, self._storage.blobs, self._storage.name, memory, self.handle)


@pytest.fixture
def consumer(example: ModuleType, storage: Storage) -> Consumer:
    return Consumer(example, storage)


class TestPython:
    @pytest.mark.parametrize("batched", [False, True])
    @pytest.mark.parametrize("encoding", ["base64", "none"])
    def test_handles_each_event_once_however_often_it_comes(
        self, storage: Storage, consumer: Consumer, encoding: Encoding, batched: bool
    ) -> None:
        storage.write(RECORDS, times=2, encoding=encoding, batched=batched)
        consumer.run()
        assert sorted(consumer.handled, key=lambda data: data["id"]) == RECORDS
        assert storage.waiting() == 0

    def test_its_memory_outlives_it(self, storage: Storage, example: ModuleType, consumer: Consumer) -> None:
        storage.write(RECORDS[:1])
        consumer.run()
        storage.write(RECORDS[:2])
        later = Consumer(example, storage)
        later.run()
        assert [data["id"] for data in later.handled] == ["record-1"]

    def test_an_event_whose_handling_fails_comes_again(
        self, storage: Storage, example: ModuleType, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(example, "VISIBILITY_SECONDS", 1)
        storage.write(RECORDS[:1])
        consumer.fails = True
        with pytest.raises(ConnectionError):
            consumer.run()
        consumer.fails = False
        self._run_until_empty(storage, consumer)
        assert consumer.handled == RECORDS[:1]

    def test_a_message_that_always_fails_is_put_aside(
        self, storage: Storage, example: ModuleType, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(example, "VISIBILITY_SECONDS", 1)
        monkeypatch.setattr(example, "MAX_TRIES", 1)
        storage.queue.create_queue()
        storage.queue.send_message("{no json")
        with pytest.raises(ValueError, match="Expecting"):
            consumer.run()
        storage.write(RECORDS[:1])
        self._run_until_empty(storage, consumer)
        assert consumer.handled == RECORDS[:1]
        parked = list(storage.queues.get_queue_client(f"{storage.name}-poison").receive_messages())
        assert [message.content for message in parked] == ["{no json"]

    def _run_until_empty(self, storage: Storage, consumer: Consumer) -> None:
        assert storage.waiting() > 0

        def empty() -> bool:
            consumer.run()
            return storage.waiting() == 0

        until(empty)

    def test_an_event_whose_data_is_gone_stays(self, storage: Storage, consumer: Consumer) -> None:
        storage.write(RECORDS[2:3])
        name = f"{CALL_RECORDS.events_queue}/{RECEIVED:%Y/%m/%d}/{storage.prefix}-0.json"
        storage.blobs.get_blob_client(DATA_CONTAINER, name).delete_blob()
        with pytest.raises(ResourceNotFoundError):
            consumer.run()
        assert storage.waiting() == 1

    def test_runs_by_itself_and_prints_no_personal_data(self, storage: Storage, tmp_path: Path) -> None:
        storage.write(RECORDS, times=2)
        output = tmp_path / "output"
        environment = os.environ | {"AZURE_STORAGE_CONNECTION_STRING": storage.connection_string}
        command = [sys.executable, str(PYTHON), storage.name, "--memory", str(storage.memory)]
        with output.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process:
            try:
                until(lambda: process.poll() is not None or storage.waiting() == 0)
            finally:
                process.terminate()
        printed = output.read_text()
        source = "https://graph.microsoft.com/v1.0/communications/callRecords"
        ids = sorted(line.split()[3] for line in printed.splitlines() if source in line)
        assert ids == [f"{record['id']}/0" for record in RECORDS], printed
        assert "Adele" not in printed


def test_javascript_is_javascript() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    command = [node, "--check", EXAMPLES / "javascript" / "consume.mjs"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
