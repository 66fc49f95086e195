"""What `doctor` looks at: each check says what it found and, where that is not well, how to mend it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import jwt
import requests
from azure.core.exceptions import AzureError

from commands.context import CommandContext
from shared.notifications.poison import POISON_QUEUES
from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.operations.activity import MINUTES, recent_activity
from shared.operations.function_runs import OVERDUE_AFTER, QUEUE_FUNCTIONS
from shared.operations.limits import POISON, RAW_MESSAGES, RENEWAL, Level, Limit
from shared.subscriptions.desired import READ_MEMBERS, DesiredState, DesiredStateError
from shared.subscriptions.planned import Reason, Stage, Verb
from shared.subscriptions.run_report import Failure
from shared.telemetry import Happening
from shared.values.duration import span
from shared.values.errors import SettingsError, SwitchboardError, UnavailableError, UnknownCertificateError
from shared.values.graph import CredentialError, GraphError, PermissionDeniedError, SignInRequiredError
from shared.values.resources import RAW_QUEUE

_HANDSHAKE_SECONDS: Final = 10.0  # Graph's limit ("Receive change notifications through webhooks")
_SLOW_SECONDS: Final = 3.0
_KEY_SIZES: Final = range(2048, 4097)  # "Set up change notifications that include resource data"
_MEGABYTES_A_DAY: Final = 200  # an idle process sends about 6 (docs/telemetry.md)
_EXPIRES_SOON: Final = timedelta(days=30)
_COUNTED: Final = 1000
_LISTED: Final = 5  # one by one
_VALIDATION: Final = "Validation: doctor +%20&ä"  # what an endpoint that echoes carelessly would get wrong
_LOGIN: Final = "run: python manage.py login"
_APPLY: Final = "the next renewal run mends it; python manage.py subscriptions apply does so now"


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, how it is, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    remedy: str | None = None


def _ok(name: str, found: str) -> Check:
    return Check(name, State.OK, found)


def _warning(name: str, found: str, remedy: str) -> Check:
    return Check(name, State.WARNING, found, remedy)


def _problem(name: str, found: str, remedy: str) -> Check:
    return Check(name, State.PROBLEM, found, remedy)


def _lasting(name: str, found: str, limit: Limit, age: timedelta) -> Check:
    level = limit.level(age)
    if level is Level.WELL:
        return _ok(name, found)
    return (_problem if level is Level.BAD else _warning)(name, found, limit.remedy)


async def examine(context: CommandContext) -> list[Check]:
    """Make every check. One that depends on another's failure says so or is left out."""
    try:
        settings = context.settings
    except SettingsError as error:
        return [
            _problem("settings", problem, "set it in the app's settings, or in the settings file")
            for problem in error.problems
        ]
    checks: tuple[Callable[[CommandContext], Awaitable[list[Check]]], ...] = (
        _storage,
        _certificate,
        _policy,
        _graph_token,
        _validation_tokens,
        _sign_in,
        _handshakes,
        _subscriptions,
        _timer,
        _kept,
        _client_state,
        _functions,
        _raw_messages,
        _poison,
        _reception,
        _quarantine,
        _ingestion,
    )
    results = await asyncio.gather(*(check(context) for check in checks))
    return [_ok("settings", f"{len(settings.tenant_ids)} tenant(s)"), *(check for some in results for check in some)]


async def _storage(context: CommandContext) -> list[Check]:
    checks = []
    for name, role, question in (
        ("queue storage", "Storage Queue Data Contributor", context.queues.count(RAW_QUEUE)),
        ("blob storage", "Storage Blob Data Contributor", context.blobs.get("state", "renewal.json")),
    ):
        try:
            await question
        except UnavailableError as error:
            remedy = (
                "check AzureWebJobsStorage and the account's firewall"
                if error.reason == "storage-no-answer"
                else f"grant this identity the role {role}, or correct the key in AzureWebJobsStorage"
            )
            checks.append(_problem(name, f"{error} ({error.reason})", remedy))
        else:
            checks.append(_ok(name, "answers"))
    return checks


