"""`manage.py subscriptions`: the subscriptions in Graph, beside the desired ones."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Final

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
)

if TYPE_CHECKING:
    from commands.context import CommandContext
    from shared.subscriptions.actions import Action
    from shared.subscriptions.run_report import Forecast, Removal, RenewalReport
    from shared.subscriptions.unwanted import Unwanted
    from shared.values.graph import Subscription

# ruff: noqa: PLC0415 - imports are late, so that `--help` and completion wait for none of them

_EXAMPLES: Final = (
    "subscriptions plan --all",
    "subscriptions apply",
    "subscriptions list --watch",
    "subscriptions delete 6318d17f-a795-4333-8925-72c96a45646c",
    "subscriptions prune",
    "subscriptions confirm",
)

app = group("Graph's subscriptions, beside the desired ones.", *_EXAMPLES)

Prune = Annotated[bool, typer.Option("--prune", help="Also delete what is ours and nothing asks for.")]


@app.command(epilog=epilog(*_EXAMPLES[:1]))
def plan(
    prune: Prune = False,
    everything: Annotated[bool, typer.Option("--all", help="Also what stays as it is.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a renewal run would change now, and why; change nothing."""
    from commands import subscription_views as views
    from commands.unwanted import print_unwanted, unwanted_by_id, unwanted_json
    from shared.values.errors import UnavailableError

    async def work(context: "CommandContext") -> "tuple[Forecast, dict[str, Unwanted]]":
        await _tell_strangers(context)
        forecast = await context.renewal.plan(prune=prune)
        try:
            return forecast, await unwanted_by_id(context)
        except UnavailableError:  # the forecast has it among its failures
            return forecast, {}

    forecast, unwanted = perform(work, as_json=as_json)
    shown = views.shown(forecast.actions, unwanted, everything=everything)
    if as_json:
        print_json(
            {
                "actions": [views.action_json(action) for action in shown],
                "failures": [views.failure_json(failure) for failure in forecast.failures],
                "unwanted": unwanted_json(unwanted),
            }
        )
    else:
        views.print_plan(forecast.actions, shown)
        print_unwanted(unwanted)
        views.print_failures(forecast.failures)
    if forecast.failures:
        raise typer.Exit(1)


@app.command(epilog=epilog(*_EXAMPLES[1:2]))
def apply(yes: Yes = False, as_json: Json = False) -> None:
    """Do now what the renewal timer does: create, renew and replace. Shows what, and asks first.

    Only as the app itself: what another application makes, the app can neither see nor renew.
    """
    from commands import subscription_views as views
    from commands.identity import refuse_strangers
    from shared.subscriptions.actions import Verb
    from shared.subscriptions.renewal_state import Runner

    async def survey(context: "CommandContext") -> "Forecast":
        await refuse_strangers(context)
        return await context.renewal.plan()

    forecast = perform(survey, as_json=as_json)
    changes = sum(action.verb is not Verb.LEAVE for action in forecast.actions)
    if not as_json:
        views.print_plan(forecast.actions, views.shown(forecast.actions))
    if changes:
        confirm(f"Carry out {changes}?", yes=yes, as_json=as_json)

    async def run(context: "CommandContext") -> "RenewalReport":
        report = await context.renewal.run()
        # Before its end is saved: whatever becomes of that, the ids of what was made are known.
        if as_json:
            print_json(views.report_json(report))
        else:
            views.print_report(report)
        return report

    async def work(context: "CommandContext") -> "RenewalReport":
        return await context.finished_runs.see(run(context), Runner.OPERATOR)

    if perform(work, as_json=as_json).failures:
        raise typer.Exit(1)


@app.command("list", epilog=epilog(*_EXAMPLES[2:3]))
def list_subscriptions(watch: Watch = False, as_json: Json = False) -> None:
    """List Graph's subscriptions, with what is left of their lives."""
    from commands import subscription_views as views

    async def work(context: "CommandContext") -> None:
        await _tell_strangers(context)

        async def show() -> None:
            tenant_ids = sorted(context.settings.tenant_ids)
            listed = [subscription for tenant_id in tenant_ids for subscription in await _listed(context, tenant_id)]
            rows = [
                (subscription, views.state_of(subscription, context.endpoint))
                for subscription in sorted(listed, key=lambda subscription: subscription.expires)
            ]
            now = context.clock.now()
            if as_json:
                print_json([views.subscription_json(*row, now) for row in rows], in_one_line=watch)
            else:
                views.print_subscriptions(rows, now)

        await again_and_again(show, watch=watch)

    perform(work, as_json=as_json)


