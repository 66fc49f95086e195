"""How `manage.py subscriptions` shows plans, reports and subscriptions: the same words in tables and in JSON."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.text import Text

from commands.terminal import console, print_table
from shared.operations.limits import NEAR_ITS_END
from shared.subscriptions.actions import Action, Outcome, Reason, Result, Verb
from shared.subscriptions.run_report import Failure, RenewalReport
from shared.values.endpoint import ClientStateVersion, Endpoint
from shared.values.graph import Subscription
from shared.values.times import span

_BAR: Final = 20  # characters
_RENEWED_BY: Final = 0.45  # renewal is due at a half and comes by every five minutes: what has less is not reached
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
}
_COLOURS: Final = {
    Verb.CREATE: "green",
    Verb.RENEW: "cyan",
    Verb.REPLACE: "yellow",
    Verb.DELETE: "red",
    Verb.LEAVE: "dim",
}
FOREIGN: Final = "foreign"
_STATES: Final = {
    ClientStateVersion.CURRENT: ("green", "ours"),
    ClientStateVersion.PREVIOUS: ("yellow", "ours, of the previous client state"),
    ClientStateVersion.UNKNOWN: ("red", "ours, of an unknown client state: what comes from it is refused"),
    FOREIGN: ("dim", "it delivers elsewhere: not ours"),
}


def shown(actions: Iterable[Action], listed: Collection[str] = (), *, everything: bool = False) -> list[Action]:
    """The changes, and what nobody desires unless it is `listed` by itself; or `everything`."""
    return [
        action
        for action in actions
        if everything
        or action.verb is not Verb.LEAVE
        or (
            action.reason is Reason.UNWANTED
            and action.subscription is not None
            and action.subscription.id not in listed
        )
    ]


def print_plan(actions: Sequence[Action], changes: Sequence[Action]) -> None:
    """Print those that are to be shown, and why; then how many of all there are of each sort."""
    if changes:
        now = datetime.now(UTC)
        print_table(
            ("action", "reason", "kind", "left", "resource"),
            (
                (
                    Text(action.verb, style=_COLOURS[action.verb]),
                    action.reason,
                    "" if action.kind is None else action.kind.key,
                    "" if action.subscription is None else span(action.subscription.expires - now),
                    _resource(action),
                )
                for action in changes
            ),
            below=4,
        )
        console().print()
        _print_legend({action.reason: _WHY[action.reason] for action in changes})
    counts = Counter(str(action.verb) for action in actions)
    stay = counts.pop(str(Verb.LEAVE), 0)
    console().print("; ".join((*(f"{count} to {verb}" for verb, count in counts.items()), f"{stay} stay as they are")))


def print_report(report: RenewalReport) -> None:
    """Print what a run did, each with its id, and what it could not do."""
    done = [result for result in report.results if result.outcome is not Outcome.UNCHANGED]
    if done:
        rows = ((result.outcome, _kind_of(result), _id_of(result) or "", _resource(result.action)) for result in done)
        print_table(("outcome", "kind", "id", "resource"), rows, below=3)
        console().print()
    console().print(", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.items()) or "nothing to do")
    nearest = "" if report.nearest is None else f"; the nearest end is {span(report.nearest)} away"
    console().print(f"{report.desired} desired, {report.live} live{nearest}")
    print_failures(report.failures)


def print_subscriptions(rows: Sequence[tuple[Subscription, str]], now: datetime) -> None:
    """Print subscriptions with their states, and what is left of their lives."""
    if not rows:
        console().print("There are no subscriptions.")
        return
    print_table(
        ("id", "kind", "left", "state", "life", "resource"),
        (
            (
                subscription.id,
                "?" if subscription.kind is None else subscription.kind.key,
                span(subscription.expires - now),
                Text(state, style=_STATES[state][0]),
                _life(subscription, now),
                subscription.resource,
            )
            for subscription, state in rows
        ),
        below=5,
    )
    unusual = {state: _STATES[state][1] for _, state in rows if state != ClientStateVersion.CURRENT}
    if unusual:
        console().print()
        _print_legend(unusual)


def print_failures(failures: Iterable[Failure]) -> None:
    """Print what went wrong; what is wrong with the desired state line by line, with what stands there."""
    for failure in failures:
        times = f" ({failure.count} times)" if failure.count > 1 else ""
        words = dict.fromkeys((failure.what, failure.reason))
        console(stderr=True).print(f"{': '.join(words)}{times}: {failure.told}", style="red", soft_wrap=True)


def _print_legend(words: dict[Any, str]) -> None:
    for word, meaning in words.items():
        console().print(f"{word}: {meaning}", style="dim", soft_wrap=True)


def action_json(action: Action) -> dict[str, Any]:
    """An action of a plan."""
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


def report_json(report: RenewalReport) -> dict[str, Any]:
    """What a run did."""
    return {
        "desired": report.desired,
        "live": report.live,
        "outcomes": {str(outcome): count for outcome, count in report.outcomes.items()},
        "results": [
            {
                "outcome": str(result.outcome),
                "tenantId": result.action.tenant_id,
                "kind": _kind_of(result) or None,
                "subscriptionId": _id_of(result),
                "resource": _resource(result.action),
            }
            for result in report.results
            if result.outcome is not Outcome.UNCHANGED
        ],
        "nearestExpirySeconds": None if report.nearest is None else round(report.nearest.total_seconds()),
        "failures": [failure_json(failure) for failure in report.failures],
    }


def failure_json(failure: Failure) -> dict[str, Any]:
    """Something that was not done."""
    return {
        "tenantId": failure.tenant_id,
        "stage": str(failure.stage),
        "kind": failure.kind,
        "reason": failure.reason,
        "count": failure.count,
        "detail": failure.told,
        "subscriptionId": failure.subscription_id,
    }


def subscription_json(subscription: Subscription, state: str, now: datetime) -> dict[str, Any]:
    """A subscription that Graph lists."""
    return {
        "id": subscription.id,
        "tenantId": subscription.tenant_id,
        "kind": None if subscription.kind is None else subscription.kind.key,
        "resource": subscription.resource,
        "expires": subscription.expires.isoformat(),
        "remainingSeconds": round((subscription.expires - now).total_seconds()),
        "certificateId": subscription.certificate_id,
        "state": state,
    }


def state_of(subscription: Subscription, endpoint: Endpoint) -> str:
    """Whose it is, and which client state it carries."""
    if not endpoint.owns(subscription.notification_url):
        return FOREIGN
    return str(endpoint.read_mark(subscription.notification_url)[0])


def _resource(action: Action) -> str:
    if action.desired is not None:
        return action.desired.resource
    return "" if action.subscription is None else action.subscription.resource


def _kind_of(result: Result) -> str:
    return "" if result.action.kind is None else result.action.kind.key


def _id_of(result: Result) -> str | None:
    return result.removed if result.subscription is None else result.subscription.id


def _life(subscription: Subscription, now: datetime) -> Text:
    """What is left of the life that Graph granted, or of the longest of the kind; renewal is due at half of it."""
    if subscription.kind is None:
        return Text()
    share = min(max((subscription.expires - now) / (subscription.life or subscription.kind.max_lifetime), 0.0), 1.0)
    filled = round(share * _BAR)
    style = "green" if share > _RENEWED_BY else "yellow" if share > NEAR_ITS_END else "red"
    return Text.assemble(("█" * filled, style), ("░" * (_BAR - filled), "dim"))