async def _certificate(context: CommandContext) -> list[Check]:
    name, certificate = "certificate", context.settings.certificate_name
    try:
        inspected = await context.certificates.inspect()
    except UnknownCertificateError:
        remedy = f"create an RSA certificate named {certificate} in Key Vault (az keyvault certificate create)"
        return [_problem(name, f"Key Vault has no RSA certificate {certificate}", remedy)]
    except UnavailableError as error:
        remedy = (
            "grant this identity the role Key Vault Secrets User"
            if error.reason in {"key-vault-401", "key-vault-403"}
            else "check KEY_VAULT_URL and the vault's firewall"
        )
        return [_problem(name, f"{error} ({error.reason})", remedy)]
    left = inspected.expires - context.clock.now()
    facts = f"{inspected.id}, RSA {inspected.key_size}"
    rotate = "rotate it: az keyvault certificate create makes a new version, which renewals move to"
    if inspected.key_size not in _KEY_SIZES:
        return [_problem(name, f"{facts}: Graph takes 2048 to 4096 bits", f"make a key of 2048 bits; {rotate}")]
    if left <= timedelta(0):
        return [_problem(name, f"{facts}: expired {span(-left)} ago", rotate)]
    if left < _EXPIRES_SOON:
        return [_warning(name, f"{facts}: expires in {span(left)}", rotate)]
    return [_ok(name, f"{facts}, expires in {span(left)}")]


async def _policy(context: CommandContext) -> list[Check]:
    """The certificate's policy, where this identity may read it: it has to, for nothing but this check."""
    name = "certificate policy"
    try:
        policy = await context.certificates.policy()
    except UnavailableError:
        return []  # the check of the certificate itself has said so
    if policy is None:
        return []
    if not policy.get("key_props", {}).get("exportable"):
        return [_problem(name, "the key is not exportable", "set exportable to true in the policy, and rotate")]
    actions = {action.get("action", {}).get("action_type") for action in policy.get("lifetime_actions", ())}
    if "AutoRenew" not in actions:
        return [_warning(name, "Key Vault does not renew it by itself", "add the lifetime action AutoRenew to it")]
    return [_ok(name, "exportable, renewed by Key Vault")]


async def _graph_token(context: CommandContext) -> list[Check]:
    checks: list[Check] = []
    desired = await _desired(context)
    for tenant_id in sorted(context.settings.tenant_ids):
        name = f"Graph token, tenant {tenant_id}"
        try:
            credential = context.credentials(tenant_id, delegated=False)
            token = await asyncio.to_thread(credential.get_token, f"{context.settings.graph_endpoint}/.default")
            claims = jwt.decode(token.token, options={"verify_signature": False})  # it is Graph's to verify
        except (AzureError, SwitchboardError, jwt.InvalidTokenError) as error:
            remedy = "check the managed identity (AZURE_CLIENT_ID), or sign in where this runs; then LOGIN_ENDPOINT"
            checks.append(_problem(name, f"no token: {type(error).__name__}", remedy))
            continue
        checks += _identity_checks(name, claims, tenant_id, context.settings.app_ids)
        checks += _permission_checks(claims, desired, tenant_id)
    return checks


def _identity_checks(name: str, claims: dict[str, Any], tenant_id: str, app_ids: frozenset[str]) -> list[Check]:
    app_id = str(claims.get("appid") or claims.get("azp") or "").lower()
    if str(claims.get("tid", "")).lower() != tenant_id:
        remedy = "give this tenant an identity of its own, or take it out of GRAPH_TENANT_IDS"
        return [_problem(name, f"the token is of another tenant: {claims.get('tid')}", remedy)]
    if app_id not in app_ids:
        remedy = "run this as the app itself, or add the application to GRAPH_APP_IDS"
        return [_problem(name, f"it is for application {app_id}, which is not in GRAPH_APP_IDS", remedy)]
    return [_ok(name, f"application {app_id}")]


def _permission_checks(claims: dict[str, Any], desired: DesiredState | None, tenant_id: str) -> list[Check]:
    if desired is None:
        return []
    held = set(claims.get("roles", ()))
    needed = {
        want.form.permission
        for want in desired.subscriptions
        if want.tenant_id == tenant_id and not want.kind.delegated_only
    }
    for group in desired.groups:
        if group.tenant_id == tenant_id:
            needed |= {group.form.permission, READ_MEMBERS}
    return [
        _ok(f"permission {permission}", "granted")
        if permission in held
        else _problem(
            f"permission {permission}",
            f"not granted in tenant {tenant_id}",
            f"grant the application permission {permission} of Microsoft Graph (run.py grant); granted? then up to "
            "24 h pass until a token has it, and a restart does not help",
        )
        for permission in sorted(needed)
    ]


