"""`python3 run.py test`: the tests, once or over and over.

python3 run.py test [...]              once; arguments go to pytest
python3 run.py test --repeat N [...]   N times in random orders, every second time beside a busy process a core
python3 run.py test --host EXECUTABLE  on another Functions host than the local one
python3 run.py test --groups           with a process of the app for each function group
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

import pytest

from dev.host.process import add_host_options, use_host

_DISTRIBUTION: Final = ("--numprocesses", "3", "--dist", "loadscope", "--no-loadscope-reorder")
_FAILURE: Final = re.compile(r"^(?:FAILED|ERROR) .*$", re.MULTILINE)
_DETAILS: Final = re.compile(r"^=+ (?:ERRORS|FAILURES) =+$", re.MULTILINE)

# It ends with whoever started it, however that ends.
_BUSY: Final = """\
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True:
    pass
"""


@dataclass(frozen=True)
class Outcome:
    """How one run went: `failures` are pytest's own lines for them, `output` is all that it printed."""

    number: int
    seed: int
    loaded: bool
    code: int
    seconds: float
    output: str

    @property
    def failures(self) -> list[str]:
        """What failed, a line each; a run that ended without saying so has its last line."""
        found = _FAILURE.findall(self.output)
        return found or self.output.strip().splitlines()[-1:]

    @property
    def circumstances(self) -> str:
        """In what order, and beside what."""
        return f"seed {self.seed}{', beside a busy process a core' if self.loaded else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests; pytest's exit code, or 1 if any of several runs failed."""
    parser = argparse.ArgumentParser(prog="run.py test", add_help=False, allow_abbrev=False)
    parser.add_argument("--repeat", type=int, metavar="N")
    add_host_options(parser)
    options, passed_on = parser.parse_known_args(arguments)
    use_host(options)
    # A run starts many processes, which would all compile the same modules. The local host keeps them in any case.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if options.repeat is None:
        return pytest.main([*_DISTRIBUTION, *passed_on])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and with it what it has started
    outcomes = [_run(passed_on, number, loaded=number % 2 == 0) for number in range(1, options.repeat + 1)]
    return _sum_up(outcomes, passed_on)


def _run(passed_on: Sequence[str], number: int, *, loaded: bool) -> Outcome:
    seed = random.randrange(2**32)
    command = [sys.executable, "-m", "pytest", *_DISTRIBUTION, *passed_on, *_seeds(seed)]
    started = time.monotonic()
    with _busy_cores() if loaded else nullcontext():
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    outcome = Outcome(number, seed, loaded, done.returncode, time.monotonic() - started, done.stdout)
    if outcome.code:
        details = _DETAILS.search(outcome.output)
        print(outcome.output[details.start() if details else 0 :])
    print(f"run {number}, {outcome.circumstances}: {_told(outcome)} in {outcome.seconds:.0f} s", flush=True)
    return outcome


def _seeds(seed: int) -> list[str]:
    return [f"--randomly-seed={seed}", f"--hypothesis-seed={seed}"]


def _told(outcome: Outcome) -> str:
    return f"{len(outcome.failures)} failed" if outcome.code else "passed"


@contextmanager
def _busy_cores() -> Iterator[None]:
    with ExitStack() as running:
        for _ in range(os.cpu_count() or 1):
            process = running.enter_context(subprocess.Popen([sys.executable, "-c", _BUSY], stdin=subprocess.PIPE))
            running.callback(process.kill)
        yield


def _sum_up(outcomes: Sequence[Outcome], passed_on: Sequence[str]) -> int:
    failed = [outcome for outcome in outcomes if outcome.code]
    for outcome in failed:
        print(f"\nrun {outcome.number}, {outcome.circumstances}:")
        print(*(f"  {line}" for line in outcome.failures), sep="\n")
        print("  again: python3 run.py test", *passed_on, *_seeds(outcome.seed))
    print(f"\n{len(outcomes) - len(failed)} of {len(outcomes)} runs passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
