"""Where the desired state is kept: a file of the package, or a blob."""

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Final, Protocol

from shared.domain.desired import DesiredState, DesiredStateError, parse_desired

_BLOB: Final = "blob:"


class Blobs(Protocol):
    """What is asked of storage; see `shared.adapters.blobs.Blobs`."""

    async def get(self, container: str, name: str) -> bytes | None: ...


class DesiredStateFile:
    """The desired state that the setting SUBSCRIPTIONS names, read anew each time."""

    def __init__(self, location: str, root: Path, blobs: Blobs, tenant_ids: Collection[str]) -> None:
        """Take what it needs; nothing is read yet.

        Args:
            location: a path, relative to `root`, or ``blob:{container}/{blob}``.
            root: the directory of the package.
            blobs: the storage account.
            tenant_ids: the tenants served.
        """
        self._location = location
        self._root = root
        self._blobs = blobs
        self._tenant_ids = frozenset(tenant_ids)

    async def load(self) -> DesiredState:
        """Read it.

        Raises:
            DesiredStateError: it is not there, or wrong; the message names every problem.
            UnavailableError: storage did not answer.
        """
        content = await self._content()
        if content is None:
            raise DesiredStateError(self._location, ["there is no such file"])
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise DesiredStateError(self._location, ["it is not UTF-8"]) from None
        return parse_desired(text, tenant_ids=self._tenant_ids, source=self._location)

    async def _content(self) -> bytes | None:
        if self._location.startswith(_BLOB):
            container, _, name = self._location.removeprefix(_BLOB).partition("/")
            return await self._blobs.get(container, name)
        try:
            return await asyncio.to_thread((self._root / self._location).read_bytes)
        except OSError:
            return None
