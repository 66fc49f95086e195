"""The event loops that are measured on: Python's own, and that of a worker in Azure with its kind of task."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from dev.host.event_loop import worker_loop

LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "a worker's loop": worker_loop,
    "asyncio's own loop": asyncio.new_event_loop,
}


def run_in_worker[T](work: Coroutine[Any, Any, T]) -> T:
    """Run it on the loop that production has."""
    return asyncio.run(work, loop_factory=worker_loop)
