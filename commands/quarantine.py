"""`manage.py quarantine`: what could not be handled, and what is to become of it."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from commands.terminal import (
    Json,
    Watch,
    Yes,
    again_and_again,
    confirm,
    console,
    epilog,
    fail,
    group,
    perform,
    print_json,
    print_table,
    progress_bar,
)

if TYPE_CHECKING:
    from commands.context import CommandContext
    from shared.notifications.quarantine import Parked
    from shared.notifications.replay import Done, Entry, Replay, Selection

# ruff: noqa: PLC0415 - imports are late, so that `--help` and completion wait for none of them

_AT_ONCE: Final = 16
_AGE: Final = re.compile(r"(\d+)([smhd])")
_UNIT: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SECRET: Final = "clientState"  # noqa: S105 - the name of the field
_SECRET_IN_TEXT: Final = re.compile(r'("clientState"\s*:\s*")(?:[^"\\]|\\.)*')
_HIDDEN: Final = "(hidden)"

_EXAMPLES: Final = (
    "quarantine list --reason unknown-certificate",
    "quarantine show raw-notifications/4f2a",
    "quarantine replay --reason unknown-certificate --younger-than 2d",
    "quarantine discard raw-notifications/4f2a",
)

app = group("What could not be handled.", *_EXAMPLES)


def _age(text: str) -> timedelta:
    match = _AGE.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not an age such as 90s, 15m, 2h or 3d")
    return timedelta(**{_UNIT[match[2]]: int(match[1])})


Name = Annotated[str, typer.Argument(help="A name as `list` shows it, or how one begins.")]
Names = Annotated[list[str] | None, typer.Argument(help="Names as `list` shows them, or how they begin.")]
Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only this reason; may be repeated.")]
Kinds = Annotated[list[str] | None, typer.Option("--kind", help="Only this kind of resource; may be repeated.")]
Older = Annotated[timedelta | None, typer.Option("--older-than", parser=_age, metavar="AGE", help="Such as 15m or 2d.")]
Younger = Annotated[
    timedelta | None, typer.Option("--younger-than", parser=_age, metavar="AGE", help="Such as 15m or 2d.")
]
All = Annotated[bool, typer.Option("--all", help="All that is there.")]

Repair = Annotated[bool, typer.Option("--repair", help="Make unreadable texts readable, in place of verbatim.")]


@app.command("list", epilog=epilog(*_EXAMPLES[:1]))
def list_entries(
    *,
    reason: Reasons = None,
    kind: Kinds = None,
    older_than: Older = None,
    younger_than: Younger = None,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """List what lies in quarantine, by reason, kind and age."""
    selection = _selection(reason, kind, older_than, younger_than)

    async def work(context: "CommandContext") -> None:
        async def show() -> None:
            now = context.clock.now()
            entries = [entry async for entry in _replay(context).entries(selection, now)]
            if as_json:
                print_json([_entry_json(entry) for entry in entries], in_one_line=watch)
            else:
                _print_entries(entries, lambda entry: now - entry.quarantined, narrowed=selection != _selection())

        await again_and_again(show, watch=watch)

    perform(work, as_json=as_json)


def _print_entries(entries: "Sequence[Entry]", age: "Callable[[Entry], timedelta]", *, narrowed: bool) -> None:
    from shared.values.times import span

    if not entries:
        console().print("Nothing of that kind is in quarantine." if narrowed else "Quarantine is empty.")
        return
    rows = sorted(entries, key=lambda entry: (entry.reason, entry.quarantined))
    print_table(
        ("reason", "kind", "age", "name"),
        ((entry.reason, entry.kind, span(age(entry)), entry.name) for entry in rows),
        below=3,
    )
    totals = Counter(entry.reason for entry in entries).most_common()
    console().print(f"\n{len(entries)} in quarantine: " + ", ".join(f"{count} {name}" for name, count in totals))


@app.command(epilog=epilog(*_EXAMPLES[1:2]))
def show(name: Name, as_json: Json = False) -> None:
    """Show one entry as it was received, still encrypted; its client state is left out."""

    async def work(context: "CommandContext") -> "Parked | None":
        replay = _replay(context)
        (entry,) = await _named(replay, [name], context)
        return await replay.show(entry)

    parked = perform(work, as_json=as_json)
    if parked is None:
        fail(f"{name} is not in quarantine", reason="not-in-quarantine", as_json=as_json)
    shown = _disclosed(parked)
    if as_json:
        print_json(shown)
        return
    print_table((), ((key, str(value)) for key, value in shown.items() if key != "envelope"))
    if "envelope" in shown:
        print_json(shown["envelope"])


@app.command(epilog=epilog(*_EXAMPLES[2:3]))
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
    chosen = _choose(names, _selection(reason, kind, older_than, younger_than), everything=everything, as_json=as_json)
    _carry_out(chosen, "Replaying", lambda replay: partial(replay.replay, repair=repair), names, as_json=as_json)


@app.command(epilog=epilog(*_EXAMPLES[3:]))
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
    chosen = _choose(names, _selection(reason, kind, older_than, younger_than), everything=everything, as_json=as_json)
    if chosen:
        question = f"Discard {len(chosen)}? Nothing replays them; the account may keep them readable for some days."
        confirm(question, yes=yes, as_json=as_json)
    _carry_out(chosen, "Discarding", lambda replay: replay.discard, names, as_json=as_json)


def _choose(names: list[str] | None, selection: "Selection", *, everything: bool, as_json: bool) -> list[str]:
    """The entries that are meant, by their whole names."""
    if bool(names) + (selection != _selection()) + everything != 1:
        raise typer.BadParameter("say which: names, or a choice by reason, kind and age, or --all")

    async def work(context: "CommandContext") -> list[str]:
        replay = _replay(context)
        if names:
            return await _named(replay, names, context)
        return [entry.name async for entry in replay.entries(selection, context.clock.now())]

    return perform(work, as_json=as_json)


async def _named(replay: "Replay", wanted: Iterable[str], context: "CommandContext") -> list[str]:
    """The whole name of each; one that no entry has stays as it is."""
    names = [entry.name async for entry in replay.entries(_selection(), context.clock.now())]
    return list(dict.fromkeys(_whole(want, names) for want in wanted))


def _whole(wanted: str, names: Sequence[str]) -> str:
    """The entry that is called so, or the only one that begins so, with or without its queue."""
    if wanted in names:
        return wanted
    alike = [name for name in names if name.startswith(wanted) or name.partition("/")[2].startswith(wanted)]
    if len(alike) > 1:
        raise typer.BadParameter(f"{len(alike)} entries begin with {wanted!r}, {alike[0]} and {alike[1]} among them")
    return alike[0] if alike else wanted


def _carry_out(
    chosen: Sequence[str],
    title: str,
    act: "Callable[[Replay], Callable[[str], Coroutine[Any, Any, Done]]]",
    names: list[str] | None,
    *,
    as_json: bool,
) -> None:
    from shared.notifications.replay import Done
    from shared.values.errors import SwitchboardError

    progress = progress_bar(title, shown=not as_json)

    async def work(context: "CommandContext") -> tuple[Counter[str], dict[str, str]]:
        outcomes: Counter[str] = Counter()
        problems: dict[str, str] = {}
        slots = asyncio.Semaphore(_AT_ONCE)
        act_on = act(_replay(context))
        task = progress.add_task(title, total=len(chosen))

        async def carry_out(name: str) -> None:
            async with slots:
                try:
                    outcomes[await act_on(name)] += 1
                except SwitchboardError as error:
                    problems[name] = error.reason
            progress.advance(task)

        await asyncio.gather(*map(carry_out, chosen))
        return outcomes, problems

    with progress:
        outcomes, problems = perform(work, as_json=as_json)
    if as_json:
        print_json({"outcomes": outcomes, "problems": problems})
    else:
        for outcome, count in outcomes.most_common() or [("done: there was nothing of that kind", 0)]:
            console().print(f"{count} {outcome}")
        for name, problem in problems.items():
            console(stderr=True).print(f"{name}: {problem}", soft_wrap=True)
    missing = names is not None and outcomes[Done.GONE]
    if problems or missing or outcomes[Done.CHANGED]:
        raise typer.Exit(1)


def _selection(
    reasons: list[str] | None = None,
    kinds: list[str] | None = None,
    older: timedelta | None = None,
    younger: timedelta | None = None,
) -> "Selection":
    from shared.notifications.replay import Selection

    return Selection(frozenset(reasons or ()), frozenset(kinds or ()), older, younger)


def _replay(context: "CommandContext") -> "Replay":
    from shared.notifications.replay import Replay

    return Replay(context.raw_messages)


def _entry_json(entry: "Entry") -> Any:
    import msgspec

    return msgspec.to_builtins(entry)


def _disclosed(parked: "Parked") -> dict[str, Any]:
    """An entry without the shared secret that each notification carries."""
    import msgspec

    from shared.values.message_text import repaired

    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(parked))
    if parked.text is not None:
        text = repaired(parked.text).decode() if parked.unreadable else parked.text
        shown["text"] = _SECRET_IN_TEXT.sub(rf"\1{_HIDDEN}", text)
    for notification in shown.get("envelope", {}).get("notifications", ()):
        if isinstance(notification, dict) and _SECRET in notification:
            notification[_SECRET] = _HIDDEN
    return shown
