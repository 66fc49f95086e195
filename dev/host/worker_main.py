"""A worker process: loads the app and calls its functions as the host says, until the host ends it or is no more."""

import asyncio
import os
import pickle
import signal
import sys
import threading
from typing import NoReturn

from dev.host import logs, wire
from dev.host.errors import FunctionFailedError, LoadError
from dev.host.event_loop import InvocationTask, use_uvloop
from dev.host.library import LibraryWorker, current_function


def main() -> None:
    """Serve until the host's end of standard input is closed."""
    # Ctrl-C reaches the whole process group; the host decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(current_function)
    start: wire.Start = pickle.load(sys.stdin.buffer)
    # On a thread of its own, because a function may keep the event loop busy.
    threading.Thread(target=_end_with_host, name="end with the host", daemon=True).start()
    use_uvloop()
    asyncio.run(_serve(start))


def _end_with_host() -> None:
    # Not by way of sys.stdin, whose lock this thread would still hold when the interpreter ends.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    _end()


def _end() -> NoReturn:
    """End at once, whatever is still running: as in Azure, nothing registered with `atexit` is called."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def _serve(start: wire.Start) -> None:
    asyncio.get_running_loop().set_task_factory(InvocationTask.make)
    reader, writer = await asyncio.open_connection("127.0.0.1", start.port)
    writer.write(start.token)
    try:
        worker = await LibraryWorker.load(start.app)
    except LoadError as error:
        wire.write(writer, wire.Refused(reason=str(error)))
        await writer.drain()
        return
    sys.stdout.flush()  # what the app printed while it was imported
    wire.write(writer, wire.Loaded(functions=worker.functions))
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            task = asyncio.create_task(_call(worker, writer, await wire.read(reader)))
            running.add(task)
            task.add_done_callback(running.discard)
    except (asyncio.IncompleteReadError, OSError):
        _end()


async def _call(worker: LibraryWorker, writer: asyncio.StreamWriter, call: wire.Invoke) -> None:
    try:
        result = await worker.invoke(call.invocation)
    except FunctionFailedError as error:
        wire.write(writer, wire.Failed(number=call.number, message=str(error), stack_trace=error.stack_trace))
    else:
        wire.write(writer, wire.Returned(number=call.number, result=result))


if __name__ == "__main__":
    main()
