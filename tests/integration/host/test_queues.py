"""Queue triggers on real queues."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from azure.storage.queue import QueueClient, QueueServiceClient

from dev.azurite import Azurite
from dev.host import HostProcess
from dev.queue_proxy import QueueProxy
from tests.integration.host.apps import App, count, encoded, eventually

type Serve = Callable[..., HostProcess]
type Name = Callable[[str], str]

NOTING = """
@app.queue_trigger("msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    note(text=msg.get_body().decode(), attempt=msg.dequeue_count)
"""
FAILING = """
@app.queue_trigger("msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    note(text=msg.get_body().decode(), attempt=msg.dequeue_count, time=time.time())
    raise RuntimeError("not today")
"""


@pytest.fixture
def queue(queue_service: QueueServiceClient, unique_name: Name) -> QueueClient:
    return queue_service.create_queue(unique_name("host"))


@pytest.fixture
def poison(queue_service: QueueServiceClient, queue: QueueClient) -> QueueClient:
    return queue_service.get_queue_client(f"{queue.queue_name}-poison")


@pytest.fixture
def settings(azurite: Azurite, queue: QueueClient) -> dict[str, str]:
    return {"AzureWebJobsStorage": azurite.connection_string, "QUEUE": queue.queue_name}


@pytest.fixture
def short_leases(azurite: Azurite, settings: dict[str, str]) -> Iterator[dict[str, str]]:
    """Settings whose connection `Queues` leads to a queue service that leases messages to a host for a second."""
    with QueueProxy.before(azurite.queue_url, lease_seconds=1) as proxy:
        yield settings | {"Queues": proxy.connection_string}


class TestMessage:
    def test_reaches_the_function_with_its_metadata_and_is_deleted(
        self, app: App, serve: Serve, queue: QueueClient, settings: dict[str, str]
    ) -> None:
        app.write(
            """
            @app.queue_trigger("msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
            def work(msg: func.QueueMessage, context: func.Context) -> None:
                note(text=msg.get_body().decode(), id=msg.id, receipt=msg.pop_receipt, attempt=msg.dequeue_count,
                     trace=context.trace_context.trace_parent,
                     inserted=msg.insertion_time.isoformat(), expires=msg.expiration_time.isoformat(),
                     visible=msg.time_next_visible.isoformat())
            """
        )
        sent = queue.send_message(encoded("grüezi <&>"), time_to_live=-1)
        serve(**settings)

        (seen,) = app.await_notes(1)

        assert seen["text"] == "grüezi <&>"
        assert seen["id"] == sent.id
        assert seen["receipt"]
        assert seen["attempt"] == 1
        assert seen["trace"] == ""
        assert datetime.fromisoformat(seen["inserted"]) == sent.inserted_on
        assert datetime.fromisoformat(seen["expires"]) == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
        assert datetime.fromisoformat(seen["visible"]) > datetime.now(UTC)
        eventually(lambda: count(queue) == 0)

    def test_of_plain_text_is_passed_as_it_is(
        self, app: App, serve: Serve, queue: QueueClient, settings: dict[str, str]
    ) -> None:
        app.write(NOTING, queues={"messageEncoding": "none"})
        queue.send_message("not base64!")
        serve(**settings)

        assert app.await_notes(1)[0]["text"] == "not base64!"

    def test_goes_from_queue_to_queue_through_the_sdk(
        self, app: App, serve: Serve, queue: QueueClient, queue_service: QueueServiceClient, settings: dict[str, str]
    ) -> None:
        app.write(
            """
            from azure.storage.queue import QueueClient

            @app.queue_trigger("msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
            def work(msg: func.QueueMessage) -> None:
                target = os.environ["QUEUE"] + "-out"
                with QueueClient.from_connection_string(os.environ["AzureWebJobsStorage"], target) as out:
                    out.send_message(msg.get_body().decode().upper())
            """
        )
        out = queue_service.create_queue(f"{queue.queue_name}-out")
        host = serve(**settings)
        for number in range(40):
            queue.send_message(encoded(f"message {number}"))

        eventually(lambda: count(out) == 40)
        host.terminate()

        texts = {message.content for message in out.receive_messages(messages_per_page=32)}
        assert texts == {f"MESSAGE {number}" for number in range(40)}
        assert count(queue) == 0

    def test_comes_from_a_queue_that_is_made_later_and_not_by_the_host(
        self, app: App, serve: Serve, azurite: Azurite, queue_service: QueueServiceClient, unique_name: Name
    ) -> None:
        app.write(NOTING.replace("work", "other").replace("%QUEUE%", "%OTHER%") + NOTING)
        first, missing = queue_service.create_queue(unique_name("host")), unique_name("missing")
        first.send_message(encoded("first"))
        serve(AzureWebJobsStorage=azurite.connection_string, QUEUE=first.queue_name, OTHER=missing)
        app.await_notes(1)
        assert missing not in {found.name for found in queue_service.list_queues()}

        queue_service.create_queue(missing).send_message(encoded("welcome"))

        assert app.await_notes(2)[1]["text"] == "welcome"

    def test_can_be_made_up_by_the_admin_endpoint(self, app: App, serve: Serve, settings: dict[str, str]) -> None:
        app.write(NOTING)
        host = serve(**settings)

        host.start_function("work", "by hand")

        assert app.await_notes(1)[0]["text"] == "by hand"


class TestFailure:
    def test_is_retried_after_the_visibility_timeout_and_then_poison(
        self, app: App, serve: Serve, queue: QueueClient, poison: QueueClient, settings: dict[str, str]
    ) -> None:
        app.write(FAILING, queues={"maxDequeueCount": 2, "visibilityTimeout": "00:00:01"})
        queue.send_message(encoded("bad"))
        host = serve(**settings)

        eventually(lambda: count(poison) == 1)

        assert [note["attempt"] for note in app.notes] == [1, 2]
        assert app.notes[1]["time"] - app.notes[0]["time"] >= 0.9
        eventually(lambda: count(queue) == 0)
        assert next(iter(poison.receive_messages())).content == encoded("bad")
        host.wait_for_log("RuntimeError: not today")

    def test_to_decode_is_poison_without_a_call(
        self, app: App, serve: Serve, queue: QueueClient, poison: QueueClient, settings: dict[str, str]
    ) -> None:
        app.write(NOTING)
        queue.send_message("not base64!")
        serve(**settings)

        eventually(lambda: count(poison) == 1)
        eventually(lambda: count(queue) == 0)

        assert next(iter(poison.receive_messages())).content == "not base64!"
        assert app.notes == []

    def test_of_a_poison_queues_message_leaves_it_invisible_until_its_lease_is_over(
        self, app: App, serve: Serve, queue_service: QueueServiceClient, short_leases: dict[str, str], unique_name: Name
    ) -> None:
        app.write(
            FAILING.replace("AzureWebJobsStorage", "Queues"),
            queues={"maxDequeueCount": 1, "visibilityTimeout": "00:00:00"},
        )
        poison = queue_service.create_queue(unique_name("host") + "-poison")
        poison.send_message(encoded("stubborn"))
        serve(**short_leases | {"QUEUE": poison.queue_name})

        first, second = app.await_notes(2)[:2]

        assert second["attempt"] == 2
        assert second["time"] - first["time"] >= 0.9
        assert count(poison) == 1
        assert f"{poison.queue_name}-poison" not in {found.name for found in queue_service.list_queues()}


class TestConcurrency:
    def test_is_batch_size_and_threshold(
        self, app: App, serve: Serve, queue: QueueClient, settings: dict[str, str], tmp_path: Path
    ) -> None:
        app.write(
            """
            @app.queue_trigger("msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
            async def work(msg: func.QueueMessage) -> None:
                note(text=msg.get_body().decode())
                while msg.get_body() != b"0" and not os.path.exists(os.environ["RELEASE"]):
                    await asyncio.sleep(0.01)
            """,
            queues={"batchSize": 4, "newBatchThreshold": 3},
        )
        for number in range(12):
            queue.send_message(encoded(str(number)))
        release = tmp_path / "release"
        host = serve(RELEASE=str(release), **settings)

        # Four are fetched; the first ends at once, three are left, and so four more are fetched: seven run.
        app.await_notes(8)
        eventually(lambda: count(queue) == 11)
        visible = [message.content for message in queue.peek_messages(max_messages=32)]
        assert visible == [encoded(str(number)) for number in range(8, 12)]
        assert len(app.notes) == 8

        release.touch()
        eventually(lambda: count(queue) == 0)
        host.terminate()
        assert len(app.notes) == 12


class TestLease:
    @pytest.mark.own_host("the real one renews after five minutes")
    def test_is_renewed_while_the_function_runs(
        self, app: App, serve: Serve, queue: QueueClient, settings: dict[str, str]
    ) -> None:
        app.write(
            """
            @app.queue_trigger("msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
            async def work(msg: func.QueueMessage) -> None:
                note(attempt=msg.dequeue_count)
                await asyncio.sleep(2.5)
            """
        )
        queue.send_message(encoded("long"))
        serve(lease_seconds=1, **settings)

        eventually(lambda: count(queue) == 0)

        assert app.notes == [{"attempt": 1}]

    def test_ends_after_a_crash_and_the_message_comes_again(
        self, app: App, serve: Serve, queue: QueueClient, short_leases: dict[str, str]
    ) -> None:
        app.write(
            """
            @app.queue_trigger("msg", queue_name="%QUEUE%", connection="Queues")
            async def work(msg: func.QueueMessage) -> None:
                note(attempt=msg.dequeue_count)
                if msg.dequeue_count == 1:
                    await asyncio.sleep(60)
            """
        )
        queue.send_message(encoded("precious"))
        host = serve(**short_leases)
        app.await_notes(1)

        host.kill()
        assert count(queue) == 1
        host.start()

        assert app.await_notes(2)[1] == {"attempt": 2}
        eventually(lambda: count(queue) == 0)


class TestOutage:
    def test_of_some_seconds_is_lived_through(self, app: App, serve: Serve, tmp_path: Path, unique_name: Name) -> None:
        app.write(NOTING)
        name = unique_name("host")
        with (
            Azurite.start(tmp_path / "azurite") as azurite,
            QueueClient.from_connection_string(azurite.connection_string, name) as queue,
        ):
            queue.create_queue()
            azurite.stop()
            serve(AzureWebJobsStorage=azurite.connection_string, QUEUE=name)
            azurite.restart()
            queue.send_message(encoded("first"))
            app.await_notes(1)

            azurite.stop()
            azurite.restart()
            queue.send_message(encoded("second"))

            assert [note["text"] for note in app.await_notes(2)] == ["first", "second"]
