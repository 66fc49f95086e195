"""App settings, read once into one frozen object; every problem is reported at once.

Nothing here runs at import: the validation handshake needs no setting at all.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast
from urllib.parse import urlsplit
from uuid import UUID

from shared.values.consumers import NO_OTHERS, Consumers, parse_consumers
from shared.values.endpoint import is_plain
from shared.values.errors import SettingsError

_CERTIFICATE_NAME: Final = re.compile(r"[0-9A-Za-z-]{1,95}")  # leaves room for "/" and a version within Graph's 128
_LEAST_CLIENT_STATE: Final = 32
_URL_CONCERN: Final = (
    "holds a fragment, a user name, white space or another character that Graph does not give back as it is:"
    " write https://{host}/{path}, with a query if need be"
)
# What azure-identity looks for before a managed identity of App Service's kind (`DefaultAzureCredential`).
_OTHER_IDENTITIES: Final = (
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_FEDERATED_TOKEN_FILE",
    "IDENTITY_SERVER_THUMBPRINT",
)
_LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class IdentityEndpoint:
    """Where the platform gives tokens of the app's managed identity, and the secret that it wants to see there.

    Source: "How to use managed identities for App Service and Azure Functions", REST endpoint reference
    (https://learn.microsoft.com/azure/app-service/overview-managed-identity).
    """

    url: str
    header: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Where storage is: a connection string, or the two service URIs that are reached by identity.

    `client_id` is that of a user-assigned identity, or None for the only one there is; `identity` is None where
    azure-identity has to find out who we are.
    """

    connection_string: str | None
    queue_service_uri: str | None
    blob_service_uri: str | None
    client_id: str | None
    identity: IdentityEndpoint | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """All app settings. Durations are in seconds, sizes in bytes."""

    storage: StorageSettings
    client_states: tuple[str, ...]  # the current one first
    tenant_ids: frozenset[str]  # lower case
    app_ids: frozenset[str]  # lower case
    sign_in_app_id: str | None  # lower case
    federated_app_id: str | None  # lower case
    graph_endpoint: str
    login_endpoint: str
    key_vault_url: str
    certificate_name: str
    notification_url: str
    lifecycle_notification_url: str
    subscriptions: str
    event_encoding: Literal["base64", "none"]
    event_format: Literal["single", "batch"]
    call_records: Literal["notify", "fetch"]
    emergency_express: bool
    max_body_bytes: int
    consumers: Consumers
    unsubscribes: bool

    @property
    def concerns(self) -> Mapping[str, str]:
        """What no new subscription should be made with, by setting, and what to do about it.

        None of it is an error: what lives is served and renewed all the same.
        """
        urls = {
            "NOTIFICATION_URL": self.notification_url,
            "LIFECYCLE_NOTIFICATION_URL": self.lifecycle_notification_url,
        }
        concerns = {name: _URL_CONCERN for name, url in urls.items() if not is_plain(url)}
        if len(self.client_states[0]) < _LEAST_CLIENT_STATE:
            concerns["CLIENT_STATE"] = (
                f"is under {_LEAST_CLIENT_STATE} characters and can be guessed from the mark in the notification URLs:"
                " rotate it to 32 random characters or more"
            )
        return concerns


def load(env: Mapping[str, str]) -> Settings:
    """Read the settings from app settings (environment variables).

    Raises:
        SettingsError: names every setting that is missing or wrong, and what it is for.
    """
    reader = _Reader(env)
    state = reader.text("CLIENT_STATE", "the shared secret in every subscription; 1 to 128 characters", _client_state)
    previous = reader.text(
        "CLIENT_STATE_PREVIOUS", "the shared secret before the current one, while it is rotated", _client_state, ""
    )
    notification_url = reader.text("NOTIFICATION_URL", "the public URL that Graph calls", _url)
    tenant_ids = reader.guids("GRAPH_TENANT_IDS", "the tenants served, comma-separated")
    app_ids = reader.guids("GRAPH_APP_IDS", "the application ids that Graph's validation tokens are issued for")
    settings = Settings(
        storage=reader.storage(),
        client_states=(state, previous) if previous else (state,),
        tenant_ids=tenant_ids,
        app_ids=app_ids,
        sign_in_app_id=reader.sign_in_app_id(app_ids),
        federated_app_id=reader.federated_app_id(app_ids, tenant_ids),
        graph_endpoint=reader.text(
            "GRAPH_ENDPOINT", "Graph's address, for national clouds", _url, "https://graph.microsoft.com"
        ).rstrip("/"),
        login_endpoint=reader.text(
            "LOGIN_ENDPOINT", "Entra ID's address, for national clouds", _url, "https://login.microsoftonline.com"
        ).rstrip("/"),
        key_vault_url=reader.text("KEY_VAULT_URL", "the vault that holds the encryption certificate", _url),
        certificate_name=reader.text(
            "CERTIFICATE_NAME",
            "the name of the encryption certificate in Key Vault; letters, digits and hyphens, at most 95",
            lambda value: _CERTIFICATE_NAME.fullmatch(value) is not None,
        ),
        notification_url=notification_url,
        lifecycle_notification_url=reader.text(
            "LIFECYCLE_NOTIFICATION_URL", "what Graph calls for lifecycle notifications", _url, notification_url
        ),
        subscriptions=reader.text(
            "SUBSCRIPTIONS",
            "the desired subscriptions: a path in the package, or blob:{container}/{blob}",
            default="subscriptions.toml",
        ),
        event_encoding=cast(
            Literal["base64", "none"], reader.choice("EVENT_ENCODING", ("base64", "none"), "how events are encoded")
        ),
        event_format=cast(
            Literal["single", "batch"],
            reader.choice("EVENT_FORMAT", ("single", "batch"), "one event or several to a queue message"),
        ),
        call_records=cast(
            Literal["notify", "fetch"],
            reader.choice(
                "CALL_RECORDS", ("notify", "fetch"), "whether an event of a call record carries the record itself"
            ),
        ),
        emergency_express=reader.choice(
            "EMERGENCY_EXPRESS", ("on", "off"), "whether emergencies are opened where they are received"
        )
        == "on",
        max_body_bytes=reader.positive("MAX_BODY_BYTES", 4 * 1024 * 1024, "the largest request body taken, in bytes"),
        consumers=reader.consumers("CONSUMERS", "further consumers, each with queues of its own"),
        unsubscribes=reader.choice(
            "UNSUBSCRIBE", ("unwanted", "never"), "whether the timer ends subscriptions that nobody desires any more"
        )
        == "unwanted",
    )
    if reader.problems:
        raise SettingsError(reader.problems)
    return settings


def storage_settings(env: Mapping[str, str], connection: str = "AzureWebJobsStorage") -> StorageSettings | None:
    """Storage as the Functions host itself finds it; None where the settings name none.

    A plain connection string wins over identity settings, as it does in the host ("Connecting to host storage with an
    identity" in the Functions reference).
    """
    if text := env.get(connection, "").strip():
        return StorageSettings(text, None, None, None)
    prefix = f"{connection}__"
    account = env.get(f"{prefix}accountName", "").strip()
    queue = env.get(f"{prefix}queueServiceUri", "").strip() or (
        f"https://{account}.queue.core.windows.net" if account else ""
    )
    blob = env.get(f"{prefix}blobServiceUri", "").strip() or (
        f"https://{account}.blob.core.windows.net" if account else ""
    )
    if not (queue and blob):
        return None
    client_id = env.get(f"{prefix}clientId", "").strip() or env.get("AZURE_CLIENT_ID", "").strip() or None
    return StorageSettings(None, queue.rstrip("/"), blob.rstrip("/"), client_id, _identity_endpoint(env))


def _identity_endpoint(env: Mapping[str, str]) -> IdentityEndpoint | None:
    """That of the platform, unless the environment wants the app to be somebody else, as azure-identity reads it."""
    url, header = env.get("IDENTITY_ENDPOINT"), env.get("IDENTITY_HEADER")
    if not url or not header or any(env.get(name) for name in _OTHER_IDENTITIES):
        return None
    return IdentityEndpoint(url, header)


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    return urlsplit(url).hostname in _LOOPBACK_HOSTS


def _url(value: str) -> bool:
    parts = urlsplit(value)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(value)))


