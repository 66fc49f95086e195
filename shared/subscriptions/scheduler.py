"""Many actions at once, their calls put together into Graph's batches of 20."""

import asyncio
import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import uniform
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from shared.clock import Clock
from shared.graph.throttling import backoff
from shared.subscriptions.actions import Action, Outcome, Reason, Result, RunContext, Steps, Verb, carry_out, look
from shared.values import graph, graph_errors
from shared.values.errors import NoTurnError, OutOfTimeError, UnavailableError
from shared.values.graph import Call, Reply, Subscription
from shared.values.graph_errors import GraphError, OutcomeUnknownError
from shared.values.resource_row import ApiVersion, PathForm, ResourceKind

if TYPE_CHECKING:
    from shared.graph.client import GraphClient

GRACE: Final = timedelta(seconds=60)  # after the deadline, for what has been begun
_IN_FLIGHT: Final = 4  # batches at a time and tenant: Graph takes about a second for one, and allows more than one
_TRIES: Final = 5
_FOR_ALL_OF_A_KIND: Final = (
    graph_errors.PermissionDeniedError,
    graph_errors.QuotaExceededError,
    graph_errors.EndpointValidationError,
    graph_errors.TranscriptAccessError,
)
_ENOUGH: Final = 3  # after so many different things of a kind were refused in the same way, no others are tried

type _Channel = tuple[str, ApiVersion, bool]
type _Line = tuple[_Channel, bool]


async def no_guard(_: str) -> None:
    """Let every batch go."""


@dataclass(frozen=True, slots=True)
class Posted:
    """An answer to a POST: None where Graph accepted it."""

    tenant_id: str
    kind: ResourceKind
    resource: str
    error: Exception | None


@dataclass(slots=True)
class _Task:
    """An action under way: `call` is what it wants sent next. `turn` and `number` say when."""

    turn: int
    number: int
    action: Action
    steps: Steps
    call: Call
    done: asyncio.Future[Result]
    patient: bool = True  # whether what does not work now is tried again in this run
    begun: bool = False
    tries: int = 0

    @property
    def line(self) -> _Line:
        """Calls of one line can share a batch: a PATCH does not wait for what has to be asked before a POST."""
        return self.call.channel, self.call.method in {"POST", "DELETE"}


