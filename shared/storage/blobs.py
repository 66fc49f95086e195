"""Azure Storage blobs: claim checks, quarantine, and state that outlives a worker."""

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobLeaseClient, ContainerClient

from shared.storage.account import StorageAccount, storage_errors
from shared.storage.ports import Listed, Version

_NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})


class AzureBlobs:
    """Private containers of one account, created on first use."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account
        self._containers: dict[str, ContainerClient] = {}

    async def put(self, container: str, name: str, data: bytes, metadata: Mapping[str, str] = _NO_METADATA) -> str:
        """Write JSON, over whatever is there, and return the blob's URL.

        Raises:
            UnavailableError: storage did not take it.
        """
        client = self._container(container)
        blob = client.get_blob_client(name)
        options: dict[str, Any] = {
            "overwrite": True,
            "content_settings": ContentSettings(content_type="application/json"),
            "metadata": dict(metadata),
        }
        with storage_errors(f"container {container}"):
            try:
                await blob.upload_blob(data, **options)
            except ResourceNotFoundError:
                await self._create(client)
                await blob.upload_blob(data, **options)
        return str(blob.url)

    async def get(self, container: str, name: str) -> bytes | None:
        """Read a blob; None where there is none.

        Raises:
            UnavailableError: storage did not answer.
        """
        found = await self.get_version(container, name)
        return None if found is None else found.data

    async def get_version(self, container: str, name: str) -> Version | None:
        """Read a blob, with what tells this version of it from any other; None where there is none.

        Raises:
            UnavailableError: storage did not answer.
        """
        with storage_errors(f"container {container}"):
            try:
                download = await self._container(container).download_blob(name)
                properties = download.properties
                return Version(await download.readall(), properties.etag, properties.last_modified)
            except ResourceNotFoundError:
                return None

    async def put_version(self, container: str, name: str, data: bytes, etag: str | None) -> bool:
        """Write JSON unless the blob has been written anew since; None: unless there is one. Says whether it did.

        Raises:
            UnavailableError: storage did not take it.
        """
        client = self._container(container)
        blob = client.get_blob_client(name)
        condition: dict[str, Any] = (
            {} if etag is None else {"overwrite": True, "etag": etag, "match_condition": MatchConditions.IfNotModified}
        )
        settings = ContentSettings(content_type="application/json")
        with storage_errors(f"container {container}"):
            try:
                await blob.upload_blob(data, content_settings=settings, **condition)
            except (ResourceExistsError, ResourceModifiedError):
                return False
            except ResourceNotFoundError:
                if etag is not None:
                    return False
                await self._create(client)
                await blob.upload_blob(data, content_settings=settings)
        return True

    async def append(self, container: str, name: str, data: bytes) -> None:
        """Write at the end of a blob that several may write to; it is made if it is not there ("Append Block").

        An answer that was lost can have it written twice.

        Raises:
            UnavailableError: storage did not take it.
        """
        client = self._container(container)
        blob = client.get_blob_client(name)
        with storage_errors(f"container {container}"):
            try:
                await blob.append_block(data)
            except ResourceNotFoundError:
                await self._create(client)
                with suppress(ResourceExistsError, ResourceModifiedError):  # another worker was quicker
                    await blob.create_append_blob(match_condition=MatchConditions.IfMissing)
                await blob.append_block(data)

    async def list(self, container: str) -> AsyncIterator[Listed]:
        """The blobs of a container with their metadata, by name; none where there is no container.

        Raises:
            UnavailableError: storage did not answer.
        """
        with storage_errors(f"container {container}"):
            try:
                async for blob in self._container(container).list_blobs(include=["metadata"]):
                    yield Listed(blob.name, blob.metadata or {}, blob.last_modified)
            except ResourceNotFoundError:
                return

    async def delete(self, container: str, name: str) -> None:
        """Delete a blob, or find it gone.

        Raises:
            UnavailableError: storage did not answer.
        """
        with storage_errors(f"container {container}"):
            try:
                await self._container(container).delete_blob(name)
            except ResourceNotFoundError:
                return

    async def delete_version(self, container: str, name: str, etag: str) -> bool:
        """Delete a blob unless it has been written anew or deleted since; says whether it did.

        Raises:
            UnavailableError: storage did not answer.
        """
        with storage_errors(f"container {container}"):
            try:
                await self._container(container).delete_blob(
                    name, etag=etag, match_condition=MatchConditions.IfNotModified
                )
            except (ResourceNotFoundError, ResourceModifiedError):
                return False
        return True

    async def acquire_lease(self, container: str, name: str, lease_id: str, seconds: int) -> bool:
        """Take a lease of a blob, which is made if it is not there; False where another has it ("Lease Blob").

        Raises:
            UnavailableError: storage did not answer.
        """
        client = self._container(container)
        blob = client.get_blob_client(name)
        with storage_errors(f"container {container}"):
            try:
                return await self._lease(BlobLeaseClient(blob, lease_id).acquire(lease_duration=seconds))
            except ResourceNotFoundError:
                await self._create(client)
                with suppress(ResourceExistsError):  # another worker was quicker
                    await blob.upload_blob(b"")
                return await self._lease(BlobLeaseClient(blob, lease_id).acquire(lease_duration=seconds))

    async def renew_lease(self, container: str, name: str, lease_id: str) -> bool:
        """Keep a lease; False where it has passed to another.

        Raises:
            UnavailableError: storage did not answer.
        """
        blob = self._container(container).get_blob_client(name)
        with storage_errors(f"container {container}"):
            return await self._lease(BlobLeaseClient(blob, lease_id).renew())

    async def release_lease(self, container: str, name: str, lease_id: str) -> None:
        """Give a lease back; nothing happens where it has passed to another.

        Raises:
            UnavailableError: storage did not answer.
        """
        blob = self._container(container).get_blob_client(name)
        with storage_errors(f"container {container}"):
            await self._lease(BlobLeaseClient(blob, lease_id).release())

    @staticmethod
    async def _lease(asked: Awaitable[None]) -> bool:
        try:
            await asked
        except ResourceNotFoundError:
            raise
        except HttpResponseError as error:
            if error.status_code in {409, 412}:  # another has it
                return False
            raise
        return True

    @staticmethod
    async def _create(client: ContainerClient) -> None:
        try:
            await client.create_container()
        except ResourceExistsError:
            return  # another worker was quicker

    def _container(self, container: str) -> ContainerClient:
        client = self._containers.get(container)
        if client is None:
            client = self._containers[container] = self._account.blobs.get_container_client(container)
        return client
