"""What makes a validation token of a rich change notification acceptable.

Sources: "Set up change notifications that include resource data", "Validate the authenticity of notifications"
(https://learn.microsoft.com/graph/change-notifications-with-resource-data); for the two versions of token "Access token
claims reference" (https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference).
"""

import math
from base64 import urlsafe_b64decode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from shared.values.errors import TokenRejected

GRAPH_CHANGE_TRACKING_APP_ID: Final = "0bf30f3b-4a52-48df-9a82-234910c4a086"
LEEWAY_SECONDS: Final = 300
MAX_TOKEN_CHARS: Final = 16 * 1024

_JWS: Final = jwt.PyJWS()


@dataclass(frozen=True, slots=True)
class Issuers:
    """The two issuers of a cloud, with ``{tid}`` where the tenant id stands."""

    v1: str
    v2: str


PUBLIC_CLOUD: Final = Issuers("https://sts.windows.net/{tid}/", "https://login.microsoftonline.com/{tid}/v2.0")
# Entra ID for US Government issues v1 tokens under the public cloud's name, that of China under its own ("National
# clouds", https://learn.microsoft.com/entra/identity-platform/authentication-national-cloud).
US_GOVERNMENT: Final = Issuers("https://sts.windows.net/{tid}/", "https://login.microsoftonline.us/{tid}/v2.0")
CHINA: Final = Issuers("https://sts.chinacloudapi.cn/{tid}/", "https://login.partner.microsoftonline.cn/{tid}/v2.0")


_ISSUERS: Final[dict[str | None, Issuers]] = {
    "login.microsoftonline.us": US_GOVERNMENT,
    "login.partner.microsoftonline.cn": CHINA,
    "login.chinacloudapi.cn": CHINA,
}


def issuers_of(login_endpoint: str) -> Issuers:
    """The issuers of a login endpoint's cloud; those of the public cloud where the endpoint is not known."""
    return _ISSUERS.get(urlsplit(login_endpoint).hostname, PUBLIC_CLOUD)


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A key of Entra ID's. It signs for `issuer` alone, a version 2 issuer that may hold ``{tenantid}``."""

    public_key: RSAPublicKey
    issuer: str | None = None

    def signs_for(self, tenant_id: str, issuers: Issuers) -> bool:
        """Whether it may sign a tenant's tokens, of either version.

        Published keys name version 2 issuers, and sign version 1 tokens too ("Access tokens in the Microsoft identity
        platform", https://learn.microsoft.com/entra/identity-platform/access-tokens).
        """
        if self.issuer is None:
            return True
        return self.issuer.replace("{tenantid}", tenant_id) == issuers.v2.replace("{tid}", tenant_id)


type PublishedKeys = Mapping[str, Collection[PublishedKey]]
"""By key id, which several may share."""


@dataclass(frozen=True, slots=True)
class Claims:
    """A valid token's claims: until `expires`, notifications of `tenant_id` come from Graph."""

    tenant_id: str  # lower case
    audience: str  # lower case
    expires: datetime


def key_id(token: str) -> str:
    """The id of the key that a token names, before anything of it is believed.

    Raises:
        TokenRejected: the token is not a JWT signed with RS256, or names no key.
    """
    if len(token) > MAX_TOKEN_CHARS:
        raise TokenRejected("too-long")
    try:
        header = _JWS.get_unverified_header(token)
    except (jwt.InvalidTokenError, UnicodeError, RecursionError):
        raise TokenRejected("malformed") from None
    if header.get("alg") != "RS256":
        raise TokenRejected("algorithm")
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise TokenRejected("no-key-id")
    return kid


class _TenantClaim(msgspec.Struct):
    tid: str | None = None


_read_tenant = msgspec.json.Decoder(_TenantClaim).decode


def tenant_hint(token: str) -> str | None:
    """The tenant that a token names, lower case, before anything of it is believed; None where it names none.

    Raises:
        TokenRejected: the token is too long, or no JWT.
    """
    if len(token) > MAX_TOKEN_CHARS:
        raise TokenRejected("too-long")
    try:
        _, payload, _ = token.split(".")
        # A JWT has no padding; the decoder passes over what it does not need of this.
        tenant = _read_tenant(urlsafe_b64decode(payload + "==")).tid
    except (ValueError, RecursionError):
        raise TokenRejected("malformed") from None
    return None if tenant is None else tenant.lower()


def validate(
    token: str,
    *,
    signing_keys: PublishedKeys,
    audiences: Collection[str],
    tenants: Collection[str],
    now: datetime,
    issuers: Issuers = PUBLIC_CLOUD,
) -> Claims:
    """Check one validation token.

    Args:
        token: a compact JWS.
        signing_keys: Entra ID's current ones.
        audiences: our application ids.
        tenants: the tenants that we serve.
        now: aware.
        issuers: those of the cloud that the tenants are in.

    Raises:
        TokenRejected: `reason` says which check failed.
    """
    kid = key_id(token)
    if kid not in signing_keys:
        raise TokenRejected("unknown-key")
    signers = [(key, payload) for key in signing_keys[kid] if (payload := _signed(token, key.public_key)) is not None]
    if not signers:
        raise TokenRejected("signature")
    try:
        claims = msgspec.json.decode(signers[0][1], type=dict[str, Any])
    except (ValueError, RecursionError):
        raise TokenRejected("malformed") from None

    expires = _check_times(claims, now.timestamp())
    audience = _guid_claim(claims, "aud")
    if audience is None or audience not in {value.lower() for value in audiences}:
        raise TokenRejected("audience")
    tenant_id = _guid_claim(claims, "tid")
    if tenant_id is None or tenant_id not in {value.lower() for value in tenants}:
        raise TokenRejected("tenant")
    if not any(key.signs_for(tenant_id, issuers) for key, _ in signers):
        raise TokenRejected("key-issuer")
    _check_version(claims, tenant_id, issuers)
    return Claims(tenant_id, audience, expires)


def _signed(token: str, key: RSAPublicKey) -> bytes | None:
    """The payload that a key has signed; None where it has not."""
    try:
        return bytes(_JWS.decode(token, key=key, algorithms=["RS256"]))
    except (jwt.InvalidTokenError, UnicodeError, RecursionError):
        return None


def _check_times(claims: Mapping[str, Any], now: float) -> datetime:
    expires, not_before = _number(claims, "exp"), _number(claims, "nbf")
    if now >= expires + LEEWAY_SECONDS:
        raise TokenRejected("expired")
    if now < not_before - LEEWAY_SECONDS:
        raise TokenRejected("not-yet-valid")
    try:
        return datetime.fromtimestamp(expires, UTC)
    except (OverflowError, ValueError, OSError):
        raise TokenRejected("times") from None


def _number(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    # A bool is an int to Python, and infinity compares like a date in the far future.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenRejected("times")
    return value


def _check_version(claims: Mapping[str, Any], tenant_id: str, issuers: Issuers) -> None:
    version = claims.get("ver")
    if version == "1.0":
        issuer, caller = issuers.v1, claims.get("appid")
    elif version == "2.0":
        issuer, caller = issuers.v2, claims.get("azp")
    else:
        raise TokenRejected("version")
    if claims.get("iss") != issuer.replace("{tid}", tenant_id):
        raise TokenRejected("issuer")
    if caller != GRAPH_CHANGE_TRACKING_APP_ID:
        raise TokenRejected("caller")


def _guid_claim(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    return value.lower() if isinstance(value, str) else None
