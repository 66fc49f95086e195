"""What all commands share in speaking to whoever runs them."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Never

import typer
from rich.console import Console
from rich.table import Column, Table

from commands.context import CommandContext
from shared.values.errors import SwitchboardError, UnavailableError

Json = Annotated[bool, typer.Option("--json", help="JSON instead of tables and bars.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

_WIDTH: Final = 140  # where no terminal says how wide it is


def group(about: str) -> typer.Typer:
    """An empty group of commands that shows its help when called without one."""
    return typer.Typer(help=about, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def console(*, stderr: bool = False) -> Console:
    """Where to print for people; names are printed to the letter, square brackets too."""
    terminal = Console(stderr=stderr, highlight=False, markup=False)
    return terminal if terminal.is_terminal else Console(stderr=stderr, highlight=False, markup=False, width=_WIDTH)


def table(*columns: Column | str) -> Table:
    """An empty table in the style of all the others."""
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def print_json(value: Any) -> None:
    """Print for programs."""
    typer.echo(json.dumps(value, indent=2))


def perform[T](work: Callable[[CommandContext], Awaitable[T]], *, as_json: bool) -> T:
    """Do what a command is for; where that cannot be done, say why and end with exit code 1."""

    async def within() -> T:
        async with CommandContext() as context:
            return await work(context)

    try:
        return asyncio.run(within())
    except UnavailableError as error:
        fail(f"{error} ({error.reason})", reason=error.reason, as_json=as_json)
    except SwitchboardError as error:
        fail(str(error), reason=error.reason, as_json=as_json)


def fail(problem: str, *, reason: str, as_json: bool) -> Never:
    """Say what is wrong and end with exit code 1."""
    if as_json:
        print_json({"error": {"reason": reason, "message": problem}})
    else:
        console(stderr=True).print(problem)
    raise typer.Exit(1)


def confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Ask, unless told not to; end the command on a no."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise typer.BadParameter("there is nobody to ask: say --yes")
    typer.confirm(question, abort=True)
