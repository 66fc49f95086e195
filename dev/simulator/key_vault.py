"""Key Vault: secrets, and certificates as the secrets that hold them.

Sources: Key Vault REST API, "Get Secret", "Set Secret", "Get Secret Versions", "Get Certificate"; "Authentication,
requests and responses"; "About Azure Key Vault certificates".
"""

import base64
import re
import threading
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final, Literal

from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from dev.simulator.clock import Clock
from dev.simulator.crypto import KeyCertificate
from dev.simulator.entra import Entra

RESOURCE: Final = "https://vault.azure.net"
_NAME: Final = re.compile(r"[0-9a-zA-Z-]{1,127}")
_MAX_SECRET: Final = 25 * 1024
_CODES: Final = {401: "Unauthorized", 403: "Forbidden", 404: "SecretNotFound", 429: "Throttled", 503: "Unavailable"}


@dataclass(frozen=True)
class SecretVersion:
    """One version of a secret; `certificate` is set where the secret belongs to a certificate."""

    version: str
    value: str
    content_type: str | None
    created: datetime
    enabled: bool = True
    not_before: datetime | None = None
    expires: datetime | None = None
    certificate: KeyCertificate | None = None
    tags: dict[str, str] | None = None

    def attributes(self) -> dict[str, Any]:
        """The attributes, times in Unix seconds."""
        times = {"nbf": self.not_before, "exp": self.expires, "created": self.created, "updated": self.created}
        seconds = {name: int(moment.timestamp()) for name, moment in times.items() if moment is not None}
        return {"enabled": self.enabled, **seconds, "recoveryLevel": "Recoverable+Purgeable"}


@cache
def _first_key() -> rsa.RSAPrivateKey:
    # As with Entra ID's keys: made once in a process, because it is the slow part of a start.
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class KeyVault:
    """The vault's content. Thread-safe.

    `page_size` is the most items that a list answers at once; `policy` is the certificate's, as "Get Certificate
    Policy" answers it.
    """

    def __init__(self, clock: Clock, certificate_name: str) -> None:
        self.clock = clock
        self.certificate_name = certificate_name
        self.page_size = 25
        self.policy: dict[str, Any] = {
            "key_props": {"exportable": True, "kty": "RSA", "key_size": 2048, "reuse_key": False},
            "secret_props": {"contentType": "application/x-pkcs12"},
            "lifetime_actions": [{"trigger": {"lifetime_percentage": 80}, "action": {"action_type": "AutoRenew"}}],
            "issuer": {"name": "Self"},
        }
        self._lock = threading.RLock()
        self._secrets: dict[str, list[SecretVersion]] = {}
        self.rotate_certificate(
            KeyCertificate.generate(certificate_name, private_key=_first_key(), not_before=self._begin())
        )

    def set_secret(self, name: str, value: str, content_type: str | None = None, **fields: Any) -> SecretVersion:
        """Add a version to the secret `name`; `fields` are those of `SecretVersion`."""
        entry = SecretVersion(uuid.uuid4().hex, value, content_type, self.clock.now(), **fields)
        with self._lock:
            self._secrets.setdefault(name, []).append(entry)
        return entry

    def rotate_certificate(
        self, pair: KeyCertificate | None = None, *, form: Literal["pkcs12", "pem"] = "pkcs12", key_size: int = 2048
    ) -> SecretVersion:
        """Add a version to the certificate: `pair`, or a new one of `key_size` bits valid for a year."""
        chosen = pair or KeyCertificate.generate(self.certificate_name, key_size=key_size, not_before=self._begin())
        return self.set_secret(
            self.certificate_name,
            base64.b64encode(chosen.pkcs12).decode() if form == "pkcs12" else chosen.pem,
            "application/x-pkcs12" if form == "pkcs12" else "application/x-pem-file",
            not_before=chosen.certificate.not_valid_before_utc,
            expires=chosen.certificate.not_valid_after_utc,
            certificate=chosen,
        )

    def _begin(self) -> datetime:
        return self.clock.now() - timedelta(hours=1)

    def versions(self, name: str) -> tuple[SecretVersion, ...]:
        """All versions of the secret `name`, oldest first; none if there is no such secret."""
        with self._lock:
            return tuple(self._secrets.get(name, ()))

    def certificate(self, version: str | None = None) -> SecretVersion:
        """The certificate's newest version, or the one named.

        Raises:
            KeyError: no such version.
        """
        found = self.get(self.certificate_name, version)
        if found is None:
            raise KeyError(version)
        return found

    def get(self, name: str, version: str | None = None) -> SecretVersion | None:
        """The newest version of the secret `name`, or the one named; None if there is none."""
        known = self.versions(name)
        if not version:
            return known[-1] if known else None
        return next((entry for entry in known if entry.version == version), None)

    def delete(self, name: str) -> None:
        """Remove the secret or certificate `name` with all its versions."""
        with self._lock:
            self._secrets.pop(name, None)

    def update(self, name: str, version: str, entry: SecretVersion) -> None:
        """Put `entry` in the place of the version named, for instance to disable it."""
        with self._lock:
            self._secrets[name] = [entry if known.version == version else known for known in self._secrets[name]]


