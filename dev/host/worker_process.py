"""The processes that call an app's functions, as the host sees them."""

import asyncio
import contextlib
import itertools
import logging
import pickle
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from dev.host import wire
from dev.host.ending import Activity
from dev.host.errors import FunctionFailedError, LoadError
from dev.host.messages import TypedData
from dev.host.worker import Function, IndexedFunction

_ROOT = Path(__file__).resolve().parents[2]
_GRACE_SECONDS = 3

_logger = logging.getLogger("host")


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

    async def invoke(
        self,
        function: Function,
        data: TypedData,
        *,
        metadata: Mapping[str, TypedData] | None = None,
        trace_parent: str | None = None,
    ) -> TypedData | None:
        """See `Worker`."""
        number = next(self._numbers)
        self._calls[number] = asyncio.get_running_loop().create_future()
        call = wire.Invoke(number=number, function=function, data=data, metadata=metadata, trace_parent=trace_parent)
        wire.write(self._writer, call)
        try:
            return await self._calls[number]
        finally:
            del self._calls[number]

    async def wait(self) -> int:
        """Wait until the process has ended, by itself or not, and return its exit code. What it was at has failed."""
        return await asyncio.shield(self._ended)

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
            if not call.done():
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


class WorkerGroup:
    """Processes that take the calls of the same functions in strict turn; one that dies is started again."""

    def __init__(
        self, app: Path, environment: Mapping[str, str], activity: Activity, *, count: int, fail: Callable[[str], None]
    ) -> None:
        """Prepare; `start` starts it.

        Args:
            app: folder with function_app.py.
            environment: the whole environment of the processes.
            activity: is told of the calls.
            count: how many processes.
            fail: called with the reason if a process cannot be started again: the host is to end.
        """
        self._app = app
        self._environment = environment
        self._activity = activity
        self._fail = fail
        self._processes: list[WorkerProcess | None] = [None] * count
        self._turns = itertools.cycle(range(count))
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

    async def invoke(
        self,
        function: Function,
        data: TypedData,
        *,
        metadata: Mapping[str, TypedData] | None = None,
        trace_parent: str | None = None,
    ) -> TypedData | None:
        """See `Worker`. With no process there the call waits for one."""
        process = await self._next()
        with self._activity.of(function.name):
            return await process.invoke(function, data, metadata=metadata, trace_parent=trace_parent)

    async def close(self) -> None:
        """End the processes, whatever they are at."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(process.close() for process in self._processes if process is not None))

    async def _start(self, index: int) -> WorkerProcess:
        process = await WorkerProcess.start(self._app, self._environment)
        async with self._started:
            self._processes[index] = process
            self._started.notify_all()
        return process

    async def _keep(self, index: int, process: WorkerProcess) -> None:
        while True:
            code = await process.wait()
            self._processes[index] = None
            _logger.error("worker %d died (exit code %s); starting it again", index, code)
            try:
                process = await self._start(index)
            except LoadError as error:
                self._fail(f"the app cannot be loaded any more: {error}")
                return

    async def _next(self) -> WorkerProcess:
        async with self._started:
            while True:
                for _ in self._processes:
                    process = self._processes[next(self._turns)]
                    if process is not None:
                        return process
                await self._started.wait()


async def _unless_ended[T](process: asyncio.subprocess.Process, awaited: Awaitable[T]) -> T:
    """What is awaited, unless the process ends first.

    Raises:
        LoadError: it did.
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
    raise LoadError(f"the worker process ended while it loaded the app (exit code {process.returncode})")


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
