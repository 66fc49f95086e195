"""Timer triggers, over real processes and storage; tests/replay holds what the listener does in detail."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobClient, ContainerClient

from dev.azurite import Azurite
from dev.host import HostProcess
from dev.host.process import FUNCTIONS_HOST
from tests.integration.host.apps import App, eventually

TIMERS = """
running = 0


@app.timer_trigger("timer", schedule="* * * * * *")
async def tick(timer: func.TimerRequest) -> None:
    note(function="tick", past_due=timer.past_due, status=timer.schedule_status)
    raise RuntimeError("not now")


@app.timer_trigger("timer", schedule="0 0 0 29 2 *", run_on_startup=True)
async def first(timer: func.TimerRequest) -> None:
    note(function="first", past_due=timer.past_due, status=timer.schedule_status)


@app.retry(strategy="fixed_delay", max_retry_count="1", delay_interval="00:00:01")
@app.timer_trigger("timer", schedule="0 0 0 29 2 *", run_on_startup=True)
async def stubborn(timer: func.TimerRequest, context: func.Context) -> None:
    retry = context.retry_context
    note(function="stubborn", retry=retry.retry_count, most=retry.max_retry_count)
    raise RuntimeError("not ever")


@app.timer_trigger("timer", schedule="0 0 0 29 2 *")
async def rare(timer: func.TimerRequest) -> None:
    global running
    running += 1
    note(function="rare", past_due=timer.past_due, status=timer.schedule_status)
    while running < 2:
        await asyncio.sleep(0.01)
    note(function="both", running=running)


@app.timer_trigger("timer", schedule="01:00:00")
async def missed(timer: func.TimerRequest) -> None:
    note(function="missed", past_due=timer.past_due, status=timer.schedule_status)


@app.timer_trigger("timer", schedule="0 0 0 29 2 *")
async def damaged(timer: func.TimerRequest) -> None:
    note(function="damaged")


@app.timer_trigger("timer", schedule="0 0 0 29 2 *")
async def late(timer: func.TimerRequest) -> None: ...


@app.timer_trigger("timer", schedule="%MISSING%")
async def without(timer: func.TimerRequest) -> None: ...


@app.timer_trigger("timer", schedule="%WRONG%")
async def wrong(timer: func.TimerRequest) -> None: ...


@app.timer_trigger("timer", schedule="%EMPTY%")
async def empty(timer: func.TimerRequest) -> None: ...
"""
ALONE = """
@app.timer_trigger("timer", schedule="0 0 0 29 2 *")
async def alone(timer: func.TimerRequest) -> None: ...
"""
LONG_AGO = datetime.now(UTC) - timedelta(hours=2)


@dataclass(frozen=True)
class Served:
    """An app that is served to all tests of the module, and the folder of its timers' status."""

    app: App
    host: HostProcess
    settings: dict[str, str]
    container: ContainerClient
    host_id: str

    def status(self, function: str) -> BlobClient:
        return self.container.get_blob_client(f"timers/{self.host_id}/Host.Functions.{function}/status")

    def notes_of(self, function: str, number: int = 1) -> list[dict[str, Any]]:
        """What a function has noted, once it is so many notes."""

        def found() -> list[dict[str, Any]]:
            return [note for note in self.app.notes if note["function"] == function]

        eventually(lambda: len(found()) >= number)
        return found()