async def _validation_tokens(context: CommandContext) -> list[Check]:
    checks = []
    for tenant_id in sorted(context.settings.tenant_ids):
        for app_id in sorted(context.settings.app_ids):
            name = f"appRoleAssignmentRequired, application {app_id}"
            where = "Entra ID, Enterprise applications, Properties, Assignment required"
            try:
                well = await context.graph.may_get_validation_tokens(tenant_id, app_id)
            except PermissionDeniedError:
                remedy = f"grant Application.Read.All to this identity, or see that it is No: {where}"
                checks.append(_warning(name, "cannot be read", remedy))
            except CredentialError:
                continue  # the check of the token has said so
            except (GraphError, UnavailableError) as error:
                checks.append(_warning(name, f"cannot be read: {error.reason}", f"see that it is No: {where}"))
            else:
                remedy = f"set it to No ({where}), or assign a role to Microsoft Graph Change Tracking"
                checks.append(
                    _ok(name, "Graph can vouch for rich notifications")
                    if well
                    else _problem(
                        name, "true: rich notifications come without validation tokens and are refused", remedy
                    )
                )
    return checks


async def _sign_in(context: CommandContext) -> list[Check]:
    desired = await _desired(context)
    tenants = {want.tenant_id for want in desired.subscriptions if want.kind.delegated_only} if desired else set()
    checks = []
    for tenant_id in sorted(tenants):
        name = f"sign-in for presence, tenant {tenant_id}"
        try:
            user = context.sign_ins.user(tenant_id)
            await asyncio.to_thread(user.get_token)
        except SignInRequiredError:
            remedy = _LOGIN if context.settings.sign_in_app_id else f"set SIGN_IN_APP_ID, then {_LOGIN}"
            checks.append(_problem(name, "nobody is signed in, or not any more", remedy))
        except UnavailableError as error:
            checks.append(_problem(name, f"{error} ({error.reason})", "see that Key Vault and Entra ID can be reached"))
        else:
            checks.append(_ok(name, "good"))
    return checks


async def _handshakes(context: CommandContext) -> list[Check]:
    settings = context.settings
    urls = dict.fromkeys((settings.notification_url, settings.lifecycle_notification_url))
    return [await asyncio.to_thread(_handshake, url) for url in urls]


def _handshake(url: str) -> Check:
    """What Graph does before it creates a subscription."""
    parts = urlsplit(url)
    name = f"handshake, {parts.netloc}{parts.path}"  # the query may hold a function key
    asked = f"{url}{'&' if parts.query else '?'}{urlencode({'validationToken': _VALIDATION})}"
    started = time.monotonic()
    try:
        response = requests.post(asked, timeout=_HANDSHAKE_SECONDS, allow_redirects=False)
    except requests.Timeout:
        return _problem(
            name, f"no answer within {_HANDSHAKE_SECONDS:.0f} s", "keep an instance always ready; see the logs"
        )
    except requests.RequestException as error:
        remedy = "see that the app runs, that NOTIFICATION_URL is right, and that Graph may reach it"
        return _problem(name, f"cannot be reached: {type(error).__name__}", remedy)
    seconds = time.monotonic() - started
    if response.status_code != requests.codes.ok:
        return _problem(name, f"answered {response.status_code}", "see that NOTIFICATION_URL is the app's own URL")
    if response.content != _VALIDATION.encode() or not response.headers.get("Content-Type", "").startswith(
        "text/plain"
    ):
        return _problem(
            name, "does not echo the token", "see that NOTIFICATION_URL is the app's and nothing rewrites it"
        )
    if seconds > _SLOW_SECONDS:
        return _warning(name, f"took {seconds:.1f} s", "keep an instance always ready: Graph waits for 10 s")
    return _ok(name, f"{seconds * 1000:.0f} ms")


async def _subscriptions(context: CommandContext) -> list[Check]:
    name = "subscriptions"
    try:
        await context.desired.load()
    except DesiredStateError as error:
        problems = "; ".join(error.problems)
        return [_problem("desired state", problems, f"correct {context.settings.subscriptions}")]
    except UnavailableError as error:
        return [_problem("desired state", f"{error} ({error.reason})", "see that storage can be reached")]
    forecast = await context.renewal.plan()
    checks = [_failure(failure) for failure in forecast.failures if failure.stage is not Stage.CERTIFICATE]
    missing = sum(action.verb is Verb.CREATE for action in forecast.actions)
    useless = sum(action.reason is Reason.UNKNOWN_MARK and action.desired is not None for action in forecast.actions)
    late = sum(action.verb in {Verb.RENEW, Verb.REPLACE} for action in forecast.actions) - useless
    well = sum(action.desired is not None for action in forecast.actions) - missing - useless - late
    unwanted = sum(
        action.desired is None and action.reason is not Reason.FOREIGN and action.reason is not Reason.DUPLICATE
        for action in forecast.actions
    )
    if missing or useless:
        text = f"{missing} missing, {useless} of another client state, {well} well"
        checks.append(_problem(name, text, f"{_APPLY}, and says what is in the way"))
    elif late:
        checks.append(_warning(name, f"{late} due for renewal or replacement, {well} well", _APPLY))
    elif not checks:
        checks.append(_ok(name, f"{well} as desired"))
    if unwanted:
        checks.append(_warning(name, f"{unwanted} that nothing asks for", "python manage.py subscriptions prune"))
    return checks


