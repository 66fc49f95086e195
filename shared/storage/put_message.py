"""Put Message without the weight: the SDK's retries, authentication and connections, and nothing else on the way.

The SDK's `send_message` spends about half a millisecond of CPU on models, hooks, loggers and the answer's XML, which is
more than it takes to decrypt what is put. Source: "Put Message" and "Authorize with Shared Key" (Azure Storage REST).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import formatdate
from types import TracebackType
from typing import Any, Final, Self
from xml.sax.saxutils import escape, unescape

import aiohttp
from azure.core.exceptions import (
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.core.pipeline import AsyncPipeline
from azure.core.pipeline.policies import AsyncBearerTokenCredentialPolicy
from azure.core.pipeline.transport import AioHttpTransport, AsyncHttpTransport
from azure.core.rest import HttpRequest
from azure.storage.queue.aio import QueueClient

from shared.storage.account import StorageAccount, quick_retries
from shared.storage.ports import Receipt

_NEVER: Final = -1
_MARKUP: Final = "&<>"
_RECEIPT: Final = re.compile(rb"<MessageId>([^<]*)</MessageId>.*?<PopReceipt>([^<]*)</PopReceipt>", re.DOTALL)
_SCOPE: Final = "https://storage.azure.com/.default"


@dataclass(slots=True)
class _Answer:
    """As much of an answer as the SDK's policies and errors look at; `location_mode` is for its retries to set."""

    status_code: int
    reason: str | None
    headers: Mapping[str, str]
    body: bytes
    location_mode: str | None = None


class _Transport(AsyncHttpTransport[HttpRequest, Any]):
    """The connections of the SDK's transport, without what that wraps around each request and answer."""

    def __init__(self, transport: AioHttpTransport) -> None:
        self._transport = transport  # by this name a shared key's policy knows how the path will be quoted
        config = transport.connection_config
        self._timeout = aiohttp.ClientTimeout(sock_connect=config.timeout, sock_read=config.read_timeout)

    async def send(self, request: HttpRequest, **_options: Any) -> _Answer:
        """Send a request and wait for the end of the answer.

        Raises:
            ServiceRequestError: it was not sent.
            ServiceResponseError: no answer came, or not all of it.
        """
        await self._transport.open()
        session: Any = self._transport.session
        try:
            async with session.request(
                request.method,
                request.url,
                headers=request.headers,
                data=request.content,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                body = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise ServiceRequestError(error, error=error) from error
        except TimeoutError as error:
            raise ServiceResponseTimeoutError(error, error=error) from error
        except aiohttp.ClientError as error:
            raise ServiceResponseError(error, error=error) from error
        return _Answer(response.status, response.reason, response.headers, body)

    async def open(self) -> None:
        await self._transport.open()

    async def close(self) -> None:
        """Nothing: the connections are the account's."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()


class MessagePutter:
    """Puts messages that never expire on the queues of one account."""

    def __init__(self, account: StorageAccount) -> None:
        credential: Any = account.queues.credential
        policies: list[Any] = [quick_retries()]
        if hasattr(credential, "get_token"):
            policies.append(AsyncBearerTokenCredentialPolicy(credential, _SCOPE))
        elif credential is not None:  # the SDK has made a policy of an account key; a SAS is part of the URL
            policies.append(credential)
        self._pipeline = AsyncPipeline[HttpRequest, Any](_Transport(account.transport), policies)
        self._headers = {"x-ms-version": account.queues.api_version, "Content-Type": "application/xml"}

    async def put(self, client: QueueClient, text: str, delay: timedelta) -> Receipt:
        """Put a message, and return what shows or deletes it.

        Args:
            client: of the queue.
            text: of the message, encoded.
            delay: how long it stays invisible; whole seconds, at most 7 days.

        Raises:
            ResourceNotFoundError: there is no such queue.
            AzureError: anything else that storage or the way to it says.
        """
        if any(mark in text for mark in _MARKUP):  # base64, most of what is put, has none
            text = escape(text)
        body = f"<QueueMessage><MessageText>{text}</MessageText></QueueMessage>".encode()
        path, _, query = client.url.partition("?")
        hidden = f"&visibilitytimeout={delay.total_seconds():.0f}" if delay else ""
        url = f"{path}/messages?messagettl={_NEVER}{hidden}{'&' if query else ''}{query}"
        # A shared key signs the date. Storage takes one of up to 15 minutes ago, and all tries are over long before.
        headers = {**self._headers, "Content-Length": str(len(body)), "x-ms-date": formatdate(usegmt=True)}
        response = (await self._pipeline.run(HttpRequest("POST", url, headers=headers, content=body))).http_response
        if response.status_code == 201:
            return _receipt(client.queue_name, response.body)
        kind = ResourceNotFoundError if response.status_code == 404 else HttpResponseError
        raise kind(response=response)


def _receipt(queue: str, answer: bytes) -> Receipt:
    found = _RECEIPT.search(answer)
    if found is None:
        return Receipt(queue, "", "")
    return Receipt(queue, found[1].decode(), unescape(found[2].decode()))
