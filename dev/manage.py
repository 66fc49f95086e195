"""`python3 run.py manage …`: manage.py, on what `run.py start` has up."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dev.running import RECORD, NotRunningError, Running, environment

# So that it prints as it would without us.
_TERMINAL: Final = ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")


def main() -> int:
    """Run a command; the exit code is its own."""
    asks_for_help = not sys.argv[1:] or not {"--help", "-h", "--version"}.isdisjoint(sys.argv)
    try:
        settings = {} if asks_for_help else Running.find().settings
    except NotRunningError as error:
        print(f"run.py manage: {error}", file=sys.stderr)
        return 1
    wanted = operators_environment(settings, RECORD)
    os.environ.clear()
    os.environ.update(wanted)
    # Not at the top: what it imports reads the environment.
    from manage import app  # noqa: PLC0415

    app(prog_name="run.py manage")
    return 0


def operators_environment(settings: Mapping[str, str], record: Path) -> dict[str, str]:
    """What manage.py goes by: a stack's settings and its record, and neither a developer's own nor a file of theirs."""
    terminal = {name: os.environ[name] for name in _TERMINAL if name in os.environ}
    return environment({**terminal, **settings, "SWITCHBOARD_SETTINGS": str(record)})


if __name__ == "__main__":
    sys.exit(main())
