"""The processes that call an app's functions, as the host sees them."""

import asyncio
import contextlib
import itertools
import logging
import math
import pickle
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dev.host import wire
from dev.host.ending import Activity
from dev.host.errors import FunctionFailedError, LoadError
from dev.host.messages import TypedData
from dev.host.worker import IndexedFunction, Invocation

_ROOT = Path(__file__).resolve().parents[2]
_GRACE_SECONDS = 3
_REPLACE_SECONDS = 2
_PAUSES_AFTER_DEATH = {1: 0.0, 2: 10.0}
_IN_A_ROW_SECONDS = 120

_logger = logging.getLogger("host")


class WorkerEndedError(LoadError):
    """A worker process has ended while it loaded the app."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the worker process ended while it loaded the app (exit code {code})")
        self.code = code


class WorkerProcess:
    """One process with the app in it; `start` makes it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        functions: Sequence[IndexedFunction],
    ) -> None:
        self.functions = functions
        self._process = process
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[TypedData | None]] = {}
        self.is_replaced = False
        self._ended = asyncio.create_task(self._serve())

    @classmethod
    async def start(cls, app: Path, environment: Mapping[str, str]) -> "WorkerProcess":
        """Start a process and let it load the app.

        Raises:
            LoadError: the app cannot be loaded.
        """
        token = secrets.token_bytes(wire.TOKEN_BYTES)
        connections: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                if secrets.compare_digest(await reader.readexactly(wire.TOKEN_BYTES), token):
                    connections.put_nowait((reader, writer))
                    return
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dev.host.worker_main", cwd=_ROOT, env=environment, stdin=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdin is not None
            port = server.sockets[0].getsockname()[1]
            process.stdin.write(pickle.dumps(wire.Start(port=port, token=token, app=app)))
            reader, writer = await _unless_ended(process, connections.get())
            loaded = await _unless_ended(process, wire.read(reader))
        except BaseException:
            await _end(process)
            raise
        finally:
            server.close()
        if isinstance(loaded, wire.Refused):
            await _end(process)
            raise LoadError(loaded.reason)
        return cls(process, reader, writer, loaded.functions)

    async def invoke(self, invocation: Invocation) -> TypedData | None:
        """See `Worker`."""
        number = next(self._numbers)
        self._calls[number] = asyncio.get_running_loop().create_future()
        wire.write(self._writer, wire.Invoke(number=number, invocation=invocation))
        try:
            return await self._calls[number]
        finally:
            del self._calls[number]

    async def wait(self) -> int:
        """Wait until the process has ended, by itself or not, and return its exit code. What it was at has failed."""
        return await asyncio.shield(self._ended)

    @property
    def takes_calls(self) -> bool:
        """Whether it is there, and is to stay."""
        return not self.is_replaced and not self._ended.done()

    def replace(self) -> None:
        """End the process because a function has not ended in time; its other calls learn nothing of that, ever."""
        self.is_replaced = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def close(self) -> None:
        """End the process, whatever it is at."""
        await _end(self._process)
        await self._ended

    async def _serve(self) -> int:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                self._take(await wire.read(self._reader))
        self._writer.close()
        code = await self._process.wait()
        for call in self._calls.values():
            if not call.done() and not self.is_replaced:
                call.set_exception(FunctionFailedError(f"its worker process ended (exit code {code})", ""))
        return code

    def _take(self, frame: wire.Returned | wire.Failed) -> None:
        call = self._calls.get(frame.number)
        if call is None or call.done():  # nobody waits for it any more
            return
        match frame:
            case wire.Returned():
                call.set_result(frame.result)
            case wire.Failed():
                call.set_exception(FunctionFailedError(frame.message, frame.stack_trace))


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """How the processes of a group are run.

    Attributes:
        app: folder with function_app.py.
        environment: the whole environment of the processes.
        count: how many processes.
        function_timeout: how many seconds a function may take; None for any time.
        activity: is told of the calls.
        fail: called with the reason if a process dies too often or cannot be started again: the host is to end.
    """

    app: Path
    environment: Mapping[str, str]
    count: int
    function_timeout: float | None
    activity: Activity
    fail: Callable[[str], None]


