"""How Switchboard is doing, for people: what `GET /api/status` shows, as values. It holds ids and counts alone."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.notifications.poison import POISON_QUEUES
from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.operations.activity import MINUTES, recent_activity
from shared.operations.checks import (
    MAX_QUARANTINED,
    AppChecks,
    Check,
    check_quarantine,
    check_reception,
    check_renewal,
    worst,
)
from shared.operations.health import Health
from shared.operations.limits import NEAR_ITS_END, POISON, RAW_MESSAGES, Level, Limit
from shared.subscriptions.renewal_state import KeptSubscription
from shared.telemetry import ExpressOutcome, Happening
from shared.values.errors import UnavailableError
from shared.values.resources import CATALOGUE

_SECONDS: Final = 5.0  # for each section
_OUR_QUEUES: Final = {**RAW_MESSAGES, **dict.fromkeys(POISON_QUEUES, POISON)}
_DELAYED: Final = frozenset(ExpressOutcome) - {ExpressOutcome.DONE, ExpressOutcome.MANY, ExpressOutcome.LARGE}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a section could not be made: what it would tell of cannot be known to be well."""

    problem: str
    level: Level = Level.BAD


class SubscriptionRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A subscription. `life_left` is from 0 to 1, of the life that Graph granted; else, of the longest of its kind."""

    id: str
    kind: str
    expires: datetime
    remaining_seconds: float
    life_left: float
    level: Level


class Subscriptions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All of the last renewal run's by kind, and those nearest to their end one by one.

    `previous_client_state` counts the live ones that still carry it; it is of all of them if the `lists_whole`.
    """

    level: Level
    desired: int
    live: int
    previous_client_state: int
    lists_whole: bool
    by_kind: dict[str, int]
    nearest: list[SubscriptionRow]


class KeptRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A subscription that Graph does not renew: every run tries again, and it is replaced from a time on."""

    id: str
    kind: str
    reason: str
    replaced_from: datetime | None
    expires: datetime


class UnwantedRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A subscription that nobody desires; `waits` is why it stays until an operator confirms it, None if it goes."""

    id: str
    kind: str
    since: datetime
    waits: str | None


