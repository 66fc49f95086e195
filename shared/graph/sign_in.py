"""People who have signed in for Switchboard: presence is given to nobody else.

An operator signs in once for each tenant by device code ("OAuth 2.0 device authorization grant",
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-device-code). What MSAL keeps of it lies in Key Vault
without its access and id tokens: a refresh token is all that is needed. Refresh tokens live for 90 days from their
issue and stay valid when a newer one is issued ("Refresh tokens in the Microsoft identity platform",
https://learn.microsoft.com/entra/identity-platform/refresh-tokens). So the newest one is written back once a day, and
workers that overtake one another do no harm.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msal  # type: ignore[import-untyped]
import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import KeyVaultSecret, SecretClient

from shared.settings import is_loopback
from shared.values.graph_errors import CredentialError, SignInRequiredError

PERMISSION: Final = "Presence.Read.All"

_SECRET: Final = "presence-sign-in-{tenant_id}"  # noqa: S105 - the name of one
_CONTENT_TYPE: Final = "application/json"
# Sections of MSAL's cache, and what it takes for granted in each of their entries.
_KEPT: Final = {
    "RefreshToken": ("secret", "home_account_id", "environment", "client_id", "credential_type"),
    "Account": ("home_account_id", "environment", "authority_type"),
    "AppMetadata": ("client_id", "environment"),
}
_WRITE_BACK_AFTER: Final = timedelta(days=1)
_CONNECT_SECONDS: Final = 3  # to Key Vault
_ANSWER_SECONDS: Final = 5  # of Key Vault, of each of its tries
_TIMEOUT: Final = 10.0  # seconds, for each request to Entra ID

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SignInPrompt:
    """What a person has to do: open `url` and enter `code`, before `expires`."""

    url: str
    code: str
    expires: datetime


class SignIns:
    """The sign-ins that Key Vault keeps, one for each tenant."""

    def __init__(self, *, vault_url: str, login_endpoint: str, graph_endpoint: str, app_id: str | None) -> None:
        """Take the addresses; nothing is connected yet.

        Args:
            vault_url: Key Vault's address.
            login_endpoint: Entra ID's address without a slash at the end.
            graph_endpoint: Graph's address without a slash at the end.
            app_id: the application that people sign in to; None where none is set.
        """
        self._login_endpoint = login_endpoint
        self._scopes = [f"{graph_endpoint}/{PERMISSION}"]
        self._app_id = app_id
        self._identity = DefaultAzureCredential()
        self._secrets = SecretClient(
            vault_url,
            self._identity,
            # The challenge must name the vault's own domain; a simulator on this machine has none.
            verify_challenge_resource=not is_loopback(vault_url),
            retry_total=2,
            retry_backoff_factor=0.2,
            connection_timeout=_CONNECT_SECONDS,
            read_timeout=_ANSWER_SECONDS,
        )
        self._users: dict[str, SignedInUser] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        self._secrets.close()
        self._identity.close()

    def user(self, tenant_id: str) -> "SignedInUser":
        """The credential of whoever has signed in for a tenant; whether anybody has shows when it is used.

        Raises:
            SignInRequiredError: no application is set that one could sign in to.
        """
        if self._app_id is None:
            raise SignInRequiredError
        with self._lock:
            user = self._users.get(tenant_id)
            if user is None:
                secret = _SECRET.format(tenant_id=tenant_id)
                authority = f"{self._login_endpoint}/{tenant_id}"
                user = SignedInUser(self._secrets, secret, authority, self._app_id, self._scopes)
                self._users[tenant_id] = user
        return user


class SignedInUser:
    """A token credential in the sense of azure-core, for one tenant; to be used from any thread."""

    def __init__(self, secrets: SecretClient, secret: str, authority: str, app_id: str, scopes: list[str]) -> None:
        self._secrets = secrets
        self._secret = secret
        self._authority = authority
        self._app_id = app_id
        self._scopes = scopes
        self._lock = threading.Lock()
        self._app: msal.PublicClientApplication | None = None
        self._written = datetime.min.replace(tzinfo=UTC)

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """An access token for presence; it is refreshed without anybody's help.

        Raises:
            SignInRequiredError: nobody has signed in yet, or the sign-in is no longer good.
            CredentialError: Entra ID or Key Vault did not answer, or refused.
        """
        with self._lock:
            token = None if self._app is None else self._refresh(self._app)
            if token is None:  # a new process, or a sign-in that has lapsed: there may be a new one
                self._app = self._load()
                token = self._refresh(self._app)
            if token is None:
                raise SignInRequiredError
            return token

    def sign_in(self, prompt: Callable[[SignInPrompt], None]) -> str:
        """Let a person sign in, wait for it, and keep it.

        Args:
            prompt: told at once what the person has to do.

        Returns:
            The object id of who has signed in.

        Raises:
            SignInRequiredError: the person declined or was too late, or Entra ID refuses; the message says why.
            CredentialError: Entra ID did not answer, or Key Vault did not take it.
        """
        app = self._application(msal.SerializableTokenCache())
        flow = _ask(lambda: app.initiate_device_flow(self._scopes))
        if "user_code" not in flow:
            raise SignInRequiredError(_reason(flow))
        prompt(
            SignInPrompt(flow["verification_uri"], flow["user_code"], datetime.fromtimestamp(flow["expires_at"], UTC))
        )
        result = _ask(lambda: app.acquire_token_by_device_flow(flow))
        if "access_token" not in result:
            raise SignInRequiredError(_reason(result))
        with self._lock:
            self._write(app)
            self._app = app
        return str(app.get_accounts()[0]["local_account_id"])

    def _refresh(self, app: msal.PublicClientApplication) -> AccessToken | None:
        """A token from memory or with the refresh token; None where that is not good, or there is none."""
        accounts = app.get_accounts()
        if not accounts:
            return None
        result = _ask(lambda: app.acquire_token_silent_with_error(self._scopes, accounts[0]))
        if result is None or "access_token" not in result:
            return None
        if app.token_cache.has_state_changed and datetime.now(UTC) - self._written > _WRITE_BACK_AFTER:
            try:
                self._write(app)
            except CredentialError as error:
                _log.warning("the sign-in of %s could not be written back: reason=%s", self._secret, error.reason)
        return AccessToken(result["access_token"], int(time.time()) + int(result["expires_in"]))

    def _load(self) -> msal.PublicClientApplication:
        cache = msal.SerializableTokenCache()
        with _vault_errors():
            try:
                secret = self._secrets.get_secret(self._secret)
            except ResourceNotFoundError:
                raise SignInRequiredError from None
        kept = _kept(secret.value)
        if kept is None:
            raise SignInRequiredError("what Key Vault keeps of it is damaged")
        cache.deserialize(json.dumps(kept))
        self._written = _moment(secret)
        return self._application(cache)

    def _write(self, app: msal.PublicClientApplication) -> None:
        whole = json.loads(app.token_cache.serialize())
        kept = json.dumps({name: whole[name] for name in _KEPT if name in whole})
        with _vault_errors():
            self._written = _moment(self._secrets.set_secret(self._secret, kept, content_type=_CONTENT_TYPE))

    def _application(self, cache: msal.SerializableTokenCache) -> msal.PublicClientApplication:
        return _ask(
            lambda: msal.PublicClientApplication(
                self._app_id,
                authority=self._authority,
                token_cache=cache,
                instance_discovery=False,  # the address comes from the settings, national clouds included
                timeout=_TIMEOUT,
            )
        )


@contextmanager
def _vault_errors() -> Iterator[None]:
    try:
        yield
    except AzureError as error:
        status = getattr(error, "status_code", None)
        # Nobody's token, so nothing that asking Graph once more could mend.
        unavailable = CredentialError("the sign-in in Key Vault")
        unavailable.reason = f"key-vault-{status or 'no-answer'}"
        raise unavailable from error


def _ask(question: Callable[[], Any]) -> Any:
    """What MSAL says.

    Raises:
        CredentialError: Entra ID did not answer, or does not know the tenant.
    """
    try:
        return question()
    except (requests.RequestException, msal.exceptions.MsalError, ValueError, RuntimeError) as error:
        raise CredentialError("Entra ID's token") from error


def _kept(text: str | None) -> dict[str, Any] | None:
    """The sections that are kept of MSAL's cache; None where they are not as MSAL, which raises anything, expects."""
    try:
        sections = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(sections, dict):
        return None
    kept = {name: sections[name] for name in _KEPT if name in sections}
    return kept if all(_is_section(section, _KEPT[name]) for name, section in kept.items()) else None


def _is_section(section: object, required: Sequence[str]) -> bool:
    return isinstance(section, dict) and all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), str) for name in required)
        and all(value is None or isinstance(value, str | int) for value in entry.values())
        for entry in section.values()
    )


def _reason(answer: dict[str, Any]) -> str:
    """Entra ID's words for a refusal, up to the ids of the request."""
    return str(answer.get("error_description") or answer.get("error") or "refused").splitlines()[0]


def _moment(secret: KeyVaultSecret) -> datetime:
    return secret.properties.updated_on or datetime.min.replace(tzinfo=UTC)
