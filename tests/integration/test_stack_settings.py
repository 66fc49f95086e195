"""What a stack gives the app to go by, and what becomes of Graph's deliveries while storage is away."""

import time
from collections.abc import Callable, Iterator

import pytest
import requests
from azure.storage.blob import BlobClient

from dev import traffic
from dev.simulator import Kind
from dev.stack import Stack

PATIENCE = 90


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with a setting of its own, started by a developer whose environment would lead the app astray."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AZURE_CLIENT_ID", "HTTPS_PROXY", "GRAPH_APP_IDS", "LIFECYCLE_NOTIFICATION_URL"):
            environment.setenv(name, "nonsense")
        with Stack.start(
            tmp_path_factory.mktemp("stack"), subscriptions="[[callRecords]]", settings={"MAX_BODY_BYTES": "1000"}
        ) as running:
            yield running


@pytest.fixture
def subscribed(stack: Stack) -> Stack:
    """The stack, with its one subscription."""
    stack.host.start_function("renew_subscriptions")
    wait_until(lambda: len(stack.sim.graph.subscriptions) == 1, "the subscription")
    return stack


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}, in vain"
        time.sleep(0.05)


def test_only_the_stacks_own_settings_reach_the_app(subscribed: Stack) -> None:
    # It reaches storage, Key Vault and Graph, with the tenant and the application that the simulator knows.
    with BlobClient.from_connection_string(subscribed.azurite.connection_string, "state", "renewal.json") as state:
        wait_until(state.exists, "the end of the run")  # health asked before would be that of before for half a minute
    assert requests.get(f"{subscribed.url}/api/health", timeout=90).text == "ok"


def test_a_setting_overrides_the_default(stack: Stack) -> None:
    answer = requests.post(stack.settings["NOTIFICATION_URL"], json={"value": [{"id": "x" * 1000}]}, timeout=90)
    assert answer.status_code == 413


def test_graph_is_refused_while_storage_is_away_and_delivers_when_it_is_back(subscribed: Stack) -> None:
    graph = subscribed.sim.graph
    graph.delivery.first_retry = 0.2
    subscribed.azurite.stop()
    graph.notify(traffic.RECORDS, Kind.CALL_RECORD_CREATED, traffic.unique(traffic.RECORDS))
    wait_until(lambda: any(entry.attempts for entry in graph.deliveries), "the refusal")
    subscribed.restart_azurite()
    graph.drain(PATIENCE)
    (delivery,) = graph.deliveries
    assert delivery.attempts[0].status == 503
    assert delivery.attempts[-1].status == 202
