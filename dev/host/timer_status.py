"""The status of timers, as the real host keeps it in blob storage.

Source: the timer extension (Azure/azure-webjobs-sdk-extensions): `StorageScheduleMonitor` for names and content,
`ScheduleMonitor` for what a status says about a schedule that has changed.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

from dev.host.schedule import NEVER, Schedule
from dev.host.storage import call
from dev.host.surroundings import Surroundings

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobServiceClient

HOSTS_CONTAINER = "azure-webjobs-hosts"
NEVER_YET = datetime.min.replace(tzinfo=UTC)

_END_OF_TIME = "9999-12-31T23:59:59.9999999+00:00"
_FIRST_YEAR = 1


class DamagedStatusError(Exception):
    """A status blob is not one that a host has written."""


@dataclass(frozen=True, kw_only=True)
class TimerStatus:
    """Where a timer stands; all times are UTC.

    Attributes:
        last: when it last fired: the start of that invocation; `NEVER_YET` if it has not.
        next: when it is due.
        last_updated: the time from which `next` was reckoned.
    """

    last: datetime = NEVER_YET
    next: datetime = NEVER_YET
    last_updated: datetime = NEVER_YET

    @classmethod
    def decode(cls, content: bytes, zone: tzinfo) -> "TimerStatus | None":
        """Read a blob; None if it is empty. Names count in any case, and what is missing is `NEVER_YET`.

        Raises:
            DamagedStatusError: it is something else.
        """
        try:
            fields = json.loads(content) if content.strip() else None
            if fields is None:
                return None
            if not isinstance(fields, Mapping):
                raise DamagedStatusError("it is no JSON object")
            times = {str(name).lower(): value for name, value in fields.items()}
            last, due, updated = (_time(times, name, zone) for name in ("last", "next", "lastupdated"))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise DamagedStatusError(str(error)) from error
        return cls(last=last, next=due, last_updated=updated)

    def as_json(self, zone: tzinfo) -> dict[str, str]:
        """What the blob and the invocation hold: times with the zone's offset."""
        return {
            "Last": _text(self.last, zone),
            "Next": _text(self.next, zone),
            "LastUpdated": _text(self.last_updated, zone),
        }

    def under(self, schedule: Schedule, now: datetime) -> "TimerStatus":
        """This status if `next` is what the schedule says, or else what the changed schedule makes of it.

        A changed schedule is never overdue: if its occurrence after the last one has passed, it counts from now.
        """
        reckoned_from = next((time for time in (self.last, self.last_updated) if time > NEVER_YET), now)
        expected = schedule.next_after(reckoned_from)
        if self.next == expected:
            return self
        if now > expected:
            reckoned_from, expected = now, schedule.next_after(now)
        return TimerStatus(next=expected, last_updated=reckoned_from)


class TimerStatusStore:
    """The status blobs of one host id, in the storage account of the app."""

    def __init__(self, blobs: "BlobServiceClient", host_id: str, zone: tzinfo, surroundings: Surroundings) -> None:
        self._container = blobs.get_container_client(HOSTS_CONTAINER)
        self._host_id = host_id
        self._zone = zone
        self._surroundings = surroundings

    async def read(self, function: str) -> TimerStatus | None:
        """The status of a function's timer; None if there is none.

        Raises:
            DamagedStatusError: the blob is damaged.
            AzureError: storage does not give it.
        """
        blob = self._container.get_blob_client(self._name(function))

        async def download() -> bytes:
            return await (await blob.download_blob()).readall()

        try:
            content = await call(download, self._surroundings)
        except ResourceNotFoundError:
            return None
        return TimerStatus.decode(content, self._zone)

    async def write(self, function: str, status: TimerStatus) -> None:
        """Keep the status of a function's timer.

        Raises:
            AzureError: storage does not take it.
        """
        content = json.dumps(status.as_json(self._zone), separators=(",", ":")).encode()
        with contextlib.suppress(ResourceExistsError):
            await call(self._container.create_container, self._surroundings)
        blob = self._container.get_blob_client(self._name(function))
        await call(lambda: blob.upload_blob(content, overwrite=True), self._surroundings)

    def _name(self, function: str) -> str:
        return f"timers/{self._host_id}/Host.Functions.{function}/status"


def _time(times: Mapping[str, Any], name: str, zone: tzinfo) -> datetime:
    if name not in times:
        return NEVER_YET
    time = datetime.fromisoformat(times[name])
    if time.year == _FIRST_YEAR:
        return NEVER_YET
    if time.year == NEVER.year:
        return NEVER
    return (time if time.tzinfo else time.replace(tzinfo=zone)).astimezone(UTC)


def _text(time: datetime, zone: tzinfo) -> str:
    if time == NEVER:
        return _END_OF_TIME
    if time == NEVER_YET:
        return time.isoformat()
    return time.astimezone(zone).isoformat()
