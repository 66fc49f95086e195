"""Make Graph's subscriptions equal the desired ones, and renew each in time.

A run lists, plans and acts; it stores nothing, so any run may be interrupted, repeated or overlapped by another. What
depends on something that is down is left for the next run, and everything else is still done: live subscriptions are
renewed even while Key Vault is away or the desired state cannot be read.
"""

import asyncio
import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import uniform
from typing import Final, Protocol

from shared.clock import Clock
from shared.domain import graph
from shared.domain.desired import DesiredState, call_events_of
from shared.domain.errors import MalformedInputError, SwitchboardError, UnavailableError
from shared.domain.execution import Outcome, Result, Steps, Terms, carry_out
from shared.domain.graph import ApiVersion, Call, GraphError, OutcomeUnknownError, Reply, Subscription
from shared.domain.subscriptions import (
    Action,
    Desired,
    EncryptionCertificate,
    Endpoint,
    Lifetimes,
    Reason,
    Verb,
    plan,
)

BATCH_SIZE: Final = 20
TIME_BUDGET: Final = timedelta(minutes=8)  # of the ten that host.json gives a function
_IN_FLIGHT: Final = (
    4  # batches at a time and tenant: Graph takes about a second for one, and allows more than one a second
)
_TRIES: Final = 5
_ONE_BUDGET: Final = timedelta(seconds=60)  # for a single subscription
_GRACE: Final = timedelta(seconds=60)  # after the budget, for what has been begun
_ROUNDS: Final = 3  # lists per run: one to plan by, the others for creations of unknown outcome
_LISTED_FAILURES: Final = 100


class Graph(Protocol):
    """What renewal asks of Microsoft Graph; see `shared.adapters.graph.GraphClient`."""

    async def list_subscriptions(self, tenant_id: str) -> tuple[Subscription, ...]: ...

    async def send(self, calls: Sequence[Call]) -> list[Reply]: ...

    async def subscription(self, tenant_id: str, subscription_id: str) -> Subscription: ...

    async def group_members(self, tenant_id: str, group_id: str) -> tuple[str, ...]: ...


class Certificates(Protocol):
    """Where the current encryption certificate comes from."""

    async def current(self) -> EncryptionCertificate:
        """The newest version; raises UnavailableError."""
        ...


class DesiredSource(Protocol):
    """Where the desired state comes from."""

    async def load(self) -> DesiredState:
        """Read it; raises DesiredStateError or UnavailableError."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """What was not done, `count` times for a tenant, kind and reason; `subscription_id` and `detail` are of one."""

    tenant_id: str
    kind: str
    reason: str
    count: int
    detail: str
    subscription_id: str | None = None


@dataclass(frozen=True, slots=True)
class RenewalReport:
    """What a run did. `nearest` is the shortest remaining life among the live subscriptions of ours at its end."""

    started: datetime
    finished: datetime
    desired: int
    live: int
    outcomes: Mapping[Outcome, int]
    failures: tuple[Failure, ...]
    nearest: timedelta | None

    @property
    def complete(self) -> bool:
        """Whether everything desired is as it should be."""
        return not self.failures


class Renewal:
    """Runs of one process; only one at a time, for they would do each other's work."""

    def __init__(
        self,
        *,
        graph: Graph,
        certificates: Certificates,
        desired: DesiredSource,
        endpoint: Endpoint,
        tenant_ids: Iterable[str],
        clock: Clock,
        budget: timedelta = TIME_BUDGET,
    ) -> None:
        self._graph = graph
        self._certificates = certificates
        self._desired = desired
        self._endpoint = endpoint
        self._tenant_ids = tuple(sorted(tenant_ids))
        self._clock = clock
        self._budget = budget
        self._lifetimes = Lifetimes()
        self._lock = asyncio.Lock()
        self._next: _Pending | None = None

    async def run(self, *, prune: bool = False) -> RenewalReport:
        """Do all that is to be done.

        Args:
            prune: delete what is ours and not desired; not done while the desired state is not fully known.

        Raises:
            UnavailableError: nothing at all could be done.
        """
        async with self._lock:
            return await self._run(self._tenant_ids, prune=prune)

    async def resync(self, tenant_id: str, *, gone: str | None = None) -> RenewalReport:
        """Do all that is to be done in one tenant; callers that have to wait for their turn share one run.

        Args:
            tenant_id: one of the tenants served.
            gone: the id of a subscription that Graph said it has removed, should its list still show it.

        Raises:
            UnavailableError: nothing at all could be done.
            MalformedInputError: the tenant is not served.
        """
        self._check_served(tenant_id)
        pending = self._next
        if pending is None:
            pending = self._next = _Pending()
            pending.run = asyncio.create_task(self._run_next(pending))
        pending.tenant_ids.add(tenant_id)
        if gone is not None:
            pending.gone.add(gone)
        return await asyncio.shield(pending.run)  # one caller's time-out must not fail the others

    async def reauthorize(self, tenant_id: str, subscription_id: str) -> Outcome:
        """Prolong one subscription now, which also reauthorizes it ("Lifecycle notifications").

        Only PATCH is used: together with `/reauthorize` within ten minutes it would be refused.

        Returns:
            RENEWED; LEFT where it is not ours; GONE where Graph does not have it.

        Raises:
            UnavailableError: Graph or Entra ID did not answer.
            GraphError: Graph refuses.
            MalformedInputError: the tenant is not served.
        """
        self._check_served(tenant_id)
        try:
            found = await self._graph.subscription(tenant_id, subscription_id)
        except graph.SubscriptionNotFoundError:
            return Outcome.GONE
        actions = plan(
            (),
            (found,),
            self._clock.now(),
            endpoint=self._endpoint,
            certificate_id=None,
            lifetimes=self._lifetimes,
            reauthorize=frozenset({subscription_id}),
        )
        terms = Terms(self._endpoint, None, self._lifetimes, self._clock.now)
        deadline = self._clock.now() + _ONE_BUDGET
        results = await _Batches(self._graph, self._clock, deadline).carry_out(actions, terms)
        for result in results:
            if result.error is not None:
                raise result.error
        return results[0].outcome if results else Outcome.GONE

    async def _run_next(self, pending: "_Pending") -> RenewalReport:
        async with self._lock:
            self._next = None
            return await self._run(tuple(sorted(pending.tenant_ids)), gone=frozenset(pending.gone))

    async def _run(
        self, tenant_ids: tuple[str, ...], *, gone: frozenset[str] = frozenset(), prune: bool = False
    ) -> RenewalReport:
        deadline = self._clock.now() + self._budget
        run = _Run(self._graph, self._endpoint, self._clock, self._lifetimes, deadline)
        return await run.run(self._certificates, self._desired, tenant_ids, gone=gone, prune=prune)

    def _check_served(self, tenant_id: str) -> None:
        if tenant_id not in self._tenant_ids:
            raise MalformedInputError("the tenant is not one of ours", reason="unknown-tenant")


