"""One storage account: requests to it, authenticated, and tried again where that may help."""

import asyncio
import hmac
import random
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from email.utils import formatdate
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

from shared.http_client import HttpClient, Origin, detached, split_url
from shared.settings import StorageSettings, is_loopback
from shared.storage.access_tokens import AccessTokens, tokens_of
from shared.storage.connection_string import is_address, parse_connection_string
from shared.values.errors import SettingsError, UnavailableError
from shared.values.http_answers import Answer

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_VERSION: Final = "2024-11-04"
_TRIES: Final = 3  # within about a second; what takes longer is the platform's to retry, with the message or the POST
_PAUSE_SECONDS: Final = 1.0
_SIGNED = ("content-encoding", "content-language", "content-length", "content-md5", "content-type", "date",
           "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range")  # fmt: skip
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


class SharedKey:
    """Signs the requests to one account.

    Source: "Authorize with Shared Key" (https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key).
    """

    def __init__(self, account: str, key: str) -> None:
        """`key` in base64; raises ValueError where it is not."""
        self._account = account
        self._key = b64decode(key, validate=True)

    def authorization(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> str:
        """The header `Authorization` of a request.

        Args:
            method: in upper case.
            path: as it goes over the wire.
            query: the same, without its question mark.
            headers: by lower-case names, `x-ms-date` and `x-ms-version` among them.
        """
        fields = [headers.get(name, "") for name in _SIGNED]
        if fields[2] == "0":
            fields[2] = ""
        own = [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("x-ms-")]
        parameters = [part.partition("=") for part in query.split("&")] if query else []
        named = sorted((name.lower(), unquote(value)) for name, _, value in parameters)
        lines = [method, *fields, *own, f"/{self._account}{path}", *(f"{name}:{value}" for name, value in named)]
        digest = hmac.digest(self._key, "\n".join(lines).encode(), sha256)
        return f"SharedKey {self._account}:{b64encode(digest).decode()}"


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


def page(document: bytes, tag: str, what: str) -> "tuple[list[Element], str]":
    """What a page of a list (messages, queues or blobs) holds, and the marker of the next page; empty on the last one.

    Args:
        document: the answer's body.
        tag: of what is listed.
        what: for the error.

    Raises:
        UnavailableError: it is not XML. A message with a character that XML does not have makes it so.
    """
    from xml.etree import ElementTree as ET  # noqa: PLC0415 - a put needs none

    try:
        listing = ET.fromstring(document)  # noqa: S314 - from our own storage account
    except ET.ParseError as error:
        raise UnavailableError(what, reason="storage-unreadable") from error
    return list(listing.iter(tag)), listing.findtext("NextMarker", "")
