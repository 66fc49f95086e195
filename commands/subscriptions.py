"""`manage.py subscriptions`: the subscriptions in Graph, beside the desired ones."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.table import Column
from rich.text import Text

from commands.context import CommandContext
from commands.terminal import Json, Yes, confirm, console, fail, group, perform, print_json, table
from shared.subscriptions.actions import Outcome
from shared.subscriptions.planned import Action, Reason, Verb
from shared.subscriptions.renewal_state import Runner
from shared.subscriptions.run_report import Failure, Forecast, Removal, RenewalReport
from shared.subscriptions.state import believed
from shared.values.duration import span
from shared.values.endpoint import ClientStateVersion
from shared.values.errors import UnavailableError
from shared.values.graph import SignedInListError, Subscription

_BAR: Final = 20  # characters
_RESOURCE: Final = 40  # characters

_WHY: Final = {
    Reason.MISSING: "it does not exist",
    Reason.HALF_LIFE: "half of its life is over",
    Reason.REAUTHORIZATION: "Graph asked for it",
    Reason.CERTIFICATE: "the certificate was rotated",
    Reason.NOTIFICATION_URL: "the notification URL has changed",
    Reason.CLIENT_STATE: "the client state was rotated",
    Reason.UNKNOWN_MARK: "it was made with another client state or lifecycle URL",
    Reason.RESOURCE_DATA: "resource data is wanted, or no longer wanted",
    Reason.CHANGE_TYPE: "its change types are not the desired ones",
    Reason.REFUSED: "Graph does not renew it",
    Reason.SUPERSEDED: "the list of users has changed",
    Reason.DUPLICATE: "there is another one for the same resource",
    Reason.UNWANTED: "nothing asks for it",
    Reason.FRESH: "all is well",
    Reason.FOREIGN: "it delivers elsewhere: not ours",
    Reason.UNKNOWN_RESOURCE: "its resource is not in the catalogue",
}
_LEFT_BY_PRUNE: Final = {Reason.FOREIGN, Reason.DUPLICATE}
_COLOURS: Final = {
    Verb.CREATE: "green",
    Verb.RENEW: "cyan",
    Verb.REPLACE: "yellow",
    Verb.DELETE: "red",
    Verb.LEAVE: "dim",
}

app = group("Graph's subscriptions, beside the desired ones.")

Prune = Annotated[bool, typer.Option("--prune", help="Also delete what is ours and nothing asks for.")]


@app.command()
def plan(
    prune: Prune = False,
    everything: Annotated[bool, typer.Option("--all", help="Also what stays as it is.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a renewal run would change now, and why; change nothing."""

    async def work(context: CommandContext) -> Forecast:
        return await context.renewal.plan(prune=prune)

    forecast = perform(work, as_json=as_json)
    if as_json:
        shown = [action for action in forecast.actions if everything or action.verb is not Verb.LEAVE]
        print_json(
            {
                "actions": [_action_json(action) for action in shown],
                "failures": [_failure_json(failure) for failure in forecast.failures],
            }
        )
    else:
        _print_plan(forecast.actions, everything=everything)
        _print_failures(forecast.failures)
    if forecast.failures:
        raise typer.Exit(1)


@app.command()
def apply(as_json: Json = False) -> None:
    """Do now what the renewal timer does: create, renew and replace."""

    async def work(context: CommandContext) -> RenewalReport:
        return await context.finished_runs.see(context.renewal.run(), Runner.OPERATOR)

    report = perform(work, as_json=as_json)
    done = {str(outcome): count for outcome, count in report.outcomes.items()}
    if as_json:
        print_json(
            {
                "desired": report.desired,
                "live": report.live,
                "outcomes": done,
                "nearestExpirySeconds": None if report.nearest is None else round(report.nearest.total_seconds()),
                "failures": [_failure_json(failure) for failure in report.failures],
            }
        )
    else:
        _print_counts(done)
        nearest = "" if report.nearest is None else f"; the nearest end is {span(report.nearest)} away"
        console().print(f"{report.desired} desired, {report.live} live{nearest}")
        _print_failures(report.failures)
    if report.failures:
        raise typer.Exit(1)


