"""Timer triggers: schedule, past-due occurrences, and the status that survives a restart.

Source: "Timer trigger for Azure Functions" (schedule, runOnStartup, useMonitor, isPastDue).
"""

import asyncio
import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from dev.host.errors import FunctionFailedError, LoadError
from dev.host.logs import log_failure
from dev.host.messages import TypedData
from dev.host.schedule import Schedule, parse_schedule, pitfall
from dev.host.waiting import wait_for_event
from dev.host.worker import Function, Worker

_LONGEST_STEP = 30.0  # seconds
_NEVER = datetime.min.replace(tzinfo=UTC)

_logger = logging.getLogger("host")


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Where a timer stands; all times are UTC.

    Attributes:
        schedule: the expression for which the rest holds.
        last: when it last fired; the year 1 if never.
        next: when it is due.
        last_updated: when this was written.
    """

    schedule: str
    last: datetime
    next: datetime
    last_updated: datetime


class TimerStore:
    """The status of all timers of an app, in one JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> Status | None:
        """The status of a timer, if there is one.

        Raises:
            LoadError: the file is not one that this class has written.
        """
        return self._read().get(name)

    def write(self, name: str, status: Status) -> None:
        """Keep the status of a timer."""
        content = msgspec.json.encode(self._read() | {name: status})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        temporary.write_bytes(content)
        temporary.replace(self._path)

    def _read(self) -> dict[str, Status]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Status])
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError as error:
            raise LoadError(f"{self._path} is damaged; delete it to let all timers start afresh: {error}") from error


class TimerListener:
    """Fires one function on its schedule, one invocation at a time."""

    def __init__(self, worker: Worker, function: Function, store: TimerStore, *, stopping: asyncio.Event) -> None:
        """Prepare; `run` starts it.

        Args:
            worker: calls the function.
            function: one with a timerTrigger.
            store: keeps the status of monitored timers.
            stopping: once set, nothing fires any more, and `run` returns when what runs has ended.

        Raises:
            LoadError: its schedule cannot be read.
        """
        self._worker = worker
        self._function = function
        self._store = store
        self._stopping = stopping
        self._expression: str = function.trigger["schedule"]
        try:
            self._schedule: Schedule = parse_schedule(self._expression)
        except ValueError as error:
            raise LoadError(f"function {function.name}: schedule: {error}") from error
        now = datetime.now(UTC)
        if warning := pitfall(self._expression):
            _logger.warning("%s: the schedule %r: %s", function.name, self._expression, warning)
        self._monitored = function.trigger.get("useMonitor", True) and self._schedule.can_be_monitored
        self._status = self._status_after(now, last=_NEVER)
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """Fire on schedule until `stopping` is set.

        Raises:
            LoadError: the kept status is damaged.
        """
        # Counted from here: what came due while the host was starting is not an occurrence that it has missed.
        now = datetime.now(UTC)
        self._status = self._status_after(now, last=_NEVER)
        if self._monitored:
            self._restore()
        is_past_due = self._status.next <= now
        if is_past_due or self._function.trigger.get("runOnStartup", False):
            await self._occur(is_past_due=is_past_due)
        while not await self._stopped_before(self._status.next):
            await self._occur(is_past_due=False)

    async def fire_now(self, _input: str) -> None:
        """Fire outside the schedule, which stays as it is."""
        await self._invoke(is_past_due=False)

    def _restore(self) -> None:
        kept = self._store.read(self._function.name)
        if kept is not None and kept.schedule == self._expression:
            self._status = kept
        else:
            self._store.write(self._function.name, self._status)

    async def _occur(self, *, is_past_due: bool) -> None:
        now = datetime.now(UTC)
        await self._invoke(is_past_due=is_past_due)
        # Counted from the start of the invocation: an occurrence that falls into a long one follows at once.
        self._status = self._status_after(now, last=now)
        if self._monitored:
            self._store.write(self._function.name, self._status)

    async def _invoke(self, *, is_past_due: bool) -> None:
        timer = {
            "Schedule": {"AdjustForDST": True},
            "ScheduleStatus": {
                "Last": self._status.last.isoformat(),
                "Next": self._status.next.isoformat(),
                "LastUpdated": self._status.last_updated.isoformat(),
            },
            "IsPastDue": is_past_due,
        }
        async with self._one_at_a_time:
            try:
                await self._worker.invoke(self._function, TypedData(json=json.dumps(timer)))
            except FunctionFailedError as error:
                log_failure(self._function.name, error)

    async def _stopped_before(self, moment: datetime) -> bool:
        """Wait for a moment; says whether `stopping` came first."""
        while (remaining := (moment - datetime.now(UTC)).total_seconds()) > 0:
            # In steps, because the wall clock can be set and the machine can sleep.
            if await wait_for_event(self._stopping, min(remaining, _LONGEST_STEP)):
                return True
        return self._stopping.is_set()

    def _status_after(self, now: datetime, *, last: datetime) -> Status:
        following = self._schedule.next_after(now)
        return Status(schedule=self._expression, last=last, next=following, last_updated=datetime.now(UTC))
