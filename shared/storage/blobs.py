"""Azure Storage blobs: claim checks, quarantine, and state that outlives a worker.

Source: "Blob Storage REST API" (https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api);
the operations that are named below are pages of it.
"""

from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from shared.storage.account import Request, StorageAccount, page, refusal
from shared.storage.ports import Listed, Version
from shared.values.http_answers import Answer

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_BLOCK_BLOB: Final = {"x-ms-blob-type": "BlockBlob", "content-type": "application/json"}
_UNLESS_THERE: Final = {"if-none-match": "*"}
_GONE: Final = 404
_NOT_THAT: Final = (409, 412)  # another is there, or it has been written anew


class AzureBlobs:
    """Private containers of one account, created on first use."""

    def __init__(self, account: StorageAccount) -> None:
        self._account = account

    async def put(self, container: str, name: str, data: bytes, metadata: Mapping[str, str] = _NONE) -> str:
        """Write JSON, over whatever is there, and return the blob's URL.

        Raises:
            UnavailableError: storage did not take it.
        """
        headers = _BLOCK_BLOB | {f"x-ms-meta-{key}": value for key, value in metadata.items()}
        answer = await self._write(container, name, headers, data)
        _expect(container, answer, 201)
        return self._account.blobs.url + _path(container, name)

    async def get(self, container: str, name: str) -> bytes | None:
        """Read a blob; None where there is none.

        Raises:
            UnavailableError: storage did not answer.
        """
        version = await self.get_version(container, name)
        return None if version is None else version.data

    async def get_version(self, container: str, name: str) -> Version | None:
        """Read a blob, with what tells this version of it from any other; None where there is none.

        Raises:
            UnavailableError: storage did not answer.
        """
        answer = await self._send(Request("GET", _path(container, name)))
        if answer.status == _GONE:
            return None
        _expect(container, answer, 200)
        modified = answer.headers.get("last-modified")
        return Version(
            answer.body, answer.headers.get("etag", ""), None if modified is None else parsedate_to_datetime(modified)
        )

    async def put_version(self, container: str, name: str, data: bytes, etag: str | None) -> bool:
        """Write JSON unless the blob has been written anew since; None: unless there is one. Says whether it did.

        Raises:
            UnavailableError: storage did not take it.
        """
        if etag is None:
            answer = await self._write(container, name, _BLOCK_BLOB | _UNLESS_THERE, data)
        else:
            answer = await self._send(
                Request("PUT", _path(container, name), "", _BLOCK_BLOB | {"if-match": etag}, data)
            )
            if answer.status == _GONE:
                return False
        return _done(container, answer, 201)

    async def append(self, container: str, name: str, data: bytes) -> None:
        """Write at the end of a blob that several may write to; it is made if it is not there ("Append Block").

        An answer that was lost can have it written twice.

        Raises:
            UnavailableError: storage did not take it.
        """
        block = Request("PUT", _path(container, name), "comp=appendblock", body=data)
        answer = await self._send(block)
        if answer.status == _GONE:
            made = await self._write(container, name, {"x-ms-blob-type": "AppendBlob"} | _UNLESS_THERE)
            _done(container, made, 201)  # else another worker was quicker
            answer = await self._send(block)
        _expect(container, answer, 201)

    async def list(self, container: str) -> AsyncIterator[Listed]:
        """The blobs of a container with their metadata, by name; none where there is no container.

        Raises:
            UnavailableError: storage did not answer.
        """
        marker = ""
        while True:
            query = f"restype=container&comp=list&include=metadata{marker}"
            answer = await self._send(Request("GET", f"/{container}", query))
            if answer.status == _GONE:
                return
            _expect(container, answer, 200)
            listed, more = page(answer.body, "Blob", f"container {container}")
            for blob in listed:
                yield _listed(blob)
            if not more:
                return
            marker = f"&marker={quote(more, safe='')}"

    async def delete(self, container: str, name: str) -> None:
        """Delete a blob, or find it gone.

        Raises:
            UnavailableError: storage did not answer.
        """
        answer = await self._send(Request("DELETE", _path(container, name)))
        if answer.status != _GONE:
            _expect(container, answer, 202)

    async def delete_version(self, container: str, name: str, etag: str) -> bool:
        """Delete a blob unless it has been written anew or deleted since; says whether it did.

        Raises:
            UnavailableError: storage did not answer.
        """
        answer = await self._send(Request("DELETE", _path(container, name), "", {"if-match": etag}))
        return answer.status != _GONE and _done(container, answer, 202)

    async def acquire_lease(self, container: str, name: str, lease_id: str, seconds: int) -> bool:
        """Take a lease of a blob, which is made if it is not there; False where another has it ("Lease Blob").

        Raises:
            UnavailableError: storage did not answer.
        """
        terms = {"x-ms-lease-duration": str(seconds), "x-ms-proposed-lease-id": lease_id}
        answer = await self._lease(container, name, "acquire", terms)
        if answer.status == _GONE:
            await self.put_version(container, name, b"", None)  # if it does not, another worker was quicker
            answer = await self._lease(container, name, "acquire", terms)
        return _done(container, answer, 201)

    async def renew_lease(self, container: str, name: str, lease_id: str) -> bool:
        """Keep a lease; False where it has passed to another.

        Raises:
            UnavailableError: storage did not answer.
        """
        return _done(container, await self._lease(container, name, "renew", {"x-ms-lease-id": lease_id}), 200)

    async def release_lease(self, container: str, name: str, lease_id: str) -> None:
        """Give a lease back; nothing happens where it has passed to another.

        Raises:
            UnavailableError: storage did not answer.
        """
        _done(container, await self._lease(container, name, "release", {"x-ms-lease-id": lease_id}), 200)

    async def _lease(self, container: str, name: str, action: str, terms: Mapping[str, str]) -> Answer:
        headers = {"x-ms-lease-action": action, **terms}
        return await self._send(Request("PUT", _path(container, name), "comp=lease", headers))

    async def _write(self, container: str, name: str, headers: Mapping[str, str], data: bytes = b"") -> Answer:
        """Write a whole blob; its container is made if it is not there."""
        request = Request("PUT", _path(container, name), "", headers, data)
        answer = await self._send(request)
        if answer.status == _GONE:
            made = await self._send(Request("PUT", f"/{container}", "restype=container"))
            _done(container, made, 201)  # else another worker was quicker
            answer = await self._send(request)
        return answer

    async def _send(self, request: Request) -> Answer:
        return await self._account.send(self._account.blobs, request)


def _path(container: str, name: str) -> str:
    return f"/{container}/{quote(name, safe='~/')}"


def _expect(container: str, answer: Answer, status: int) -> None:
    if answer.status != status:
        raise refusal(f"container {container}", answer)


def _done(container: str, answer: Answer, status: int) -> bool:
    """Whether it was done, and not prevented by what somebody else has done."""
    if answer.status in _NOT_THAT:
        return False
    _expect(container, answer, status)
    return True


def _listed(blob: "Element") -> Listed:
    name = blob.findtext("Name", "")
    # A name with a character that XML does not have is quoted ("List Blobs").
    if blob.find("Name[@Encoded='true']") is not None:
        name = unquote(name)
    metadata = {entry.tag: entry.text or "" for entry in blob.iterfind("Metadata/*")}
    return Listed(name, metadata, parsedate_to_datetime(blob.findtext("Properties/Last-Modified", "")))
