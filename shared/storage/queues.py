"""Azure Storage queues.

Source: "Queue Storage REST API" (https://learn.microsoft.com/rest/api/storageservices/queue-service-rest-api);
the operations that are named below are pages of it.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote

from shared.storage.account import Request, StorageAccount, page, refusal
from shared.storage.ports import LeasedMessage, Receipt
from shared.values.http_answers import Answer
from shared.values.message_text import Encoding, encode

_DONE_BY_ANOTHER: Final = (400, 404)
_AT_ONCE: Final = timedelta(0)
_NEVER: Final = -1
_IN_FLIGHT: Final = 32  # puts to a queue; more only lengthen the wait of each
_PAGE: Final = 32  # as many as storage gives at a time
_LEASE: Final = timedelta(seconds=5)
_XML: Final = {"content-type": "application/xml"}
_RECEIPT: Final = re.compile(rb"<MessageId>([^<]*)</MessageId>.*?<PopReceipt>([^<]*)</PopReceipt>", re.DOTALL)


class AzureQueues:
    """Queues of one account, created on first use."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account
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
        if encoding != "base64":  # which has no markup
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        message = f"<QueueMessage><MessageText>{text}</MessageText></QueueMessage>".encode()
        query = f"messagettl={_NEVER}"
        if delay:
            query += f"&visibilitytimeout={delay.total_seconds():.0f}"
        request = Request("POST", f"/{queue}/messages", query, _XML, message)
        async with self._slots[queue]:
            answer = await self._send(request)
            if answer.status == 404:
                await self._create(queue)
                answer = await self._send(request)
        if answer.status != 201:
            raise refusal(f"queue {queue}", answer)
        ids = _RECEIPT.search(answer.body)
        # An id is a GUID and a receipt base64 (which "Put Message" shows): neither has an entity.
        return Receipt(queue, "", "") if ids is None else Receipt(queue, ids[1].decode(), ids[2].decode())

    async def show(self, receipt: Receipt) -> bool:
        """End a message's invisibility; says whether it did, and not somebody who took it first ("Update Message").

        Raises:
            UnavailableError: storage did not answer.
        """
        return await self._by_receipt("PUT", receipt, "visibilitytimeout=0")

    async def delete(self, receipt: Receipt) -> bool:
        """Delete a message; says whether it did, and not somebody who took it first ("Delete Message").

        Raises:
            UnavailableError: storage did not answer.
        """
        return await self._by_receipt("DELETE", receipt)

    async def lease(self, queue: str, lease: timedelta, *, at_most: int) -> list[LeasedMessage]:
        """Take messages, which nobody else sees until the lease is over; none where there is no queue.

        Args:
            queue: its name.
            lease: whole seconds.
            at_most: 32 or fewer.

        Raises:
            UnavailableError: storage did not answer.
        """
        query = f"numofmessages={at_most}&visibilitytimeout={lease.total_seconds():.0f}"
        return [
            LeasedMessage(
                Receipt(queue, found["MessageId"], found["PopReceipt"]),
                found["MessageText"],
                parsedate_to_datetime(found["InsertionTime"]),
            )
            for found in await self._messages(queue, query)
        ]

    async def oldest(self, queue: str) -> datetime | None:
        """When the message at the front was put there; None where the queue is empty or does not exist.

        Raises:
            UnavailableError: storage did not answer.
        """
        messages = await self._messages(queue, "peekonly=true&numofmessages=1")
        return parsedate_to_datetime(messages[0]["InsertionTime"]) if messages else None

    async def count(self, queue: str) -> int:
        """About how many messages there are, leased ones included; none where there is no queue.

        It "isn't lower than the actual number of messages in the queue, but could be higher" ("Get Queue Metadata",
        https://learn.microsoft.com/rest/api/storageservices/get-queue-metadata).

        Raises:
            UnavailableError: storage did not answer.
        """
        answer = await self._send(Request("GET", f"/{queue}", "comp=metadata"))
        if answer.status == 404:
            return 0
        if answer.status != 200:
            raise refusal(f"queue {queue}", answer)
        return int(answer.headers.get("x-ms-approximate-messages-count", 0))

    async def names(self) -> list[str]:
        """All queues of the account.

        Raises:
            UnavailableError: storage did not answer.
        """
        names: list[str] = []
        marker = ""
        while True:
            answer = await self._send(Request("GET", "/", f"comp=list{marker}"))
            if answer.status != 200:
                raise refusal("queues", answer)
            listed, more = page(answer.body, "Queue", "queues")
            names += [queue.findtext("Name", "") for queue in listed]
            if not more:
                return names
            marker = f"&marker={quote(more, safe='')}"

    async def peek(self, queue: str) -> list[str]:
        """The texts of up to 32 messages at the front, which stay there; none where there is no queue.

        Raises:
            UnavailableError: storage did not answer.
        """
        return [found["MessageText"] for found in await self._messages(queue, f"peekonly=true&numofmessages={_PAGE}")]

    async def take(self, queue: str, see: Callable[[str], bool], *, at_most: int) -> int:
        """Show messages to `see`, which says whether a message is done with and to be deleted; the others come back.

        Returns:
            How many were deleted.

        Raises:
            UnavailableError: storage did not answer.
        """
        left, taken = at_most, 0
        while left > 0:
            messages = await self.lease(queue, _LEASE, at_most=min(left, _PAGE))
            if not messages:
                break
            left -= len(messages)
            for message in messages:
                if see(message.text):
                    taken += await self.delete(message.receipt)
        return taken

    async def _by_receipt(self, method: str, receipt: Receipt, query: str = "") -> bool:
        if not receipt.pop_receipt:
            return False
        query = f"popreceipt={quote(receipt.pop_receipt, safe='')}{'&' if query else ''}{query}"
        path = f"/{receipt.queue}/messages/{quote(receipt.message_id, safe='')}"
        answer = await self._send(Request(method, path, query))
        # 404: the message is gone; 400 (PopReceiptMismatch): somebody has taken it since.
        if answer.status in _DONE_BY_ANOTHER:
            return False
        if answer.status != 204:
            raise refusal(f"queue {receipt.queue}", answer)
        return True

    async def _messages(self, queue: str, query: str) -> list[dict[str, str]]:
        """Get or peek at messages: each one's fields by name."""
        answer = await self._send(Request("GET", f"/{queue}/messages", query))
        if answer.status == 404:
            return []
        if answer.status != 200:
            raise refusal(f"queue {queue}", answer)
        messages, _ = page(answer.body, "QueueMessage", f"queue {queue}")
        return [{field.tag: field.text or "" for field in message} for message in messages]

    async def _create(self, queue: str) -> None:
        answer = await self._send(Request("PUT", f"/{queue}"))
        if answer.status not in {201, 204, 409}:  # 409: another worker was quicker
            raise refusal(f"queue {queue}", answer)

    async def _send(self, request: Request) -> Answer:
        return await self._account.send(self._account.queues, request)
