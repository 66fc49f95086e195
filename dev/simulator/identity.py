"""Managed identity as App Service serves it to its apps.

Source: App Service, "How to use managed identities: REST endpoint reference".
"""

import secrets
from dataclasses import dataclass, field

from aiohttp import web

from dev.simulator.entra import Entra


@dataclass
class ManagedIdentity:
    """The token service. `tenant_id` is the home of the identity; `user_assigned` are the client ids it knows."""

    entra: Entra
    tenant_id: str
    user_assigned: frozenset[str] = frozenset()
    header: str = field(default_factory=lambda: secrets.token_hex(16).upper())


def error_body(status: int) -> web.Response:
    """An error as the token service writes it."""
    return web.json_response({"statusCode": status, "message": "answered on demand"}, status=status)


def application(identity: ManagedIdentity) -> web.Application:
    """The token service, plain HTTP, at `/msi/token`."""

    def refuse(status: int, message: str) -> web.Response:
        return web.json_response({"statusCode": status, "message": message}, status=status)

    async def token(request: web.Request) -> web.Response:
        if not secrets.compare_digest(request.headers.get("X-IDENTITY-HEADER", ""), identity.header):
            return refuse(401, "The header X-IDENTITY-HEADER is missing or wrong.")
        if request.query.get("api-version") != "2019-08-01":
            return refuse(400, "The api-version is missing or not supported.")
        resource = request.query.get("resource")
        if not resource:
            return refuse(400, "The resource is missing.")
        client_id = request.query.get("client_id")
        if client_id is not None and client_id not in identity.user_assigned | {identity.entra.app_id}:
            return refuse(400, "No managed identity with this client id is assigned.")
        app_id = client_id or identity.entra.app_id
        access_token, expires = identity.entra.app_token(
            audience=resource, client_id=app_id, tenant_id=identity.tenant_id
        )
        return web.json_response(
            {
                "access_token": access_token,
                "expires_on": str(int(expires.timestamp())),
                "resource": resource,
                "token_type": "Bearer",
                "client_id": app_id,
            }
        )

    application = web.Application()
    application.router.add_get("/msi/token", token)
    return application
