"""Some of the recorded faults of storage over real sockets: the host, the emulator, and a proxy between them."""

from collections.abc import Callable, Iterator

import pytest
from azure.storage.queue import QueueClient, QueueServiceClient

from dev.azurite import ACCOUNT_KEY, Azurite
from dev.host import HostProcess
from dev.queue_proxy import Fault, QueueProxy
from tests.integration.host.apps import App, count, encoded, eventually

type Serve = Callable[..., HostProcess]
type Name = Callable[[str], str]

NOTING = """
@app.queue_trigger("msg", queue_name="%QUEUE%", connection="Queues")
async def work(msg: func.QueueMessage) -> None:
    note(text=msg.get_body().decode(), attempt=msg.dequeue_count)
    await asyncio.sleep(float(os.environ.get("SECONDS", 0)))
    if msg.get_body() == b"bad":
        raise RuntimeError("not today")
"""


@pytest.fixture
def queue(queue_service: QueueServiceClient, unique_name: Name) -> QueueClient:
    return queue_service.create_queue(unique_name("host"))


@pytest.fixture
def proxy(azurite: Azurite) -> Iterator[QueueProxy]:
    with QueueProxy.before(azurite.queue_url) as running:
        yield running


@pytest.fixture
def settings(azurite: Azurite, proxy: QueueProxy, queue: QueueClient) -> dict[str, str]:
    return {
        "AzureWebJobsStorage": azurite.connection_string,
        "Queues": proxy.connection_string,
        "QUEUE": queue.queue_name,
    }


def ends(host: HostProcess) -> None:
    eventually(lambda: not host.is_running)


def test_403_to_a_poll_ends_the_host_with_what_runs_finished(
    app: App, serve: Serve, queue: QueueClient, proxy: QueueProxy, settings: dict[str, str]
) -> None:
    app.write(NOTING)
    queue.send_message(encoded("running"))
    host = serve(SECONDS="1", **settings)
    app.await_notes(1)

    proxy.faults = [Fault(operation="get", status=403, code="AuthenticationFailed")]
    queue.send_message(encoded("later"))

    ends(host)
    assert count(queue) == 1
    assert len(app.notes) == 1


def test_403_to_a_deletion_ends_the_host(
    app: App, serve: Serve, queue: QueueClient, proxy: QueueProxy, settings: dict[str, str]
) -> None:
    app.write(NOTING)
    host = serve(**settings)
    proxy.faults = [Fault(operation="delete", status=403, code="AuthenticationFailed", times=1)]

    queue.send_message(encoded("done"))

    ends(host)
    assert [note["attempt"] for note in app.notes] == [1]
    assert count(queue) == 1


def test_a_reset_is_tried_again(
    app: App, serve: Serve, queue: QueueClient, proxy: QueueProxy, settings: dict[str, str]
) -> None:
    app.write(NOTING)
    serve(**settings)
    proxy.faults = [Fault(operation=operation, action="reset", times=1) for operation in ("get", "delete")]

    queue.send_message(encoded("once"))

    eventually(lambda: count(queue) == 0)
    assert [note["attempt"] for note in app.notes] == [1]


def test_a_get_whose_answer_is_lost_hides_its_message(
    app: App, serve: Serve, queue: QueueClient, proxy: QueueProxy, settings: dict[str, str]
) -> None:
    app.write(NOTING)
    queue.send_message(encoded("hidden"))
    proxy.faults = [Fault(operation="get", action="lose", times=1)]
    serve(**settings)
    eventually(lambda: proxy.faults[0].times == 0)

    queue.send_message(encoded("next"))

    assert app.await_notes(1)[0]["text"] == "next"
    eventually(lambda: count(queue) == 1)
    assert queue.peek_messages() == []


def test_a_lost_answer_to_the_poison_queue_makes_two_copies(
    app: App, serve: Serve, queue: QueueClient, proxy: QueueProxy, settings: dict[str, str]
) -> None:
    app.write(NOTING, queues={"maxDequeueCount": 1})
    with QueueClient(proxy.url, f"{queue.queue_name}-poison", ACCOUNT_KEY) as poison:
        poison.create_queue()
        proxy.faults = [Fault(operation="put", action="lose", times=1)]
        serve(**settings)

        queue.send_message(encoded("bad"))

        eventually(lambda: count(queue) == 0)
        assert count(poison) == 2
