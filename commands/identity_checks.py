"""Checks of `doctor` about who the app is to Entra ID and Graph, and what it may do there."""

import asyncio
from collections.abc import Collection
from typing import Final

from commands.checks import Finding, is_deployed
from commands.context import CommandContext
from commands.directory import Directory
from commands.identity import Identity, identity_in
from shared.operations.limits import Level
from shared.subscriptions.desired import READ_MEMBERS, DesiredState
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph_errors import (
    CredentialError,
    GraphError,
    NotFoundError,
    PermissionDeniedError,
    SignInRequiredError,
)

_LOGIN: Final = "run: python manage.py login"


async def identities(context: CommandContext) -> list[Finding]:
    """Whether the app has a token and the permissions that it needs, in each tenant.

    Somebody else's token says nothing of that: then what is granted to the app is read from the directory.
    """
    desired = await desired_state(context)
    findings: list[Finding] = []
    for tenant_id in sorted(context.settings.tenant_ids):
        name = f"Graph token, tenant {tenant_id}"
        try:
            identity = await identity_in(context, tenant_id)
        except SwitchboardError as error:
            findings.append(
                Finding("graphToken", name, Level.BAD, f"no token: {error.reason}", _token_remedy(tenant_id))
            )
            continue
        if identity.tenant_id != tenant_id:
            findings.append(_of_another_tenant(name, identity, tenant_id))
        elif identity.app_id in context.settings.app_ids:
            findings.append(Finding("graphToken", name, Level.WELL, f"application {identity.app_id}"))
            findings += _permissions(identity.permissions, needed(desired, tenant_id), tenant_id)
        else:
            findings.append(
                Finding(
                    "graphToken",
                    name,
                    Level.WELL,
                    f"this is application {identity.app_id}, and not the app: Graph shows it no subscription of the "
                    "app's, and what the app may do is read from the directory",
                )
            )
            findings += await _granted(context, needed(desired, tenant_id), tenant_id)
    return findings


def _token_remedy(tenant_id: str) -> str:
    if is_deployed():
        return "check the managed identity (AZURE_CLIENT_ID), then LOGIN_ENDPOINT"
    return f"az login --tenant {tenant_id}; then check LOGIN_ENDPOINT"


def _of_another_tenant(name: str, identity: Identity, tenant_id: str) -> Finding:
    remedy = (
        "give this tenant an identity of its own, or take it out of GRAPH_TENANT_IDS"
        if is_deployed()
        else f"az login --tenant {tenant_id}, or take the tenant out of GRAPH_TENANT_IDS"
    )
    return Finding("graphToken", name, Level.BAD, f"the token is of another tenant: {identity.tenant_id}", remedy)


async def _granted(context: CommandContext, wanted: Collection[str], tenant_id: str) -> list[Finding]:
    """What the directory says that the app's own applications hold."""
    directory = Directory(context.graph, context.settings.graph_endpoint, tenant_id)
    held: set[str] = set()
    try:
        roles = await directory.graph_roles()
        for app_id in sorted(context.settings.app_ids):
            held |= await directory.permissions_of(f"(appId='{app_id}')", roles)
    except NotFoundError:
        told = f"tenant {tenant_id} does not know an application that GRAPH_APP_IDS names"
        remedy = "correct GRAPH_APP_IDS, or have an administrator of the tenant consent to the application"
        return [Finding("permission", "permissions of the app", Level.BAD, told, remedy)]
    except (GraphError, UnavailableError) as error:
        name = f"permissions of the app, tenant {tenant_id}"
        remedy = "let somebody run this who may read the directory, or doctor run as the app itself"
        return [Finding("permission", name, Level.ATTENTION, f"cannot be read: {error.reason}", remedy)]
    return _permissions(held, wanted, tenant_id)


def needed(desired: DesiredState | None, tenant_id: str) -> set[str]:
    """The application permissions that what is desired in a tenant needs."""
    if desired is None:
        return set()
    wanted = {
        want.form.permission
        for want in desired.subscriptions
        if want.tenant_id == tenant_id and not want.kind.delegated_only
    }
    for group in desired.groups:
        if group.tenant_id == tenant_id:
            wanted |= {group.form.permission, READ_MEMBERS}
    return wanted


def _permissions(held: Collection[str], wanted: Collection[str], tenant_id: str) -> list[Finding]:
    return [
        Finding("permission", f"permission {permission}", Level.WELL, "granted")
        if permission in held
        else Finding(
            "permission",
            f"permission {permission}",
            Level.BAD,
            f"not granted in tenant {tenant_id}",
            f"grant the application permission {permission} of Microsoft Graph (run.py grant); granted? then up to "
            "24 h pass until a token has it, and a restart does not help",
        )
        for permission in sorted(wanted)
    ]


async def validation_tokens(context: CommandContext) -> list[Finding]:
    """Whether Entra ID gives Graph the tokens that vouch for rich notifications."""
    findings = []
    for tenant_id in sorted(context.settings.tenant_ids):
        for app_id in sorted(context.settings.app_ids):
            identity, name = "validationTokens", f"appRoleAssignmentRequired, application {app_id}"
            where = "Entra ID, Enterprise applications, Properties, Assignment required"
            try:
                may = await context.graph.may_get_validation_tokens(tenant_id, app_id)
            except PermissionDeniedError:
                remedy = f"grant Application.Read.All to this identity, or see that it is No: {where}"
                findings.append(Finding(identity, name, Level.ATTENTION, "cannot be read", remedy))
            except CredentialError:
                continue  # the check of the token has said so
            except (GraphError, UnavailableError) as error:
                told, remedy = f"cannot be read: {error.reason}", f"see that it is No: {where}"
                findings.append(Finding(identity, name, Level.ATTENTION, told, remedy))
            else:
                told = "true: rich notifications come without validation tokens and are refused"
                remedy = f"set it to No ({where}), or assign a role to Microsoft Graph Change Tracking"
                findings.append(
                    Finding(identity, name, Level.WELL, "Graph can vouch for rich notifications")
                    if may
                    else Finding(identity, name, Level.BAD, told, remedy)
                )
    return findings


async def sign_ins(context: CommandContext) -> list[Finding]:
    """Whether somebody is signed in where presence is desired."""
    desired = await desired_state(context)
    tenants = {want.tenant_id for want in desired.subscriptions if want.kind.delegated_only} if desired else set()
    findings = []
    for tenant_id in sorted(tenants):
        identity, name = "signIn", f"sign-in for presence, tenant {tenant_id}"
        try:
            user = context.sign_ins.user(tenant_id)
            await asyncio.to_thread(user.get_token)
        except SignInRequiredError:
            remedy = _LOGIN if context.settings.sign_in_app_id else f"set SIGN_IN_APP_ID, then {_LOGIN}"
            findings.append(Finding(identity, name, Level.BAD, "nobody is signed in, or not any more", remedy))
        except UnavailableError as error:
            remedy = "see that Key Vault and Entra ID can be reached"
            findings.append(Finding(identity, name, Level.BAD, f"{error} ({error.reason})", remedy))
        else:
            findings.append(Finding(identity, name, Level.WELL, "good"))
    return findings


async def desired_state(context: CommandContext) -> DesiredState | None:
    """The desired state, or None where the check of it says what is wrong."""
    try:
        return await context.desired.load()
    except SwitchboardError:
        return None
