"""`python -m dev MODULE [...]`: how run.py runs everything, so that it all prints, ends and fails alike."""

import runpy
import signal
import sys
from pathlib import Path
from typing import Final, NoReturn

from commands.plain_text import print_anywhere

_INTERRUPTED: Final = 130  # what a shell reports after Ctrl-C
_ROOT: Final = Path(__file__).parents[1]
_OWN: Final = {path.stem for path in _ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}


def main() -> int:
    """Run a module as a program; returns the exit code where the module itself does not."""
    print_anywhere()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that starts something in the background ignores the first
        signal.signal(number, _interrupt)
    module = sys.argv[1]
    del sys.argv[0]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        print("run.py: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except ImportError as error:
        if (error.name or "").partition(".")[0] in _OWN:
            raise
        print(f"run.py: .venv is damaged ({error}): python3 run.py setup makes it anew", file=sys.stderr)
        return 1
    return 0


def _interrupt(_signal_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
