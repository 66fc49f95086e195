"""`manage.py doctor`: what is wrong with a set-up, and how to mend it."""

from typing import TYPE_CHECKING, Final

import typer

from commands.terminal import Json, console, perform, print_json

if TYPE_CHECKING:
    from rich.text import Text

    from commands.checks import Finding

# ruff: noqa: PLC0415 - imports are late, so that `--help` and completion wait for none of them

_MARKS: Final = {"well": ("✓", "green"), "attention": ("!", "yellow"), "bad": ("✗", "red")}


def doctor(as_json: Json = False) -> None:
    """Say what is wrong, and how to mend it.

    Looks at settings, storage, Key Vault, Graph, the endpoint, subscriptions, queues and consumers.
    """
    from dataclasses import asdict

    from commands.examination import examine

    findings = perform(examine, as_json=as_json)
    bad, attention = (sum(finding.level == level for finding in findings) for level in ("bad", "attention"))
    if as_json:
        print_json({"bad": bad, "attention": attention, "checks": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            console().print(_line(finding), soft_wrap=True)
        counts = [f"{bad} bad"] * bool(bad) + [f"{attention} to be attended to"] * bool(attention)
        console().print(f"\n{', '.join(counts)}" if counts else "\nAll is well.")
    if bad:
        raise typer.Exit(1)


def _line(finding: "Finding") -> "Text":
    from rich.text import Text

    mark, style = _MARKS[finding.level]
    line = Text.assemble((mark, style), " ", (finding.name, "bold"), ": ", finding.finding)
    if finding.remedy is not None:
        line.append_text(Text.assemble(" → ", (finding.remedy, "cyan")))
    return line
