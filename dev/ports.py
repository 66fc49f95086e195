"""TCP ports of this machine that stay taken while nobody listens on them."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

HOST: Final = "127.0.0.1"


@contextmanager
def held_port() -> Iterator[int]:
    """A free port of 127.0.0.1 that the system gives to nobody else, for the length of a `with` block.

    For a server that is told its address before it starts, or keeps it when it is ended and started again. Whoever
    knows the number can listen on it; while nobody does, connections are refused.

    Linux lets two sockets bind to one port if both have set SO_REUSEADDR, as servers in Python and Node.js do, and
    neither listens yet (socket(7)); it never chooses a bound port for anybody. Other systems have no such rule, so
    there the port is merely one that was free a moment ago.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((HOST, 0))
        port: int = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield port


def is_taken(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1, so that we cannot."""
    with socket.socket() as trial:
        if sys.platform != "win32":  # where it would let us share what is taken
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError:
            return True
        return False
