"""A subscriber: answers handshakes, and keeps what it is sent."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True)
class Received:
    """One request."""

    path_qs: str
    content_type: str
    body: bytes

    @property
    def collection(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


def honest(request: web.Request) -> web.Response:
    """Answer as the documentation asks."""
    if "validationToken" in request.query:
        return web.Response(text=request.query["validationToken"])
    return web.Response(status=202)


class Subscriber:
    """`answer` may be replaced at any time; `hold` makes it wait so many seconds first."""

    def __init__(self) -> None:
        self.answer: Callable[[web.Request], web.Response] = honest
        self.hold = 0.0
        self.url = ""
        self._received: list[Received] = []
        self._lock = threading.Lock()

    @classmethod
    @contextmanager
    def start(cls) -> Iterator[Self]:
        subscriber = cls()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        runner = asyncio.run_coroutine_threadsafe(subscriber._open(), loop).result(90)
        try:
            yield subscriber
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(90)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    @property
    def handshakes(self) -> list[Received]:
        with self._lock:
            return [entry for entry in self._received if "validationToken" in entry.path_qs]

    @property
    def collections(self) -> list[dict[str, Any]]:
        with self._lock:
            return [entry.collection for entry in self._received if "validationToken" not in entry.path_qs]

    async def _open(self) -> web.AppRunner:
        application = web.Application(client_max_size=8 * 1024 * 1024)
        application.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/notifications"
        return runner

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        with self._lock:
            self._received.append(Received(request.raw_path, request.headers.get("Content-Type", ""), body))
        if self.hold:
            await asyncio.sleep(self.hold)
        return self.answer(request)
