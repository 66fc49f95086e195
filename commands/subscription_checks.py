"""Checks of `doctor` about subscriptions: those that are desired, those that live, and what becomes of them."""

from typing import Final

from commands.checks import Finding
from commands.context import CommandContext
from commands.identity import stranger
from shared.operations.limits import Level
from shared.subscriptions.actions import Reason, Verb
from shared.subscriptions.desired import DesiredStateError
from shared.subscriptions.desired_source import Stage
from shared.subscriptions.renewal_state import RenewalState
from shared.subscriptions.run_report import Failure, Forecast
from shared.values.consumers import KIND_QUEUES
from shared.values.errors import UnavailableError
from shared.values.graph_errors import CredentialError, TranscriptAccessError
from shared.values.resources import CATALOGUE
from shared.values.times import span

_LISTED: Final = 5  # one by one
_APPLY: Final = "the next renewal run mends it; python manage.py subscriptions apply does so now"
_REMEDIES: Final = {
    Stage.LIST: "see that Graph can be reached and that the token is good",
    Stage.GROUP: "grant GroupMember.Read.All, or correct the group's id in the desired state",
    Stage.DESIRED_STATE: "correct the desired state",
    Stage.SETTINGS: "correct the setting",
    Stage.KNOWN: "see that storage can be reached",
    Stage.TURN: "see that storage can be reached; another run gives its turn back when it ends",
}


async def subscriptions(context: CommandContext) -> list[Finding]:
    """Whether what is desired can be read, and lives. Graph shows that to the app alone; else its last run says so."""
    try:
        await context.desired.load()
    except DesiredStateError as error:
        remedy = f"correct {context.settings.subscriptions}"
        return [Finding("desiredState", "desired state", Level.BAD, "; ".join(error.problems), remedy)]
    except UnavailableError as error:
        told = f"{error} ({error.reason})"
        return [Finding("desiredState", "desired state", Level.BAD, told, "see that storage can be reached")]
    try:
        is_stranger = await stranger(context) is not None
    except CredentialError:
        return []  # the check of the token has said so
    if not is_stranger:
        return _planned(await context.renewal.plan())
    state = await _last_run(context)
    if state is None:
        return []  # the check of renewal has said so
    told = f"{state.live} live of {state.desired} desired, says the run of {_ago(context, state)}"
    level = Level.WELL if state.live >= state.desired else Level.ATTENTION
    way_on = None if level is Level.WELL else "the status page names what is in the way"
    return [Finding("subscriptions", "subscriptions", level, told, way_on)]


def _planned(forecast: Forecast) -> list[Finding]:
    identity = name = "subscriptions"
    actions = forecast.actions
    findings = [_failure(failure) for failure in forecast.failures if failure.stage is not Stage.CERTIFICATE]
    missing = sum(action.verb is Verb.CREATE for action in actions)
    useless = sum(action.reason is Reason.UNKNOWN_MARK and action.desired is not None for action in actions)
    late = sum(action.verb in {Verb.RENEW, Verb.REPLACE} for action in actions) - useless
    well = sum(action.desired is not None for action in actions) - missing - useless - late
    unwanted = sum(
        action.desired is None and action.reason not in {Reason.FOREIGN, Reason.DUPLICATE} for action in actions
    )
    if missing or useless:
        told = f"{missing} missing, {useless} of another client state, {well} well"
        findings.append(Finding(identity, name, Level.BAD, told, f"{_APPLY}, and says what is in the way"))
    elif late:
        told = f"{late} due for renewal or replacement, {well} well"
        findings.append(Finding(identity, name, Level.ATTENTION, told, _APPLY))
    elif not findings:
        findings.append(Finding(identity, name, Level.WELL, f"{well} as desired"))
    if unwanted:
        told, remedy = f"{unwanted} that nothing asks for", "python manage.py subscriptions prune"
        findings.append(Finding("unwanted", "unwanted subscriptions", Level.ATTENTION, told, remedy))
    return findings


def _failure(failure: Failure) -> Finding:
    told = f"{failure.what}: {failure.reason}: {failure.detail}"
    remedy = _REMEDIES.get(failure.stage, "see the logs")
    if failure.reason == TranscriptAccessError.reason_of_class:
        told, remedy = f"{failure.what}: {failure.reason}", TranscriptAccessError.REMEDY
    return Finding("subscriptions", "subscriptions", Level.BAD, told, remedy)


async def unclaimed(context: CommandContext) -> list[Finding]:
    """Kinds that are subscribed to and go to no consumer, because `CONSUMERS` switches the default one off."""
    kinds = context.settings.consumers.unclaimed
    if not kinds:
        return []
    try:
        state = await context.desired.load()
    except DesiredStateError:
        pass  # the check of the desired state has said so, and what lives may be of any kind
    else:
        desired = {want.kind.key for want in state.subscriptions} | {group.kind.key for group in state.groups}
        kinds = tuple(kind for kind in kinds if kind in desired or kind not in CATALOGUE)
    if not kinds:
        return []
    queues = ", ".join(KIND_QUEUES[kind] for kind in kinds)
    told = f"{', '.join(kinds)}: CONSUMERS gives them to nobody, and their events stay on {queues}"
    remedy = 'name them in CONSUMERS for who reads them, or remove its entry "default"'
    return [Finding("unclaimedKinds", "kinds without a consumer", Level.ATTENTION, told, remedy)]


async def kept(context: CommandContext) -> list[Finding]:
    """What Graph does not renew, and what becomes of it."""
    state = await _last_run(context)
    return [
        Finding(
            "kept",
            f"kept subscription {subscription.id}",
            Level.ATTENTION,
            f"{subscription.kind}, not renewed by Graph ({subscription.reason}); every run tries again, "
            + (
                f"it is replaced from {subscription.replaced_from:%Y-%m-%d %H:%M} UTC on, "
                if subscription.replaced_from
                else ""
            )
            + f"and it ends at {subscription.expires:%Y-%m-%d %H:%M} UTC",
            "nothing, if the reason is gone by then; docs/subscriptions.md, DELETE comes last, says what happens",
        )
        for subscription in (() if state is None else state.kept[:_LISTED])
    ]


async def client_state(context: CommandContext) -> list[Finding]:
    """Whether the previous client state can be taken away."""
    identity, name = "previousClientState", "previous client state"
    state = await _last_run(context)
    if state is None or len(context.settings.client_states) == 1:
        return []
    ago = f"the run of {_ago(context, state)}"
    keep = "keep CLIENT_STATE_PREVIOUS until none does, and four hours longer"
    if state.previous_client_state:
        told = f"{state.previous_client_state} still carry it, says {ago}"
        return [Finding(identity, name, Level.ATTENTION, told, keep)]
    if not state.lists_whole:
        told = f"{ago} saw none that carries it, but Graph did not give the whole list"
        return [Finding(identity, name, Level.ATTENTION, told, keep)]
    told = f"none carries it, says {ago}: four hours after the last, CLIENT_STATE_PREVIOUS can go"
    return [Finding(identity, name, Level.WELL, told)]


async def _last_run(context: CommandContext) -> RenewalState | None:
    """What the last run found; None where there was none. Raises UnavailableError."""
    return (await context.renewal_states.latest()).last


def _ago(context: CommandContext, state: RenewalState) -> str:
    return f"{span(context.clock.now() - state.finished)} ago"
