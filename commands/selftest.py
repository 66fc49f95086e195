"""`manage.py selftest`: whether a notification that is sent now becomes an event."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from commands.terminal import Json, perform, print_json, print_table

if TYPE_CHECKING:
    from commands.context import CommandContext
    from shared.operations.self_test import Leg

# ruff: noqa: PLC0415 - imports are late, so that `--help` and completion wait for none of them

_PATIENCE: Final = 60

Patience = Annotated[int, typer.Option(min=1, help="Seconds to wait for the events.")]


def selftest(patience: Patience = _PATIENCE, as_json: Json = False) -> None:
    """Send two notifications, await their events.

    One goes through the endpoint, and an encrypted one straight to the raw queue.
    """
    from dataclasses import asdict
    from datetime import timedelta

    from rich.text import Text

    async def work(context: "CommandContext") -> "tuple[Leg, ...]":
        return await context.self_test(timedelta(seconds=patience)).run()

    legs = perform(work, as_json=as_json)
    failed = any(leg.problem is not None for leg in legs)
    if as_json:
        print_json({"ok": not failed, "legs": [asdict(leg) for leg in legs]})
    else:
        rows = (
            (
                leg.name,
                "" if leg.seconds is None else f"{leg.seconds * 1000:.0f} ms",
                Text("✓", style="green") if leg.problem is None else Text(f"✗ {leg.problem}", style="red"),
            )
            for leg in legs
        )
        print_table(("leg", "took", ""), rows)
    if failed:
        raise typer.Exit(1)