@dataclass(slots=True)
class BatchScheduler:
    """Carries actions out, many at a time, while it is entered as a context.

    Tenants, kinds and verbs take turns, each with its most urgent first: thousands of one kind, or a tenant in trouble,
    cannot use up the time of the others. Nothing is begun after the deadline. Before each batch that makes or deletes
    something, `guard` is asked with the tenant; it raises UnavailableError if that may not be done now.
    """

    sender: "GraphClient"
    clock: Clock
    context: RunContext
    deadline: datetime
    guard: Callable[[str], Awaitable[None]] = no_guard
    posted: list[Posted] = field(default_factory=list)
    _ready: defaultdict[_Line, list[tuple[bool, int, int, _Task]]] = field(default_factory=lambda: defaultdict(list))
    _later: list[tuple[datetime, int, _Task]] = field(default_factory=list)  # a heap
    _turn: int = 0
    _last_turns: dict[tuple[str, str, Verb], int] = field(default_factory=dict)
    _numbers: Iterable[int] = field(default_factory=itertools.count)
    _refused: defaultdict[tuple[str, str, type[GraphError]], dict[str, GraphError]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    _closed: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _driving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._driving = asyncio.create_task(self._drive())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._news.set()
        if self._driving is not None:
            if error is not None:
                self._driving.cancel()
            await asyncio.gather(self._driving, return_exceptions=error is not None)

    async def perform(self, actions: Iterable[Action]) -> list[Result]:
        """Carry out actions, the most urgent first, and return once all of them have ended."""
        return list(await asyncio.gather(*self.begin(actions)))

    def begin(self, actions: Iterable[Action]) -> list[asyncio.Future[Result]]:
        """Take on actions, the most urgent first; their results come by and by."""
        return [self._begin(action, carry_out(action, self.context)) for action in actions]

    async def look(self, subscriptions: Iterable[Subscription]) -> list[Result]:
        """Read subscriptions, each once; what cannot be read now has FAILED."""
        results = []
        for subscription in subscriptions:
            tenant_id, kind, expires = subscription.tenant_id, subscription.kind, subscription.expires
            action = Action(Verb.LEAVE, Reason.FRESH, tenant_id, kind, expires, subscription=subscription)
            results.append(self._begin(action, look(action, subscription), patient=False))
        return list(await asyncio.gather(*results))

    def _begin(self, action: Action, steps: Steps, *, patient: bool = True) -> asyncio.Future[Result]:
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        try:
            call = next(steps)
        except StopIteration as end:
            done.set_result(end.value)
        else:
            number = next(iter(self._numbers))
            self._enqueue(_Task(self._next_turn(action), number, action, steps, call, done, patient))
            self._news.set()
        return done

    async def _drive(self) -> None:
        flying: dict[asyncio.Task[None], str] = {}
        signals: set[asyncio.Task[object]] = set()
        try:
            while True:
                self._news.clear()
                self._wake()
                while batch := self._next_batch(Counter(flying.values())):
                    flying[asyncio.create_task(self._send(batch))] = batch[0].call.tenant_id
                if not flying and not self._later and self._closed:
                    return
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
            wait = (self._later[0][0] - self.clock.now()).total_seconds()
            signals.add(asyncio.create_task(self.clock.sleep(max(wait, 0.0))))
        if not self._closed:
            signals.add(asyncio.create_task(self._news.wait()))
        return signals

    def _next_turn(self, action: Action) -> int:
        line = (action.tenant_id, "" if action.kind is None else action.kind.key, action.verb)
        turn = self._last_turns[line] = max(self._last_turns.get(line, -1) + 1, self._turn)
        return turn

    def _enqueue(self, task: _Task) -> None:
        # What has begun goes first, because a subscription may have been deleted for a successor that is still to come.
        heapq.heappush(self._ready[task.line], (not task.begun, task.turn, task.number, task))

    def _wake(self) -> None:
        now = self.clock.now()
        while self._later and self._later[0][0] <= now:
            self._enqueue(heapq.heappop(self._later)[2])

    def _next_batch(self, flying: Mapping[str, int]) -> list[_Task]:
        """Up to 20 calls of the line whose turn it is; each tenant has its own share of batches in flight."""
        batch: list[_Task] = []
        while not batch and (
            lines := [line for line, heap in self._ready.items() if heap and flying.get(line[0][0], 0) < _IN_FLIGHT]
        ):
            heap = self._ready[min(lines, key=lambda line: self._ready[line][0][:3])]
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
        action = task.action
        if action.verb is Verb.CREATE and (refused := self._refusal_of_all(action)) is not None:
            result = Result(action, Outcome.FAILED, None, refused)
        elif self.clock.now() >= self.deadline:
            result = Result(action, Outcome.DEFERRED, action.subscription, OutOfTimeError())
        else:
            task.begun = True
            return False
        task.steps.close()
        task.done.set_result(result)
        return True

    def _refusal_of_all(self, action: Action) -> GraphError | None:
        """What was said to several others of the kind, where it holds for all of them."""
        for sort in _FOR_ALL_OF_A_KIND:
            refused = self._refused.get((action.tenant_id, "" if action.kind is None else action.kind.key, sort))
            if refused is not None and len(refused) >= _ENOUGH:
                return next(iter(refused.values()))
        return None

    async def _send(self, batch: list[_Task]) -> None:
        try:
            replies = await self._answers(batch)
        except Exception as error:  # noqa: BLE001 - whoever waits for these gets it; the others go on
            for task in batch:
                _fail(task, error)
            return
        for task, reply in zip(batch, replies, strict=True):
            if not self._postponed(task, reply):
                self._advance(task, reply)

    async def _answers(self, batch: list[_Task]) -> Sequence[Reply]:
        if batch[0].line[1]:
            try:
                await self.guard(batch[0].call.tenant_id)
            except UnavailableError as error:
                return [error] * len(batch)
        return await self.sender.send([task.call for task in batch])

    def _postponed(self, task: _Task, reply: Reply) -> bool:
        """Whether the call is sent again later, because that may help and does no harm."""
        if not isinstance(reply, UnavailableError) or not task.patient:
            return False
        if isinstance(reply, graph_errors.CredentialError | NoTurnError):
            return False
        if isinstance(reply, OutcomeUnknownError) and task.call.method == "POST":
            return False
        throttled = reply.reason == "throttled"
        task.tries += not throttled  # Graph asks for patience, and the budget limits it
        # Where Graph asks for a pause without saying how long, the sender waits before the next batch.
        unasked = 1.0 if throttled else backoff(task.tries)
        wait = reply.retry_after if reply.retry_after is not None else unasked
        at = self.clock.now() + timedelta(seconds=wait + uniform(0.0, 0.5))  # noqa: S311 - not a secret
        if task.tries >= _TRIES or at > self.deadline + GRACE:
            return False
        heapq.heappush(self._later, (at, task.number, task))
        return True

    def _advance(self, task: _Task, reply: Reply) -> None:
        kind, about = task.action.kind, task.action.desired or task.action.subscription
        form = None if kind is None or about is None else kind.form(about.resource)
        if form is not None and isinstance(reply, graph_errors.PermissionDeniedError):
            reply = graph_errors.PermissionDeniedError(
                f"{reply} (unless Graph says otherwise, {form.permission} is needed; granted? then up to 24 h)"
            )
        elif form is not None and about is not None and isinstance(reply, graph_errors.QuotaExceededError):
            reply = _limit_of_path(reply, form, about.resource)
        if task.call.method == "POST" and kind is not None:
            self._note_answer(task, kind, reply)
        try:
            task.call = task.steps.send(reply)
        except StopIteration as end:
            result: Result = end.value
            if not task.done.done():
                task.done.set_result(result)
            return
        except Exception as error:  # noqa: BLE001 - whoever waits for it gets it; the others go on
            _fail(task, error)
            return
        task.tries = 0
        self._enqueue(task)

    def _note_answer(self, task: _Task, kind: ResourceKind, reply: Reply) -> None:
        if isinstance(reply, graph_errors.SubscriptionConflictError | graph_errors.LifetimeExceededError | NoTurnError):
            return
        resource = str((task.call.body or {}).get("resource"))
        error = reply if isinstance(reply, Exception) else None
        self.posted.append(Posted(task.call.tenant_id, kind, resource, error))
        if isinstance(reply, _FOR_ALL_OF_A_KIND):
            self._refused[task.call.tenant_id, kind.key, type(reply)][resource] = reply


def _limit_of_path(error: graph_errors.QuotaExceededError, form: PathForm, resource: str) -> GraphError:
    """The same, unless it is a limit of this one path: that concerns no other of the kind."""
    of_path = error.limit in {1, form.most_of_all} if error.limit else not error.of_organization
    if not (form.only_one and of_path):
        return error
    of_all = "" if form.most_of_all is None else f", and {form.most_of_all} of all applications together"
    return graph_errors.PathLimitError(
        f"{error} (of {resource} Graph allows one subscription of an application{of_all})",
        all_apps=error.limit is not None and error.limit == form.most_of_all,
    )


def _fail(task: _Task, error: Exception) -> None:
    task.steps.close()
    if not task.done.done():
        task.done.set_exception(error)
