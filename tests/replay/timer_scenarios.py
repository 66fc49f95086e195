"""What the real timer listener was seen to do, played again with ours: virtual time, and a blob service in memory."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from azure.functions.meta import Datum
from azure.functions.timer import TimerRequestConverter

from dev.host.config import SingletonOptions
from dev.host.ending import Activity
from dev.host.errors import FunctionFailedError, LoadError
from dev.host.messages import TypedData
from dev.host.storage import blob_service
from dev.host.surroundings import Surroundings
from dev.host.timer_status import HOSTS_CONTAINER
from dev.host.timers import Timers
from dev.host.worker import Function, IndexedFunction, Invocation, RetryPolicy
from tests.replay.stub_storage import Answer, Request, StubBlobs, transport

CONNECTION = {"AzureWebJobsStorage": "UseDevelopmentStorage=true"}
ANY_DAY = "2026-11-25T12:00:00Z"
_RULE = re.compile(r"(?P<method>\w+) (?P<path>.+): (?P<action>\w+)")
_LATEST = 120  # seconds after its time that an event may wait for what is listed before it


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something that happened in a replay: when (seconds), on which host, to which function."""

    at: float
    host: str
    function: str
    event: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Chance(Random):
    """The given factors one after the other, and 1 from then on."""

    def __init__(self, factors: Sequence[float] = ()) -> None:
        super().__init__()
        self._factors = list(factors)

    def uniform(self, a: float, b: float) -> float:
        return self._factors.pop(0) if self._factors else (a + b) / 2


