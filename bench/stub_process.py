"""Runs a stub of a service in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stub_process(module: str, *arguments: str) -> Iterator[int]:
    """Run a module that prints the port that it listens on, for the length of a `with` block; yields the port."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
