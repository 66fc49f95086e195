"""`manage.py doctor`: what is wrong with a set-up, and how to mend it."""

from dataclasses import asdict
from typing import Final

import typer
from rich.text import Text

from commands.checks import Check, State, examine
from commands.terminal import Json, console, perform, print_json

_MARKS: Final = {State.OK: ("✓", "green"), State.WARNING: ("!", "yellow"), State.PROBLEM: ("✗", "red")}


def doctor(as_json: Json = False) -> None:
    """Check settings, storage, Key Vault, Graph, the endpoint, subscriptions and queues; name the remedy."""
    checks = perform(examine, as_json=as_json)
    problems = sum(check.state is State.PROBLEM for check in checks)
    if as_json:
        print_json({"problems": problems, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            console().print(_line(check), soft_wrap=True)
        console().print(f"\n{problems} problem(s)" if problems else "\nAll is well.")
    if problems:
        raise typer.Exit(1)


def _line(check: Check) -> Text:
    mark, style = _MARKS[check.state]
    line = Text.assemble((mark, style), " ", (check.name, "bold"), ": ", check.found)
    if check.remedy is not None:
        line.append_text(Text.assemble(" → ", (check.remedy, "cyan")))
    return line
