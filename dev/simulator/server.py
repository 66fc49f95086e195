"""The simulator as a whole: its services on loopback ports, on an event loop of their own in a thread of their own."""

import asyncio
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from aiohttp import web

from dev.simulator import control, graph_api, identity, key_vault
from dev.simulator import entra as entra_module
from dev.simulator.clock import Clock, SystemClock
from dev.simulator.delivery import Courier
from dev.simulator.directory import Directory
from dev.simulator.entra import Entra
from dev.simulator.faults import ErrorBody, Faults, Service, middleware
from dev.simulator.graph import Graph
from dev.simulator.graph_api import GraphApi
from dev.simulator.identity import ManagedIdentity
from dev.simulator.key_vault import KeyVault
from dev.simulator.tls import CertificateAuthority

DEFAULT_TENANT: Final = "f69f5191-20ae-4093-8dae-3ec09edeb253"
DEFAULT_APP_ID: Final = "7f4f3c3a-6a1e-4d0e-9a53-0d4f7a3c9b11"
DEFAULT_CERTIFICATE: Final = "switchboard"
HOST: Final = "127.0.0.1"
_START_TIMEOUT: Final = 90.0


class Simulator:
    """Microsoft Graph, Entra ID, managed identity and Key Vault, as `start` yields them.

    Attributes:
        directory: groups, call records, service principals.
        graph: notifications, subscriptions, their switches.
        entra: keys, tokens, device codes.
        vault: secrets and the certificate.
        identity: the managed identity.
        faults: what shall go wrong, and a record of every request.
        ca_bundle: a PEM file with the simulator's authority, to be trusted by whoever shall talk to it.
        server_certificate: a PEM file with key and certificate, for other servers on loopback that clients shall trust.
    """

    def __init__(
        self,
        *,
        tenants: Sequence[str],
        app_id: str,
        clock: Clock,
        certificate_name: str,
        directory: Path,
        port: int,
    ) -> None:
        self.clock = clock
        self.app_id = app_id
        self.tenants = tuple(tenants)
        self.faults = Faults(clock)
        # Only the first tenant knows the managed identity; the application that trusts it is known in all.
        self.entra = Entra(clock, self.tenants, app_id, federated={app_id: app_id})
        self.identity = ManagedIdentity(self.entra, self.tenants[0])
        self.vault = KeyVault(clock, certificate_name)
        self._courier = Courier(clock)
        self._api = GraphApi(clock, self.entra, self._courier, self.faults)
        self._loop = asyncio.new_event_loop()
        self.directory = Directory(clock)
        self.directory.mount(self._api)
        self.graph = Graph(self._api, self._courier, self.entra, self.directory, self._loop)
        self._authority = CertificateAuthority(directory)
        self.ca_bundle = self._authority.bundle()
        self.server_certificate = self._authority.server_certificate
        self._first_port = port
        self._runners: list[web.AppRunner] = []
        self._servers: list[asyncio.Server] = []
        self.graph_url = self.login_url = self.vault_url = self.identity_url = self.control_url = ""

    @classmethod
    @contextmanager
    def start(
        cls,
        *,
        tenants: Sequence[str] = (DEFAULT_TENANT,),
        app_id: str = DEFAULT_APP_ID,
        clock: Clock | None = None,
        certificate_name: str = DEFAULT_CERTIFICATE,
        port: int = 0,
    ) -> Iterator[Self]:
        """Run the simulator for the length of a `with` block.

        Args:
            tenants: the tenants that there are; the managed identity lives in the first.
            app_id: the application that the managed identity stands for, and the audience of validation tokens.
            clock: whose time everything goes by; the machine's unless given.
            certificate_name: the certificate that Key Vault holds from the start.
            port: the first of five consecutive ports; 0 for any free ones.
        """
        with tempfile.TemporaryDirectory(prefix="switchboard-simulator-") as directory:
            simulator = cls(
                tenants=tenants,
                app_id=app_id,
                clock=clock or SystemClock(),
                certificate_name=certificate_name,
                directory=Path(directory),
                port=port,
            )
            thread = threading.Thread(target=simulator._run, name="simulator", daemon=True)
            thread.start()
            try:
                simulator._call(simulator._open)
                yield simulator
            finally:
                simulator._call(simulator._close)
                simulator._loop.call_soon_threadsafe(simulator._loop.stop)
                thread.join()

    def environment(self) -> dict[str, str]:
        """The app settings that point an app at this simulator."""
        return {
            "GRAPH_ENDPOINT": self.graph_url,
            "LOGIN_ENDPOINT": self.login_url,
            "KEY_VAULT_URL": self.vault_url,
            "CERTIFICATE_NAME": self.vault.certificate_name,
            "GRAPH_TENANT_IDS": ",".join(self.tenants),
            "GRAPH_APP_IDS": self.app_id,
            "IDENTITY_ENDPOINT": f"{self.identity_url}/msi/token",
            "IDENTITY_HEADER": self.identity.header,
            "SSL_CERT_FILE": str(self.ca_bundle),
            "REQUESTS_CA_BUNDLE": str(self.ca_bundle),
        }

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _call(self, coroutine: Callable[[], Any]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine(), self._loop).result(_START_TIMEOUT)

    async def _open(self) -> None:
        await self._courier.open()
        secure = self._authority.server_context()
        self.graph_url = await self._serve(0, graph_api.application(self._api), secure)
        self.login_url = await self._serve(
            1, self._guarded("login", entra_module.application(self.entra), entra_module.error_body), secure
        )
        vault = key_vault.application(self.vault, self.entra, self.login_url, self.tenants[0])
        self.vault_url = await self._serve(2, self._guarded("vault", vault, key_vault.error_body), secure)
        token_service = identity.application(self.identity)
        self.identity_url = await self._serve(3, self._guarded("identity", token_service, identity.error_body), None)
        self.control_url = await self._serve(4, control.application(self), None)
        self.entra.graph_resource = self.graph_url
        self.entra.device_login_url = f"{self.control_url}{control.DEVICE_LOGIN}"

    async def _serve(self, offset: int, application: web.Application, secure: Any) -> str:
        # Whoever hangs on a fault's delay shall not hold up the end.
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        self._runners.append(runner)
        await runner.setup()
        port = self._first_port + offset if self._first_port else 0
        assert runner.server is not None
        server = await self._loop.create_server(runner.server, HOST, port, ssl=secure)
        self._servers.append(server)
        return f"{'https' if secure else 'http'}://{HOST}:{server.sockets[0].getsockname()[1]}"

    def _guarded(self, service: Service, application: web.Application, error_body: ErrorBody) -> web.Application:
        application.middlewares.insert(0, middleware(self.faults, service, error_body))
        return application

    async def _close(self) -> None:
        await self._courier.close()
        for server in self._servers:
            server.close()
        for runner in self._runners:
            await runner.cleanup()
        for server in self._servers:
            server.abort_clients()  # TLS would wait for a goodbye that a client in another thread may never say
        late = asyncio.all_tasks() - {asyncio.current_task()}
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
