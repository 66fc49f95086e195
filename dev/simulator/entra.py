"""Entra ID: signing keys and their discovery, the token endpoint, the device-code flow.

Sources: Microsoft identity platform, "OpenID Connect", "OAuth 2.0 client credentials flow", "OAuth 2.0 device
authorization grant flow", "Access tokens", "Configure an application to trust a managed identity".
"""

import base64
import json
import secrets
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from dev.simulator.clock import Clock
from dev.simulator.rules import RULES
from dev.simulator.tokens import (
    GRAPH_APP_ID,
    PERSONAL_ACCOUNTS,
    SigningKey,
    TokenVersion,
    app_claims,
    generate_key,
    issuer,
    validation_claims,
)

APP_ROLES: Final = (
    *sorted({rule.permission for rule in RULES if not rule.delegated}),
    "GroupMember.Read.All",
    "User.Read.All",
    "Application.Read.All",
)
TOKEN_EXCHANGE: Final = "api://AzureADTokenExchange"
_JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_DEVICE_CODE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass(frozen=True)
class Caller:
    """Whom an access token speaks for; `user_id` is None for an app-only token."""

    app_id: str
    tenant_id: str
    roles: frozenset[str]
    scopes: frozenset[str]
    user_id: str | None


@dataclass(frozen=True)
class User:
    """Somebody who can sign in."""

    username: str = "operator@contoso.example"
    object_id: str = "5b1d0f4e-93c6-4d44-8c57-2f5f6c8b6d10"


@dataclass(frozen=True)
class _Grant:
    """A device code or refresh token: for whom, for what, until when."""

    client_id: str
    tenant_id: str
    scope: str
    expires: datetime
    user: User | None = None
    denied: bool = False


