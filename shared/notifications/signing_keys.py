"""Entra ID's keys for signing tokens.

The tenant-independent document names the key set. Keys may change at any time, and are to be cached for about a day
("Signing key rollover in the Microsoft identity platform",
https://learn.microsoft.com/entra/identity-platform/signing-key-rollover). An entry may name the `issuer` that it signs
for ("Access tokens in the Microsoft identity platform",
https://learn.microsoft.com/entra/identity-platform/access-tokens).
"""

import asyncio
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from shared.http_client import HttpClient, detached
from shared.notifications.tokens import PublishedKey, PublishedKeys
from shared.values.errors import UnavailableError

_REFRESH_SECONDS: Final = 12 * 3600.0
_TRUST_SECONDS: Final = 48 * 3600.0  # keys that cannot be refreshed are believed for so long
_PAUSE_SECONDS: Final = 60.0
_PAUSE_AFTER_FAILURE_SECONDS: Final = 5.0
_FETCH_SECONDS: Final = 5.0


class SigningKeys:
    """The key set, cached. All who wait for it share one fetch."""

    def __init__(
        self, login_endpoint: str, http: HttpClient, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._http = http
        self._document = f"{login_endpoint}/common/v2.0/.well-known/openid-configuration"
        self._monotonic = monotonic
        self._keys: PublishedKeys = {}
        self._fetched = float("-inf")
        self._not_before = float("-inf")
        self._fetch: asyncio.Future[None] | None = None

    async def get(self, wanted: Collection[str]) -> tuple[PublishedKeys, UnavailableError | None]:
        """The current keys by key id.

        Args:
            wanted: the ids that tokens name. One that is not known makes the set be fetched again, at most once a
                minute.

        Returns:
            All keys that are known, and where a wanted one is not, because Entra ID cannot be asked now, an error that
            says so.
        """
        age = self._monotonic() - self._fetched
        if age >= _TRUST_SECONDS:
            self._keys = {}
        known = self._keys.keys() >= set(wanted)
        if known and age < _REFRESH_SECONDS:
            return self._keys, None
        try:
            await self._refreshed()
        except UnavailableError as error:
            return self._keys, None if known else error
        return self._keys, None

    async def _refreshed(self) -> None:
        if self._fetch is None:
            if (wait := self._not_before - self._monotonic()) > 0:
                raise UnavailableError("Entra ID's signing keys", reason="signing-keys", retry_after=wait)
            self._fetch = detached(self._refresh())
        await asyncio.shield(self._fetch)  # one caller's time-out must not fail the others

    async def _refresh(self) -> None:
        try:
            self._not_before = self._monotonic() + _PAUSE_AFTER_FAILURE_SECONDS
            async with asyncio.timeout(_FETCH_SECONDS):
                self._keys = await self._download()
            self._fetched = self._monotonic()
            self._not_before = self._fetched + _PAUSE_SECONDS
        except (OSError, ValueError, KeyError, TypeError) as error:  # TimeoutError among them
            raise UnavailableError("Entra ID's signing keys", reason="signing-keys") from error
        finally:
            self._fetch = None

    async def _download(self) -> PublishedKeys:
        key_set = await self._json((await self._json(self._document))["jwks_uri"])
        keys: dict[str, list[PublishedKey]] = {}
        for kid, key in filter(None, map(_key, key_set["keys"])):
            keys.setdefault(kid, []).append(key)
        if not keys:
            raise ValueError("the key set is empty")
        return keys

    async def _json(self, url: str) -> Any:
        answer = await self._http.get(url, {"accept": "application/json"})
        if answer.status != 200:
            raise ConnectionError(f"Entra ID answered {answer.status}")
        return msgspec.json.decode(answer.body)


def _key(jwk: object) -> tuple[str, PublishedKey] | None:
    """The id and the key of one entry; None where it is none, or cannot sign a validation token."""
    if not isinstance(jwk, Mapping):
        return None
    issuer = jwk.get("issuer")
    if not isinstance(issuer, str | None):
        return None  # the key signs for one issuer, and the entry does not say for which
    if jwk.get("kty") != "RSA" or jwk.get("use", "sig") != "sig" or not isinstance(jwk.get("kid"), str):
        return None
    try:
        key = RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"])).public_key()
    except (ValueError, KeyError, TypeError):
        return None
    return jwk["kid"], PublishedKey(key, issuer)


def _number(text: str) -> int:
    """A number as a JWK has it ("JSON Web Algorithms", https://www.rfc-editor.org/rfc/rfc7518)."""
    return int.from_bytes(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
