"""How renewal stands, kept where every worker can read it; and the one way to end a run, whoever asked for it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from shared.storage.ports import STATE_CONTAINER, Blobs
from shared.subscriptions.run_report import RenewalReport
from shared.subscriptions.unwanted import Unwanted
from shared.telemetry import Life, Telemetry
from shared.values.errors import MalformedInputError, SwitchboardError, UnavailableError
from shared.values.graph import Subscription
from shared.values.resources import CATALOGUE
from shared.values.times import Moment

_NAME: Final = "renewal.json"
_BEGUN: Final = "renewal-begun.json"
_FAILED: Final = "renewal-failed.json"

_log = logging.getLogger(__name__)

_LISTED: Final = 50  # one by one; ten thousand would be a megabyte to be read by everybody who asks how things are
_UNKNOWN_KIND: Final = "unknown"
_LONGEST_RUN: Final = timedelta(minutes=12)  # host.json's functionTimeout: then the host ends its worker


class SubscriptionState(msgspec.Struct, frozen=True, kw_only=True):
    """A live subscription; `kind` is the catalogue's key, `life` the seconds that Graph granted."""

    id: str
    kind: str
    expires: Moment
    life: float | None = None


class KeptSubscription(msgspec.Struct, frozen=True, kw_only=True):
    """One that Graph does not renew, or not with what is current: every run tries again.

    It is replaced from `replaced_from` on, unless nobody desires it (None), and ends at `expires`.
    """

    id: str
    kind: str
    reason: str
    replaced_from: Moment | None
    expires: Moment


class UnwantedSubscription(msgspec.Struct, frozen=True, kw_only=True):
    """One that nobody desires; `waits` is why it stays until an operator confirms that it goes; None: it just goes."""

    id: str
    kind: str
    since: Moment
    waits: str | None = None


class RenewalState(msgspec.Struct, frozen=True, kw_only=True):
    """The last run that came to its end.

    `nearest_expiry` is when the subscription nearest to its end ends; None where there is none. `by` is who asked for
    the run. `lists_whole`: Graph's lists were read to their ends, and so the counts are of all that there is.
    """

    finished: Moment
    desired: int
    live: int
    nearest_expiry: Moment | None
    outcomes: Mapping[str, int]
    failures: tuple[str, ...]  # "{kind}: {reason} x {count}"; ids and names stay out of it
    by_kind: Mapping[str, int] = {}  # live ones
    subscriptions: tuple[SubscriptionState, ...] = ()  # those nearest to their end
    by: str = "timer"
    previous_client_state: int = 0  # live ones that still carry it
    lists_whole: bool = True
    kept: tuple[KeptSubscription, ...] = ()  # those nearest to their end
    unwanted: tuple[UnwantedSubscription, ...] = ()  # those that wait for a confirmation first
    unwanted_count: int = 0
    waiting: int = 0  # of them, those that wait for a confirmation


class FailedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that could do nothing at all."""

    at: Moment
    reason: str
    by: str = "timer"


class BegunRun(msgspec.Struct, frozen=True, kw_only=True):
    """The last run that began; `first` is when the first began of those after which none has ended."""

    at: Moment
    by: str = "timer"
    first: Moment | None = None

    @property
    def since(self) -> datetime:
        return self.first or self.at


@dataclass(frozen=True, slots=True)
class RenewalTrouble:
    """What is wrong with renewal as a whole; `reason` is a short, stable word."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Renewals:
    """How renewal stands: the last run that came to its end, and what has happened since then."""

    last: RenewalState | None
    failed: FailedRun | None = None
    begun: BegunRun | None = None

    def trouble(self, now: datetime) -> RenewalTrouble | None:
        """Why nothing is known to be well: a run that can have ended no more, or that could do nothing at all."""
        begun, failed = self.begun, self.failed
        if begun is not None and now - begun.since > _LONGEST_RUN:
            text = f"a run (by {begun.by}) began at {begun.since:%H:%M} UTC, and none has come to its end since"
            return RenewalTrouble("run-without-end", text)
        if failed is not None:
            text = f"the run of {failed.at:%H:%M} UTC (by {failed.by}) could do nothing at all: {failed.reason}"
            return RenewalTrouble("run-failed", text)
        return None