class Replay:
    """One scenario: its hosts, their storage, and what happened."""

    def __init__(self, scenario: Mapping[str, Any], chance: Sequence[float] = ()) -> None:
        self.entries: list[Entry] = []
        self._scenario = scenario
        self._chance = Chance(chance)
        self._blobs = StubBlobs(HOSTS_CONTAINER)
        self._start = datetime.fromisoformat(scenario.get("start", ANY_DAY))
        self._rules: dict[str, list[re.Match[str]]] = {}
        self._hosts: dict[str, _Host] = {}
        self._invocations = 0
        self._invoked = asyncio.Condition()

    # What happens from outside.

    async def run(self) -> None:
        """Play the scenario, its events at their time and not before the invocations that are listed above them."""
        if _has_lock_from_before(self._scenario):
            self._blobs[self._lock("plain")] = b""
        listed = 0
        try:
            for step in self._scenario["observed"]:
                listed += step["event"] == "invoked"
                if step["event"] in _ACTIONS:
                    await asyncio.sleep(step["at"] - self.now)
                    async with asyncio.timeout(_LATEST), self._invoked:
                        await self._invoked.wait_for(lambda listed=listed: self._invocations >= listed)
                    await _ACTIONS[step["event"]](self, step)
            await asyncio.sleep(self._scenario["observed"][-1]["at"] - self.now)
            await self._stops()
        finally:
            for host in self._hosts.values():
                host.kill()

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def seconds(self, moment: datetime | str) -> float:
        """A moment in seconds from the start."""
        moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        return (moment - self._start).total_seconds()

    async def invocation(self, function: str) -> tuple[float, bool]:
        """How long the next invocation takes, and whether it fails then."""
        seconds, throws = (_of(self._scenario.get(key), function) for key in ("seconds", "throws"))
        index = self._invocations
        self._invocations += 1
        async with self._invoked:
            self._invoked.notify_all()
        return float(_at(seconds, index) or 0), bool(_at(throws, index))

    def note(self, host: str, function: str, event: str, **data: Any) -> None:
        self.entries.append(Entry(at=self.now, host=host, function=function, event=event, data=data))

    async def answer(self, host: str, request: Request) -> Answer:
        """Storage's answer to a host, or a planned one."""
        answer = None
        for rule in (*self._rules.get("", ()), *self._rules.get(host, ())):
            if rule["method"] in {"any", request.method} and re.search(rule["path"], request.path):
                if rule["action"] == "reset":
                    raise ConnectionResetError("planned")
                answer = Answer(status=int(rule["action"]), code="Planned")
        answer = answer or await self._blobs.answer(request)
        self.note(host, "", "request", what=f"{_described(request)} -> {answer.status}")
        return answer

    async def _start_host(self, step: Mapping[str, Any]) -> None:
        name = step.get("host", "")
        surroundings = Surroundings(
            now=lambda: self._start + timedelta(seconds=self.now),
            random=self._chance,
            transport=lambda _: transport(lambda request: self.answer(name, request)),
        )
        self._hosts[name] = _Host(self, name, self._scenario, step["listenerAt"], surroundings=surroundings)

    async def _set_rules(self, step: Mapping[str, Any]) -> None:
        rules = [] if step["rule"] == "well" else step["rule"]
        self._rules[step.get("host", "")] = [match for rule in rules if (match := _RULE.fullmatch(rule))]
        assert len(self._rules[step.get("host", "")]) == len(rules)

    async def _preset(self, step: Mapping[str, Any]) -> None:
        text = (
            step["text"]
            if "text" in step
            else json.dumps(
                {
                    "Last": self._moment(step["status"]["last"]),
                    "Next": self._moment(step["status"]["next"]),
                    "LastUpdated": self._moment(step["status"]["lastUpdated"]),
                }
            )
        )
        self._blobs[self._status(step.get("function", "plain"))] = text.encode()

    async def _delete(self, _: Mapping[str, Any]) -> None:
        del self._blobs[self._status("plain")]

    async def _break(self, _: Mapping[str, Any]) -> None:
        self._blobs.break_lease(self._lock("plain"))

    async def _terminate(self, step: Mapping[str, Any]) -> None:
        self._hosts[step.get("host", "")].stopping.set()

    async def _kill(self, step: Mapping[str, Any]) -> None:
        self._hosts[step.get("host", "")].kill()

    async def _call(self, step: Mapping[str, Any]) -> None:
        self._hosts[step.get("host", "")].call("plain")

    async def _look(self, step: Mapping[str, Any]) -> None:
        """Note what storage holds; after a stop, when it is over."""
        await self._stops()
        status, lock = self._status(step.get("function", "plain")), self._lock("plain")
        content = self._blobs[status]
        self.note(
            "",
            step.get("function", ""),
            step["event"],
            status=None if content is None else content.decode(),
            lock=self._blobs.lease_state(lock) if lock in self._blobs.names else None,
            names=self._blobs.names,
            step=step,
        )

    async def _stops(self) -> None:
        for host in self._hosts.values():
            if host.stopping.is_set():
                await host.end()

    def _moment(self, value: float | str) -> str:
        if value == "never":
            return "0001-01-01T00:00:00+00:00"
        return value if isinstance(value, str) else (self._start + timedelta(seconds=value)).isoformat()

    def _host_id(self) -> str:
        return next(iter(self._scenario.get("hostIds", {"": "HOST_ID"}).values()))

    def _status(self, function: str) -> str:
        return f"timers/{self._host_id()}/Host.Functions.{function}/status"

    def _lock(self, function: str) -> str:
        return f"locks/{self._host_id()}/Host.Functions.{function}.Listener"


_ACTIONS = {
    "host process started": Replay._start_host,
    "storage": Replay._set_rules,
    "status preset": Replay._preset,
    "status blob deleted": Replay._delete,
    "lease broken from outside": Replay._break,
    "SIGTERM sent": Replay._terminate,
    "SIGKILL sent": Replay._kill,
    "manual call": Replay._call,
    "status blob": Replay._look,
    "raw status blob": Replay._look,
    "lock blob": Replay._look,
    "blobs": Replay._look,
}