@dataclass(slots=True)
class _Pending:
    """A run that waits for the one before it; it is for everybody who asks until it starts."""

    run: asyncio.Task[RenewalReport] = field(init=False)
    tenant_ids: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Run:
    graph: Graph
    endpoint: Endpoint
    clock: Clock
    lifetimes: Lifetimes
    deadline: datetime
    failures: list[tuple[str, str, SwitchboardError, str | None]] = field(default_factory=list)

    async def run(
        self,
        certificates: Certificates,
        source: DesiredSource,
        tenant_ids: tuple[str, ...],
        *,
        gone: frozenset[str],
        prune: bool,
    ) -> RenewalReport:
        started = self.clock.now()
        certificate = await self._certificate(certificates)
        desired, known = await self._desired(source, tenant_ids)
        listed = await self._list(tenant_ids)
        actual = [one for subscriptions in listed.values() for one in subscriptions if one.id not in gone]
        terms = Terms(self.endpoint, certificate, self.lifetimes, self.clock.now)
        actions = plan(
            [want for want in desired if want.tenant_id in listed],
            actual,
            self.clock.now(),
            endpoint=self.endpoint,
            certificate_id=None if certificate is None else certificate.id,
            lifetimes=self.lifetimes,
            prune=prune and known,
        )
        results = await self._carry_out(actions, terms)
        results = await self._settle(results, terms)
        self._check_anything_done(results)
        return self._report(started, len(desired), results)

    async def _certificate(self, certificates: Certificates) -> EncryptionCertificate | None:
        try:
            return await certificates.current()
        except UnavailableError as error:
            self._failed("*", "certificate", error)
            return None

    async def _desired(self, source: DesiredSource, tenant_ids: tuple[str, ...]) -> tuple[list[Desired], bool]:
        """What is desired in these tenants, and whether that is all of it."""
        try:
            state = await source.load()
        except SwitchboardError as error:
            self._failed("*", "desired-state", error)
            return [], False
        known = True
        desired = [want for want in state.subscriptions if want.tenant_id in tenant_ids]
        for group in state.groups:
            if group.tenant_id not in tenant_ids:
                continue
            try:
                members = await self.graph.group_members(group.tenant_id, group.group_id)
            except (UnavailableError, GraphError) as error:
                self._failed(group.tenant_id, "group", error, group.group_id)
                known = False
            else:
                desired += call_events_of(group, members)
        return list({want.key: want for want in desired}.values()), known

    async def _list(self, tenant_ids: Iterable[str]) -> dict[str, tuple[Subscription, ...]]:
        """The subscriptions of every tenant that can be read.

        Raises:
            UnavailableError: none can.
        """
        found: dict[str, tuple[Subscription, ...]] = {}
        errors: list[SwitchboardError] = []

        async def read(tenant_id: str) -> None:
            try:
                found[tenant_id] = await self.graph.list_subscriptions(tenant_id)
            except (UnavailableError, GraphError) as error:
                errors.append(error)
                self._failed(tenant_id, "list", error)

        await asyncio.gather(*(read(tenant_id) for tenant_id in tenant_ids))
        if errors and not found:
            raise UnavailableError("Graph's list of subscriptions", reason=errors[0].reason) from errors[0]
        return found

    async def _settle(self, results: list[Result], terms: Terms) -> list[Result]:
        """Find out by fresh lists what became of creations that Graph answered with a conflict or not at all."""
        for _ in range(_ROUNDS - 1):
            open_ = {
                result.action.desired.key: result
                for result in results
                if result.outcome is Outcome.UNSETTLED and result.action.desired is not None
            }
            if not open_ or self.clock.now() >= self.deadline + _GRACE:
                break
            listed = await self._list({tenant_id for tenant_id, _ in open_})
            actions = plan(
                [want for result in open_.values() if (want := result.action.desired) and want.tenant_id in listed],
                [one for subscriptions in listed.values() for one in subscriptions],
                self.clock.now(),
                endpoint=self.endpoint,
                certificate_id=None if terms.certificate is None else terms.certificate.id,
                lifetimes=self.lifetimes,
            )
            again = [action for action in actions if action.desired is not None]
            settled = {
                result.action.desired.key: result
                for result in await self._carry_out(again, terms)
                if result.action.desired is not None and result.action.verb is not Verb.DELETE
            }
            results = [self._merged(result, settled) for result in results]
        return [
            replace(result, outcome=Outcome.FAILED) if result.outcome is Outcome.UNSETTLED else result
            for result in results
        ]

    def _merged(self, before: Result, settled: Mapping[tuple[str, str], Result]) -> Result:
        want = before.action.desired
        after = settled.get(want.key) if want is not None and before.outcome is Outcome.UNSETTLED else None
        if after is None:
            return before
        return replace(after, outcome=Outcome.ADOPTED) if after.outcome is Outcome.LEFT else after

    async def _carry_out(self, actions: Sequence[Action], terms: Terms) -> list[Result]:
        return await _Batches(self.graph, self.clock, self.deadline).carry_out(actions, terms)

    def _check_anything_done(self, results: list[Result]) -> None:
        """Raise what stopped everything, if something did: then not one subscription is known to be well."""
        known = [result for result in results if result.action.reason is not Reason.FOREIGN]
        errors = [result.error for result in known if result.outcome is Outcome.FAILED]
        first = next((error for error in errors if isinstance(error, UnavailableError)), None)
        if first is not None and len(errors) == len(known):
            raise UnavailableError("everything that renewal needs", reason=first.reason) from first

    def _failed(self, tenant_id: str, kind: str, error: SwitchboardError, identity: str | None = None) -> None:
        self.failures.append((tenant_id, kind, error, identity))

    def _report(self, started: datetime, desired: int, results: list[Result]) -> RenewalReport:
        now = self.clock.now()
        for result in results:
            if result.error is not None:
                kind = result.action.kind
                identity = result.subscription.id if result.subscription is not None else None
                self._failed(result.action.tenant_id, "" if kind is None else kind.key, result.error, identity)
        live = [
            result.subscription
            for result in results
            if result.subscription is not None and self.endpoint.owns(result.subscription.notification_url)
        ]
        return RenewalReport(
            started=started,
            finished=now,
            desired=desired,
            live=len(live),
            outcomes=Counter(result.outcome for result in results),
            failures=_summary(self.failures),
            nearest=min((one.expires - now for one in live), default=None),
        )


