"""Timer triggers."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
import requests

from dev.host import HostProcess, HostStartError, timers
from dev.host.messages import TypedData
from dev.host.timers import TimerListener, TimerStore
from dev.host.worker import Function
from tests.integration.host.apps import App, eventually

TICKING = """
@app.timer_trigger("timer", schedule="{schedule}")
async def tick(timer: func.TimerRequest) -> None:
    note(past_due=timer.past_due, status=timer.schedule_status, time=time.time())
"""
RARELY = "0 0 0 29 2 *"
EVERY_MINUTE = "0 * * * * *"


def ticking(schedule: str) -> str:
    return TICKING.format(schedule=schedule)


EACH_SECOND = """
running = 0


@app.timer_trigger("timer", schedule="* * * * * *")
async def tick(timer: func.TimerRequest) -> None:
    note(function="tick", past_due=timer.past_due, status=timer.schedule_status, time=time.time())
    raise RuntimeError("not now")


@app.timer_trigger("timer", schedule="* * * * * *")
async def slow(timer: func.TimerRequest) -> None:
    global running
    running += 1
    note(function="slow", running=running)
    await asyncio.sleep(0.6)
    running -= 1


@app.timer_trigger("timer", schedule="0 0 0 29 2 *", run_on_startup=True)
async def first(timer: func.TimerRequest) -> None:
    note(function="first", past_due=timer.past_due, status=timer.schedule_status)


@app.timer_trigger("timer", schedule="0 0 0 29 2 *")
async def rare(timer: func.TimerRequest) -> None:
    note(function="rare", past_due=timer.past_due)
"""


@pytest.fixture(scope="module")
def each_second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[App, HostProcess]]:
    app = App(tmp_path_factory.mktemp("timers"))
    app.write(EACH_SECOND)
    with HostProcess(app.folder, app.environment) as host:
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
        last = datetime.fromisoformat(second["status"]["Last"])
        due = datetime.fromisoformat(second["status"]["Next"])
        assert due - last.replace(microsecond=0) == timedelta(seconds=1)
        assert last.timestamp() <= first["time"] < second["time"]
        assert due.timestamp() <= second["time"]
        assert "tick failed: RuntimeError: not now" in host.logs

    def test_lets_one_invocation_run_at_a_time(self, each_second: tuple[App, HostProcess]) -> None:
        app, host = each_second
        before = len(notes_of(app, "slow", 1))
        for _ in range(2):
            requests.post(f"{host.url}/admin/functions/slow", json={}, timeout=10)

        assert {note["running"] for note in notes_of(app, "slow", before + 3)} == {1}

    def test_with_run_on_startup_begins_with_the_host(self, each_second: tuple[App, HostProcess]) -> None:
        (first,) = notes_of(each_second[0], "first", 1)

        assert not first["past_due"]
        assert first["status"]["Last"] == "0001-01-01T00:00:00+00:00"

    async def test_counts_from_when_the_host_is_ready(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """However long the app took to load: only what a kept status says was missed is past due."""
        stopping = asyncio.Event()
        invoked: list[dict[str, Any]] = []

        class Recorder:
            async def invoke(self, _function: Function, data: TypedData) -> None:
                invoked.append(json.loads(data.json))
                stopping.set()

        class AMinuteLater(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                return datetime.now(tz) + timedelta(minutes=1)

        function = Function(name="tick", trigger={"name": "timer", "schedule": "* * * * * *"})
        listener = TimerListener(Recorder(), function, TimerStore(tmp_path / "timers.json"), stopping=stopping)  # type: ignore[arg-type]
        monkeypatch.setattr(timers, "datetime", AMinuteLater)

        await listener.run()

        assert [timer["IsPastDue"] for timer in invoked] == [False]


class TestAdmin:
    def test_fires_now(self, each_second: tuple[App, HostProcess]) -> None:
        app, host = each_second
        notes_of(app, "first", 1)
        assert notes_of(app, "rare", 0) == []

        response = requests.post(f"{host.url}/admin/functions/rare", json={}, timeout=10)

        assert response.status_code == 202
        assert not notes_of(app, "rare", 1)[0]["past_due"]

    def test_takes_json_only(self, each_second: tuple[App, HostProcess]) -> None:
        host = each_second[1]

        assert requests.post(f"{host.url}/admin/functions/rare", data="{", timeout=10).status_code == 400


class TestMonitor:
    def kept(self, state: Path, *, schedule: str, due: timedelta) -> None:
        now = datetime.now(UTC)
        status = {
            "schedule": schedule,
            "last": (now - timedelta(days=1)).isoformat(),
            "next": (now + due).isoformat(),
            "last_updated": (now - timedelta(days=1)).isoformat(),
        }
        state.mkdir()
        (state / "timers.json").write_text(json.dumps({"tick": status}))

    def test_fires_what_was_missed_as_past_due_and_once(self, app: App, tmp_path: Path) -> None:
        app.write(ticking(RARELY))
        state = tmp_path / "state"
        self.kept(state, schedule=RARELY, due=timedelta(hours=-1))

        with HostProcess(app.folder, app.environment, state=state) as host:
            assert app.await_notes(1)[0]["past_due"]
            due_again = '"next":"2028-02-29T00:00:00Z"'
            eventually(lambda: due_again in (state / "timers.json").read_text())
            host.terminate()
            host.start()
            host.terminate()

        assert len(app.notes) == 1

    @pytest.mark.parametrize(("schedule", "due"), [(RARELY, timedelta(hours=1)), (EVERY_MINUTE, timedelta(hours=-1))])
    def test_fires_nothing_that_is_not_due_or_of_another_schedule(
        self, app: App, tmp_path: Path, schedule: str, due: timedelta
    ) -> None:
        app.write(ticking(RARELY))
        state = tmp_path / "state"
        self.kept(state, schedule=schedule, due=due)

        with HostProcess(app.folder, app.environment, state=state) as host:
            host.terminate()

        assert app.notes == []

    def test_that_is_damaged_ends_the_host(self, app: App, tmp_path: Path) -> None:
        app.write(ticking(RARELY))
        (tmp_path / "timers.json").write_text("{")

        with (
            pytest.raises(HostStartError, match=r"timers\.json is damaged"),
            HostProcess(app.folder, app.environment, state=tmp_path) as host,
        ):
            host.wait_for_log("this is never logged")
