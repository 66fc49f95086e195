"""run.py: what it decides, without setting anything up."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import run


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(path: Path, prints: str, *, exit_code: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\nexit {exit_code}\n")
    path.chmod(0o755)
    return path


class TestParse:
    @pytest.mark.parametrize("arguments", [["test", "-k", "a or b", "--lf"], ["demo", "--help"]])
    def test_arguments_after_the_command_are_passed_on_untouched(self, arguments: list[str]) -> None:
        assert run.parse(arguments) == (arguments[0], arguments[1:])

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            ([], 2, r".*python3 run\.py demo.*"),
            (["deploy"], 2, r".*deploy.*"),
            (["--version"], 0, r"Switchboard \d+\.\d+\.\d+\n"),
        ],
    )
    def test_what_is_no_command_is_answered(
        self, arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            run.parse(arguments)
        assert ended.value.code == code
        told = capsys.readouterr()
        assert re.fullmatch(said, told.err if code else told.out, re.DOTALL)


@pytest.mark.parametrize(
    ("version", "new_enough"),
    [
        *((version, True) for version in ("3.13.0\n", "3.14.2", "3.100.0", "4.0.0")),
        *((version, False) for version in (None, "", "3.9.18", "3.12.11", "2.7.18", "3.13", "pyenv: not found")),
    ],
)
def test_versions_that_are_new_enough(version: str | None, new_enough: bool) -> None:
    assert run.is_new_enough(version) is new_enough


@pytest.mark.parametrize(("version", "major"), [("v20.11.1\n", 20), ("v8.0.0", 8), ("", 0), (None, 0), ("x", 0)])
def test_node_major(version: str | None, major: int) -> None:
    assert run.node_major(version) == major


@pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")
class TestFindPython:
    def test_this_interpreter_comes_first(self, path_folder: Path, tmp_path: Path) -> None:
        program(path_folder / "python3", "")
        first, second = run.python_candidates(tmp_path)
        assert Path(first[0]).resolve() == Path(sys.executable).resolve()
        assert second == [str(path_folder / "python3")]

    def test_pyenv_offers_its_newest_patch_first_and_pre_releases_last(self, path_folder: Path, tmp_path: Path) -> None:
        for version in ("3.13.2", "3.13.10", "3.14.0rc1", "3.14.0", "3.9.18"):
            (tmp_path / ".pyenv" / "versions" / version).mkdir(parents=True)
        offered = [Path(command[0]).parts[-3] for command in list(run.python_candidates(tmp_path))[1:]]
        assert offered == ["3.13.10", "3.13.2", "3.14.0", "3.14.0rc1"]

    def test_passes_over_what_fails_and_what_is_too_old(
        self, path_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = program(tmp_path / "old", "3.9.18")
        program(path_folder / "python3.13", "not selected", exit_code=127)  # as a pyenv shim does
        program(path_folder / "python3", "3.11.7")
        good = program(tmp_path / ".pyenv" / "versions" / "3.13.1" / "bin" / "python", "3.13.1")
        monkeypatch.setattr(sys, "_base_executable", str(old))
        monkeypatch.setenv("HOME", str(tmp_path))
        assert run.find_python() == [str(good)]


@pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")
class TestFindNode:
    def test_from_path(self, path_folder: Path) -> None:
        node, npm = program(path_folder / "node", "v20.0.0"), program(path_folder / "npm", "10.0.0")
        assert run.find_node() == run.Node(node, [str(npm)])

    @pytest.mark.parametrize(
        "programs", [{}, {"node": "v22.0.0"}, {"npm": "10.0.0"}, {"node": "v18.20.0", "npm": "10.0.0"}], ids=str
    )
    def test_fetched_where_path_has_none_that_will_do(
        self, programs: dict[str, str], path_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetched = run.Node(Path("/fetched/node"), ["/fetched/npm"])
        monkeypatch.setattr(run, "_fetch_node", lambda: fetched)
        for name, version in programs.items():
            program(path_folder / name, version)
        assert run.find_node() == fetched


class TestFingerprint:
    def test_follows_contents_order_and_boundaries(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        one.write_bytes(b"ab")
        two.write_bytes(b"c")
        before = run.fingerprint(one, two)
        assert before == run.fingerprint(one, two)
        assert before != run.fingerprint(two, one)
        one.write_bytes(b"a")
        two.write_bytes(b"bc")
        assert before != run.fingerprint(one, two)


class TestRecords:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        record = tmp_path / "record.json"
        run.write_record(record, fingerprint="abc", node="/usr/bin/node")
        assert run.read_record(record) == {"fingerprint": "abc", "node": "/usr/bin/node"}
        assert list(tmp_path.iterdir()) == [record]

    @pytest.mark.parametrize("text", [None, "", "{", "[]", "\x00"])
    def test_a_damaged_one_counts_as_none(self, text: str | None, tmp_path: Path) -> None:
        record = tmp_path / "record.json"
        if text is not None:
            record.write_text(text)
        assert run.read_record(record) == {}


class TestVenvIsCurrent:
    @pytest.fixture
    def checkout(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A checkout whose set-up is complete."""
        monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
        monkeypatch.setattr(run, "VENV_PYTHON", tmp_path / ".venv" / "python")
        monkeypatch.setattr(run, "VENV_RECORD", tmp_path / ".venv" / "record.json")
        monkeypatch.setattr(run, "PYTHON_LOCK", tmp_path / "lock")
        (tmp_path / ".venv").mkdir()
        for name in ("lock", ".venv/python", ".venv/pyvenv.cfg"):
            (tmp_path / name).write_text(name)
        digest = run.fingerprint(tmp_path / "lock", tmp_path / ".venv" / "pyvenv.cfg")
        run.write_record(run.VENV_RECORD, fingerprint=digest)
        return tmp_path

    def test_after_a_complete_set_up(self, checkout: Path) -> None:
        assert run.venv_is_current()

    def test_not_after_setup_was_asked_for(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run, "NODE_RECORD", checkout / "no-node.json")
        run.forget_set_up()
        assert not run.venv_is_current()

    @pytest.mark.parametrize("changed", ["lock", ".venv/pyvenv.cfg"])
    def test_not_after_a_change(self, changed: str, checkout: Path) -> None:
        (checkout / changed).write_text("changed")
        assert not run.venv_is_current()

    @pytest.mark.parametrize("missing", [".venv/python", ".venv/pyvenv.cfg", ".venv/record.json"])
    def test_not_when_something_is_missing(self, missing: str, checkout: Path) -> None:
        (checkout / missing).unlink()
        assert not run.venv_is_current()