class WorkerGroup:
    """Processes that take the calls of the same functions in strict turn.

    One that dies is started again at once, ten seconds after a second death, and after a third the host is to end; a
    death more than two minutes after the one before is a first one. One with a function that takes too long is replaced
    two seconds later, whatever else it is at.
    """

    def __init__(self, options: GroupOptions) -> None:
        self._options = options
        self._processes: list[WorkerProcess | None] = [None] * options.count
        self._turns = itertools.cycle(range(options.count))
        self._deaths = 0
        self._last_death = -math.inf
        self._started = asyncio.Condition()
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> Sequence[IndexedFunction]:
        """Start the processes and return the app's functions.

        Raises:
            LoadError: the app cannot be loaded.
        """
        # One after the other, so that an app that cannot be loaded says so once.
        for index in range(len(self._processes)):
            process = await self._start(index)
            self._keepers.append(asyncio.create_task(self._keep(index, process)))
        return process.functions

    async def invoke(self, invocation: Invocation) -> TypedData | None:
        """See `Worker`. With no process there the call waits for one."""
        process = await self._next()
        with self._options.activity.of(invocation.function.name):
            try:
                async with asyncio.timeout(self._options.function_timeout):
                    return await process.invoke(invocation)
            except TimeoutError:
                asyncio.get_running_loop().call_later(_REPLACE_SECONDS, process.replace)
                raise FunctionFailedError("it took longer than functionTimeout", "") from None

    async def close(self) -> None:
        """End the processes, whatever they are at."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(process.close() for process in self._processes if process is not None))

    async def _start(self, index: int) -> WorkerProcess:
        process = await WorkerProcess.start(self._options.app, self._options.environment)
        async with self._started:
            self._processes[index] = process
            self._started.notify_all()
        return process

    async def _keep(self, index: int, process: WorkerProcess) -> None:
        while True:
            code = await process.wait()
            self._processes[index] = None
            if process.is_replaced:
                _logger.error("worker %d is replaced, because a function took longer than functionTimeout", index)
            elif not await self._may_start_again(index, code):
                return
            started = await self._start_again(index)
            if started is None:
                return
            process = started

    async def _start_again(self, index: int) -> WorkerProcess | None:
        while True:
            try:
                return await self._start(index)
            except WorkerEndedError as error:  # a death like any other
                if not await self._may_start_again(index, error.code):
                    return None
            except LoadError as error:
                self._options.fail(f"the app cannot be loaded any more: {error}")
                return None

    async def _may_start_again(self, index: int, code: int | None) -> bool:
        """Count a death, and wait for as long as it costs; False if the host is to end instead."""
        pause = self._pause_after_death()
        if pause is None:
            self._options.fail(f"worker {index} died a third time (exit code {code})")
            return False
        _logger.error("worker %d died (exit code %s); starting it again", index, code)
        await asyncio.sleep(pause)
        return True

    def _pause_after_death(self) -> float | None:
        """Count a death; the seconds until the next start, None if there is to be none."""
        now = asyncio.get_running_loop().time()
        if now - self._last_death > _IN_A_ROW_SECONDS:
            self._deaths = 0
        self._deaths, self._last_death = self._deaths + 1, now
        # Each process of the group may die as often.
        return _PAUSES_AFTER_DEATH.get(math.ceil(self._deaths / self._options.count))

    async def _next(self) -> WorkerProcess:
        async with self._started:
            while True:
                for _ in self._processes:
                    process = self._processes[next(self._turns)]
                    if process is not None and process.takes_calls:
                        return process
                await self._started.wait()


class WorkerGroups:
    """One group of processes for the HTTP functions and one for each other function, as Flex Consumption has them."""

    def __init__(self, options: GroupOptions) -> None:
        self._options = options
        self._groups: dict[str, WorkerGroup] = {}

    async def start(self) -> Sequence[IndexedFunction]:
        """Start all processes and return the app's functions.

        Raises:
            LoadError: the app cannot be loaded.
        """
        first = WorkerGroup(self._options)
        functions = await first.start()
        groups: dict[str, WorkerGroup] = {}
        for function in functions:
            is_http = any(binding["type"] == "httpTrigger" for binding in function.bindings)
            name = "" if is_http else function.name
            if name not in groups:
                groups[name] = WorkerGroup(self._options) if groups else first
            self._groups[function.name] = groups[name]
        for group in set(groups.values()) - {first}:
            await group.start()
        return functions

    async def invoke(self, invocation: Invocation) -> TypedData | None:
        """See `Worker`."""
        return await self._groups[invocation.function.name].invoke(invocation)

    async def close(self) -> None:
        """End all processes, whatever they are at."""
        await asyncio.gather(*(group.close() for group in set(self._groups.values())))


async def _unless_ended[T](process: asyncio.subprocess.Process, awaited: Awaitable[T]) -> T:
    """What is awaited, unless the process ends first.

    Raises:
        WorkerEndedError: it did.
    """
    wanted = asyncio.ensure_future(awaited)
    ended = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({wanted, ended}, return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return await wanted
    except (asyncio.IncompleteReadError, OSError):
        await ended
    finally:
        wanted.cancel()
        ended.cancel()
    raise WorkerEndedError(process.returncode)


async def _end(process: asyncio.subprocess.Process) -> None:
    # The worker has no handler of this signal, as in Azure: it ends without cancellation and without `atexit`.
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