def error_body(status: int, message: str = "answered on demand") -> web.Response:
    """An error as the vault writes it."""
    code = _CODES.get(status, "BadParameter")
    return web.json_response({"error": {"code": code, "message": message}}, status=status)


def application(vault: KeyVault, entra: Entra, login_url: str, tenant_id: str) -> web.Application:
    """The vault's REST interface; callers are sent to `tenant_id` at `login_url` for a token."""
    challenge = f'Bearer authorization="{login_url}/{tenant_id}", resource="{RESOURCE}"'

    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
        if entra.verify(request.headers.get("Authorization"), (RESOURCE,)) is None:
            response = error_body(401, "AKV10000: Request is missing a Bearer or PoP token.")
            response.headers["WWW-Authenticate"] = challenge
            return response
        if "api-version" not in request.query:
            return error_body(400, "The query parameter api-version is missing.")
        answer: web.StreamResponse = await handler(request)
        return answer

    def base(request: web.Request) -> str:
        return f"{request.scheme}://{request.host}"

    async def get_secret(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        entry = vault.get(name, request.match_info.get("version"))
        if entry is None:
            return error_body(404, f"A secret with (name/id) {name} was not found in this key vault.")
        if not entry.enabled:
            return error_body(403, "Operation get is not allowed on a disabled secret.")
        return web.json_response(_secret_bundle(base(request), name, entry) | {"value": entry.value})

    async def get_versions(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        known = vault.versions(name)
        if not known:
            return error_body(404, f"A secret with (name/id) {name} was not found in this key vault.")
        skip = int(request.query.get("$skiptoken", "0"))
        size = min(int(request.query.get("maxresults", vault.page_size)), vault.page_size)
        following = skip + size
        next_link = None
        if following < len(known):
            version = request.query["api-version"]
            path = f"{base(request)}/secrets/{name}/versions"
            next_link = f"{path}?api-version={version}&$skiptoken={following}&maxresults={size}"
        items = [_secret_bundle(base(request), name, entry) for entry in known[skip:following]]
        return web.json_response({"value": items, "nextLink": next_link})

    async def put_secret(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = await request.json()
        value = body.get("value")
        if not _NAME.fullmatch(name) or not isinstance(value, str) or len(value) > _MAX_SECRET:
            return error_body(400, "The secret's name or value is not acceptable.")
        if any(entry.certificate for entry in vault.versions(name)):
            return error_body(409, "The secret belongs to a certificate.")
        enabled = bool(body.get("attributes", {}).get("enabled", True))
        entry = vault.set_secret(name, value, body.get("contentType"), enabled=enabled, tags=body.get("tags"))
        return web.json_response(_secret_bundle(base(request), name, entry) | {"value": value})

    async def get_certificate(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        entry = vault.get(name, request.match_info.get("version"))
        if entry is None or entry.certificate is None:
            return error_body(404, f"A certificate with (name/id) {name} was not found in this key vault.")
        return web.json_response(_certificate_bundle(base(request), name, entry, entry.certificate))

    async def get_policy(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name != vault.certificate_name:
            return error_body(404, f"A certificate with (name/id) {name} was not found in this key vault.")
        return web.json_response({"id": f"{base(request)}/certificates/{name}/policy", **vault.policy})

    application = web.Application(middlewares=[guard])
    application.router.add_get("/secrets/{name}/versions", get_versions)
    application.router.add_get("/certificates/{name}/policy", get_policy)
    for suffix in ("", "/", "/{version}"):
        application.router.add_get(f"/secrets/{{name}}{suffix}", get_secret)
        application.router.add_get(f"/certificates/{{name}}{suffix}", get_certificate)
    application.router.add_put("/secrets/{name}", put_secret)
    return application


def _secret_bundle(base: str, name: str, entry: SecretVersion) -> dict[str, Any]:
    body: dict[str, Any] = {"id": f"{base}/secrets/{name}/{entry.version}"}
    if entry.content_type is not None:
        body["contentType"] = entry.content_type
    if entry.certificate is not None:
        body |= {"kid": f"{base}/keys/{name}/{entry.version}", "managed": True}
    return body | {"attributes": entry.attributes(), "tags": entry.tags or {}}


def _certificate_bundle(base: str, name: str, entry: SecretVersion, pair: KeyCertificate) -> dict[str, Any]:
    thumbprint = pair.certificate.fingerprint(hashes.SHA1())
    return {
        "id": f"{base}/certificates/{name}/{entry.version}",
        "kid": f"{base}/keys/{name}/{entry.version}",
        "sid": f"{base}/secrets/{name}/{entry.version}",
        "x5t": base64.urlsafe_b64encode(thumbprint).decode().rstrip("="),
        "cer": pair.der_base64,
        "attributes": entry.attributes(),
    }
