"""How run.py runs a module: what an interruption and a damaged environment look like."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def launched(tmp_path: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "a_module.py").write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "dev", "a_module", *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path), "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        encoding="cp1252",
        check=False,
    )


def test_a_module_gets_its_arguments_and_says_how_it_ends(tmp_path: Path) -> None:
    done = launched(tmp_path, "import sys; print('✓', sys.argv[1:]); sys.exit(3)", "--traffic", "5")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (3, "ok ['--traffic', '5']", "")


@pytest.mark.parametrize(
    "code",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    ],
)
def test_an_interruption_is_one_line_and_no_traceback(code: str, tmp_path: Path) -> None:
    done = launched(tmp_path, code)
    assert (done.returncode, done.stderr.splitlines()) == (130, ["run.py: interrupted"])


@pytest.mark.parametrize("code", ["import rich.no_such_part", "from rich.table import NoSuchName", "import typerr"])
def test_a_damaged_environment_is_named_with_what_mends_it(code: str, tmp_path: Path) -> None:
    done = launched(tmp_path, code)
    assert done.returncode == 1
    assert "python3 run.py setup" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_fault_of_ours_is_shown_whole(tmp_path: Path) -> None:
    done = launched(tmp_path, "from shared.settings import no_such_name")
    assert "Traceback" in done.stderr
    assert "run.py setup" not in done.stderr
