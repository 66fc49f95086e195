"""One storage account: requests to it, authenticated, and tried again where that may help."""

import asyncio
import random
import time
from collections.abc import Mapping
from email.utils import formatdate
from types import MappingProxyType
from typing import Final, NamedTuple

from shared.http_client import HttpClient, Origin, detached, split_url
from shared.settings import StorageSettings, is_loopback
from shared.storage.access_tokens import AccessTokens, tokens_of
from shared.storage.connection_string import is_address, parse_connection_string
from shared.storage.shared_key import SharedKey
from shared.values.errors import SettingsError, UnavailableError
from shared.values.http_answers import Answer

_VERSION: Final = "2024-11-04"
_TRIES: Final = 3  # within about a second; what takes longer is the platform's to retry, with the message or the POST
_PAUSE_SECONDS: Final = 1.0
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Service(NamedTuple):
    """The queues or the blobs of an account: to whom a request goes, and what stands before its path."""

    url: str  # without a slash at the end
    origin: Origin
    path: str

    @classmethod
    def of(cls, url: str) -> "Service":
        """That of an address."""
        return cls(url, *split_url(url))


class Request(NamedTuple):
    """What is asked of a service; `path` is below it, quoted as `query` is, and header names are in lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = _NO_HEADERS
    body: bytes = b""


class StorageAccount:
    """The services of one account. Bound to the event loop of its first use."""

    def __init__(self, settings: StorageSettings, http: HttpClient) -> None:
        """Nothing is connected yet.

        Raises:
            SettingsError: the connection string or an address is none, or a token would be sent without TLS.
        """
        self.http = http
        self._key: SharedKey | None = None
        self._tokens: AccessTokens | None = None
        self._sas = ""
        self._date = (0, "")
        if settings.connection_string is not None:
            parts = parse_connection_string(settings.connection_string)
            self.queues, self.blobs = Service.of(parts.queues), Service.of(parts.blobs)
            self._sas = parts.sas
            self._key = None if parts.key is None else SharedKey(parts.account, parts.key)
        elif settings.queue_service_uri and settings.blob_service_uri:
            if not all(map(is_address, (settings.queue_service_uri, settings.blob_service_uri))):
                raise SettingsError(
                    ["AzureWebJobsStorage__queueServiceUri, __blobServiceUri: not addresses of services"]
                )
            self.queues, self.blobs = Service.of(settings.queue_service_uri), Service.of(settings.blob_service_uri)
            if not all(one.origin.secure or is_loopback(one.url) for one in (self.queues, self.blobs)):
                raise SettingsError(
                    ["AzureWebJobsStorage__queueServiceUri, __blobServiceUri: not https, and tokens are sent there"]
                )
            self._tokens = tokens_of(http, settings.identity, settings.client_id)
        else:
            raise SettingsError(["AzureWebJobsStorage names no storage account"])

    def warm_up(self) -> None:
        """Begin to fetch what the first put would wait for: a token, and a connection."""
        if self._tokens is not None:
            self._tokens.begin()
        detached(self.http.open(self.queues.origin)).add_done_callback(_let_pass)

    async def send(self, service: Service, request: Request) -> Answer:
        """Send a request to a service of this account, up to three times.

        Which answers are final, and when to try again, is as in the storage SDK's retry policy: again after no answer,
        408 and 5xx but 501 and 505.

        Returns:
            The last answer.

        Raises:
            UnavailableError: the last time, none came.
        """
        left = _TRIES
        while True:
            left -= 1
            try:
                answer = await self._send(service, request)
            except ConnectionError as error:
                if not left:
                    raise UnavailableError(service.origin.host, reason="storage-no-answer") from error
            else:
                if not left or not _may_pass(answer.status):
                    return answer
            await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 - nothing secret

    async def _send(self, service: Service, request: Request) -> Answer:
        method, query, body = request.method, request.query, request.body
        path = service.path + request.path
        headers = {"x-ms-version": _VERSION, "x-ms-date": self._now(), **request.headers}
        if method != "GET":
            headers["content-length"] = str(len(body))
        token = ""
        if self._tokens is not None:
            token = await self._tokens.get()
            headers["authorization"] = f"Bearer {token}"
        elif self._key is not None:
            headers["authorization"] = self._key.authorization(method, path, query, headers)
        else:
            query = f"{query}&{self._sas}" if query else self._sas
        lines = "".join([f"\r\n{name}: {value}" for name, value in headers.items()])
        if lines.count("\n") != len(headers):
            raise ValueError("a header of more than one line")
        target = f"{path}?{query}" if query else path
        head = f"{method} {target} HTTP/1.1\r\nhost: {service.origin.authority}{lines}"
        answer = await self.http.send(service.origin, head, body)
        if answer.status == 401 and self._tokens is not None:
            self._tokens.forget(token)
        return answer

    def _now(self) -> str:
        """The date as headers have it; storage takes one of up to 15 minutes ago."""
        second = int(time.time())
        if self._date[0] != second:
            self._date = second, formatdate(second, usegmt=True)
        return self._date[1]


def _let_pass(opening: asyncio.Future[None]) -> None:
    """The first put tries for itself, and tells what is wrong."""
    if not opening.cancelled():
        opening.exception()


def _may_pass(status: int) -> bool:
    return status == 408 or (status >= 500 and status not in {501, 505})


def refusal(what: str, answer: Answer) -> UnavailableError:
    """What an answer means that is none of those that its operation knows.

    It is transient to us: even a refusal (a role not yet granted, a firewall) is mended by an operator while the
    messages wait. Its reason is the service's own error code.
    """
    return UnavailableError(what, reason=f"storage-{answer.headers.get('x-ms-error-code') or answer.status}")
