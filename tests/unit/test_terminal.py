"""What is printed for people and for programs, at what width, and how a command ends."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from commands import terminal
from commands.quarantine import _whole
from commands.terminal import again_and_again, console, print_table, program
from manage import app as manage
from shared.values.errors import UnavailableError

MANAGE = str(Path(__file__).parents[2] / "manage.py")
ID = "c74cbb7f-2448-4ed7-9e82-38e2161cdf89"
LONG = "communications/onlineMeetings(joinWebUrl='https://teams.example/" + "x" * 200 + "')/meetingCallEvents"


@pytest.mark.parametrize("name", ["Site [north]", "Site [/red]", "[bold]Site[/bold]"])
def test_names_are_shown_to_the_letter(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy may be called so, and an operator is asked about it before it is deleted."""
    print_table(["resource"], [[name]])
    console(stderr=True).print(name)
    captured = capsys.readouterr()
    assert (captured.out.split("\n")[1].rstrip(), captured.err) == (name, f"{name}\n")


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    for name, value in {"COLUMNS": "80", "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)


ROWS = [(ID, "meetingCallEvents", "23 h 44 min", LONG), (ID[::-1], "presence", "57 min", "communications/presences/1")]


def test_piped_each_row_is_a_line_and_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "kind", "left", "resource"), ROWS, below=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["id", "kind", "left", "resource"],
        [ID, "meetingCallEvents", "23", "h", "44", "min", LONG],
        [ID[::-1], "presence", "57", "min", "communications/presences/1"],
    ]


@pytest.mark.usefixtures("narrow")
def test_on_a_narrow_terminal_the_long_column_gets_lines_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "kind", "left", "resource"), ROWS, below=3)
    lines = capsys.readouterr().out.splitlines()
    assert [bool(line.startswith(" ")) for line in lines] == [False, True] * 3
    for row, (first, second) in zip(ROWS, zip(lines[2::2], lines[3::2], strict=True), strict=True):
        assert row[0] in first
        assert len(first) <= 80
        assert second == f"    {row[3]}"


async def test_watching_shows_it_anew_every_five_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    loop, shown = asyncio.get_running_loop(), []

    async def show() -> None:
        shown.append(loop.time())
        if len(shown) == 3:
            raise UnavailableError("patience", reason="over")

    with pytest.raises(UnavailableError):
        await again_and_again(show, watch=True)
    assert [round(at - shown[0]) for at in shown] == [0, 5, 10]
    await again_and_again(lambda: asyncio.sleep(0), watch=False)
    assert capsys.readouterr().out == ""


class TestUsage:
    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(manage, list(arguments))

    @pytest.mark.parametrize("command", [(), ("subscriptions",), ("quarantine", "list"), ("doctor",)])
    def test_h_is_help(self, command: tuple[str, ...]) -> None:
        assert self.run(*command, "-h").stdout == self.run(*command, "--help").stdout != ""

    def test_version(self) -> None:
        assert re.fullmatch(r"Switchboard \d+\.\d+\.\d+\n", self.run("--version").stdout)

    def test_completion_can_be_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHELL", "/bin/bash")
        monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
        assert "complete" in self.run("--show-completion", "bash").stdout

    def test_every_command_shows_an_example_of_itself_and_takes_json(self) -> None:
        for path in commands():
            shown = self.run(*path, "--help").stdout
            assert f"  python manage.py {' '.join(path)}" in shown, path
            assert "--json" in shown, path

    @pytest.mark.parametrize(
        "arguments",
        [
            ("quarantine", "list", "--nonsense"),
            ("quarantine", "replay"),
            ("subscriptions", "delete", "x"),
            ("nothing",),
        ],
    )
    def test_wrong_usage_is_json_too_where_that_is_asked_for(self, arguments: tuple[str, ...]) -> None:
        result = self.run(*arguments, "--json")
        assert (result.exit_code, json.loads(result.stdout)["error"]["reason"]) == (2, "usage")
        assert self.run(*arguments).exit_code == 2

    def test_a_command_that_fails_says_so_in_json(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AzureWebJobsStorage", raising=False)
        monkeypatch.setenv("SWITCHBOARD_SETTINGS", "/nowhere.json")
        result = self.run("quarantine", "list", "--json")
        assert (result.exit_code, json.loads(result.stdout)["error"]["reason"]) == (1, "settings")


class TestStart:
    def test_help_waits_for_nothing_that_is_slow_to_import(self) -> None:
        command = [sys.executable, "-X", "importtime", MANAGE, "subscriptions", "--help"]
        done = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
        assert "typer" in imported
        assert not imported & {"azure", "aiohttp", "cryptography", "msal", "requests", "shared"}

    def test_outside_its_environment_it_says_in_one_line_what_to_run(self) -> None:
        done = subprocess.run([sys.executable, "-S", MANAGE, "doctor"], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert ".venv/bin/python manage.py" in done.stderr


def commands() -> list[tuple[str, ...]]:
    """The path of each command."""
    root = typer.main.get_command(manage)
    paths: list[tuple[str, ...]] = []
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        paths += [(name,)] if below is None else [(name, sub) for sub in below]
    return paths


class TestPrefix:
    NAMES = ("raw-notifications/4f2a.json", "raw-notifications/4f3b.json", "raw-emergency/9.json")

    @pytest.mark.parametrize(
        ("wanted", "name"),
        [
            ("raw-notifications/4f2a.json", "raw-notifications/4f2a.json"),
            ("raw-notifications/4f2", "raw-notifications/4f2a.json"),
            ("4f3", "raw-notifications/4f3b.json"),
            ("raw-e", "raw-emergency/9.json"),
            ("none", "none"),
        ],
    )
    def test_the_beginning_of_a_name_is_enough(self, wanted: str, name: str) -> None:
        assert _whole(wanted, self.NAMES) == name

    @pytest.mark.parametrize("wanted", ["raw-", "4f", ""])
    def test_one_that_fits_several_is_refused(self, wanted: str) -> None:
        with pytest.raises(typer.BadParameter, match="entries begin with"):
            _whole(wanted, self.NAMES)


def test_asking_and_nobody_there_is_wrong_usage() -> None:
    app = program("x")

    @app.command()
    def act(yes: Annotated[bool, typer.Option("--yes")] = False) -> None:
        terminal.confirm("Sure?", yes=yes, as_json=False)

    assert CliRunner().invoke(app, ["act"]).exit_code == 2
    assert CliRunner().invoke(app, ["act", "--yes"]).exit_code == 0
