"""Call records whose notifications were missed: noticing the gap, and filling it.

What was seen of each callRecords subscription is kept in a small blob; from one run of the timer to the next it tells
whether the same subscription has been there all the time. A gap is written down before anything is done about it, and
is searched within the time that the run leaves, page by page, until it is done.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from shared.clock import Clock
from shared.domain.call_records import (
    KEPT,
    Coverage,
    Gap,
    RecordPage,
    Step,
    missed,
    notification_of,
    observed,
    participants_of,
)
from shared.domain.errors import SwitchboardError, UnavailableError
from shared.domain.graph import GraphError, Subscription
from shared.domain.resources import CALL_RECORDS_QUEUE
from shared.domain.subscriptions import resource_key
from shared.services.raw_queues import RawQueues
from shared.services.state import STATE_CONTAINER

LEAST_TIME: Final = timedelta(seconds=20)
"""What a run gets even where renewal has used up the time."""

_CONFLICTS: Final = 10
_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


class Records(Protocol):
    """Where records are listed; see `shared.adapters.call_records.CallRecords`."""

    async def page(self, tenant_id: str, step: Step, link: str | None) -> RecordPage: ...


class Blob(Protocol):
    @property
    def data(self) -> bytes: ...
    @property
    def etag(self) -> str: ...


class Blobs(Protocol):
    async def get_version(self, container: str, name: str) -> Blob | None: ...
    async def put_version(self, container: str, name: str, data: bytes, etag: str | None) -> bool: ...


@dataclass(frozen=True, slots=True)
class Backfill:
    """Watches over callRecords subscriptions. Doing anything twice does no harm: an event keeps its id."""

    blobs: Blobs
    queues: RawQueues
    records: Records
    clock: Clock

    async def observe(self, subscriptions: Iterable[Subscription]) -> None:
        """Take note of callRecords subscriptions that are alive now, and of the gaps before them.

        Raises:
            UnavailableError: storage did not answer.
        """
        now = self.clock.now()
        slots = asyncio.Semaphore(_AT_ONCE)

        async def note(one: Subscription) -> None:
            async with slots:
                found = await self._change(one, lambda known: observed(known, one.id, now))
            if found is not None and any(gap.until == now for gap in found.gaps):
                _log.warning("call records may have been missed: tenant=%s subscription=%s", one.tenant_id, one.id)

        await asyncio.gather(*(note(one) for one in subscriptions))

    async def missed(self, subscription: Subscription) -> None:
        """Take note that Graph has said that notifications of a subscription were missed.

        Raises:
            UnavailableError: storage did not answer.
        """
        now = self.clock.now()
        await self._change(subscription, lambda known: missed(known or Coverage(subscription.id, now), now))

    async def run(self, subscriptions: Sequence[Subscription], deadline: datetime) -> None:
        """Search the gaps, each subscription's in its share of the time; what is left is the next run's.

        Raises:
            UnavailableError: storage did not answer.
        """
        for place, one in enumerate(subscriptions):
            now = self.clock.now()
            share = (deadline - now) / (len(subscriptions) - place)
            try:
                await self._fill(one, now + share)
            except (UnavailableError, GraphError) as error:
                _log.error("backfill: tenant=%s reason=%s: %s", one.tenant_id, error.reason, error)

    async def _fill(self, subscription: Subscription, deadline: datetime) -> None:
        coverage = (await self._read(subscription))[0]
        while coverage is not None and coverage.gaps and self.clock.now() < deadline:
            gap = coverage.gaps[0]
            search = _Search(gap)
            try:
                finished = await self._search(subscription, search, deadline)
            except SwitchboardError:
                await self._progress(subscription, gap, search.gap)
                raise
            coverage = await self._progress(subscription, gap, None if finished else search.gap)
            _log.info(
                "backfill: tenant=%s since=%s until=%s finished=%s written=%d",
                subscription.tenant_id,
                gap.since.isoformat(),
                gap.until.isoformat(),
                finished,
                search.written,
            )

    async def _progress(self, subscription: Subscription, before: Gap, after: Gap | None) -> Coverage | None:
        return await self._change(subscription, lambda known: None if known is None else known.searched(before, after))

    async def _search(self, subscription: Subscription, search: "_Search", deadline: datetime) -> bool:
        """Search on, a page at a time, and say whether that was all."""
        oldest = self.clock.now() - KEPT
        steps = search.gap.steps(participants_of(subscription), self.clock.now())
        while search.gap.done < len(steps):
            step = steps[search.gap.done]
            if step.end <= oldest:
                search.advance(None)
                continue
            if self.clock.now() >= deadline:
                return False
            page = await self._page(subscription.tenant_id, step, search)
            if page.link is not None and page.link == search.gap.link:
                raise UnavailableError("Graph's list", reason="paging")
            search.written += await self._write(page, search.gap, subscription.tenant_id)
            search.advance(page.link)
        return True

    async def _page(self, tenant_id: str, step: Step, search: "_Search") -> RecordPage:
        try:
            return await self.records.page(tenant_id, step, search.gap.link)
        except GraphError:
            if search.gap.link is None:
                raise
        # A link may have lapsed since it was written down; the step's first page needs none.
        return await self.records.page(tenant_id, step, None)

    async def _write(self, page: RecordPage, gap: Gap, tenant_id: str) -> int:
        raws = [notification_of(record, tenant_id) for record in page.records if gap.may_miss(record)]
        await self.queues.send(
            CALL_RECORDS_QUEUE,
            raws,
            received=self.clock.now(),
            traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00",
            backfilled=True,
        )
        return len(raws)

    async def _read(self, subscription: Subscription) -> tuple[Coverage | None, str | None]:
        found = await self.blobs.get_version(STATE_CONTAINER, _name(subscription))
        if found is not None:
            return msgspec.json.decode(found.data, type=Coverage), found.etag
        former = None if subscription.spelling is None else _name(replace(subscription, resource=subscription.spelling))
        if former is not None:  # what was named after Graph's spelling is carried over
            found = await self.blobs.get_version(STATE_CONTAINER, former)
        return (None if found is None else msgspec.json.decode(found.data, type=Coverage)), None

    async def _change(
        self, subscription: Subscription, change: Callable[[Coverage | None], Coverage | None]
    ) -> Coverage | None:
        """Change what is known; another worker may do so at the same time, and neither change is lost."""
        for _ in range(_CONFLICTS):
            known, etag = await self._read(subscription)
            changed = change(known)
            if changed is None or changed == known:
                return changed
            if await self.blobs.put_version(STATE_CONTAINER, _name(subscription), msgspec.json.encode(changed), etag):
                return changed
        raise UnavailableError("the state of call records", reason="state-contended")


@dataclass(slots=True)
class _Search:
    """A search under way: `gap` says how far it is, `written` counts what was found."""

    gap: Gap
    written: int = 0

    def advance(self, link: str | None) -> None:
        """To the next page of the step, or to the next step."""
        done = self.gap.done + (link is None)
        self.gap = msgspec.structs.replace(self.gap, done=done, link=link)


def _name(subscription: Subscription) -> str:
    """The blob of a desired thing, whatever spelling of it Graph prefers."""
    resource = hashlib.sha256(resource_key(subscription.resource).encode()).hexdigest()[:16]
    return f"call-records/{subscription.tenant_id}/{resource}.json"
