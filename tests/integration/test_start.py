"""`run.py start` and those commands that find it: where it listens, what it keeps, how it is spoken to."""

import os
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.storage.queue import QueueClient

from dev import start, trigger
from dev.azurite import Azurite, AzuriteError
from dev.manage import operators_environment
from dev.ports import HOST, held_port
from dev.running import NotRunningError, Running
from dev.simulator.payloads import Kind
from dev.stack import FREE, WELL_KNOWN


class TestPorts:
    def test_are_the_well_known_ones_or_free(self) -> None:
        assert start.ports_of(None, free=False) == WELL_KNOWN
        assert start.ports_of(None, free=True) == FREE
        assert start.ports_of(8080, free=True) == FREE._replace(host=8080)
        assert start.ports_of(0, free=False) == WELL_KNOWN._replace(host=0)

    def test_one_that_is_taken_is_named_with_what_to_do(self) -> None:
        with socket.create_server((HOST, 0)) as other:
            port = other.getsockname()[1]
            for ports in (
                FREE._replace(host=port),
                FREE._replace(simulator=port),
                FREE._replace(storage=FREE.storage._replace(queue=port)),
            ):
                problem = start.conflict(ports)
                assert problem is not None
                assert f"{HOST}:{port}" in problem
                assert "--free-ports" in problem
                assert "\n" not in problem

    def test_free_ones_are_never_taken(self) -> None:
        assert start.conflict(FREE) is None


class TestClearing:
    def test_takes_what_is_old_and_leaves_the_rest_where_it_was(
        self, azurite: Azurite, unique_name: Callable[[str], str]
    ) -> None:
        with QueueClient.from_connection_string(azurite.connection_string, unique_name("events")) as queue:
            queue.create_queue()
            for number in range(40):
                queue.send_message(str(number))
            now = datetime.now(UTC)
            assert start.clear_old(queue, now - timedelta(minutes=10)) == 0
            assert len(queue.peek_messages(32)) == 32
            assert start.clear_old(queue, now + timedelta(minutes=10)) == 40
            assert queue.peek_messages(1) == []


class TestRecord:
    def test_is_there_for_as_long_as_what_it_tells_of_and_for_its_owner_alone(self, tmp_path: Path) -> None:
        record = tmp_path / "kept" / "start.json"
        with socket.create_server((HOST, 0)) as control:
            told = Running({"CLIENT_STATE": "s"}, f"http://{HOST}:{control.getsockname()[1]}", process=1)
            with told.recorded(record):
                assert Running.find(record) == told
                if os.name == "posix":
                    assert record.stat().st_mode & 0o077 == 0
            with pytest.raises(NotRunningError, match=r"run\.py start"):
                Running.find(record)

    def test_of_one_that_was_killed_is_not_believed(self, tmp_path: Path) -> None:
        record = tmp_path / "start.json"
        with (
            held_port() as nobody,
            Running({}, f"http://{HOST}:{nobody}", process=1).recorded(record),
            pytest.raises(NotRunningError),
        ):
            Running.find(record)

    def test_of_one_that_came_later_stays(self, tmp_path: Path) -> None:
        record = tmp_path / "start.json"
        with Running({}, "http://127.0.0.1:1", process=1).recorded(record):
            later = Running({}, "http://127.0.0.1:2", process=2).recorded(record)
            later.__enter__()
        assert record.exists()


def test_manage_goes_by_the_stack_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_ID", "a developer's own")
    monkeypatch.setenv("NO_COLOR", "1")
    found = operators_environment({"CLIENT_STATE": "s"}, tmp_path / "start.json")
    assert "AZURE_CLIENT_ID" not in found
    assert found["CLIENT_STATE"] == "s"
    assert found["NO_COLOR"] == "1"
    assert found["SWITCHBOARD_SETTINGS"] == str(tmp_path / "start.json")


class TestTrigger:
    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["run.py trigger", *arguments])
        return trigger.main()

    def test_without_a_kind_lists_them_all_and_their_queues(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch) == 0
        listed = dict(line.split() for line in capsys.readouterr().out.splitlines())
        assert set(listed) == set(Kind)
        assert listed["emergency-flat"] == "emergency-call-events"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("call-begun",), "call-started"),
            (("call-started", "--participants", "3"), "roster-joined"),
            (("roster-joined", "--participants", "none"), "number"),
        ],
    )
    def test_says_what_can_be_where_something_cannot(
        self,
        arguments: tuple[str, ...],
        said: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        with pytest.raises(SystemExit) as refused:
            self.run(monkeypatch, *arguments)
        assert refused.value.code == 2
        assert said in capsys.readouterr().err


def test_damaged_packages_of_node_are_named_with_what_mends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "azurite.js"
    script.write_text("require('args')")
    monkeypatch.setattr("dev.azurite._SCRIPT", script)
    with (
        pytest.raises(AzuriteError, match=r"node_modules is damaged.*args.*python3 run\.py setup"),
        Azurite.start(tmp_path / "data"),
    ):
        pass


def test_the_readme_shows_the_notification_that_is_accepted() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"curl -d '{start.notification()}' http://{HOST}:{WELL_KNOWN.host}/api/notifications" in readme