class TokenError(Exception):
    """An OAuth 2.0 error answer."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(description)
        self.status, self.error, self.description = status, error, description


@cache
def _first_keys() -> tuple[rsa.RSAPrivateKey, ...]:
    # Making RSA keys is the slow part of a start; those that a simulator starts with are made once in a process.
    # Their ids are not: drawn here, they would come from the random numbers of whichever simulator is the first.
    return generate_key(), generate_key(), generate_key()


@dataclass
class Entra:
    """Keys and grants. Attributes without underscore are switches, to be set at any time from any thread.

    Client credentials are accepted for every client id with `client_secret`, and for one in `federated` with a token of
    the managed identity that it trusts: client id of the application -> client id of the identity, both of the first
    tenant. With `auto_approve`, a device code is approved for that user at once.
    """

    clock: Clock
    tenants: tuple[str, ...]
    app_id: str
    graph_resource: str = "https://graph.microsoft.com"
    roles: tuple[str, ...] = APP_ROLES
    client_secret: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    access_token_lifetime: timedelta = timedelta(hours=24)
    delegated_token_lifetime: timedelta = timedelta(minutes=75)
    refresh_token_lifetime: timedelta = timedelta(days=90)
    device_code_lifetime: timedelta = timedelta(minutes=15)
    device_code_interval: int = 5
    device_login_url: str = "https://microsoft.com/devicelogin"
    auto_approve: User | None = None
    validation_token_version: TokenVersion = 2
    validation_token_lifetime: timedelta = timedelta(hours=24)
    federated: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        *first, personal = _first_keys()
        self._keys = [SigningKey.generate(key) for key in first]
        self._personal_key = SigningKey.generate(personal, issuer=issuer(PERSONAL_ACCOUNTS, 2))
        self._device_codes: dict[str, _Grant] = {}
        self._user_codes: dict[str, str] = {}
        self._refresh_tokens: dict[str, _Grant] = {}
        self._validation_tokens: dict[tuple[object, ...], tuple[datetime, str]] = {}

    # Keys

    @property
    def signing_key(self) -> SigningKey:
        """The key that signs at present: the last of the key set."""
        with self._lock:
            return self._keys[-1]

    @property
    def signing_keys(self) -> tuple[SigningKey, ...]:
        """The keys of the key set that sign for organizations' tenants."""
        with self._lock:
            return tuple(self._keys)

    @property
    def personal_key(self) -> SigningKey:
        """The key of the key set that signs for personal accounts alone."""
        return self._personal_key

    def rotate_keys(self, *, keep: int = 1) -> SigningKey:
        """Publish a new key, sign with it from now on, and keep the `keep` youngest of the others published."""
        with self._lock:
            self._keys = [*self._keys[len(self._keys) - keep :], SigningKey.generate()]
            return self._keys[-1]

    # Tokens

    def validation_token(self, app_id: str, tenant_id: str) -> str:
        """Graph's proof of origin for `app_id` in `tenant_id`; the same token for up to an hour."""
        now = self.clock.now()
        version = self.validation_token_version
        with self._lock:
            slot = (app_id, tenant_id, version, self.validation_token_lifetime, self.signing_key.kid)
            made, token = self._validation_tokens.get(slot, (None, ""))
            if made is None or now - made > timedelta(hours=1):
                claims = validation_claims(
                    app_id=app_id,
                    tenant_id=tenant_id,
                    now=now,
                    version=version,
                    lifetime=self.validation_token_lifetime,
                )
                token = self.signing_key.sign(claims)
                self._validation_tokens[slot] = (now, token)
            return token

    def app_token(self, *, audience: str, client_id: str, tenant_id: str) -> tuple[str, datetime]:
        """An app-only access token and the time of its end."""
        now = self.clock.now()
        claims = app_claims(
            audience=audience,
            caller=client_id,
            tenant_id=tenant_id,
            now=now,
            version=2 if audience == TOKEN_EXCHANGE else 1,
            lifetime=self.access_token_lifetime,
        )
        if self._is_graph(audience):
            claims["roles"] = list(self.roles)
        return self.signing_key.sign(claims), now + self.access_token_lifetime

    def verify(self, authorization: str | None, audiences: Sequence[str]) -> Caller | None:
        """Who calls, if `authorization` is a bearer token of ours for one of `audiences` and in force; else None."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = {key.kid: key for key in self.signing_keys}.get(str(kid))
            if key is None:
                return None
            options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
            claims = jwt.decode(
                token,
                key.private_key.public_key(),
                algorithms=["RS256"],
                audience=[spelling for name in audiences for spelling in (name, f"{name}/")],
                options=options,  # type: ignore[arg-type]  # times are checked below, on the simulator's clock
            )
        except jwt.InvalidTokenError:
            return None
        if not claims["nbf"] - 300 <= self.clock.now().timestamp() < claims["exp"]:
            return None
        delegated = "scp" in claims
        return Caller(
            app_id=str(claims.get("appid") or claims.get("azp")),
            tenant_id=str(claims["tid"]),
            roles=frozenset(claims.get("roles", ())),
            scopes=frozenset(str(claims.get("scp", "")).split()),
            user_id=str(claims["oid"]) if delegated else None,
        )

    def _is_graph(self, audience: str) -> bool:
        return audience.rstrip("/") in {GRAPH_APP_ID, "https://graph.microsoft.com", self.graph_resource}

    # Device codes

    def approve(self, user_code: str, user: User | None = None) -> None:
        """The person enters `user_code` and signs in.

        Raises:
            KeyError: no such code.
        """
        self._settle(user_code, user=user or User(), denied=False)

    def deny(self, user_code: str) -> None:
        """The person enters `user_code` and declines.

        Raises:
            KeyError: no such code.
        """
        self._settle(user_code, user=None, denied=True)

    def expire_device_codes(self) -> None:
        """Let every device code lapse now."""
        with self._lock:
            past = self.clock.now() - timedelta(seconds=1)
            self._device_codes = {code: replace(grant, expires=past) for code, grant in self._device_codes.items()}

    def revoke_refresh_tokens(self) -> None:
        """Let every refresh token lapse now, as after 90 days unused or a changed password."""
        with self._lock:
            self._refresh_tokens.clear()

    def _settle(self, user_code: str, *, user: User | None, denied: bool) -> None:
        with self._lock:
            code = self._user_codes[user_code]
            self._device_codes[code] = replace(self._device_codes[code], user=user, denied=denied)

    def start_device_code(self, tenant_id: str, form: Mapping[str, str]) -> dict[str, Any]:
        """The answer of the device-authorization endpoint."""
        device_code, user_code = secrets.token_urlsafe(32), secrets.token_hex(4).upper()
        expires = self.clock.now() + self.device_code_lifetime
        grant = _Grant(form["client_id"], tenant_id, form.get("scope", ""), expires, self.auto_approve)
        with self._lock:
            self._device_codes[device_code] = grant
            self._user_codes[user_code] = device_code
        return {
            "user_code": user_code,
            "device_code": device_code,
            "verification_uri": self.device_login_url,
            "expires_in": int(self.device_code_lifetime.total_seconds()),
            "interval": self.device_code_interval,
            "message": f"Open {self.device_login_url} and enter the code {user_code} to sign in.",
        }

    # Token endpoint

    def grant(self, tenant_id: str, form: Mapping[str, str]) -> dict[str, Any]:
        """The answer of the token endpoint.

        Raises:
            TokenError: the grant is refused.
        """
        match form.get("grant_type"):
            case "client_credentials":
                return self._grant_client_credentials(tenant_id, form)
            case "refresh_token":
                with self._lock:
                    known = self._refresh_tokens.get(form.get("refresh_token", ""))
                if known is None or known.expires <= self.clock.now():
                    raise TokenError(400, "invalid_grant", "AADSTS700082: The refresh token has expired.")
                return self._grant_delegated(replace(known, scope=form.get("scope") or known.scope))
            case grant_type if grant_type in {_DEVICE_CODE_GRANT, "device_code"}:
                return self._grant_device_code(form.get("device_code", ""))
            case other:
                raise TokenError(400, "unsupported_grant_type", f"AADSTS70003: Unsupported grant type '{other}'.")

    def _grant_client_credentials(self, tenant_id: str, form: Mapping[str, str]) -> dict[str, Any]:
        if "client_assertion" in form:
            self._check_assertion(form)
        elif not secrets.compare_digest(form.get("client_secret", "").encode(), self.client_secret.encode()):
            raise TokenError(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
        scope = form.get("scope", "")
        if not scope.endswith("/.default"):
            raise TokenError(400, "invalid_scope", f"AADSTS1002012: The scope '{scope}' is not valid here.")
        token, expires = self.app_token(
            audience=scope.removesuffix("/.default"), client_id=form.get("client_id", ""), tenant_id=tenant_id
        )
        seconds = int((expires - self.clock.now()).total_seconds())
        return {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": token}

    def _check_assertion(self, form: Mapping[str, str]) -> None:
        """A federated identity credential: issuer, subject and audience must be those that the application trusts."""
        caller = self.verify(f"Bearer {form['client_assertion']}", [TOKEN_EXCHANGE])
        if caller is None or form.get("client_assertion_type") != _JWT_BEARER:
            raise TokenError(401, "invalid_client", "AADSTS700211: The client assertion is not valid.")
        if (caller.tenant_id, caller.app_id) != (self.tenants[0], self.federated.get(form.get("client_id", ""))):
            raise TokenError(401, "invalid_client", "AADSTS700213: No matching federated identity record found.")

    def _grant_device_code(self, code: str) -> dict[str, Any]:
        with self._lock:
            grant = self._device_codes.get(code)
            if grant is None:
                raise TokenError(400, "bad_verification_code", "AADSTS70019: The verification code is not known.")
            if grant.denied:
                raise TokenError(400, "authorization_declined", "AADSTS70018: The request was declined.")
            if grant.expires <= self.clock.now():
                raise TokenError(400, "expired_token", "AADSTS70020: The verification code has expired.")
            if grant.user is None:
                raise TokenError(400, "authorization_pending", "AADSTS70016: The request is still pending.")
            del self._device_codes[code]
        return self._grant_delegated(grant)

    def _grant_delegated(self, grant: _Grant) -> dict[str, Any]:
        now = self.clock.now()
        user = grant.user or User()
        seconds = int(self.delegated_token_lifetime.total_seconds())
        refresh_token = f"0.{secrets.token_urlsafe(48)}"
        with self._lock:
            self._refresh_tokens[refresh_token] = replace(grant, user=user, expires=now + self.refresh_token_lifetime)
        resource, granted = _split_scope(grant.scope)
        common = {"iat": int(now.timestamp()), "nbf": int(now.timestamp()), "exp": int(now.timestamp()) + seconds}
        person = {"oid": user.object_id, "sub": user.object_id, "tid": grant.tenant_id, "name": "Operator"}
        access = {
            "aud": resource or self.graph_resource,
            "iss": issuer(grant.tenant_id, 1),
            "appid": grant.client_id,
            "scp": " ".join(granted),
            "upn": user.username,
            "uti": secrets.token_urlsafe(16),
            "ver": "1.0",
        }
        identity = {
            "aud": grant.client_id,
            "iss": issuer(grant.tenant_id, 2),
            "preferred_username": user.username,
            "ver": "2.0",
        }
        client_info = json.dumps({"uid": user.object_id, "utid": grant.tenant_id}).encode()
        return {
            "token_type": "Bearer",
            "scope": grant.scope,
            "expires_in": seconds,
            "ext_expires_in": seconds,
            "access_token": self.signing_key.sign(common | person | access),
            "refresh_token": refresh_token,
            "id_token": self.signing_key.sign(common | person | identity),
            "client_info": base64.urlsafe_b64encode(client_info).decode().rstrip("="),
        }


_PROTOCOL_SCOPES: Final = frozenset({"openid", "profile", "offline_access", "email"})


def _split_scope(scope: str) -> tuple[str, list[str]]:
    resource, granted = "", []
    for name in scope.split():
        if name in _PROTOCOL_SCOPES:
            continue
        prefix, separator, last = name.rpartition("/")
        resource = prefix if separator else resource
        # What an administrator has consented to stands behind .default.
        granted += ["Presence.Read.All", "User.Read"] if last == ".default" else [last]
    return resource, granted


def error_body(status: int) -> web.Response:
    """An error as the login service writes it when it is unwell."""
    error = {"error": "temporarily_unavailable", "error_description": f"AADSTS90033: answered {status} on demand."}
    return web.json_response(error, status=status)


def application(entra: Entra) -> web.Application:
    """The login service; its own address is taken from the requests."""

    def base(request: web.Request) -> str:
        return f"{request.scheme}://{request.host}"

    async def configuration(request: web.Request) -> web.Response:
        version: TokenVersion = 2 if "v2.0" in request.path else 1
        authority = request.match_info["tenant"]
        tenant = authority if authority not in {"common", "organizations"} else "{tenantid}"
        here, suffix = base(request), "/v2.0" if version == 2 else ""
        return web.json_response(
            {
                "issuer": issuer(tenant, version),
                "authorization_endpoint": f"{here}/{authority}/oauth2{suffix}/authorize",
                "token_endpoint": f"{here}/{authority}/oauth2{suffix}/token",
                "device_authorization_endpoint": f"{here}/{authority}/oauth2{suffix}/devicecode",
                "jwks_uri": f"{here}/{authority}/discovery{suffix}/keys",
                "response_types_supported": ["code", "id_token"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def keys(_request: web.Request) -> web.Response:
        return web.json_response({"keys": [key.jwk() for key in (*entra.signing_keys, entra.personal_key)]})

    async def instance(request: web.Request) -> web.Response:
        authority = request.query.get("authorization_endpoint", "").split("/")[3:4] or ["common"]
        metadata = {"preferred_network": request.host, "preferred_cache": request.host, "aliases": [request.host]}
        endpoint = f"{base(request)}/{authority[0]}/v2.0/.well-known/openid-configuration"
        return web.json_response({"tenant_discovery_endpoint": endpoint, "api-version": "1.1", "metadata": [metadata]})

    def tenant_of(request: web.Request) -> str:
        name = request.match_info["tenant"]
        if name in {"common", "organizations"}:
            return entra.tenants[0]
        if name not in entra.tenants:
            raise TokenError(400, "invalid_request", f"AADSTS90002: Tenant '{name}' not found.")
        return name

    async def token(request: web.Request) -> web.Response:
        return await answer(request, entra.grant)

    async def device_code(request: web.Request) -> web.Response:
        return await answer(request, entra.start_device_code)

    async def answer(request: web.Request, grant: Any) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        try:
            return web.json_response(grant(tenant_of(request), form), headers={"Cache-Control": "no-store"})
        except TokenError as error:
            body = {
                "error": error.error,
                "error_description": error.description,
                "error_codes": [int(error.description.split(":")[0].removeprefix("AADSTS"))],
                "timestamp": f"{entra.clock.now():%Y-%m-%d %H:%M:%SZ}",
                "trace_id": str(uuid.uuid4()),
                "correlation_id": request.headers.get("client-request-id", str(uuid.uuid4())),
            }
            return web.json_response(body, status=error.status)

    application = web.Application()
    for prefix in ("/{tenant}", "/{tenant}/v2.0"):
        application.router.add_get(f"{prefix}/.well-known/openid-configuration", configuration)
    for suffix in ("", "/v2.0"):
        application.router.add_get(f"/{{tenant}}/discovery{suffix}/keys", keys)
        application.router.add_post(f"/{{tenant}}/oauth2{suffix}/devicecode", device_code)
        application.router.add_post(f"/{{tenant}}/oauth2{suffix}/token", token)
    application.router.add_get("/common/discovery/instance", instance)
    return application
