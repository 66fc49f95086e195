"""The app as it is served: over HTTP, by the production worker's library, with the parts that production has.

And what a stack gives it to go by, and what becomes of Graph's deliveries while storage is away.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient
from azure.storage.queue import QueueClient, QueueServiceClient
from rich.console import Console

from clients.python.switchboard_events import parse
from dev import start, traffic, trigger
from dev.azurite import ACCOUNT_KEY
from dev.host.process import FUNCTIONS_HOST
from dev.running import Running
from dev.simulator import Kind
from dev.simulator.delivery import Notification
from dev.stack import APP, Stack

PATIENCE = 240.0
LARGEST_BODY = 400_000
PLAIN = '{"hello": "put on raw-notifications as it is, without base64"}'


def until(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, f"waited for {what}, in vain"
        time.sleep(0.02)


def renew(stack: Stack) -> None:
    """Fire the renewal timer, and wait for the end of its run: health tells of one that has not come to it."""
    with _container(stack, "state") as state:

        def finished() -> str | None:
            with suppress(ResourceNotFoundError):
                return str(json.loads(state.download_blob("renewal.json").readall())["finished"])
            return None

        before = finished()
        stack.host.start_function("renew_subscriptions")
        until(lambda: finished() not in {None, before}, "the end of the run")
    assert len(stack.sim.graph.subscriptions) == traffic.SUBSCRIPTION_COUNT


def patient(stack: Stack) -> Stack:
    """Graph waits for a slow machine, and does not deliver again what is under way: what comes can be counted."""
    stack.sim.graph.delivery.first_timeout = stack.sim.graph.delivery.retry_timeout = PATIENCE
    stack.sim.graph.delivery.handshake_timeout = PATIENCE
    return stack


def send(stack: Stack, count: int) -> list[Notification]:
    """Let everything happen that an app may be told of, over and over."""
    prepared: list[Notification] = []
    for resource, kind, options in traffic.a_day():
        if kind is not Kind.PRESENCE:
            prepared += stack.sim.graph.prepare(resource, kind, options)
        if len(prepared) >= count:
            break
    stack.sim.graph.send(prepared)
    return prepared


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with a setting of its own, started by a developer whose environment would lead the app astray."""
    starting = Stack.start(
        tmp_path_factory.mktemp("stack"),
        subscriptions=traffic.SUBSCRIPTIONS,
        settings={
            "MAX_BODY_BYTES": str(LARGEST_BODY),
            "CLIENT_STATE": start.CLIENT_STATE,
            "CONSUMERS": start.CONSUMERS,
        },
    )
    with ExitStack() as until_the_end:
        with pytest.MonkeyPatch.context() as environment:
            for name in ("AZURE_CLIENT_ID", "HTTPS_PROXY", "GRAPH_APP_IDS", "LIFECYCLE_NOTIFICATION_URL"):
                environment.setenv(name, "nonsense")
            running = patient(until_the_end.enter_context(starting))
        running.sim.graph.delivery.first_retry = 0.2
        yield running


def test_every_notification_is_an_event(stack: Stack) -> None:
    everything_arrives(stack)


def test_every_notification_is_an_event_with_storage_by_identity(tmp_path: Path) -> None:
    with Stack.start(tmp_path, subscriptions=traffic.SUBSCRIPTIONS, storage_by_identity=True) as running:
        everything_arrives(patient(running))


def everything_arrives(stack: Stack) -> None:
    renew(stack)
    queues = _queues(stack)
    before = _events(queues)
    sent = send(stack, 32)
    stack.sim.graph.drain()
    assert {delivery.state for delivery in stack.sim.graph.deliveries} == {"delivered"}
    # It reaches storage, Key Vault and Graph, with the tenant and the application that the simulator knows.
    health = requests.get(f"{stack.url}/api/health", timeout=90)
    assert health.status_code == 200, requests.get(f"{stack.url}/api/status", headers=as_json(stack), timeout=90).text
    until(lambda: len(_events(queues) - before) == len(sent), f"{len(sent)} events")
    text_that_no_function_is_given_is_parked(stack, queues)


def test_a_setting_overrides_the_default(stack: Stack) -> None:
    body = {"value": [{"id": "x" * LARGEST_BODY}]}
    assert requests.post(stack.settings["NOTIFICATION_URL"], json=body, timeout=90).status_code == 413


def test_what_happens_is_shown_and_left_to_whoever_reads_the_queues(stack: Stack) -> None:
    renew(stack)
    queues, shown = _queues(stack), io.StringIO()
    before = _count(queues)
    url = stack.settings["NOTIFICATION_URL"]
    with start.shown(Console(file=shown, soft_wrap=True), stack):
        forged = start.notification().replace(start.CLIENT_STATE, "forged")
        until(lambda: takes(url, forged), "an answer to a forger")
        until(lambda: takes(url, start.notification()), "an answer")
        running = Running(dict(stack.settings), stack.sim.control_url, process=0)
        assert "meeting-events" in trigger.send(running, Kind.ROSTER_JOINED, 400)
        until(lambda: "CallRecordCreated" in shown.getvalue(), "the event of a notification that was posted by hand")
        until(lambda: "KB\n" in shown.getvalue(), "the event of a large roster")
        if not os.environ.get(FUNCTIONS_HOST):  # another host writes its log where it likes
            until(lambda: "reason=client-state" in shown.getvalue(), "the refusal")
    assert _count(queues) >= before + 2


