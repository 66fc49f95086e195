"""Finding the call records of which Graph has sent no notification, though everything seemed well.

Every few hours a timer's run begins an audit of each callRecords subscription, and the runs after it go on with it, a
few pages each, wherever no gap is known that has to be filled first. What Graph lists and nobody was given is sent on
as the notification that was missed, and noted as delivered, so that no later audit sends it again.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from shared.call_records.backfill import read_state, state_name
from shared.call_records.coverage import Gap, ListedRecord, RecordPage, participants_of
from shared.call_records.deliveries import Deliveries
from shared.call_records.missing import Audit, Delivered, KnownDeliveries, first_audit
from shared.call_records.search import Search, send_records
from shared.clock import Clock
from shared.notifications.raw_messages import RawMessages
from shared.storage.ports import STATE_CONTAINER, Blobs
from shared.telemetry import Telemetry
from shared.values.errors import UnavailableError
from shared.values.graph import Subscription
from shared.values.graph_errors import GraphError

if TYPE_CHECKING:
    from shared.call_records.listing import CallRecords

PAGES: Final = 30
"""How many a run reads for a subscription: Graph allows a tenant 40 lists in 20 seconds, and gaps come first."""

_NAMED: Final = 5  # ids in a line of the log
_BACKFILL_TIME: Final = timedelta(days=1)  # an operator waits for it, and ends it when that takes too long

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """How far a backfill has come: `done` of its `steps`, and of the records `listed` those `absent`, sent on now."""

    done: int
    steps: int
    listed: int
    absent: int


@dataclass(frozen=True, slots=True)
class RecordAudit:
    """Compares Graph's list with what was delivered. Doing it twice does no harm: an event keeps its id."""

    blobs: Blobs
    deliveries: Deliveries
    raw_messages: RawMessages
    records: "CallRecords"
    clock: Clock
    telemetry: Telemetry

    async def run(self, subscriptions: Sequence[Subscription], deadline: datetime) -> None:
        """Begin the audits that are due, and go on with those under way; tenants do not wait for each other."""
        tenants = itertools.groupby(sorted(subscriptions, key=_tenant), key=_tenant)
        await asyncio.gather(*(self._run([*of_tenant], deadline) for _, of_tenant in tenants))

    async def backfill(self, tenant_id: str, resource: str, gap: Gap) -> AsyncIterator[BackfillProgress]:
        """Send on the records of a time, however long ago, that are not noted as delivered; page by page.

        Args:
            tenant_id: where to look.
            resource: that of the callRecords subscription, which may limit it to some participants.
            gap: the time.

        Raises:
            UnavailableError: Graph, Entra ID or storage did not answer.
            GraphError: Graph refuses.
        """
        now, listed, absent = self.clock.now(), 0, 0
        search = Search(tenant_id, participants_of(resource), gap)
        steps = gap.steps(search.participants, now)
        delivered = await self.deliveries.known(tenant_id, steps[0].start)
        async for page in search.pages(self.records, self.clock, now + _BACKFILL_TIME):
            listed += len(page.records)
            absent += len(await self._send_absent(page, delivered, tenant_id, gap.may_miss))
            yield BackfillProgress(search.gap.done, len(steps), listed, absent)
        yield BackfillProgress(search.gap.done, len(steps), listed, absent)

    async def _run(self, subscriptions: Sequence[Subscription], deadline: datetime) -> None:
        for place, subscription in enumerate(subscriptions):
            now = self.clock.now()
            if now >= deadline:
                return
            try:
                await self._audit(subscription, now + (deadline - now) / (len(subscriptions) - place))
            except (UnavailableError, GraphError) as error:
                _log.error(
                    "audit of call records: tenant=%s reason=%s: %s", subscription.tenant_id, error.reason, error
                )

    async def _audit(self, subscription: Subscription, deadline: datetime) -> None:
        tenant_id, name, now = subscription.tenant_id, state_name("call-record-audits", subscription), self.clock.now()
        version = await self.blobs.get_version(STATE_CONTAINER, name)
        known, etag = (None, None) if version is None else (read_state(Audit, version.data, name), version.etag)
        if known is None:
            await self.blobs.put_version(STATE_CONTAINER, name, msgspec.json.encode(first_audit(now)), etag)
            return
        audit = known.begun(now)
        if audit.under_way is None:
            return
        search = Search(tenant_id, participants_of(subscription.resource), audit.under_way)
        delivered = await self.deliveries.known(tenant_id, audit.under_way.steps((), now)[0].start)
        absent = 0
        try:
            async for page in search.pages(self.records, self.clock, deadline, at_most=PAGES):
                missed = await self._send_absent(page, delivered, tenant_id, audit.judges)
                absent += len(missed)
                self._report(missed, tenant_id)
        finally:
            after = audit.progressed(search.gap, absent, finished=search.finished)
            # If another run has written its progress meanwhile, that stays; what this one has sent is noted already.
            await self.blobs.put_version(STATE_CONTAINER, name, msgspec.json.encode(after), etag)
        if search.finished:
            _log.info(
                "audit of call records: tenant=%s since=%s until=%s absent=%d",
                tenant_id,
                search.gap.since.isoformat(),
                search.gap.until.isoformat(),
                audit.absent + absent,
            )

    async def _send_absent(
        self, page: RecordPage, known: KnownDeliveries, tenant_id: str, judges: Callable[[ListedRecord], bool]
    ) -> Sequence[ListedRecord]:
        absent = [record for record in page.records if judges(record) and not known.includes(record)]
        now = self.clock.now()
        await send_records(self.raw_messages, absent, tenant_id, now)
        deliveries = [Delivered(record.id, record.version, now) for record in absent]
        for delivered in deliveries:
            known.add(delivered)  # the search of another participant may list the same record
        await self.deliveries.write(tenant_id, deliveries)
        return absent

    def _report(self, absent: Sequence[ListedRecord], tenant_id: str) -> None:
        if absent:
            _log.warning(
                "call records of which there was no notification: tenant=%s count=%d ids=%s",
                tenant_id,
                len(absent),
                ",".join(record.id for record in absent[:_NAMED]),
            )
            self.telemetry.unnotified(len(absent))


def _tenant(subscription: Subscription) -> str:
    return subscription.tenant_id
