"""Blobs on the emulator: what each operation says of what it finds."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import closing

import pytest

from dev.azurite import Azurite
from shared.http_client import HttpClient
from shared.settings import StorageSettings
from shared.storage.account import StorageAccount
from shared.storage.blobs import AzureBlobs
from shared.storage.queues import AzureQueues

ODD = "2026/01/01/a b+c%2F'ü&.json"


@pytest.fixture
async def account(azurite: Azurite) -> AsyncIterator[StorageAccount]:
    with closing(HttpClient()) as http:
        yield StorageAccount(StorageSettings(azurite.connection_string, None, None, None), http)


@pytest.fixture
def blobs(account: StorageAccount) -> AzureBlobs:
    return AzureBlobs(account)


async def test_what_is_written_is_read_listed_and_deleted(blobs: AzureBlobs, unique_name: Callable[[str], str]) -> None:
    container = unique_name("c")
    assert await blobs.get(container, ODD) is None
    assert [one async for one in blobs.list(container)] == []
    url = await blobs.put(container, ODD, b"{}", {"reason": "x-y"})
    assert url.endswith("/2026/01/01/a%20b%2Bc%252F%27%C3%BC%26.json")
    await blobs.put(container, "b.json", b"[]")
    assert await blobs.get(container, ODD) == b"{}"
    found = [one async for one in blobs.list(container)]
    assert [(one.name, dict(one.metadata)) for one in found] == [(ODD, {"reason": "x-y"}), ("b.json", {})]
    assert all(one.modified.tzinfo is not None for one in found)
    await blobs.delete(container, ODD)
    await blobs.delete(container, ODD)
    assert await blobs.get(container, ODD) is None


async def test_a_version_is_written_over_by_who_has_seen_it_alone(
    blobs: AzureBlobs, unique_name: Callable[[str], str]
) -> None:
    container = unique_name("c")
    assert not await blobs.put_version(container, "a", b"0", '"none"')
    assert await blobs.put_version(container, "a", b"1", None)
    assert not await blobs.put_version(container, "a", b"2", None)
    seen = await blobs.get_version(container, "a")
    assert seen is not None
    assert (seen.data, seen.modified is not None) == (b"1", True)
    assert await blobs.put_version(container, "a", b"3", seen.etag)
    assert not await blobs.put_version(container, "a", b"4", seen.etag)
    assert not await blobs.delete_version(container, "a", seen.etag)
    assert await blobs.get(container, "a") == b"3"
    seen = await blobs.get_version(container, "a")
    assert seen is not None
    assert await blobs.delete_version(container, "a", seen.etag)
    assert not await blobs.delete_version(container, "a", seen.etag)


async def test_several_append_to_a_blob(blobs: AzureBlobs, unique_name: Callable[[str], str]) -> None:
    container = unique_name("c")
    for line in (b"1\n", b"2\n"):
        await blobs.append(container, "log", line)
    assert await blobs.get(container, "log") == b"1\n2\n"


async def test_a_lease_has_one_owner(blobs: AzureBlobs, unique_name: Callable[[str], str]) -> None:
    container, ours, theirs = unique_name("c"), str(uuid.uuid4()), str(uuid.uuid4())
    assert await blobs.acquire_lease(container, "turn", ours, 15)
    assert not await blobs.acquire_lease(container, "turn", theirs, 15)
    assert await blobs.renew_lease(container, "turn", ours)
    assert not await blobs.renew_lease(container, "turn", theirs)
    await blobs.release_lease(container, "turn", theirs)
    assert not await blobs.acquire_lease(container, "turn", theirs, 15)
    await blobs.release_lease(container, "turn", ours)
    assert await blobs.acquire_lease(container, "turn", theirs, 15)
    assert not await blobs.renew_lease(container, "turn", ours)


async def test_the_queues_of_an_account_are_listed(account: StorageAccount, unique_name: Callable[[str], str]) -> None:
    queues, name = AzureQueues(account), unique_name("q")
    await queues.put(name, b'{"a":"<&>"}', "none")
    assert name in await queues.names()
    assert await queues.peek(name) == ['{"a":"<&>"}']
    taken: list[str] = []
    assert await queues.take(name, lambda text: taken.append(text) is None, at_most=40) == 1
    assert taken == ['{"a":"<&>"}']
