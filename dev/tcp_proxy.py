"""A TCP connection to storage that can be made slow, or cut, while a test runs."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dev.ports import HOST

_CHUNK: Final = 64 * 1024


class TcpProxy:
    """Passes connections on to a port of this machine.

    Attributes:
        delay: seconds that every piece of a request waits before it is passed on.
        port: where it listens.
        refused: how many connections came while it was cut.
        target: the port to which new connections are passed on.
    """

    def __init__(self, target: int) -> None:
        self.delay = 0.0
        self.port = 0
        self.refused = 0
        self.target = target
        self._cut = False
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()

    @classmethod
    @contextmanager
    def to(cls, target: int) -> "Iterator[TcpProxy]":
        """Pass on what comes, for the length of a `with` block."""
        proxy = cls(target)
        ready = threading.Event()
        thread = threading.Thread(target=proxy._run, args=(ready,), daemon=True)
        thread.start()
        ready.wait()
        try:
            yield proxy
        finally:
            proxy._loop.call_soon_threadsafe(proxy._loop.stop)
            thread.join()

    def cut(self) -> None:
        """End all connections and refuse new ones, until `mend`."""
        self._cut = True
        done = threading.Event()
        self._loop.call_soon_threadsafe(self._end_all, done)
        done.wait()

    def mend(self) -> None:
        """Take connections again, without delay."""
        self._cut = False
        self.delay = 0.0

    def _end_all(self, done: threading.Event) -> None:
        for task in self._connections:
            task.cancel()
        done.set()

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            server = await asyncio.start_server(self._accept, HOST, 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.run_until_complete(serve())
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if self._cut:
                self.refused += 1
            else:
                await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either side has gone, or was made to
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer_reader, request_writer = await asyncio.open_connection(HOST, self.target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, request_writer, slow=True))
                group.create_task(self._pump(answer_reader, writer, slow=False))
        except* OSError:
            pass
        finally:
            request_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        while data := await reader.read(_CHUNK):
            if slow and self.delay:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
