"""`run.py test --repeat`: random orders, a load in every second run, and failures that can be had again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import os, random
from pathlib import Path


def note(name):
    beside = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
    with Path("notes").open("a") as notes:
        notes.write(f"{name} {random.random()} {len(beside) - 1}\\n")


def test_a():
    note("a")


def test_b():
    note("b")
    assert False, "whatever the order"


def test_c():
    note("c")
"""


def suite(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dev.suite", "--numprocesses", "0", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name} | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
def test_runs_differ_in_order_and_load_and_each_can_be_had_again(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)

    done = suite(tmp_path, "--repeat", "2")

    assert done.returncode == 1, done.stderr
    assert done.stdout.count("FAILED test_it.py::test_b - AssertionError: whatever the order") >= 2
    assert "0 of 2 runs passed" in done.stdout
    notes = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    first, second = notes[:3], notes[3:]
    assert {beside for _, _, beside in first} == {"0"}
    assert {beside for _, _, beside in second} == {str(os.cpu_count())}
    assert first[0][1] != second[0][1]  # another seed

    (again,) = re.findall(r"run 2,.*\n.*\n  again: python3 run.py test (.*)", done.stdout)
    (tmp_path / "notes").unlink()
    suite(tmp_path, *again.split())

    repeated = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    assert [note[:2] for note in repeated] == [note[:2] for note in second]
