"""The simulator, a subscriber for it to call, and clients that trust it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from dev.simulator import Simulator
from tests.integration.simulator.subscriber import Subscriber

Subscribe = Callable[..., dict[str, Any]]


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator.start() as simulator:
        yield simulator


@pytest.fixture
def subscriber() -> Iterator[Subscriber]:
    with Subscriber.start() as running:
        yield running


@pytest.fixture
def graph(sim: Simulator) -> Iterator[requests.Session]:
    """A client with the managed identity's token for Graph."""
    token, _ = sim.entra.app_token(audience=sim.graph_url, client_id=sim.app_id, tenant_id=sim.tenants[0])
    with requests.Session() as session:
        session.verify = str(sim.ca_bundle)
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {token}"
        yield session
