"""What is remembered of the subscriptions of each tenant, kept where every worker can read it; and whose turn it is.

Graph's list alone does not say what exists: for days it has shown nothing, or page after page of nothing, while each
subscription was alive and could be read by its id (microsoftgraph/microsoft-graph-docs, issues 5681, 15648 and 17354).

The version before this one kept a list of ids alone, and may run beside it while a deployment rolls: its blob is read
for ids that it has added, and kept up.
"""

import logging
import secrets
import uuid
from datetime import datetime
from typing import Final

import msgspec

from shared.storage.ports import STATE_CONTAINER, Blobs
from shared.subscriptions.memory import LONGEST_LIFE, Changes, Memory, Recollection
from shared.values.errors import MalformedInputError, NoTurnError, SwitchboardError, UnavailableError

_NAME: Final = "known/{}.json"
_IDS: Final = "subscriptions-{}.json"
_TURN: Final = "turn/{}"
_TURN_SECONDS: Final = 60  # the longest that storage lends
_CONFLICTS: Final = 10

_log = logging.getLogger(__name__)


class KnownSubscriptions:
    """A blob for each tenant."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def load(self, tenant_id: str) -> Recollection:
        """What the last run left; nothing where there was no run, or where it cannot be read.

        Raises:
            UnavailableError: storage did not answer.
        """
        found, _, _ = await self._read(tenant_id)
        return found

    async def save(self, tenant_id: str, changes: Changes, now: datetime) -> Memory:
        """Bring changes into what is kept; another worker may do so at the same time, and neither is lost.

        Raises:
            UnavailableError: storage did not take them.
        """
        for _ in range(_CONFLICTS):
            found, etag, ids = await self._read(tenant_id)
            changed = changes.applied(found.memory, now)
            if changed != found.memory or found.problems:
                data = msgspec.json.encode(changed)
                if not await self._blobs.put_version(STATE_CONTAINER, _NAME.format(tenant_id), data, etag):
                    continue
            there = frozenset({*changed.known, *changed.faceless})
            if there != ids or found.problems:
                await self._blobs.put(STATE_CONTAINER, _IDS.format(tenant_id), msgspec.json.encode(sorted(there)))
            return changed
        raise UnavailableError("what is known of subscriptions", reason="state-contended")

    def turn(self, tenant_id: str) -> "Turn":
        """The right to make and delete subscriptions in a tenant: one run's at a time."""
        return Turn(self._blobs, _TURN.format(tenant_id))

    async def _read(self, tenant_id: str) -> tuple[Recollection, str | None, frozenset[str]]:
        whole = await self._blobs.get_version(STATE_CONTAINER, _NAME.format(tenant_id))
        listed = await self._blobs.get_version(STATE_CONTAINER, _IDS.format(tenant_id))
        problems: list[SwitchboardError] = []
        memory, ids = Memory(), frozenset[str]()
        if whole is not None:
            try:
                memory = msgspec.json.decode(whole.data, type=Memory)
            except (ValueError, RecursionError):
                problems.append(_unreadable(_NAME.format(tenant_id)))
        if listed is not None:
            try:
                ids = msgspec.json.decode(listed.data, type=frozenset[str])
            except (ValueError, RecursionError):
                problems.append(_unreadable(_IDS.format(tenant_id)))
        if listed is not None and listed.modified is not None:
            until = listed.modified + LONGEST_LIFE
            others = dict.fromkeys(ids.difference(memory.known), until)
            memory = msgspec.structs.replace(memory, faceless=others | dict(memory.faceless))
        is_first = listed is None and not problems and memory.has_made_nothing
        found = Recollection(memory, tuple(problems), is_first)
        return found, None if whole is None else whole.etag, ids


class Turn:
    """Storage's lease of a blob: it ends by itself a minute after its holder has died."""

    def __init__(self, blobs: Blobs, name: str) -> None:
        self._blobs = blobs
        self._name = name
        self._id = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))

    async def take(self) -> None:
        """Take it.

        Raises:
            NoTurnError: another run has it.
            UnavailableError: storage did not answer.
        """
        if not await self._blobs.acquire_lease(STATE_CONTAINER, self._name, self._id, _TURN_SECONDS):
            raise NoTurnError("another run is at work in this tenant")

    async def keep(self) -> None:
        """Keep it for longer: to be asked again and again, and before anything is made or deleted.

        Raises:
            NoTurnError: it has passed to another run.
            UnavailableError: storage did not answer.
        """
        if not await self._blobs.renew_lease(STATE_CONTAINER, self._name, self._id):
            raise NoTurnError("another run has taken over in this tenant")

    async def release(self) -> None:
        """Give it back.

        Raises:
            UnavailableError: storage did not answer; it ends by itself.
        """
        await self._blobs.release_lease(STATE_CONTAINER, self._name, self._id)


def _unreadable(name: str) -> SwitchboardError:
    message = f"the blob {STATE_CONTAINER}/{name} cannot be read, and counts as empty"
    return MalformedInputError(message, reason="state-unreadable")