@app.command(epilog=epilog(*_EXAMPLES[3:4]))
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids as `list` shows them.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete subscriptions of ours by id. Desired ones come back with the next renewal run."""
    confirm(
        f"Delete {len(ids)}? Nothing is notified of what they were for until they are back.", yes=yes, as_json=as_json
    )

    async def work(context: "CommandContext") -> "Removal":
        return await context.renewal.delete(dict.fromkeys(ids))

    _report(perform(work, as_json=as_json), ids, as_json=as_json)


@app.command(epilog=epilog(*_EXAMPLES[4:5]))
def prune(yes: Yes = False, as_json: Json = False) -> None:
    """Delete the subscriptions that are ours and that nothing asks for.

    Only as the app itself: what Graph does not show to another application is not gone.
    """
    from commands import subscription_views as views
    from commands.identity import refuse_strangers
    from shared.subscriptions.actions import Reason, Verb
    from shared.subscriptions.run_report import Removal

    async def survey(context: "CommandContext") -> "Forecast":
        await refuse_strangers(context)
        return await context.renewal.plan(prune=True)

    forecast = perform(survey, as_json=as_json)
    if forecast.failures:
        if not as_json:
            views.print_failures(forecast.failures)
        fail("nothing is deleted while the whole picture is not known", reason="incomplete", as_json=as_json)
    unwanted = [
        action for action in forecast.actions if action.verb is Verb.DELETE and action.reason is Reason.UNWANTED
    ]
    ids = [action.subscription.id for action in unwanted if action.subscription is not None]
    _print_unsure(forecast.actions)
    if not ids:
        _report(Removal((), ()), ids, as_json=as_json)
        return
    if not as_json:
        views.print_plan(unwanted, unwanted)
    confirm(f"Delete these {len(ids)}?", yes=yes, as_json=as_json)

    async def work(context: "CommandContext") -> "Removal":
        return await context.renewal.prune(ids)

    _report(perform(work, as_json=as_json), ids, as_json=as_json)


@app.command("confirm", epilog=epilog(*_EXAMPLES[5:]))
def confirm_unwanted(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Ids as `plan` shows them; else, all that wait.")
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Have the timer end subscriptions that nobody desires any more and that wait for a confirmation."""
    from commands.unwanted import chosen, print_unwanted, unwanted_by_id
    from shared.subscriptions.unwanted import Confirmations

    waiting = chosen(perform(unwanted_by_id, as_json=as_json), ids, as_json=as_json)
    if waiting:
        if not as_json:
            print_unwanted(waiting)
        confirm(f"End these {len(waiting)}? Nothing is notified of what they were for.", yes=yes, as_json=as_json)

        async def work(context: "CommandContext") -> None:
            await Confirmations(context.blobs, context.clock.now).add(waiting)

        perform(work, as_json=as_json)
    if as_json:
        print_json({"confirmed": list(waiting)})
    elif waiting:
        console().print(f"{len(waiting)} confirmed: the next run of the timer ends what has been unwanted for an hour")
    else:
        console().print("Nothing waits for a confirmation.")


async def _tell_strangers(context: "CommandContext") -> None:
    """Say it where this is not the app: what is shown is another application's."""
    from commands.identity import stranger
    from shared.values.graph_errors import CredentialError

    try:
        app_id = await stranger(context)
    except CredentialError:
        return  # whatever is asked of Graph next says so
    if app_id is not None:
        note = f"this is application {app_id}, and not the app: Graph shows it its own subscriptions, and not the app's"
        console(stderr=True).print(note, style="yellow", soft_wrap=True)


async def _listed(context: "CommandContext", tenant_id: str) -> "list[Subscription]":
    """What Graph lists, by what is remembered of it: only that tells what Graph granted."""
    from shared.subscriptions.state import believed
    from shared.values.errors import UnavailableError
    from shared.values.graph_errors import SignedInListError

    try:
        known = (await context.known.load(tenant_id)).memory.known
    except UnavailableError:
        known = {}
    listed: list[Subscription] = []
    try:
        async for page in context.graph.subscription_pages(tenant_id):
            listed += (believed(subscription, known.get(subscription.id)) for subscription in page)
    except SignedInListError as error:
        console(stderr=True).print(str(error), style="yellow", soft_wrap=True)
    return listed


def _print_unsure(actions: "Iterable[Action]") -> None:
    from shared.subscriptions.actions import Reason, Verb

    left_by_prune = {Reason.FOREIGN, Reason.DUPLICATE}
    left = [action for action in actions if action.desired is None and action.reason not in left_by_prune]
    unsure = sum(action.verb is not Verb.DELETE for action in left)
    if unsure:
        text = f"{unsure} more are left: they are known by Graph's spelling alone, and something desired is missing"
        console(stderr=True).print(text, style="yellow", soft_wrap=True)


def _report(removal: "Removal", ids: Sequence[str], *, as_json: bool) -> None:
    """Say what was deleted; exit code 1 where something was not that should be."""
    from commands import subscription_views as views
    from shared.subscriptions.actions import Outcome

    gone = {result.removed for result in removal.results if result.removed is not None}
    why = {
        result.action.subscription.id: result.error.reason
        for result in removal.results
        if result.error is not None and result.action.subscription is not None
    }
    # What no result is about is desired by now, or is in a tenant of which not all is known.
    problems = {name: why.get(name, "not-deleted") for name in dict.fromkeys(ids) if name not in gone}
    done = sum(result.outcome is Outcome.DELETED for result in removal.results)
    if as_json:
        failures = [views.failure_json(failure) for failure in removal.failures]
        print_json({"deleted": done, "problems": problems} | ({"failures": failures} if failures else {}))
    else:
        console().print(f"{done} deleted" if ids else "There is nothing to delete.")
        for name, problem in problems.items():
            console(stderr=True).print(f"{name}: {problem}", style="red", soft_wrap=True)
        views.print_failures(removal.failures)
    if problems:
        raise typer.Exit(1)
