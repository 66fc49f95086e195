"""HTTP/1.1 for what a notification waits for: storage, the identity's tokens, Entra ID's signing keys.

A general client spends three quarters of a put in Python (docs/performance.md, "The way to storage"). This one writes a
head and a body that its caller has prepared, and reads a status, headers and a body. It follows no redirect, asks for
no compression, keeps no cookies, and heeds no proxy of the environment's. Source: RFC 9112 ("HTTP/1.1").
"""

import asyncio
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from shared.values.http_answers import Answer, read_answer

CONNECT_SECONDS: Final = 2.0  # the look-up of the address and TLS among them
SILENT_SECONDS: Final = 5.0  # in which no byte is taken or comes: then no answer is expected any more
IDLE_SECONDS: Final = 60.0  # longer than that, and the other side may be about to close the connection
AGE_SECONDS: Final = 300.0  # longer than that, and the name may lead to another address

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_ADDRESSES: Final = 4
_TRIES: Final = 3  # to open a connection that nobody else takes, and that lasts


class Origin(NamedTuple):
    """Whom a URL speaks to."""

    secure: bool
    host: str
    port: int
    authority: str  # as the header `Host` has it


def split_url(url: str) -> tuple[Origin, str]:
    """The origin of an absolute http or https URL, and its path and query as they stand; the path may be empty."""
    parts = urlsplit(url)
    secure, authority = parts.scheme == "https", parts.netloc.rpartition("@")[2]
    origin = Origin(secure, parts.hostname or "", parts.port or (443 if secure else 80), authority)
    return origin, f"{parts.path}?{parts.query}" if parts.query else parts.path


class HttpClient:
    """Connections to any number of origins. Bound to the event loop of its first use."""

    def __init__(self, trust: Callable[[], ssl.SSLContext] = ssl.create_default_context) -> None:
        """`trust` says which certificates are; it is asked once, for the first connection that needs it."""
        self._trust = trust
        self._tls: ssl.SSLContext | None = None
        self._idle: defaultdict[Origin, list[_Connection]] = defaultdict(list)

    async def send(self, origin: Origin, head: str, body: bytes = b"") -> Answer:
        """Send a request and wait for the whole answer.

        Args:
            origin: to whom.
            head: request line and headers, without the empty line at their end; with `Host`, and with `Content-Length`
                where there is a body.
            body: as it goes over the wire.

        Raises:
            ConnectionError: no connection was made, or no whole answer came in time; the request may have been carried
                out.
        """
        request = f"{head}\r\n\r\n".encode("latin-1") + body
        connection = self._take(origin)
        if connection is not None:
            try:
                return await connection.exchange(request)
            except _UnansweredError:
                # It was closed for being idle, just before the request came there; so are those beside it.
                self._drop(origin)
        for _ in range(_TRIES):
            await self.open(origin)
            if (connection := self._take(origin)) is not None:
                return await connection.exchange(request)
        raise ConnectionError("each connection is closed as soon as it is made")

    async def get(self, url: str, headers: Mapping[str, str] = _NO_HEADERS) -> Answer:
        """Read what is at an absolute URL; raises ConnectionError as `send` does."""
        origin, target = split_url(url)
        lines = "".join([f"\r\n{name}: {value}" for name, value in headers.items()])
        return await self.send(origin, f"GET {target or '/'} HTTP/1.1\r\nhost: {origin.authority}{lines}")

    async def open(self, origin: Origin) -> None:
        """Have one more connection ready; raises ConnectionError as `send` does."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await detached(self._connect(origin))
        except (OSError, UnicodeError) as error:  # TimeoutError and what is wrong with a certificate are among them
            raise ConnectionError(f"no connection: {type(error).__name__}") from error

    def close(self) -> None:
        """Close what is idle."""
        for origin in self._idle:
            self._drop(origin)

    def _drop(self, origin: Origin) -> None:
        idle = self._idle[origin]
        while idle:
            idle.pop().transport.close()

    def _take(self, origin: Origin) -> "_Connection | None":
        idle = self._idle[origin]
        while idle:
            connection = idle.pop()  # the last one used, so that in quiet times the others grow old
            if connection.is_fit:
                return connection
            connection.transport.close()
        return None

    async def _connect(self, origin: Origin) -> None:
        """Try the addresses of a host one after the other; uvloop 0.21 cannot (`happy_eyeballs_delay`)."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + CONNECT_SECONDS
        if origin.secure and self._tls is None:
            self._tls = self._trust()
        tls, name = (self._tls, origin.host) if origin.secure else (None, None)
        addresses = (await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM))[:_ADDRESSES]
        idle = self._idle[origin]
        failure = OSError("no address")
        for done, (*_, address) in enumerate(addresses):
            try:
                # One that does not answer leaves time for those after it.
                async with asyncio.timeout((ends - loop.time()) / (len(addresses) - done)):
                    _, connection = await loop.create_connection(
                        lambda: _Connection(idle), str(address[0]), origin.port, ssl=tls, server_hostname=name
                    )
            except OSError as error:
                failure = error
            else:
                idle.append(connection)
                return
        raise failure


