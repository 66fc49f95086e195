"""The event loop of a worker in Azure: uvloop where it is installed, and tasks that know their invocation.

Source: `start_worker.py` and `dispatcher.py` of the worker for Python 3.13 (`proxy_worker`,
Azure/azure-functions-python-worker).
"""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Self, cast

# A task factory is declared to take generators too, which no task takes any more.
type _Work = Coroutine[Any, Any, Any] | Generator[Any, None, Any]


class InvocationTask(asyncio.Task[Any]):
    """A task that belongs to the same invocation as the one in which it is made."""

    _ATTRIBUTE = "__azure_function_invocation_id__"

    def __init__(
        self,
        work: Coroutine[Any, Any, Any],
        *,
        loop: asyncio.AbstractEventLoop,
        **options: Any,
    ) -> None:
        super().__init__(work, loop=loop, **options)
        invocation_id = getattr(asyncio.current_task(loop), self._ATTRIBUTE, None)
        if invocation_id is not None:
            self.begin_invocation(invocation_id)

    @classmethod
    def make(cls, loop: asyncio.AbstractEventLoop, work: _Work, **options: Any) -> Self:
        """A loop's task factory."""
        return cls(cast(Coroutine[Any, Any, Any], work), loop=loop, **options)

    def begin_invocation(self, invocation_id: str) -> None:
        """Let this task, and those made in it, belong to an invocation."""
        setattr(self, self._ATTRIBUTE, invocation_id)


def use_uvloop() -> None:
    """Let all loops of this process be uvloop's, where it is installed, those that an app makes by itself too."""
    try:
        # Not at the top: whoever calls functions in a process of its own has another loop.
        import uvloop  # noqa: PLC0415
    except ImportError:  # an app does not bring it: in Azure it is the worker's
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def worker_loop() -> asyncio.AbstractEventLoop:
    """A new loop as a worker in Azure has it, for tests and measurements; without uvloop, one of Python's own."""
    try:
        import uvloop  # noqa: PLC0415 - as above
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    loop.set_task_factory(InvocationTask.make)
    return loop
