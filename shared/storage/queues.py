"""Azure Storage queues."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, cast

from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.queue.aio import QueueClient

from shared.storage.account import StorageAccount, storage_errors
from shared.storage.ports import LeasedMessage, Receipt
from shared.storage.put_message import MessagePutter
from shared.values.message_text import Encoding, encode

_DONE_BY_ANOTHER: Final = (400, 404)
_AT_ONCE: Final = timedelta(0)
_IN_FLIGHT: Final = 32  # puts to a queue; more only lengthen the wait of each
_PAGE: Final = 32  # as many as storage gives at a time
_LEASE_SECONDS: Final = 5


class AzureQueues:
    """Queues of one account, created on first use."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account
        self._putter = MessagePutter(account)
        self._clients: dict[str, QueueClient] = {}
        # One set for each queue: a backlog's events must hold up neither receiving nor an emergency.
        self._slots = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(_IN_FLIGHT))

    async def put(self, queue: str, body: bytes, encoding: Encoding, delay: timedelta = _AT_ONCE) -> Receipt:
        """Put a message that never expires, and that nobody sees before `delay` (whole seconds) has passed.

        Returns:
            What shows or deletes it.

        Raises:
            UnavailableError: storage did not take it.
        """
        text = encode(body, encoding)
        client = self._client(queue)
        async with self._slots[queue]:
            with storage_errors(f"queue {queue}"):
                try:
                    return await self._putter.put(client, text, delay)
                except ResourceNotFoundError:
                    await self._create(client)
                    return await self._putter.put(client, text, delay)

    async def show(self, receipt: Receipt) -> bool:
        """End a message's invisibility; says whether it did, and not somebody who took it first ("Update Message").

        Raises:
            UnavailableError: storage did not answer.
        """
        if not receipt.pop_receipt:
            return False
        client = self._client(receipt.queue)
        return await _by_receipt(
            receipt, client.update_message(receipt.message_id, receipt.pop_receipt, visibility_timeout=0)
        )

    async def delete(self, receipt: Receipt) -> bool:
        """Delete a message; says whether it did, and not somebody who took it first ("Delete Message").

        Raises:
            UnavailableError: storage did not answer.
        """
        if not receipt.pop_receipt:
            return False
        client = self._client(receipt.queue)
        return await _by_receipt(receipt, client.delete_message(receipt.message_id, receipt.pop_receipt))

    async def lease(self, queue: str, lease: timedelta, *, at_most: int) -> list[LeasedMessage]:
        """Take messages, which nobody else sees until the lease is over; none where there is no queue.

        Args:
            queue: its name.
            lease: whole seconds.
            at_most: 32 or fewer.

        Raises:
            UnavailableError: storage did not answer.
        """
        client = self._client(queue)
        pages = client.receive_messages(messages_per_page=at_most, visibility_timeout=round(lease.total_seconds()))
        with storage_errors(f"queue {queue}"):
            try:
                async for page in pages.by_page():
                    return [
                        LeasedMessage(
                            Receipt(queue, one.id, one.pop_receipt or ""),
                            str(one.content),
                            cast(datetime, one.inserted_on),
                        )
                        async for one in page
                    ]
            except ResourceNotFoundError:
                return []
        return []

    async def oldest(self, queue: str) -> datetime | None:
        """When the message at the front was put there; None where the queue is empty or does not exist.

        Raises:
            UnavailableError: storage did not answer.
        """
        with storage_errors(f"queue {queue}"):
            try:
                messages = await self._client(queue).peek_messages(1)
            except ResourceNotFoundError:
                return None
        return messages[0].inserted_on if messages else None

    async def count(self, queue: str) -> int:
        """About how many messages there are; none where there is no queue.

        Raises:
            UnavailableError: storage did not answer.
        """
        with storage_errors(f"queue {queue}"):
            try:
                properties = await self._client(queue).get_queue_properties()
            except ResourceNotFoundError:
                return 0
        return properties.approximate_message_count or 0

    async def names(self) -> list[str]:
        """All queues of the account.

        Raises:
            UnavailableError: storage did not answer.
        """
        with storage_errors("queues"):
            return [queue.name async for queue in self._account.queues.list_queues()]

    async def peek(self, queue: str) -> list[str]:
        """The texts of up to 32 messages at the front, which stay there; none where there is no queue.

        Raises:
            UnavailableError: storage did not answer.
        """
        with storage_errors(f"queue {queue}"):
            try:
                messages = await self._client(queue).peek_messages(_PAGE)
            except ResourceNotFoundError:
                return []
        return [str(message.content) for message in messages]

    async def take(self, queue: str, see: Callable[[str], bool], *, at_most: int) -> int:
        """Show messages to `see`, which says whether a message is done with and to be deleted; the others come back.

        Returns:
            How many were deleted.

        Raises:
            UnavailableError: storage did not answer.
        """
        client, taken = self._client(queue), 0
        with storage_errors(f"queue {queue}"):
            try:
                async for message in client.receive_messages(max_messages=at_most, visibility_timeout=_LEASE_SECONDS):
                    if see(str(message.content)):
                        await client.delete_message(message)
                        taken += 1
            except ResourceNotFoundError:
                return taken
        return taken

    @staticmethod
    async def _create(client: QueueClient) -> None:
        try:
            await client.create_queue()
        except ResourceExistsError:
            return  # another worker was quicker

    def _client(self, queue: str) -> QueueClient:
        client = self._clients.get(queue)
        if client is None:
            client = self._clients[queue] = self._account.queues.get_queue_client(queue)
        return client


async def _by_receipt(receipt: Receipt, request: Awaitable[object]) -> bool:
    with storage_errors(f"queue {receipt.queue}"):
        try:
            await request
        except HttpResponseError as error:
            # 404: the message is gone; 400 (PopReceiptMismatch): somebody has taken it since.
            if error.status_code in _DONE_BY_ANOTHER:
                return False
            raise
    return True
