"""What operators do with quarantine: they look through it, put entries back on their queue, or discard them."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from shared.notifications.quarantine import QUARANTINE_CONTAINER, Parked
from shared.notifications.raw_messages import RawMessages
from shared.storage.ports import Listed
from shared.values.envelope import parse_envelope
from shared.values.errors import MalformedInputError
from shared.values.message_text import repaired
from shared.values.resources import RAW_QUEUES

_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list: what quarantine says of an item without opening it."""

    name: str
    reason: str
    kind: str
    queue: str
    quarantined: datetime


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries are meant; an empty field selects all."""

    reasons: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    older_than: timedelta | None = None
    younger_than: timedelta | None = None

    def takes(self, entry: Entry, now: datetime) -> bool:
        """Whether an entry is one of them."""
        age = now - entry.quarantined
        return (
            (not self.reasons or entry.reason in self.reasons)
            and (not self.kinds or entry.kind in self.kinds)
            and (self.older_than is None or age >= self.older_than)
            and (self.younger_than is None or age < self.younger_than)
        )


class Done(StrEnum):
    """What became of an entry."""

    REPLAYED = "replayed"
    DISCARDED = "discarded"
    REPLAYED_GONE = "replayed, its entry gone already"  # somebody else has replayed or discarded it at the same time
    GONE = "gone"  # somebody else was quicker
    CHANGED = "changed"  # it has failed and been parked once more meanwhile, and stays


@dataclass(frozen=True, slots=True)
class Replay:
    """Lists, replays and discards what lies in quarantine."""

    raw_messages: RawMessages

    async def entries(self, selection: Selection, now: datetime) -> AsyncIterator[Entry]:
        """The selected entries, by queue and name; no blob is read for it.

        Raises:
            UnavailableError: storage did not answer.
        """
        async for listed in self.raw_messages.blobs.list(QUARANTINE_CONTAINER):
            entry = _entry(listed)
            if selection.takes(entry, now):
                yield entry

    async def show(self, name: str) -> Parked | None:
        """All that is known of one entry; None where there is none of that name.

        Raises:
            UnavailableError: storage did not answer.
            MalformedInputError: the blob was not written by quarantine.
        """
        version = await self.raw_messages.blobs.get_version(QUARANTINE_CONTAINER, name)
        return None if version is None else _parked(version.data)

    async def replay(self, name: str, *, repair: bool = False) -> Done:
        """Put an entry back on its queue as if it had just come, and remove it once it is durably there.

        After a crash in between the entry is still there; replaying it again makes events of the same ids.

        Args:
            name: of the entry.
            repair: make an unreadable text readable, as far as can be told what was meant; else it goes back verbatim.

        Raises:
            UnavailableError: storage did not answer; the entry is still there.
            MalformedInputError: the blob was not written by quarantine.
        """
        version = await self.raw_messages.blobs.get_version(QUARANTINE_CONTAINER, name)
        if version is None:
            return Done.GONE
        parked = _parked(version.data)
        await self._put_back(parked, repair=repair)
        # The item may have failed again by now; then a new entry of the same name lies there.
        if await self.raw_messages.blobs.delete_version(QUARANTINE_CONTAINER, name, version.etag):
            return Done.REPLAYED
        return Done.CHANGED if await self._is_there(name) else Done.REPLAYED_GONE

    async def discard(self, name: str) -> Done:
        """Delete an entry, and the blob of its claim check if it has one.

        Raises:
            UnavailableError: storage did not answer.
            MalformedInputError: the blob was not written by quarantine.
        """
        version = await self.raw_messages.blobs.get_version(QUARANTINE_CONTAINER, name)
        if version is None:
            return Done.GONE
        parked = _parked(version.data)
        if not await self.raw_messages.blobs.delete_version(QUARANTINE_CONTAINER, name, version.etag):
            return Done.CHANGED if await self._is_there(name) else Done.GONE
        # Only now: an entry that has changed stays, and needs the claim check that its ticket names.
        if parked.envelope is not None:
            await self.raw_messages.discard(parked.queue, parked.envelope)
        return Done.DISCARDED

    async def _put_back(self, parked: Parked, *, repair: bool) -> None:
        envelope, body, verbatim = parked.envelope, (parked.text or "").encode(), parked.unreadable
        if verbatim and repair:
            body, verbatim = repaired(parked.text or ""), False
            with suppress(MalformedInputError):
                envelope = parse_envelope(body)
        if envelope is None:
            await self.raw_messages.queues.put(parked.queue, body, "none" if verbatim else "base64")
        else:
            await self.raw_messages.put_anew(parked.queue, envelope)

    async def _is_there(self, name: str) -> bool:
        return await self.raw_messages.blobs.get_version(QUARANTINE_CONTAINER, name) is not None


def _parked(data: bytes) -> Parked:
    try:
        parked = msgspec.json.decode(data, type=Parked)
    except (ValueError, RecursionError):
        raise MalformedInputError("not an entry of quarantine", reason="quarantine-malformed") from None
    if parked.queue not in RAW_QUEUES:
        raise MalformedInputError("an entry of quarantine names no raw queue", reason="quarantine-malformed")
    return parked


def _entry(listed: Listed) -> Entry:
    about = listed.metadata
    try:
        quarantined = datetime.fromisoformat(about.get("quarantined", ""))
    except ValueError:
        quarantined = datetime.fromtimestamp(0, UTC)  # not written by quarantine: shown as old as can be
    return Entry(
        listed.name,
        about.get("reason", _UNKNOWN),
        about.get("kind", _UNKNOWN),
        about.get("queue", listed.name.partition("/")[0]),
        quarantined,
    )
