"""One worker: an app's functions, listened for and called in this process."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from dev.host.config import HostJson
from dev.host.http import Fire, Route, application
from dev.host.timers import TimerListener, TimerStore
from dev.host.worker import Function, Worker, running_functions

if TYPE_CHECKING:
    from azure.storage.queue.aio import QueueServiceClient

    from dev.host.queues import QueueListener

DRAIN_SECONDS = 10

_logger = logging.getLogger("host")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a worker is started with; it can be sent to another process.

    Attributes:
        app: absolute path of the folder with function_app.py.
        settings: the app settings, environment included.
        url: where the host listens, without a slash at the end.
        state: folder for what must outlive the process.
        lease_seconds: see `QueueListener`.
    """

    app: Path
    host_json: HostJson
    settings: Mapping[str, str]
    url: str
    state: Path
    lease_seconds: float


async def serve(
    options: Options,
    listening: socket.socket,
    *,
    stopping: asyncio.Event,
    on_ready: Callable[[list[str]], None],
    with_timers: bool,
) -> bool:
    """Load the app and serve it until `stopping` is set; then let running invocations end, for ten seconds at most.

    Args:
        options: what to serve.
        listening: a bound socket.
        stopping: set it to end.
        on_ready: called with one line for each function once requests are taken.
        with_timers: whether timers fire here on schedule.

    Returns:
        Whether all invocations ended in time.

    Raises:
        LoadError: the app cannot be served.
    """
    worker = await Worker.load(options.app, options.settings)
    async with AsyncExitStack() as resources:
        triggers = _Triggers(options, worker, stopping)
        for function in worker.functions:
            await triggers.add(function, resources)
        web_app = application(worker, triggers.routes, triggers.fire)
        # It is `_drain` that ends the wait for running requests, because it must know of those that are left.
        runner = web.AppRunner(web_app, access_log=None, shutdown_timeout=2 * DRAIN_SECONDS)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        listeners = {asyncio.create_task(queue.run()) for queue in triggers.queues}
        if with_timers:
            listeners |= {asyncio.create_task(timer.run()) for timer in triggers.timers}
        on_ready(triggers.descriptions)
        await _until_stopped(listeners, stopping)
        return await _drain({asyncio.create_task(runner.cleanup()), *listeners, *triggers.started})


class _Triggers:
    """What listens for each function of an app."""

    def __init__(self, options: Options, worker: Worker, stopping: asyncio.Event) -> None:
        self.routes: list[Route] = []
        self.queues: list[QueueListener] = []
        self.timers: list[TimerListener] = []
        self.fire: dict[str, Fire] = {}
        self.started: set[asyncio.Task[None]] = set()
        self.descriptions: list[str] = []
        self._options = options
        self._worker = worker
        self._stopping = stopping
        self._services: dict[str, QueueServiceClient] = {}
        self._store = TimerStore(options.state / "timers.json")

    async def add(self, function: Function, resources: AsyncExitStack) -> None:
        """Make the listener of one function; clients are closed with `resources`."""
        match function.kind:
            case "httpTrigger":
                description = self._add_http(function)
            case "queueTrigger":
                description = await self._add_queue(function, resources)
            case _:
                description = self._add_timer(function)
        self.descriptions.append(f"{function.name}: {description}")

    def _add_http(self, function: Function) -> str:
        route = Route.of(function, self._options.host_json.extensions.http.route_prefix)
        self.routes.append(route)
        return f"[{','.join(sorted(route.methods)) or 'any method'}] {self._options.url}{route.template}"

    async def _add_queue(self, function: Function, resources: AsyncExitStack) -> str:
        # The storage SDK is half of what the host imports, and an app without queues need not wait for it.
        from dev.host.queues import QueueListener  # noqa: PLC0415
        from dev.host.storage import queue_service  # noqa: PLC0415

        connection = function.trigger.get("connection") or "AzureWebJobsStorage"
        if connection not in self._services:
            service = queue_service(connection, self._options.settings)
            self._services[connection] = await resources.enter_async_context(service)
        listener = QueueListener(
            self._worker,
            function,
            self._services[connection],
            self._options.host_json.extensions.queues,
            lease_seconds=self._options.lease_seconds,
            stopping=self._stopping,
        )
        self.queues.append(listener)
        self.fire[function.name] = self._starter(listener.call_with)
        return f"queue {function.trigger['queueName']}"

    def _add_timer(self, function: Function) -> str:
        listener = TimerListener(self._worker, function, self._store, stopping=self._stopping)
        self.timers.append(listener)
        self.fire[function.name] = self._starter(listener.fire_now)
        return f"timer {function.trigger['schedule']}"

    def _starter(self, call: Callable[[str], Coroutine[None, None, None]]) -> Fire:
        def start(text: str) -> None:
            task = asyncio.create_task(call(text))
            self.started.add(task)
            task.add_done_callback(self.started.discard)

        return start


async def _until_stopped(listeners: Iterable[asyncio.Task[None]], stopping: asyncio.Event) -> None:
    """Wait for `stopping`; a listener that ends before it has failed, and ends the worker with its exception."""
    stop = asyncio.create_task(stopping.wait())
    done, _ = await asyncio.wait({stop, *listeners}, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _drain(tasks: set[asyncio.Task[None]]) -> bool:
    done, late = await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
    for task in done:
        task.result()
    if late:
        names = ", ".join(sorted(running_functions())) or "connections"
        _logger.warning("still running after %d seconds, and abandoned: %s", DRAIN_SECONDS, names)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return not late
