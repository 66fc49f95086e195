"""Weeks of three seeds; `python3 run.py bench --year` lives through a hundred years."""

import asyncio
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from dev.simulation import coverage, scenario
from dev.simulation import year as year_module
from dev.simulation.coverage import Ledger
from dev.simulation.fault_schedule import SLOW_READS, TROUBLES, Event, EventName, fault_schedule
from dev.simulation.known import Known
from dev.simulation.scenario import NEIGHBOURS
from dev.simulation.virtual_time import START
from dev.simulation.year import Year, simulate
from dev.simulator.clock import ManualClock
from dev.simulator.faults import Fault
from dev.simulator.rules import RULES
from dev.simulator.subscriptions import Subscription
from shared.subscriptions import plan, unwanted
from shared.subscriptions.actions import Outcome
from shared.subscriptions.desired import DesiredState
from shared.subscriptions.state import Recollection
from shared.values import lifetimes
from shared.values.resources import CATALOGUE

ROOT = Path(__file__).parents[2]
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(("seed", "days"), [(1, 4.0), (4, 30.0), (4372, 8.0)])
def test_no_subscription_is_absent_without_an_excuse(seed: int, days: float) -> None:
    year = simulate(seed, days)
    replay = f"python -m dev.simulation.year --seed {seed} --days {days:g}"
    assert not year.violations, "\n".join((replay, *year.violations))
    assert set(year.figures) == set(CATALOGUE)


def test_renewing_at_the_last_moment_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five minutes before its end a subscription meets with one failed run, or a clock that is behind."""
    monkeypatch.setattr(plan, "half_life", lambda *_: 5 * MINUTE)
    assert any("lapsed" in violation for seed in (1, 2) for violation in simulate(seed, 7).violations)


def test_recreating_late_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    load = scenario.Source.load

    async def load_at_times(source: scenario.Source) -> DesiredState:
        return DesiredState((), ()) if asyncio.get_running_loop().time() % 3600 > 600 else await load(source)

    monkeypatch.setattr(scenario.Source, "load", load_at_times)
    assert any("removed" in violation for seed in (1, 2) for violation in simulate(seed, 7).violations)


def test_outages_that_overlap_end_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    hour, fault = HOUR.total_seconds(), Fault("graph", status=503)
    schedule = [Event(1 * hour, "outage of graph", 3 * hour, fault), Event(2 * hour, "outage of graph", hour, fault)]
    monkeypatch.setattr(year_module, "fault_schedule", lambda *_: schedule)
    year = simulate(1, 1)
    assert not year.violations
    presence = year.figures["presence"]
    assert 2 * HOUR < presence.absent < 3.2 * HOUR
    assert presence.absent_while_reachable < 10 * MINUTE


def test_believing_lists_that_show_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    hour = HOUR.total_seconds()
    schedule = [Event(hour, "whim of graph", draw=0.1), Event(2 * hour, "blind lists", seconds=2 * hour)]
    monkeypatch.setattr(year_module, "fault_schedule", lambda *_: schedule)
    assert not simulate(1, 0.25).violations

    async def nothing(*_: object) -> Recollection:
        return Recollection()

    monkeypatch.setattr(Known, "load", nothing)
    assert any(violation.startswith("callRecords") for violation in simulate(1, 0.25).violations)


def test_a_seed_replays_whatever_ran_before() -> None:
    """A failure is told by its seed, and repeated in another process."""
    script = "from dev.simulation.year import simulate; print(simulate(7, 1).journal)"
    elsewhere = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    other = simulate(8, 0.5).journal

    assert elsewhere.stdout.strip() == repr(simulate(7, 1).journal) != repr(other)


def test_a_tenant_in_any_trouble_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same is renewed, none later than by what a run lasts at most: ten minutes.

    (Within a run it is in the same order, and a second at most: `test_renew_distrust`.)
    """
    hours = HOUR.total_seconds()
    troubles: list[tuple[EventName, Fault]] = [
        *(("trouble of a tenant", fault) for fault in TROUBLES),
        *(("slow reads of a tenant", fault) for fault in SLOW_READS),
    ]
    schedule = [
        Event(place * 6 * hours, what, 6 * hours, fault, draw=0.0) for place, (what, fault) in enumerate(troubles)
    ]

    def of_the_others(schedule: list[Event]) -> dict[tuple[str, str, str], list[datetime]]:
        monkeypatch.setattr(year_module, "fault_schedule", lambda *_: schedule)
        year = simulate(1, 6 * len(troubles) / 24, tenants=3)
        assert not year.violations
        told: defaultdict[tuple[str, str, str], list[datetime]] = defaultdict(list)
        for at, sign, what in year.journal:
            kind, tenant_id, *_ = what.split()
            if tenant_id in NEIGHBOURS:
                told[sign, kind, tenant_id].append(at)
        return told

    alone, beside = of_the_others([]), of_the_others(schedule)
    assert sum(len(moments) for moments in beside.values()) > 20
    assert {what: len(moments) for what, moments in beside.items()} == {what: len(alone[what]) for what in alone}
    pairs = [pair for what in alone for pair in zip(alone[what], beside[what], strict=True)]
    assert max(late - early for early, late in pairs) <= 10 * MINUTE


