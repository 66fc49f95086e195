"""Giving the events of call records the records themselves."""

import asyncio
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from shared.notifications.decrypt import Opened
from shared.notifications.events import Event, record_id_of, with_record
from shared.values import resources
from shared.values.errors import MalformedInputError, SwitchboardError, UnavailableError

_AT_ONCE: Final = 3
_SECONDS: Final = 240.0  # for a raw message, of the ten minutes that host.json gives a function
_TYPES: Final = frozenset(each.name for each in resources.CALL_RECORDS.event_types.values())
_RECORD_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")


class Records(Protocol):
    """Where records are read; see `shared.call_records.listing.CallRecords`."""

    async def record(self, tenant_id: str, record_id: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class CallRecordFetch:
    """Reads the records that events name. What cannot be read yet is an `UnavailableError`, so it is tried again.

    `seconds` is the time for the events of one raw message; what is not read by then waits for its next try, alone.
    """

    records: Records
    tenant_ids: Collection[str]
    seconds: float = _SECONDS
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def enrich(self, opened: Sequence[Opened]) -> list[Opened]:
        """Put the records in; whatever is no event of a call record is left as it is.

        Several notifications of one record become one event: they would all carry the same, newest version.
        """
        deadline = asyncio.get_running_loop().time() + self.seconds
        named = [(one, self._name(one.result)) for one in opened]
        distinct = list(dict.fromkeys(name for _, name in named if isinstance(name, tuple)))
        read = dict(
            zip(distinct, await asyncio.gather(*(self._read(*name, deadline) for name in distinct)), strict=True)
        )
        found = []
        for one, name in named:
            if name is None:
                found.append(one)
            elif isinstance(name, SwitchboardError):
                found.append(replace(one, result=name))
            elif isinstance(record := read[name], bytes):
                if (enriched := _enriched(one, record)) is not None:
                    found.append(enriched)
                read[name] = None
            elif record is not None:
                found.append(replace(one, result=record))
        return found

    def _name(self, result: Event | SwitchboardError) -> tuple[str, str] | SwitchboardError | None:
        """Tenant and id of the record that is wanted; None where none is."""
        if not isinstance(result, Event) or result.type not in _TYPES:
            return None
        tenant_id = result.attributes.get("tenantid", "")
        if tenant_id not in self.tenant_ids:
            return MalformedInputError("the tenant is not one of ours", reason="unknown-tenant")
        identity = record_id_of(result)
        if _RECORD_ID.fullmatch(identity) is None:
            return MalformedInputError("the notification names no call record", reason="call-record-malformed")
        return tenant_id, identity

    async def _read(self, tenant_id: str, record_id: str, deadline: float) -> bytes | SwitchboardError | None:
        try:
            async with asyncio.timeout_at(deadline), self._slots:
                return await self.records.record(tenant_id, record_id)
        except TimeoutError:
            return UnavailableError("the call record", reason="out-of-time")
        except SwitchboardError as error:
            return error


def _enriched(one: Opened, record: bytes) -> Opened | None:
    if not isinstance(one.result, Event):
        return None
    try:
        return replace(one, result=with_record(one.result, record))
    except MalformedInputError as error:
        return replace(one, result=error)
