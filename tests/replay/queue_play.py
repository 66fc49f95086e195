"""Plays a recorded scenario of the real queue listener against ours, in virtual time, and writes down what it did."""

import asyncio
import base64
import contextlib
from collections import defaultdict
from collections.abc import Mapping
from random import Random
from typing import Any

import azure.functions as func

from dev.host.config import QueueOptions
from dev.host.ending import Activity, Ending, wind_down
from dev.host.queues import QueueListener
from dev.host.storage import queue_service
from dev.host.surroundings import Surroundings
from dev.host.worker import Function, Worker
from tests.replay import stage
from tests.replay.stub_queues import Fault, StubQueues
from tests.replay.stub_storage import transport

type Step = dict[str, Any]
type Scenario = Mapping[str, Any]

LEASE_SECONDS = 600


class Even(Random):
    """Chance without surprises: r = 1."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class Play:
    """One playing of a scenario.

    Attributes:
        steps: what was seen, in the vectors' words.
        stub: the queue service.
        ended: when it ended.
    """

    def __init__(self, scenario: Scenario, worker: Worker) -> None:
        self.steps: list[Step] = []
        self.stub = StubQueues(self._record)
        self.ended = 0.0
        self._scenario = scenario
        self._worker = worker
        self._changed = asyncio.Event()
        self._endings: list[Ending] = []
        self._output: Mapping[str, Any] | None = None

    async def run(self) -> str:
        """Play to the end and return what became of the host, in the vectors' words."""
        given = self._scenario["given"]
        for function in given["functions"]:
            if function["queue"] not in given.get("missing", ()):
                self.stub.queues[function["queue"].lower()] = []
        if given.get("poisonQueue"):
            self.stub.queues[f"{given['functions'][0]['queue']}-poison"] = []
        for message in messages(self._scenario):
            self._put(message)
        self.stub.faults = [Fault.of(fault) for fault in given.get("faults", ())]
        # Output bindings are not the listener's: here the function puts by itself.
        self._output = next((function for function in given["functions"] if "output" in function), None)
        stage.let_play(self._play)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._scenario["end"]), asyncio.TaskGroup() as group:
                for _ in range(given.get("hosts", 1)):
                    group.create_task(self._host())
                group.create_task(self._give())
                group.create_task(asyncio.sleep(self._scenario["end"] + 1))
        self.ended = asyncio.get_running_loop().time()
        ending = self._endings[0]
        return "stopped itself" if ending.failed else "stopped as asked" if ending.begun.is_set() else "went on"

    async def _host(self) -> None:
        surroundings = Surroundings(random=Even(), transport=lambda _: transport(self.stub.answer))
        ending, activity = Ending(), Activity()
        self._endings.append(ending)

        def fail(_: str) -> None:
            self._record(fatal=True)
            ending.fail("as played")

        settings = {"AzureWebJobsStorage": "UseDevelopmentStorage=true"}
        wakes: dict[str, asyncio.Event] = {}
        async with queue_service("AzureWebJobsStorage", settings, surroundings) as service:
            listeners = [
                QueueListener(
                    self._worker,
                    Function(
                        name="plain", trigger={"type": "queueTrigger", "name": "msg", "queueName": given["queue"]}
                    ),
                    service,
                    options(self._scenario["options"]),
                    surroundings,
                    activity=activity,
                    lease_seconds=LEASE_SECONDS,
                    stopping=ending.stopping,
                    fail=fail,
                    wakes=wakes,
                )
                for given in self._scenario["given"]["functions"]
            ]
            tasks = [asyncio.create_task(listener.run()) for listener in listeners]
            try:
                await ending.begun.wait()
                await wind_down(tasks, ending, activity, http=asyncio.sleep(0))
                self._record(host="stopped")
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _give(self) -> None:
        """Do what the test did then: each at its time, and not before what had happened until then."""
        happened: defaultdict[str, int] = defaultdict(int)
        for step in self._scenario["observed"]:
            if "given" not in step:
                for kind in ("invoke", "return"):
                    if kind in step:
                        happened[kind] += len(step[kind]) if isinstance(step[kind], list) else 1
                continue
            await asyncio.sleep(step["t"] - asyncio.get_running_loop().time())
            while any(sum(kind in seen for seen in self.steps) < count for kind, count in happened.items()):
                self._changed.clear()
                await self._changed.wait()
            self._do(step)

    def _do(self, step: Step) -> None:
        match step["given"]:
            case "message":
                self._put(step)
            case "fault over":
                self.stub.faults.clear()
            case "connections refused" | "storage stopped":
                self.stub.is_reachable = False
            case "connections accepted" | "storage started":
                self.stub.is_reachable = True
            case "queue created":
                self.stub.queues["work"] = []
            case "queue deleted":
                del self.stub.queues["work"]
            case "lease ended by the test":
                self.stub.end_leases()
            case "SIGTERM":
                self._endings[0].begin()
            case _:
                self.stub.faults.append(Fault.of(step["fault"]))

    def _put(self, message: Mapping[str, Any]) -> None:
        queue = message.get("queue", self._scenario["given"]["functions"][0]["queue"])
        count = self._scenario["given"].get("counts", {}).get(message["id"], 0)
        self.stub.put(queue, message["text"], id=message["id"], dequeue_count=count)

    async def _play(self, message: func.QueueMessage) -> None:
        body = message.get_body().decode()
        self._record(invoke=message.id, dequeueCount=message.dequeue_count, value=body)
        todo = dict(word.partition("=")[::2] for word in body.removeprefix("do:").split(";") if body.startswith("do:"))
        await asyncio.sleep(float(todo.get("sleep", 0)) / 1000)
        if "fail" in todo or (message.dequeue_count or 0) < int(todo.get("failUntil", 0)):
            self._record(**{"return": message.id, "outcome": "failed"})
            raise RuntimeError("as it was told")
        if self._output is not None and message.id == "m1":
            text = in_base64(f"from {self._output['name']}: {body}")
            self.stub.put(self._output["output"], text)
            self._record(call="put", queue=self._output["output"], text=text, status=201)
        self._record(**{"return": message.id, "outcome": "ok"})

    def _record(self, **words: Any) -> None:
        self.steps.append({"t": asyncio.get_running_loop().time()} | words)
        self._changed.set()


def options(given: Mapping[str, Any]) -> QueueOptions:
    """The options of host.json, from the vectors' durations in seconds."""
    spans = {name: _span(given[name]) for name in ("visibilityTimeout", "maxPollingInterval") if name in given}
    words = {**given, **spans}
    return QueueOptions(**{_snake(name): value for name, value in words.items()})


def _span(seconds: float) -> str:
    days, rest = divmod(abs(seconds), 24 * 3600)
    sign = "-" if seconds < 0 else ""
    return f"{sign}{days:.0f}.{rest // 3600:02.0f}:{rest % 3600 // 60:02.0f}:{rest % 60:06.3f}"


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def messages(scenario: Scenario) -> list[Mapping[str, Any]]:
    """The messages that are on the queue at the start."""
    given = scenario["given"].get("messages", [])
    if isinstance(given, list):
        return given
    first, last = (int(given[end][1:]) for end in ("from", "to"))
    return [{"id": f"m{number}", **given["each"]} for number in range(first, last + 1)]


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
