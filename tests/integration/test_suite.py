"""`run.py test --repeat`: random orders, a load in every second run, and failures that can be had again."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dev import suite

ROOT = Path(__file__).parents[2]
TESTS = """
import os, random
from pathlib import Path


def note(name):
    beside = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
    with Path("notes").open("a") as notes:
        notes.write(f"{name} {random.random()} {len(beside)}\\n")


def test_a():
    note("a")


def test_b():
    note("b")
    assert False, "whatever the order"


def test_c():
    note("c")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
def test_runs_differ_in_order_and_load_and_each_can_be_had_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if "PYTEST" in name or name == "PYTHONDONTWRITEBYTECODE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    options = ["--numprocesses", "0", "-p", "no:cacheprovider"]

    assert suite.main([*options, "--repeat", "2"]) == 1

    said = capsys.readouterr().out
    assert said.count("FAILED test_it.py::test_b - AssertionError: whatever the order") >= 2
    assert "0 of 2 runs passed" in said
    notes = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    first, second = notes[:3], notes[3:]
    ((beside_first,), (beside_second,)) = ({int(beside) for _, _, beside in run} for run in (first, second))
    assert beside_second == beside_first + 1
    assert first[0][1] != second[0][1]  # another seed

    (again,) = re.findall(r"run 2,.*\n.*\n  again: python3 run.py test (.*)", said)
    (tmp_path / "notes").unlink()
    subprocess.run([sys.executable, "-m", "dev.suite", *again.split()], capture_output=True, check=False)

    repeated = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    assert [note[:2] for note in repeated] == [note[:2] for note in second]
