"""What the tests of every level share."""

import gc
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from dev.azurite import Azurite
from dev.host.process import FUNCTIONS_HOST

TESTS: Final = Path(__file__).parent
ACCOUNTS: Final = 1000  # Linux takes an environment variable of 128 KiB, which holds 1200 of them
LONGEST_FIRST: Final = (
    "reliability",
    "integration/host/test_process.py",
    "simulation",
    "integration/test_manage.py",
    "integration/test_stack.py",
    "integration",
    "",
    "unit",
)
"""By how long they take and wait: whoever begins with the longest does not wait for it at the end."""


# How long an example takes, or the choice of one, says more of the machine's other work than of the code.
settings.register_profile("switchboard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("switchboard")


class ModuleScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each worker whole modules, so that what a module shares is made once; but each year to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if "tests/simulation/" in nodeid else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    return ModuleScheduling(config, log) if config.getvalue("dist") == "loadscope" else None


gc.disable()  # while modules are imported and tests collected: all that is kept


def pytest_collection_finish() -> None:
    """What there is now stays until the end: no later collection needs to look through it."""
    gc.freeze()
    gc.enable()


def _place(item: pytest.Item) -> int:
    """Which of `LONGEST_FIRST` names it most exactly."""
    path = item.path.relative_to(TESTS).as_posix()
    return max((len(name), place) for place, name in enumerate(LONGEST_FIRST) if path.startswith(name))[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)  # else in random order
    if os.environ.get(FUNCTIONS_HOST):
        for item in items:
            if mark := item.get_closest_marker("own_host"):
                item.add_marker(pytest.mark.skip(reason=f"of the local host alone: {mark.args[0]}"))


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """One storage emulator for the whole run. Tests keep apart by names (`unique_name`), and none may stop it."""
    with Azurite.start(tmp_path_factory.mktemp("azurite"), accounts=ACCOUNTS, in_memory=True) as running:
        yield running


@pytest.fixture(scope="session")
def _accounts(azurite: Azurite) -> Iterator[str]:
    return map(azurite.connection_string_of, range(ACCOUNTS))


@pytest.fixture
def empty_storage(_accounts: Iterator[str]) -> str:
    """The connection string of an account of the emulator that no other test uses."""
    return next(_accounts)


@pytest.fixture
def unique_name() -> Callable[[str], str]:
    """Makes names that no other test uses, valid for queues and blob containers: `unique_name("raw")`."""

    def make(prefix: str = "test") -> str:
        return f"{prefix}-{uuid.uuid4().hex}"

    return make
