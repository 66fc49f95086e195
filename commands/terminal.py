"""What all commands share in speaking to whoever runs them."""

import asyncio
import json
import os
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Never

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    from commands.context import CommandContext

# ruff: noqa: PLC0415 - imports are late, so that `--help` and completion wait for none of them

Json = Annotated[bool, typer.Option("--json", help="JSON instead of tables and bars.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Watch = Annotated[bool, typer.Option("--watch", help="Show it anew every five seconds, until Ctrl-C.")]

INTERRUPTED: Final = 130  # what a shell reports after Ctrl-C

_UNBOUNDED: Final = 100_000  # columns: what is not for a terminal is neither cut nor wrapped
_WATCH_SECONDS: Final = 5.0
_PROJECT: Final = Path(__file__).parents[1] / "pyproject.toml"


class _Group(TyperGroup):
    """A group that answers wrong usage in JSON, where JSON was asked for."""

    def main(self, args: Sequence[str] | None = None, *positional: Any, **options: Any) -> Any:
        arguments = sys.argv[1:] if args is None else list(args)
        if "--json" not in arguments:
            return super().main(args, *positional, **options)
        try:
            code = super().main(args, *positional, **options | {"standalone_mode": False})
        except typer.TyperException as error:
            print_json({"error": {"reason": "usage", "message": error.format_message()}})
            code = error.exit_code
        sys.exit(code or 0)


def program(about: str) -> typer.Typer:
    """The whole of the commands: with completion, `-h` and `--version`."""
    names = {"help_option_names": ["-h", "--help"]}
    app = _typer(about, add_completion=True, context_settings=names, cls=_Group)

    def version(value: bool) -> None:
        if value:
            typer.echo(f"Switchboard {tomllib.loads(_PROJECT.read_text('utf-8'))['project']['version']}")
            raise typer.Exit

    @app.callback()
    def _root(
        _version: Annotated[
            bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")
        ] = False,
    ) -> None: ...

    return app


def group(about: str, *examples: str) -> typer.Typer:
    """An empty group of commands that shows its help, with examples, when called without one."""
    return _typer(about, epilog=epilog(*examples), add_completion=False)


def _typer(about: str, **options: Any) -> typer.Typer:
    return typer.Typer(
        help=about, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, **options
    )


def epilog(*examples: str) -> str:
    """Examples as a help shows them last, each on a line of its own."""
    return "\b\n" + "\n".join(("Examples:", *(f"  python manage.py {example}" for example in examples)))


def console(*, stderr: bool = False) -> "Console":
    """Where to print for people; names are printed to the letter, square brackets too."""
    from rich.console import Console

    terminal = Console(stderr=stderr, highlight=False, markup=False)
    if terminal.is_terminal:
        return terminal
    return Console(stderr=stderr, highlight=False, markup=False, width=_UNBOUNDED)


def print_table(headings: Sequence[str], rows: Iterable[Sequence["str | Text"]], *, below: int | None = None) -> None:
    """Print rows in columns, a line each. Nothing is cut.

    Args:
        headings: one for each column; none at all for a table without them.
        rows: their cells.
        below: the column that gets a line of its own under the others where a terminal is too narrow for all.
    """
    from rich.text import Text

    screen = console()
    lines = [[cell.copy() if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    if headings:
        lines.insert(0, [Text(heading, style="bold") for heading in headings])
    widths = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
    apart = below if below is not None and sum(widths) + 2 * (len(widths) - 1) > screen.width else None
    for line in lines:
        cells = [cell for place, cell in enumerate(line) if place != apart]
        for cell, width in zip(cells, [width for place, width in enumerate(widths) if place != apart], strict=True):
            cell.pad_right(width - cell.cell_len)
        shown = Text("  ").join(cells)
        shown.rstrip()
        screen.print(shown, soft_wrap=True)
        if apart is not None:
            screen.print(Text("    ").append_text(line[apart]), soft_wrap=True)


def print_json(value: Any, *, in_one_line: bool = False) -> None:
    """Print for programs."""
    typer.echo(json.dumps(value, indent=None if in_one_line else 2))


async def again_and_again(show: Callable[[], Awaitable[None]], *, watch: bool) -> None:
    """Show something once, or anew every few seconds until somebody has seen enough."""
    while True:
        if watch:
            console().clear()
        await show()
        if not watch:
            return
        await asyncio.sleep(_WATCH_SECONDS)


def progress_bar(title: str, *, shown: bool, counts: str = "") -> "Progress":
    """A bar for work of many steps; `counts` is a template of what else a task counts."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    return Progress(
        SpinnerColumn(),
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        *([TextColumn(counts)] if counts else []),
        console=console(stderr=True),
        disable=not shown,
        transient=True,
    )


def perform[T](work: "Callable[[CommandContext], Awaitable[T]]", *, as_json: bool) -> T:
    """Do what a command is for; where that cannot be done, say why and end with exit code 1. Ctrl-C ends it at once."""
    from commands.context import CommandContext
    from shared.values.errors import SwitchboardError, UnavailableError

    async def within() -> T:
        async with CommandContext() as context:
            return await work(context)

    with asyncio.Runner() as runner:
        try:
            return runner.run(within())
        except KeyboardInterrupt:
            _end_now()
        except UnavailableError as error:
            fail(f"{error} ({error.reason})", reason=error.reason, as_json=as_json)
        except SwitchboardError as error:
            fail(error.told, reason=error.reason, as_json=as_json)


def _end_now() -> Never:
    """End the process. A thread may wait for somebody's sign-in, and Python would wait for the thread."""
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # the cursor, which a progress bar hides
    sys.stderr.write("Interrupted.\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def fail(problem: str, *, reason: str, as_json: bool) -> Never:
    """Say what is wrong and end with exit code 1."""
    if as_json:
        print_json({"error": {"reason": reason, "message": problem}})
    else:
        console(stderr=True).print(problem, soft_wrap=True)
    raise typer.Exit(1)


def confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Ask, unless told not to; end the command on a no."""
    if yes:
        return
    if as_json or not is_attended():
        raise typer.BadParameter("there is nobody to ask: say --yes")
    typer.confirm(question, abort=True)


def is_attended() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()
