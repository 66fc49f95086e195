"""Queue triggers on real queues, over real processes; tests/replay holds what the listener does in detail."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from azure.storage.queue import QueueClient, QueueServiceClient

from dev.azurite import ACCOUNT, ACCOUNT_KEY, Azurite
from dev.host import HostProcess
from dev.host.process import FUNCTIONS_HOST
from dev.ports import HOST
from dev.queue_proxy import HOST_LEASE_SECONDS, Fault, QueueProxy
from dev.tcp_proxy import TcpProxy
from tests.integration.host.apps import App, count, encoded, eventually

type Serve = Callable[..., HostProcess]

LEASE_SECONDS = 2  # that the local host asks for, and renews at half

WORKING = """
import signal


@app.queue_trigger("msg", queue_name="%QUEUE%", connection="Queues")
async def work(msg: func.QueueMessage, context: func.Context) -> None:
    text = msg.get_body().decode()
    note(text=text, id=msg.id, receipt=msg.pop_receipt, attempt=msg.dequeue_count, time=time.time(),
         trace=context.trace_context.trace_parent,
         inserted=str(msg.insertion_time), expires=str(msg.expiration_time), visible=str(msg.time_next_visible))
    if text in {"fails", "is stubborn"}:
        raise RuntimeError("not today")
    if text == "takes long":
        while not os.path.exists(os.environ["GO_ON"]):
            await asyncio.sleep(0.05)
    if text == "is precious" and msg.dequeue_count == 1:
        os.killpg(0, signal.SIGKILL)  # the host and all of its workers
"""
LATE = WORKING.replace("work", "late").replace("%QUEUE%", "%LATE%")
POISON = WORKING.replace("work", "poison").replace("%QUEUE%", "%POISON%")


@dataclass(frozen=True)
class Served:
    """An app that is served to all tests of the module, and its queues; a test leaves them empty."""

    app: App
    host: HostProcess
    proxy: QueueProxy
    service: QueueServiceClient
    queue: QueueClient
    late: QueueClient
    poison: QueueClient

    def notes_of(self, text: str, number: int = 1) -> list[dict[str, Any]]:
        """What the functions have noted of a text, once it is so many notes."""
        found: list[dict[str, Any]] = []

        def are_there() -> bool:
            found[:] = [note for note in self.app.notes if note["text"] == text]
            return len(found) >= number

        eventually(are_there)
        return found


@pytest.fixture(scope="module")
def served(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    app = App(tmp_path_factory.mktemp("queues"))
    app.write(WORKING + LATE + POISON, queues={"maxDequeueCount": 2, "visibilityTimeout": "00:00:01"})
    names = {"QUEUE": f"{app.name}-work", "LATE": f"{app.name}-late", "POISON": f"{app.name}-poison"}
    # A lease that ends by itself is short only where a test waits for that; else a slow machine would let it end.
    asked = HOST_LEASE_SECONDS if os.environ.get(FUNCTIONS_HOST) else LEASE_SECONDS
    with (
        QueueServiceClient.from_connection_string(azurite.connection_string) as service,
        QueueProxy.before(azurite.queue_url, asked_seconds=asked) as proxy,
    ):
        queue, poison = service.create_queue(names["QUEUE"]), service.create_queue(names["POISON"])
        storage = {"AzureWebJobsStorage": azurite.connection_string, "Queues": proxy.connection_string}
        environment = app.environment | names | storage | {"GO_ON": str(app.folder / "go-on")}
        with HostProcess(app.folder, environment, lease_seconds=LEASE_SECONDS) as host:
            yield Served(app, host, proxy, service, queue, service.get_queue_client(names["LATE"]), poison)


class TestMessage:
    def test_reaches_the_function_with_its_metadata_and_is_deleted(self, served: Served) -> None:
        sent = served.queue.send_message(encoded("grüezi <&>"), time_to_live=-1)

        (seen,) = served.notes_of("grüezi <&>")

        assert seen["id"] == sent.id
        assert seen["receipt"]
        assert seen["attempt"] == 1
        assert seen["trace"] == ""
        assert datetime.fromisoformat(seen["inserted"]) == sent.inserted_on
        assert datetime.fromisoformat(seen["expires"]) == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
        assert datetime.fromisoformat(seen["visible"]) > sent.inserted_on
        eventually(lambda: count(served.queue) == 0)

    def test_comes_from_a_queue_that_is_made_later_and_not_by_the_host(self, served: Served) -> None:
        served.queue.send_message(encoded("elsewhere"))
        served.notes_of("elsewhere")
        assert served.late.queue_name not in {found.name for found in served.service.list_queues()}

        served.late.create_queue()
        served.late.send_message(encoded("welcome"))

        served.notes_of("welcome")
        eventually(lambda: count(served.queue) == 0)

    def test_can_be_made_up_by_the_admin_endpoint(self, served: Served) -> None:
        served.host.start_function("work", "by hand")

        served.notes_of("by hand")


class TestFailure:
    def test_is_retried_after_the_visibility_timeout_and_then_poison(self, served: Served) -> None:
        served.queue.send_message(encoded("fails"))

        eventually(lambda: encoded("fails") in left_on(served))

        first, second = served.notes_of("fails", 2)
        assert (first["attempt"], second["attempt"]) == (1, 2)
        assert second["time"] - first["time"] >= 0.9
        eventually(lambda: count(served.queue) == 0)
        served.host.wait_for_log("RuntimeError: not today")

    def test_to_decode_is_poison_without_a_call(self, served: Served) -> None:
        served.queue.send_message("not base64!")

        eventually(lambda: "not base64!" in left_on(served))
        eventually(lambda: count(served.queue) == 0)

        assert not [note for note in served.app.notes if "base64" in note["text"]]

    def test_of_a_poison_queues_message_leaves_it_invisible_until_its_lease_is_over(self, served: Served) -> None:
        # A host that shows the message again, as it does with other queues' ones, meets this and ends.
        served.proxy.faults = [Fault(operation="update", queue=served.poison.queue_name, status=403)]
        served.proxy.lease_seconds = 1
        served.poison.send_message(encoded("is stubborn"))

        first, second = served.notes_of("is stubborn", 2)[:2]

        assert (first["attempt"], second["attempt"]) == (1, 2)
        assert served.host.is_running
        served.proxy.faults = []
        served.proxy.lease_seconds = HOST_LEASE_SECONDS
        assert f"{served.poison.queue_name}-poison" not in {found.name for found in served.service.list_queues()}
        served.poison.clear_messages()


def left_on(served: Served) -> list[str]:
    """What the host has put on the queue's own poison queue."""
    poison = served.service.get_queue_client(f"{served.queue.queue_name}-poison")
    return [message.content for message in poison.peek_messages(32)] if count(poison) else []


