"""When each subscription was there, when it was not, and whether that can be excused."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from dev.simulator.clock import Clock
from dev.simulator.subscriptions import Store, Subscription
from shared.call_records.coverage import resource_key

type Cause = Literal["new", "lapsed", "removed", "deleted", "refused", "old certificate"]
type Disturbance = Literal["graph", "timers", "vault", "storage", "renewals", "creation", "reads", "deletion", "lists"]

TWO_RUNS = timedelta(minutes=12)
"""Two runs of a timer of five minutes, and the time that they take."""

THREE_RUNS = timedelta(minutes=15)

SKEW = timedelta(minutes=5)

MOST = 2
"""Subscriptions for one thing, of those that can be known of: an old one and its successor."""

LAST_RESORT = 0.75
"""The part of its life after which what PATCH does not bring up to date is deleted before its successor is there."""

_AGAINST_RENEWAL: Final[tuple[Disturbance, ...]] = ("graph", "timers", "renewals")
_AGAINST_CREATION: Final[tuple[Disturbance, ...]] = ("graph", "timers", "storage", "creation", "reads")
_AGAINST_REPLACEMENT: Final[tuple[Disturbance, ...]] = (*_AGAINST_CREATION, "deletion")
_AGAINST_REMOVAL: Final[tuple[Disturbance, ...]] = (*_AGAINST_REPLACEMENT, "renewals", "lists", "vault")

LONGEST_UNWANTED = timedelta(days=6)
"""An hour, anew after whatever stood in the way, two days until an operator looks, and the longest life of what has an
old client state."""


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` up to `end`."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Absence:
    """A time in which something that ought to be so was not.

    `due` is when a renewal could first have averted it, `last` when only a successor could.
    """

    tenant_id: str
    kind: str
    resource: str
    cause: Cause
    span: Span
    due: datetime | None = None
    last: datetime | None = None
    patience: timedelta | None = None  # how long it may last without anything standing in the way


@dataclass(slots=True)
class _Wanted:
    tenant_id: str
    kind: str
    resource: str
    since: datetime
    until: datetime | None = None
    live: set[str] = field(default_factory=set)
    absent_since: tuple[datetime, Cause, datetime | None, datetime | None] | None = None
    stale_since: datetime | None = None
    longest_life: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one kind: times added up over its subscriptions."""

    wanted: timedelta
    absent: timedelta
    reachable: timedelta
    absent_while_reachable: timedelta
    longest_while_reachable: timedelta
    causes: Counter[Cause]

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(
            self.wanted + other.wanted,
            self.absent + other.absent,
            self.reachable + other.reachable,
            self.absent_while_reachable + other.absent_while_reachable,
            max(self.longest_while_reachable, other.longest_while_reachable),
            self.causes + other.causes,
        )


