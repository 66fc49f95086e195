"""What goes between the host and a worker process: pickled frames over one connection on the loopback interface.

The host listens and the worker connects, as in Azure. Pickle is safe here: the host starts the worker, and takes
nothing from a connection before it has shown the token that only this worker was given.
"""

import asyncio
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.host.messages import TypedData
from dev.host.worker import IndexedFunction, Invocation

TOKEN_BYTES = 32
_LENGTH_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a worker process reads on its standard input: where the host listens, and what to load."""

    port: int
    token: bytes
    app: Path


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """To the host: the app is loaded."""

    functions: Sequence[IndexedFunction]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """To the host: the app cannot be loaded."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Invoke:
    """To the worker: call a function."""

    number: int
    invocation: Invocation


@dataclass(frozen=True, kw_only=True)
class Returned:
    """To the host: a function has returned."""

    number: int
    result: TypedData | None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """To the host: a function has raised an exception."""

    number: int
    message: str
    stack_trace: str


def write(writer: asyncio.StreamWriter, frame: object) -> None:
    """Send a frame; it is buffered without bound."""
    content = pickle.dumps(frame)
    writer.write(len(content).to_bytes(_LENGTH_BYTES))
    writer.write(content)


async def read(reader: asyncio.StreamReader) -> Any:
    """The next frame.

    Raises:
        asyncio.IncompleteReadError: the other side has ended.
        OSError: the same.
    """
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES))
    return pickle.loads(await reader.readexactly(length))
