"""Searching Graph's list of call records page by page, and sending records on in place of their notifications."""

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from shared.call_records.coverage import KEPT, Gap, ListedRecord, RecordPage, Step, notification_of
from shared.clock import Clock
from shared.notifications.raw_messages import RawMessages
from shared.values.errors import UnavailableError
from shared.values.graph_errors import GraphError
from shared.values.resources import CALL_RECORDS_QUEUE

if TYPE_CHECKING:
    from shared.call_records.listing import CallRecords


@dataclass(slots=True)
class Search:
    """A search under way: `gap` says how far it has come, and `finished` that nothing of it is left."""

    tenant_id: str
    participants: tuple[str, ...]
    gap: Gap
    finished: bool = False

    async def pages(
        self, records: "CallRecords", clock: Clock, deadline: datetime, *, at_most: int | None = None
    ) -> AsyncIterator[RecordPage]:
        """The pages that are left, until the deadline; a page counts as searched once the next one is asked for.

        Args:
            records: where they are read.
            clock: for the deadline, and for what Graph keeps no longer.
            deadline: after it no page is read.
            at_most: so many pages are read; None for all.

        Raises:
            UnavailableError: Graph or Entra ID did not answer.
            GraphError: Graph refuses.
        """
        now = clock.now()
        steps = self.gap.steps(self.participants, now)
        read = 0
        while self.gap.done < len(steps):
            step = steps[self.gap.done]
            if step.end <= now - KEPT:
                self._advance(None)
                continue
            if read == at_most or clock.now() >= deadline:
                return
            page = await self._page(records, step)
            if page.link is not None and page.link == self.gap.link:
                raise UnavailableError("Graph's list", reason="paging")
            yield page
            self._advance(page.link)
            read += 1
        self.finished = True

    async def _page(self, records: "CallRecords", step: Step) -> RecordPage:
        try:
            return await records.page(self.tenant_id, step, self.gap.link)
        except GraphError:
            if self.gap.link is None:
                raise
        # A link may have lapsed since it was written down; the step's first page needs none.
        return await records.page(self.tenant_id, step, None)

    def _advance(self, link: str | None) -> None:
        """To the next page of the step, or to the next step."""
        self.gap = msgspec.structs.replace(self.gap, done=self.gap.done + (link is None), link=link)


async def send_records(
    raw_messages: RawMessages, records: Sequence[ListedRecord], tenant_id: str, now: datetime
) -> None:
    """Put records on the raw queue of call records.

    Raises:
        UnavailableError: storage did not take all of them.
    """
    await raw_messages.send(
        CALL_RECORDS_QUEUE,
        [notification_of(record, tenant_id) for record in records],
        received=now,
        traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00",
        backfilled=True,
    )