class RenewalStates:
    """Keeps the state of the last run."""

    def __init__(self, blobs: Blobs, now: Callable[[], datetime]) -> None:
        self._blobs = blobs
        self._now = now

    async def begin(self, by: str) -> None:
        """Note that a run begins: one that never ends is to be noticed.

        Raises:
            UnavailableError: storage did not take it.
        """
        now, before = self._now(), (await self.latest()).begun
        begun = BegunRun(at=now, by=by, first=now if before is None else before.since)
        await self._blobs.put(STATE_CONTAINER, _BEGUN, msgspec.json.encode(begun))

    async def fail(self, by: str, reason: str) -> None:
        """Note that a run could do nothing; the counts of the one before stay.

        Raises:
            UnavailableError: storage did not take it.
        """
        failed = FailedRun(at=self._now(), reason=reason, by=by)
        await self._blobs.put(STATE_CONTAINER, _FAILED, msgspec.json.encode(failed))

    async def save(self, report: RenewalReport, by: str) -> None:
        """Keep what a run for all tenants found; one for some of them does not know what there is.

        Raises:
            UnavailableError: storage did not take it.
        """
        if not report.whole:
            return
        state = RenewalState(
            finished=report.finished,
            desired=report.desired,
            live=report.live,
            nearest_expiry=None if report.nearest is None else report.finished + report.nearest,
            outcomes={str(outcome): count for outcome, count in report.outcomes.items()},
            by_kind=Counter(_kind(one) for one in report.subscriptions),
            subscriptions=tuple(
                SubscriptionState(
                    id=one.id,
                    kind=_kind(one),
                    expires=one.expires,
                    life=None if one.life is None else one.life.total_seconds(),
                )
                for one in report.subscriptions[:_LISTED]
            ),
            failures=tuple(f"{found.what}: {found.reason} x {found.count}" for found in report.failures),
            by=by,
            previous_client_state=report.previous_client_state,
            lists_whole=report.lists_whole,
            kept=tuple(
                KeptSubscription(
                    id=kept.subscription.id,
                    kind=_kind(kept.subscription),
                    reason=kept.reason,
                    replaced_from=kept.replaced_from,
                    expires=kept.subscription.expires,
                )
                for kept in report.kept[:_LISTED]
            ),
            unwanted=tuple(
                UnwantedSubscription(id=identity, kind=entry.kind, since=entry.since, waits=entry.waits)
                for identity, entry in _waiting_first(report.unwanted)[:_LISTED]
            ),
            unwanted_count=len(report.unwanted),
            waiting=report.waiting,
        )
        await self._blobs.put(STATE_CONTAINER, _NAME, msgspec.json.encode(state))

    async def latest(self) -> Renewals:
        """The last run's state, and what has happened since.

        Raises:
            UnavailableError: storage did not answer.
        """
        last, failed, begun = await asyncio.gather(
            self._read(_NAME, RenewalState), self._read(_FAILED, FailedRun), self._read(_BEGUN, BegunRun)
        )
        if failed is not None and last is not None and failed.at <= last.finished:
            failed = None
        ends = [*([] if last is None else [last.finished]), *([] if failed is None else [failed.at])]
        if begun is not None and any(end >= begun.since for end in ends):
            begun = None
        return Renewals(last, failed, begun)

    async def has_live(self, queue: str) -> bool:
        """Whether the last run has seen a live subscription whose notifications go to that raw queue.

        Raises:
            UnavailableError: storage did not answer.
        """
        last = await self._read(_NAME, RenewalState)
        kinds = (key for key, kind in CATALOGUE.items() if kind.raw_queue == queue)
        return last is not None and any(last.by_kind.get(key, 0) > 0 for key in kinds)

    async def _read[T](self, name: str, kind: type[T]) -> T | None:
        """A blob's content; None where there is none, or none that can be read."""
        data = await self._blobs.get(STATE_CONTAINER, name)
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=kind)
        except (ValueError, RecursionError):
            _log.error("the blob %s/%s cannot be read, and counts as missing", STATE_CONTAINER, name)
            return None


