"""`python3 run.py bench --clients`: ways to put a message, in CPU of all threads, held against a bare Protocol.

Those that the project does not use are measured where they are installed: `pip install aiosonic httptools pyreqwest`.
"""

import asyncio
import importlib.util
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, cast

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from bench.loops import LOOPS
from bench.measure import Ratio, of_pairs
from bench.storage_stub import stub
from dev.simulator import Simulator
from shared.http_client import HttpClient, Origin, split_url
from shared.settings import IdentityEndpoint, StorageSettings
from shared.storage.account import StorageAccount
from shared.storage.queues import AzureQueues

SIZES: Final = (3_000, 60_000)
"""Of a message: an event, and a batch of them."""
_AT_ONCE: Final = 20
_TIMES: Final = 20
_HEADERS: Final = {
    "x-ms-version": "2024-11-04",
    "Content-Type": "application/xml",
    "Authorization": "Bearer " + "x" * 1500,
}

type Put = Callable[[bytes], Awaitable[object]]


class Client(Protocol):
    async def put(self, body: bytes) -> object: ...

    async def close(self) -> None: ...


def clients(*, quick: bool) -> Iterator[Ratio]:
    """Each candidate over TLS, on both loops and with both sizes."""
    with Simulator.start() as sim, stub(sim.server_certificate) as url:
        settings = sim.environment()
        identity = IdentityEndpoint(settings["IDENTITY_ENDPOINT"], settings["IDENTITY_HEADER"])
        for name, factory in LOOPS.items():
            for size in SIZES:
                measured = _measure(url, str(sim.ca_bundle), identity, size, 3 if quick else 9)
                for candidate, pairs in asyncio.run(measured, loop_factory=factory).items():
                    yield of_pairs(f"a put of {size / 1000:.0f} KB on {name}: {candidate}", pairs, target="")


def bare_put(url: str, trust: str | None) -> Client:
    """The least that a put can take on a loop: a prepared head, and a status and a length read.

    Args:
        url: of the queues.
        trust: the file of the authority, where it is over TLS.
    """
    return _Bare(url, trust)


