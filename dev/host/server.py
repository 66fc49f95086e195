"""The host: listens for the triggers of an app's functions, and has them called in worker processes."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from dev.host.config import HostJson, time_zone
from dev.host.ending import HTTP_DRAIN_SECONDS, Activity, Ending, wind_down
from dev.host.errors import LoadError
from dev.host.http import Fire, Route, application, body_limit
from dev.host.surroundings import Surroundings
from dev.host.worker import Function, IndexedFunction, Worker
from dev.host.worker_process import GroupOptions, WorkerGroup, WorkerGroups

if TYPE_CHECKING:
    from azure.storage.queue.aio import QueueServiceClient

    from dev.host.queues import QueueListener
    from dev.host.timers import Timers

_logger = logging.getLogger("host")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to serve, and how.

    Attributes:
        app: absolute path of the folder with function_app.py.
        settings: the app settings, environment included.
        url: where the host listens, without a slash at the end.
        host_id: hosts with the same one share the timers' locks and status.
        lease_seconds: see `QueueListener`.
        key: what callers of `/admin` and of routes that are not anonymous have to show.
        workers: how many processes call functions.
        groups: whether HTTP has processes of its own, and each other function.
    """

    app: Path
    host_json: HostJson
    settings: Mapping[str, str]
    url: str
    host_id: str
    lease_seconds: float
    key: str
    workers: int = 1
    groups: bool = False


async def serve(
    options: Options,
    listening: socket.socket,
    *,
    ending: Ending,
    on_ready: Callable[[list[str]], None],
) -> None:
    """Load the app and serve it until it is to end; then let running invocations finish, for ten seconds at most.

    Args:
        options: what to serve.
        listening: a bound socket.
        ending: tells when to end, and is told of failures.
        on_ready: called with one line for each function once requests are taken.

    Raises:
        LoadError: the app cannot be served.
    """
    async with AsyncExitStack() as resources:
        activity = Activity()
        group = GroupOptions(
            app=options.app,
            environment=options.settings,
            count=options.workers,
            function_timeout=options.host_json.timeout_seconds,
            activity=activity,
            fail=ending.fail,
        )
        worker = WorkerGroups(group) if options.groups else WorkerGroup(group)
        resources.push_async_callback(worker.close)
        triggers = _Triggers(options, worker, ending, activity)
        for function in await worker.start():
            await triggers.add(function, resources)
        limit = body_limit(options.settings)
        web_app = application(worker, triggers.routes, triggers.fire, key=options.key, max_body=limit)
        # As with the real host, a compressed body reaches the function as it is.
        runner = web.AppRunner(web_app, access_log=None, shutdown_timeout=HTTP_DRAIN_SECONDS, auto_decompress=False)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        listeners = {asyncio.create_task(listener.run()) for listener in triggers.listeners}
        on_ready(triggers.descriptions)
        await _until_ending(listeners, ending)
        await wind_down({*listeners, *triggers.started}, ending, activity, http=runner.cleanup())


class _Triggers:
    """What listens for each function of an app."""

    def __init__(self, options: Options, worker: Worker, ending: Ending, activity: Activity) -> None:
        self.routes: list[Route] = []
        self.listeners: list[QueueListener | Timers] = []
        self.fire: dict[str, Fire] = {}
        self.started: set[asyncio.Task[None]] = set()
        self.descriptions: list[str] = []
        self._options = options
        self._worker = worker
        self._ending = ending
        self._activity = activity
        self._surroundings = Surroundings()
        self._services: dict[str, QueueServiceClient] = {}
        self._wakes: dict[str, dict[str, asyncio.Event]] = {}
        self._timers: Timers | None = None

    async def add(self, indexed: IndexedFunction, resources: AsyncExitStack) -> None:
        """Make the listener of one function; clients are closed with `resources`.

        A function that cannot be served is left out and the others run, as on the real host.
        """
        if self._options.settings.get(f"AzureWebJobs.{indexed.name}.Disabled", "").lower() in {"true", "1"}:
            _logger.info("function %s is disabled", indexed.name)
            return
        try:
            function = Function.of(indexed, self._options.settings)
            match function.kind:
                case "httpTrigger":
                    description = self._add_http(function)
                case "queueTrigger":
                    description = await self._add_queue(function, resources)
                case _:
                    description = await self._add_timer(function, resources)
        except LoadError as error:
            self._leave_out(indexed.name, error)
            return
        self.descriptions.append(f"{function.name}: {description}")

    def _leave_out(self, name: str, error: LoadError) -> None:
        def tell(_: str = "") -> None:
            _logger.error("function %s does not run: %s", name, error)

        tell()
        # Who starts it by hand is answered as with any other, and what comes of it stands in the log.
        self.fire[name] = tell

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
            service = queue_service(connection, self._options.settings, self._surroundings)
            self._services[connection] = await resources.enter_async_context(service)
        listener = QueueListener(
            self._worker,
            function,
            self._services[connection],
            self._options.host_json.extensions.queues,
            self._surroundings,
            activity=self._activity,
            lease_seconds=self._options.lease_seconds,
            stopping=self._ending.stopping,
            fail=self._ending.fail,
            wakes=self._wakes.setdefault(connection, {}),
        )
        self.listeners.append(listener)
        self.fire[function.name] = self._starter(listener.call_with)
        return f"queue {function.trigger['queueName']}"

    async def _add_timer(self, function: Function, resources: AsyncExitStack) -> str:
        from dev.host.storage import blob_service  # noqa: PLC0415
        from dev.host.timers import Timers  # noqa: PLC0415

        if self._timers is None:
            zone = time_zone(self._options.settings)
            service = blob_service("AzureWebJobsStorage", self._options.settings, self._surroundings)
            self._timers = Timers(
                self._worker,
                await resources.enter_async_context(service),
                self._options.host_id,
                self._options.host_json.singleton,
                self._surroundings,
                zone=zone,
                activity=self._activity,
                fail=self._ending.fail,
                stopping=self._ending.stopping,
            )
            self.listeners.append(self._timers)
        timers = self._timers
        timers.add(function)
        self.fire[function.name] = self._starter(lambda _: timers.fire_now(function.name))
        return f"timer {function.trigger['schedule']}"

    def _starter(self, call: Callable[[str], Coroutine[None, None, None]]) -> Fire:
        def start(text: str) -> None:
            task = asyncio.create_task(call(text))
            self.started.add(task)
            task.add_done_callback(self.started.discard)

        return start


async def _until_ending(listeners: Iterable[asyncio.Task[None]], ending: Ending) -> None:
    """Wait for the end; a listener that ends before it has failed, and ends the host with its exception."""
    end = asyncio.create_task(ending.begun.wait())
    done, _ = await asyncio.wait({end, *listeners}, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
