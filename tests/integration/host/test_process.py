"""The host as a process: signals, several workers, crashes."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from azure.storage.queue import QueueServiceClient

from dev.azurite import Azurite
from dev.host import HostProcess, HostStartError
from dev.host.process import FUNCTIONS_HOST
from dev.ports import HOST
from tests.integration.host.apps import App, eventually

type Serve = Callable[..., HostProcess]
type Name = Callable[[str], str]

SLOW = """
import atexit

atexit.register(note, event="never called")

@app.route("slow")
async def slow(req: func.HttpRequest) -> func.HttpResponse:
    note(event="begun")
    await asyncio.sleep(0.5)
    note(event="ended")
    return func.HttpResponse("done")
"""
PID = """
@app.route("pid")
async def pid(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(str(os.getpid()), headers={"Connection": "close"})
"""


QUEUE = """
@app.queue_trigger("msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    note(pid=os.getpid(), time=time.time())
"""
OTHER = PID.replace('"pid"', '"other"').replace("def pid", "def other")
# It dies with each message, and once while it is started again.
DYING = (
    """
died, died_again = (os.environ["NOTES"] + ending for ending in (".died", ".died-again"))
if os.path.exists(died) and not os.path.exists(died_again):
    open(died_again, "w").close()
    note(time=time.time())
    os._exit(1)
"""
    + QUEUE
    + """
    open(died, "w").close()
    os._exit(1)
"""
)
SEES = """
@app.route("sees")
async def sees(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(json.dumps([os.environ.get("OF_THE_PARENT"), os.environ.get("GIVEN")]))
"""
HANGING = """
@app.route("hang")
async def hang(req: func.HttpRequest) -> func.HttpResponse:
    try:
        await asyncio.sleep(float(req.params.get("after", 0)))
        await asyncio.sleep(30)
    finally:
        note(event="never told")
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    app = App(tmp_path_factory.mktemp("plain"))
    app.write(PID + SEES)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OF_THE_PARENT", "secret")
        with HostProcess(app.folder, app.environment | {"GIVEN": "yes"}) as host:
            yield host


@pytest.fixture
def plain(shared: HostProcess) -> HostProcess:
    """A host with one worker, running."""
    if not shared.is_running:
        shared.start()
    return shared


def pid(host: HostProcess) -> int:
    return int(requests.get(f"{host.url}/api/pid", timeout=90).text)


def pid_if_answered(host: HostProcess) -> int | None:
    """The process id of a worker; None where the call was given to one that had just died."""
    response = requests.get(f"{host.url}/api/pid", timeout=90)
    return int(response.text) if response.status_code == HTTPStatus.OK else None


def both(host: HostProcess) -> set[int]:
    """The process ids of two workers."""
    seen: set[int | None] = {None}

    def two_have_answered() -> bool:
        seen.add(pid_if_answered(host))
        return len(seen) == 3

    eventually(two_have_answered)
    return {found for found in seen if found is not None}


def is_gone(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    # In a container whose first process reaps no orphans, they stay as zombies.
    status = Path(f"/proc/{process_id}/status")
    return status.exists() and "State:\tZ" in status.read_text()


class TestEnd:
    def test_lets_running_invocations_finish(self, app: App, serve: Serve) -> None:
        app.write(SLOW)
        host = serve(FUNCTIONS_WORKER_PROCESS_COUNT="2")
        address = urlsplit(host.url)
        with socket.create_connection((address.hostname, address.port), timeout=90) as caller:
            caller.sendall(b"GET /api/slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            app.await_notes(1)

            assert host.terminate() == 0

            assert caller.recv(1000).startswith(b"HTTP/1.1 200 OK")
        assert [note["event"] for note in app.notes] == ["begun", "ended"]
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{host.url}/api/slow", timeout=90)

    def test_by_ctrl_c_is_quiet(self, plain: HostProcess) -> None:
        os.kill(plain.pid, signal.SIGINT)
        eventually(lambda: not plain.is_running)

        assert plain.terminate() == 0
        assert "Traceback" not in plain.logs

    def test_of_the_parent_ends_the_host_and_its_workers(self, app: App) -> None:
        app.write(PID)
        script = f"""
import sys, tempfile
from pathlib import Path
from dev.host import HostProcess
tempfile.tempdir = {str(app.folder)!r}  # it is killed, and so cannot tidy up
host = HostProcess(Path({str(app.folder)!r}), {{"FUNCTIONS_WORKER_PROCESS_COUNT": "2"}})
host.start()
print(host.pid, host.url, flush=True)
sys.stdin.read()
"""
        root = Path(__file__).parents[3]
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            host_pid, url = parent.stdout.readline().split()
            worker_pid = int(requests.get(f"{url}/api/pid", timeout=90).text)
            parent.kill()

        eventually(lambda: is_gone(int(host_pid)) and is_gone(worker_pid))


class TestWorkers:
    def test_take_calls_in_strict_turn_and_are_started_again_when_they_die(self, app: App, serve: Serve) -> None:
        app.write(PID)
        host = serve(FUNCTIONS_WORKER_PROCESS_COUNT="2")
        calls = [pid(host) for _ in range(6)]
        first = set(calls[:2])
        assert len(first) == 2
        assert calls == calls[:2] * 3
        assert host.pid not in first
        assert host.output.count("Listening on ") == 1

        victim = first.pop()
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: is_gone(victim))

        second = both(host)
        assert second > first
        assert victim not in second
        assert host.terminate() == 0
        assert all(is_gone(worker) for worker in second)

    def test_end_when_their_host_is_killed(self, app: App, serve: Serve) -> None:
        app.write(PID)
        host = serve(FUNCTIONS_WORKER_PROCESS_COUNT="2")
        workers = both(host)

        os.kill(host.pid, signal.SIGKILL)

        eventually(lambda: all(is_gone(worker) for worker in workers))

    def test_that_die_fail_what_they_were_at_and_further_calls_wait_for_the_next(self, app: App, serve: Serve) -> None:
        app.write(
            PID
            + """
@app.route("die")
async def die(req: func.HttpRequest) -> func.HttpResponse:
    os._exit(7)
"""
        )
        host = serve()
        first = pid(host)

        response = requests.get(f"{host.url}/api/die", timeout=90)

        assert response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
        host.wait_for_log("code 7")
        if not os.environ.get(FUNCTIONS_HOST):  # another host may not tell when it has seen that
            host.wait_for_log("died (exit code 7); starting it again")
            assert pid(host) != first
        eventually(lambda: pid_if_answered(host) not in {None, first})

    def test_that_die_a_third_time_end_the_host(
        self, app: App, serve: Serve, queue_service: QueueServiceClient, azurite: Azurite, unique_name: Name
    ) -> None:
        app.write(DYING, queues={"visibilityTimeout": "00:00:00"})
        queue = queue_service.create_queue(unique_name("dying"))
        host = serve(AzureWebJobsStorage=azurite.connection_string, QUEUE=queue.queue_name)

        queue.send_message(base64.b64encode(b"kill").decode())

        first, second, third = app.await_notes(3)[:3]
        assert first["time"] < second["time"]
        assert third["time"] - second["time"] >= 9.9
        eventually(lambda: not host.is_running)

    def test_with_a_function_that_takes_too_long_are_replaced(self, app: App, serve: Serve) -> None:
        app.write("note(loaded_by=os.getpid())\n" + PID + HANGING)
        host = serve(AzureFunctionsJobHost__functionTimeout="00:00:02")
        (first,) = (note["loaded_by"] for note in app.notes)  # a call could take too long as well
        with ThreadPoolExecutor(2) as callers:
            began = time.monotonic()
            neighbour = callers.submit(requests.get, f"{host.url}/api/hang?after=1", timeout=90)
            slow = callers.submit(requests.get, f"{host.url}/api/hang", timeout=90)

            assert slow.result().status_code == HTTPStatus.INTERNAL_SERVER_ERROR
            # A request that the worker was at when it was replaced fails.
            eventually(lambda: requests.get(f"{host.url}/api/pid", timeout=90).text not in {"", str(first)})
            assert time.monotonic() - began >= 3.9
            assert neighbour.result().status_code == HTTPStatus.INTERNAL_SERVER_ERROR
        assert all("loaded_by" in note for note in app.notes)

    @pytest.mark.own_host("the real one has one group; several of them make several")
    def test_of_each_group_share_nothing(
        self, app: App, queue_service: QueueServiceClient, azurite: Azurite, unique_name: Name
    ) -> None:
        app.write(PID + OTHER + QUEUE + QUEUE.replace("work", "second").replace("%Q", "%SECOND_Q"))
        queues = [queue_service.create_queue(unique_name("group")) for _ in range(2)]
        settings = {
            "AzureWebJobsStorage": azurite.connection_string,
            "QUEUE": queues[0].queue_name,
            "SECOND_QUEUE": queues[1].queue_name,
        }
        with HostProcess(app.folder, app.environment | settings, groups=True) as host:
            for queue in queues:
                queue.send_message(base64.b64encode(b"x").decode())
            of_queues = {note["pid"] for note in app.await_notes(2)}
            of_http = pid(host)
            assert int(requests.get(f"{host.url}/api/other", timeout=90).text) == of_http
            assert len(of_queues | {of_http}) == 3

            os.kill(of_http, signal.SIGKILL)
            queues[0].send_message(base64.b64encode(b"y").decode())

            assert app.await_notes(3)[2]["pid"] in of_queues
            assert pid(host) != of_http


class TestHostProcess:
    def test_starts_again_on_the_same_port_which_nobody_else_could_take(self, plain: HostProcess) -> None:
        first_url, first_pid = plain.url, pid(plain)

        plain.kill()
        if sys.platform == "linux":  # see `held_port`
            with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
                other.bind((HOST, urlsplit(first_url).port))
        plain.start()

        assert plain.url == first_url
        assert pid(plain) != first_pid

    def test_that_could_not_be_started_again_is_so_the_next_time(
        self, plain: HostProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, ends = pid(plain), plain.ends
        os.kill(plain.pid, signal.SIGKILL)
        eventually(lambda: not plain.is_running)
        with monkeypatch.context() as impatient:
            impatient.setattr(plain, "_start_seconds", 0.0)
            with pytest.raises(HostStartError):
                plain.start_again_if_ended()

        assert plain.start_again_if_ended()

        assert pid(plain) != first
        assert plain.ends == ends + 1
        assert not plain.start_again_if_ended()
        plain.kill()
        assert not plain.start_again_if_ended()

    def test_passes_on_nothing_of_this_process(self, plain: HostProcess) -> None:
        assert requests.get(f"{plain.url}/api/sees", timeout=90).json() == [None, "yes"]

    def test_says_why_it_did_not_start(self, app: App) -> None:
        app.write(PID)
        with socket.create_server((HOST, 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(HostStartError, match=rf"(?i){port}\b.*address already in use"):
                HostProcess(app.folder, {}, port=port).start()

    @pytest.mark.own_host("another host is given two minutes to start")
    def test_does_not_wait_for_ever(self, app: App) -> None:
        app.write("time.sleep(60)")
        host = HostProcess(app.folder, {}, start_seconds=0.5)

        with pytest.raises(HostStartError, match=r"was not ready within 0\.5 seconds"):
            host.start()

        assert not host.is_running
