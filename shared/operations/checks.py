"""The checks of a running app: one list for health, the status page, `doctor` and the runbook.

Each check says how something is, what it found and, where that is not well, what to do. Health fails where one of
`AppChecks.of_health` is bad; the status page and `doctor` go by all of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from shared.notifications.poison import POISON_QUEUES, PoisonStates
from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.operations.activity import MINUTES, recent_activity
from shared.operations.function_runs import OVERDUE_AFTER, QUEUE_FUNCTIONS, FunctionRuns, Runs
from shared.operations.limits import POISON, RAW_MESSAGES, RENEWAL, Level, Limit
from shared.storage.ports import Blobs, Queues
from shared.subscriptions.renewal_state import Renewals, RenewalState, RenewalStates
from shared.telemetry import Happening
from shared.values.graph_errors import SIGN_IN_REQUIRED, TranscriptAccessError
from shared.values.times import span

if TYPE_CHECKING:
    from shared.key_vault import KeyVaultCertificates

MAX_QUARANTINED: Final = 5000
"""Where counting what lies in quarantine stops: one page of a list."""

_LOGIN: Final = "python manage.py login"
_CONFIRM: Final = "python manage.py subscriptions confirm shows them; put back into the desired state what is to stay"
_ORDER: Final = (Level.BAD, Level.ATTENTION)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What a check has found, and what to do about it; `reason` is a short, stable word, where it is not well."""

    level: Level
    finding: str
    remedy: str | None = None
    reason: str | None = None


type NamedChecks = Mapping[str, Callable[[], Awaitable[Check]]]
"""Checks by name. The names are stable: status, `doctor` and logs carry them."""


def worst(levels: Iterable[Level]) -> Level:
    """The worst of them; well if there is none."""
    levels = set(levels)
    return next((level for level in _ORDER if level in levels), Level.WELL)


def check_renewal(renewals: Renewals, now: datetime) -> Check:
    """Whether renewal runs come to their end, and find all subscriptions alive."""
    state, trouble = renewals.last, renewals.trouble(now)
    if trouble is not None:
        return Check(level=Level.BAD, finding=trouble.text, remedy=_remedy_for([trouble.text]), reason=trouble.reason)
    if state is None:
        finding = "no renewal run has finished yet"
        return Check(level=Level.BAD, finding=finding, remedy=RENEWAL.remedy, reason="no-run")
    return _check_last_run(state, now)


def _check_last_run(state: RenewalState, now: datetime) -> Check:
    ago = now - state.finished
    level, finding = RENEWAL.level(ago), f"the last run was {span(ago)} ago"
    if level is Level.BAD:
        finding = f"the renewal timer does not run: {finding}"
        return Check(level=level, finding=finding, remedy=RENEWAL.remedy, reason="overdue")
    if state.nearest_expiry is not None and state.nearest_expiry <= now:
        return Check(level=Level.BAD, finding="a subscription has lapsed", remedy=_remedy_for(()), reason="lapsed")
    if state.failures:
        finding = f"the last run, {span(ago)} ago: {'; '.join(state.failures)}"
        return Check(level=Level.BAD, finding=finding, remedy=_remedy_for(state.failures), reason="failures")
    if level is Level.ATTENTION:
        return Check(level=level, finding=finding, remedy=RENEWAL.remedy, reason="late")
    if state.waiting:
        finding = f"{state.waiting} that nobody desires any more wait for a confirmation"
        return Check(level=Level.ATTENTION, finding=finding, remedy=_CONFIRM, reason="waiting")
    return Check(level=level, finding=finding)


def check_functions(runs: Runs | None, now: datetime) -> Check:
    """Whether the host still calls every timer: a wrong schedule or a setting disables one, and nothing fails."""
    if runs is None:
        return Check(level=Level.WELL, finding="none has been called yet")
    overdue = runs.overdue(now)
    if overdue:
        finding = ", ".join(
            f"{function} has not run {'once in' if last is None else 'for'} {span(now - (last or runs.since))}"
            for function, last in overdue.items()
        )
        remedy = (
            f"see that there is no setting AzureWebJobs.{next(iter(overdue))}.Disabled, and that the host takes its "
            "schedule: one that is wrong or whose setting is missing disables it alone, as the host's log says when it "
            "starts"
        )
        return Check(level=Level.BAD, finding=finding, remedy=remedy, reason="not-called")
    lately = ", ".join(f"{function} {span(now - last)} ago" for function, last in runs.last.items())
    never = ", ".join(function for function in (*OVERDUE_AFTER, *QUEUE_FUNCTIONS) if function not in runs.last)
    parts = (lately, never and f"not yet: {never}")
    return Check(level=Level.WELL, finding="; ".join(part for part in parts if part))


def check_ages(ages: Mapping[str, timedelta], limits: Mapping[str, Limit], reason: str) -> Check:
    """Whether the oldest message of each queue has waited for longer than it may. `ages` holds queues with messages."""
    levels = {queue: limits[queue].level(age) for queue, age in ages.items()}
    level = worst(levels.values())
    if level is Level.WELL:
        return Check(level=level, finding=f"the oldest has waited for {span(max(ages.values()))}" if ages else "none")
    late = {queue: age for queue, age in ages.items() if levels[queue] is not Level.WELL}
    finding = ", ".join(f"{queue} has waited for {span(age)}" for queue, age in late.items())
    remedies = dict.fromkeys(limits[queue].remedy for queue in late if levels[queue] is level)
    return Check(level=level, finding=finding, remedy="; ".join(remedies), reason=reason)


