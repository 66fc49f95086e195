"""Who a command is towards Graph: the app, or somebody else, whose subscriptions are others."""

import asyncio
from dataclasses import dataclass

import jwt
from azure.core.exceptions import AzureError

from commands.context import CommandContext
from shared.values.errors import SwitchboardError
from shared.values.graph_errors import CredentialError


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose token a command has in a tenant: the application, the tenant of the token, and what it may do."""

    app_id: str
    tenant_id: str
    permissions: frozenset[str]


class NotTheAppError(SwitchboardError):
    """What would be made or deleted would be another application's."""

    def __init__(self, app_id: str) -> None:
        super().__init__(
            f"this is application {app_id}, and not the app: Graph shows it other subscriptions, and would make new "
            "ones its own, which the app can neither see nor renew. Fire the app's timer instead: docs/operations.md, "
            "at its beginning, says how",
            reason="not-the-app",
        )


async def identity_in(context: CommandContext, tenant_id: str) -> Identity:
    """Who this is in a tenant.

    Raises:
        CredentialError: Entra ID gave no token.
    """
    try:
        credential = context.credentials(tenant_id, delegated=False)
        token = await asyncio.to_thread(credential.get_token, f"{context.settings.graph_endpoint}/.default")
        claims = jwt.decode(token.token, options={"verify_signature": False})  # it is Graph's to verify
    except (AzureError, jwt.InvalidTokenError) as error:
        raise CredentialError("Entra ID's token") from error
    app_id = claims.get("appid") or claims.get("azp") or ""
    return Identity(str(app_id).lower(), str(claims.get("tid", "")).lower(), frozenset(claims.get("roles", ())))


async def stranger(context: CommandContext) -> str | None:
    """The application that this is, if it is not the app itself; None if it is, or nobody.

    Raises:
        CredentialError: Entra ID gave no token.
    """
    for tenant_id in sorted(context.settings.tenant_ids):
        app_id = (await identity_in(context, tenant_id)).app_id
        if app_id not in context.settings.app_ids:
            return app_id
    return None


async def refuse_strangers(context: CommandContext) -> None:
    """See that this is the app itself.

    Raises:
        NotTheAppError: it is not.
        CredentialError: Entra ID gave no token.
    """
    if (app_id := await stranger(context)) is not None:
        raise NotTheAppError(app_id)
