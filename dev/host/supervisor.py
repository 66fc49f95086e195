"""The host's process or processes.

One worker runs in the host's own process. With FUNCTIONS_WORKER_PROCESS_COUNT above one, this process only holds the
listening socket and starts the workers, which share it; a worker that dies is started again.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Self

from dev.host import logs
from dev.host.errors import LoadError
from dev.host.server import DRAIN_SECONDS, Options, serve

# What worker processes get beyond their own drain before they are killed.
_GRACE_SECONDS = 3

_logger = logging.getLogger("host")


def run(options: Options, listening: socket.socket, *, workers: int, stop_with_stdin: bool) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit code.

    Args:
        options: what to serve.
        listening: a bound socket.
        workers: how many processes call functions; with one, it is this one.
        stop_with_stdin: stop as well when standard input ends, as it does when the parent process is no more.

    Raises:
        LoadError: the app cannot be served.
    """
    logs.configure()
    if workers > 1:
        return _Supervisor(options, listening, workers).run(stop_with_stdin=stop_with_stdin)

    def stop_with(stop: Callable[[], None]) -> None:
        _on_signals(stop)
        if stop_with_stdin:
            _in_thread(_read_stdin_to_its_end, stop)

    _serve(options, listening, stop_with=stop_with, on_ready=lambda lines: _announce(options, lines))
    return 0


def _serve(
    options: Options,
    listening: socket.socket,
    *,
    stop_with: Callable[[Callable[[], None]], None],
    on_ready: Callable[[list[str]], None],
    with_timers: bool = True,
) -> None:
    async def main() -> bool:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.call_soon_threadsafe(stopping.set)

        stop_with(stop)
        return await serve(options, listening, stopping=stopping, on_ready=on_ready, with_timers=with_timers)

    if not asyncio.run(main()):
        # A thread that is still busy with an abandoned function would keep the interpreter from ending.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _worker_main(options: Options, listening: socket.socket, control: Connection, *, with_timers: bool) -> None:
    """A worker process: it serves until the supervisor closes its end of `control`, or is no more."""
    # Ctrl-C reaches the whole process group; the supervisor decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure()

    def wait_for_supervisor() -> None:
        try:
            control.recv()
        except (EOFError, OSError):
            return

    def stop_with(stop: Callable[[], None]) -> None:
        _in_thread(wait_for_supervisor, stop)

    try:
        _serve(options, listening, stop_with=stop_with, on_ready=control.send, with_timers=with_timers)
    except LoadError as error:
        report(error)
        sys.exit(1)


def report(error: LoadError) -> None:
    """Tell the developer why the app is not served."""
    print(f"The function app cannot be served: {error}", file=sys.stderr, flush=True)


@dataclass
class _WorkerProcess:
    index: int
    process: SpawnProcess
    control: Connection

    @classmethod
    def start(cls, options: Options, listening: socket.socket, index: int) -> Self:
        # Spawned, because a forked process would inherit the other workers' control connections.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_worker_main,
            args=(options, listening, theirs),
            kwargs={"with_timers": index == 0},
            name=f"worker {index}",
        )
        process.start()
        theirs.close()
        return cls(index, process, ours)

    def stop(self) -> None:
        self.control.close()

    def join(self, deadline: float) -> None:
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.is_alive():
            _logger.warning("%s did not end in time and is killed", self.process.name)
            self.process.kill()
            self.process.join()


class _Supervisor:
    def __init__(self, options: Options, listening: socket.socket, count: int) -> None:
        self._options = options
        self._listening = listening
        self._count = count
        self._workers: list[_WorkerProcess] = []
        self._stopped, self._stop = multiprocessing.Pipe(duplex=False)

    def run(self, *, stop_with_stdin: bool) -> int:
        _on_signals(lambda: self._stop.send(None))
        if stop_with_stdin:
            _in_thread(_read_stdin_to_its_end, lambda: self._stop.send(None))
        try:
            return self._run()
        finally:
            for worker in self._workers:
                worker.stop()
            deadline = time.monotonic() + DRAIN_SECONDS + _GRACE_SECONDS
            for worker in self._workers:
                worker.join(deadline)

    def _run(self) -> int:
        lines: list[str] = []
        # One after the other, so that an app that cannot be loaded says so once.
        for index in range(self._count):
            ready = self._start(index)
            if ready is None:
                return self._exit_code_before_ready()
            lines = ready
        _announce(self._options, lines)
        while True:
            signalled = wait([self._stopped, *(worker.process.sentinel for worker in self._workers)])
            if self._stopped in signalled:
                return 0
            for worker in [worker for worker in self._workers if worker.process.sentinel in signalled]:
                worker.process.join()
                _logger.error("%s died (exit code %s); starting it again", worker.process.name, worker.process.exitcode)
                self._workers.remove(worker)
                worker.stop()
                if self._start(worker.index) is None:
                    return self._exit_code_before_ready()

    def _start(self, index: int) -> list[str] | None:
        """Start a worker and wait until it serves; None if it ended before, or the host is to stop."""
        worker = _WorkerProcess.start(self._options, self._listening, index)
        self._workers.append(worker)
        signalled = wait([self._stopped, worker.control])
        if self._stopped in signalled:
            return None
        try:
            lines: list[str] = worker.control.recv()
        except EOFError:
            return None
        return lines

    def _exit_code_before_ready(self) -> int:
        return 0 if self._stopped.poll() else 1


def _announce(options: Options, lines: list[str]) -> None:
    for line in (*lines, f"Listening on {options.url}"):
        print(line, flush=True)


def _on_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop())


def _in_thread(wait_for_end: Callable[[], object], stop: Callable[[], None]) -> None:
    def watch() -> None:
        wait_for_end()
        stop()

    threading.Thread(target=watch, name="stop", daemon=True).start()


def _read_stdin_to_its_end() -> None:
    # Not by way of sys.stdin, whose lock this thread would still hold when the interpreter ends.
    while os.read(sys.stdin.fileno(), 4096):
        pass
