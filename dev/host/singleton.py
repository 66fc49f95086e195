"""The lock by which one of several hosts with the same id has a listener: a blob that it leases.

Source: the WebJobs SDK (Azure/azure-webjobs-sdk): `SingletonListener`, `SingletonOptions` for the times.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from azure.core.exceptions import (
    AzureError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)

from dev.host.storage import call
from dev.host.surroundings import Surroundings
from dev.host.timer_status import HOSTS_CONTAINER

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobLeaseClient, BlobServiceClient


class ListenerLock:
    """The lock of one function's listener; while it is ours, its lease is renewed at half of its time."""

    def __init__(
        self,
        blobs: "BlobServiceClient",
        host_id: str,
        function: str,
        surroundings: Surroundings,
        *,
        lease_seconds: int,
        on_loss: Callable[[str], None],
    ) -> None:
        """Prepare; nothing is asked of storage yet.

        Args:
            blobs: where the lock is; closed by whoever made it.
            host_id: hosts with the same one share it.
            function: whose listener it is for.
            surroundings: what storage calls take their pauses from.
            lease_seconds: how long the lock outlives the host that held it.
            on_loss: called with a reason if the lease cannot be renewed: another host may have it before long.
        """
        self._function = function
        self._container = blobs.get_container_client(HOSTS_CONTAINER)
        self._blob = self._container.get_blob_client(f"locks/{host_id}/Host.Functions.{function}.Listener")
        self._surroundings = surroundings
        self._lease_seconds = lease_seconds
        self._on_loss = on_loss
        self._lease: BlobLeaseClient | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def try_acquire(self) -> bool:
        """Take the lock unless another host has it; says whether it is ours now.

        Raises:
            AzureError: storage does not say.
        """
        with contextlib.suppress(ResourceNotFoundError):
            properties = await call(self._blob.get_blob_properties, self._surroundings)
            if properties.lease.state == "leased":
                return False
        lease_id = str(uuid.uuid4())
        try:
            self._lease = await self._acquire(lease_id)
        except ResourceNotFoundError:
            await self._create()
            self._lease = await self._acquire(lease_id)
        if self._lease is None:
            return False
        self._renewal = asyncio.create_task(self._renew(self._lease))
        return True

    async def release(self) -> None:
        """Give the lock back, if it is ours.

        Raises:
            AzureError: storage does not take it; the lock is free when its lease ends.
        """
        lease = self._lease
        self.abandon()
        if lease is not None:
            await call(lease.release, self._surroundings)

    def abandon(self) -> None:
        """Renew the lease no more, as a host that is killed; it ends by itself."""
        if self._renewal is not None:
            self._renewal.cancel()
        self._lease = self._renewal = None

    async def _renew(self, lease: "BlobLeaseClient") -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 2)
            try:
                await call(lease.renew, self._surroundings)
            except AzureError as error:
                self._on_loss(f"the lock of {self._function} could not be renewed: {error.message}")
                return

    async def _acquire(self, lease_id: str) -> "BlobLeaseClient | None":
        # With an id of our own, a try whose answer was lost is not refused by itself.
        try:
            return await call(
                lambda: self._blob.acquire_lease(self._lease_seconds, lease_id=lease_id), self._surroundings
            )
        except ResourceExistsError:
            return None

    async def _create(self) -> None:
        async def upload() -> None:
            # Another host may have been faster, and hold its lease already.
            with contextlib.suppress(ResourceExistsError, ResourceModifiedError):
                await self._blob.upload_blob(b"", overwrite=False)

        try:
            await call(upload, self._surroundings)
        except ResourceNotFoundError:
            with contextlib.suppress(ResourceExistsError):
                await call(self._container.create_container, self._surroundings)
            await call(upload, self._surroundings)
