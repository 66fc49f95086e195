"""Timer triggers, over real processes and storage; tests/replay holds what the listener does in detail."""

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobServiceClient

from dev.azurite import Azurite
from dev.host import HostProcess
from tests.integration.host.apps import App, eventually

type Serve = Callable[..., HostProcess]

RARELY = "0 0 0 29 2 *"
TICKING = """
@app.timer_trigger("timer", schedule="%SCHEDULE%")
async def tick(timer: func.TimerRequest) -> None:
    note(past_due=timer.past_due, status=timer.schedule_status)
"""
EACH_SECOND = """
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
"""


@pytest.fixture(scope="module")
def each_second(tmp_path_factory: pytest.TempPathFactory, azurite: Azurite) -> Iterator[tuple[App, HostProcess]]:
    app = App(tmp_path_factory.mktemp("timers"))
    app.write(EACH_SECOND)
    with HostProcess(app.folder, app.environment | {"AzureWebJobsStorage": azurite.connection_string}) as host:
        yield app, host


def notes_of(app: App, function: str, count: int) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        return [note for note in app.notes if note["function"] == function]

    eventually(lambda: len(found()) >= count)
    return found()


class TestSchedule:
    def test_is_kept_though_the_function_fails(self, each_second: tuple[App, HostProcess]) -> None:
        app, host = each_second

        first, second = notes_of(app, "tick", 2)[:2]

        assert not first["past_due"]
        assert not second["past_due"]
        # Nobody keeps the status of what fires so often.
        assert first["status"] == second["status"] == {}
        host.wait_for_log("RuntimeError: not now")

    def test_with_run_on_startup_begins_with_the_host(self, each_second: tuple[App, HostProcess]) -> None:
        (first,) = notes_of(each_second[0], "first", 1)

        assert not first["past_due"]
        assert first["status"]["Last"].startswith("0001-01-01")
        assert "-02-29T00:00:00" in first["status"]["Next"]

    def test_with_a_retry_policy_calls_the_function_again_for_the_same_occurrence(
        self, each_second: tuple[App, HostProcess]
    ) -> None:
        app, _ = each_second

        tries = notes_of(app, "stubborn", 2)

        assert [(each["retry"], each["most"]) for each in tries] == [(0, 1), (1, 1)]


class TestAdmin:
    def test_fires_now_and_beside_what_runs(self, each_second: tuple[App, HostProcess]) -> None:
        app, host = each_second
        notes_of(app, "first", 1)
        assert notes_of(app, "rare", 0) == []

        for _ in range(2):
            host.start_function("rare")

        assert [note["past_due"] for note in notes_of(app, "rare", 2)] == [False, False]
        # What the host has written down when it started.
        assert "-02-29T00:00:00" in notes_of(app, "rare", 2)[0]["status"]["Next"]
        assert notes_of(app, "both", 2)[0]["running"] == 2


@pytest.mark.own_host  # another host may have an id of its own, and with it other blobs
class TestStatus:
    @pytest.fixture
    def settings(self, app: App, azurite: Azurite, unique_name: Callable[[str], str]) -> dict[str, str]:
        app.write(TICKING)
        return {
            "AzureWebJobsStorage": azurite.connection_string,
            "AzureFunctionsWebHost__hostId": unique_name("h")[:30],
            "SCHEDULE": RARELY,
        }

    @pytest.fixture
    def blob(self, settings: dict[str, str]) -> Iterator[BlobClient]:
        with BlobServiceClient.from_connection_string(settings["AzureWebJobsStorage"]) as service:
            container = service.get_container_client("azure-webjobs-hosts")
            with contextlib.suppress(ResourceExistsError):
                container.create_container()
            host_id = settings["AzureFunctionsWebHost__hostId"]
            yield container.get_blob_client(f"timers/{host_id}/Host.Functions.tick/status")

    def test_fires_what_was_missed_as_past_due_and_once(
        self, app: App, serve: Serve, settings: dict[str, str], blob: BlobClient
    ) -> None:
        last = datetime.now(UTC) - timedelta(hours=2)
        status = {"Last": last, "Next": last + timedelta(hours=1), "LastUpdated": last}
        blob.upload_blob(json.dumps({name: time.isoformat() for name, time in status.items()}))
        settings["SCHEDULE"] = "01:00:00"

        host = serve(**settings)
        (note,) = app.await_notes(1)
        eventually(lambda: read(blob)["Last"] != last.isoformat())
        host.terminate()
        host.start()
        host.terminate()

        assert note["past_due"]
        assert datetime.fromisoformat(note["status"]["Last"]) == last
        assert len(app.notes) == 1

    def test_of_a_new_timer_is_written_at_the_start(
        self, serve: Serve, settings: dict[str, str], blob: BlobClient
    ) -> None:
        serve(**settings)

        eventually(lambda: exists(blob))
        assert "-02-29T00:00:00" in read(blob)["Next"]

    def test_that_is_damaged_stops_that_timer_until_it_is_gone(
        self, app: App, serve: Serve, settings: dict[str, str], blob: BlobClient
    ) -> None:
        blob.upload_blob(b"{")

        host = serve(**settings)
        host.wait_for_log("The listener for function 'Functions.tick' was unable to start")

        assert host.is_running
        assert app.notes == []
        assert blob.download_blob().readall() == b"{"

        blob.delete_blob()
        eventually(lambda: exists(blob))

    def test_is_kept_by_one_host_alone(
        self, app: App, tmp_path: Path, serve: Serve, settings: dict[str, str], blob: BlobClient
    ) -> None:
        serve(**settings)
        eventually(lambda: exists(blob))
        other = App(tmp_path / "other")
        other.folder.mkdir()
        other.write(TICKING.replace('"%SCHEDULE%"', '"%SCHEDULE%", run_on_startup=True'))

        with HostProcess(other.folder, other.environment | settings) as standby:
            standby.start_function("tick")
            # By hand it can be called there; at its start it was not, because the first host has the lock.
            other.await_notes(1)

        assert len(other.notes) == 1
        assert app.notes == []


class TestDisabled:
    @pytest.mark.parametrize("settings", [{}, {"SCHEDULE": "0 0 9 * * Mondays"}, {"SCHEDULE": ""}])
    def test_is_the_function_whose_schedule_is_missing_or_wrong_and_no_other(
        self, app: App, serve: Serve, azurite: Azurite, settings: dict[str, str]
    ) -> None:
        app.write(
            TICKING
            + """
@app.timer_trigger("timer", schedule="* * * * * *")
async def well(timer: func.TimerRequest) -> None:
    note(function="well")
"""
        )

        host = serve(AzureWebJobsStorage=azurite.connection_string, **settings)

        assert app.await_notes(2)[0] == {"function": "well"}
        assert "tick" in host.logs
        assert (
            requests.post(f"{host.url}/admin/functions/tick", json={}, headers=host.key_header, timeout=90).status_code
            == 404
        )


def exists(blob: BlobClient) -> bool:
    try:
        return bool(read(blob))
    except ResourceNotFoundError:
        return False


def read(blob: BlobClient) -> dict[str, str]:
    status: dict[str, str] = json.loads(blob.download_blob().readall())
    return status
