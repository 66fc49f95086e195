"""What `run.py start` has up: kept in a file for as long as it is, for those commands that speak to it."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import msgspec

RECORD: Final = Path(__file__).parents[1] / ".switchboard" / "start.json"
"""A settings file as `manage.py` reads it, and a little more; readable by its owner alone."""

# What a process needs of this machine, on Windows to start at all. The rest of the environment (a developer's own
# AZURE_…, proxies) stays outside.
_INHERITED: Final = ("PATH", "HOME", "LANG", "TMPDIR", "TEMP", "TMP", "USERPROFILE", "SYSTEMROOT")
_ANSWER_SECONDS: Final = 2.0


class NotRunningError(Exception):
    """`run.py start` has nothing up; the message says what to do."""


class Running(msgspec.Struct, frozen=True):
    """The stack of `run.py start`: its app settings, the simulator's control routes, and whose it is."""

    settings: dict[str, str] = msgspec.field(name="Values")
    control_url: str
    process: int

    @classmethod
    def find(cls, record: Path = RECORD) -> Self:
        """The one that is up, or the last of several.

        Raises:
            NotRunningError: there is none.
        """
        try:
            found = msgspec.json.decode(record.read_bytes(), type=cls)
            control = urlsplit(found.control_url)
            socket.create_connection((control.hostname, control.port), _ANSWER_SECONDS).close()
        except (OSError, ValueError):
            raise NotRunningError("nothing is up here: python3 run.py start, in another terminal") from None
        return found

    @contextmanager
    def recorded(self, record: Path = RECORD) -> Iterator[None]:
        """Let others find it, for the length of a `with` block."""
        record.parent.mkdir(exist_ok=True)
        partial = record.with_suffix(f".{self.process}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(self))
        partial.replace(record)
        try:
            yield
        finally:
            if json.loads(record.read_bytes())["process"] == self.process:  # and not of one that came later
                record.unlink()


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of the stack: what it needs of this machine, and its settings."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | dict(settings)
