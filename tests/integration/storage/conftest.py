"""What stands between the app and storage runs on the loop that production has, and on Python's own."""

import asyncio
import random
from collections.abc import Callable, Mapping

import pytest

from dev.host.event_loop import worker_loop
from tests.integration.conftest import be_patient


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.SelectorEventLoop, "worker": worker_loop}


@pytest.fixture(autouse=True)
def _no_pause_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, _high: 0.001)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch)