def _client_state(value: str) -> bool:
    return len(value) <= 128  # Graph's limit on a subscription's clientState


def _only(values: frozenset[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


class _Reader:
    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.problems: list[str] = []

    def text(
        self, name: str, purpose: str, valid: Callable[[str], bool] | None = None, default: str | None = None
    ) -> str:
        value = self._env.get(name, "").strip()
        if value.startswith("@Microsoft.KeyVault("):
            # The platform leaves the reference itself in place when it cannot resolve it.
            self.problems.append(f"{name}: its Key Vault reference was not resolved ({purpose})")
            return value
        if not value:
            if default is None:
                self.problems.append(f"{name}: missing ({purpose})")
            return default or ""
        if valid is not None:
            try:
                fine = valid(value)
            except ValueError:
                fine = False
            if not fine:
                self.problems.append(f"{name}: not valid ({purpose})")
        return value

    def guids(self, name: str, purpose: str) -> frozenset[str]:
        values = [value.strip() for value in self.text(name, purpose).split(",") if value.strip()]
        ids = set()
        for place, value in enumerate(values, 1):
            try:
                ids.add(str(UUID(value)))
            except ValueError:  # which may be a secret that was pasted into the wrong place
                self.problems.append(f"{name}: value {place} is not a GUID ({purpose})")
        if not values and self._env.get(name, "").strip():
            self.problems.append(f"{name}: names none ({purpose})")
        return frozenset(ids)

    def sign_in_app_id(self, app_ids: frozenset[str]) -> str | None:
        name, purpose = "SIGN_IN_APP_ID", "the application that people sign in to, for presence; one of GRAPH_APP_IDS"
        return self._one_of(app_ids, name, purpose) or _only(app_ids)

    def federated_app_id(self, app_ids: frozenset[str], tenant_ids: frozenset[str]) -> str | None:
        name = "FEDERATED_APP_ID"
        purpose = (
            "the multi-tenant application that trusts the managed identity, for several tenants; one of GRAPH_APP_IDS"
        )
        value = self._one_of(app_ids, name, purpose)
        if value is not None or len(tenant_ids) <= 1:
            return value
        if len(app_ids) > 1:  # a managed identity has no tokens for other tenants than its own
            self.problems.append(f"{name}: missing ({purpose})")
        return _only(app_ids)

    def _one_of(self, app_ids: frozenset[str], name: str, purpose: str) -> str | None:
        value = self.text(name, purpose, default="").lower()
        if value and value not in app_ids:  # Graph's validation tokens for its subscriptions would be refused
            self.problems.append(f"{name}: not valid ({purpose})")
        return value or None

    def choice(self, name: str, allowed: tuple[str, ...], purpose: str) -> str:
        value = self.text(name, purpose, default=allowed[0]).lower()
        if value not in allowed:
            self.problems.append(f"{name}: must be {' or '.join(allowed)} ({purpose})")
        return value

    def positive(self, name: str, default: int, purpose: str) -> int:
        text = self.text(name, purpose, default=str(default))
        if not (text.isascii() and text.isdecimal() and int(text) > 0):
            self.problems.append(f"{name}: must be a whole number above zero ({purpose})")
            return default
        return int(text)

    def consumers(self, name: str, purpose: str) -> Consumers:
        text = self.text(name, purpose, default="[]")
        try:
            return parse_consumers(text)
        except ValueError as error:
            self.problems.append(f"{name}: {error} ({purpose})")
            return NO_OTHERS

    def storage(self) -> StorageSettings:
        settings = storage_settings(self._env)
        if settings is None:
            self.problems.append(
                "AzureWebJobsStorage: missing (storage: a connection string, or AzureWebJobsStorage__accountName,"
                " or both AzureWebJobsStorage__queueServiceUri and __blobServiceUri)"
            )
            return StorageSettings(None, None, None, None)
        return settings