class TestLease:
    @pytest.mark.own_host("the real one renews after five minutes")
    def test_is_renewed_while_the_function_runs(self, served: Served) -> None:
        before = served.proxy.renewed
        served.queue.send_message(encoded("takes long"))

        eventually(lambda: served.proxy.renewed >= before + 2)
        assert count(served.queue) == 1
        (served.app.folder / "go-on").touch()
        eventually(lambda: count(served.queue) == 0)

        assert [note["attempt"] for note in served.notes_of("takes long")] == [1]

    def test_ends_after_a_crash_and_the_message_comes_again(self, served: Served) -> None:
        served.proxy.lease_seconds = 1
        served.queue.send_message(encoded("is precious"))
        eventually(lambda: not served.host.is_running)
        assert count(served.queue) == 1
        served.proxy.lease_seconds = HOST_LEASE_SECONDS
        served.host.start_again_if_ended()

        assert [note["attempt"] for note in served.notes_of("is precious", 2)] == [1, 2]
        eventually(lambda: count(served.queue) == 0)


class TestOutage:
    def test_of_some_seconds_is_lived_through(
        self, app: App, serve: Serve, azurite: Azurite, queue_service: QueueServiceClient
    ) -> None:
        app.write(WORKING)
        queue = queue_service.create_queue(f"{app.name}-outage")
        with TcpProxy.to(azurite.ports.queue) as proxy:
            queues = (
                f"QueueEndpoint=http://{HOST}:{proxy.port}/{ACCOUNT};AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY}"
            )
            proxy.cut()
            serve(AzureWebJobsStorage=azurite.connection_string, Queues=queues, QUEUE=queue.queue_name)
            eventually(lambda: proxy.refused > 0)
            proxy.mend()
            queue.send_message(encoded("first"))
            app.await_notes(1)

            refused = proxy.refused
            proxy.cut()
            eventually(lambda: proxy.refused > refused)
            proxy.mend()
            queue.send_message(encoded("second"))

            assert [note["text"] for note in app.await_notes(2)] == ["first", "second"]
