"""From a binding's `connection` to a queue service client.

Sources: "Azure Queue storage trigger and bindings" (Connections, Identity-based connections).
"""

import ipaddress
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from azure.core.pipeline.transport import AioHttpTransport
from azure.identity.aio import DefaultAzureCredential
from azure.storage.queue.aio import QueueServiceClient

from dev.azurite import ACCOUNT, ACCOUNT_KEY
from dev.host.errors import LoadError

_DEVELOPMENT = (
    f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
    f"QueueEndpoint=http://127.0.0.1:10001/{ACCOUNT};"
)


@asynccontextmanager
async def queue_service(connection: str, settings: Mapping[str, str]) -> AsyncIterator[QueueServiceClient]:
    """A client, for the length of the block, of the queue service that the settings called `connection` describe.

    A connection string `X` or `AzureWebJobsX` comes first, then the identity settings `X__queueServiceUri`,
    `X__serviceUri`, `X__accountName`, with `X__clientId` for a user-assigned identity.

    Raises:
        LoadError: there are no such settings, or the connection string is not one.
    """
    # "AzureWebJobs" in front may be left out of a binding: the host looks for the longer name first.
    for name in (f"AzureWebJobs{connection}", connection):
        text = settings.get(name)
        if text:
            async with _from_connection_string(name, text) as service:
                yield service
            return
        url = _service_url(name, settings)
        if url:
            client_id = settings.get(f"{name}__clientId")
            async with (
                DefaultAzureCredential(managed_identity_client_id=client_id) as credential,
                QueueServiceClient(url, credential=credential, **_client_options(url)) as service,
            ):
                yield service
            return
    raise LoadError(f"there is no storage connection '{connection}': set {connection} or {connection}__accountName")


def _from_connection_string(name: str, text: str) -> QueueServiceClient:
    if "usedevelopmentstorage=true" in text.lower():
        text = _DEVELOPMENT
    try:
        url = QueueServiceClient.from_connection_string(text).url
        return QueueServiceClient.from_connection_string(text, **_client_options(url))
    except ValueError as error:
        raise LoadError(f"setting {name} is not a storage connection string: {error}") from error


def _service_url(name: str, settings: Mapping[str, str]) -> str | None:
    account = settings.get(f"{name}__accountName")
    return (
        settings.get(f"{name}__queueServiceUri")
        or settings.get(f"{name}__serviceUri")
        or (f"https://{account}.queue.core.windows.net" if account else None)
    )


def _client_options(url: str) -> dict[str, Any]:
    return {
        # Of the SDK's own retry policy; its pauses of 15 seconds and more are long beside a lease.
        "initial_backoff": 1,
        "increment_base": 2,
        "retry_total": 3,
        # Reading the proxy variables for each request is two fifths of the SDK's work; an emulator needs no proxy.
        "transport": AioHttpTransport(use_env_settings=not _is_loopback(url)),
    }


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