class _Host:
    """One host process: its listeners, in this process."""

    def __init__(
        self, replay: Replay, name: str, scenario: Mapping[str, Any], at: float, *, surroundings: Surroundings
    ) -> None:
        self.stopping = asyncio.Event()
        self._replay = replay
        self._name = name
        self._scenario = scenario
        self._surroundings = surroundings
        self._timers: Timers | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._run(at))

    async def end(self) -> None:
        async with asyncio.timeout(_LATEST):
            await asyncio.wait([self._task])

    def kill(self) -> None:
        for task in (self._task, *self._calls):
            task.cancel()

    def call(self, function: str) -> None:
        assert self._timers is not None
        self._calls.add(asyncio.create_task(self._timers.fire_now(function)))

    async def _run(self, at: float) -> None:
        await asyncio.sleep(at - self._replay.now)
        zone: tzinfo = ZoneInfo(self._scenario["timeZone"]) if "timeZone" in self._scenario else UTC
        host_id = self._scenario.get("hostIds", {}).get(self._name, "HOST_ID")
        async with AsyncExitStack() as resources:
            blobs = await resources.enter_async_context(
                blob_service("AzureWebJobsStorage", CONNECTION, self._surroundings)
            )
            logs = _Logs(self._replay, self._name)
            logging.getLogger("host").addHandler(logs)
            resources.callback(logging.getLogger("host").removeHandler, logs)
            worker = _Worker(self._replay, self._name)
            timers = Timers(
                worker,
                blobs,
                host_id,
                SingletonOptions(),
                self._surroundings,
                zone=zone,
                activity=Activity(),
                fail=self._fail,
                stopping=self.stopping,
            )
            for function in self._functions():
                try:
                    timers.add(Function.of(function, self._scenario.get("settings", {})))
                except LoadError:
                    self._replay.note(self._name, function.name, "function disabled")
            self._timers = timers
            await timers.run()
            self._replay.note(self._name, "", "process ended")

    def _functions(self) -> Iterator[IndexedFunction]:
        schedules = self._scenario["schedule"]
        schedules = schedules if isinstance(schedules, Mapping) else {"plain": schedules}
        for name, schedule in schedules.items():
            trigger = {
                "type": "timerTrigger",
                "name": "timer",
                "schedule": schedule,
                "useMonitor": self._scenario.get("useMonitor", True),
                "runOnStartup": self._scenario.get("runOnStartup", False),
            }
            declared = self._scenario.get("retry")
            retry = declared and RetryPolicy(times=declared["times"], pause=timedelta(seconds=declared["seconds"]))
            yield IndexedFunction(name=name, bindings=[trigger], retry=retry)

    def _fail(self, _: str) -> None:
        self._replay.note(self._name, "", "unhandled exception handler")
        self.stopping.set()


class _Worker:
    """Calls functions that do what the scenario says."""

    def __init__(self, replay: Replay, host: str) -> None:
        self._replay = replay
        self._host = host

    async def invoke(self, invocation: Invocation) -> TypedData | None:
        # As the production library does it.
        timer = TimerRequestConverter.decode(Datum(invocation.data.json, "json"), trigger_metadata=None)
        status = {_lower(name): self._replay.seconds(value) for name, value in timer.schedule_status.items()}
        note = self._replay.note
        name = invocation.function.name
        note(self._host, name, "invoked", isPastDue=timer.past_due, status=status)
        seconds, throws = await self._replay.invocation(name)
        await asyncio.sleep(seconds)
        note(self._host, name, "throws" if throws else "returned")
        if throws:
            raise FunctionFailedError("planned", "")
        return None


class _Logs(logging.Handler):
    """Notes what a host says of failures."""

    def __init__(self, replay: Replay, host: str) -> None:
        super().__init__(logging.ERROR)
        self._replay = replay
        self._host = host

    def emit(self, record: logging.LogRecord) -> None:
        for event, text in (("listener failed", "listener"), ("status write failed", "failed to update")):
            if text in record.msg:
                assert isinstance(record.args, tuple)
                self._replay.note(self._host, str(record.args[0]), event)


def _of(plan: Any, function: str) -> Any:
    return plan.get(function) if isinstance(plan, Mapping) else plan


def _at(plan: Sequence[Any] | None, index: int) -> Any:
    return plan[min(index, len(plan) - 1)] if plan else None


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def _described(request: Request) -> str:
    _, _, name = request.path.partition("/")
    what = "CONTAINER" if not name else "LOCK" if name.startswith("locks/") else "STATUS"
    lease = request.headers.get("x-ms-lease-action")
    return f"{request.method} {what}" + (f" lease {lease}" if lease else "")


def _has_lock_from_before(scenario: Mapping[str, Any]) -> bool:
    requests = [each for step in scenario["observed"] if step["event"] == "requests" for each in step["list"]]
    return any("HEAD LOCK -> 200" in each for each in requests) and not any("PUT LOCK -> " in each for each in requests)
