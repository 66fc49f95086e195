"""The clients as `run.py package --clients --check` has installed them, reading what the app of the demo writes."""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dev import traffic
from dev.azurite import node
from dev.stack import Stack
from shared.values.resources import EVENT_QUEUES

_EXAMPLES: Final = Path(__file__).parents[1] / "examples"
_PATIENCE: Final = 60.0  # seconds


def check(stack: Stack, folder: Path) -> int:
    """Let each client read one event of everything; 0 if it did.

    Args:
        stack: whose queues nobody else reads.
        folder: where they are installed.
    """
    folder = folder.absolute()
    python = folder / "python-client" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    commands = {
        "Python": [str(python), str(_EXAMPLES / "python" / "consume.py")],
        "JavaScript": [node(), str(folder / "javascript-client" / "consume.mjs")],
    }
    code = 0
    for language, command in commands.items():
        sent, read = _read(stack, command)
        print(f"read by the installed client for {language}: {read} of {sent} events")
        code |= read != sent
    return code


def _read(stack: Stack, command: Sequence[str]) -> tuple[int, int]:
    """How many notifications are sent, and how many events the command says that it has read."""
    sent = sum(
        len(stack.sim.graph.notify(resource, kind, traffic.unique(resource))) for resource, kind in traffic.EVERYTHING
    )
    settings = {"AZURE_STORAGE_CONNECTION_STRING": stack.azurite.connection_string}
    deadline = time.monotonic() + _PATIENCE
    read = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        output = Path(work, "output")
        with (
            output.open("wb") as file,
            subprocess.Popen([*command, *EVENT_QUEUES], cwd=work, stdout=file, env=os.environ | settings) as process,
        ):
            while read < sent and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
                read = len(output.read_text("utf-8").splitlines())
            process.terminate()
    return sent, read
