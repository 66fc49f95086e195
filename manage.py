#!/usr/bin/env python3
"""Switchboard's command line, for operators.

Settings come from the environment, else from `Values` of the file that SWITCHBOARD_SETTINGS names, local.settings.json
without a name. Every command takes `--json`.
Exit codes: 0 well, 1 problems, 2 usage, 130 interrupted.
"""

import sys

# ruff: noqa: E402 - what the commands import is not there before it is known that this Python has it

OLDEST_PYTHON = (3, 13)
HINT = "python3 run.py grant --help makes what it needs in .venv; then run .venv/bin/python manage.py"

if sys.version_info < OLDEST_PYTHON:
    sys.exit("manage.py needs Python 3.13 or newer: " + HINT)
try:
    import typer as _typer  # noqa: F401 - the first package that an environment without ours lacks
except ImportError:
    sys.exit("manage.py needs packages that this Python has not: " + HINT)

from commands import call_records, doctor, events, login, quarantine, selftest, subscriptions
from commands.plain_text import print_anywhere
from commands.terminal import epilog, program

app = program("Look after Switchboard: its subscriptions, its sign-in, its health.")
app.add_typer(subscriptions.app, name="subscriptions")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(events.app, name="events")
app.add_typer(call_records.app, name="call-records")
app.command(epilog=epilog("login", "login --tenant 99999999-9999-9999-9999-999999999999"))(login.login)
app.command(epilog=epilog("doctor", "doctor --json"))(doctor.doctor)
app.command(epilog=epilog("selftest --patience 120"))(selftest.selftest)

if __name__ == "__main__":
    print_anywhere()
    app()
