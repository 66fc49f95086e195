"""Blobs in memory, with their versions and leases."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared.values.errors import UnavailableError

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Version:
    data: bytes
    etag: str
    modified: datetime | None = START


@dataclass
class StateBlobs:
    """`writers` come in between a read and the write after it; `error` is why storage does not answer."""

    held: dict[str, Version] = field(default_factory=dict)
    leases: dict[str, str] = field(default_factory=dict)
    writers: list[tuple[str, bytes]] = field(default_factory=list)
    error: UnavailableError | None = None
    writes: int = 0
    now: datetime = START
    _etags: Iterator[int] = field(default_factory=itertools.count)

    async def get_version(self, container: str, name: str) -> Version | None:
        self._answer(container)
        return self.held.get(name)

    async def put_version(self, container: str, name: str, data: bytes, etag: str | None) -> bool:
        self._answer(container)
        if self.writers:
            other, content = self.writers.pop()
            self._write(other, content)
        found = self.held.get(name)
        if (None if found is None else found.etag) != etag:
            return False
        self._write(name, data)
        return True

    async def put(self, container: str, name: str, data: bytes) -> str:
        self._answer(container)
        self._write(name, data)
        return name

    async def get(self, container: str, name: str) -> bytes | None:
        found = await self.get_version(container, name)
        return None if found is None else found.data

    async def acquire_lease(self, container: str, name: str, lease_id: str, seconds: int) -> bool:
        self._answer(container)
        assert 15 <= seconds <= 60
        return self.leases.setdefault(name, lease_id) == lease_id

    async def renew_lease(self, container: str, name: str, lease_id: str) -> bool:
        self._answer(container)
        return self.leases.get(name) == lease_id

    async def release_lease(self, container: str, name: str, lease_id: str) -> None:
        self._answer(container)
        if self.leases.get(name) == lease_id:
            del self.leases[name]

    def _answer(self, container: str) -> None:
        assert container == "state"
        if self.error is not None:
            raise self.error

    def _write(self, name: str, data: bytes) -> None:
        self.writes += 1
        self.held[name] = Version(data, str(next(self._etags)), self.now)
