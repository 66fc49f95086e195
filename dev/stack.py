"""The whole of Switchboard on one machine: storage, what stands in for Microsoft, and the app in its host.

For the demo, for `run.py start`, and for tests that end parts of it and bring them back.
"""

import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from dev.azurite import FREE_PORTS, Azurite, Ports, TlsFiles
from dev.host import HostProcess, HostStartError
from dev.host.fleet import host_of
from dev.ports import HOST, held_port
from dev.running import environment
from dev.simulator import Simulator
from dev.simulator.entra import User

APP = Path(__file__).parents[1]

_RESTART_SECONDS = 1


class StackPorts(NamedTuple):
    """TCP ports: the host's, the first of the simulator's five in a row, and storage's. 0 takes free ones."""

    host: int = 0
    simulator: int = 0
    storage: Ports = FREE_PORTS


FREE: Final = StackPorts()
WELL_KNOWN: Final = StackPorts(host=7071, simulator=9300, storage=Ports(10000, 10001, 10002))
"""Where Functions Core Tools and Azurite listen unless they are told otherwise."""


@dataclass
class Stack:
    """A running stack, as `start` yields it.

    Attributes:
        azurite: storage.
        sim: Graph, Entra ID, managed identity and Key Vault.
        host: the app in its host.
        settings: the app settings that the host was started with.
    """

    azurite: Azurite
    sim: Simulator
    host: HostProcess
    settings: Mapping[str, str]

    @classmethod
    @contextmanager
    def start(
        cls,
        directory: Path,
        *,
        subscriptions: str,
        settings: Mapping[str, str] | None = None,
        storage_by_identity: bool = False,
        lease_seconds: int = 600,
        ports: StackPorts = FREE,
    ) -> "Iterator[Stack]":
        """Bring everything up on 127.0.0.1, for the length of a `with` block.

        Args:
            directory: where storage, the timers' status and `subscriptions.toml` go; nothing else may be in it.
            subscriptions: the text of `subscriptions.toml`.
            settings: app settings that join or override those which tie the parts together.
            storage_by_identity: storage over HTTPS with the managed identity's tokens, instead of a connection string.
            lease_seconds: how long the messages that a killed host was at stay invisible.
            ports: free ones unless given.

        Raises:
            AzuriteError: storage did not start.
            HostStartError: the app did not load; the message holds its own output.
        """
        desired = directory / "subscriptions.toml"
        desired.write_text(subscriptions, encoding="utf-8")
        with (
            # NOTIFICATION_URL has to hold the host's port before the host is started.
            nullcontext(ports.host) if ports.host else held_port() as port,
            Simulator.start(port=ports.simulator) as sim,
            _storage(directory / "storage", sim, ports.storage, by_identity=storage_by_identity) as azurite,
        ):
            everything = {
                **sim.environment(),
                **_storage_settings(azurite),
                "CLIENT_STATE": secrets.token_urlsafe(32),
                "NOTIFICATION_URL": f"http://{HOST}:{port}/api/notifications",
                "SUBSCRIPTIONS": str(desired),
                **(settings or {}),
            }
            with (
                host_of(APP, environment(everything), port=port, lease_seconds=lease_seconds) as host,
                _platform(host),
            ):
                yield cls(azurite, sim, host, everything)

    @property
    def url(self) -> str:
        """The host's address, without a trailing slash."""
        return self.host.url

    def sign_in(self) -> None:
        """Somebody signs in, so that presence can be subscribed to: `manage.py login`, approved at once.

        Raises:
            subprocess.CalledProcessError: the command failed.
        """
        self.sim.entra.auto_approve = User()
        try:
            self.manage("login").check_returncode()
        finally:
            self.sim.entra.auto_approve = None

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `manage.py` with the app's settings, to its end."""
        return subprocess.run(
            [sys.executable, str(APP / "manage.py"), *arguments],
            cwd=APP,
            env=environment(self.settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def second_host(self) -> HostProcess:
        """Another host with the same app, settings and storage, at another address; it is not started yet."""
        return host_of(APP, environment(self.settings))

    def restart_host(self) -> None:
        """End the host as a deployment does, if it runs, and start it at the same address."""
        self.host.terminate()
        self.host.start()

    def kill_host(self) -> None:
        """End the host as a crash does; `restart_host` brings it back."""
        self.host.kill()

    def kill_azurite(self) -> None:
        """End storage as a crash does; `restart_azurite` brings it back. `Azurite` says what a crash may lose."""
        self.azurite.kill()

    def restart_azurite(self) -> None:
        """End storage in an orderly way, if it runs, and start it on the same data at the same address."""
        self.azurite.restart()


@contextmanager
def _platform(host: HostProcess) -> Iterator[None]:
    """Start the host again a little after it has ended by itself, as Azure does."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_RESTART_SECONDS):
            with suppress(HostStartError):  # and once more
                host.start_again_if_ended()

    watching = threading.Thread(target=watch, name="platform")
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


@contextmanager
def _storage(directory: Path, sim: Simulator, ports: Ports, *, by_identity: bool) -> Iterator[Azurite]:
    # The simulator's certificate serves for storage as well: the app trusts its authority already.
    tls = TlsFiles(sim.server_certificate, sim.server_certificate) if by_identity else None
    with Azurite.start(directory, ports=ports, tls=tls) as azurite:
        yield azurite


def _storage_settings(azurite: Azurite) -> dict[str, str]:
    if azurite.tls is None:
        return {"AzureWebJobsStorage": azurite.connection_string}
    return {
        "AzureWebJobsStorage__blobServiceUri": azurite.blob_url,
        "AzureWebJobsStorage__queueServiceUri": azurite.queue_url,
    }
