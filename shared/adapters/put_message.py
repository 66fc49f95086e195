"""Put Message without the weight: the SDK's own transport, retries and authentication, and nothing else on the way.

The SDK's `send_message` spends about half a millisecond of CPU on models, hooks, loggers and the answer's XML, which is
more than it takes to decrypt what is put. Source: "Put Message" and "Authorize with Shared Key" (Azure Storage REST).
"""

from datetime import timedelta
from email.utils import formatdate
from typing import Any, Final
from xml.sax.saxutils import escape

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.pipeline import AsyncPipeline, PipelineRequest
from azure.core.pipeline.policies import AsyncBearerTokenCredentialPolicy, SansIOHTTPPolicy
from azure.core.rest import AsyncHttpResponse, HttpRequest
from azure.storage.queue.aio import QueueClient

from shared.adapters.storage import StorageAccount, quick_retries

_NEVER: Final = -1
_MARKUP: Final = "&<>"
_SCOPE: Final = "https://storage.azure.com/.default"


class _Date(SansIOHTTPPolicy[HttpRequest, AsyncHttpResponse]):
    """The date, which is part of what a shared key signs; anew for each try."""

    def on_request(self, request: PipelineRequest[HttpRequest]) -> None:
        request.http_request.headers["x-ms-date"] = formatdate(usegmt=True)


class MessagePutter:
    """Puts messages that never expire on the queues of one account."""

    def __init__(self, account: StorageAccount) -> None:
        credential: Any = account.queues.credential
        policies: list[Any] = [quick_retries(), _Date()]
        if hasattr(credential, "get_token"):
            policies.append(AsyncBearerTokenCredentialPolicy(credential, _SCOPE))
        elif credential is not None:  # the SDK has made a policy of an account key; a SAS is part of the URL
            policies.append(credential)
        self._pipeline: AsyncPipeline[HttpRequest, AsyncHttpResponse] = AsyncPipeline(account.transport, policies)
        self._headers = {"x-ms-version": account.queues.api_version, "Content-Type": "application/xml"}

    async def put(self, client: QueueClient, text: str, delay: timedelta) -> None:
        """Put a message.

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
        request = HttpRequest("POST", url, headers={**self._headers, "Content-Length": str(len(body))}, content=body)
        response = (await self._pipeline.run(request)).http_response
        if response.status_code == 201:
            return
        kind = ResourceNotFoundError if response.status_code == 404 else HttpResponseError
        raise kind(response=response)
