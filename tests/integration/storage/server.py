"""A server that does with each request what it is told, down to the bytes."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

OK = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"

type Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


def says(*pieces: bytes, then: Behaviour | None = None) -> Behaviour:
    """Write these bytes, piece by piece."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)  # a piece of its own on the wire
        if then is not None:
            await then(writer)

    return behave


def answers(status: int, *headers: str) -> Behaviour:
    """An answer without a body."""
    lines = "".join(f"{header}\r\n" for header in headers)
    return says(f"HTTP/1.1 {status} Word\r\n{lines}Content-Length: 0\r\n\r\n".encode())


async def closes(writer: asyncio.StreamWriter) -> None:
    """Close the connection."""
    writer.close()


async def resets(writer: asyncio.StreamWriter) -> None:
    """Reset the connection."""
    end: socket.socket = writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def is_silent(_writer: asyncio.StreamWriter) -> None:
    """Nothing, for as long as the client waits."""


@dataclass
class Server:
    """Each request meets the next behaviour; after the last one, all are answered."""

    behaviours: Iterator[Behaviour]
    bodies: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    closed: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # once for each connection
    asked: asyncio.Condition = field(default_factory=asyncio.Condition)
    port: int = 0

    async def asked_times(self, count: int) -> None:
        """Wait until there have been so many requests."""
        async with self.asked:
            await self.asked.wait_for(lambda: len(self.bodies) >= count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(length[0]) if length else b"")
                async with self.asked:
                    self.asked.notify_all()
                await next(self.behaviours, says(OK))(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.release()
            writer.close()


@asynccontextmanager
async def serving(
    *behaviours: Behaviour, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Run it for the length of a `with` block."""
    server = Server(iter(behaviours))
    listening = await asyncio.start_server(server.serve, host, 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
