"""What the tests of every level share."""

import os
import uuid
from collections.abc import Callable, Iterator

import pytest

from dev.azurite import Azurite
from dev.host.process import FUNCTIONS_HOST


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(FUNCTIONS_HOST):
        for item in items:
            if item.get_closest_marker("own_host"):
                item.add_marker(pytest.mark.skip(reason="of the local host alone"))


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """One storage emulator for the whole run. Tests keep apart by names (`unique_name`), and none may stop it."""
    with Azurite.start(tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.fixture
def unique_name() -> Callable[[str], str]:
    """Makes names that no other test uses, valid for queues and blob containers: `unique_name("raw")`."""

    def make(prefix: str = "test") -> str:
        return f"{prefix}-{uuid.uuid4().hex}"

    return make
