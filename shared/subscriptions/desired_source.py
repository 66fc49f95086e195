"""Where the desired state lies, and whether it was read whole, as far as anything is to be deleted by it.

It lies in a file of the package, or in a blob, so that a change needs no deployment. A list that asks for less than
before may be one that was cut off: a file that is being written, a page of a group that came without its link to the
next. It reads well, so only time tells; what reads the same for an hour is believed.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from shared.clock import Clock
from shared.storage.ports import Blobs
from shared.subscriptions.desired import (
    Desired,
    DesiredState,
    DesiredStateError,
    Group,
    parse_desired,
    wanted_of_members,
)
from shared.values.errors import OutOfTimeError, SwitchboardError, UnavailableError, UnexpectedError
from shared.values.graph_errors import GraphError
from shared.values.times import Moment

if TYPE_CHECKING:
    from shared.graph.client import GraphClient
    from shared.subscriptions.unwanted import Confirmations

SETTLED_AFTER: Final = timedelta(hours=1)

DESIRED_STATE: Final = "desired-state"
"""The name of the readings of the file; those of groups are named by their ids."""

_DESIRED_SECONDS: Final = 60.0
_GROUPS_AT_ONCE: Final = 4
_GROUPS_TIME: Final = timedelta(seconds=60)  # for all of a tenant's
_BLOB: Final = "blob:"
# "Naming and referencing containers, blobs, and metadata"
# (https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata)
_CONTAINER_NAME: Final = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}")
_LONGEST_NAME: Final = 1024
_LARGEST: Final = 16 * 1024 * 1024  # a hundred times what ten thousand users take

logger = logging.getLogger(__name__)


class Stage(StrEnum):
    """Where something was not done."""

    DESIRED_STATE = "desired-state"
    CERTIFICATE = "certificate"
    GROUP = "group"
    LIST = "list"
    READ = "read"
    KNOWN = "known"
    TURN = "turn"
    SETTINGS = "settings"
    SUBSCRIPTION = "subscription"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What was not done once, and why."""

    tenant_id: str
    stage: Stage
    error: SwitchboardError
    kind: str | None = None
    identity: str | None = None
    next: str | None = None


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


class NotWholeError(SwitchboardError):
    """Nothing is pruned by this, for it may not be all."""

    permanent = False  # a list that goes on reading the same is believed after an hour

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="not-whole")


class Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A list as it was last read: since when it reads the same, and how many it held when it was last believed."""

    digest: str
    since: Moment
    size: int
    believed: int | None = None

    @property
    def settles(self) -> datetime:
        """When it is believed, if it stays as it is."""
        return self.since + SETTLED_AFTER

    def is_settled(self, now: datetime) -> bool:
        """Whether it has read the same for long enough."""
        return now >= self.settles

    def is_whole(self, now: datetime) -> bool:
        """Whether it is settled, or has neither become empty nor lost more than a tenth of what was believed."""
        has_shrunk = self.believed is None or self.size * 10 < self.believed * 9
        return self.is_settled(now) or not has_shrunk


def read_again(names: Iterable[str], before: Reading | None, now: datetime) -> Reading:
    """A list as it reads now, `before` being how it read the last time."""
    entries = sorted(set(names))
    digest = hashlib.sha256("\n".join(entries).encode()).hexdigest()[:16]
    since = before.since if before is not None and before.digest == digest else now
    believed = None if before is None else before.believed
    reading = Reading(digest=digest, since=since, size=len(entries), believed=believed)
    has_grown = believed is not None and len(entries) > believed
    is_believed = has_grown or reading.is_settled(now)
    return msgspec.structs.replace(reading, believed=len(entries)) if is_believed else reading


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is desired in a tenant.

    All of it was read if it is `whole`; if it is `sure`, something may be deleted because it is not in it. `readings`
    are how the file and the groups, by id, read now, and `sources` their names, None where the file could not be read.
    `troubles` say what could not be read, or may not be whole.
    """

    subscriptions: tuple[Desired, ...] = ()
    whole: bool = False
    sure: bool = False
    readings: Mapping[str, Reading] = field(default_factory=dict)
    sources: frozenset[str] | None = None
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True)
class WantedReader:
    """Finds out what is desired in one tenant, the members of groups included.

    With `complains`, it is a trouble too that a list may not be whole.
    """

    tenant_id: str
    graph: "GraphClient"
    clock: Clock
    complains: bool

    async def read(self, state: DesiredState, before: Mapping[str, Reading]) -> Wanted:
        """Read the groups of a desired state; `before` are the readings of the last time."""
        wanted = [want for want in state.subscriptions if want.tenant_id == self.tenant_id]
        groups = [group for group in state.groups if group.tenant_id == self.tenant_id]
        asked_for = [*(want.resource for want in wanted), *(group.group_id for group in groups)]
        troubles: list[Trouble] = []
        members = await self._members(groups, troubles)
        for group, of_group in zip(groups, members, strict=True):
            wanted += wanted_of_members(group, of_group or ())
        lists = {
            group.group_id: of_group for group, of_group in zip(groups, members, strict=True) if of_group is not None
        }
        readings = self._readings({DESIRED_STATE: asked_for, **lists}, before)
        unsettled = [source for source, reading in readings.items() if not self._is_to_be_deleted_by(source, reading)]
        asks_for_something = bool(state.subscriptions or state.groups)
        if self.complains:
            troubles += [self._not_whole(source, readings[source]) for source in unsettled]
            if not asks_for_something:
                error = NotWholeError("the desired state asks for nothing, of any tenant: nothing is pruned by that")
                troubles.append(Trouble(self.tenant_id, Stage.DESIRED_STATE, error))
        whole = state.refusal is None and None not in members
        return Wanted(
            tuple({want.key: want for want in wanted}.values()),
            whole,
            sure=whole and not unsettled and asks_for_something,
            readings=readings,
            sources=frozenset({DESIRED_STATE, *(group.group_id for group in groups)}),
            troubles=tuple(troubles),
        )

    def _readings(self, lists: Mapping[str, Sequence[str]], before: Mapping[str, Reading]) -> dict[str, Reading]:
        now = self.clock.now()
        return {source: read_again(names, before.get(source), now) for source, names in lists.items()}

    def _is_to_be_deleted_by(self, source: str, reading: Reading) -> bool:
        now = self.clock.now()
        return reading.is_settled(now) if source == DESIRED_STATE else reading.is_whole(now)

    def _not_whole(self, source: str, reading: Reading) -> Trouble:
        is_file = source == DESIRED_STATE
        error = NotWholeError(
            f"{'the desired state' if is_file else f'group {source}'} has {reading.size} entries, and may have "
            f"been cut off: it is believed at {reading.settles:%H:%M} UTC if it reads the same until then"
        )
        return Trouble(self.tenant_id, Stage.DESIRED_STATE if is_file else Stage.GROUP, error, identity=source)

    async def _members(self, groups: Sequence[Group], troubles: list[Trouble]) -> list[tuple[str, ...] | None]:
        """The members of each group, None where they could not be read in the time that there is for all of them."""
        slots = asyncio.Semaphore(_GROUPS_AT_ONCE)
        end = self.clock.now() + _GROUPS_TIME

        async def read(group: Group) -> tuple[str, ...] | None:
            error: SwitchboardError
            async with slots:
                try:
                    async with asyncio.timeout(max((end - self.clock.now()).total_seconds(), 0.0)):
                        return await self.graph.group_members(group.tenant_id, group.group_id)
                except TimeoutError:
                    error = OutOfTimeError()
                except (UnavailableError, GraphError) as refusal:
                    error = refusal
                troubles.append(Trouble(self.tenant_id, Stage.GROUP, error, identity=group.group_id))
                return None

        return list(await asyncio.gather(*(read(group) for group in groups)))


@dataclass(slots=True)
class RunSources:
    """What all tenants of a run share: what is desired, read once, and what went wrong for all of them."""

    source: DesiredStateSource
    confirmations: "Confirmations | None"
    troubles: list[Trouble] = field(default_factory=list)
    _loading: asyncio.Task[DesiredState | None] | None = None

    async def desired(self) -> DesiredState | None:
        """What is desired, or None where that cannot be read."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        return await asyncio.shield(self._loading)

    async def confirmed(self) -> Mapping[str, datetime]:
        """What an operator has confirmed to go; nothing where storage does not say."""
        if self.confirmations is None:
            return {}
        try:
            return await self.confirmations.load()
        except UnavailableError as error:
            self.troubles.append(Trouble("*", Stage.KNOWN, error))
            return {}

    async def _load(self) -> DesiredState | None:
        error: SwitchboardError
        try:
            async with asyncio.timeout(_DESIRED_SECONDS):
                state = await self.source.load()
        except SwitchboardError as refusal:
            error = refusal
        except TimeoutError:
            error = UnavailableError("the desired state", reason="out-of-time")
        except Exception as fault:  # whatever is wrong with the file, live subscriptions are renewed
            logger.exception("the desired state cannot be read")
            error = UnexpectedError(type(fault).__name__)
        else:
            if state.refusal is not None:
                self.troubles.append(Trouble("*", Stage.DESIRED_STATE, state.refusal))
            return state
        self.troubles.append(Trouble("*", Stage.DESIRED_STATE, error))
        return None