def check_quarantine(count: int) -> Check:
    """Whether nothing is parked: what is waits for somebody, and for nothing else."""
    if not count:
        return Check(level=Level.WELL, finding="empty")
    more = " or more" if count >= MAX_QUARANTINED else ""
    remedy = "python manage.py quarantine list says why; python manage.py quarantine replay --all tries again"
    return Check(level=Level.BAD, finding=f"{count:,}{more} in quarantine", remedy=remedy, reason="quarantine")


def check_reception(received: int, refused: Mapping[str, int]) -> Check:
    """Whether notifications are not refused alone; anybody can send what is refused."""
    finding = f"{received:,} accepted in the last {MINUTES} minutes"
    if refused:
        finding += f", refused: {', '.join(f'{count:,} {reason}' for reason, count in refused.items())}"
    if received or not refused:
        return Check(level=Level.WELL, finding=finding)
    remedy = "anybody can send what is refused; if it is Graph's, see Refusals in docs/operations.md"
    return Check(level=Level.ATTENTION, finding=finding, remedy=remedy, reason="refused")


@dataclass(frozen=True, slots=True)
class AppChecks:
    """The checks of an app that has its settings. `now` is the clock, aware.

    Each raises UnavailableError where storage, or for `key_vault` Key Vault, does not answer.
    """

    queues: Queues
    blobs: Blobs
    certificates: "KeyVaultCertificates"
    renewals: RenewalStates
    runs: FunctionRuns
    poison_ages: PoisonStates
    consumer_limits: Mapping[str, Limit]
    now: Callable[[], datetime]

    @property
    def of_health(self) -> NamedChecks:
        """Those that make health fail."""
        return {"keyVault": self.key_vault, **self._of_the_app}

    @property
    def of_operation(self) -> NamedChecks:
        """All that tell how the app does; Key Vault is looked at more closely by `doctor`."""
        return {
            **self._of_the_app,
            "consumers": self.consumers,
            "reception": self.reception,
            "quarantine": self.quarantine,
        }

    @property
    def _of_the_app(self) -> NamedChecks:
        return {
            "renewal": self.renewal,
            "functions": self.functions,
            "rawMessages": self.raw_messages,
            "poison": self.poison,
        }

    async def key_vault(self) -> Check:
        """Whether Key Vault answers and has the certificate; whether it opens, the last renewal run says."""
        if await self.certificates.exists():
            return Check(level=Level.WELL, finding="answers")
        return Check(
            level=Level.BAD,
            finding="Key Vault has no version of the certificate",
            remedy="python manage.py doctor says how to make one",
            reason="no-usable-certificate",
        )

    async def renewal(self) -> Check:
        return check_renewal(await self.renewals.latest(), self.now())

    async def functions(self) -> Check:
        return check_functions(await self.runs.latest(), self.now())

    async def raw_messages(self) -> Check:
        """Whether every raw message is soon handled."""
        return check_ages(await self._ages(RAW_MESSAGES), RAW_MESSAGES, "late")

    async def poison(self) -> Check:
        """Whether the timer gets the poison queues empty; anything there was authentic, and ends after seven days."""
        left, ages = await self.poison_ages.oldest(), await self._ages(POISON_QUEUES)
        now = self.now()
        for queue, since in left.items():  # leased, and so not seen at the front
            ages[queue] = max(now - since, ages.get(queue, timedelta(0)))
        return check_ages(ages, dict.fromkeys(ages, POISON), "poison")

    async def consumers(self) -> Check:
        """Whether consumers take their events, and have given none up."""
        return check_ages(await self._ages(self.consumer_limits), self.consumer_limits, "consumers")

    async def reception(self) -> Check:
        activity = await recent_activity(self.blobs, self.now())
        refused = {reason: sum(counts) for reason, counts in activity[Happening.REFUSED].items()}
        return check_reception(sum(map(sum, activity[Happening.RECEIVED].values())), refused)

    async def quarantine(self) -> Check:
        count = 0
        async for _ in self.blobs.list(QUARANTINE_CONTAINER):
            count += 1
            if count == MAX_QUARANTINED:
                break
        return check_quarantine(count)

    async def _ages(self, queues: Iterable[str]) -> dict[str, timedelta]:
        """How long the message at the front of each queue lies there; of queues that have one."""
        names = tuple(queues)
        fronts = await asyncio.gather(*(self.queues.oldest(queue) for queue in names))
        now = self.now()
        return {queue: now - front for queue, front in zip(names, fronts, strict=True) if front is not None}


def _remedy_for(failures: Iterable[str]) -> str:
    known = {SIGN_IN_REQUIRED: f"run: {_LOGIN}", TranscriptAccessError.reason_of_class: TranscriptAccessError.REMEDY}
    told = "; ".join(failures)
    remedies = [remedy for reason, remedy in known.items() if reason in told]
    return "; ".join(remedies) or "python manage.py doctor and the log of renew_subscriptions say what is in the way"
