"""The simulator, a subscriber for it to call, and clients that trust it."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import requests

from dev.simulator import Kind, Simulator
from dev.simulator.clock import graph_time
from dev.simulator.crypto import KeyCertificate
from dev.simulator.payloads import default_resource
from tests.integration.simulator.subscriber import Subscriber

Body = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def pair() -> KeyCertificate:
    return KeyCertificate.generate()


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator.start() as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _graph_is_patient(request: pytest.FixtureRequest) -> None:
    """A subscriber on a slow machine answers late, and would be sent the same again; who tests that says when."""
    if "sim" in request.fixturenames:
        delivery = request.getfixturevalue("sim").graph.delivery
        delivery.first_timeout = delivery.retry_timeout = delivery.handshake_timeout = 90.0


@pytest.fixture
def subscriber() -> Iterator[Subscriber]:
    with Subscriber.start() as running:
        yield running


@pytest.fixture
def environment(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The app settings, in force for this process."""
    settings = sim.environment()
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


class GraphClient:
    """requests, with a bearer token for Graph."""

    def __init__(self, sim: Simulator, session: requests.Session, token: str) -> None:
        self._sim, self._session = sim, session
        self.headers = {"Authorization": f"Bearer {token}"}

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        url = path if path.startswith("https:") else f"{self._sim.graph_url}{path}"
        return self._session.request(method, url, headers=self.headers, timeout=90, **options)

    def create(self, body: dict[str, Any], version: str = "beta") -> requests.Response:
        return self("POST", f"/{version}/subscriptions", json=body)


@pytest.fixture
def clients(sim: Simulator) -> Iterator[Callable[..., GraphClient]]:
    """Makes clients for an app and tenant; with `user`, one that has signed in."""
    with requests.Session() as session:
        session.verify = str(sim.ca_bundle)
        session.trust_env = False

        def client(app_id: str = sim.app_id, tenant_id: str = sim.tenants[0], *, user: bool = False) -> GraphClient:
            if user:
                form = {"client_id": app_id, "scope": "https://graph.microsoft.com/Presence.Read.All offline_access"}
                flow = sim.entra.start_device_code(tenant_id, form)
                sim.entra.approve(flow["user_code"])
                token = sim.entra.grant(tenant_id, {"grant_type": "device_code", **flow})["access_token"]
            else:
                token, _ = sim.entra.app_token(audience=sim.graph_url, client_id=app_id, tenant_id=tenant_id)
            return GraphClient(sim, session, token)

        yield client


@pytest.fixture
def graph(clients: Callable[..., GraphClient]) -> GraphClient:
    return clients()


@pytest.fixture
def body(sim: Simulator, subscriber: Subscriber, pair: KeyCertificate) -> Body:
    """Makes the body of a subscription that Graph accepts, for a kind of happening; keywords change fields."""

    def make(
        kind: Kind = Kind.CALL_STARTED, *, minutes: float = 60, rich: bool = True, **fields: Any
    ) -> dict[str, Any]:
        basic = {
            "changeType": "updated",
            "notificationUrl": subscriber.url,
            "lifecycleNotificationUrl": subscriber.url,
            "resource": default_resource(kind),
            "expirationDateTime": graph_time(sim.clock.now() + timedelta(minutes=minutes)),
            "clientState": "a secret",
        }
        certificate = {
            "includeResourceData": True,
            "encryptionCertificate": pair.der_base64,
            "encryptionCertificateId": "switchboard/1",
        }
        made = basic | (certificate if rich else {}) | fields
        return {name: value for name, value in made.items() if value is not None}

    return make
