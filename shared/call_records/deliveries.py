"""Notes of the call records that consumers were given, for the audit; see `shared.call_records.missing`.

All workers append to a blob for each tenant and hour. They do so some seconds later and do not wait for it: a note that
is lost with its worker costs a second event of the same id, and no record. Storage deletes the blobs by their age
(`infra/app/storage.bicep`).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.call_records.missing import NOTES_KEPT, Delivered, KnownDeliveries, delivered_by
from shared.notifications.events import Event
from shared.storage.ports import Blobs
from shared.values.errors import UnavailableError
from shared.values.items import is_plain_id

DELIVERIES_CONTAINER: Final = "deliveries"

_WRITE_DELAY: Final = 1.0  # seconds, so that what comes together is noted together
_WRITE_PAUSE: Final = 15.0  # seconds between two writes
_MOST_UNWRITTEN: Final = 10_000  # while storage does not answer
_MOST_KNOWN: Final = 1_000_000  # of a tenant, in memory
_AT_ONCE: Final = 8
_HOUR: Final = timedelta(hours=1)

_log = logging.getLogger(__name__)

_decode = msgspec.json.Decoder(Delivered).decode


class Deliveries:
    """The notes of one worker, and those of all. Belongs to one event loop. `now` is the clock, aware."""

    def __init__(self, blobs: Blobs, now: Callable[[], datetime]) -> None:
        self._blobs = blobs
        self._now = now
        self._unwritten: list[tuple[str, Delivered]] = []
        self._last_write = -_WRITE_PAUSE  # by the clock of the loop
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    def add(self, event: Event, received: datetime) -> None:
        """Note an event that is on its queue, within some seconds; other events than call records' are passed over."""
        tenant_id = event.attributes.get("tenantid")
        delivered = delivered_by(event, received)
        if delivered is None or not is_plain_id(tenant_id) or len(self._unwritten) >= _MOST_UNWRITTEN:
            return
        self._unwritten.append((tenant_id, delivered))
        self._wake()

    async def flush(self) -> None:
        """Write what is not written yet; where storage does not take it, it is tried again."""
        self._last_write = asyncio.get_running_loop().time()
        unwritten, self._unwritten = self._unwritten, []
        for tenant_id in dict.fromkeys(tenant_id for tenant_id, _ in unwritten):
            of_tenant = [delivered for other_id, delivered in unwritten if other_id == tenant_id]
            try:
                await self.write(tenant_id, of_tenant)
            except UnavailableError as error:
                _log.warning("deliveries of call records are not noted yet: reason=%s", error.reason)
                self._unwritten = [*((tenant_id, delivered) for delivered in of_tenant), *self._unwritten][
                    :_MOST_UNWRITTEN
                ]
        if self._unwritten:
            self._wake()

    async def write(self, tenant_id: str, deliveries: Iterable[Delivered]) -> None:
        """Note what was delivered, now.

        Raises:
            UnavailableError: storage did not take it.
        """
        lines = b"".join(msgspec.json.encode(delivered) + b"\n" for delivered in deliveries)
        if lines:
            await self._blobs.append(DELIVERIES_CONTAINER, _name(tenant_id, self._now()), lines)

    async def known(self, tenant_id: str, since: datetime) -> KnownDeliveries:
        """What is noted from the hour before `since` on.

        Raises:
            UnavailableError: storage did not answer, or there is more than fits into memory.
        """
        now, known, slots = self._now(), KnownDeliveries(), asyncio.Semaphore(_AT_ONCE)
        # A note is written after its call has begun; the clocks of workers and of Graph differ by less than an hour.
        first = max(since, now - NOTES_KEPT) - _HOUR
        hours = (now - first) // _HOUR + 1

        async def read(moment: datetime) -> None:
            async with slots:
                data = await self._blobs.get(DELIVERIES_CONTAINER, _name(tenant_id, moment))
            for line in (data or b"").splitlines():
                try:
                    known.add(_decode(line))
                except (ValueError, RecursionError):
                    _log.warning("a delivery of tenant %s is noted in a form that is not known", tenant_id)
            if len(known) > _MOST_KNOWN:
                raise UnavailableError("what was delivered of call records", reason="too-many-records")

        await asyncio.gather(*(read(first + place * _HOUR) for place in range(hours + 1)))
        return known

    def _wake(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            delay = max(_WRITE_DELAY, self._last_write + _WRITE_PAUSE - loop.time())
            self._timer = loop.call_later(delay, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._flushing = asyncio.create_task(self.flush())


def _name(tenant_id: str, moment: datetime) -> str:
    return f"{tenant_id}/{moment:%Y/%m/%d/%H}.jsonl"
