"""Giving the events of call records the records themselves."""

import asyncio
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from shared.notifications.decrypt import Opened
from shared.notifications.events import Event, record_id_of, with_record
from shared.values import resources
from shared.values.errors import MalformedInputError, SwitchboardError, UnavailableError

if TYPE_CHECKING:
    from shared.call_records.listing import CallRecords

_AT_ONCE: Final = 3
_SECONDS: Final = 240.0  # for a raw message, of the ten minutes that host.json gives a function
_TYPES: Final = frozenset(each.name for each in resources.CALL_RECORDS.event_types.values())
_RECORD_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")


@dataclass(frozen=True, slots=True)
class CallRecordFetch:
    """Reads the records that events name. What cannot be read yet is an `UnavailableError`, so it is tried again.

    `seconds` is the time for the events of one raw message; what is not read by then waits for its next try, alone.
    """

    records: "CallRecords"
    tenant_ids: Collection[str]
    seconds: float = _SECONDS
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def enrich(self, opened: Sequence[Opened]) -> list[Opened]:
        """Put the records in; whatever is no event of a call record is left as it is.

        Several notifications of one record become one event: they would all carry the same, newest version.
        """
        deadline = asyncio.get_running_loop().time() + self.seconds
        names = [self._name(item.result) for item in opened]
        distinct = list(dict.fromkeys(name for name in names if isinstance(name, tuple)))
        answers = await asyncio.gather(*(self._read(*name, deadline) for name in distinct))
        read = dict(zip(distinct, answers, strict=True))
        enriched: list[Opened] = []
        given: set[object] = set()
        for item, name in zip(opened, names, strict=True):
            if name in given:
                continue
            answer = read[name] if isinstance(name, tuple) else name
            if isinstance(answer, bytes):
                given.add(name)
            enriched.append(item if answer is None else replace(item, result=_result(item.result, answer)))
        return enriched

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

    async def _read(self, tenant_id: str, record_id: str, deadline: float) -> bytes | SwitchboardError:
        try:
            async with asyncio.timeout_at(deadline), self._slots:
                return await self.records.record(tenant_id, record_id)
        except TimeoutError:
            return UnavailableError("the call record", reason="out-of-time")
        except SwitchboardError as error:
            return error


def _result(event: Event | SwitchboardError, answer: bytes | SwitchboardError) -> Event | SwitchboardError:
    """The event with the record that was read for it, or why it has none."""
    if isinstance(event, SwitchboardError) or isinstance(answer, SwitchboardError):
        return answer if isinstance(answer, SwitchboardError) else event
    try:
        return with_record(event, answer)
    except MalformedInputError as error:
        return error
