"""Serve a function app on this machine: `python -m dev.host [--port 7071] [--app DIR]`."""

import argparse
import getpass
import hashlib
import os
import socket
import sys
import tempfile
from pathlib import Path

from dev.host import supervisor
from dev.host.config import merge_local_settings, read_host_json, worker_count
from dev.host.errors import LoadError
from dev.host.server import Options


def main(arguments: list[str] | None = None) -> int:
    """Run the host and return its exit code: 0 after a signal, 1 if the app cannot be served."""
    args = _parser().parse_args(arguments)
    app: Path = args.app.resolve()
    try:
        os.environ.update(merge_local_settings(app, os.environ))
        host_json = read_host_json(app, os.environ)
        workers = worker_count(os.environ)
        with _listen(args.host, args.port) as listening:
            options = Options(
                app=app,
                host_json=host_json,
                settings=dict(os.environ),
                url=f"http://{args.host}:{listening.getsockname()[1]}",
                state=(args.state or _default_state(app)).resolve(),
                lease_seconds=args.lease_seconds,
            )
            return supervisor.run(options, listening, workers=workers, stop_with_stdin=args.stop_with_stdin)
    except LoadError as error:
        supervisor.report(error)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dev.host", description="Serve a Python function app locally.")
    parser.add_argument("--app", type=Path, default=Path(), help="folder with function_app.py and host.json (.)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=7071, help="port to listen on, 0 for a free one (%(default)s)")
    parser.add_argument(
        "--state", type=Path, help="folder for the timers' status (one for each app, for temporary files)"
    )
    parser.add_argument(
        "--lease-seconds",
        type=_lease,
        default=30,
        help="how long a queue message stays invisible when the host dies with it (%(default)s)",
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


def _default_state(app: Path) -> Path:
    key = hashlib.sha256(f"{getpass.getuser()}:{app}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"functions-host-{key}"


if __name__ == "__main__":
    sys.exit(main())
