"""A year of Switchboard's subscriptions in a minute: `python -m tests.simulation.year --seed N [--seeds M] [--days D]`.

The real renewal and lifecycle services, the real Graph client but for its wire (see `in_process`), and the simulator's
rules of Graph and Entra ID run under one virtual clock, through whatever `weather` draws from the seed. What is written
down in `coverage` is judged at the end.
"""

import argparse
import asyncio
import heapq
import logging
import random as random_module
import sys
import uuid
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Final
from unittest.mock import patch

import msgspec

from dev.simulator.delivery import Courier
from dev.simulator.directory import Directory
from dev.simulator.faults import Fault, Faults
from dev.simulator.graph_api import GraphApi
from dev.simulator.rules import RULES
from dev.simulator.subscriptions import Subscription
from shared.subscriptions.actions import Outcome
from shared.subscriptions.desired import DesiredState, Group
from shared.subscriptions.endpoint import Endpoint
from shared.subscriptions.lifecycle import Lifecycle
from shared.subscriptions.memory import Memory, Remembered, held_until
from shared.subscriptions.planned import Desired
from shared.subscriptions.run import Renewal
from shared.subscriptions.run_report import Failure, RenewalReport
from shared.values import graph, resources
from shared.values.certificate import EncryptionCertificate
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph import EndpointValidationError, GraphError
from shared.values.resource_row import ResourceKind
from tests.keys import PAIR
from tests.simulation.coverage import SKEW, THREE_RUNS, Figures, Ledger, Nuisance, WatchedStore
from tests.simulation.in_process import Identities, InProcessClient, Latency, RememberingEntra, SignIn, Troubles
from tests.simulation.virtual_time import START, LoopClock, VirtualLoop
from tests.simulation.weather import Event, What, forecast
from tests.unit.model_graph import Known

TENANT: Final = "f69f5191-20ae-4093-8dae-3ec09edeb253"
NEIGHBOURS: Final = ("0a1b8c9d-20ae-4093-8dae-3ec09edeb253", "fb1b8c9d-20ae-4093-8dae-3ec09edeb253")
APP: Final = "7f4f3c3a-6a1e-4d0e-9a53-0d4f7a3c9b11"
OTHER_APP: Final = "11111111-6a1e-4d0e-9a53-0d4f7a3c9b11"
NOTIFICATION_URL: Final = "https://calls.example.com/api/notifications?code=key"
LIFECYCLE_URL: Final = "https://calls.example.com/api/lifecycleNotifications"
GROUP: Final = str(uuid.UUID(int=900))
GROUPS: Final = dict(zip(NEIGHBOURS, (str(uuid.UUID(int=901)), str(uuid.UUID(int=902))), strict=True))
TIMER: Final = 300.0  # seconds
PRESENCE: Final = 3600.0  # seconds that presence is granted, at most
_RETRIES_OF_A_QUEUE: Final = 5
_LONGEST_RUN: Final = 600.0  # seconds
_LONGEST_HOLD: Final = 2 * 160 * 60.0  # seconds; a single fault may befall the try at the end of the first
_HINDERED: Final[dict[What, tuple[Nuisance, ...]]] = {
    "refused renewals": ("renewals",),
    "refused reads": ("reads",),
    "refused creation": ("creation",),
    "refused deletion": ("deletion",),
    "only creation works": ("renewals", "reads", "deletion"),
    "trouble of a tenant": ("graph",),
    "slow reads of a tenant": ("reads",),
}
"""What does not go well while so."""

_A_RUN: Final = 10.0  # seconds: what becomes due while one goes on may be renewed by it
_ROUNDED: Final = timedelta(seconds=2)  # Graph tells whole seconds


def user(number: int) -> str:
    return str(uuid.UUID(int=number))


def _want(kind: ResourceKind, resource: str, *, rich: bool = True) -> Desired:
    return Desired(TENANT, kind, resource, rich)


