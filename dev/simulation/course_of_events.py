"""What befalls the app and Graph in a simulated year, event by event."""

import asyncio
import heapq
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from dev.simulation.coverage import Disturbance
from dev.simulation.fault_schedule import Event, EventName
from dev.simulation.scenario import GROUP, TENANT, Scenario, user
from dev.simulation.virtual_time import sleep_until
from dev.simulator.faults import Fault
from dev.simulator.subscriptions import Subscription
from shared.values import graph_errors, resources
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.graph_errors import EndpointValidationError, GraphError

_RETRIES_OF_A_QUEUE: Final = 5
_LONGEST_RUN: Final = 600.0  # seconds
_LONGEST_HOLD: Final = 2 * 160 * 60.0  # seconds; a single fault may befall the try at the end of the first
_HINDERED: Final[dict[EventName, tuple[Disturbance, ...]]] = {
    "refused renewals": ("renewals",),
    "refused reads": ("reads",),
    "refused creation": ("creation",),
    "refused deletion": ("deletion",),
    "only creation works": ("renewals", "reads", "deletion"),
    "trouble of a tenant": ("graph",),
    "slow reads of a tenant": ("reads",),
}
"""What does not go well while so."""


@dataclass(slots=True)
class CourseOfEvents:
    """Lets the events of a schedule happen, and ends each that lasts.

    `changes` counts every event and every end of one, `ends` is a heap of the ends that are still to come, and `others`
    are processes that run beside the next tick of the timer.
    """

    scenario: Scenario
    events: list[Event]
    happened: int = 0
    changes: int = 0
    ends: list[float] = field(default_factory=list)
    telling: int = 0
    suspended_until: float = 0.0
    others: list[EventName] = field(default_factory=list)
    graph_outages: int = 0
    problems: list[str] = field(default_factory=list)
    errands: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def next_change(self) -> float | None:
        """When the next event happens or ends: seconds from the start; None where nothing more is to come."""
        ahead = [event.at for event in self.events[self.happened : self.happened + 1]]
        return min(ahead + self.ends[:1], default=None)

    async def stop(self) -> None:
        """End whatever is going on."""
        for errand in tuple(self.errands):
            errand.cancel()
        await asyncio.gather(*self.errands, return_exceptions=True)

    async def unfold(self) -> None:
        while self.happened < len(self.events):
            event = self.events[self.happened]
            await sleep_until(event.at)
            self.happened += 1
            self.changes += 1
            self._befall(event)

    def _befall(self, event: Event) -> None:  # noqa: PLR0912, PLR0915 - one for each sort
        match event.name:
            case "outage of graph" | "storm of 429":
                self._errand(self._affliction(event))
            case "outage of entra":
                self._errand(self._entra_outage(event.seconds))
            case "outage of vault":
                self._errand(self._vault_outage(event.seconds))
            case "fault":
                assert event.fault is not None
                with suppress(ValueError):  # one at a time of each sort, however long it waits for its request
                    self.scenario.faults.end(event.fault)
                self.scenario.faults.add(event.fault)
            case "removal" | "told removal":
                self._remove(event)
            case "reauthorization":
                if (one := self.scenario.any_of_ours(event.draw)) is not None:
                    self._errand(self._tell(one, "reauthorizationRequired"))
            case "shorter lives":
                self._errand(self._shorter_lives(event))
            case "blind lists":
                self._errand(self._blind_lists(event.seconds))
            case "whim of graph":
                self.scenario.api.settings.duplicates = "allow" if event.draw < 0.5 else "refuse"
                self.scenario.api.settings.certificate_patch = "ignore" if event.draw % 0.5 < 0.25 else "honour"
            case "refused renewals" | "refused reads" | "refused creation" | "refused deletion" | "only creation works":
                self._errand(self._refused(event))
            case "trouble of a tenant" | "slow reads of a tenant":
                self._errand(self._trouble(event))
            case "bad entries":
                self._errand(self._oddity("bad_entries", event.seconds))
            case "patchy lists":
                self._errand(self._oddity("patchy_lists", event.seconds))
            case "lost memory":
                self.scenario.known.memories.clear()
                self.scenario.process = self.scenario.start()
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
                self.scenario.disturb("timers", event.seconds)
                self.scenario.process = self.scenario.start()
            case "overlap" | "version before":
                self.others.append(event.name)
            case "new certificate":
                self.scenario.vault.version += 1
                self.scenario.ledger.rotate(self.scenario.vault.certificate_id)
            case "new client state":
                self.scenario.client_states = (f"state-{event.at:.0f}", self.scenario.client_states[0])
                self.scenario.store.all()
                self.scenario.ledger.accept(self.scenario.client_states)
                self.scenario.process = self.scenario.start()
            case "taken off":
                self._errand(self._taken_off(event))
            case "cut off":
                self._errand(self._cut_off(event))
            case "operator looks":
                self._confirm()
            case "joins":
                self.scenario.members.append(user(100 + len(self.scenario.ledger.journal)))
                self.scenario.ledger.want("callEvents", resources.call_events_path(self.scenario.members[-1]), TENANT)
            case "leaves":
                if self.scenario.members:
                    self.scenario.ledger.want_no_more(resources.call_events_path(self.scenario.members.pop(0)), TENANT)

    def _errand(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self.errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self.errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problems.append(f"{type(error).__name__}: {error}")

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
        total = event.name == "outage of graph"
        self.scenario.disturb("graph", event.seconds + (fault.retry_after or 0))
        self.graph_outages += total
        fault = replace(fault)  # one of its own, to be found again
        self.scenario.faults.add(fault, times=None)
        await self._pass(event.seconds)
        self.scenario.faults.end(fault)
        self.graph_outages -= total

    async def _entra_outage(self, seconds: float) -> None:
        self.scenario.disturb("graph", seconds)
        self.scenario.entra.outages += 1
        await self._pass(seconds)
        self.scenario.entra.outages -= 1

    async def _vault_outage(self, seconds: float) -> None:
        self.scenario.disturb("vault", seconds)
        self.scenario.vault.outages += 1
        await self._pass(seconds)
        self.scenario.vault.outages -= 1

    async def _shorter_lives(self, event: Event) -> None:
        self.scenario.api.settings.lifetime_margin = timedelta(minutes=event.draw * 14)
        await self._pass(event.seconds)
        self.scenario.api.settings.lifetime_margin = timedelta(0)

    async def _refused(self, event: Event) -> None:
        """Some sorts of request are refused, and others are not."""
        assert event.fault is not None
        fault = replace(event.fault)
        self.scenario.faults.add(fault, times=None)
        for disturbance in _HINDERED[event.name]:
            self.scenario.disturb(disturbance, event.seconds)
        if "PATCH" in fault.method and not _may_be_deleted_for(fault):
            self.scenario.disturb("deletion", event.seconds)
        await self._pass(event.seconds)
        self.scenario.faults.end(fault)
        if any(self.scenario.memory(tenant_id).unseen for tenant_id in self.scenario.tenant_ids):
            # Whether anything was made nobody knows, and so nothing more is made for a while.
            self.scenario.disturb("creation", _LONGEST_HOLD)

    async def _trouble(self, event: Event) -> None:
        """One tenant's requests are answered late, otherwise or not at all: no other tenant is to notice."""
        assert event.fault is not None
        trouble = self.scenario.tenant_ids[int(event.draw * len(self.scenario.tenant_ids))], replace(event.fault)
        self.scenario.troubles.in_force.append(trouble)
        # A run that waits for one of its answers is not over with the trouble.
        for disturbance in _HINDERED[event.name]:
            self.scenario.disturb(disturbance, event.seconds + _LONGEST_RUN, trouble[0])
        await self._pass(event.seconds)
        self.scenario.troubles.in_force.remove(trouble)

    async def _oddity(self, setting: str, seconds: float) -> None:
        self.scenario.disturb("renewals" if setting == "stuck_renewals" else "lists", seconds)
        self.scenario.oddities[setting] += 1
        setattr(self.scenario.api.settings, setting, True)
        await self._pass(seconds)
        self.scenario.oddities[setting] -= 1
        setattr(self.scenario.api.settings, setting, self.scenario.oddities[setting] > 0)

    async def _short_grants(self, event: Event) -> None:
        self.scenario.api.settings.longest_grant = timedelta(minutes=45 + event.draw * 200)
        await self._pass(event.seconds)
        self.scenario.api.settings.longest_grant = None

    async def _storage_outage(self, seconds: float) -> None:
        self.scenario.disturb("storage", seconds)
        self.scenario.oddities["storage"] += 1
        self.scenario.known.error = UnavailableError("storage", reason="storage-503")
        await self._pass(seconds)
        self.scenario.oddities["storage"] -= 1
        if not self.scenario.oddities["storage"]:
            self.scenario.known.error = None

    async def _blind_lists(self, seconds: float) -> None:
        self.scenario.disturb("lists", seconds)
        self.scenario.blind_lists += 1
        self.scenario.api.settings.blind_lists = True
        await self._pass(seconds)
        self.scenario.blind_lists -= 1
        self.scenario.api.settings.blind_lists = self.scenario.blind_lists > 0

    async def _taken_off(self, event: Event) -> None:
        """The file asks for something less, and after a while again."""
        source, ledger = self.scenario.source, self.scenario.ledger
        wants = [want for want in source.subscriptions if want.resource not in source.taken_off]
        want = wants[int(event.draw * len(wants))]
        if any(want.resource == other.resource and want is not other for other in wants):
            return  # another tenant's has the same path
        source.taken_off.add(want.resource)
        ledger.want_no_more(want.resource, want.tenant_id)
        await self._pass(event.seconds)
        source.taken_off.remove(want.resource)
        ledger.want(want.kind.key, want.resource, want.tenant_id)

    async def _cut_off(self, event: Event) -> None:
        """The file or the group reads well, and is not whole: nobody has stopped to desire anything."""
        scenario = self.scenario
        scenario.disturb("creation", event.seconds)
        if event.draw < 0.5:
            scenario.source.cut_off = True
        elif len(scenario.members) > 2:  # one that is missing cannot be told from one that has left
            scenario.directory.groups[GROUP] = scenario.members[: len(scenario.members) // 2]
        await self._pass(event.seconds)
        scenario.source.cut_off = False
        scenario.directory.groups[GROUP] = scenario.members

    def _confirm(self) -> None:
        """The operator confirms what waits and is indeed not desired."""
        scenario = self.scenario
        for tenant_id in scenario.tenant_ids:
            review = scenario.memory(tenant_id).review
            for identity, entry in ({} if review is None else review.unwanted).items():
                if entry.needs_confirmation and not scenario.ledger.is_wanted(entry.resource, tenant_id):
                    scenario.confirmed.ids[identity] = scenario.clock.now()

    def _remove(self, event: Event) -> None:
        one = self.scenario.any_of_ours(event.draw)
        if one is None:
            return
        self.scenario.store.lose(one.id)
        if event.name == "told removal":
            self._errand(self._tell(one, "subscriptionRemoved"))

    async def _tell(self, one: Subscription, event: str) -> None:
        """A lifecycle notification, tried again like any message of a queue."""
        item = {"tenantId": one.tenant_id, "subscriptionId": one.id, "lifecycleEvent": event}
        self.telling += 1
        await asyncio.sleep(self.scenario.random.uniform(0.5, 90.0))
        for _ in range(_RETRIES_OF_A_QUEUE):
            try:
                await self.scenario.process.lifecycle.handle(item)
            except SwitchboardError:
                await asyncio.sleep(60.0)
            else:
                break
        self.telling -= 1
        self.changes += 1


def _may_be_deleted_for(fault: Fault) -> bool:
    """Whether a refused renewal may end in a DELETE before there is a successor: Graph is to blame for the others."""
    error = graph_errors.error_of(fault.status or 0, {"error": {"code": "x", "message": fault.message}})
    return isinstance(error, GraphError) and not isinstance(error, EndpointValidationError)
