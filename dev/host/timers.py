"""Timer triggers: what the real host's TimerListener does with a schedule, under a lock that hosts share.

Sources: "Timer trigger for Azure Functions" (schedule, runOnStartup, useMonitor, isPastDue); the timer extension
(Azure/azure-webjobs-sdk-extensions), `TimerListener`; the WebJobs SDK, `FunctionListener` and `SingletonListener`, for
listeners that cannot start.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

from azure.core.exceptions import AzureError

from dev.host.config import SingletonOptions
from dev.host.ending import Activity
from dev.host.errors import FunctionFailedError, LoadError
from dev.host.logs import log_failure
from dev.host.messages import TypedData
from dev.host.schedule import Schedule, parse_schedule, pitfall
from dev.host.singleton import ListenerLock
from dev.host.surroundings import Surroundings
from dev.host.timer_status import NEVER_YET, DamagedStatusError, TimerStatus, TimerStatusStore
from dev.host.waiting import wait_for_event
from dev.host.worker import Function, Invocation, Worker

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobServiceClient

_LONGEST_STEP = 30.0  # seconds
_FIRST_RETRY = 2.0  # seconds after a listener could not start
_LONGEST_RETRY = 120.0
_CANNOT_START = (AzureError, DamagedStatusError, OverflowError)

_logger = logging.getLogger("host")


class Timers:
    """All timers of one host.

    The listeners start by themselves; one that cannot is tried again while the others and the host run.
    """

    def __init__(
        self,
        worker: Worker,
        blobs: "BlobServiceClient",
        host_id: str,
        options: SingletonOptions,
        surroundings: Surroundings,
        *,
        zone: tzinfo = UTC,
        activity: Activity,
        fail: Callable[[str], None],
        stopping: asyncio.Event,
    ) -> None:
        """Prepare; `run` starts them.

        Args:
            worker: calls the functions.
            blobs: where status and locks are; closed by whoever made it.
            host_id: hosts with the same one share locks and status.
            options: host.json's.
            surroundings: wall time and chance.
            zone: in which schedules are meant.
            activity: is told of each firing from its start to the end of its outcome.
            fail: called with a reason when the host cannot go on.
            stopping: once set, the listeners stop when all have started, and `run` returns when what runs has ended.
        """
        self._worker = worker
        self._blobs = blobs
        self._host_id = host_id
        self._options = options
        self._surroundings = surroundings
        self._zone = zone
        self._activity = activity
        self._fail = fail
        self._stopping = stopping
        self._stop_listeners = asyncio.Event()
        self._store = TimerStatusStore(blobs, host_id, zone, surroundings)
        self._listeners: dict[str, _TimerListener] = {}

    def add(self, function: Function) -> None:
        """Add a function with a timerTrigger.

        Raises:
            LoadError: its schedule cannot be read.
        """
        expression: str = function.trigger["schedule"]
        try:
            schedule = parse_schedule(expression, self._zone)
        except ValueError as error:
            raise LoadError(str(error)) from error
        if warning := pitfall(expression):
            _logger.warning("%s: the schedule %r: %s", function.name, expression, warning)
        self._listeners[function.name] = _TimerListener(
            self._worker,
            function,
            schedule,
            store=self._store if function.trigger.get("useMonitor", True) and schedule.can_be_monitored else None,
            lock=ListenerLock(
                self._blobs,
                self._host_id,
                function.name,
                self._surroundings,
                lease_seconds=int(self._options.lock_period.total_seconds()),
                on_loss=self._fail,
            ),
            standby_seconds=self._options.standby_pause.total_seconds(),
            surroundings=self._surroundings,
            zone=self._zone,
            activity=self._activity,
            stopping=self._stop_listeners,
        )

    async def run(self) -> None:
        """Fire on schedule until `stopping` is set."""
        async with asyncio.TaskGroup() as group:
            for listener in self._listeners.values():
                group.create_task(listener.run())
            await self.started()
            await self._stopping.wait()
            self._stop_listeners.set()

    async def started(self) -> None:
        """Return when each listener runs, waits for its lock, or has failed to start a first time."""
        for listener in self._listeners.values():
            await listener.started.wait()

    async def fire_now(self, function: str) -> None:
        """Call a function outside its schedule, which stays as it is, and whichever host has its lock."""
        await self._listeners[function].fire_now()


class _TimerListener:
    """Fires one function on its schedule, one invocation at a time."""

    def __init__(
        self,
        worker: Worker,
        function: Function,
        schedule: Schedule,
        *,
        store: TimerStatusStore | None,
        lock: ListenerLock,
        standby_seconds: float,
        surroundings: Surroundings,
        zone: tzinfo,
        activity: Activity,
        stopping: asyncio.Event,
    ) -> None:
        self.started = asyncio.Event()
        self._worker = worker
        self._function = function
        self._schedule = schedule
        self._store = store
        self._lock = lock
        self._standby_seconds = standby_seconds
        self._surroundings = surroundings
        self._zone = zone
        self._activity = activity
        self._stopping = stopping
        self._status = TimerStatus()

    async def run(self) -> None:
        retries = _Retries(self._surroundings)
        try:
            while not self._stopping.is_set():
                try:
                    has_lock = await self._lock.try_acquire()
                    is_past_due = has_lock and await self._start()
                except _CANNOT_START as error:
                    await self._give_up(error)
                    self.started.set()
                    await wait_for_event(self._stopping, retries.next_pause())
                else:
                    self.started.set()
                    if not has_lock:
                        is_past_due = await self._stand_by()
                    await self._fire_until_stopped(is_past_due=is_past_due)
                    await self._release()
        finally:
            self._lock.abandon()

    async def fire_now(self) -> None:
        try:
            status = None if self._store is None else await self._store.read(self._function.name)
        except (AzureError, DamagedStatusError) as error:
            _logger.error("%s cannot be called: its status: %s", self._function.name, error)  # noqa: TRY400
        else:
            await self._invoke(status, is_past_due=False)

    async def _start(self) -> bool:
        """Find out when the timer is due; says whether it has been already."""
        now = self._surroundings.now()
        fresh = TimerStatus(next=self._schedule.next_after(now))
        if self._store is None:
            self._status = fresh
            return False
        kept = await self._store.read(self._function.name)
        if kept is None:
            await self._keep(TimerStatus(next=fresh.next, last_updated=now))
            self._status = fresh
            return False
        self._status = kept.under(self._schedule, now)
        if self._status is not kept:
            await self._keep(self._status)
        return now > self._status.next

    async def _stand_by(self) -> bool:
        """Look for the lock until it is ours and the listener started, or the host stops; says what `_start` says."""
        while not await wait_for_event(self._stopping, self._standby_seconds):
            try:
                if await self._lock.try_acquire():
                    return await self._start()
            except _CANNOT_START as error:
                await self._give_up(error)
        return False

    async def _fire_until_stopped(self, *, is_past_due: bool) -> None:
        if not self._stopping.is_set() and (is_past_due or self._function.trigger.get("runOnStartup", False)):
            await self._fire(NEVER_YET, is_past_due=is_past_due)
        while not await self._stopped_before(self._status.next):
            await self._fire(self._status.next, is_past_due=False)

    async def _fire(self, due: datetime, *, is_past_due: bool) -> None:
        now = self._surroundings.now()
        with self._activity.of(self._function.name):
            status = None if self._store is None else self._status
            retry_count = 0
            while not (
                await self._invoke(status, is_past_due=is_past_due, retry_count=retry_count)
                or await self._gives_up_after(retry_count)
            ):
                retry_count += 1
            # The start of the invocation counts, so that an occurrence that falls into a long one follows at once. And
            # a timer that fires early, by a clock that differs a little, has not two occurrences at the same time.
            last = max(now, due)
            self._status = TimerStatus(last=last, next=self._schedule.next_after(last), last_updated=last)
            await self._keep(self._status)

    async def _keep(self, status: TimerStatus) -> None:
        if self._store is None:
            return
        try:
            await self._store.write(self._function.name, status)
        except AzureError as error:
            _logger.error(  # noqa: TRY400
                "Function '%s' failed to update the timer trigger status: %s", self._function.name, error.message
            )

    async def _gives_up_after(self, retry_count: int) -> bool:
        """Whether an occurrence has no further try; if it has, this makes the pause before it."""
        retry = self._function.retry
        if retry is None or retry.pause is None or retry_count == retry.times:
            return True
        return await wait_for_event(self._stopping, retry.pause.total_seconds())

    async def _invoke(self, status: TimerStatus | None, *, is_past_due: bool, retry_count: int = 0) -> bool:
        """Call the function; says whether it succeeded."""
        timer = {
            "Schedule": {"AdjustForDST": True},
            "ScheduleStatus": None if status is None else status.as_json(self._zone),
            "IsPastDue": is_past_due,
        }
        try:
            data = TypedData(json=json.dumps(timer))
            await self._worker.invoke(Invocation(function=self._function, data=data, retry_count=retry_count))
        except FunctionFailedError as error:
            log_failure(self._function.name, error)
            return False
        return True

    async def _stopped_before(self, moment: datetime) -> bool:
        """Wait for a moment; says whether `stopping` came first."""
        while (remaining := (moment - self._surroundings.now()).total_seconds()) > 0:
            # In steps, because the wall clock can be set and the machine can sleep.
            if await wait_for_event(self._stopping, min(remaining, _LONGEST_STEP)):
                return True
        return self._stopping.is_set()

    async def _give_up(self, error: Exception) -> None:
        _logger.error(
            "The listener for function 'Functions.%s' was unable to start, and is tried again: %s",
            self._function.name,
            error,
        )
        await self._release()

    async def _release(self) -> None:
        try:
            await self._lock.release()
        except AzureError as error:
            _logger.warning("the lock of %s stays until its lease ends: %s", self._function.name, error.message)


class _Retries:
    """Pauses between attempts to start a listener: 2 seconds, then 2 more, 4, 8, …, with a fifth of randomness."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._random = surroundings.random
        self._growth = 0.0

    def next_pause(self) -> float:
        pause = _FIRST_RETRY + self._growth * self._random.uniform(0.8, 1.2)
        self._growth = min(self._growth * 2 or _FIRST_RETRY, _LONGEST_RETRY)
        return min(pause, _LONGEST_RETRY)