def _of_neighbour(tenant_id: str) -> tuple[Desired, ...]:
    return (
        Desired(tenant_id, resources.CALL_RECORDS, "communications/callRecords", rich=False),
        Desired(tenant_id, resources.EMERGENCY_CALL_EVENTS, resources.emergency_path("Headquarters"), rich=True),
    )


_MEETING: Final = "https://teams.microsoft.com/l/meetup-join/19%3ameeting_{}%40thread.v2/0"
DESIRED: Final = (
    _want(resources.CALL_RECORDS, "communications/callRecords", rich=False),
    _want(resources.CALL_EVENTS, resources.call_events_path(user(1))),
    _want(resources.MEETING_CALL_EVENTS, resources.meeting_call_events_path(_MEETING.format(1))),
    _want(resources.MEETING_CALL_EVENTS, resources.meeting_call_events_path(_MEETING.format(2))),
    _want(resources.ONLINE_MEETING, resources.online_meeting_path(_MEETING.format(3))),
    _want(resources.EMERGENCY_CALL_EVENTS, resources.emergency_path("Headquarters")),
    _want(resources.PRESENCE, resources.presence_path((user(1), user(2)))),
)


@dataclass(frozen=True, slots=True)
class Year:
    """How a seed went."""

    seed: int
    days: float
    figures: dict[str, Figures]
    violations: list[str]
    runs: int
    ticks: int
    requests: int
    outcomes: Counter[Outcome]
    journal: list[tuple[datetime, str, str]]


@dataclass(slots=True)
class _Vault:
    """Key Vault's certificate, by version."""

    version: int = 1
    outages: int = 0

    @property
    def certificate_id(self) -> str:
        return f"switchboard/{self.version:032x}"

    async def current(self) -> EncryptionCertificate:
        await asyncio.sleep(0.02)
        if self.outages:
            raise UnavailableError("Key Vault", reason="key-vault-503")
        return EncryptionCertificate(self.certificate_id, PAIR.der_base64)


@dataclass(slots=True)
class _Source:
    """The desired state; its groups are read from Graph."""

    neighbours: tuple[str, ...]

    async def load(self) -> DesiredState:
        groups = [Group(TENANT, GROUP), *(Group(tenant_id, GROUPS[tenant_id]) for tenant_id in self.neighbours)]
        return DesiredState(self.subscriptions, tuple(groups))

    @property
    def subscriptions(self) -> tuple[Desired, ...]:
        return (*DESIRED, *(want for tenant_id in self.neighbours for want in _of_neighbour(tenant_id)))


@dataclass(slots=True)
class _Process:
    """One instance of the app, on a machine with a clock of its own."""

    skew: timedelta
    identities: Identities
    renewal: Renewal
    lifecycle: Lifecycle


