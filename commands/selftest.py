"""`manage.py selftest`: whether a notification that is sent now becomes an event."""

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Final

import typer
from rich.text import Text

from commands.context import CommandContext
from commands.terminal import Json, console, perform, print_json, table
from shared.operations.self_test import PATIENCE, Leg

_PATIENCE: Final = round(PATIENCE.total_seconds())

Patience = Annotated[int, typer.Option(min=1, help="Seconds to wait for the events.")]


def selftest(patience: Patience = _PATIENCE, as_json: Json = False) -> None:
    """Send a notification through the endpoint and an encrypted one through the queue; wait for their events."""

    async def work(context: CommandContext) -> tuple[Leg, ...]:
        return await context.self_test(timedelta(seconds=patience)).run()

    legs = perform(work, as_json=as_json)
    failed = any(leg.problem is not None for leg in legs)
    if as_json:
        print_json({"ok": not failed, "legs": [asdict(leg) for leg in legs]})
    else:
        shown = table("leg", "took", "")
        for leg in legs:
            took = "" if leg.seconds is None else f"{leg.seconds * 1000:.0f} ms"
            mark = Text("✓", style="green") if leg.problem is None else Text(f"✗ {leg.problem}", style="red")
            shown.add_row(leg.name, took, mark)
        console().print(shown)
    if failed:
        raise typer.Exit(1)
