"""What the tests of every level share."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from dev.azurite import Azurite


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
