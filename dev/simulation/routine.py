"""Which ticks of the timer change nothing, and can be left out of a simulated year."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from dev.simulation.course_of_events import CourseOfEvents
from dev.simulation.coverage import SKEW, THREE_RUNS
from dev.simulation.scenario import TENANT, Scenario
from dev.simulation.virtual_time import START, sleep_until
from dev.simulator.subscriptions import Subscription
from shared.subscriptions.actions import Outcome
from shared.subscriptions.state import Remembered, held_until
from shared.subscriptions.unwanted import BRAKE_PERIOD, READINGS_APART, UNWANTED_FOR
from shared.values.errors import SwitchboardError

TIMER: Final = 300.0  # seconds
_PRESENCE: Final = 3600.0  # seconds that presence is granted, at most
_A_RUN: Final = 10.0  # seconds: what becomes due while one goes on may be renewed by it


def on_timer(moment: float) -> float:
    """The first tick of the timer at a moment or after it."""
    return -(-moment // TIMER) * TIMER


@dataclass(frozen=True, slots=True)
class Routine:
    """Knows when something is due again."""

    scenario: Scenario
    course: CourseOfEvents

    def next_turn_of_events(self, *, is_outage: bool) -> float:
        """The next tick that may find anything else than the one before did, where that was trouble.

        What is learned just before a trouble's end (when to come again, a new token) lasts beyond it.
        """
        now = _last_tick()
        moments = [] if is_outage else [moment for moment in self._moments() if moment > now]
        change = on_timer(self._next_change()) - TIMER
        return min([on_timer(moment - _A_RUN) for moment in moments] + [change])

    def _moments(self) -> Iterator[float]:
        """When what there is comes to something, and when tokens and patience end."""
        for one in self.scenario.store.all():
            if (known := self.scenario.memory(one.tenant_id).known.get(one.id)) is not None:
                yield from self._moments_of(one, known)
            elif one not in self.scenario.bystanders:
                yield _last_tick() + TIMER  # only the app knows what life it assumes of one that it does not remember
        skew = self.scenario.process.skew
        for creations in (
            found for tenant_id in self.scenario.tenant_ids for found in self.scenario.memory(tenant_id).unseen.values()
        ):
            yield from (_since_start(one.until - skew) for one in creations)
            if (until := held_until(creations)) is not None:
                yield _since_start(until - skew)
        yield from self._reviews()
        yield self._refresh()

    async def next_use(self) -> float:
        """The next tick that may find anything but routine to do, after one that has left nothing to be done."""
        change = on_timer(self._next_change())
        while True:
            dues, now = self._dues(), _last_tick()
            change = min([change, *(on_timer(moment) for moment in self._reviews() if moment > now)])
            tick = on_timer(min((due for due, _ in dues), default=change))
            if tick <= _last_tick():
                return tick + TIMER
            refresh = on_timer(self._refresh())
            if refresh < min(tick, change):
                await sleep_until(refresh)
                self.scenario.process.identities.refresh()
                continue
            presence = [one for due, one in dues if due <= tick and self._is_current_presence(one)]
            other = on_timer(min([due for due, one in dues if one not in presence] + [self._refresh()]))
            if other <= tick or change - _PRESENCE <= tick:
                return min(tick, other, change)
            await sleep_until(tick)
            for one in presence:
                try:
                    outcome = await self.scenario.process.renewal.reauthorize(TENANT, one.id)
                except SwitchboardError:
                    return tick + TIMER
                if outcome is not Outcome.RENEWED:
                    return tick + TIMER

    def _reviews(self) -> Iterator[float]:
        """When what nobody desires has been so for long enough, and when removals and confirmations count no more.

        Meanwhile one reading has to follow the other, also where the clocks of two processes differ the most.
        """
        reviews = [self.scenario.memory(tenant_id).review for tenant_id in self.scenario.tenant_ids]
        for review in reviews:
            if review is not None:
                begins = [entry.since for entry in review.unwanted.values()]
                if begins and review.whole_since is not None:
                    begins.append(review.whole_since)
                    yield _last_tick() + (READINGS_APART - 2 * SKEW).total_seconds()
                yield from (_since_start(begin + UNWANTED_FOR) for begin in begins)
                yield from (_since_start(at + BRAKE_PERIOD) for at in review.removals.values())

    def _is_current_presence(self, one: Subscription) -> bool:
        """What has an old certificate or client state may be left to run out, to be replaced."""
        return (
            one.rule.name == "presence"
            and one.client_state == self.scenario.client_states[0]
            and one.encryption_certificate_id == self.scenario.vault.certificate_id
        )

    def _dues(self) -> list[tuple[float, Subscription]]:
        """When the process would do something about each of its subscriptions although nothing happens: seconds."""
        now, dues = _last_tick(), []
        for one in self.scenario.store.all():
            if one in self.scenario.bystanders:
                continue
            known = self.scenario.memory(one.tenant_id).known.get(one.id)
            moments = () if known is None else self._moments_of(one, known)
            dues.append((min((moment for moment in moments if moment > now), default=now) - _A_RUN, one))
        return dues

    def _moments_of(self, one: Subscription, known: Remembered) -> Iterator[float]:
        """When it becomes due, comes to its last resort, and to its end."""
        ends = {_since_start(one.expires), _since_start(known.expires)}
        for left in (known.life / 2, max(known.life / 4, THREE_RUNS.total_seconds()), 0.0, -SKEW.total_seconds()):
            yield from (end - left - self.scenario.process.skew.total_seconds() for end in ends)
        yield from ends

    def _refresh(self) -> float:
        """When the process would ask Entra ID for a token: seconds from the start."""
        return _since_start(self.scenario.process.identities.refresh_at or START)

    def _next_change(self) -> float:
        end, change = self.scenario.days * 86400.0, self.course.next_change
        return end if change is None else min(change, end)


def _since_start(moment: datetime) -> float:
    return (moment - START).total_seconds()


def _last_tick() -> float:
    return asyncio.get_running_loop().time() // TIMER * TIMER