@app.command("list")
def list_subscriptions(as_json: Json = False) -> None:
    """List Graph's subscriptions, with what is left of their lives."""

    async def work(context: CommandContext) -> list[tuple[Subscription, str]]:
        listed = [one for tenant_id in context.settings.tenant_ids for one in await _listed(context, tenant_id)]
        return [(one, _state(one, context)) for one in sorted(listed, key=lambda one: one.expires)]

    states = perform(work, as_json=as_json)
    now = datetime.now().astimezone()
    if as_json:
        print_json([_subscription_json(one, now) | {"state": state} for one, state in states])
        return
    if not states:
        console().print("There are no subscriptions.")
        return
    shown = table(Column("id", min_width=36), "kind", _resource_column(), "left", "", "state")
    for listed, state in states:
        left = span(listed.expires - now)
        shown.add_row(listed.id, _kind(listed), listed.resource, left, _life(listed, now), _state_text(state))
    console().print(shown)


@app.command()
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids as `list` shows them.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete subscriptions of ours by id. Desired ones come back with the next renewal run."""
    confirm(
        f"Delete {len(ids)}? Nothing is notified of what they were for until they are back.", yes=yes, as_json=as_json
    )

    async def work(context: CommandContext) -> Removal:
        return await context.renewal.delete(dict.fromkeys(ids))

    _report(perform(work, as_json=as_json), ids, as_json=as_json)


@app.command()
def prune(yes: Yes = False, as_json: Json = False) -> None:
    """Delete the subscriptions that are ours and that nothing asks for."""

    async def survey(context: CommandContext) -> Forecast:
        return await context.renewal.plan(prune=True)

    forecast = perform(survey, as_json=as_json)
    if forecast.failures:
        if not as_json:
            _print_failures(forecast.failures)
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
        _print_plan(unwanted, everything=True)
    confirm(f"Delete these {len(ids)}?", yes=yes, as_json=as_json)

    async def work(context: CommandContext) -> Removal:
        return await context.renewal.prune(ids)

    _report(perform(work, as_json=as_json), ids, as_json=as_json)


async def _listed(context: CommandContext, tenant_id: str) -> list[Subscription]:
    """What Graph lists, by what is remembered of it: only that tells what Graph granted."""
    try:
        known = (await context.known.load(tenant_id)).memory.known
    except UnavailableError:
        known = {}
    listed: list[Subscription] = []
    try:
        async for page in context.graph.subscription_pages(tenant_id):
            listed += (believed(one, known.get(one.id)) for one in page)
    except SignedInListError as error:
        console(stderr=True).print(str(error), style="yellow")
    return listed


def _print_unsure(actions: Iterable[Action]) -> None:
    left = [action for action in actions if action.desired is None and action.reason not in _LEFT_BY_PRUNE]
    unsure = sum(action.verb is not Verb.DELETE for action in left)
    if unsure:
        text = f"{unsure} more are left: they are known by Graph's spelling alone, and something desired is missing"
        console(stderr=True).print(text, style="yellow")


def _report(removal: Removal, ids: Sequence[str], *, as_json: bool) -> None:
    """Say what was deleted; exit code 1 where something was not that should be."""
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
        failures = {"failures": [_failure_json(failure) for failure in removal.failures]} if removal.failures else {}
        print_json({"deleted": done, "problems": problems} | failures)
    else:
        console().print(f"{done} deleted" if ids else "There is nothing to delete.")
        for name, problem in problems.items():
            console(stderr=True).print(f"{name}: {problem}", style="red")
        _print_failures(removal.failures)
    if problems:
        raise typer.Exit(1)


def _print_plan(actions: Sequence[Action], *, everything: bool) -> None:
    changes = [action for action in actions if everything or action.verb is not Verb.LEAVE]
    if changes:
        shown = table("action", "kind", Column("resource", overflow="fold"), "why", "left")
        now = datetime.now().astimezone()
        for action in changes:
            shown.add_row(
                Text(action.verb, style=_COLOURS[action.verb]),
                "" if action.kind is None else action.kind.key,
                _resource(action),
                _WHY[action.reason],
                "" if action.subscription is None else span(action.subscription.expires - now),
            )
        console().print(shown)
        console().print()
    counts = Counter(str(action.verb) for action in actions)
    stay = counts.pop(str(Verb.LEAVE), 0)
    console().print("; ".join((*(f"{count} to {verb}" for verb, count in counts.items()), f"{stay} stay as they are")))


def _print_counts(counts: dict[str, int]) -> None:
    shown = table("", "")
    shown.show_header = False
    for name, count in counts.items():
        shown.add_row(name, str(count))
    console().print(shown)


def _print_failures(failures: Iterable[Failure]) -> None:
    for failure in failures:
        times = f" ({failure.count} times)" if failure.count > 1 else ""
        console(stderr=True).print(f"{failure.what}: {failure.reason}{times}: {failure.detail}", style="red")


def _action_json(action: Action) -> dict[str, Any]:
    old = action.subscription
    return {
        "action": str(action.verb),
        "reason": str(action.reason),
        "tenantId": action.tenant_id,
        "kind": None if action.kind is None else action.kind.key,
        "resource": _resource(action),
        "subscriptionId": None if old is None else old.id,
        "expires": None if old is None else old.expires.isoformat(),
    }


def _failure_json(failure: Failure) -> dict[str, Any]:
    return {
        "tenantId": failure.tenant_id,
        "stage": str(failure.stage),
        "kind": failure.kind,
        "reason": failure.reason,
        "count": failure.count,
        "detail": failure.detail,
        "subscriptionId": failure.subscription_id,
    }


def _subscription_json(subscription: Subscription, now: datetime) -> dict[str, Any]:
    return {
        "id": subscription.id,
        "tenantId": subscription.tenant_id,
        "kind": None if subscription.kind is None else subscription.kind.key,
        "resource": subscription.resource,
        "expires": subscription.expires.isoformat(),
        "remainingSeconds": round((subscription.expires - now).total_seconds()),
        "certificateId": subscription.certificate_id,
    }


def _resource(action: Action) -> str:
    if action.desired is not None:
        return action.desired.resource
    return "" if action.subscription is None else action.subscription.resource


def _resource_column() -> Column:
    """One line to a resource, however long it is; JSON has all of it."""
    return Column("resource", no_wrap=True, overflow="ellipsis", max_width=_RESOURCE)


def _kind(subscription: Subscription) -> str:
    return "?" if subscription.kind is None else subscription.kind.key


def _state(subscription: Subscription, context: CommandContext) -> str:
    if not context.endpoint.owns(subscription.notification_url):
        return "foreign"
    version, _ = context.endpoint.read_mark(subscription.notification_url)
    return str(version)


def _state_text(state: str) -> Text:
    """Whose it is, and which client state it carries."""
    texts = {
        str(ClientStateVersion.CURRENT): ("ours", "green"),
        str(ClientStateVersion.PREVIOUS): ("ours, of the previous client state", "yellow"),
        str(ClientStateVersion.UNKNOWN): ("ours, of an unknown client state: refused", "red"),
    }
    text, style = texts.get(state, ("not ours", "dim"))
    return Text(text, style=style)


def _life(subscription: Subscription, now: datetime) -> Text:
    """What is left of the life that Graph granted, or of the longest of the kind; renewal is due at half of it."""
    if subscription.kind is None:
        return Text()
    share = min(max((subscription.expires - now) / (subscription.life or subscription.kind.max_lifetime), 0.0), 1.0)
    filled = round(share * _BAR)
    # Renewal comes by every five minutes, so a subscription well below half is one that it does not reach.
    style = "green" if share > 0.45 else "yellow" if share > 0.2 else "red"
    return Text.assemble(("█" * filled, style), ("░" * (_BAR - filled), "dim"))
