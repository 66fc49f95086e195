"""The consumer of the demo and of the reliability run, on a storage that comes and goes."""

import json
import time
from collections.abc import Callable
from contextlib import suppress

from azure.core.exceptions import ResourceExistsError
from azure.storage.queue import QueueClient

from dev.azurite import Azurite
from dev.consumer import Arrival, Consumer
from dev.tcp_proxy import TcpProxy

EVENT = json.dumps(
    {
        "specversion": "1.0",
        "id": "1",
        "source": "https://graph.microsoft.com/v1.0/subscriptions/s",
        "type": "Microsoft.Graph.CallStarted",
        "time": "2026-01-02T03:04:05Z",
        "data": {},
    }
)
LONG = 240
"""Seconds that a message stays hidden, and more than enough for all that is waited for."""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG / 2
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def test_it_deletes_again_what_storage_did_not_delete(azurite: Azurite) -> None:
    """Or the message would show again, and an outage of the consumer's look like two deliveries of the app's."""
    arrivals: list[Arrival] = []
    with (
        TcpProxy.to(azurite.ports.queue) as proxy,
        QueueClient.from_connection_string(azurite.connection_string, "call-events") as queue,
    ):

        def arrive(arrival: Arrival) -> None:
            arrivals.append(arrival)
            proxy.cut()

        with suppress(ResourceExistsError):
            queue.create_queue()
        queue.clear_messages()
        queue.send_message(EVENT)
        through_the_proxy = azurite.connection_string.replace(f":{azurite.ports.queue}/", f":{proxy.port}/")
        with Consumer(through_the_proxy, arrive, hidden_seconds=LONG):
            until(lambda: proxy.refused > 0)
            proxy.mend()
            until(lambda: queue.get_queue_properties().approximate_message_count == 0)
    assert len(arrivals) == 1