class TestSteps:
    @pytest.fixture
    def caches(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, str]]:
        """Runs a step of the set-up, and says where its tools were told to keep what they fetch."""
        monkeypatch.setattr(run, "SETUP_LOG", tmp_path / "setup.log")
        code = "import json, os; print(json.dumps({name: os.environ[name] for name in %r}))" % list(run.CACHES)  # noqa: UP031

        def step() -> dict[str, str]:
            run._step("Looking", [sys.executable, "-c", code])
            found: dict[str, str] = json.loads(run.SETUP_LOG.read_text())
            return found

        return step

    def test_keep_what_they_fetch_in_the_checkout_or_where_somebody_says(
        self, caches: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A home directory may be read-only."""
        monkeypatch.setenv("PIP_CACHE_DIR", "/of/theirs")
        found = caches()
        assert found.pop("PIP_CACHE_DIR") == "/of/theirs"
        assert all(Path(folder).is_relative_to(run.ROOT) for folder in found.values())


class TestTellingLine:
    @pytest.mark.parametrize(
        ("output", "line"),
        [
            ("Collecting a\nERROR: no matching distribution\nnotice\n", "ERROR: no matching distribution"),
            ("npm warn old\nnpm error code E404\nnpm error 404\n", "npm error code E404"),
            ("first\nlast\n\n", "last"),
            ("", "it said nothing"),
        ],
    )
    def test_is_the_first_error_else_the_last_line(self, output: str, line: str, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.write_text(output)
        assert run.telling_line(log) == line


class TestFiles:
    """What run.py relies on in the repository."""

    def test_every_locked_package_has_a_hash_and_no_lock_names_an_index(self) -> None:
        locks = [*run.ROOT.glob("*.lock"), *(run.ROOT / "dev").glob("*/requirements.lock")]
        assert len(locks) == 5
        for lock in locks:
            text = lock.read_text()
            entries = [line for line in text.splitlines() if "==" in line]
            assert entries
            assert all(line.endswith("\\") for line in entries), lock
            assert "://" not in text.replace("aiohttp", ""), lock

    def test_the_deployed_versions_are_the_tested_ones(self) -> None:
        deployed, tested = (
            {line for line in (run.ROOT / name).read_text().splitlines() if "==" in line}
            for name in ("requirements.lock", "requirements-dev.lock")
        )
        assert deployed <= tested

    def test_what_is_imported_is_declared(self) -> None:
        """What another package happens to bring along is gone when that package no longer needs it."""

        def normal(name: str) -> str:
            return re.sub("[-_.]+", "-", name).lower()

        folders = ("shared", "commands", "infra", "dev", "bench", "tests")
        files = [*run.ROOT.glob("*.py"), *(file for folder in folders for file in (run.ROOT / folder).rglob("*.py"))]
        imported = {
            name
            for file in files
            for name in re.findall(r"^ *(?:from|import) (\w+)", file.read_text("utf-8"), re.MULTILINE)
        }
        declared = {
            normal(name)
            for file in run.ROOT.glob("requirements*.txt")
            for name in re.findall(r"^[\w.-]*\w", file.read_text("utf-8"), re.MULTILINE)
        }
        brought_by = packages_distributions()

        assert {"requests", "pytest"} <= imported
        undeclared = [
            name
            for name in sorted(imported - sys.stdlib_module_names)
            if name in brought_by and declared.isdisjoint(map(normal, brought_by[name]))
        ]
        assert undeclared == []

    def test_the_npm_lock_pins_by_hash_alone(self) -> None:
        packages = json.loads((run.NODE_FOLDER / "package-lock.json").read_text())["packages"]
        locked = [package for name, package in packages.items() if name]
        assert locked
        assert all("integrity" in package and "resolved" not in package for package in locked)

    def test_help_needs_nothing_but_the_standard_library(self) -> None:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(run.ROOT / "run.py"), "--help"], capture_output=True, text=True, check=True
        )
        assert set(run.COMMANDS) <= set(done.stdout.replace(",", " ").replace("{", " ").replace("}", " ").split())