def test_keeping_what_nobody_desires_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A meeting is taken off the file, while there is another."""
    schedule = [Event(HOUR.total_seconds(), "taken off", 20 * 24 * HOUR.total_seconds(), draw=0.3)]
    monkeypatch.setattr(year_module, "fault_schedule", lambda *_: schedule)
    monkeypatch.setattr(coverage, "LONGEST_UNWANTED", 24 * HOUR)  # there is no operator to be waited for
    year = simulate(1, 2, tenants=1)
    assert not year.violations
    assert year.outcomes[Outcome.DELETED] == 1
    monkeypatch.setattr(unwanted, "_MOST_TOGETHER", 0)
    assert any("nobody desired it" in violation for violation in simulate(1, 2, tenants=1).violations)


def test_removing_what_is_desired_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is read in part for two hours; the brake keeps what is missing."""
    schedule = [Event(HOUR.total_seconds(), "cut off", 2 * HOUR.total_seconds(), draw=0.9)]
    monkeypatch.setattr(year_module, "fault_schedule", lambda *_: schedule)
    assert not simulate(1, 1, tenants=1).violations
    monkeypatch.setattr(unwanted, "_TENTH", 1)
    assert any("deleted alone" in violation for violation in simulate(1, 1, tenants=1).violations)


def test_reading_falsely_before_and_after_an_hour_without_runs_removes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is read in part by two runs, with a long deployment between them; and no brake keeps anything."""
    run, first, second = 300.0, HOUR.total_seconds(), 2.25 * HOUR.total_seconds()
    schedule = [
        Event(first - run / 2, "cut off", run, draw=0.9),
        Event(first + run / 2, "deploy", second - first - run),
        Event(second - run / 2, "cut off", run, draw=0.9),
    ]
    monkeypatch.setattr(year_module, "fault_schedule", lambda *_: schedule)
    monkeypatch.setattr(unwanted, "_TENTH", 1)
    assert not simulate(1, 0.25, tenants=1).violations
    monkeypatch.setattr(unwanted, "READINGS_APART", 2 * HOUR)
    assert any("deleted alone" in violation for violation in simulate(1, 0.25, tenants=1).violations)


def test_deleting_at_the_first_refusal_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    hour = HOUR.total_seconds()
    fault = Fault("graph", "PATCH", "/subscriptions/", status=400)
    monkeypatch.setattr(year_module, "fault_schedule", lambda *_: [Event(hour, "refused renewals", 20 * hour, fault)])
    assert not simulate(1, 1).violations
    monkeypatch.setattr(plan, "last_resort", lifetimes.half_life)
    assert any("deleted alone" in violation for violation in simulate(1, 1).violations)


def test_ticks_of_the_timer_that_are_skipped_would_have_changed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 18 hours with refused renewals, and outages of Entra ID and of storage."""
    schedule = [replace(event, at=event.at / 2, seconds=event.seconds / 2) for event in fault_schedule(813, 1.5)]
    monkeypatch.setattr(year_module, "fault_schedule", lambda *_: schedule)
    skipping, patient = simulate(813, 0.75), simulate(813, 0.75, skip_routine=False)
    assert skipping.runs < patient.runs / 2
    assert _by_tick(skipping) == _by_tick(patient)


