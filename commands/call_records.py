"""`manage.py call-records`: what Graph lists of call records, beside what was delivered."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from commands.terminal import Json, console, epilog, fail, group, perform, print_json, progress_bar

if TYPE_CHECKING:
    from collections import Counter

    from commands.context import CommandContext
    from shared.values.errors import SwitchboardError

# ruff: noqa: PLC0415 - imports are late, so that `--help` and completion wait for none of them

_EXAMPLES: Final = (
    "call-records backfill --since 2026-11-29T10:22",
    "call-records backfill --since 2026-11-28 --until 2026-11-29 --json",
)

app = group("Call records that were missed.", *_EXAMPLES)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time such as 2026-11-29T08:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


Since = Annotated[datetime, typer.Option("--since", parser=_moment, metavar="TIME", help="UTC, unless it says else.")]
Until = Annotated[
    datetime | None, typer.Option("--until", parser=_moment, metavar="TIME", help="Now, if it is not given.")
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Only this tenant; all that are served if not given.")]


@app.callback()
def call_records() -> None:
    """Call records that were missed."""


@app.command(epilog=epilog(*_EXAMPLES))
def backfill(since: Since, until: Until = None, tenant: Tenant = None, as_json: Json = False) -> None:
    """Write events of the call records made in a time that are not noted as delivered.

    It may be repeated: an event of the same version of a record has the same id.
    """
    from collections import Counter

    from shared.call_records.coverage import KEPT, Gap
    from shared.values.errors import SwitchboardError

    now = datetime.now(UTC)
    gap = Gap(max(since, now - KEPT), min(until or now, now))
    if gap.until <= gap.since:
        days = KEPT.days
        raise typer.BadParameter(f"--until must be after --since, and in the {days} days for which Graph keeps records")
    progress = progress_bar(
        "{task.description}", shown=not as_json, counts="{task.fields[listed]} listed, {task.fields[absent]} absent"
    )

    async def work(context: "CommandContext") -> "tuple[Counter[str], dict[str, SwitchboardError]] | None":
        served = context.settings.tenant_ids
        if tenant is not None and tenant.lower() not in served:
            raise typer.BadParameter(f"--tenant is not one of {', '.join(sorted(served))}")
        wanted = [
            want
            for want in (await context.desired.load()).subscriptions
            if want.kind.is_fetchable and (tenant is None or want.tenant_id == tenant.lower())
        ]
        if not wanted:
            return None
        counts, problems = Counter({"listed": 0, "absent": 0}), dict[str, SwitchboardError]()
        for want in wanted:
            task = progress.add_task(want.tenant_id, total=None, listed=0, absent=0)
            listed = absent = 0
            try:
                async for step in context.record_audit.backfill(want.tenant_id, want.resource, gap):
                    listed, absent = step.listed, step.absent
                    progress.update(task, completed=step.done, total=step.steps, listed=listed, absent=absent)
            except SwitchboardError as error:
                problems[want.tenant_id] = error
            counts.update(listed=listed, absent=absent)
        return counts, problems

    with progress:
        result = perform(work, as_json=as_json)
    if result is None:
        fail("the desired state asks for no call records there", reason="not-desired", as_json=as_json)
    counts, problems = result
    if as_json:
        print_json({**counts, "problems": {name: error.reason for name, error in problems.items()}})
    else:
        console().print(f"{counts['listed']} listed; {counts['absent']} were absent, and their events are on their way")
        for name, problem in problems.items():
            console(stderr=True).print(f"{name}: {problem.reason}: {problem}", style="red", soft_wrap=True)
    if problems:
        raise typer.Exit(1)
