"""The Queue service in memory, in a process of its own: as quick with 20,000 messages as with one.

Only what the app and its host ask for: Put, Get, Peek, Update and Delete Message, Create Queue, Get Queue Metadata.
Blobs are taken and forgotten. `GET /wait?queue=…&count=…` answers once so many messages have been put in all.
"""

import asyncio
import heapq
import itertools
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from aiohttp import web

from bench.stub_process import stub_process

_ACCOUNT = "bench"
_DATE = "Fri, 09 Oct 2026 21:04:30 GMT"


@contextmanager
def queue_stub() -> Iterator[str]:
    """Run it for the length of a `with` block; yields its URL."""
    with stub_process("bench.queue_stub") as port:
        yield f"http://127.0.0.1:{port}"


def connection_string(url: str) -> str:
    """What the app reaches it with."""
    return f"AccountName={_ACCOUNT};AccountKey=YmVuY2g=;QueueEndpoint={url}/{_ACCOUNT};BlobEndpoint={url}/blobs"


@dataclass(slots=True)
class _Message:
    id: str
    text: str
    receipt: str
    visible: float
    dequeued: int = 0


@dataclass(slots=True)
class _Queue:
    """Messages that show are in order of their coming; the others by when they will."""

    shown: deque[_Message] = field(default_factory=deque)
    hidden: list[tuple[float, int, _Message]] = field(default_factory=list)
    all: dict[str, _Message] = field(default_factory=dict)
    put: int = 0


class _Service:
    def __init__(self) -> None:
        self._queues: defaultdict[str, _Queue] = defaultdict(_Queue)
        self._numbers = itertools.count()
        self._changed = asyncio.Condition()

    async def put(self, request: web.Request) -> web.Response:
        queue = self._queues[request.match_info["queue"]]
        text = ET.fromstring(await request.read()).findtext("MessageText") or ""
        delay = float(request.query.get("visibilitytimeout", 0))
        message = _Message(str(next(self._numbers)), text, self._receipt(), 0)
        queue.all[message.id] = message
        queue.put += 1
        self._show_in(queue, message, delay)
        async with self._changed:
            self._changed.notify_all()
        return _xml([message], status=201, text=False)

    async def get(self, request: web.Request) -> web.Response:
        queue, now = self._queues[request.match_info["queue"]], time.monotonic()
        while queue.hidden and queue.hidden[0][0] <= now:
            message = heapq.heappop(queue.hidden)[2]
            if message.visible <= now and message.id in queue.all:
                queue.shown.append(message)
        count = int(request.query.get("numofmessages", 1))
        if "peekonly" in request.query:
            return _xml(list(itertools.islice((one for one in queue.shown if one.id in queue.all), count)))
        taken: list[_Message] = []
        while queue.shown and len(taken) < count:
            message = queue.shown.popleft()
            if message.id in queue.all:
                message.dequeued += 1
                message.receipt = self._receipt()
                self._show_in(queue, message, float(request.query.get("visibilitytimeout", 30)))
                taken.append(message)
        return _xml(taken)

    async def update(self, request: web.Request) -> web.Response:
        queue = self._queues[request.match_info["queue"]]
        message = self._found(request)
        if message is None:
            return web.Response(status=404, headers={"x-ms-error-code": "MessageNotFound"})
        message.receipt = self._receipt()
        self._show_in(queue, message, float(request.query["visibilitytimeout"]))
        headers = {"x-ms-popreceipt": message.receipt, "x-ms-time-next-visible": _DATE}
        return web.Response(status=204, headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        message = self._found(request)
        if message is None:
            return web.Response(status=404, headers={"x-ms-error-code": "MessageNotFound"})
        del self._queues[request.match_info["queue"]].all[message.id]
        return web.Response(status=204)

    async def metadata(self, request: web.Request) -> web.Response:
        count = len(self._queues[request.match_info["queue"]].all)
        return web.Response(headers={"x-ms-approximate-messages-count": str(count)})

    async def wait(self, request: web.Request) -> web.Response:
        queue, count = self._queues[request.query["queue"]], int(request.query["count"])
        async with self._changed:
            await self._changed.wait_for(lambda: queue.put >= count)
        return web.Response(text=str(queue.put))

    def _found(self, request: web.Request) -> _Message | None:
        message = self._queues[request.match_info["queue"]].all.get(request.match_info["id"])
        return message if message is not None and message.receipt == request.query["popreceipt"] else None

    def _show_in(self, queue: _Queue, message: _Message, seconds: float) -> None:
        message.visible = time.monotonic() + seconds
        if seconds:
            heapq.heappush(queue.hidden, (message.visible, next(self._numbers), message))
        else:
            queue.shown.append(message)

    def _receipt(self) -> str:
        return f"receipt{next(self._numbers)}"


def _xml(messages: list[_Message], *, status: int = 200, text: bool = True) -> web.Response:
    parts = []
    for one in messages:
        content = (
            f"<DequeueCount>{one.dequeued}</DequeueCount><MessageText>{escape(one.text)}</MessageText>" if text else ""
        )
        parts.append(
            f"<QueueMessage><MessageId>{one.id}</MessageId><InsertionTime>{_DATE}</InsertionTime>"
            f"<ExpirationTime>{_DATE}</ExpirationTime><PopReceipt>{one.receipt}</PopReceipt>"
            f"<TimeNextVisible>{_DATE}</TimeNextVisible>{content}</QueueMessage>"
        )
    body = f'<?xml version="1.0" encoding="utf-8"?><QueueMessagesList>{"".join(parts)}</QueueMessagesList>'
    return web.Response(status=status, body=body.encode(), content_type="application/xml")


async def _blob(request: web.Request) -> web.Response:
    await request.read()
    if request.method == "PUT":
        return web.Response(status=201, headers={"ETag": '"1"', "Last-Modified": _DATE})
    return web.Response(status=404, headers={"x-ms-error-code": "BlobNotFound"})


async def _created(_request: web.Request) -> web.Response:
    return web.Response(status=201)


async def _main() -> None:
    service, queue = _Service(), f"/{_ACCOUNT}/{{queue}}"
    app = web.Application(client_max_size=2**20)
    app.router.add_get("/wait", service.wait)
    app.router.add_post(f"{queue}/messages", service.put)
    app.router.add_get(f"{queue}/messages", service.get)
    app.router.add_put(f"{queue}/messages/{{id}}", service.update)
    app.router.add_delete(f"{queue}/messages/{{id}}", service.delete)
    app.router.add_put(queue, _created)
    app.router.add_get(queue, service.metadata)
    app.router.add_route("*", "/blobs/{path:.*}", _blob)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
