"""Tokens as Entra ID shapes them, genuine and forged. Needs no server.

Sources: Entra ID, "Access token claims reference"; Graph, "Set up change notifications that include resource data".
"""

import base64
import hmac
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from hashlib import sha256
from typing import Any, Final, Literal

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

CHANGE_TRACKING_APP_ID: Final = "0bf30f3b-4a52-48df-9a82-234910c4a086"
"""Application id of Microsoft Graph Change Tracking, the caller that every validation token names."""

PERSONAL_ACCOUNTS: Final = "9188040d-6c67-4c5b-b112-36a304b66dad"
"""The tenant that stands for all personal Microsoft accounts."""

GRAPH_APP_ID: Final = "00000003-0000-0000-c000-000000000000"

TokenVersion = Literal[1, 2]


@dataclass(frozen=True)
class SigningKey:
    """One of Entra ID's signing keys, and for whom it signs: a version 2 issuer, as published keys name it."""

    kid: str
    private_key: rsa.RSAPrivateKey
    issuer: str | None = "https://login.microsoftonline.com/{tenantid}/v2.0"

    @classmethod
    def generate(cls, private_key: rsa.RSAPrivateKey | None = None, **fields: str | None) -> "SigningKey":
        """Give a key an id of the usual length; an RSA-2048 key is made unless there is one."""
        kid = base64.urlsafe_b64encode(uuid.uuid4().bytes + uuid.uuid4().bytes[:4]).decode().rstrip("=")
        return cls(kid, private_key or generate_key(), **fields)

    def jwk(self) -> dict[str, Any]:
        """The public half, as it stands in the key set document."""
        numbers = RSAAlgorithm.to_jwk(self.private_key.public_key(), as_dict=True)
        entry = {"kty": "RSA", "use": "sig", "kid": self.kid, "x5t": self.kid, "n": numbers["n"], "e": numbers["e"]}
        return entry if self.issuer is None else entry | {"issuer": self.issuer}

    def sign(self, claims: Mapping[str, Any]) -> str:
        """`claims` as a JWT, RS256, with `kid` in its header (and `x5t`, as Entra ID writes it)."""
        headers = {"kid": self.kid, "x5t": self.kid}
        return jwt.encode(dict(claims), self.private_key, algorithm="RS256", headers=headers)


