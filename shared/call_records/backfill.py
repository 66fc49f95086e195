"""Call records whose notifications were missed: noticing the gap, and filling it.

A small blob says when each callRecords subscription was last seen; from one run of the timer to the next it tells
whether the same subscription has been there all the time. A gap is written down before anything is done about it. Each
run searches it page by page in the time that renewal leaves, until all of it has been searched.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from shared.call_records.coverage import Coverage, Gap, missed, observed, participants_of, resource_key
from shared.call_records.search import Search, send_records
from shared.clock import Clock
from shared.notifications.raw_messages import RawMessages
from shared.storage.ports import STATE_CONTAINER, Blobs
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import Subscription
from shared.values.graph_errors import GraphError

if TYPE_CHECKING:
    from shared.call_records.listing import CallRecords

LEAST_TIME: Final = timedelta(seconds=20)
"""The time that a run gets even where renewal has used up its own."""

_CONFLICTS: Final = 10
_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backfill:
    """Finds and fills gaps of callRecords subscriptions. Doing it twice does no harm: an event keeps its id."""

    blobs: Blobs
    raw_messages: RawMessages
    records: "CallRecords"
    clock: Clock

    async def observe(self, subscriptions: Iterable[Subscription]) -> None:
        """Take note of callRecords subscriptions that are alive now, and of the gaps before them.

        Raises:
            UnavailableError: storage did not answer.
        """
        now = self.clock.now()
        slots = asyncio.Semaphore(_AT_ONCE)

        async def note(subscription: Subscription) -> None:
            async with slots:
                coverage = await self._change(subscription, lambda known: observed(known, subscription.id, now))
            if coverage is not None and any(gap.until == now for gap in coverage.gaps):
                _log.warning(
                    "call records may have been missed: tenant=%s subscription=%s",
                    subscription.tenant_id,
                    subscription.id,
                )

        await asyncio.gather(*map(note, subscriptions))

    async def missed(self, subscription: Subscription) -> None:
        """Take note that Graph has said that notifications of a subscription were missed.

        Raises:
            UnavailableError: storage did not answer.
        """
        now = self.clock.now()
        await self._change(subscription, lambda known: missed(known or Coverage(subscription.id, now), now))

    async def run(self, subscriptions: Sequence[Subscription], deadline: datetime) -> list[Subscription]:
        """Search the gaps, each subscription's in its share of the time; the next run goes on with the rest.

        Returns:
            The subscriptions that have no gap left.

        Raises:
            UnavailableError: storage did not answer.
        """
        without_gaps = []
        for place, subscription in enumerate(subscriptions):
            now = self.clock.now()
            share = (deadline - now) / (len(subscriptions) - place)
            try:
                if await self._fill(subscription, now + share):
                    without_gaps.append(subscription)
            except (UnavailableError, GraphError) as error:
                _log.error("backfill: tenant=%s reason=%s: %s", subscription.tenant_id, error.reason, error)
        return without_gaps

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
        """What is known of a subscription, and its version; None for either where there is none."""
        name = _name(subscription)
        version = await self.blobs.get_version(STATE_CONTAINER, name)
        if version is not None:
            return read_state(Coverage, version.data, name), version.etag
        if subscription.spelling is None:
            return None, None
        # An earlier version named the blob after Graph's spelling of the resource: what is known is carried over.
        former = _name(replace(subscription, resource=subscription.spelling))
        data = await self.blobs.get(STATE_CONTAINER, former)
        return (None if data is None else read_state(Coverage, data, former)), None

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
    """The name of a subscription's blob, the same for every spelling of its resource."""
    resource = hashlib.sha256(resource_key(subscription.resource).encode()).hexdigest()[:16]
    return f"{folder}/{subscription.tenant_id}/{resource}.json"


def _name(subscription: Subscription) -> str:
    return state_name("call-records", subscription)


def read_state[State](shape: type[State], data: bytes, name: str) -> State | None:
    """What a blob holds; None where that cannot be read."""
    try:
        return msgspec.json.decode(data, type=shape)
    except (ValueError, RecursionError):
        _log.error("the blob %s/%s cannot be read: what is missing is searched for anew", STATE_CONTAINER, name)
        return None