def _failure(failure: Failure) -> Check:
    remedies = {
        Stage.LIST: "see that Graph can be reached and that the token is good",
        Stage.GROUP: "grant GroupMember.Read.All, or correct the group's id in the desired state",
        Stage.DESIRED_STATE: "correct the desired state",
        Stage.SETTINGS: "correct the setting",
        Stage.KNOWN: "see that storage can be reached",
        Stage.TURN: "see that storage can be reached; another run gives its turn back when it ends",
    }
    return _problem(
        "subscriptions",
        f"{failure.what}: {failure.reason}: {failure.detail}",
        remedies.get(failure.stage, "see the logs"),
    )


async def _timer(context: CommandContext) -> list[Check]:
    name = "renewal timer"
    try:
        renewals = await context.renewal_states.latest()
    except UnavailableError:
        return []  # the check of storage has said so
    now, state = context.clock.now(), renewals.last
    if (trouble := renewals.trouble(now)) is not None:
        return [_problem(name, trouble.text, f"{_remedy([trouble.text])}; the log of renew_subscriptions says more")]
    if state is None:
        return [_problem(name, "no run has finished yet", RENEWAL.remedy)]
    ago = now - state.finished
    if state.failures and RENEWAL.level(ago) is not Level.BAD:
        return [_problem(name, f"the last run, {span(ago)} ago: {'; '.join(state.failures)}", _remedy(state.failures))]
    return [_lasting(name, f"the last run was {span(ago)} ago", RENEWAL, ago)]


async def _kept(context: CommandContext) -> list[Check]:
    """What Graph does not renew, and what becomes of it."""
    try:
        state = (await context.renewal_states.latest()).last
    except UnavailableError:
        return []  # the check of storage has said so
    return [
        _warning(
            f"kept subscription {kept.id}",
            f"{kept.kind}, not renewed by Graph ({kept.reason}); every run tries again, "
            + (f"it is replaced from {kept.replaced_from:%Y-%m-%d %H:%M} UTC on, " if kept.replaced_from else "")
            + f"and it ends at {kept.expires:%Y-%m-%d %H:%M} UTC",
            "nothing, if the reason is gone by then; docs/subscriptions.md, DELETE comes last, says what happens",
        )
        for kept in (() if state is None else state.kept[:_LISTED])
    ]


async def _client_state(context: CommandContext) -> list[Check]:
    """Whether the previous client state can be taken away."""
    name = "previous client state"
    try:
        state = (await context.renewal_states.latest()).last
    except UnavailableError:
        return []  # the check of storage has said so
    if state is None or len(context.settings.client_states) == 1:
        return []
    ago = f"the run of {span(context.clock.now() - state.finished)} ago"
    keep = "keep CLIENT_STATE_PREVIOUS until none does, and four hours longer"
    if state.previous_client_state:
        return [_warning(name, f"{state.previous_client_state} still carry it, says {ago}", keep)]
    if not state.lists_whole:
        return [_warning(name, f"{ago} saw none that carries it, but Graph did not give the whole list", keep)]
    return [_ok(name, f"none carries it, says {ago}: four hours after the last, CLIENT_STATE_PREVIOUS can go")]


async def _functions(context: CommandContext) -> list[Check]:
    try:
        runs = await context.function_runs.latest()
    except UnavailableError:
        return []  # the check of storage has said so
    if runs is None:
        return [_ok("functions", "none has been called yet")]
    now = context.clock.now()
    overdue = runs.overdue(now)
    late = [
        _problem(
            f"function {function}",
            f"has not run {'once in' if last is None else 'for'} {span(now - (last or runs.since))}",
            f"see that there is no setting AzureWebJobs.{function}.Disabled, and that the host takes its schedule: one "
            "that is wrong or whose setting is missing disables it alone, as the host's log says when it starts",
        )
        for function, last in overdue.items()
    ]
    lately = [f"{function} {span(now - last)} ago" for function, last in runs.last.items() if function not in overdue]
    never = [function for function in (*OVERDUE_AFTER, *QUEUE_FUNCTIONS) if function not in runs.last.keys() | overdue]
    text = ", ".join(lately) + (f"; not yet: {', '.join(never)}" if never else "")
    return [*late, _ok("functions", text)]