class Unwanted(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What nobody desires any more: how many `waiting` for a confirmation, and those that have waited longest."""

    count: int
    waiting: int
    listed: list[UnwantedRow]


class Renewal(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The last renewal run that came to its end; `trouble` is what is wrong with the timer, or has happened since."""

    level: Level
    trouble: str | None
    finished: datetime
    seconds_ago: float
    by: str
    outcomes: dict[str, int]
    failures: list[str]
    kept: list[KeptRow]
    unwanted: Unwanted


class QueueRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A queue. `depth` is what storage estimates; `oldest_seconds` is the age of the message at the front, if any."""

    name: str
    depth: int
    oldest_seconds: float | None
    level: Level


class Queues(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The queues, in the order in which a notification passes them."""

    level: Level
    queues: list[QueueRow]


class Quarantine(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is parked, by reason; counting stops at `MAX_QUARANTINED`."""

    level: Level
    total: int
    complete: bool
    by_reason: dict[str, int]


class Events(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """For each type, how many events were written in each of the last whole minutes, the oldest first.

    Of all these minutes together: notifications that were `received` and `refused`, the latter by reason, and
    `emergencies` by what became of their messages where they were received. `minutes` is how many of them there were
    since the app first ran: a mean is over so many.
    """

    level: Level
    minutes: int
    by_minute: dict[str, list[int]]
    received: int
    refused: dict[str, int]
    emergencies: dict[str, int]


class Checks(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What health is made of, half a minute old at the most."""

    level: Level
    checks: Mapping[str, Check]


class Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything, at one time."""

    at: datetime
    level: Level
    health: Checks | Problem
    subscriptions: Subscriptions | Problem
    renewal: Renewal | Problem
    queues: Queues | Problem
    quarantine: Quarantine | Problem
    events: Events | Problem


@dataclass(frozen=True, slots=True)
class StatusReader:
    """Puts the status together, from what the checks look at too."""

    checks: AppChecks
    health: Health

    async def read(self) -> Status:
        """Read all of it at once. What does not answer in time is shown as such, beside all that does."""
        health, subscriptions, renewal, queues, quarantine, events = await asyncio.gather(
            _guard(self._health()),
            _guard(self._subscriptions()),
            _guard(self._renewal()),
            _guard(self._queues()),
            _guard(self._quarantine()),
            _guard(self._events()),
        )
        levels = [section.level for section in (health, subscriptions, renewal, queues, quarantine, events)]
        return Status(
            at=self.checks.now(),
            level=worst(levels),
            health=health,
            subscriptions=subscriptions,
            renewal=renewal,
            queues=queues,
            quarantine=quarantine,
            events=events,
        )

    async def _health(self) -> Checks:
        report = await self.health.report()
        return Checks(level=worst(check.level for check in report.checks.values()), checks=report.checks)

    async def _subscriptions(self) -> Subscriptions | Problem:
        renewals, now = await self.checks.renewals.latest(), self.checks.now()
        state = renewals.last
        if state is None:
            return Problem(problem=check_renewal(renewals, now).finding)
        rows = []
        for subscription in state.subscriptions:
            left = (subscription.expires - now).total_seconds()
            kind = CATALOGUE.get(subscription.kind)
            life = subscription.life if subscription.life or kind is None else kind.max_lifetime.total_seconds()
            share = min(max(left / life, 0.0), 1.0) if life else 0.0
            level = Level.BAD if left <= 0 else Level.ATTENTION if share < NEAR_ITS_END else Level.WELL
            rows.append(
                SubscriptionRow(
                    id=subscription.id,
                    kind=subscription.kind,
                    expires=subscription.expires,
                    remaining_seconds=left,
                    life_left=share,
                    level=level,
                )
            )
        levels = [row.level for row in rows]
        if state.live < state.desired:
            levels.append(Level.ATTENTION)
        return Subscriptions(
            level=worst(levels),
            desired=state.desired,
            live=state.live,
            previous_client_state=state.previous_client_state,
            lists_whole=state.lists_whole,
            by_kind=dict(state.by_kind),
            nearest=rows,
        )

    async def _renewal(self) -> Renewal | Problem:
        renewals, now = await self.checks.renewals.latest(), self.checks.now()
        state, check = renewals.last, check_renewal(renewals, now)
        if state is None:
            return Problem(problem=check.finding)
        return Renewal(
            level=check.level,
            # Failures, what has lapsed, and what waits for a confirmation are shown one by one.
            trouble=check.finding if check.reason not in {None, "failures", "lapsed", "waiting"} else None,
            finished=state.finished,
            seconds_ago=(now - state.finished).total_seconds(),
            by=state.by,
            outcomes=dict(state.outcomes),
            failures=list(state.failures),
            kept=[_kept_row(kept) for kept in state.kept],
            unwanted=Unwanted(
                count=state.unwanted_count,
                waiting=state.waiting,
                listed=[
                    UnwantedRow(id=entry.id, kind=entry.kind, since=entry.since, waits=entry.waits)
                    for entry in state.unwanted
                ],
            ),
        )

    async def _queues(self) -> Queues:
        left = await self.checks.poison_ages.oldest()
        limits = {**_OUR_QUEUES, **self.checks.consumer_limits}
        rows = await asyncio.gather(*(self._queue(queue, limit, left.get(queue)) for queue, limit in limits.items()))
        return Queues(level=worst(row.level for row in rows), queues=list(rows))

    async def _queue(self, queue: str, limit: Limit, left: datetime | None) -> QueueRow:
        depth, front = await asyncio.gather(self.checks.queues.count(queue), self.checks.queues.oldest(queue))
        since = min((moment for moment in (front, left) if moment is not None), default=None)
        age = None if since is None else self.checks.now() - since
        return QueueRow(
            name=queue,
            depth=depth,
            oldest_seconds=None if age is None else max(age.total_seconds(), 0.0),
            level=Level.WELL if age is None else limit.level(age),
        )

    async def _quarantine(self) -> Quarantine:
        reasons: Counter[str] = Counter()
        async for blob in self.checks.blobs.list(QUARANTINE_CONTAINER):
            reasons[blob.metadata.get("reason", "?")] += 1
            if reasons.total() >= MAX_QUARANTINED:
                break
        total = reasons.total()
        return Quarantine(
            level=check_quarantine(total).level,
            total=total,
            complete=total < MAX_QUARANTINED,
            by_reason=dict(reasons.most_common()),
        )

    async def _events(self) -> Events:
        now = self.checks.now()
        activity, runs = await asyncio.gather(recent_activity(self.checks.blobs, now), self.checks.runs.latest())
        totals = {
            happening: {word: sum(counts) for word, counts in words.items()} for happening, words in activity.items()
        }
        received, refused = sum(totals[Happening.RECEIVED].values()), totals[Happening.REFUSED]
        delayed = _DELAYED & totals[Happening.EXPRESS].keys()
        age = MINUTES if runs is None else (now - runs.since) // timedelta(minutes=1)
        written = activity[Happening.WRITTEN]
        busy = (place for counts in written.values() for place, count in enumerate(counts) if count)
        first = min(busy, default=MINUTES)
        return Events(
            level=worst((check_reception(received, refused).level, Level.ATTENTION if delayed else Level.WELL)),
            minutes=min(max(age, MINUTES - first, 1), MINUTES),
            by_minute=written,
            received=received,
            refused=refused,
            emergencies=totals[Happening.EXPRESS],
        )


def _kept_row(kept: KeptSubscription) -> KeptRow:
    return KeptRow(
        id=kept.id, kind=kept.kind, reason=kept.reason, replaced_from=kept.replaced_from, expires=kept.expires
    )


async def _guard[Section](section: Awaitable[Section]) -> Section | Problem:
    """A section, or why there is none."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await section
    except UnavailableError as error:
        return Problem(problem=f"storage does not answer ({error.reason})")
    except TimeoutError:
        return Problem(problem="storage does not answer in time")
