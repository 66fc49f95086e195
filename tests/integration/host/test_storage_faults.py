"""Some of the recorded faults of storage over real sockets: the host, the emulator, and a proxy between them.

All that were recorded are played in tests/replay, without sockets.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from azure.storage.queue import QueueClient

from dev.azurite import ACCOUNT_KEY, Azurite
from dev.host import HostProcess
from dev.queue_proxy import Fault, QueueProxy
from tests.integration.host.apps import App, count, encoded, eventually

NOTING = """
@app.queue_trigger("msg", queue_name="%QUEUE%", connection="Queues")
async def work(msg: func.QueueMessage) -> None:
    note(text=msg.get_body().decode(), attempt=msg.dequeue_count)
    if msg.get_body() == b"takes a second":
        await asyncio.sleep(1)
    if msg.get_body() == b"bad":
        raise RuntimeError("not today")
"""


@dataclass(frozen=True)
class Served:
    """An app that is served to all tests of the module."""

    app: App
    host: HostProcess
    proxy: QueueProxy
    queue: QueueClient

    def notes_of(self, text: str) -> list[dict[str, Any]]:
        return [note for note in self.app.notes if note["text"] == text]


@pytest.fixture(scope="module")
def shared(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    app = App(tmp_path_factory.mktemp("faults"))
    app.write(NOTING, queues={"maxDequeueCount": 1})
    with (
        QueueProxy.before(azurite.queue_url) as proxy,
        QueueClient.from_connection_string(azurite.connection_string, app.name) as queue,
    ):
        queue.create_queue()
        settings = {"AzureWebJobsStorage": azurite.connection_string, "Queues": proxy.connection_string}
        with HostProcess(app.folder, app.environment | settings | {"QUEUE": app.name}) as host:
            yield Served(app, host, proxy, queue)


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    """The host, running, with an empty queue and without faults."""
    shared.host.start_again_if_ended()
    yield shared
    shared.proxy.faults = []
    shared.queue.clear_messages()


def test_403_to_a_poll_ends_the_host_with_what_runs_finished(served: Served) -> None:
    served.queue.send_message(encoded("takes a second"))
    eventually(lambda: bool(served.notes_of("takes a second")))

    served.proxy.faults = [Fault(operation="get", status=403, code="AuthenticationFailed")]
    served.queue.send_message(encoded("later"))

    eventually(lambda: not served.host.is_running)
    assert count(served.queue) == 1
    assert served.notes_of("later") == []


def test_a_reset_is_tried_again(served: Served) -> None:
    served.proxy.faults = [Fault(operation=operation, action="reset", times=1) for operation in ("get", "delete")]

    served.queue.send_message(encoded("once"))

    eventually(lambda: count(served.queue) == 0)
    assert [note["attempt"] for note in served.notes_of("once")] == [1]


def test_a_get_whose_answer_is_lost_hides_its_message(served: Served) -> None:
    served.proxy.faults = [Fault(operation="get", action="reset", times=100)]
    eventually(met(served.proxy, 100))
    served.queue.send_message(encoded("hidden"))
    served.proxy.faults = [Fault(operation="get", action="lose", times=1)]
    eventually(met(served.proxy, 1))

    served.queue.send_message(encoded("next"))

    eventually(lambda: bool(served.notes_of("next")))
    eventually(lambda: count(served.queue) == 1)
    assert served.queue.peek_messages() == []
    assert served.notes_of("hidden") == []


def met(proxy: QueueProxy, times: int) -> Callable[[], bool]:
    """Whether the only fault has met a call."""
    return lambda: proxy.faults[0].times != times


def test_a_lost_answer_to_the_poison_queue_makes_two_copies(served: Served) -> None:
    with QueueClient(served.proxy.url, f"{served.queue.queue_name}-poison", ACCOUNT_KEY) as poison:
        poison.create_queue()
        served.proxy.faults = [Fault(operation="put", action="lose", times=1)]

        # Not by way of the proxy, which would lose the answer to this one.
        served.queue.send_message(encoded("bad"))

        eventually(lambda: count(served.queue) == 0)
        assert count(poison) == 2
