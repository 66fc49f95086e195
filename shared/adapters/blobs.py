"""Azure Storage blobs: claim checks, quarantine, and state that outlives a worker."""

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import ContainerClient

from shared.adapters.storage import StorageAccount, storage_errors


class Blobs:
    """Private containers of one account, created on first use."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account
        self._containers: dict[str, ContainerClient] = {}

    async def put(self, container: str, name: str, data: bytes) -> str:
        """Write JSON, over whatever is there, and return the blob's URL.

        Raises:
            UnavailableError: storage did not take it.
        """
        client = self._container(container)
        blob = client.get_blob_client(name)
        settings = ContentSettings(content_type="application/json")
        with storage_errors(f"container {container}"):
            try:
                await blob.upload_blob(data, overwrite=True, content_settings=settings)
            except ResourceNotFoundError:
                await self._create(client)
                await blob.upload_blob(data, overwrite=True, content_settings=settings)
        return str(blob.url)

    async def get(self, container: str, name: str) -> bytes | None:
        """Read a blob; None where there is none.

        Raises:
            UnavailableError: storage did not answer.
        """
        with storage_errors(f"container {container}"):
            try:
                download = await self._container(container).download_blob(name)
                return await download.readall()
            except ResourceNotFoundError:
                return None

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
