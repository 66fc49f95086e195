"""An HTTP proxy before queue storage, that can answer in its place, lose answers, and change leases."""

import asyncio
import base64
import hashlib
import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import unquote

from aiohttp import ClientError, ClientSession, web
from multidict import CIMultiDict
from yarl import URL

from dev.azurite import ACCOUNT, ACCOUNT_KEY

HOST: Final = "127.0.0.1"
HOST_LEASE_SECONDS: Final = 600
_MESSAGE: Final = "<QueueMessage>"
_LOOK_SECONDS: Final = 0.05
_HOP_BY_HOP: Final = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})
_SIGNED: Final = (
    "Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type", "Date",
    "If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range",
)  # fmt: skip

type Operation = Literal["exists", "create", "get", "put", "update", "delete", "any"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What meets calls instead of storage's answer.

    Attributes:
        operation: Get Queue Metadata, Create Queue, Get, Put, Update, Delete Message, or any.
        queue: the queue's name; None for all.
        action: answer with `status` and `code`; reset the connection, before storage or, its answer lost, after it;
            hold the call before storage, or withhold the answer (a get's only if it found messages), until the caller
            goes away.
        times: how many calls it meets; None for all.
    """

    operation: Operation
    queue: str | None = None
    action: Literal["answer", "reset", "lose", "hold", "withhold"] = "answer"
    status: int = 503
    code: str = "ServerBusy"
    times: int | None = None

    def meets(self, operation: str, queue: str) -> bool:
        """Whether it is for this call."""
        return self.operation in {"any", operation} and self.queue in {None, queue} and self.times != 0


class QueueProxy:
    """Passes the requests of clients with the emulator's account key on to its queue service.

    Attributes:
        faults: the first that is for a call meets it; may be changed at any time.
        held: how many calls have been held until now.
        lease_seconds: what the time becomes for which messages are leased; may be changed at any time.
        renewed: how many leases have been renewed until now.
        url: where it listens, the account included.
    """

    def __init__(self, target: str, lease_seconds: int, asked_seconds: int) -> None:
        self.faults: list[Fault] = []
        self.held = 0
        self.lease_seconds = lease_seconds
        self.renewed = 0
        self.url = ""
        self._asked = str(asked_seconds)
        self._target = target
        self._lock = threading.Lock()

    @classmethod
    @contextmanager
    def before(
        cls, target: str, *, lease_seconds: int = HOST_LEASE_SECONDS, asked_seconds: int = HOST_LEASE_SECONDS
    ) -> "Iterator[QueueProxy]":
        """Listen on 127.0.0.1 for the length of a `with` block.

        Args:
            target: the queue service's URL, the account included.
            lease_seconds: what the time becomes for which messages are leased. Whatever asks for another time, the
                app's own calls among them, gets what it asks for.
            asked_seconds: the time for which whoever leases messages asks; a host's ten minutes unless given.
        """
        proxy = cls(target, lease_seconds, asked_seconds)
        ready, over = threading.Event(), asyncio.Event()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(
            target=loop.run_until_complete, args=(proxy._serve(ready, over),), name="queue proxy", daemon=True
        )
        thread.start()
        ready.wait()
        try:
            yield proxy
        finally:
            loop.call_soon_threadsafe(over.set)
            thread.join()
            loop.close()

    @property
    def connection_string(self) -> str:
        """A connection string whose queue service is this."""
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};QueueEndpoint={self.url};"

    async def _serve(self, ready: threading.Event, over: asyncio.Event) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        self.url = f"http://{HOST}:{runner.addresses[0][1]}/{ACCOUNT}"
        async with ClientSession(
            auto_decompress=False, skip_auto_headers=("Content-Type", "Accept-Encoding")
        ) as self._session:
            ready.set()
            await over.wait()
            await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault_for(*_call_of(request))
        if fault is not None and fault.action == "answer":
            return web.Response(status=fault.status, headers={"x-ms-error-code": fault.code})
        if fault is not None and fault.action == "reset":
            return _reset(request)
        if fault is not None and fault.action == "hold":
            return await self._hold(request)
        answer = await self._send(request)
        if fault is not None and fault.action == "withhold":
            found_nothing = fault.operation == "get" and _MESSAGE not in (answer.text or "")
            return answer if found_nothing else await self._hold(request)
        return answer if fault is None else _reset(request)

    async def _hold(self, request: web.Request) -> web.Response:
        with self._lock:
            self.held += 1
        while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(_LOOK_SECONDS)
        return web.Response()  # which nobody receives

    def _fault_for(self, operation: str, queue: str) -> Fault | None:
        with self._lock:
            for index, fault in enumerate(self.faults):
                if fault.meets(operation, queue):
                    if fault.times is not None:
                        self.faults[index] = replace(fault, times=fault.times - 1)
                    return fault
        return None

    async def _send(self, request: web.Request) -> web.Response:
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP
        )
        body = await request.read()
        url = URL(self._target).origin().join(URL(request.raw_path, encoded=True))
        if request.query.get("visibilitytimeout") == self._asked:
            with self._lock:
                self.renewed += request.method == "PUT"
            url = url.update_query(visibilitytimeout=self.lease_seconds)
            headers["Authorization"] = _signature(request.method, url, headers, len(body))
        try:
            async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
                kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP]
                return web.Response(status=answer.status, headers=CIMultiDict(kept), body=await answer.read())
        except ClientError:  # storage is away: a status, which only storage can give, would say otherwise
            return _reset(request)


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()  # which nobody receives


def _call_of(request: web.Request) -> tuple[str, str]:
    """The operation that is asked for, and the queue."""
    _, _, queue, *messages = request.path.split("/")
    match request.method, len(messages):
        case "PUT", 0:
            return "create", queue
        case "POST", _:
            return "put", queue
        case "PUT", _:
            return "update", queue
        case "DELETE", 2:
            return "delete", queue
        case "GET", 1:
            return "get", queue
    return "exists", queue


def _signature(method: str, url: URL, headers: "CIMultiDict[str]", length: int) -> str:
    """The Authorization header for a changed URL. Source: "Authorize with Shared Key" (Queue service, 2009-09-19)."""
    values = {**headers, "Content-Length": str(length or "")}
    signed = [CIMultiDict(values).get(name, "") for name in _SIGNED]
    if "x-ms-date" in headers:
        signed[_SIGNED.index("Date")] = ""
    ours = sorted((name.lower(), value) for name, value in headers.items() if name.lower().startswith("x-ms-"))
    resource = f"/{ACCOUNT}{url.raw_path}"
    query = sorted((name.lower(), unquote(value)) for name, value in url.query.items())
    lines = [method, *signed, *(f"{name}:{value}" for name, value in ours), resource]
    lines += [f"{name}:{value}" for name, value in query]
    digest = hmac.new(base64.b64decode(ACCOUNT_KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    return f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
