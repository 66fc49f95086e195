"""Handling an event once, although it may be delivered more than once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol
from weakref import WeakValueDictionary

from .event_types import CloudEvent

type Key = tuple[str, str]
"""An event's `source` and `id`, which all of its deliveries share."""


class Store(Protocol):
    """Where it is kept which events have been handled. Keep each for longer than a consumer may stand still."""

    async def has(self, key: Key) -> bool:
        """Say whether a key was added.

        Args:
            key: `CloudEvent.key`.

        Returns:
            True if it was, by any process that shares the store.
        """
        ...

    async def add(self, key: Key) -> None:
        """Keep a key.

        Args:
            key: `CloudEvent.key`; one that is there already is no error.
        """
        ...


class MemoryStore:
    """Keeps keys in this process's memory: it forgets them when the process ends, and other processes do not see them.

    Args:
        limit: how many keys it keeps; then the oldest one goes for each new one.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._keys: dict[Key, None] = {}

    async def has(self, key: Key) -> bool:
        """See `Store.has`."""
        return key in self._keys

    async def add(self, key: Key) -> None:
        """See `Store.add`."""
        self._keys[key] = None
        if len(self._keys) > self._limit:
            del self._keys[next(iter(self._keys))]


class Deduplicator:
    """Tells whether an event has been handled before.

    Args:
        store: where handled events are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def once(self, event: CloudEvent) -> AsyncIterator[bool]:
        """Handle an event in a block; two deliveries that this process has at the same time take turns.

        Args:
            event: the event.

        Yields:
            Whether it is new, and to be handled in the block. It counts as handled once the block has ended without an
            exception.

        Raises:
            Exception: what the store raises.
        """
        async with self._locks.setdefault(event.key, asyncio.Lock()):
            new = not await self._store.has(event.key)
            yield new
            if new:
                await self._store.add(event.key)