def _summary(failures: Iterable[tuple[str, str, SwitchboardError, str | None]]) -> tuple[Failure, ...]:
    grouped: defaultdict[tuple[str, str, str], list[tuple[SwitchboardError, str | None]]] = defaultdict(list)
    for tenant_id, kind, error, identity in failures:
        grouped[tenant_id, kind, error.reason].append((error, identity))
    return tuple(
        Failure(tenant_id, kind, reason, len(found), str(found[0][0]), found[0][1])
        for (tenant_id, kind, reason), found in itertools.islice(grouped.items(), _LISTED_FAILURES)
    )


type _Channel = tuple[str, ApiVersion, bool]


@dataclass(slots=True)
class _Task:
    """An action under way: `call` is what it wants sent next."""

    order: int
    action: Action
    steps: Steps
    call: Call
    begun: bool = False
    tries: int = 0


class _Batches:
    """Drives many actions at once, their calls put together into batches."""

    def __init__(self, port: Graph, clock: Clock, deadline: datetime) -> None:
        self._graph = port
        self._clock = clock
        self._deadline = deadline
        self._ready: defaultdict[_Channel, list[tuple[bool, int, _Task]]] = defaultdict(list)  # a heap for each
        self._later: list[tuple[datetime, int, _Task]] = []  # a heap
        self._results: dict[int, Result] = {}
        self._refused: dict[tuple[str, str], GraphError] = {}

    async def carry_out(self, actions: Sequence[Action], terms: Terms) -> list[Result]:
        """Carry out the actions; results come in the order of the actions as they were interleaved."""
        for order, action in enumerate(_fairly(actions)):
            self._start(order, action, terms)
        flying: dict[asyncio.Task[None], str] = {}
        alarm: asyncio.Task[None] | None = None
        try:
            while self._later or flying or any(self._ready.values()):
                self._wake()
                while batch := self._next_batch(Counter(flying.values())):
                    flying[asyncio.create_task(self._send(batch))] = batch[0].call.tenant_id
                if self._later:
                    wait = (self._later[0][0] - self._clock.now()).total_seconds()
                    alarm = asyncio.create_task(self._clock.sleep(max(wait, 0.0)))
                waited = {*flying, alarm} if alarm is not None else set(flying)
                if waited:
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in flying if task.done()]:
                    del flying[task]
                    task.result()
                if alarm is not None:
                    alarm.cancel()
                    alarm = None
        finally:
            for task in (*flying, *((alarm,) if alarm is not None else ())):
                task.cancel()
        return [self._results[order] for order in sorted(self._results)]

    def _start(self, order: int, action: Action, terms: Terms) -> None:
        steps = carry_out(action, terms)
        try:
            call = next(steps)
        except StopIteration as end:
            self._results[order] = end.value
            return
        self._enqueue(_Task(order, action, steps, call))

    def _enqueue(self, task: _Task) -> None:
        # What has been begun goes first: a deleted subscription waits for its successor.
        heapq.heappush(self._ready[task.call.channel], (not task.begun, task.order, task))

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
            heap = self._ready[min(channels, key=lambda channel: self._ready[channel][0][:2])]
            while heap and len(batch) < BATCH_SIZE:
                task = heapq.heappop(heap)[2]
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
            self._results[task.order] = Result(task.action, Outcome.FAILED, None, refused)
        elif self._clock.now() >= self._deadline:
            error = UnavailableError("the run's time", reason="out-of-time")
            self._results[task.order] = Result(task.action, Outcome.DEFERRED, task.action.subscription, error)
        else:
            task.begun = True
            return False
        return True

    async def _send(self, batch: list[_Task]) -> None:
        replies = await self._graph.send([task.call for task in batch])
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
        if task.tries >= _TRIES or at > self._deadline + _GRACE:
            return False
        heapq.heappush(self._later, (at, task.order, task))
        return True

    def _advance(self, task: _Task, reply: Reply) -> None:
        kind = task.action.kind
        if isinstance(reply, graph.PermissionDeniedError) and kind is not None:
            reply = graph.PermissionDeniedError(f"{kind.permission} is needed: {reply}")
        if task.call.method == "POST" and kind is not None and isinstance(reply, _FOR_ALL_OF_A_KIND):
            self._refused[task.action.tenant_id, kind.key] = reply
        try:
            task.call = task.steps.send(reply)
        except StopIteration as end:
            self._results[task.order] = end.value
            return
        task.tries = 0
        self._enqueue(task)


_FOR_ALL_OF_A_KIND: Final = (graph.PermissionDeniedError, graph.QuotaExceededError, graph.EndpointValidationError)


def _fairly(actions: Sequence[Action]) -> list[Action]:
    """The same actions so that tenants and kinds take turns, each with its most urgent first.

    Thousands of one kind, or a tenant in trouble, then cannot use up the time of the others.
    """
    lines: defaultdict[tuple[str, str], list[Action]] = defaultdict(list)
    for action in actions:
        lines[action.tenant_id, "" if action.kind is None else action.kind.key].append(action)
    turns = itertools.zip_longest(*lines.values())
    return [action for turn in turns for action in turn if action is not None]
