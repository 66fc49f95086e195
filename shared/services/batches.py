"""Many actions at once, their calls put together into Graph's batches of 20."""

import asyncio
import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import uniform
from typing import Final, Protocol

from shared.clock import Clock
from shared.domain import graph
from shared.domain.errors import UnavailableError
from shared.domain.execution import Outcome, Result, Steps, Terms, carry_out
from shared.domain.graph import ApiVersion, Call, GraphError, OutcomeUnknownError, Reply
from shared.domain.subscriptions import Action, Verb

GRACE: Final = timedelta(seconds=60)  # after the deadline, for what has been begun
_IN_FLIGHT: Final = 4  # batches at a time and tenant: Graph takes about a second for one, and allows more than one
_TRIES: Final = 5
_FOR_ALL_OF_A_KIND: Final = (graph.PermissionDeniedError, graph.QuotaExceededError, graph.EndpointValidationError)

type _Channel = tuple[str, ApiVersion, bool]


class Sender(Protocol):
    """What sends a batch; see `shared.adapters.graph.GraphClient.send`."""

    async def send(self, calls: Sequence[Call]) -> list[Reply]: ...


@dataclass(slots=True)
class _Task:
    """An action under way: `call` is what it wants sent next. `turn` and `number` say when."""

    turn: int
    number: int
    action: Action
    steps: Steps
    call: Call
    begun: bool = False
    tries: int = 0


