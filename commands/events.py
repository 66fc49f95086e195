"""`manage.py events`: what lies on the events queues, by its attributes alone; data stays where it is."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.text import Text

from commands.context import CommandContext
from commands.terminal import Json, Yes, confirm, console, group, perform
from shared.values.event_types import CloudEvent, EventError, parse
from shared.values.resources import EVENT_QUEUES

_POLL_SECONDS: Final = 0.5
_AT_A_TIME: Final = 100  # of one queue, before the next one has its turn

app = group("What lies on the events queues.")

Queue = Annotated[
    list[str] | None, typer.Option("--queue", help="Only this queue; may be repeated. All of them if not given.")
]


@app.callback()
def events() -> None:
    """What lies on the events queues."""


@app.command()
def tail(
    queue: Queue = None,
    peek: Annotated[
        bool, typer.Option("--peek", help="Look at the front of each queue once, and take nothing.")
    ] = False,
    count: Annotated[int, typer.Option(min=0, help="End after so many messages; 0: go on until Ctrl-C.")] = 0,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Show events as they arrive. They are taken off their queues, unless `--peek` is given.

    Names, numbers and places are never shown, only ids: each event's attributes without its data.
    """
    queues = tuple(dict.fromkeys(queue or EVENT_QUEUES))
    for name in queues:
        if name not in EVENT_QUEUES:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(EVENT_QUEUES)}")
    if not peek:
        confirm("Events shown here are taken off their queues and reach no consumer. Go on?", yes=yes, as_json=as_json)

    def see(name: str, text: str) -> bool:
        for event in _events(text):
            _show(name, event, as_json=as_json)
        return True

    async def work(context: CommandContext) -> int:
        if peek:
            texts = [(name, text) for name in queues for text in await context.queues.peek(name)]
            for name, text in texts[: count or None]:
                see(name, text)
            return len(texts)
        return await _take(context, queues, see, count)

    try:
        shown = perform(work, as_json=as_json)
    except KeyboardInterrupt:
        return
    if not shown and not as_json:
        console().print("There are no events.")


async def _take(context: CommandContext, queues: Sequence[str], see: Callable[[str, str], bool], count: int) -> int:
    taken = 0
    while True:
        before = taken
        for name in queues:
            left = count - taken if count else _AT_A_TIME
            taken += await context.queues.take(name, partial(see, name), at_most=left)
            if count and taken >= count:
                return taken
        if taken == before:
            await asyncio.sleep(_POLL_SECONDS)


def _events(text: str) -> Sequence[CloudEvent | None]:
    """The events of a message; None for a message that holds none."""
    try:
        return parse(text)
    except EventError:
        return [None]


def _show(queue: str, event: CloudEvent | None, *, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode({"queue": queue, "event": _attributes(event)}).decode())
    elif event is None:
        console().print(Text.assemble((queue, "dim"), "  ", ("not an event", "red")), soft_wrap=True)
    else:
        parts = (
            (f"{event.time:%Y-%m-%d %H:%M:%S}", "dim"),
            (event.type, "bold"),
            (event.id, "cyan"),
            event.subject or "",
        )
        console().print(
            Text("  ").join(Text(*part) if isinstance(part, tuple) else Text(part) for part in parts), soft_wrap=True
        )


def _attributes(event: CloudEvent | None) -> dict[str, Any] | None:
    if event is None:
        return None
    fields = msgspec.structs.asdict(event)
    return {name: value for name, value in fields.items() if name != "data" and value is not None}
