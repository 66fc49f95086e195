"""From a binding's `connection` to the clients of a storage account's services, and how their calls are repeated.

Sources: "Azure Queue storage trigger and bindings" (Connections, Identity-based connections); the pauses are those of
Azure.Core's retry policy with the options of Azure.Storage, as seen from the real host.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

from azure.identity.aio import DefaultAzureCredential
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueServiceClient

from dev.azurite import ACCOUNT, ACCOUNT_KEY
from dev.host.errors import LoadError
from dev.host.surroundings import Surroundings

_DEVELOPMENT = (
    f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
    f"BlobEndpoint=http://127.0.0.1:10000/{ACCOUNT};QueueEndpoint=http://127.0.0.1:10001/{ACCOUNT};"
)


@asynccontextmanager
async def queue_service(
    connection: str, settings: Mapping[str, str], surroundings: Surroundings
) -> AsyncIterator[QueueServiceClient]:
    """A client, for the length of the block, of the queue service that the settings called `connection` describe.

    A connection string `X` or `AzureWebJobsX` comes first, then the identity settings `X__queueServiceUri`,
    `X__serviceUri`, `X__accountName`, with `X__clientId` for a user-assigned identity. The client repeats nothing by
    itself: `call` does.

    Raises:
        LoadError: there are no such settings, or the connection string is not one.
    """
    async with _service(QueueServiceClient, "queue", connection, settings, surroundings) as service:
        yield service


@asynccontextmanager
async def blob_service(
    connection: str, settings: Mapping[str, str], surroundings: Surroundings
) -> AsyncIterator[BlobServiceClient]:
    """The same for the blob service, with `X__blobServiceUri`."""
    async with _service(BlobServiceClient, "blob", connection, settings, surroundings) as service:
        yield service


@asynccontextmanager
async def _service[T: (QueueServiceClient, BlobServiceClient)](
    kind: type[T],
    name: Literal["queue", "blob"],
    connection: str,
    settings: Mapping[str, str],
    surroundings: Surroundings,
) -> AsyncIterator[T]:
    # "AzureWebJobs" in front may be left out of a binding: the host looks for the longer name first.
    for prefix in (f"AzureWebJobs{connection}", connection):
        text = settings.get(prefix)
        if text:
            async with _from_connection_string(kind, prefix, text, surroundings) as service:
                yield service
            return
        url = _service_url(name, prefix, settings)
        if url:
            client_id = settings.get(f"{prefix}__clientId")
            async with (
                DefaultAzureCredential(managed_identity_client_id=client_id) as credential,
                kind(url, credential=credential, **_client_options(url, surroundings)) as service,
            ):
                yield service
            return
    raise LoadError(f"there is no storage connection '{connection}': set {connection} or {connection}__accountName")


def _from_connection_string[T: (QueueServiceClient, BlobServiceClient)](
    kind: type[T], setting: str, text: str, surroundings: Surroundings
) -> T:
    if "usedevelopmentstorage=true" in text.lower():
        text = _DEVELOPMENT
    try:
        url = kind.from_connection_string(text).url
        return kind.from_connection_string(text, **_client_options(url, surroundings))
    except ValueError as error:
        raise LoadError(f"setting {setting} is not a storage connection string: {error}") from error


def _service_url(service: str, prefix: str, settings: Mapping[str, str]) -> str | None:
    account = settings.get(f"{prefix}__accountName")
    return (
        settings.get(f"{prefix}__{service}ServiceUri")
        or settings.get(f"{prefix}__serviceUri")
        or (f"https://{account}.{service}.core.windows.net" if account else None)
    )


def _client_options(url: str, surroundings: Surroundings) -> dict[str, Any]:
    return {"retry_total": 0, "transport": surroundings.transport(url)}
