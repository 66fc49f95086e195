"""Call records whose notifications were missed: noticing the gap, and filling it.

What was seen of each callRecords subscription is kept in a small blob; from one run of the timer to the next it tells
whether the same subscription has been there all the time. A gap is written down before anything is done about it, and
is searched within the time that the run leaves, page by page, until it is done.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.call_records.coverage import Coverage, Gap, missed, observed, participants_of, resource_key
from shared.call_records.search import Records, Search, send_records
from shared.clock import Clock
from shared.notifications.raw_messages import RawMessages
from shared.storage.ports import STATE_CONTAINER, Blobs
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import GraphError, Subscription

LEAST_TIME: Final = timedelta(seconds=20)
"""What a run gets even where renewal has used up the time."""

_CONFLICTS: Final = 10
_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backfill:
    """Watches over callRecords subscriptions. Doing anything twice does no harm: an event keeps its id."""

    blobs: Blobs
    raw_messages: RawMessages
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

    async def run(self, subscriptions: Sequence[Subscription], deadline: datetime) -> list[Subscription]:
        """Search the gaps, each subscription's in its share of the time; what is left is the next run's.

        Returns:
            Those that have no gap left.

        Raises:
            UnavailableError: storage did not answer.
        """
        whole = []
        for place, one in enumerate(subscriptions):
            now = self.clock.now()
            share = (deadline - now) / (len(subscriptions) - place)
            try:
                if await self._fill(one, now + share):
                    whole.append(one)
            except (UnavailableError, GraphError) as error:
                _log.error("backfill: tenant=%s reason=%s: %s", one.tenant_id, error.reason, error)
        return whole

    async def _fill(self, subscription: Subscription, deadline: datetime) -> bool:
        coverage = (await self._read(subscription))[0]
        while coverage is not None and coverage.gaps and self.clock.now() < deadline:
            gap = coverage.gaps[0]
            search = Search(subscription.tenant_id, participants_of(subscription.resource), gap)
            written = 0
            try:
                async for page in search.pages(self.records, self.clock, deadline):
                    missed = [record for record in page.records if gap.may_miss(record)]
                    await send_records(self.raw_messages, missed, subscription.tenant_id, self.clock.now())
                    written += len(missed)
            except SwitchboardError:
                await self._progress(subscription, gap, search.gap)
                raise
            coverage = await self._progress(subscription, gap, None if search.finished else search.gap)
            _log.info(
                "backfill: tenant=%s since=%s until=%s finished=%s written=%d",
                subscription.tenant_id,
                gap.since.isoformat(),
                gap.until.isoformat(),
                search.finished,
                written,
            )
        return coverage is None or not coverage.gaps

    async def _progress(self, subscription: Subscription, before: Gap, after: Gap | None) -> Coverage | None:
        return await self._change(subscription, lambda known: None if known is None else known.searched(before, after))

    async def _read(self, subscription: Subscription) -> tuple[Coverage | None, str | None]:
        found = await self.blobs.get_version(STATE_CONTAINER, _name(subscription))
        if found is not None:
            return _decode(found.data, _name(subscription)), found.etag
        former = None if subscription.spelling is None else _name(replace(subscription, resource=subscription.spelling))
        if former is not None:  # what was named after Graph's spelling is carried over
            found = await self.blobs.get_version(STATE_CONTAINER, former)
        return (None if found is None or former is None else _decode(found.data, former)), None

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


def state_name(folder: str, subscription: Subscription) -> str:
    """The blob of a desired thing, whatever spelling of it Graph prefers."""
    resource = hashlib.sha256(resource_key(subscription.resource).encode()).hexdigest()[:16]
    return f"{folder}/{subscription.tenant_id}/{resource}.json"


def _name(subscription: Subscription) -> str:
    return state_name("call-records", subscription)


def _decode(data: bytes, name: str) -> Coverage | None:
    try:
        return msgspec.json.decode(data, type=Coverage)
    except (ValueError, RecursionError):
        _log.error("the blob %s/%s cannot be read: the search of gaps begins anew", STATE_CONTAINER, name)
        return None
