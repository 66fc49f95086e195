"""Where the desired state lies: a file of the package, or a blob, so that a change needs no deployment."""

import asyncio
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from shared.storage.ports import Blobs
from shared.subscriptions.desired import DesiredState, DesiredStateError, parse_desired

_BLOB: Final = "blob:"
# "Naming and referencing containers, blobs, and metadata"
# (https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata)
_CONTAINER_NAME: Final = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}")
_LONGEST_NAME: Final = 1024
_LARGEST: Final = 16 * 1024 * 1024  # a hundred times what ten thousand users take


class DesiredStateSource:
    """Reads the desired state anew each time: it may have changed."""

    def __init__(self, location: str, blobs: Blobs, tenant_ids: Collection[str]) -> None:
        """Take the address.

        Args:
            location: a path, relative to the app's folder or absolute, or ``blob:{container}/{blob}``.
            blobs: for the latter.
            tenant_ids: the tenants served.
        """
        self._location = location
        self._blobs = blobs
        self._tenant_ids = tenant_ids

    async def load(self) -> DesiredState:
        """Read and check it.

        Raises:
            DesiredStateError: it is missing or wrong; the message names each line.
            UnavailableError: storage did not answer.
        """
        data = await self._read()
        if data is None:
            raise DesiredStateError(
                self._location, ["it is not there; subscriptions.sample.toml shows what it may say"]
            )
        if len(data) > _LARGEST:
            raise DesiredStateError(self._location, [f"it has more than {_LARGEST} bytes"])
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DesiredStateError(self._location, ["it is not UTF-8"]) from None
        return parse_desired(text, tenant_ids=self._tenant_ids, source=self._location)

    async def _read(self) -> bytes | None:
        if self._location.startswith(_BLOB):
            container, _, name = self._location.removeprefix(_BLOB).partition("/")
            if _CONTAINER_NAME.fullmatch(container) is None or not 0 < len(name) <= _LONGEST_NAME:
                raise DesiredStateError(self._location, ["SUBSCRIPTIONS is not valid: write blob:{container}/{blob}"])
            return await self._blobs.get(container, name)
        try:
            return await asyncio.to_thread(Path(self._location).read_bytes)
        except OSError:
            return None
        except ValueError:  # a path that no file can have
            raise DesiredStateError(self._location, ["SUBSCRIPTIONS is not a path"]) from None