def generate_key() -> rsa.RSAPrivateKey:
    """Make a key as Entra ID's are: RSA, 2,048 bits."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def issuer(tenant_id: str, version: TokenVersion) -> str:
    """Who issues tokens for `tenant_id`, in the public cloud."""
    if version == 1:
        return f"https://sts.windows.net/{tenant_id}/"
    return f"https://login.microsoftonline.com/{tenant_id}/v2.0"


def app_claims(
    *,
    audience: str,
    caller: str,
    tenant_id: str,
    now: datetime,
    version: TokenVersion,
    lifetime: timedelta,
) -> dict[str, Any]:
    """Claims of an app-only token: `caller` stands in `appid` (v1) or `azp` (v2)."""
    issued = int(now.timestamp())
    object_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{tenant_id}/{caller}"))
    claims: dict[str, Any] = {
        "aud": audience,
        "iss": issuer(tenant_id, version),
        "iat": issued,
        "nbf": issued,
        "exp": issued + int(lifetime.total_seconds()),
    }
    if version == 1:
        claims |= {"aio": "E2NgYPi", "appid": caller, "appidacr": "2", "idp": issuer(tenant_id, 1)}
    else:
        claims |= {"aio": "E2NgYPi", "azp": caller, "azpacr": "2"}
    return claims | {
        "oid": object_id,
        "rh": "0.A",
        "sub": object_id,
        "tid": tenant_id,
        "uti": base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="),
        "ver": f"{version}.0",
    }


def validation_claims(
    *, app_id: str, tenant_id: str, now: datetime, version: TokenVersion = 2, lifetime: timedelta = timedelta(hours=24)
) -> dict[str, Any]:
    """Claims of the token with which Graph proves that a rich notification is its own."""
    return app_claims(
        audience=app_id,
        caller=CHANGE_TRACKING_APP_ID,
        tenant_id=tenant_id,
        now=now,
        version=version,
        lifetime=lifetime,
    )


class Forgery(StrEnum):
    """A way in which a validation token can be wrong."""

    ALG_NONE = "alg-none"
    HS256_PUBLIC_KEY = "hs256-public-key"
    WRONG_KEY = "wrong-key"
    UNKNOWN_KID = "unknown-kid"
    NO_KID = "no-kid"
    TAMPERED = "tampered"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    OTHER_AUDIENCE = "other-audience"
    OTHER_TENANT = "other-tenant"
    OTHER_CALLER = "other-caller"
    NO_CALLER = "no-caller"
    ISSUER_OTHER_TENANT = "issuer-other-tenant"
    ISSUER_LOOKALIKE = "issuer-lookalike"
    ISSUER_SUFFIX = "issuer-suffix"


def forge(
    forgery: Forgery,
    key: SigningKey,
    *,
    app_id: str,
    tenant_id: str,
    now: datetime,
    version: TokenVersion = 2,
) -> str:
    """A validation token that is right in everything but `forgery`; `key` is the genuine signing key."""
    claims = validation_claims(app_id=app_id, tenant_id=tenant_id, now=now, version=version)
    if forgery in _SIGNATURES:
        return _SIGNATURES[forgery](key, claims)
    return key.sign(_wrong_claims(forgery, claims, version))


def _wrong_claims(forgery: Forgery, claims: dict[str, Any], version: TokenVersion) -> dict[str, Any]:
    stranger = str(uuid.uuid4())
    caller = "appid" if version == 1 else "azp"
    day = 86_400
    changes: dict[Forgery, dict[str, Any]] = {
        Forgery.EXPIRED: {"nbf": claims["nbf"] - 2 * day, "exp": claims["nbf"] - day},
        Forgery.NOT_YET_VALID: {"nbf": claims["nbf"] + day, "exp": claims["exp"] + day},
        Forgery.OTHER_AUDIENCE: {"aud": stranger},
        Forgery.OTHER_TENANT: {"tid": stranger, "iss": issuer(stranger, version)},
        Forgery.OTHER_CALLER: {caller: stranger},
        Forgery.NO_CALLER: {caller: None},
        Forgery.ISSUER_OTHER_TENANT: {"iss": issuer(stranger, version)},
        Forgery.ISSUER_LOOKALIKE: {
            "iss": claims["iss"].replace("windows.net", "windows.net.example").replace("line.com", "line.com.example")
        },
        Forgery.ISSUER_SUFFIX: {"iss": claims["iss"] + "/"},
    }
    changed = claims | changes[forgery]
    return {name: value for name, value in changed.items() if value is not None}


def _unsigned(key: SigningKey, claims: dict[str, Any]) -> str:
    return f"{_segment({'typ': 'JWT', 'alg': 'none', 'kid': key.kid})}.{_segment(claims)}."


def _hs256(key: SigningKey, claims: dict[str, Any]) -> str:
    # By hand: the library rightly refuses a public key as an HMAC secret.
    secret = key.private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = f"{_segment({'typ': 'JWT', 'alg': 'HS256', 'kid': key.kid})}.{_segment(claims)}"
    return f"{signed}.{_base64url(hmac.digest(secret, signed.encode(), sha256))}"


def _without_kid(key: SigningKey, claims: dict[str, Any]) -> str:
    return jwt.encode(claims, key.private_key, algorithm="RS256")


def _tampered(key: SigningKey, claims: dict[str, Any]) -> str:
    header, _, signature = key.sign(claims).split(".")
    return f"{header}.{_segment(claims | {'exp': claims['exp'] + 1})}.{signature}"


@cache
def _strangers_key() -> rsa.RSAPrivateKey:
    return generate_key()


_SIGNATURES: Final = {
    Forgery.ALG_NONE: _unsigned,
    Forgery.HS256_PUBLIC_KEY: _hs256,
    Forgery.WRONG_KEY: lambda key, claims: SigningKey(key.kid, _strangers_key()).sign(claims),
    Forgery.UNKNOWN_KID: lambda _, claims: SigningKey.generate(_strangers_key()).sign(claims),
    Forgery.NO_KID: _without_kid,
    Forgery.TAMPERED: _tampered,
}


def _segment(value: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
