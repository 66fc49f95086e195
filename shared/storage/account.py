"""One storage account: the connection that the queue and blob adapters share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.blob.aio import BlobServiceClient, LinearRetry
from azure.storage.queue.aio import QueueServiceClient

from shared.settings import StorageSettings
from shared.values.errors import SettingsError, UnavailableError

# Source: "Connect to Azurite with SDKs and tools"; the Functions host expands this shorthand, the Python SDK does not.
_DEVELOPMENT: Final = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1;"
)


class StorageAccount:
    """Clients for queues and blobs over one pooled connection set. Bound to the event loop of its first use."""

    def __init__(self, settings: StorageSettings) -> None:
        """Take where storage is; nothing is connected yet.

        Raises:
            SettingsError: the connection string is none.
        """
        # The environment's proxy settings cost more per request than the rest of the client together; storage needs no
        # proxy on the platform.
        self.transport = AioHttpTransport(use_env_settings=False, connection_timeout=2, read_timeout=5)
        options: dict[str, Any] = {"transport": self.transport}
        if settings.connection_string is not None:
            text = settings.connection_string
            if text.replace(" ", "").rstrip(";").lower() == "usedevelopmentstorage=true":
                text = _DEVELOPMENT
            try:
                self.queues = QueueServiceClient.from_connection_string(text, retry_policy=quick_retries(), **options)
                self.blobs = BlobServiceClient.from_connection_string(text, retry_policy=quick_retries(), **options)
            except (ValueError, KeyError):  # what the SDK says of it may repeat the key
                raise SettingsError(
                    ["AzureWebJobsStorage: not valid (a storage account's connection string)"]
                ) from None
            return
        from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - slow to import, and not always needed

        credential = DefaultAzureCredential(
            **({"managed_identity_client_id": settings.client_id} if settings.client_id else {})
        )
        queue_uri, blob_uri = cast(str, settings.queue_service_uri), cast(str, settings.blob_service_uri)
        self.queues = QueueServiceClient(queue_uri, credential, retry_policy=quick_retries(), **options)
        self.blobs = BlobServiceClient(blob_uri, credential, retry_policy=quick_retries(), **options)


def quick_retries() -> LinearRetry:
    """Two more tries within about a second: what takes longer is the platform's to retry, with the message or the POST.

    A pipeline links its policies to one another, so each needs an object of its own.
    """
    return LinearRetry(backoff=0, retry_total=2, random_jitter_range=1)


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn what the SDK raises into a transient error.

    All of it is transient to us: even a refusal (a role not yet granted, a firewall) is mended by an operator while the
    messages wait.

    Raises:
        UnavailableError: with the service's own error code as its reason.
    """
    try:
        yield
    except HttpResponseError as error:
        headers = getattr(error.response, "headers", {})
        code = headers.get("x-ms-error-code") or error.status_code or "no-answer"
        raise UnavailableError(what, reason=f"storage-{code}") from error
    except AzureError as error:
        raise UnavailableError(what, reason="storage-no-answer") from error