async def _measure(
    url: str, trust: str, identity: IdentityEndpoint, size: int, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    body = b"<QueueMessage><MessageText>" + b"x" * size + b"</MessageText></QueueMessage>"
    bare = _Bare(url, trust)
    candidates: dict[str, Client] = {
        "our client": _Ours(url, trust),
        "our put, whole": _Whole(url, trust, identity),
        "aiohttp": _Aiohttp(url, trust),
    }
    others = {"httptools": _Httptools, "aiosonic": _Aiosonic, "pyreqwest": _Pyreqwest}
    for module, kind in others.items():
        if importlib.util.find_spec(module):
            candidates[module] = kind(url, trust)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for done in range(rounds + 1):
        for name, candidate in candidates.items():
            pair = await cpu_of(candidate.put, body), await cpu_of(bare.put, body)
            if done:
                found[name].append(pair)
    for candidate in (bare, *candidates.values()):
        await candidate.close()
    return found


async def cpu_of(put: Put, body: bytes) -> float:
    """CPU seconds of a put, of all threads, with others at the same time."""
    started = time.process_time()
    for _ in range(_TIMES):
        await asyncio.gather(*(put(body) for _ in range(_AT_ONCE)))
    return (time.process_time() - started) / _TIMES / _AT_ONCE


def _context(trust: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=trust)


def _path(url: str) -> str:
    return f"{split_url(url)[1]}/call-events/messages?messagettl=-1"


class _Wire(asyncio.Protocol):
    """A connection of the bare Protocol."""

    waiting: asyncio.Future[int]
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._got = b""

    def data_received(self, data: bytes) -> None:
        self._got = self._got + data if self._got else data
        end = self._got.find(b"\r\n\r\n")
        at = self._got.find(b"Content-Length: ") + 16
        if end < 0 or len(self._got) < end + 4 + int(self._got[at : self._got.find(b"\r", at)]):
            return
        status, self._got = int(self._got[9:12]), b""
        self.waiting.set_result(status)


class _Bare:
    def __init__(self, url: str, trust: str | None) -> None:
        self._origin, _ = split_url(url)
        self._tls = _context(trust) if self._origin.secure else None
        lines = "".join(f"{name}: {value}\r\n" for name, value in _HEADERS.items())
        self._head = f"POST {_path(url)} HTTP/1.1\r\nHost: {self._origin.authority}\r\n{lines}Content-Length: ".encode()
        self._idle: list[_Wire] = []

    async def put(self, body: bytes) -> None:
        wire = self._idle.pop() if self._idle else await self._connect()
        wire.waiting = asyncio.get_running_loop().create_future()
        wire.transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        status = await wire.waiting
        assert status == 201, status
        self._idle.append(wire)

    async def _connect(self) -> _Wire:
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(_Wire, self._origin.host, self._origin.port, ssl=self._tls)
        return wire

    async def close(self) -> None:
        for wire in self._idle:
            wire.transport.close()


class _Ours:
    """The client alone."""

    def __init__(self, url: str, trust: str) -> None:
        self._http = HttpClient(lambda: _context(trust))
        self._origin: Origin = split_url(url)[0]
        lines = "".join(f"{name}: {value}\r\n" for name, value in _HEADERS.items())
        self._head = f"POST {_path(url)} HTTP/1.1\r\nHost: {self._origin.authority}\r\n{lines}Content-Length: "

    async def put(self, body: bytes) -> None:
        answer = await self._http.send(self._origin, f"{self._head}{len(body)}", body)
        assert answer.status == 201, answer

    async def close(self) -> None:
        self._http.close()


class _Whole:
    """What the app does: tokens, retries, slots, the message's XML and the receipt."""

    def __init__(self, url: str, trust: str, identity: IdentityEndpoint) -> None:
        self._http = HttpClient(lambda: _context(trust))
        settings = StorageSettings(None, url, url, None, identity)
        self._queues = AzureQueues(StorageAccount(settings, self._http))

    async def put(self, body: bytes) -> None:
        # Base64 makes four of three.
        await self._queues.put("call-events", body[: len(body) * 3 // 4], "base64")

    async def close(self) -> None:
        self._http.close()


class _Aiohttp:
    """As lean as it can be set up."""

    def __init__(self, url: str, trust: str) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=_context(trust), limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(sock_connect=2, sock_read=5, total=None),
        )
        self._url = URL(f"{url}/call-events/messages?messagettl=-1", encoded=True)
        self._headers = CIMultiDict(_HEADERS)

    async def put(self, body: bytes) -> None:
        async with self._session.request(
            "POST", self._url, data=body, headers=self._headers, allow_redirects=False
        ) as response:
            await response.read()
            assert response.status == 201, response

    async def close(self) -> None:
        await self._session.close()


class _Parsed(_Wire):
    """A connection whose answers httptools reads."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._tools: Any = import_module("httptools")
        self.begin()

    def begin(self) -> None:
        self._parser = self._tools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.waiting.set_result(self._parser.get_status_code())

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)


class _Httptools(_Bare):
    """httptools under the smallest pool."""

    async def put(self, body: bytes) -> None:
        wire = self._idle.pop() if self._idle else await self._connect()
        wire.begin()
        wire.waiting = asyncio.get_running_loop().create_future()
        wire.transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        status = await wire.waiting
        assert status == 201, status
        self._idle.append(wire)

    async def _connect(self) -> Any:
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(_Parsed, self._origin.host, self._origin.port, ssl=self._tls)
        return wire


class _Aiosonic:
    def __init__(self, url: str, trust: str) -> None:
        aiosonic: Any = import_module("aiosonic")
        pools: Any = import_module("aiosonic.pools")
        connectors: Any = import_module("aiosonic.connectors")
        pool = {":default": pools.PoolConfig(size=_AT_ONCE)}
        self._client = aiosonic.HTTPClient(connector=connectors.TCPConnector(pool_configs=pool))
        self._tls = _context(trust)
        self._url = f"{url}/call-events/messages?messagettl=-1"

    async def put(self, body: bytes) -> None:
        response = await self._client.post(self._url, data=body, headers=_HEADERS, ssl=self._tls)
        await response.content()
        assert response.status_code == 201, response

    async def close(self) -> None:
        await self._client.aclose()


class _Pyreqwest:
    def __init__(self, url: str, trust: str) -> None:
        builder: Any = import_module("pyreqwest.client").ClientBuilder()
        # It heeds no `SSL_CERT_FILE`.
        self._client = builder.add_root_certificate_pem(Path(trust).read_bytes()).no_proxy().http1_only().build()
        self._url = f"{url}/call-events/messages?messagettl=-1"

    async def put(self, body: bytes) -> None:
        request = self._client.post(self._url).headers(_HEADERS).body_bytes(body).build()
        response = await request.send()
        await response.bytes()
        assert response.status == 201, response

    async def close(self) -> None:
        await self._client.close()