@dataclass(slots=True)
class _World:
    seed: int
    days: float
    skip_routine: bool
    tenants: int | None = None
    source: _Source = field(init=False)
    troubles: Troubles = field(default_factory=Troubles)
    random: Random = field(init=False)
    clock: LoopClock = field(init=False)
    ledger: Ledger = field(init=False)
    faults: Faults = field(init=False)
    entra: RememberingEntra = field(init=False)
    api: GraphApi = field(init=False)
    store: WatchedStore = field(init=False)
    members: list[str] = field(init=False)
    vault: _Vault = field(default_factory=_Vault)
    known: Known = field(default_factory=Known)
    client_states: tuple[str, ...] = ("state-1",)
    process: _Process = field(init=False)
    sign_in: SignIn = field(init=False)
    latency: Latency = field(init=False)
    events: list[Event] = field(init=False)
    happened: int = 0
    changes: int = 0  # every event and every end of one
    ends: list[float] = field(default_factory=list)  # a heap: of what is going on
    telling: int = 0
    suspended_until: float = 0.0
    others: list[What] = field(default_factory=list)  # that run beside the next tick of the timer
    graph_outages: int = 0
    blind_lists: int = 0
    oddities: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    errands: set[asyncio.Task[None]] = field(default_factory=set)
    bystanders: list[Subscription] = field(default_factory=list)

    async def live(self) -> Year:
        self._begin()
        weather = asyncio.create_task(self._weather())
        length = self.days * 86400.0
        tick = 0.0
        before: _Trace | None = None
        while tick < length:
            await self._sleep_until(tick)
            trace, changes = None, self.changes
            if tick >= self.suspended_until:
                trace = await self._tick()
            tick = max(tick + TIMER, self._grid(asyncio.get_running_loop().time()))
            if trace is not None and changes == self.changes and not self.telling and self.skip_routine:
                if trace.well and not self.entra.outages:
                    tick = max(tick, await self._next_use())
                elif trace == before or trace.is_outage:
                    tick = max(tick, self._next_turn_of_events(is_outage=trace.is_outage))
            before = trace
        await weather
        await self._sleep_until(length)
        for _ in range(3):
            await self._tick()
            await asyncio.sleep(TIMER)
        await self._end()
        return Year(
            self.seed,
            self.days,
            self.ledger.figures(),
            self.problems + self.ledger.violations(),
            self.runs,
            int(length // TIMER),
            self.latency.requests,
            self.outcomes,
            self.ledger.journal,
        )

    @property
    def tenant_ids(self) -> tuple[str, ...]:
        return (TENANT, *self.source.neighbours)

    def _memory(self, tenant_id: str) -> Memory:
        return self.known.memories.get(tenant_id, Memory())

    def _begin(self) -> None:
        self.random = Random(self.seed)
        self.clock = LoopClock()
        self.ledger = Ledger(self.clock, self._is_beyond_knowing, self._is_unrecognisable)
        self.faults = Faults(self.clock)
        some = self.random.choice((0, 0, 1, 2)) if self.tenants is None else self.tenants - 1
        self.source = _Source(NEIGHBOURS[:some])
        self.entra = RememberingEntra(self.clock, self.tenant_ids, APP)
        self.entra.delegated_token_lifetime = timedelta(hours=20)
        self.api = GraphApi(self.clock, self.entra, Courier(self.clock), self.faults)
        self.store = self.api.store = WatchedStore(self.clock, self.ledger)
        self.api.settings.handshake = False
        self.api.throttle.enabled = True
        self.api.settings.page_size = self.random.choice((5, 100, 100, 100))
        self.api.settings.empty_page_first = self.random.random() < 0.3
        self.api.settings.separate_versions = self.random.random() < 0.5
        directory = Directory(self.clock)
        directory.mount(self.api)
        self.members = [user(10), user(11), user(12)]
        directory.groups[GROUP] = self.members
        for place, tenant_id in enumerate(self.source.neighbours):
            directory.groups[GROUPS[tenant_id]] = [user(20 + place)]
        self.latency = Latency(self.seed)
        self.sign_in = SignIn.by_device_code(self.entra, TENANT)
        self.process = self._start()
        self.events = forecast(self.seed, self.days)
        self.ledger.accept(self.client_states)
        self.ledger.rotate(self.vault.certificate_id)
        for want in self.source.subscriptions:
            self.ledger.want(want.kind.key, want.resource, want.tenant_id)
        for tenant_id, group in {TENANT: GROUP, **GROUPS}.items():
            for member in directory.groups.get(group, ()):
                self.ledger.want("callEvents", resources.call_events_path(member), tenant_id)
        self._add_bystanders()

    def _add_bystanders(self) -> None:
        """Subscriptions of the same application for another address, and of another application."""
        for app, url in ((APP, "https://elsewhere.example.com/api/notifications"), (OTHER_APP, NOTIFICATION_URL)):
            one = Subscription(
                id=str(uuid.uuid4()),
                rule=RULES[0],
                version="v1.0",
                resource="communications/callRecords?$filter=participants/any(p:p/id eq 'x')",
                change_type="created",
                notification_url=url,
                lifecycle_notification_url=url,
                client_state="theirs",
                expires=START + timedelta(days=self.days + 1),
                app_id=app,
                tenant_id=TENANT,
                user_id=None,
                creator_id=app,
                latest_tls_version="v1_2",
                notification_url_app_id=None,
            )
            self.store.add(one, quota=None, refuse_duplicates=False)
            self.bystanders.append(one)

    def _is_told_falsely(self) -> bool:
        return self.blind_lists > 0 or self.oddities.total() > 0

    def _start(self, known: Known | None = None) -> _Process:
        """A new process: it has learned nothing, holds no token, and its clock is wrong in a way of its own."""
        skew = SKEW * self.random.choice((-1, 0, 0, 1)) * self.random.random()
        clock = LoopClock(skew)
        identities = Identities.of_a_new_process(self.entra, self.tenant_ids, APP, self.sign_in)
        renewal = Renewal(
            graph=InProcessClient(self.api, identities, clock, self.latency, self.troubles),
            certificates=self.vault,
            desired=self.source,
            known=self.known if known is None else known,
            endpoint=Endpoint(NOTIFICATION_URL, LIFECYCLE_URL, self.client_states),
            tenant_ids=self.tenant_ids,
            clock=clock,
        )
        return _Process(skew, identities, renewal, Lifecycle(renewal))

    # The timer

    async def _tick(self) -> "_Trace | None":
        """One tick of the timer, and what came of it; None where another process ran, too."""
        self.faults.forget_requests()
        processes = [self.process]
        while self.others:
            other = self._start()
            if self.others.pop() == "version before" and not self._is_told_falsely():
                # It goes by the list, and knows neither what is remembered nor whose turn it is.
                other = self._start(Known())
            processes.append(other)
        reports = await asyncio.gather(*(self._run(process) for process in processes))
        return self._trace(reports[0]) if len(reports) == 1 else None

    async def _run(self, process: _Process) -> RenewalReport | None:
        """A run's report; None where nothing at all could be done."""
        self.runs += 1
        try:
            report = await process.renewal.run()
        except UnavailableError:
            return None
        self.outcomes.update(report.outcomes)
        return report

    def _trace(self, report: RenewalReport | None) -> "_Trace":
        held = {one.id: one.expires for one in self.store.all()}
        memories = [self._memory(tenant_id) for tenant_id in self.tenant_ids]
        remembered = frozenset(
            (identity, None if abs(held.get(identity, START) - known.expires) < _ROUNDED else known.expires)
            for memory in memories
            for identity, known in memory.known.items()
        )
        return _Trace(
            outcomes=None if report is None else _settled(report.outcomes),
            failures=() if report is None else tuple(_told(failure) for failure in report.failures),
            came_and_went=self.ledger.came_and_went,
            remembered=remembered,
            unseen=msgspec.json.encode([(memory.unseen, memory.refusals) for memory in memories], order="sorted"),
            # With all of Graph away no run can change anything, until that is over: an event.
            is_outage=report is None and self.graph_outages > 0,
        )

    def _next_turn_of_events(self, *, is_outage: bool) -> float:
        """The next tick that may find anything else than the one before did, where that was trouble.

        What is learned just before a trouble's end (when to come again, a new token) lasts beyond it.
        """
        now = self._last_tick()
        moments = [] if is_outage else [moment for moment in self._moments() if moment > now]
        change = self._grid(min(self._next_change(), self.days * 86400.0)) - TIMER
        return min([self._grid(moment - _A_RUN) for moment in moments] + [change])

    def _moments(self) -> Iterator[float]:
        """When what there is comes to something, and when tokens and patience end."""
        for one in self.store.all():
            if (known := self._memory(one.tenant_id).known.get(one.id)) is not None:
                yield from self._moments_of(one, known)
            else:
                yield self._since_start(one.expires)
        skew = self.process.skew
        for creations in (found for tenant_id in self.tenant_ids for found in self._memory(tenant_id).unseen.values()):
            yield from (self._since_start(one.until - skew) for one in creations)
            if (until := held_until(creations)) is not None:
                yield self._since_start(until - skew)
        yield self._refresh()

    async def _next_use(self) -> float:
        """The next tick that may find anything but routine to do, after one that has left nothing to be done."""
        change = self._grid(min(self._next_change(), self.days * 86400.0))
        while True:
            dues = self._dues()
            tick = self._grid(min((due for due, _ in dues), default=change))
            if tick <= self._last_tick():
                return tick + TIMER
            refresh = self._grid(self._refresh())
            if refresh < min(tick, change):
                await self._sleep_until(refresh)
                self.process.identities.refresh()
                continue
            presence = [one for due, one in dues if due <= tick and self._is_current_presence(one)]
            other = self._grid(min([due for due, one in dues if one not in presence] + [self._refresh()]))
            if other <= tick or change - PRESENCE <= tick:
                return min(tick, other, change)
            await self._sleep_until(tick)
            for one in presence:
                try:
                    outcome = await self.process.renewal.reauthorize(TENANT, one.id)
                except SwitchboardError:
                    return tick + TIMER
                if outcome is not Outcome.RENEWED:
                    return tick + TIMER

    def _is_current_presence(self, one: Subscription) -> bool:
        """What has an old certificate or client state may be left to run out, to be replaced."""
        return (
            one.rule.name == "presence"
            and one.client_state == self.client_states[0]
            and one.encryption_certificate_id == self.vault.certificate_id
        )

    def _dues(self) -> list[tuple[float, Subscription]]:
        """When the process would do something about each of its subscriptions although nothing happens: seconds."""
        now, dues = self._last_tick(), []
        for one in self.store.all():
            if one in self.bystanders:
                continue
            known = self._memory(one.tenant_id).known.get(one.id)
            moments = () if known is None else self._moments_of(one, known)
            dues.append((min((moment for moment in moments if moment > now), default=now) - _A_RUN, one))
        return dues

    def _moments_of(self, one: Subscription, known: Remembered) -> Iterator[float]:
        """When it becomes due, comes to its last resort, and to its end."""
        ends = {self._since_start(one.expires), self._since_start(known.expires)}
        for left in (known.life / 2, max(known.life / 4, THREE_RUNS.total_seconds()), 0.0, -SKEW.total_seconds()):
            yield from (end - left - self.process.skew.total_seconds() for end in ends)
        yield from ends

    def _refresh(self) -> float:
        """When the process would ask Entra ID for a token: seconds from the start."""
        return self._since_start(self.process.identities.refresh_at or START)

    @staticmethod
    def _since_start(moment: datetime) -> float:
        return (moment - START).total_seconds()

    def _next_change(self) -> float:
        ahead = [event.at for event in self.events[self.happened : self.happened + 1]]
        return min(ahead + self.ends[:1], default=self.days * 86400.0)

    @staticmethod
    def _last_tick() -> float:
        return asyncio.get_running_loop().time() // TIMER * TIMER

    @staticmethod
    def _grid(moment: float) -> float:
        return -(-moment // TIMER) * TIMER

    @staticmethod
    async def _sleep_until(moment: float) -> None:
        await asyncio.sleep(max(moment - asyncio.get_running_loop().time(), 0.0))

    # What happens

    async def _weather(self) -> None:
        while self.happened < len(self.events):
            event = self.events[self.happened]
            await self._sleep_until(event.at)
            self.happened += 1
            self.changes += 1
            self._befall(event)

    def _befall(self, event: Event) -> None:  # noqa: PLR0912, PLR0915 - one for each sort
        match event.what:
            case "outage of graph" | "storm of 429":
                self._errand(self._affliction(event))
            case "outage of entra":
                self._errand(self._entra_outage(event.seconds))
            case "outage of vault":
                self._errand(self._vault_outage(event.seconds))
            case "fault":
                assert event.fault is not None
                with suppress(ValueError):  # one at a time of each sort, however long it waits for its request
                    self.faults.end(event.fault)
                self.faults.add(event.fault)
            case "removal" | "told removal":
                self._remove(event)
            case "reauthorization":
                if (one := self._any(event.draw)) is not None:
                    self._errand(self._tell(one, "reauthorizationRequired"))
            case "shorter lives":
                self._errand(self._shorter_lives(event))
            case "blind lists":
                self._errand(self._blind_lists(event.seconds))
            case "whim of graph":
                self.api.settings.duplicates = "allow" if event.draw < 0.5 else "refuse"
                self.api.settings.certificate_patch = "ignore" if event.draw % 0.5 < 0.25 else "honour"
            case "refused renewals" | "refused reads" | "refused creation" | "refused deletion" | "only creation works":
                self._errand(self._refused(event))
            case "trouble of a tenant" | "slow reads of a tenant":
                self._errand(self._trouble(event))
            case "bad entries":
                self._errand(self._oddity("bad_entries", event.seconds))
            case "patchy lists":
                self._errand(self._oddity("patchy_lists", event.seconds))
            case "lost memory":
                self.known.memories.clear()
                self.process = self._start()
            case "stuck renewals":
                self._errand(self._oddity("stuck_renewals", event.seconds))
            case "odd echoes":
                self._errand(self._oddity("odd_echoes", event.seconds))
            case "untold expirations":
                self._errand(self._oddity("untold_expirations", event.seconds))
            case "short grants":
                self._errand(self._short_grants(event))
            case "outage of storage":
                self._errand(self._storage_outage(event.seconds))
            case "deploy":
                now = asyncio.get_running_loop().time()
                self.suspended_until = max(self.suspended_until, now + event.seconds)
                self._disturb("timers", event.seconds)
                self.process = self._start()
            case "overlap" | "version before":
                self.others.append(event.what)
            case "new certificate":
                self.vault.version += 1
                self.ledger.rotate(self.vault.certificate_id)
            case "new client state":
                self.client_states = (f"state-{event.at:.0f}", self.client_states[0])
                self.store.all()
                self.ledger.accept(self.client_states)
                self.process = self._start()
            case "joins":
                self.members.append(user(100 + len(self.ledger.journal)))
                self.ledger.want("callEvents", resources.call_events_path(self.members[-1]), TENANT)
            case "leaves":
                if self.members:
                    self.ledger.want_no_more(resources.call_events_path(self.members.pop(0)), TENANT)

    def _errand(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self.errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self.errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problems.append(f"{type(error).__name__}: {error}")

    def _disturb(self, nuisance: Nuisance, seconds: float, tenant_id: str | None = None) -> None:
        now = self.clock.now()
        self.ledger.disturb(nuisance, now, now + timedelta(seconds=seconds), tenant_id)

    async def _pass(self, seconds: float) -> None:
        """Wait for the end of something, which is a change too."""
        end = asyncio.get_running_loop().time() + seconds
        heapq.heappush(self.ends, end)
        await asyncio.sleep(seconds)
        heapq.heappop(self.ends)
        self.changes += 1

    async def _affliction(self, event: Event) -> None:
        fault = event.fault
        assert fault is not None
        total = event.what == "outage of graph"
        self._disturb("graph", event.seconds + (fault.retry_after or 0))
        self.graph_outages += total
        fault = replace(fault)  # one of its own, to be found again
        self.faults.add(fault, times=None)
        await self._pass(event.seconds)
        self.faults.end(fault)
        self.graph_outages -= total

    async def _entra_outage(self, seconds: float) -> None:
        self._disturb("graph", seconds)
        self.entra.outages += 1
        await self._pass(seconds)
        self.entra.outages -= 1

    async def _vault_outage(self, seconds: float) -> None:
        self._disturb("vault", seconds)
        self.vault.outages += 1
        await self._pass(seconds)
        self.vault.outages -= 1

    async def _shorter_lives(self, event: Event) -> None:
        self.api.settings.lifetime_margin = timedelta(minutes=event.draw * 14)
        await self._pass(event.seconds)
        self.api.settings.lifetime_margin = timedelta(0)

    async def _refused(self, event: Event) -> None:
        """Some sorts of request are refused, and others are not."""
        assert event.fault is not None
        fault = replace(event.fault)
        self.faults.add(fault, times=None)
        for nuisance in _HINDERED[event.what]:
            self._disturb(nuisance, event.seconds)
        if "PATCH" in fault.method and not _may_be_deleted_for(fault):
            self._disturb("deletion", event.seconds)
        await self._pass(event.seconds)
        self.faults.end(fault)
        if any(self._memory(tenant_id).unseen for tenant_id in self.tenant_ids):
            # Whether anything was made nobody knows, and so nothing more is made for a while.
            self._disturb("creation", _LONGEST_HOLD)

    async def _trouble(self, event: Event) -> None:
        """One tenant's requests are answered late, otherwise or not at all: no other tenant is to notice."""
        assert event.fault is not None
        trouble = self.tenant_ids[int(event.draw * len(self.tenant_ids))], replace(event.fault)
        self.troubles.in_force.append(trouble)
        # A run that waits for one of its answers is not over with the trouble.
        for nuisance in _HINDERED[event.what]:
            self._disturb(nuisance, event.seconds + _LONGEST_RUN, trouble[0])
        await self._pass(event.seconds)
        self.troubles.in_force.remove(trouble)

    async def _oddity(self, setting: str, seconds: float) -> None:
        if setting == "stuck_renewals":
            self._disturb("renewals", seconds)
        self.oddities[setting] += 1
        setattr(self.api.settings, setting, True)
        await self._pass(seconds)
        self.oddities[setting] -= 1
        setattr(self.api.settings, setting, self.oddities[setting] > 0)

    async def _short_grants(self, event: Event) -> None:
        self.api.settings.longest_grant = timedelta(minutes=45 + event.draw * 200)
        await self._pass(event.seconds)
        self.api.settings.longest_grant = None

    async def _storage_outage(self, seconds: float) -> None:
        self._disturb("storage", seconds)
        self.oddities["storage"] += 1
        self.known.error = UnavailableError("storage", reason="storage-503")
        await self._pass(seconds)
        self.oddities["storage"] -= 1
        if not self.oddities["storage"]:
            self.known.error = None

    async def _blind_lists(self, seconds: float) -> None:
        self.blind_lists += 1
        self.api.settings.blind_lists = True
        await self._pass(seconds)
        self.blind_lists -= 1
        self.api.settings.blind_lists = self.blind_lists > 0

    def _is_beyond_knowing(self, subscription_id: str) -> bool:
        """Made by a request whose answer was lost, or forgotten by a new process, while no list shows it."""
        forgotten = self.known.error is not None or self._is_forgotten(subscription_id)
        return forgotten and (self.blind_lists > 0 or self.oddities["patchy_lists"] > 0)

    def _is_unrecognisable(self, subscription_id: str) -> bool:
        """Forgotten, while lists leave out the query of its notification URL."""
        return self.oddities["odd_echoes"] > 0 and self._is_forgotten(subscription_id)

    def _is_forgotten(self, subscription_id: str) -> bool:
        return not any(subscription_id in ids for ids in self.known.ids.values())

    def _any(self, draw: float) -> Subscription | None:
        ours = [one for one in self.store.all() if one not in self.bystanders]
        return ours[int(draw * len(ours))] if ours else None

    def _remove(self, event: Event) -> None:
        one = self._any(event.draw)
        if one is None:
            return
        self.store.lose(one.id)
        if event.what == "told removal":
            self._errand(self._tell(one, "subscriptionRemoved"))

    async def _tell(self, one: Subscription, event: str) -> None:
        """A lifecycle notification, tried again like any message of a queue."""
        item = {"tenantId": one.tenant_id, "subscriptionId": one.id, "lifecycleEvent": event}
        self.telling += 1
        await asyncio.sleep(self.random.uniform(0.5, 90.0))
        for _ in range(_RETRIES_OF_A_QUEUE):
            try:
                await self.process.lifecycle.handle(item)
            except SwitchboardError:
                await asyncio.sleep(60.0)
            else:
                break
        self.telling -= 1
        self.changes += 1

    async def _end(self) -> None:
        for errand in tuple(self.errands):
            errand.cancel()
        await asyncio.gather(*self.errands, return_exceptions=True)
        held = self.store.all()
        self.problems += [
            f"a bystander was touched: {one.resource}"
            for one in self.bystanders
            if not any(one is other for other in held)
        ]
        self.ledger.finish()


def _may_be_deleted_for(fault: Fault) -> bool:
    """Whether a refused renewal may end in a DELETE before there is a successor: Graph is to blame for the others."""
    error = graph.error_of(fault.status or 0, {"error": {"code": "x", "message": fault.message}})
    return isinstance(error, GraphError) and not isinstance(error, EndpointValidationError)


@dataclass(frozen=True, slots=True)
class _Trace:
    """What a run left behind, renewals aside: two of the same in a row, and the next does nothing new either."""

    outcomes: frozenset[tuple[Outcome, int]] | None
    failures: tuple[tuple[str, ...], ...]
    came_and_went: int
    remembered: frozenset[tuple[str, datetime | None]]
    unseen: bytes
    is_outage: bool

    @property
    def well(self) -> bool:
        """Whether nothing was left to be done."""
        outcomes = {outcome for outcome, _ in self.outcomes or {(Outcome.FAILED, 1)}}
        return outcomes <= {Outcome.LEFT} and not self.failures


def _settled(outcomes: Mapping[Outcome, int]) -> frozenset[tuple[Outcome, int]]:
    counted = Counter(outcomes)
    counted[Outcome.LEFT] += counted.pop(Outcome.RENEWED, 0)
    return frozenset(counted.items())


def _told(failure: Failure) -> tuple[str, ...]:
    return failure.tenant_id, failure.stage, failure.kind or "", failure.reason, str(failure.count)


def simulate(seed: int, days: float = 365.0, *, skip_routine: bool = True, tenants: int | None = None) -> Year:
    """Live through `days` days of this seed's weather.

    Args:
        seed: draws everything that is drawn.
        days: the year, or a shorter time.
        skip_routine: leave out ticks of the timer that can do nothing: nothing has happened since a run that left
            nothing to do, or since two in trouble of which the second changed nothing and met with the same as the
            first; and nothing becomes due. And renew presence, which is due every half hour, without all the rest of
            a run where nothing else is due, nothing is wrong, and nothing happens before a whole run renews it again.
        tenants: how many, one to three; if not given, that is drawn, too.
    """
    ids = Random(seed)
    state, disabled = random_module.getstate(), logging.root.manager.disable
    random_module.seed(seed)
    logging.disable()  # a year's failures would fill pages
    try:
        with (
            patch("uuid.uuid4", lambda: uuid.UUID(int=ids.getrandbits(128), version=4)),
            asyncio.Runner(loop_factory=VirtualLoop) as runner,
        ):
            return runner.run(_World(seed, days, skip_routine, tenants).live())
    finally:
        random_module.setstate(state)
        logging.disable(disabled)


def main() -> int:
    """Run seeds one after another; the first that fails ends it with 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.year")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--days", type=float, default=365.0)
    arguments = parser.parse_args()
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        year = simulate(seed, arguments.days)
        print(f"seed {seed}: {year.ticks} ticks, {year.runs} runs, {year.requests} requests, {dict(year.outcomes)}")
        for kind, found in year.figures.items():
            print(
                f"  {kind:20} {1 - found.absent / found.wanted:.6%} of all time, "
                f"{1 - found.absent_while_reachable / found.reachable:.6%} while Graph is reachable, "
                f"longest {found.longest_while_reachable}, {dict(found.causes)}"
            )
        for violation in year.violations:
            print(f"  VIOLATION {violation}")
        if year.violations:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
