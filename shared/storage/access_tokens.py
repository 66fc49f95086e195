"""Bearer tokens for storage: the managed identity's from the platform; elsewhere, whatever azure-identity finds.

Source: "How to use managed identities for App Service and Azure Functions", REST endpoint reference
(https://learn.microsoft.com/azure/app-service/overview-managed-identity).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import msgspec

from shared.http_client import HttpClient, detached
from shared.settings import IdentityEndpoint

_log = logging.getLogger(__name__)

_RESOURCE: Final = "https://storage.azure.com"
_SPARE_SECONDS: Final = 300.0  # a token is renewed so shortly before its end
_LAST_SECONDS: Final = 30.0  # and not used any more, for a request takes a while
_LONG_SECONDS: Final = 7200.0  # one that lives as long is renewed at half its life
_PAUSE_SECONDS: Final = 30.0  # after a renewal that failed


class Token(NamedTuple):
    """A bearer token, and when it ends in seconds since 1970."""

    text: str
    expires: float


class AccessTokens:
    """One token, kept and renewed. Whoever waits for it shares one fetch; while it is valid, nobody waits."""

    def __init__(self, fetch: Callable[[], Coroutine[Any, Any, Token]], now: Callable[[], float] = time.time) -> None:
        """`fetch` may raise ConnectionError; `now` is in seconds since 1970."""
        self._fetch = fetch
        self._now = now
        self._token: Token | None = None
        self._renew_at = 0.0
        self._fails = False
        self._renewing: asyncio.Future[Token] | None = None

    async def get(self) -> str:
        """A valid token.

        Raises:
            ConnectionError: there is none, and none was given.
        """
        token, now = self._token, self._now()
        if token is not None and now < token.expires - _LAST_SECONDS:
            if now >= self._renew_at:
                self.begin()
            return token.text
        renewing = self.begin()
        return (await asyncio.shield(renewing)).text  # one caller's time-out must not fail the others

    def begin(self) -> asyncio.Future[Token]:
        """Begin to fetch one, unless that is under way."""
        if self._renewing is None:
            self._renewing = detached(self._fetch())
            self._renewing.add_done_callback(self._renewed)
        return self._renewing

    def forget(self, text: str) -> None:
        """Storage has refused this one; another that has come since stays."""
        if self._token is not None and self._token.text == text:
            self._token = None

    def _renewed(self, renewing: asyncio.Future[Token]) -> None:
        self._renewing = None
        if renewing.cancelled() or (error := renewing.exception()) is not None:
            self._renew_at = self._now() + _PAUSE_SECONDS
            if not self._fails:  # said once: who waits tries again
                _log.warning("no token for storage: %s", "cancelled" if renewing.cancelled() else error)
            self._fails = True
            return
        self._fails = False
        self._token = renewing.result()
        now = self._now()
        left = self._token.expires - now
        due = self._token.expires - (left / 2 if left >= _LONG_SECONDS else _SPARE_SECONDS)
        self._renew_at = max(due, now + _PAUSE_SECONDS)  # one that is nearly over is not asked for again and again


def tokens_of(http: HttpClient, endpoint: IdentityEndpoint | None, client_id: str | None) -> AccessTokens:
    """The tokens of who we are; `client_id` is that of a user-assigned identity."""
    if endpoint is None:
        return AccessTokens(lambda: _of_azure_identity(client_id))
    return AccessTokens(lambda: _of_platform(http, endpoint, client_id))


class _Given(msgspec.Struct):
    access_token: str
    expires_on: str | int


async def _of_platform(http: HttpClient, endpoint: IdentityEndpoint, client_id: str | None) -> Token:
    query = {"api-version": "2019-08-01", "resource": _RESOURCE} | ({"client_id": client_id} if client_id else {})
    answer = await http.get(f"{endpoint.url}?{urlencode(query)}", {"x-identity-header": endpoint.header})
    if answer.status != 200:
        raise ConnectionError(f"the identity endpoint answered {answer.status}")
    try:
        given = msgspec.json.decode(answer.body, type=_Given)
        return Token(given.access_token, float(given.expires_on))
    except ValueError:
        raise ConnectionError("the identity endpoint answered with no token") from None


async def _of_azure_identity(client_id: str | None) -> Token:
    # Slow to import, and never needed on the platform.
    from azure.core.exceptions import AzureError  # noqa: PLC0415
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415

    async with DefaultAzureCredential(**({"managed_identity_client_id": client_id} if client_id else {})) as credential:
        try:
            token = await credential.get_token(f"{_RESOURCE}/.default")
        except AzureError as error:
            raise ConnectionError(f"azure-identity gave no token: {type(error).__name__}") from error
    return Token(token.token, float(token.expires_on))