class Batches:
    """Carries actions out, and may be given more of them meanwhile.

    Tenants, kinds and verbs take turns, each with its most urgent first: thousands of one kind, or a tenant in trouble,
    cannot use up the time of the others. Nothing is begun after the deadline.
    """

    def __init__(self, sender: Sender, clock: Clock, terms: Terms, deadline: datetime) -> None:
        self._sender = sender
        self._clock = clock
        self._terms = terms
        self._deadline = deadline
        self._ready: defaultdict[_Channel, list[tuple[bool, int, int, _Task]]] = defaultdict(list)  # heaps
        self._later: list[tuple[datetime, int, _Task]] = []  # a heap
        self._turn = 0
        self._last_turns: dict[tuple[str, str, Verb], int] = {}
        self._numbers = itertools.count()
        self._results: list[Result] = []
        self._refused: dict[tuple[str, str], GraphError] = {}
        self._closed = False
        self._news = asyncio.Event()

    def add(self, actions: Iterable[Action]) -> None:
        """Take on more actions, the most urgent first."""
        for action in actions:
            steps = carry_out(action, self._terms)
            try:
                call = next(steps)
            except StopIteration as end:
                self._results.append(end.value)
            else:
                self._enqueue(_Task(self._next_turn(action), next(self._numbers), action, steps, call))
        self._news.set()

    def close(self) -> None:
        """Say that no more will come."""
        self._closed = True
        self._news.set()

    async def run(self) -> list[Result]:
        """Carry out all that was and will be added; return once it is done and `close` was called."""
        flying: dict[asyncio.Task[None], str] = {}
        signals: set[asyncio.Task[object]] = set()
        try:
            while True:
                self._news.clear()
                self._wake()
                while batch := self._next_batch(Counter(flying.values())):
                    flying[asyncio.create_task(self._send(batch))] = batch[0].call.tenant_id
                if not flying and not self._later and self._closed:
                    return self._results
                signals = self._signals()
                await asyncio.wait({*flying, *signals}, return_when=asyncio.FIRST_COMPLETED)
                for sent in [sent for sent in flying if sent.done()]:
                    del flying[sent]
                    sent.result()
                for signal in signals:
                    signal.cancel()
        finally:
            for task in (*flying, *signals):
                task.cancel()

    def _signals(self) -> set[asyncio.Task[object]]:
        """What besides an answer there is to wait for: the time of the next postponed call, and more actions."""
        signals: set[asyncio.Task[object]] = set()
        if self._later:
            wait = (self._later[0][0] - self._clock.now()).total_seconds()
            signals.add(asyncio.create_task(self._clock.sleep(max(wait, 0.0))))
        if not self._closed:
            signals.add(asyncio.create_task(self._news.wait()))
        return signals

    def _next_turn(self, action: Action) -> int:
        line = (action.tenant_id, "" if action.kind is None else action.kind.key, action.verb)
        turn = self._last_turns[line] = max(self._last_turns.get(line, -1) + 1, self._turn)
        return turn

    def _enqueue(self, task: _Task) -> None:
        # What has been begun goes first: a deleted subscription waits for its successor.
        heapq.heappush(self._ready[task.call.channel], (not task.begun, task.turn, task.number, task))

    def _wake(self) -> None:
        now = self._clock.now()
        while self._later and self._later[0][0] <= now:
            self._enqueue(heapq.heappop(self._later)[2])

    def _next_batch(self, flying: Mapping[str, int]) -> list[_Task]:
        """Up to 20 calls of the channel whose turn it is; each tenant has its own share of batches in flight."""
        batch: list[_Task] = []
        while not batch and (
            channels := [
                channel for channel, heap in self._ready.items() if heap and flying.get(channel[0], 0) < _IN_FLIGHT
            ]
        ):
            heap = self._ready[min(channels, key=lambda channel: self._ready[channel][0][:3])]
            while heap and len(batch) < graph.BATCH_SIZE:
                task = heapq.heappop(heap)[3]
                self._turn = max(self._turn, task.turn)
                if not self._turned_away(task):
                    batch.append(task)
        return batch

    def _turned_away(self, task: _Task) -> bool:
        """Whether it is no use, or too late, to begin."""
        if task.begun:
            return False
        kind = task.action.kind
        refused = self._refused.get((task.action.tenant_id, kind.key)) if kind is not None else None
        if refused is not None and task.action.verb is Verb.CREATE:
            self._results.append(Result(task.action, Outcome.FAILED, None, refused))
        elif self._clock.now() >= self._deadline:
            error = UnavailableError("the run's time", reason="out-of-time")
            self._results.append(Result(task.action, Outcome.DEFERRED, task.action.subscription, error))
        else:
            task.begun = True
            return False
        task.steps.close()
        return True

    async def _send(self, batch: list[_Task]) -> None:
        replies = await self._sender.send([task.call for task in batch])
        for task, reply in zip(batch, replies, strict=True):
            if not self._postponed(task, reply):
                self._advance(task, reply)

    def _postponed(self, task: _Task, reply: Reply) -> bool:
        """Whether the call is sent again later, because that may help and does no harm."""
        if not isinstance(reply, UnavailableError) or isinstance(reply, graph.CredentialError):
            return False
        if isinstance(reply, OutcomeUnknownError) and task.call.method == "POST":
            return False
        task.tries += reply.reason != "throttled"  # Graph asks for patience, and the budget limits it
        wait = reply.retry_after if reply.retry_after is not None else 2.0 ** min(task.tries, 5)
        at = self._clock.now() + timedelta(seconds=wait + uniform(0.0, 0.5))  # noqa: S311 - not a secret
        if task.tries >= _TRIES or at > self._deadline + GRACE:
            return False
        heapq.heappush(self._later, (at, task.number, task))
        return True

    def _advance(self, task: _Task, reply: Reply) -> None:
        kind = task.action.kind
        if isinstance(reply, graph.PermissionDeniedError) and kind is not None:
            reply = graph.PermissionDeniedError(f"{kind.permission} is needed: {reply}")
        try:
            task.call = task.steps.send(reply)
        except StopIteration as end:
            result: Result = end.value
            if task.call.method == "POST" and kind is not None and isinstance(result.error, _FOR_ALL_OF_A_KIND):
                self._refused[task.action.tenant_id, kind.key] = result.error
            self._results.append(result)
            return
        task.tries = 0
        self._enqueue(task)
