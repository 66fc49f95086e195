"""Unit tests have no input and output: their time is virtual, and what is for a thread is done at once."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from dev.simulation.virtual_time import InlineLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"loop": asyncio.SelectorEventLoop if item.get_closest_marker("threads") else InlineLoop}
