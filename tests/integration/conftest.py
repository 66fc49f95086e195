"""The simulator, storage that starts empty, and the app over both."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp.connector
import pytest
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueServiceClient
from cryptography.hazmat.primitives.serialization import pkcs12
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dev.simulator import Simulator
from shared.app import App as Parts
from shared.telemetry_export import OpenTelemetry
from tests.integration.app import CLIENT_STATE, PREVIOUS_CLIENT_STATE, App

OTHER_TENANT = "909c6581-5130-43e9-88f3-fcb3582cde37"

_LONG = 90.0
_IMPATIENT = (
    "graph.client._CONNECT_SECONDS",
    "graph.sign_in._ANSWER_SECONDS",
    "graph.sign_in._CONNECT_SECONDS",
    "graph.sign_in._TIMEOUT",
    "http_client.CONNECT_SECONDS",
    "http_client.SILENT_SECONDS",
    "key_vault._ANSWER_SECONDS",
    "key_vault._CONNECT_SECONDS",
    "notifications.express.WAIT_SECONDS",
    "notifications.receive.WAIT_SECONDS",
    "notifications.receive._ANSWER_SECONDS",
    "notifications.receive._EXPRESS_SECONDS",
    "notifications.signing_keys._FETCH_SECONDS",
    "operations.function_runs._SECONDS",
    "operations.health._SECONDS",
    "operations.self_test._TIMEOUT",
    "operations.status._SECONDS",
    "subscriptions.run._CERTIFICATE_SECONDS",
    "subscriptions.turn._SAVE_SECONDS",
    "subscriptions.turn._STORAGE_SECONDS",
)
"""How many seconds the app waits for what comes, but late where the machine has much else to do."""


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the app, in this process, wait for longer than a slow machine takes."""
    for patience in _IMPATIENT:
        monkeypatch.setattr(f"shared.{patience}", _LONG)


@pytest.fixture(scope="session", autouse=True)
def _keys_are_checked_once() -> Iterator[None]:
    """A PFX bundle is read once: it takes 40 ms each time, for the check of its key, and few are read by many tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pkcs12, "load_pkcs12", functools.cache(pkcs12.load_pkcs12))
        yield


@pytest.fixture(scope="module")
def shared_simulator() -> Iterator[Simulator]:
    with Simulator.start(tenants=("f69f5191-20ae-4093-8dae-3ec09edeb253", OTHER_TENANT)) as simulator:
        # aiohttp read SSL_CERT_FILE when it was imported, long before there was a simulator to trust.
        aiohttp.connector._SSL_CONTEXT_VERIFIED.load_verify_locations(simulator.ca_bundle)
        yield simulator


@pytest.fixture
async def app(empty_storage: str, shared_simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """The app, on empty storage."""
    settings = shared_simulator.environment() | {
        "AzureWebJobsStorage": empty_storage,
        "CLIENT_STATE": CLIENT_STATE,
        "CLIENT_STATE_PREVIOUS": PREVIOUS_CLIENT_STATE,
        "NOTIFICATION_URL": "https://switchboard.example/api/notifications",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    be_patient(monkeypatch)
    async with (
        QueueServiceClient.from_connection_string(empty_storage) as queues,
        BlobServiceClient.from_connection_string(empty_storage) as blobs,
        Parts() as parts,
    ):
        shared_simulator.faults.clear()
        shared_simulator.faults.forget_requests()
        yield App(shared_simulator, queues, blobs, parts)


@pytest.fixture
def desire(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Desires what a TOML text says. Graph holds nothing yet, and asks for no handshake: nobody is there to answer."""

    def write(text: str) -> None:
        path = tmp_path / "subscriptions.toml"
        path.write_text(text)
        monkeypatch.setenv("SUBSCRIPTIONS", str(path))
        app.sim.graph.settings.handshake = False
        for subscription in app.sim.graph.subscriptions:
            app.sim.graph.remove(subscription.id)

    return write


@pytest.fixture
def metrics() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def telemetry(app: App, metrics: InMemoryMetricReader, spans: InMemorySpanExporter) -> None:
    """The app's figures and spans are kept in `metrics` and `spans`."""
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))

    def counted(*what: Any) -> None:
        app.parts.activity.add(*what)  # made late: a test may still change the settings

    app.parts.telemetry = OpenTelemetry(MeterProvider([metrics]), tracers, counted)
