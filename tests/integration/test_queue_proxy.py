"""The proxy before queue storage, with the real SDK on one side and the emulator on the other."""

import time
from collections.abc import Callable, Iterator

import pytest
from azure.core.exceptions import AzureError, HttpResponseError, ServiceResponseError
from azure.storage.queue import QueueClient

from dev.azurite import ACCOUNT, Azurite
from dev.ports import HOST, held_port
from dev.queue_proxy import Fault, QueueProxy


@pytest.fixture
def proxy(azurite: Azurite) -> Iterator[QueueProxy]:
    with QueueProxy.before(azurite.queue_url, lease_seconds=1) as running:
        yield running


@pytest.fixture
def queue(proxy: QueueProxy, unique_name: Callable[[str], str]) -> Iterator[QueueClient]:
    with QueueClient.from_connection_string(proxy.connection_string, unique_name("proxy"), retry_total=0) as client:
        client.create_queue()
        yield client


def until_held(proxy: QueueProxy) -> None:
    deadline = time.monotonic() + 90
    while proxy.held == 0:
        assert time.monotonic() < deadline, "no call was held"
        time.sleep(0.02)


def test_a_hosts_lease_is_shortened_and_renewed(proxy: QueueProxy, queue: QueueClient) -> None:
    queue.send_message("1 + 1 = 2")

    message = queue.receive_message(visibility_timeout=600)

    assert message is not None
    assert (message.next_visible_on - message.inserted_on).total_seconds() < 300
    assert proxy.renewed == 0
    renewed = queue.update_message(message, visibility_timeout=600)
    assert proxy.renewed == 1
    assert (renewed.next_visible_on - message.inserted_on).total_seconds() < 300
    deadline = time.monotonic() + 90
    while (again := queue.receive_message(visibility_timeout=300)) is None:
        assert time.monotonic() < deadline
    assert again.content == "1 + 1 = 2"
    assert queue.receive_message(visibility_timeout=300) is None


def test_a_fault_meets_as_many_calls_as_it_says(proxy: QueueProxy, queue: QueueClient) -> None:
    proxy.faults = [Fault(operation="put", status=403, code="AuthenticationFailed", times=1)]

    with pytest.raises(HttpResponseError) as caught:
        queue.send_message("refused")
    queue.send_message("taken")

    assert (caught.value.status_code, caught.value.error_code) == (403, "AuthenticationFailed")
    assert [message.content for message in queue.peek_messages(max_messages=32)] == ["taken"]


def test_a_call_is_held_before_storage_until_its_caller_has_gone(proxy: QueueProxy, queue: QueueClient) -> None:
    proxy.faults = [Fault(operation="put", action="hold", times=1)]

    with pytest.raises(ServiceResponseError):
        queue.send_message("never sent", read_timeout=0.2)

    until_held(proxy)
    assert queue.peek_messages() == []


def test_what_a_get_found_is_withheld_and_leased_until_its_caller_has_gone(
    proxy: QueueProxy, queue: QueueClient
) -> None:
    proxy.faults = [Fault(operation="get", action="withhold")]
    assert queue.receive_message(visibility_timeout=300) is None
    queue.send_message("leased")

    with pytest.raises(ServiceResponseError):
        queue.receive_message(visibility_timeout=300, read_timeout=0.5)

    until_held(proxy)
    proxy.faults = []
    assert queue.receive_message(visibility_timeout=300) is None
    assert queue.get_queue_properties().approximate_message_count == 1


def test_storage_that_is_away_answers_nothing() -> None:
    with (
        held_port() as nobody,
        QueueProxy.before(f"http://{HOST}:{nobody}/{ACCOUNT}") as proxy,
        QueueClient.from_connection_string(proxy.connection_string, "proxy", retry_total=0) as client,
        pytest.raises(AzureError) as caught,
    ):
        client.send_message("nobody takes it")

    assert not isinstance(caught.value, HttpResponseError)