@pytest.fixture(scope="module")
def served(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    app = App(tmp_path_factory.mktemp("timers"))
    settings = {
        "AzureWebJobsStorage": azurite.connection_string,
        "AzureFunctionsWebHost__hostId": app.name[:30],
        "WRONG": "0 0 9 * * Mondays",
        "EMPTY": "",
    }
    host = HostProcess(app.folder, app.environment | settings)
    with ContainerClient.from_connection_string(azurite.connection_string, "azure-webjobs-hosts") as container:
        with contextlib.suppress(ResourceExistsError):
            container.create_container()
        host_id = id_of(host, app, container) if os.environ.get(FUNCTIONS_HOST) else app.name[:30]
        app.write(TIMERS)
        served = Served(app, host, settings, container, host_id)
        status = {"Last": LONG_AGO, "Next": LONG_AGO + timedelta(hours=1), "LastUpdated": LONG_AGO}
        served.status("missed").upload_blob(json.dumps({name: time.isoformat() for name, time in status.items()}))
        for function in ("damaged", "late"):
            served.status(function).upload_blob(b"{")
        with host:
            yield served


def id_of(host: HostProcess, app: App, container: ContainerClient) -> str:
    """The id that a host gives itself for an app's folder, as it shows where the host writes."""
    app.write(ALONE)
    found: list[str] = []

    def is_shown() -> bool:
        found[:] = [blob.name.split("/")[1] for blob in container.list_blobs() if "Functions.alone/" in blob.name]
        return bool(found)

    with host:
        eventually(is_shown)
    return found[0]


class TestSchedule:
    def test_is_kept_though_the_function_fails(self, served: Served) -> None:
        first, second = served.notes_of("tick", 2)[:2]

        assert not first["past_due"]
        assert not second["past_due"]
        # Nobody keeps the status of what fires so often.
        assert first["status"] == second["status"] == {}
        served.host.wait_for_log("RuntimeError: not now")

    def test_with_run_on_startup_begins_with_the_host(self, served: Served) -> None:
        (first,) = served.notes_of("first")

        assert not first["past_due"]
        assert first["status"]["Last"].startswith("0001-01-01")
        assert "-02-29T00:00:00" in first["status"]["Next"]

    def test_with_a_retry_policy_calls_the_function_again_for_the_same_occurrence(self, served: Served) -> None:
        tries = served.notes_of("stubborn", 2)

        assert [(each["retry"], each["most"]) for each in tries] == [(0, 1), (1, 1)]


class TestAdmin:
    def test_fires_now_and_beside_what_runs(self, served: Served) -> None:
        served.notes_of("first")
        assert served.notes_of("rare", 0) == []

        for _ in range(2):
            served.host.start_function("rare")

        assert [note["past_due"] for note in served.notes_of("rare", 2)] == [False, False]
        # What the host has written down when it started.
        assert "-02-29T00:00:00" in served.notes_of("rare", 2)[0]["status"]["Next"]
        assert served.notes_of("both", 2)[0]["running"] == 2


class TestStatus:
    def test_fires_what_was_missed_as_past_due_and_once(self, served: Served) -> None:
        (note,) = served.notes_of("missed")
        assert note["past_due"]
        assert datetime.fromisoformat(note["status"]["Last"]) == LONG_AGO
        eventually(lambda: read(served.status("missed"))["Last"] != LONG_AGO.isoformat())
        assert len(served.notes_of("missed")) == 1

    def test_of_a_new_timer_is_written_at_the_start(self, served: Served) -> None:
        eventually(lambda: exists(served.status("rare")))

        assert "-02-29T00:00:00" in read(served.status("rare"))["Next"]

    def test_that_is_damaged_stops_that_timer(self, served: Served) -> None:
        served.host.wait_for_log("The listener for function 'Functions.damaged' was unable to start")

        assert served.host.is_running
        assert served.notes_of("damaged", 0) == []
        assert served.status("damaged").download_blob().readall() == b"{"

    @pytest.mark.own_host("the real one, in this version, never lets go of the lock of a timer that could not start")
    def test_that_was_damaged_is_written_again_once_it_is_gone(self, served: Served) -> None:
        served.host.wait_for_log("The listener for function 'Functions.late' was unable to start")

        served.status("late").delete_blob()

        eventually(lambda: exists(served.status("late")))

    def test_is_kept_by_one_host_alone(self, served: Served, app: App) -> None:
        served.notes_of("first")
        served.notes_of("tick")

        with HostProcess(served.app.folder, app.environment | served.settings) as standby:
            standby.start_function("first")
            # By hand it can be called there; at its start it was not, because the first host has the lock.
            app.await_notes(1)

        assert [note["function"] for note in app.notes] == ["first"]
        assert len(served.notes_of("first")) == 1


class TestDisabled:
    @pytest.mark.parametrize("function", ["without", "wrong", "empty"])
    def test_is_the_function_whose_schedule_is_missing_or_wrong_and_no_other(
        self, served: Served, function: str
    ) -> None:
        served.notes_of("tick")

        assert function in served.host.logs
        url = f"{served.host.url}/admin/functions/{function}"
        # Started by hand it is taken for one that runs; what comes of it stands in the log.
        assert requests.post(url, json={}, headers=served.host.key_header, timeout=90).status_code == 202


def exists(blob: BlobClient) -> bool:
    try:
        return bool(read(blob))
    except ResourceNotFoundError:
        return False


def read(blob: BlobClient) -> dict[str, str]:
    status: dict[str, str] = json.loads(blob.download_blob().readall())
    return status
