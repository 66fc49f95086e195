"""Notes of the call records that consumers were given, for the audit; see `shared.call_records.missing`.

A worker notes what it has written in a blob for each tenant and hour, to which all workers append. It waits for that no
longer than for a timer: a note that is lost with its worker costs a second event of the same id, and no record. The
blobs are forgotten by age (`infra/app/storage.bicep`).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.call_records.missing import NOTES_KEPT, Delivered, Told, delivered_by
from shared.notifications.events import Event
from shared.storage.ports import Blobs
from shared.values.errors import UnavailableError
from shared.values.items import is_plain_id

DELIVERIES_CONTAINER: Final = "deliveries"

_SOON: Final = 1.0  # seconds, so that what comes together is noted together
_PAUSE: Final = 15.0  # seconds between two writes
_MOST_UNWRITTEN: Final = 10_000  # while storage is away
_MOST_TOLD: Final = 1_000_000  # of a tenant, in memory
_AT_ONCE: Final = 8
_HOUR: Final = timedelta(hours=1)

_log = logging.getLogger(__name__)

_decode = msgspec.json.Decoder(Delivered).decode


class Deliveries:
    """What was delivered of call records. Belongs to one event loop. `now` is the clock, aware."""

    def __init__(self, blobs: Blobs, now: Callable[[], datetime]) -> None:
        self._blobs = blobs
        self._now = now
        self._unwritten: list[tuple[str, Delivered]] = []
        self._last = -_PAUSE  # by the clock of the loop
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    def add(self, event: Event, received: datetime) -> None:
        """Note an event that is on its queue, within some seconds; other events than call records' are passed over."""
        tenant_id = event.attributes.get("tenantid")
        one = delivered_by(event, received)
        if one is None or not is_plain_id(tenant_id) or len(self._unwritten) >= _MOST_UNWRITTEN:
            return
        self._unwritten.append((tenant_id, one))
        self._wake()

    async def flush(self) -> None:
        """Write what is not written yet; where storage does not take it, it is tried again."""
        self._last = asyncio.get_running_loop().time()
        unwritten, self._unwritten = self._unwritten, []
        for tenant_id in dict.fromkeys(tenant_id for tenant_id, _ in unwritten):
            of_tenant = [one for other, one in unwritten if other == tenant_id]
            try:
                await self.write(tenant_id, of_tenant)
            except UnavailableError as error:
                _log.warning("deliveries of call records are not noted yet: reason=%s", error.reason)
                self._unwritten = [*((tenant_id, one) for one in of_tenant), *self._unwritten][:_MOST_UNWRITTEN]
        if self._unwritten:
            self._wake()

    async def write(self, tenant_id: str, delivered: Iterable[Delivered]) -> None:
        """Note what was delivered, now.

        Raises:
            UnavailableError: storage did not take it.
        """
        lines = b"".join(msgspec.json.encode(one) + b"\n" for one in delivered)
        if lines:
            await self._blobs.append(DELIVERIES_CONTAINER, _name(tenant_id, self._now()), lines)

    async def told(self, tenant_id: str, since: datetime) -> Told:
        """What is noted from an hour on.

        Raises:
            UnavailableError: storage did not answer, or there is more than fits into memory.
        """
        now, told, slots = self._now(), Told(), asyncio.Semaphore(_AT_ONCE)
        # A note is written after its call began; clocks of machines and of Graph differ by less than an hour.
        first = max(since, now - NOTES_KEPT) - _HOUR
        hours = (now - first) // _HOUR + 1

        async def read(moment: datetime) -> None:
            async with slots:
                data = await self._blobs.get(DELIVERIES_CONTAINER, _name(tenant_id, moment))
            for line in (data or b"").splitlines():
                try:
                    told.add(_decode(line))
                except (ValueError, RecursionError):
                    _log.warning("a delivery of tenant %s is noted in a form that is not known", tenant_id)
            if len(told) > _MOST_TOLD:
                raise UnavailableError("what was delivered of call records", reason="too-many-records")

        await asyncio.gather(*(read(first + place * _HOUR) for place in range(hours + 1)))
        return told

    def _wake(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            delay = max(_SOON, self._last + _PAUSE - loop.time())
            self._timer = loop.call_later(delay, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._flushing = asyncio.create_task(self.flush())


def _name(tenant_id: str, moment: datetime) -> str:
    return f"{tenant_id}/{moment:%Y/%m/%d/%H}.jsonl"
