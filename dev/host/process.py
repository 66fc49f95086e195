"""A Functions host as a child process: for tests, the demo, and whatever else must be able to kill it.

It is the local host, unless the environment variable FUNCTIONS_HOST names the executable of another one, which takes
the same arguments and prints the same line.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

from dev.ports import held_port

KEY: Final = "local"
"""The master, system and function key of every host that is started here."""
FUNCTIONS_HOST: Final = "FUNCTIONS_HOST"

_GROUPS: Final = "LOCAL_HOST_GROUPS"
_ROOT = Path(__file__).resolve().parents[2]
_LISTENING = "Listening on "
_STOP_SECONDS = 90
_POLL_SECONDS = 0.02
# Without it, Windows starts no Python.
_ALWAYS_INHERITED = ("SYSTEMROOT",)
# What another host, of which nothing is known, may need to start.
_INHERITED_BY_OTHERS = ("PATH", "HOME", "LANG", "TMPDIR")
_OTHERS_START_SECONDS = 120


def add_host_options(parser: argparse.ArgumentParser) -> None:
    """Let a command take `--host EXECUTABLE` and `--groups`, for `use_host`."""
    parser.add_argument("--host", metavar="EXECUTABLE", help=f"another Functions host (or set {FUNCTIONS_HOST})")
    parser.add_argument("--groups", action="store_true", help="a process of the app for each function group")


def use_host(options: argparse.Namespace) -> None:
    """Start such hosts from now on, in this process and in its children, as far as the options say."""
    if options.host is not None:
        os.environ[FUNCTIONS_HOST] = str(Path(options.host).resolve())
    if options.groups:
        os.environ[_GROUPS] = "1"


def has_groups() -> bool:
    """Whether hosts are started with a process for each function group, unless they are told otherwise."""
    return bool(os.environ.get(_GROUPS))


class HostStartError(Exception):
    """The host ended, or was not ready in time; the message ends with what it logged."""


class HostProcess:
    """A local host, started on entering the `with` block and ended in an orderly way on leaving it.

    It can be ended and started again any number of times, on the same port.

    Attributes:
        ends: how often `start_again_if_ended` has found that it had ended by itself.
    """

    def __init__(
        self,
        app: Path,
        env: Mapping[str, str],
        *,
        port: int = 0,
        lease_seconds: int = 600,
        groups: bool = False,
        start_seconds: float = 240,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            app: folder with function_app.py and host.json.
            env: the whole environment of the host: nothing of this process's is passed on.
            port: where it listens; 0 takes a free port, and keeps it as long as this object lives.
            lease_seconds: how long a queue message stays invisible when the host dies with it.
            groups: whether HTTP has processes of its own, and each other function, as on Flex Consumption; so it is,
                too, after `use_host` with `--groups`. Only for the local host.
            start_seconds: how long it may take to be ready.
        """
        self._app = app
        self._executable = os.environ.get(FUNCTIONS_HOST) or None
        inherited = _ALWAYS_INHERITED + (_INHERITED_BY_OTHERS if self._executable else ())
        self._env = {name: os.environ[name] for name in inherited if name in os.environ} | dict(env)
        resources = contextlib.ExitStack()
        self._port = port or resources.enter_context(held_port())
        self._lease_seconds = lease_seconds
        self._groups = groups or has_groups()
        self._start_seconds = max(start_seconds, _OTHERS_START_SECONDS) if self._executable else start_seconds
        folder = Path(tempfile.mkdtemp(prefix="functions-host-"))
        resources.callback(shutil.rmtree, folder, ignore_errors=True)
        # Not at the end of the `with` block, after which the logs can still be read and the host started again.
        weakref.finalize(self, resources.close)
        self._output_path = folder / "output.txt"
        self._logs_path = folder / "logs.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""
        self._is_wanted = False  # it was started, and has not been ended since
        self.ends = 0
        # Whoever starts it again when it has ended by itself is another thread than whoever ends it.
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end: `http://127.0.0.1:7071`."""
        return self._url

    @property
    def port(self) -> int:
        """The port that it has, whether it runs or not."""
        return self._port

    @property
    def pid(self) -> int:
        """The process id of the host (with several workers: of their parent)."""
        assert self._process is not None, "the host does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """Its standard output since it was last started: what functions print, and the list of functions."""
        return _read(self._output_path)

    @property
    def logs(self) -> str:
        """Its standard error since it was last started."""
        return _read(self._logs_path)

    @property
    def log_files(self) -> tuple[Path, ...]:
        """Where `logs` stands, for whoever reads on; each begins anew when it is started."""
        return (self._logs_path,)

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            HostStartError: it ended instead, or took too long.
        """
        with self._lock:
            self._start()
            self._is_wanted = True

    def start_again_if_ended(self) -> bool:
        """Start it if it has ended by itself; says whether it had.

        Raises:
            HostStartError: it ended again at once, or took too long; the next call tries again.
        """
        with self._lock:
            if not self._is_wanted or self.is_running:
                return False
            if self._process is not None:
                self._reap()
                self.ends += 1
            self._start()
            return True

    def start_function(self, name: str, text: str = "") -> None:
        """Start a function by hand, beside its trigger, without waiting for its end.

        Args:
            name: the function's.
            text: for a queue function, the message.

        Raises:
            requests.RequestException: the host did not take the request.
        """
        url = f"{self.url}/admin/functions/{name}"
        # Not at the top: the host and its workers import this package too, and would start twice as slowly.
        import requests  # noqa: PLC0415

        requests.post(url, json={"input": text}, headers=self.key_header, timeout=60).raise_for_status()

    @property
    def key_header(self) -> dict[str, str]:
        """The header that `/admin` and routes of level `function` ask for."""
        return {"x-functions-key": KEY}

    def _start(self) -> None:
        assert not self.is_running, "the host runs already"
        own = [sys.executable, "-m", "dev.host"]
        command = own if self._executable is None else [self._executable, "--python", sys.executable]
        command += ["--app", str(self._app), "--port", str(self._port), "--key", KEY, "--stop-with-stdin"]
        command += ["--lease-seconds", str(self._lease_seconds)]
        if self._groups and self._executable is None:
            command.append("--groups")
        with self._output_path.open("wb") as output, self._logs_path.open("wb") as logs:
            self._process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=logs,
                start_new_session=os.name == "posix",
            )
        try:
            self._await(self._is_ready, self._start_seconds, "was not ready")
        except BaseException:
            self._reap()
            raise

    def wait_for_log(self, text: str, *, seconds: float = 240) -> None:
        """Wait until a text stands in `logs`.

        Raises:
            HostStartError: the host ended without it, or the time is over.
        """
        self._await(lambda: text in self.logs, seconds, f"did not log {text!r}")

    def terminate(self) -> int | None:
        """End it as Ctrl-C would, invocations being let finish; returns the exit code (None if it did not run)."""
        with self._lock:
            self._is_wanted = False
            if self._process is None:
                return None
            if os.name == "posix":
                self._process.terminate()
            elif self._process.stdin is not None:
                self._process.stdin.close()  # Windows has no signal that lets a process end in an orderly way
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
            return self._reap()

    def kill(self) -> None:
        """End it, its workers included, as a power cut would; nothing happens if it does not run."""
        with self._lock:
            self._is_wanted = False
            if self._process is not None:
                self._reap()

    def _reap(self) -> int:
        assert self._process is not None
        assert self._process.stdin is not None
        if os.name == "posix":
            # The group, because workers are processes of their own; it is gone if all have ended.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        code = self._process.wait()
        self._process.stdin.close()
        self._process = None
        return code

    def _is_ready(self) -> bool:
        for line in self.output.splitlines(keepends=True):
            if line.startswith(_LISTENING) and line.endswith("\n"):
                self._url = line.removeprefix(_LISTENING).strip()
                return True
        return False

    def _await(self, condition: Callable[[], bool], seconds: float, failure: str) -> None:
        deadline = time.monotonic() + seconds
        while True:
            running = self.is_running
            if condition():
                return
            if not running:
                code = None if self._process is None else self._process.returncode
                raise HostStartError(f"the host ended with exit code {code}:\n{self.logs}")
            if time.monotonic() > deadline:
                raise HostStartError(f"the host {failure} within {seconds} seconds:\n{self.logs}")
            time.sleep(_POLL_SECONDS)


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
