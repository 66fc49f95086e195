"""A function app of the test's own, served by a local host of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from azure.storage.queue import QueueServiceClient

from dev.azurite import Azurite
from dev.host import HostProcess
from tests.integration.host.apps import App


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path)


@pytest.fixture
def serve(app: App) -> Iterator[Callable[..., HostProcess]]:
    """Serves `app`: `serve(SETTING="…", lease_seconds=2)`; the host ends with the test."""
    with ExitStack() as hosts:

        def start(*, lease_seconds: int = 30, **settings: str) -> HostProcess:
            return hosts.enter_context(HostProcess(app.folder, app.environment | settings, lease_seconds=lease_seconds))

        yield start


@pytest.fixture
def queue_service(azurite: Azurite) -> Iterator[QueueServiceClient]:
    with QueueServiceClient.from_connection_string(azurite.connection_string) as service:
        yield service
