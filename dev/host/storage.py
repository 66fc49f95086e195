"""From a binding's `connection` to the clients of a storage account's services, and how their calls are repeated.

Sources: "Azure Queue storage trigger and bindings" (Connections, Identity-based connections); the pauses are those of
Azure.Core's retry policy with the options of Azure.Storage, as seen from the real host.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueServiceClient

from dev.azurite import ACCOUNT, ACCOUNT_KEY
from dev.host.errors import LoadError
from dev.host.surroundings import Surroundings

_DEVELOPMENT = (
    f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
    f"BlobEndpoint=http://127.0.0.1:10000/{ACCOUNT};QueueEndpoint=http://127.0.0.1:10001/{ACCOUNT};"
)

_TRIES = 6
_FIRST_PAUSE = 0.8  # seconds, doubled each time, with a fifth of randomness
_ANSWER_SECONDS = 100
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


async def call[T](operation: Callable[[], Awaitable[T]], surroundings: Surroundings) -> T:
    """Call storage, six times in 20 to 30 seconds where it does not answer or asks to be called again.

    Args:
        operation: one call of a client of `queue_service` or `blob_service`.
        surroundings: where chance comes from.

    Raises:
        AzureError: what the last try raised; what is not transient is not tried again.
    """
    for attempt in range(_TRIES - 1):
        try:
            return await _answer_of(operation)
        except AzureError as error:
            if not _is_transient(error):
                raise
            pause = _FIRST_PAUSE * 2**attempt * surroundings.random.uniform(0.8, 1.2)
            await asyncio.sleep(max(pause, _retry_after(error)))
    return await _answer_of(operation)


async def _answer_of[T](operation: Callable[[], Awaitable[T]]) -> T:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await operation()
    except TimeoutError as error:
        raise ServiceResponseTimeoutError(f"no answer for {_ANSWER_SECONDS} seconds") from error


def _is_transient(error: AzureError) -> bool:
    if isinstance(error, HttpResponseError):
        return error.status_code in _TRANSIENT_STATUS
    return isinstance(error, ServiceRequestError | ServiceResponseError)


def _retry_after(error: AzureError) -> float:
    response: Any = error.response if isinstance(error, HttpResponseError) else None
    if response is not None:
        with contextlib.suppress(ValueError):
            return float(response.headers.get("Retry-After", ""))
    return 0.0


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
            # Not at the top: a host whose storage has a key need not wait for it.
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415

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
