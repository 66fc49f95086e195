"""Azurite, the Azure Storage emulator, as a child process.

`run.py` installs it into dev/node, from the npm lock file there, and records which Node.js it is to run on.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dev.ports import HOST, held_port

# Azurite's one account, with the key that Microsoft publishes for it: "Use the Azurite emulator for local Azure
# Storage development".
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

_OTHER_ACCOUNT = "account{}"

START_SECONDS = 120
STOP_SECONDS = 60  # whoever is killed before has not saved everything

_WINDOWS_OWN_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
_NODE_FOLDER = Path(__file__).parent / "node"
_PRELOADED = (_NODE_FOLDER / "exit_with_parent.js", _NODE_FOLDER / "without_unused.js")
_SCRIPT = _NODE_FOLDER / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"
_SETUP_RECORD = _NODE_FOLDER / "node_modules" / ".switchboard.json"
_NOT_INSTALLED = "Azurite is not installed here: python3 run.py setup installs it"
_DAMAGED = "dev/node/node_modules is damaged (Azurite found no module {}): python3 run.py setup makes it anew"
_MISSING_MODULE = re.compile(r"Cannot find module '([^']*)'")
_LISTENING = re.compile(r"Azurite (?:Blob|Queue|Table) service is successfully listening at", re.MULTILINE)


class AzuriteError(Exception):
    """Azurite is not installed, or did not start."""


class Ports(NamedTuple):
    """TCP ports of the three services; 0 takes a free one, and keeps it until the end."""

    blob: int = 0
    queue: int = 0
    table: int = 0


FREE_PORTS = Ports()


class TlsFiles(NamedTuple):
    """PEM files with which Azurite serves HTTPS."""

    certificate: Path
    key: Path


@dataclass
class Azurite:
    """A running Azurite.

    It keeps its data on disk unless told otherwise, so `restart` finds everything again that `stop` left. After `kill`
    the last five seconds of writes may be missing: that is how often Azurite saves its tables, and a property of the
    emulator alone.

    With `tls`, it also takes bearer tokens. It reads their claims without checking the signature: `iat`, `nbf` and
    `exp` must be there, `iss` must begin with `https://sts.windows.net/` (or another cloud's), and `aud` must be
    `https://storage.azure.com` or the service's own address.
    """

    directory: Path
    ports: Ports
    tls: TlsFiles | None
    accounts: int = 0
    in_memory: bool = False
    _process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def start(
        cls,
        directory: Path,
        *,
        ports: Ports = FREE_PORTS,
        tls: TlsFiles | None = None,
        accounts: int = 0,
        in_memory: bool = False,
    ) -> "Iterator[Azurite]":
        """Run Azurite on 127.0.0.1 for the length of a `with` block.

        Args:
            directory: where its data and its log (`azurite.log`) go; made if missing.
            ports: free ones unless given.
            tls: serve HTTPS, and take bearer tokens, which Azurite refuses over HTTP.
            accounts: how many accounts there are beside the usual one; `connection_string_of` them takes a number.
            in_memory: keep nothing on disk: it works less, and forgets everything when it ends.

        Raises:
            AzuriteError: it is not installed, or did not come up; the message ends with its own last words.
        """
        with ExitStack() as held:
            ports = Ports(*(port or held.enter_context(held_port()) for port in ports))
            azurite = cls(directory=directory, ports=ports, tls=tls, accounts=accounts, in_memory=in_memory)
            held.callback(azurite.stop)
            azurite.restart()
            yield azurite

    @property
    def blob_url(self) -> str:
        """The account's blob endpoint, without a trailing slash."""
        return self._url(self.ports.blob)

    @property
    def queue_url(self) -> str:
        """The account's queue endpoint, without a trailing slash."""
        return self._url(self.ports.queue)

    @property
    def table_url(self) -> str:
        """The account's table endpoint, without a trailing slash."""
        return self._url(self.ports.table)

    @property
    def connection_string(self) -> str:
        """What `AzureWebJobsStorage` takes."""
        return self._connection_string(ACCOUNT)

    def connection_string_of(self, number: int) -> str:
        """The same for one of the other accounts, from 0 on; each is empty until it is used."""
        return self._connection_string(_OTHER_ACCOUNT.format(number))

    def restart(self) -> None:
        """End it in an orderly way if it runs, and start it on the same ports and data; returns when it listens."""
        self.stop()
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / "azurite.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command(),
                env=os.environ | self._environment(),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the whole process group; storage must outlive those that are still draining.
                start_new_session=os.name == "posix",
                creationflags=_WINDOWS_OWN_GROUP,
            )
        try:
            _await_listening(self._process, log)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it, data saved; nothing happens when it does not run."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL); nothing happens when it does not run."""
        if self._process is None:
            return
        self._process.kill()
        self._reap()

    def _reap(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.wait()
        self._process.stdin.close()
        self._process = None

    @property
    def _scheme(self) -> str:
        return "https" if self.tls else "http"

    def _connection_string(self, account: str) -> str:
        blob, queue, table = (self._url(port, account) for port in self.ports)
        return (
            f"DefaultEndpointsProtocol={self._scheme};AccountName={account};AccountKey={ACCOUNT_KEY};"
            f"BlobEndpoint={blob};QueueEndpoint={queue};TableEndpoint={table};"
        )

    def _url(self, port: int, account: str = ACCOUNT) -> str:
        return f"{self._scheme}://{HOST}:{port}/{account}"

    def _environment(self) -> dict[str, str]:
        names = [ACCOUNT, *map(_OTHER_ACCOUNT.format, range(self.accounts))]
        return {"AZURITE_ACCOUNTS": ";".join(f"{name}:{ACCOUNT_KEY}" for name in names)}

    def _command(self) -> list[str]:
        if not _SCRIPT.exists():
            raise AzuriteError(_NOT_INSTALLED)
        command = [node(), *(part for script in _PRELOADED for part in ("--require", str(script))), str(_SCRIPT)]
        command += ["--inMemoryPersistence"] if self.in_memory else ["--location", str(self.directory)]
        command += ["--silent", "--disableTelemetry", "--disableProductStyleUrl"]
        command += ["--skipApiVersionCheck"]  # the storage SDKs are ahead of it
        for service, port in self.ports._asdict().items():
            command += [f"--{service}Host", HOST, f"--{service}Port", str(port)]
        if self.tls:
            command += ["--cert", str(self.tls.certificate), "--key", str(self.tls.key), "--oauth", "basic"]
        return command


def _await_listening(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        text = log.read_text(errors="replace")
        if len(_LISTENING.findall(text)) == len(Ports._fields):
            return
        if ended:
            if missing := _MISSING_MODULE.search(text):
                raise AzuriteError(_DAMAGED.format(Path(missing[1]).name))
            raise AzuriteError(f"Azurite ended with exit code {process.returncode}: {_last_words(text)}")
        time.sleep(0.02)
    raise AzuriteError(f"Azurite was not ready after {START_SECONDS} seconds: {_last_words(text)}")


def _last_words(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-3:]) or "it said nothing"


def node() -> str:
    """The Node.js that run.py chose, else the one on PATH."""
    if _SETUP_RECORD.exists():
        return str(json.loads(_SETUP_RECORD.read_text())["node"])
    node = shutil.which("node")
    if node is None:
        raise AzuriteError(_NOT_INSTALLED)
    return node