def _remedy(failures: Iterable[str]) -> str:
    if any("sign-in-required" in failure for failure in failures):
        return _LOGIN
    return "the other checks say what to do; python manage.py subscriptions apply tries again"


async def _raw_messages(context: CommandContext) -> list[Check]:
    name = "raw messages"
    try:
        fronts = await asyncio.gather(*(context.queues.oldest(queue) for queue in RAW_MESSAGES))
    except UnavailableError:
        return []  # the check of storage has said so
    now = context.clock.now()
    ages = {queue: now - front for queue, front in zip(RAW_MESSAGES, fronts, strict=True) if front is not None}
    late = [
        _lasting(name, f"{queue} has waited for {span(age)}", RAW_MESSAGES[queue], age)
        for queue, age in ages.items()
        if RAW_MESSAGES[queue].level(age) is not Level.WELL
    ]
    return late or [_ok(name, f"the oldest has waited for {span(max(ages.values()))}" if ages else "none is waiting")]


async def _poison(context: CommandContext) -> list[Check]:
    name = "poison messages"
    try:
        left = await context.poison_states.oldest()
        fronts = await asyncio.gather(*(context.queues.oldest(queue) for queue in POISON_QUEUES))
    except UnavailableError:
        return []  # the check of storage has said so
    since = [front for front in (*left.values(), *fronts) if front is not None]
    if not since:
        return [_ok(name, "none")]
    age = context.clock.now() - min(since)
    return [_lasting(name, f"the oldest has lain there for {span(age)}", POISON, age)]


async def _reception(context: CommandContext) -> list[Check]:
    name = "reception"
    try:
        activity = await recent_activity(context.blobs, context.clock.now())
    except UnavailableError:
        return []  # the check of storage has said so
    received = sum(map(sum, activity[Happening.RECEIVED].values()))
    refused = {reason: sum(counts) for reason, counts in activity[Happening.REFUSED].items()}
    text = f"{received} accepted in the last {MINUTES} minutes"
    if not refused:
        return [_ok(name, text)]
    text += f", refused: {', '.join(f'{count} {reason}' for reason, count in refused.items())}"
    if received:
        return [_ok(name, text)]
    return [_warning(name, text, "anybody can send what is refused; if it is Graph's, see Refusals in operations.md")]


async def _quarantine(context: CommandContext) -> list[Check]:
    name, count = "quarantine", 0
    try:
        async for _ in context.blobs.list(QUARANTINE_CONTAINER):
            count += 1
            if count == _COUNTED:
                break
    except UnavailableError:
        return []  # the check of storage has said so
    if count:
        text = f"{count}{' or more' if count == _COUNTED else ''} in quarantine"
        return [_warning(name, text, "python manage.py quarantine list says why; quarantine replay tries again")]
    return [_ok(name, "empty")]


async def _desired(context: CommandContext) -> DesiredState | None:
    """The desired state, or None where another check says what is wrong with it."""
    try:
        return await context.desired.load()
    except SwitchboardError:
        return None


async def _ingestion(context: CommandContext) -> list[Check]:
    """What telemetry costs, where the deployment says where it goes."""
    name, logs = "telemetry", context.logs
    if logs is None:
        return []
    try:
        tables = await logs.billed()
    except UnavailableError as error:
        remedy = (
            "grant whoever runs this the role Log Analytics Reader on the workspace"
            if error.reason == "log-analytics-403"
            else "look at the workbook's Records and megabytes instead"
        )
        return [_warning(name, f"{error} ({error.reason})", remedy)]
    total = sum(tables.values())
    if total <= _MEGABYTES_A_DAY:
        return [_ok(name, f"{total:.0f} MB in the last day")]
    most = ", ".join(f"{table} {megabytes:.0f} MB" for table, megabytes in list(tables.items())[:3])
    remedy = (
        "the workbook's Records and megabytes of logs and metrics says who sends it; docs/telemetry.md, what is usual"
    )
    return [_warning(name, f"{total:.0f} MB in the last day ({most})", remedy)]
