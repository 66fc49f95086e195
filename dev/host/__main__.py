"""Serve a function app on this machine: `python -m dev.host [--port 7071] [--app DIR]`."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from dev.host import logs
from dev.host.config import host_id, merge_local_settings, read_host_json, worker_count
from dev.host.ending import Ending
from dev.host.errors import LoadError
from dev.host.server import Options, serve


def main(arguments: list[str] | None = None) -> int:
    """Run the host and return its exit code: 0 after a signal, 1 if it cannot serve the app, or not any more."""
    args = _parser().parse_args(arguments)
    logs.configure()
    # Of its own polling; how much a worker says is the app's affair.
    logging.getLogger("azure").setLevel(logging.WARNING)
    app: Path = args.app.resolve()
    try:
        os.environ.update(merge_local_settings(app, os.environ))
        settings = dict(os.environ)
        host_json = read_host_json(app, settings)
        workers = worker_count(settings)
        with _listen(args.host, args.port) as listening:
            options = Options(
                app=app,
                host_json=host_json,
                settings=settings,
                url=f"http://{args.host}:{listening.getsockname()[1]}",
                host_id=host_id(app, settings),
                lease_seconds=args.lease_seconds,
                key=args.key,
                groups=args.groups,
                workers=workers,
            )
            return asyncio.run(_run(options, listening, stop_with_stdin=args.stop_with_stdin))
    except LoadError as error:
        print(f"The function app cannot be served: {error}", file=sys.stderr, flush=True)
        return 1


async def _run(options: Options, listening: socket.socket, *, stop_with_stdin: bool) -> int:
    ending = Ending()
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.call_soon_threadsafe(ending.begin)

    def end_with_stdin() -> None:
        # Not by way of sys.stdin, whose lock this thread would still hold when the interpreter ends.
        while os.read(sys.stdin.fileno(), 4096):
            pass
        end()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end())
    if stop_with_stdin:
        threading.Thread(target=end_with_stdin, name="end with standard input", daemon=True).start()

    def announce(lines: list[str]) -> None:
        for line in (*lines, f"Listening on {options.url}"):
            print(line, flush=True)

    await serve(options, listening, ending=ending, on_ready=announce)
    return 1 if ending.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dev.host", description="Serve a Python function app locally.")
    parser.add_argument("--app", type=Path, default=Path(), help="folder with function_app.py and host.json (.)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=7071, help="port to listen on, 0 for a free one (%(default)s)")
    parser.add_argument(
        "--lease-seconds",
        type=_lease,
        default=600,
        help="how long a queue message stays invisible when the host dies with it (%(default)s)",
    )
    parser.add_argument("--key", default="local", help="the master, system and function key (%(default)s)")
    parser.add_argument(
        "--groups", action="store_true", help="a process for the HTTP functions, and one for each other function"
    )
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop when standard input ends")
    return parser


def _lease(text: str) -> int:
    seconds = int(text)
    if not 1 <= seconds <= 7 * 24 * 3600:  # "Get Messages": visibilitytimeout
        raise argparse.ArgumentTypeError("must be from 1 second to 7 days")
    return seconds


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise LoadError(f"cannot listen on {host}:{port}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
