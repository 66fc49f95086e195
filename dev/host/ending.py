"""How the host ends: as it was asked to, or because it cannot go on."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Collection, Iterator
from contextlib import contextmanager

DRAIN_SECONDS = 10  # for queue and timer functions
HTTP_DRAIN_SECONDS = 30
_SETTLE_SECONDS = 1

_logger = logging.getLogger("host")


class Activity:
    """What is under way, by the functions' names.

    Attributes:
        idle: set while nothing is.
    """

    def __init__(self) -> None:
        self.idle = asyncio.Event()
        self.idle.set()
        self._names: Counter[str] = Counter()

    @property
    def names(self) -> list[str]:
        """The functions of what is under way."""
        return sorted(self._names)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Something is under way, for the length of the block."""
        self._names[name] += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._names -= Counter([name])
            if not self._names:
                self.idle.set()


class Ending:
    """Whether the host is to end, and whether that is because of a failure.

    Attributes:
        begun: it is to end; until nothing is under way any more, or the time is over, listeners still take what comes.
        stopping: nothing more is taken.
        failed: it ends because it cannot go on.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.stopping = asyncio.Event()
        self.failed = False

    def begin(self) -> None:
        """Let it end as it was asked to."""
        self.begun.set()

    def fail(self, reason: str) -> None:
        """Let it end because it cannot go on: nothing more is taken, what runs may finish, the exit code is 1."""
        _logger.critical("the host ends: %s", reason)
        self.failed = True
        self.stopping.set()
        self.begun.set()


async def wind_down(
    listeners: Collection[asyncio.Task[None]], ending: Ending, activity: Activity, *, http: Awaitable[None]
) -> None:
    """Let what is under way finish: requests in 30 seconds, the rest in 10; abandon what is left.

    Unless the host has failed, its listeners still take what comes meanwhile, as the real host's do.

    Args:
        listeners: end some time after `ending.stopping` is set.
        ending: is set to stopping at the end.
        activity: what is under way.
        http: takes no more requests, and ends when none is under way any more, after 30 seconds at the latest.
    """
    deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS
    await http
    try:
        async with asyncio.timeout_at(deadline):
            await activity.idle.wait()
    except TimeoutError:
        _logger.warning("still running after %d seconds, and abandoned: %s", DRAIN_SECONDS, ", ".join(activity.names))
    ending.stopping.set()
    if listeners and activity.idle.is_set():
        await asyncio.wait(listeners, timeout=_SETTLE_SECONDS)
    for listener in listeners:
        listener.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
