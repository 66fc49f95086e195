"""`manage.py events`: what lies on the events queues, by its attributes alone; data stays where it is."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from commands.terminal import Json, Yes, confirm, console, epilog, group, perform

if TYPE_CHECKING:
    from commands.context import CommandContext
    from shared.values.events.event_types import CloudEvent

# ruff: noqa: PLC0415 - imports are late, so that `--help` and completion wait for none of them

_POLL_SECONDS: Final = 1.0
_AT_A_TIME: Final = 100  # of one queue, before the next one has its turn
_SEEN_AT_MOST: Final = 32  # of one queue, without taking anything ("Peek Messages")

_EXAMPLES: Final = ("events tail", "events tail --once --json", "events tail --queue call-events --take --count 10")

app = group("What lies on the events queues.", *_EXAMPLES)

Queue = Annotated[
    list[str] | None, typer.Option("--queue", help="Only this queue; may be repeated. All of them if not given.")
]


@app.callback()
def events() -> None:
    """What lies on the events queues."""


@app.command(epilog=epilog(*_EXAMPLES))
def tail(
    queue: Queue = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Show what is there now, and end.")] = False,
    take: Annotated[bool, typer.Option("--take", help="Take events off their queues: no consumer gets them.")] = False,
    count: Annotated[int, typer.Option(min=0, help="End after so many messages; 0: go on until Ctrl-C.")] = 0,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Show events as they arrive, until Ctrl-C. They stay on their queues, unless `--take` is given.

    Without `--take`, only the first 32 messages of each queue can be seen.
    Names, numbers and places are never shown, only ids: each event's attributes without its data.
    """
    if take:
        confirm("Events shown here are taken off their queues and reach no consumer. Go on?", yes=yes, as_json=as_json)

    def show(name: str, text: str) -> None:
        for event in _events(text):
            _show(name, event, as_json=as_json)

    async def work(context: "CommandContext") -> int:
        known = context.settings.consumers.queues
        queues = tuple(dict.fromkeys(queue or known))
        for name in queues:
            if name not in known:
                raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}")
        tailing = _Taking(context, queues, show) if take else _Peeking(context, queues, show)
        return await _follow(tailing, count, once=once)

    shown = perform(work, as_json=as_json)
    if not shown and not as_json:
        console().print("There are no events.")


type _Show = Callable[[str, str], None]
"""Shows a message of a queue."""


@dataclass(slots=True)
class _Peeking:
    """Looks at the front of each queue, and shows a message once."""

    context: "CommandContext"
    queues: Sequence[str]
    show: _Show
    _seen: dict[str, list[str]] = field(default_factory=dict)
    _full: set[str] = field(default_factory=set)

    async def look(self, at_most: int) -> int:
        """Show what has come, up to so many messages; returns how many."""
        come = []
        for queue in self.queues:
            texts = await self.context.queues.peek(queue)
            if len(texts) == _SEEN_AT_MOST and queue not in self._full:
                self._full.add(queue)
                note = f"{queue} holds {_SEEN_AT_MOST} messages or more: what comes after them is not seen"
                console(stderr=True).print(note, style="yellow", soft_wrap=True)
            come += [(queue, text) for text in texts if text not in self._seen.get(queue, ())]
            self._seen[queue] = texts
        for queue, text in come[:at_most]:
            self.show(queue, text)
        return min(len(come), at_most)


@dataclass(slots=True)
class _Taking:
    """Takes what lies there off its queue, after it was shown."""

    context: "CommandContext"
    queues: Sequence[str]
    show: _Show

    async def look(self, at_most: int) -> int:
        """Show and take what has come, up to so many messages; returns how many."""
        taken = 0
        for queue in self.queues:
            if taken < at_most:
                some = min(at_most - taken, _AT_A_TIME)
                taken += await self.context.queues.take(queue, partial(self._see, queue), at_most=some)
        return taken

    def _see(self, queue: str, text: str) -> bool:
        self.show(queue, text)
        return True


async def _follow(tailing: _Peeking | _Taking, count: int, *, once: bool) -> int:
    """Show what comes; returns how many messages were shown."""
    import asyncio

    shown = 0
    while True:
        come = await tailing.look(count - shown if count else sys.maxsize)
        shown += come
        if once or (count and shown >= count):
            return shown
        if not come:
            await asyncio.sleep(_POLL_SECONDS)


def _events(text: str) -> "Sequence[CloudEvent | None]":
    """The events of a message; None for a message that holds none."""
    from shared.values.events.event_types import EventError, parse

    try:
        return parse(text)
    except EventError:
        return [None]


def _show(queue: str, event: "CloudEvent | None", *, as_json: bool) -> None:
    import msgspec
    from rich.text import Text

    if as_json:
        typer.echo(msgspec.json.encode({"queue": queue, "event": _attributes(event)}).decode())
    elif event is None:
        console().print(Text.assemble((queue, "dim"), "  ", ("not an event", "red")), soft_wrap=True)
    else:
        parts = [
            Text(f"{event.time:%Y-%m-%d %H:%M:%S}", "dim"),
            Text(event.type, "bold"),
            Text(event.id, "cyan"),
            Text(event.subject or ""),
        ]
        console().print(Text("  ").join(parts), soft_wrap=True)


def _attributes(event: "CloudEvent | None") -> dict[str, Any] | None:
    import msgspec

    if event is None:
        return None
    fields = msgspec.structs.asdict(event)
    return {name: value for name, value in fields.items() if name != "data" and value is not None}