def _by_tick(year: Year) -> list[tuple[float, str, str]]:
    # Pauses between tries are drawn from one stream for all, so within a tick the order may differ. What has come to
    # its end is noted by whoever looks next.
    return sorted(
        ((at - START) // (5 * MINUTE), sign, what.split()[0])
        for at, sign, what in year.journal
        if sign != "-" or datetime.fromisoformat(what.partition(" ")[2].split(" ", 2)[2]) > at
    )


def test_every_event_befalls_a_year() -> None:
    year = Counter(event.name for event in fault_schedule(1, 365))
    assert year["new certificate"] == 12
    assert len(year) == len(get_args(EventName.__value__))
    assert min(year.values()) >= 2


class TestLedger:
    """That it would find what it is there to find."""

    clock: ManualClock
    ledger: Ledger
    beyond_knowing: set[str]
    forgotten: set[str]

    @pytest.fixture(autouse=True)
    def begin(self) -> None:
        self.clock = ManualClock(START)
        self.beyond_knowing: set[str] = set()
        self.forgotten: set[str] = set()
        self.ledger = Ledger(
            self.clock,
            lambda identity, unread: identity in self.beyond_knowing or (unread and identity in self.forgotten),
        )
        self.ledger.accept(("state",))
        self.ledger.rotate("c/1")
        self.ledger.want("callEvents", "users/1/communications/callEvents")

    def appear(self, identity: str, **changes: Any) -> Subscription:
        one = Subscription(
            id=identity,
            rule=RULES[1],
            version="beta",
            resource="users/1/communications/callEvents",
            change_type="updated",
            notification_url="https://calls.example.com",
            lifecycle_notification_url=None,
            client_state=changes.pop("client_state", "state"),
            expires=self.clock.now() + 24 * HOUR,
            app_id="",
            tenant_id="",
            user_id=None,
            creator_id="",
            latest_tls_version="v1_2",
            notification_url_app_id=None,
            encryption_certificate_id="c/1",
            **changes,
        )
        self.ledger.appeared(one)
        return one

    def verdict(self) -> list[str]:
        self.ledger.finish()
        return self.ledger.violations()

    def test_a_prompt_creation_is_well(self) -> None:
        self.clock.advance(9 * MINUTE)
        self.appear("a")
        self.clock.advance(23 * HOUR)
        assert self.verdict() == []

    def test_a_late_creation_is_not(self) -> None:
        self.clock.advance(13 * MINUTE)
        self.appear("a")
        assert len(self.verdict()) == 1

    def test_what_never_comes_back_is_not_well(self) -> None:
        one = self.appear("a")
        self.ledger.vanished(one, removed=True)
        self.clock.advance(13 * MINUTE)
        assert len(self.verdict()) == 1

    @pytest.mark.parametrize(("outage", "found"), [(13 * HOUR, 0), (11 * HOUR, 1)])
    def test_a_lapse_is_excused_by_an_outage_of_half_a_life_and_no_less(self, outage: timedelta, found: int) -> None:
        one = self.appear("a")
        self.ledger.disturb("graph", START + 25 * HOUR - outage, START + 25 * HOUR)
        self.clock.advance(25 * HOUR)
        self.ledger.vanished(one, removed=False)
        self.appear("b")
        assert len(self.verdict()) == found

    def test_a_second_one_bridges_the_gap(self) -> None:
        one = self.appear("a")
        self.appear("b")
        self.ledger.vanished(one, removed=True)
        self.clock.advance(HOUR)
        assert self.verdict() == []

    def test_one_with_a_secret_that_is_no_longer_accepted_is_as_good_as_none(self) -> None:
        self.appear("a")
        self.ledger.accept(("newer",))
        self.clock.advance(HOUR)
        assert len(self.verdict()) == 1

    @pytest.mark.parametrize(("hours", "found"), [(16, 0), (17, 1)])
    def test_staying_with_an_old_certificate_is_found(self, hours: int, found: int) -> None:
        """Where only a successor has the new one, the old one may stay for three quarters of its life, twice."""
        one = self.appear("a")
        self.ledger.rotate("c/2")
        self.clock.advance(20 * HOUR)
        one = replace(one, expires=self.clock.now() + 24 * HOUR)
        self.ledger.changed(one)
        self.clock.advance(hours * HOUR)
        self.ledger.vanished(one, removed=True)
        self.appear("b")
        assert len(self.verdict()) == found

    @pytest.mark.parametrize(("tenant_id", "found"), [("", 0), ("another", 1)])
    def test_what_befalls_a_tenant_excuses_no_other(self, tenant_id: str, found: int) -> None:
        self.ledger.disturb("graph", START, START + HOUR, tenant_id)
        self.clock.advance(HOUR)
        self.appear("a")
        assert len(self.verdict()) == found

    @pytest.mark.parametrize(("hours", "found"), [(18.5, 1), (17, 0)])
    def test_refused_renewals_excuse_a_lapse_until_the_last_resort(self, hours: float, found: int) -> None:
        one = self.appear("a")
        self.ledger.disturb("renewals", START, START + 30 * HOUR)
        self.ledger.disturb("graph", START + hours * HOUR, START + 30 * HOUR)
        self.clock.advance(25 * HOUR)
        self.ledger.vanished(one, removed=False)
        self.appear("b")
        assert len(self.verdict()) == found

    @pytest.mark.parametrize(("hours", "beside", "found"), [(17, False, 1), (17, True, 0), (18, False, 0)])
    def test_what_delivers_is_deleted_alone_at_the_last_resort_only(
        self, hours: int, found: int, *, beside: bool
    ) -> None:
        one = self.appear("a")
        self.clock.advance(hours * HOUR)
        if beside:
            self.appear("b")
        self.ledger.vanished(one, removed=False)
        self.appear("c")
        assert len(self.verdict()) == found

    def test_a_change_that_prolongs_nothing_is_no_renewal(self) -> None:
        one = self.appear("a")
        self.clock.advance(17 * HOUR)
        self.ledger.changed(one)
        self.clock.advance(2 * HOUR)
        self.ledger.vanished(one, removed=False)
        self.appear("b")
        assert self.verdict() == []

    def test_key_vault_excuses_no_lapse(self) -> None:
        one = self.appear("a")
        self.ledger.disturb("vault", START, START + 30 * HOUR)
        self.clock.advance(25 * HOUR)
        self.ledger.vanished(one, removed=False)
        self.appear("b")
        assert len(self.verdict()) == 1

    @pytest.mark.parametrize(("other", "found"), [("a", 0), ("b", 1)])
    def test_nobody_can_renew_what_nobody_can_know_of(self, other: str, found: int) -> None:
        """An answer was lost while lists show nothing, and then the one that was made instead has vanished."""
        self.beyond_knowing.add(other)
        one = self.appear("a")
        self.clock.advance(24 * HOUR + 5 * MINUTE)
        self.ledger.vanished(one, removed=False)
        self.appear("c")
        assert len(self.verdict()) == found

    @pytest.mark.parametrize(("hours", "found"), [(26, 0), (20, 1)])
    def test_what_is_forgotten_is_excused_while_no_list_can_be_read(self, hours: int, found: int) -> None:
        one = self.appear("a")
        self.forgotten.add("a")
        self.ledger.disturb("reads", START, START + hours * HOUR)
        self.clock.advance(24 * HOUR + 5 * MINUTE)
        self.ledger.vanished(one, removed=False)
        self.appear("b")
        assert len(self.verdict()) == found

    def test_an_end_without_its_fractions_is_no_new_life(self) -> None:
        """The quarter of its life after which it may be deleted alone is of the life that was granted."""
        one = replace(self.appear("a"), expires=self.clock.now() + 24 * HOUR - timedelta(milliseconds=500))
        self.clock.advance(19 * HOUR)
        self.ledger.changed(one)
        self.ledger.vanished(one, removed=False)
        self.appear("b")
        assert self.verdict() == []

    @pytest.mark.parametrize(("without_turn", "found"), [(0, 1), (1, 0)])
    def test_a_run_that_waits_for_nobody_may_make_a_third(self, without_turn: int, found: int) -> None:
        self.ledger.without_turn = without_turn
        for identity in "abc":
            self.appear(identity)
        assert len(self.verdict()) == found
