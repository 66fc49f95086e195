"""`manage.py quarantine`: what could not be handled, and what is to become of it."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from commands.context import CommandContext
from commands.terminal import Json, Yes, confirm, console, fail, group, perform, print_json, table
from shared.notifications.quarantine import Parked
from shared.notifications.replay import Done, Entry, Replay, Selection
from shared.values.duration import span
from shared.values.errors import SwitchboardError
from shared.values.message_text import repaired

_AT_ONCE: Final = 16
_AGE: Final = re.compile(r"(\d+)([smhd])")
_UNIT: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SECRET: Final = "clientState"  # noqa: S105 - the name of the field
_SECRET_IN_TEXT: Final = re.compile(r'("clientState"\s*:\s*")(?:[^"\\]|\\.)*')
_HIDDEN: Final = "(hidden)"

app = group("What could not be handled: look at it, put it back, or throw it away.")


def _age(text: str) -> timedelta:
    match = _AGE.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not an age such as 90s, 15m, 2h or 3d")
    return timedelta(**{_UNIT[match[2]]: int(match[1])})


Names = Annotated[list[str] | None, typer.Argument(help="Names as `list` shows them.")]
Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only this reason; may be repeated.")]
Kinds = Annotated[list[str] | None, typer.Option("--kind", help="Only this kind of resource; may be repeated.")]
Older = Annotated[timedelta | None, typer.Option("--older-than", parser=_age, metavar="AGE", help="Such as 15m or 2d.")]
Younger = Annotated[
    timedelta | None, typer.Option("--younger-than", parser=_age, metavar="AGE", help="Such as 15m or 2d.")
]
All = Annotated[bool, typer.Option("--all", help="All that is there.")]

Repair = Annotated[bool, typer.Option("--repair", help="Make unreadable texts readable, in place of verbatim.")]


@app.command("list")
def list_entries(
    reason: Reasons = None,
    kind: Kinds = None,
    older_than: Older = None,
    younger_than: Younger = None,
    as_json: Json = False,
) -> None:
    """List what lies in quarantine, by reason, kind and age."""
    selection = _selection(reason, kind, older_than, younger_than)

    async def work(context: CommandContext) -> list[tuple[timedelta, Entry]]:
        now = context.clock.now()
        return [(now - entry.quarantined, entry) async for entry in _replay(context).entries(selection, now)]

    entries = perform(work, as_json=as_json)
    if as_json:
        print_json([msgspec.to_builtins(entry) for _, entry in entries])
        return
    if not entries:
        console().print(
            "Quarantine is empty." if selection == Selection() else "Nothing of that kind is in quarantine."
        )
        return
    rows = table("reason", "kind", "age", "name")
    for age, entry in sorted(entries, key=lambda row: (row[1].reason, row[1].quarantined)):
        rows.add_row(entry.reason, entry.kind, span(age), entry.name)
    console().print(rows)
    totals = Counter(entry.reason for _, entry in entries).most_common()
    console().print(f"\n{len(entries)} in quarantine: " + ", ".join(f"{count} {name}" for name, count in totals))


@app.command()
def show(name: str, as_json: Json = False) -> None:
    """Show one entry as it was received, still encrypted; its client state is left out."""

    async def work(context: CommandContext) -> Parked | None:
        return await _replay(context).show(name)

    parked = perform(work, as_json=as_json)
    if parked is None:
        fail(f"{name} is not in quarantine", reason="not-in-quarantine", as_json=as_json)
    shown = _disclosed(parked)
    if as_json:
        print_json(shown)
        return
    rows = Table(box=None, show_header=False, pad_edge=False)
    for key, value in shown.items():
        if key != "envelope":
            rows.add_row(key, str(value))
    console().print(rows)
    if "envelope" in shown:
        console().print_json(data=shown["envelope"])


@app.command()
def replay(
    names: Names = None,
    *,
    reason: Reasons = None,
    kind: Kinds = None,
    older_than: Older = None,
    younger_than: Younger = None,
    everything: All = False,
    repair: Repair = False,
    as_json: Json = False,
) -> None:
    """Put entries back on their queue, and remove each once it is durably there."""
    _carry_out(
        partial(Replay.replay, repair=repair),
        "Replaying",
        names,
        _selection(reason, kind, older_than, younger_than),
        everything=everything,
        as_json=as_json,
    )


@app.command()
def discard(
    names: Names = None,
    *,
    reason: Reasons = None,
    kind: Kinds = None,
    older_than: Older = None,
    younger_than: Younger = None,
    everything: All = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete entries. The account keeps what is deleted readable for some days, 7 as deployed."""
    confirm(
        "Nothing replays what is discarded; the account may keep it readable for some days. Go on?",
        yes=yes,
        as_json=as_json,
    )
    _carry_out(
        Replay.discard,
        "Discarding",
        names,
        _selection(reason, kind, older_than, younger_than),
        everything=everything,
        as_json=as_json,
    )


def _carry_out(
    act: Callable[[Replay, str], Coroutine[Any, Any, Done]],
    title: str,
    names: list[str] | None,
    selection: Selection,
    *,
    everything: bool,
    as_json: bool,
) -> None:
    if bool(names) + (selection != Selection()) + everything != 1:
        raise typer.BadParameter("say which: names, or a choice by reason, kind and age, or --all")
    progress = Progress(
        SpinnerColumn(),
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        disable=as_json,
        transient=True,
    )

    async def work(context: CommandContext) -> tuple[Counter[str], dict[str, str]]:
        outcomes: Counter[str] = Counter()
        problems: dict[str, str] = {}
        slots = asyncio.Semaphore(_AT_ONCE)
        replay = _replay(context)
        todo = names or [entry.name async for entry in replay.entries(selection, context.clock.now())]
        task = progress.add_task(title, total=len(todo))

        async def act_on(name: str) -> None:
            async with slots:
                try:
                    outcomes[await act(replay, name)] += 1
                except SwitchboardError as error:
                    problems[name] = error.reason
            progress.advance(task)

        await asyncio.gather(*map(act_on, todo))
        return outcomes, problems

    with progress:
        outcomes, problems = perform(work, as_json=as_json)
    if as_json:
        print_json({"outcomes": outcomes, "problems": problems})
    else:
        for outcome, count in outcomes.most_common() or [("done: there was nothing of that kind", 0)]:
            console().print(f"{count} {outcome}")
        for name, problem in problems.items():
            console(stderr=True).print(f"{name}: {problem}")
    missing = names is not None and outcomes[Done.GONE]
    if problems or missing or outcomes[Done.CHANGED]:
        raise typer.Exit(1)


def _selection(
    reasons: list[str] | None, kinds: list[str] | None, older: timedelta | None, younger: timedelta | None
) -> Selection:
    return Selection(frozenset(reasons or ()), frozenset(kinds or ()), older, younger)


def _replay(context: CommandContext) -> Replay:
    return Replay(context.raw_messages)


def _disclosed(parked: Parked) -> dict[str, Any]:
    """An entry without the shared secret that each notification carries."""
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(parked))
    if parked.text is not None:
        text = repaired(parked.text).decode() if parked.unreadable else parked.text
        shown["text"] = _SECRET_IN_TEXT.sub(rf"\1{_HIDDEN}", text)
    for notification in shown.get("envelope", {}).get("notifications", ()):
        if isinstance(notification, dict) and _SECRET in notification:
            notification[_SECRET] = _HIDDEN
    return shown