def detached[T](work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Begin work that belongs to no invocation, because what it makes is used by others too.

    A task has the context of the one that makes it, and in a worker its invocation's id too; this one has neither. Who
    is cancelled while waiting for it cancels it, unless it is shielded.
    """
    return asyncio.wrap_future(Context().run(asyncio.run_coroutine_threadsafe, work, asyncio.get_running_loop()))


class _UnansweredError(ConnectionError):
    """A connection was closed before a byte of the answer came."""


class _Connection(asyncio.Protocol):
    """One connection, for one request at a time; it goes back to the idle ones of its origin by itself."""

    def __init__(self, idle: "list[_Connection]") -> None:
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._born = self._used = self._deadline = self._loop.time()
        self._waiting: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._buffer = bytearray()
        self._unsent = 0
        self._begun = False

    async def exchange(self, request: bytes) -> Answer:
        """Send a request and wait for its answer; if that fails or is cancelled, the connection is closed."""
        waiting: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting = waiting
        self._begun = False
        self._reading = read_answer(self._buffer)
        next(self._reading)
        self._deadline = self._loop.time() + SILENT_SECONDS
        if self._timer is None:  # one timer for all requests: they only move the deadline
            self._timer = self._loop.call_at(self._deadline, self._look, context=Context())
        self.transport.write(request)
        self._unsent = self.transport.get_write_buffer_size()
        try:
            return await waiting
        finally:
            if self._waiting is waiting:  # after an answer it may be another request's by now
                self._waiting = None
                self.transport.abort()

    @property
    def is_fit(self) -> bool:
        """Whether it can be used for another request."""
        now = self._loop.time()
        is_young = now - self._used < IDLE_SECONDS and now - self._born < AGE_SECONDS
        return is_young and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():  # nobody has asked, or nobody waits any more
            self.transport.abort()
            return
        self._begun = True
        self._deadline = self._loop.time() + SILENT_SECONDS
        self._buffer += data
        self._go_on(ended=False)

    def eof_received(self) -> None:
        if self._begun and self._waiting is not None and not self._waiting.done():
            self._go_on(ended=True)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        self._fail((ConnectionError if self._begun else _UnansweredError)("closed before the end of the answer"))

    def _go_on(self, *, ended: bool) -> None:
        try:
            self._reading.send(ended)
        except StopIteration as end:
            self._answered(*end.value)
        except ValueError as error:
            self._fail(ConnectionError(f"no whole answer: {error}"))

    def _answered(self, answer: Answer, persistent: bool) -> None:
        if self._waiting is not None:
            self._waiting.set_result(answer)
        self._waiting = None
        # An answer that comes before the whole request was sent leaves its rest on the way.
        if persistent and not self._buffer and not self.transport.get_write_buffer_size():
            self._used = self._loop.time()
            if self._idle and not self._idle[0].is_fit:
                self._idle.pop(0).transport.close()
            self._idle.append(self)
        else:
            self.transport.close()

    def _look(self) -> None:
        """Whether the other side is still there."""
        self._timer = None
        if self._waiting is None:
            return
        now, unsent = self._loop.time(), self.transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._unsent, self._deadline = unsent, now + SILENT_SECONDS
        if now < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look, context=Context())
        else:
            self._fail(ConnectionError(f"nothing came for {SILENT_SECONDS:.0f} seconds"))

    def _fail(self, error: ConnectionError) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
