"""A storage service in this process, behind the transport of the real SDK's clients: no sockets, and virtual time."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
from azure.core.pipeline.transport import AioHttpTransport
from multidict import CIMultiDict


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client sends.

    Attributes:
        path: below the account, percent signs decoded.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the service answers; `code` is storage's own for an error."""

    status: int
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


type Service = Callable[[Request], Awaitable[Answer]]


def transport(service: Service) -> AioHttpTransport:
    """A transport that ends in a service; `ConnectionResetError` raised there is one of the network's."""
    return AioHttpTransport(session=_Session(service), session_owner=False)


class _Session:
    """As much of aiohttp.ClientSession as the transport uses."""

    auto_decompress = False

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], data: Any, **_: Any) -> "_Response":
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        path = unquote(parts.path).split("/", 2)[2]  # the first segment is the account
        body = data if isinstance(data, bytes) else str(data or "").encode()
        request = Request(method=method, path=path, query=query, headers=CIMultiDict(headers), body=body)
        # A network has its turn, so that a task with nothing but calls lets others run.
        await asyncio.sleep(0)
        try:
            return _Response(await self._service(request))
        except ConnectionResetError as error:
            raise aiohttp.ClientOSError(*error.args) from error


class _Response:
    """As much of aiohttp.ClientResponse as the SDK reads."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self.reason = str(answer.status)
        self.content = _Content(answer.body)
        code = {"x-ms-error-code": answer.code} if answer.code else {}
        date = {"Date": format_datetime(datetime(2026, 1, 1, tzinfo=UTC), usegmt=True)}
        length = {"Content-Length": str(len(answer.body))}
        self.headers = CIMultiDict(date | length | code | dict(answer.headers))

    async def read(self) -> bytes:
        return await self.content.read(-1)

    def close(self) -> None:
        pass


class _Content:
    def __init__(self, body: bytes) -> None:
        self._left = body

    async def read(self, count: int) -> bytes:
        taken, self._left = (self._left, b"") if count < 0 else (self._left[:count], self._left[count:])
        return taken


@dataclass
class _Blob:
    content: bytes = b""
    lease_id: str | None = None
    lease_ends: float = 0.0
    lease_is_broken: bool = False

    def lease_state(self) -> str:
        if self.lease_id is None:
            return "available"
        if self.lease_is_broken:
            return "broken"
        return "leased" if asyncio.get_running_loop().time() < self.lease_ends else "expired"


class StubBlobs:
    """A blob service with one container, by the loop's clock: what a host does with blobs, and no more.

    Source: "Blob service REST API" (Put Blob, Get Blob, Get Blob Properties, Lease Blob, Create Container).
    """

    def __init__(self, container: str) -> None:
        self._container = container
        self._blobs: dict[str, _Blob] = {}

    def __getitem__(self, name: str) -> bytes | None:
        blob = self._blobs.get(name)
        return None if blob is None else blob.content

    def __setitem__(self, name: str, content: bytes) -> None:
        self._blobs.setdefault(name, _Blob()).content = content

    def __delitem__(self, name: str) -> None:
        del self._blobs[name]

    @property
    def names(self) -> list[str]:
        return sorted(self._blobs)

    def lease_state(self, name: str) -> str:
        return self._blobs[name].lease_state()

    def break_lease(self, name: str) -> None:
        self._blobs[name].lease_is_broken = True

    async def answer(self, request: Request) -> Answer:
        container, _, name = request.path.partition("/")
        assert container == self._container
        match request.method, request.query.get("comp"), name:
            case "PUT", None, "":
                return Answer(status=409, code="ContainerAlreadyExists")
            case "PUT", "lease", _:
                return self._lease(name, request.headers)
            case "PUT", None, _:
                return self._put(name, request)
            case "GET" | "HEAD", None, _ if name in self._blobs:
                return _get(self._blobs[name], request)
            case "GET" | "HEAD", None, _:
                return Answer(status=404, code="BlobNotFound")
        raise NotImplementedError(f"{request.method} {request.path} {request.query}")

    def _put(self, name: str, request: Request) -> Answer:
        if request.headers.get("If-None-Match") == "*" and name in self._blobs:
            return Answer(status=409, code="BlobAlreadyExists")
        self[name] = request.body
        return Answer(status=201, headers=_VERSION)

    def _lease(self, name: str, headers: Mapping[str, str]) -> Answer:
        blob = self._blobs.get(name)
        if blob is None:
            return Answer(status=404, code="BlobNotFound")
        ours = blob.lease_id is not None and blob.lease_id == headers.get("x-ms-lease-id")
        match headers["x-ms-lease-action"]:
            case "acquire" if blob.lease_state() == "leased" and blob.lease_id != headers["x-ms-proposed-lease-id"]:
                return Answer(status=409, code="LeaseAlreadyPresent")
            case "acquire":
                blob.lease_id, blob.lease_is_broken = headers["x-ms-proposed-lease-id"], False
                status = 201
            case "renew" | "release" if not ours:
                return Answer(status=409, code="LeaseIdMismatchWithLeaseOperation")
            case "renew" if blob.lease_is_broken:
                return Answer(status=409, code="LeaseIsBrokenAndCannotBeRenewed")
            case "renew":
                status = 200
            case "release":
                blob.lease_id = None
                return Answer(status=200, headers=_VERSION)
            case action:
                raise NotImplementedError(action)
        seconds = float(headers.get("x-ms-lease-duration", 60))
        blob.lease_ends = asyncio.get_running_loop().time() + seconds
        return Answer(status=status, headers=_VERSION | {"x-ms-lease-id": str(blob.lease_id)})


_VERSION = {"ETag": '"1"', "Last-Modified": format_datetime(datetime(2026, 1, 1, tzinfo=UTC), usegmt=True)}
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


def _get(blob: _Blob, request: Request) -> Answer:
    headers = _VERSION | {"x-ms-lease-state": blob.lease_state(), "x-ms-blob-type": "BlockBlob"}
    headers["x-ms-lease-status"] = "locked" if blob.lease_state() == "leased" else "unlocked"
    span = _RANGE.fullmatch(request.headers.get("x-ms-range", ""))
    if request.method == "HEAD" or span is None:
        return Answer(status=200, headers=headers, body=b"" if request.method == "HEAD" else blob.content)
    if not blob.content:
        return Answer(status=416, code="InvalidRange", headers={"Content-Range": "bytes */0"})
    part = blob.content[int(span[1]) : int(span[2]) + 1]
    headers["Content-Range"] = f"bytes {span[1]}-{int(span[1]) + len(part) - 1}/{len(blob.content)}"
    return Answer(status=206, headers=headers, body=part)