class Runner(StrEnum):
    """Who asked for a run."""

    TIMER = "timer"
    LIFECYCLE = "lifecycle"
    OPERATOR = "operator"


class CallRecordCoverage(Protocol):
    """What notices gaps in call records, and fills them later; see `shared.call_records.backfill.Backfill`."""

    async def observe(self, subscriptions: Iterable[Subscription]) -> None: ...

    async def missed(self, subscription: Subscription) -> None: ...


@dataclass(slots=True)
class FinishedRuns:
    """Sees a run to its end: its figures, its state, its log, and what of call records it may have missed."""

    states: RenewalStates
    telemetry: Telemetry
    coverage: CallRecordCoverage
    _ended: RenewalReport | None = field(default=None, init=False)

    async def see(self, run: Awaitable[RenewalReport], by: Runner) -> RenewalReport:
        """Await a run, and end it.

        A state that storage does not take is logged: what the run did is done.

        Raises:
            UnavailableError: nothing at all could be done; the counts of the last good run are kept.
            MalformedInputError: the run is of no tenant of ours.
        """
        beginning = asyncio.create_task(self._begin(by))  # renewal does not wait for storage
        try:
            report = await run
        except MalformedInputError:
            raise
        except Exception as error:
            await self._fail(by, error.reason if isinstance(error, SwitchboardError) else "unexpected")
            raise
        finally:
            await beginning
        if report is self._ended:  # lifecycle notifications that come together share a run
            return report
        self._ended = report
        outcomes = {str(outcome): count for outcome, count in report.outcomes.items()}
        self.telemetry.renewed(outcomes, lives_by_kind(report) if report.whole else None)
        if report.whole and (report.waiting or report.reviewed):  # what is not known is not none
            self.telemetry.unconfirmed(report.waiting)
        for failure in () if by is Runner.OPERATOR else report.failures:  # whose command shows them itself
            _log.error(
                "renewal: kind=%s reason=%s count=%d: %s", failure.what, failure.reason, failure.count, failure.detail
            )
        _log.info(
            "renewal: by=%s desired=%d live=%d nearest=%s outcomes=%s",
            by,
            report.desired,
            report.live,
            report.nearest,
            " ".join(f"{outcome}={count}" for outcome, count in outcomes.items()),
        )
        if report.waiting:
            _log.warning("renewal: unwanted=%d waiting_for_confirmation=%d", len(report.unwanted), report.waiting)
        await self._keep(self.states.save(report, by))
        await self._keep(self.coverage.observe(report.call_records))
        return report

    async def _begin(self, by: Runner) -> None:
        if by is not Runner.LIFECYCLE:  # it is of one tenant, and its message comes again if it does not end
            await self._keep(self.states.begin(by))

    async def _fail(self, by: Runner, reason: str) -> None:
        self.telemetry.renewal_failed()
        if by is not Runner.LIFECYCLE:
            await self._keep(self.states.fail(by, reason))

    @staticmethod
    async def _keep(saving: Awaitable[None]) -> None:
        try:
            await saving
        except UnavailableError as error:
            _log.error("the state of renewal could not be kept: reason=%s", error.reason)


def lives_by_kind(report: RenewalReport) -> dict[str, Life]:
    """Of each kind, the subscription that comes first to a quarter of its life; of one that has none left, its end."""
    lives: dict[str, Life] = {}
    for subscription in report.subscriptions:
        if subscription.kind is not None:
            life = Life(subscription.expires, subscription.life or subscription.kind.max_lifetime)
            lives[subscription.kind.key] = min(
                life, lives.get(subscription.kind.key, life), key=lambda life: life.quarter
            )
    for failure in report.failures:
        if (kind := CATALOGUE.get(failure.kind or "")) is not None:
            lives.setdefault(kind.key, Life(report.finished, kind.max_lifetime))
    return lives


def _waiting_first(unwanted: Mapping[str, Unwanted]) -> list[tuple[str, Unwanted]]:
    return sorted(unwanted.items(), key=lambda item: (item[1].waits is None, item[1].since, item[0]))


def _kind(subscription: Subscription) -> str:
    return _UNKNOWN_KIND if subscription.kind is None else subscription.kind.key