def takes(url: str, body: str) -> bool:
    """Whether the app accepts it; on a slow machine it may have no time for an answer, and asks for another try."""
    status = requests.post(url, data=body, timeout=90).status_code
    assert status in {202, 503}
    return status == 202


def test_graph_is_refused_while_storage_is_away_and_delivers_when_it_is_back(stack: Stack) -> None:
    renew(stack)
    queues = _queues(stack)
    events = _count(queues)
    stack.azurite.stop()
    before = len(stack.sim.graph.deliveries)
    stack.sim.graph.notify(traffic.RECORDS, Kind.CALL_RECORD_CREATED, traffic.unique(traffic.RECORDS))
    until(lambda: any(entry.attempts for entry in stack.sim.graph.deliveries[before:]), "the refusal")
    stack.restart_azurite()
    stack.sim.graph.drain(PATIENCE)
    (delivery,) = stack.sim.graph.deliveries[before:]
    assert delivery.attempts[0].status == 503
    assert delivery.attempts[-1].status == 202
    until(lambda: _count(queues) > events, "its event")


def text_that_no_function_is_given_is_parked(stack: Stack, queues: QueueServiceClient) -> None:
    poison = queues.create_queue("raw-notifications-poison")
    queues.get_queue_client("raw-notifications").send_message(PLAIN)
    until(lambda: bool(poison.get_queue_properties().approximate_message_count), "the host's giving up")
    stack.host.start_function("drain_poison")
    with _container(stack, "quarantine") as quarantine:
        until(lambda: _parked(quarantine) == [PLAIN], "its entry")
    assert poison.get_queue_properties().approximate_message_count == 0


def as_json(stack: Stack) -> dict[str, str]:
    return {**stack.host.key_header, "Accept": "application/json"}


def _container(stack: Stack, name: str) -> ContainerClient:
    if stack.azurite.tls is None:
        return ContainerClient.from_connection_string(stack.azurite.connection_string, name)
    ca_bundle = str(stack.sim.ca_bundle)
    return ContainerClient(stack.azurite.blob_url, name, ACCOUNT_KEY, connection_verify=ca_bundle)


def _parked(quarantine: ContainerClient) -> list[str]:
    if not quarantine.exists():
        return []
    return [json.loads(quarantine.download_blob(blob.name).readall())["text"] for blob in quarantine.list_blobs()]


def test_a_host_that_ends_by_itself_is_started_again_as_azure_does(stack: Stack) -> None:
    first, ends = stack.host.pid, stack.host.ends

    os.kill(first, signal.SIGKILL)

    until(lambda: answers(stack) and stack.host.pid != first, "another host")
    assert stack.host.ends == ends + 1


def answers(stack: Stack) -> bool:
    try:
        return requests.get(f"{stack.url}/api/notifications?validationToken=t", timeout=90).text == "t"
    except requests.ConnectionError:
        return False


def test_the_handshake_needs_nothing_but_the_standard_library_and_azure_functions() -> None:
    """A worker that has just started must answer within seconds, whatever else is slow to import."""
    code = """
import sys, asyncio
import azure.functions as func
before = set(sys.modules)
import function_app
params = {"validationToken": "t"}
request = func.HttpRequest(method="POST", url="http://localhost/api/notifications", params=params, body=b"")
response = asyncio.run(function_app.receive_notifications.build().get_user_function()(request))
assert response.get_body() == b"t"
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=APP, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["function_app", "shared"]


def _queues(stack: Stack) -> QueueServiceClient:
    if stack.azurite.tls is None:
        return QueueServiceClient.from_connection_string(stack.azurite.connection_string)
    return QueueServiceClient(stack.azurite.queue_url, ACCOUNT_KEY, connection_verify=str(stack.sim.ca_bundle))


def _count(queues: QueueServiceClient) -> int:
    return sum(queue.get_queue_properties().approximate_message_count or 0 for queue in _events_queues(queues))


def _events(queues: QueueServiceClient) -> set[tuple[str, str]]:
    """The keys of all events, by which one that came twice from a slow machine is one."""
    messages = [message for queue in _events_queues(queues) for message in queue.peek_messages(32)]
    return {event.key for message in messages for event in parse(message.content)}


def _events_queues(queues: QueueServiceClient) -> list[QueueClient]:
    return [queues.get_queue_client(each.name) for each in queues.list_queues() if each.name.endswith("-events")]