class Ledger:
    """Hears of every subscription that comes and goes, and of every disturbance."""

    def __init__(
        self,
        clock: Clock,
        is_beyond_knowing: Callable[[str, bool], bool] = lambda *_: False,
        is_unrecognisable: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Take a clock, and what says of an id whether nobody could know that there is such a subscription, or whose.

        Args:
            clock: what time it is.
            is_beyond_knowing: no list shows it, and it is not remembered; it is told whether lists cannot be read.
            is_unrecognisable: it is not remembered, and of what Graph tells nobody knows whether it delivers.
        """
        self._clock = clock
        self._is_unrecognisable = is_unrecognisable
        self._is_beyond_knowing = is_beyond_knowing
        self._wanted: dict[tuple[str, str], _Wanted] = {}
        self._unwanted: dict[tuple[str, str], _Wanted] = {}  # and still there
        self._closed: list[_Wanted] = []
        self._known: dict[str, tuple[Subscription, datetime]] = {}
        self._disturbances: defaultdict[tuple[Disturbance, str | None], list[Span]] = defaultdict(list)
        self._certificate: str | None = None
        self._states: tuple[str, ...] = ()
        self.absences: list[Absence] = []
        self.surplus: list[str] = []
        self.rash: list[str] = []
        self.kept: list[str] = []
        self.journal: list[tuple[datetime, str, str]] = []
        self.came_and_went = 0
        self.without_turn = 0  # runs that go on and wait for no other: each may make a successor of its own

    # What the world tells

    def want(self, kind: str, resource: str, tenant_id: str = "") -> None:
        now, key = self._clock.now(), (tenant_id, resource_key(resource))
        wanted = self._wanted[key] = _Wanted(tenant_id, kind, resource, now)
        before = self._unwanted.pop(key, None)
        if before is not None:
            self._end_unwanted(before)
            wanted.live = {
                identity for identity in before.live if self._known[identity][0].client_state in self._states
            }
        if not wanted.live:
            wanted.absent_since = (now, "new", None, None)

    def want_no_more(self, resource: str, tenant_id: str = "") -> None:
        key = (tenant_id, resource_key(resource))
        wanted = self._wanted.pop(key)
        self._close(wanted)
        if wanted.live:
            self._unwanted[key] = replace(wanted, since=self._clock.now())

    def is_wanted(self, resource: str, tenant_id: str) -> bool:
        return (tenant_id, resource_key(resource)) in self._wanted

    def disturb(self, disturbance: Disturbance, start: datetime, end: datetime, tenant_id: str | None = None) -> None:
        """Something stood in the way, in one tenant or, without one, in all."""
        self._disturbances[disturbance, tenant_id].append(Span(start, end))

    def accept(self, states: tuple[str, ...]) -> None:
        """From now on notifications are taken with these client states only."""
        self._states = states
        for one, _ in self._known.values():
            if one.client_state not in states:
                self._lose(one, self._clock.now(), "refused")

    def rotate(self, certificate_id: str) -> None:
        """From now on rich subscriptions ought to move to this certificate."""
        self._certificate = certificate_id
        for wanted in self._wanted.values():
            if self._stale(wanted) and wanted.stale_since is None:
                wanted.stale_since = self._clock.now()

    def finish(self) -> None:
        for wanted in self._wanted.values():
            self._close(wanted)
        self._wanted.clear()
        for unwanted in self._unwanted.values():
            self._end_unwanted(unwanted)

    # What the store tells

    def appeared(self, one: Subscription) -> None:
        self._note("+", one)
        self.came_and_went += 1
        self._known[one.id] = one, self._clock.now()
        wanted = self._wanted.get((one.tenant_id, resource_key(one.resource)))
        if wanted is None or one.client_state not in self._states:
            return
        wanted.live.add(one.id)
        known = [identity for identity in wanted.live if not self._is_unknown(identity)]
        if len(known) > MOST + self.without_turn:
            self.surplus.append(f"{wanted.kind} {wanted.resource}: {len(known)} of it at {self._clock.now()}")
        wanted.longest_life = max(wanted.longest_life, one.expires - self._clock.now())
        self._end_absence(wanted)
        self._end_staleness(wanted)

    def changed(self, one: Subscription) -> None:
        self._note("~", one)
        before, granted = self._known[one.id]
        # What is sent back to Graph has lost its fractions, or is raised to Graph's least where clocks differ.
        is_grant = abs(one.expires - before.expires) >= SKEW
        self._known[one.id] = one, self._clock.now() if is_grant else granted
        wanted = self._wanted.get((one.tenant_id, resource_key(one.resource)))
        if wanted is not None:
            wanted.longest_life = max(wanted.longest_life, one.expires - self._clock.now())
            self._end_staleness(wanted)

    def vanished(self, one: Subscription, *, removed: bool) -> None:
        self._note("-", one)
        self.came_and_went += 1
        if one.expires <= self._clock.now():
            self._lose(one, one.expires, "lapsed")
        else:
            self._lose(one, self._clock.now(), "removed" if removed else "deleted")
        key = (one.tenant_id, resource_key(one.resource))
        if (unwanted := self._unwanted.get(key)) is not None:
            unwanted.live.discard(one.id)
            if not unwanted.live:
                self._end_unwanted(self._unwanted.pop(key))
        del self._known[one.id]

    # What comes of it

    def violations(self) -> list[str]:
        """What cannot be excused: two undisturbed runs of the timer would have put it right, or kept it right."""
        found = [*self.surplus, *self.rash, *self.kept]
        for absence in self.absences:
            longest = self._longest_calm(absence, absence.span, _against(absence))
            if longest > (TWO_RUNS if absence.patience is None else absence.patience + TWO_RUNS):
                found.append(f"{_told(absence)}: for {longest} of it nothing stood in the way")
            for since, what, disturbances in (
                (absence.due, "renewal", _AGAINST_RENEWAL),
                (absence.last, "replacement", _with_vault(absence.kind, _AGAINST_REPLACEMENT)),
            ):
                if since is not None and since + 2 * SKEW < absence.span.start:
                    calm = self._longest_calm(absence, Span(since + 2 * SKEW, absence.span.start), disturbances)
                    if calm > TWO_RUNS:
                        found.append(f"{_told(absence)}: though for {calm} before nothing stood in the way of {what}")
                        break
        return found

    def figures(self) -> dict[str, Figures]:
        wanted: defaultdict[str, timedelta] = defaultdict(timedelta)
        reachable: defaultdict[str, timedelta] = defaultdict(timedelta)
        for one in self._closed:
            assert one.until is not None
            span = Span(one.since, one.until)
            wanted[one.kind] += span.length
            reachable[one.kind] += self._calm_time(one, span)
        absent: defaultdict[str, timedelta] = defaultdict(timedelta)
        unexcused: defaultdict[str, timedelta] = defaultdict(timedelta)
        longest: defaultdict[str, timedelta] = defaultdict(timedelta)
        causes: defaultdict[str, Counter[Cause]] = defaultdict(Counter)
        for absence in self.absences:
            causes[absence.kind][absence.cause] += 1
            if absence.cause == "old certificate":
                continue  # it is there, and what it brings can be decrypted
            absent[absence.kind] += absence.span.length
            unexcused[absence.kind] += self._calm_time(absence, absence.span)
            calm = self._longest_calm(absence, absence.span, _against(absence))
            longest[absence.kind] = max(longest[absence.kind], calm)
        return {
            kind: Figures(wanted[kind], absent[kind], reachable[kind], unexcused[kind], longest[kind], causes[kind])
            for kind in sorted(wanted)
        }

    def _lose(self, one: Subscription, when: datetime, cause: Cause) -> None:
        _, granted = self._known[one.id]
        wanted = self._wanted.get((one.tenant_id, resource_key(one.resource)))
        if wanted is None or one.id not in wanted.live:
            return
        wanted.live.remove(one.id)
        if not wanted.live:
            due = last = None
            if cause == "lapsed" and not self._is_unknown(one.id):
                due = None if self._is_of_yesterday(one) else granted + (one.expires - granted) / 2
                last = granted + (one.expires - granted) * LAST_RESORT
            wanted.absent_since = when, cause, due, last
            # Its life was measured by one clock and what is left of it by another; each may be wrong.
            life, left = one.expires - granted + SKEW, one.expires - when
            at_last = max(life * (1 - LAST_RESORT), THREE_RUNS)
            if cause == "deleted" and left > at_last + SKEW and not self._is_unrecognisable(one.id):
                self.rash.append(f"{wanted.kind} {wanted.resource}: deleted alone at {when}, with {left} left")
            self._end_staleness(wanted, when)

    def _is_unknown(self, identity: str) -> bool:
        now, tenant_id = self._clock.now(), self._known[identity][0].tenant_id
        unread = (span for whose in (None, tenant_id) for span in self._disturbances.get(("reads", whose), ()))
        return self._is_beyond_knowing(identity, any(span.start <= now <= span.end for span in unread))

    def _end_unwanted(self, unwanted: _Wanted) -> None:
        """Judge for how long something was kept that nobody desired."""
        span = Span(unwanted.since, self._clock.now())
        calm = sum((part.length for part in self._calm(unwanted.tenant_id, span, _AGAINST_REMOVAL)), timedelta(0))
        if calm > LONGEST_UNWANTED:
            self.kept.append(f"{unwanted.kind} {unwanted.resource}: kept for {calm} though nobody desired it")

    def _is_of_yesterday(self, one: Subscription) -> bool:
        """Whether only a successor has the current secret or certificate."""
        secret = one.client_state != (self._states or (one.client_state,))[0]
        return secret or one.encryption_certificate_id not in {None, self._certificate}

    def _end_absence(self, wanted: _Wanted) -> None:
        if wanted.absent_since is not None:
            since, cause, due, last = wanted.absent_since
            span = Span(since, self._clock.now())
            self.absences.append(Absence(wanted.tenant_id, wanted.kind, wanted.resource, cause, span, due, last))
            wanted.absent_since = None

    def _stale(self, wanted: _Wanted) -> bool:
        ids = {self._known[identity][0].encryption_certificate_id for identity in wanted.live}
        return bool(ids - {None, self._certificate}) and self._certificate not in ids

    def _end_staleness(self, wanted: _Wanted, when: datetime | None = None) -> None:
        if wanted.stale_since is not None and not self._stale(wanted):
            span = Span(wanted.stale_since, when or self._clock.now())
            # Where PATCH does not take it and Graph holds no two, the old one stays until it is nearly over; and as
            # long again if it was renewed meanwhile, because Graph asked for it or nothing could be made.
            patience = 2 * LAST_RESORT * wanted.longest_life
            self.absences.append(
                Absence(wanted.tenant_id, wanted.kind, wanted.resource, "old certificate", span, patience=patience)
            )
            wanted.stale_since = None

    def _close(self, wanted: _Wanted) -> None:
        wanted.until = self._clock.now()
        self._end_absence(wanted)
        self._closed.append(wanted)

    def _calm(self, tenant_id: str, span: Span, disturbances: Iterable[Disturbance]) -> Iterator[Span]:
        """The parts of a span without any of these disturbances."""
        start = span.start
        all_of_them = sorted(
            (
                one
                for disturbance in disturbances
                for whose in (None, tenant_id)
                for one in self._disturbances.get((disturbance, whose), ())
                if one.end > span.start
            ),
            key=lambda one: one.start,
        )
        for disturbance in all_of_them:
            if disturbance.start >= span.end:
                break
            if disturbance.start > start:
                yield Span(start, disturbance.start)
            start = max(start, disturbance.end)
        if start < span.end:
            yield Span(start, span.end)

    def _longest_calm(self, of: Absence, span: Span, disturbances: Iterable[Disturbance]) -> timedelta:
        return max((part.length for part in self._calm(of.tenant_id, span, disturbances)), default=timedelta(0))

    def _calm_time(self, of: Absence | _Wanted, span: Span) -> timedelta:
        return sum((part.length for part in self._calm(of.tenant_id, span, ("graph",))), timedelta(0))

    def _note(self, what: str, one: Subscription) -> None:
        self.journal.append((self._clock.now(), what, f"{one.rule.name} {one.tenant_id} {one.id} {one.expires}"))


def _with_vault(kind: str, disturbances: tuple[Disturbance, ...]) -> tuple[Disturbance, ...]:
    """Without a certificate none but a basic subscription can be made."""
    return disturbances if kind == "callRecords" else (*disturbances, "vault")


def _against(absence: Absence) -> tuple[Disturbance, ...]:
    """What excuses that it lasts."""
    if absence.cause == "old certificate":
        return (*_with_vault(absence.kind, _AGAINST_REPLACEMENT), "renewals")
    return _with_vault(absence.kind, _AGAINST_CREATION)


def _told(absence: Absence) -> str:
    return f"{absence.kind} {absence.resource}: {absence.cause} from {absence.span.start} to {absence.span.end}"


class WatchedStore(Store):
    """Tells the ledger what happens to it."""

    def __init__(self, clock: Clock, ledger: Ledger) -> None:
        super().__init__(clock)
        self._ledger = ledger
        self._removing = False

    def add(self, subscription: Subscription, *, quota: int | None, refuse_duplicates: bool) -> None:
        super().add(subscription, quota=quota, refuse_duplicates=refuse_duplicates)
        self._ledger.appeared(subscription)

    def change(self, subscription_id: str, update: object) -> Subscription | None:
        changed = super().change(subscription_id, update)  # type: ignore[arg-type]
        if changed is not None:
            self._ledger.changed(changed)
        return changed

    def lose(self, subscription_id: str) -> None:
        """Graph forgets one."""
        self._removing = True
        try:
            self.remove(subscription_id)
        finally:
            self._removing = False

    def _drop(self, subscription: Subscription) -> None:
        super()._drop(subscription)
        self._ledger.vanished(subscription, removed=self._removing)
