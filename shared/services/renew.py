"""Make Graph's subscriptions equal the desired ones, and renew each in time.

A run lists, plans and acts. It keeps nothing but the ids of what is there, lest it believe a list that shows nothing;
so any run may be interrupted, repeated or overlapped by another. What depends on something that is down is left for the
next run, and everything else is still done: live subscriptions are renewed even while Key Vault is away or the desired
state cannot be read.
"""

import asyncio
import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from shared.clock import Clock
from shared.domain import graph, resources
from shared.domain.desired import DesiredState, call_events_of
from shared.domain.errors import MalformedInputError, SwitchboardError, UnavailableError
from shared.domain.execution import Outcome, Result, Terms
from shared.domain.graph import Call, GraphError, Reply, Subscription
from shared.domain.subscriptions import (
    Action,
    Desired,
    EncryptionCertificate,
    Endpoint,
    Lifetimes,
    Reason,
    Standing,
    plan,
    subscription_key,
)
from shared.services.batches import GRACE, Batches

TIME_BUDGET: Final = timedelta(minutes=8)  # of the ten that host.json gives a function
_ONE_BUDGET: Final = timedelta(seconds=60)  # for a single subscription
_ROUNDS: Final = 3  # lists per run: one to plan by, the others for creations of unknown outcome
_LISTED_FAILURES: Final = 100
_READS: Final = 8  # subscriptions read at a time

logger = logging.getLogger(__name__)


class Graph(Protocol):
    """What renewal asks of Microsoft Graph; see `shared.adapters.graph.GraphClient`."""

    def subscription_pages(self, tenant_id: str) -> AsyncIterator[Sequence[Subscription]]: ...

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


class Known(Protocol):
    """Where the ids of earlier runs are; see `shared.services.known_subscriptions`."""

    async def load(self, tenant_id: str) -> frozenset[str]:
        """The ids that the last run left; raises UnavailableError."""
        ...

    async def save(self, tenant_id: str, ids: frozenset[str]) -> None:
        """Keep these instead; raises UnavailableError."""
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
    """What a run did.

    `nearest` is the shortest remaining life among the live subscriptions of ours at its end; `call_records` are those
    of call records that are as desired, for these have a past that can be looked up.
    """

    started: datetime
    finished: datetime
    desired: int
    live: int
    outcomes: Mapping[Outcome, int]
    failures: tuple[Failure, ...]
    nearest: timedelta | None
    subscriptions: tuple[Subscription, ...] = ()  # all that are live, the nearest to its end first
    call_records: tuple[Subscription, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything desired is as it should be."""
        return not self.failures


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do with each subscription, and what could not be found out."""

    actions: tuple[Action, ...]
    failures: tuple[Failure, ...]


class Renewal:
    """Runs of one process; only one at a time, for they would do each other's work."""

    def __init__(
        self,
        *,
        graph: Graph,
        certificates: Certificates,
        desired: DesiredSource,
        known: Known,
        endpoint: Endpoint,
        tenant_ids: Iterable[str],
        clock: Clock,
        budget: timedelta = TIME_BUDGET,
    ) -> None:
        self._graph = graph
        self._certificates = certificates
        self._desired = desired
        self._known = known
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

    async def plan(self, *, prune: bool = False) -> "Forecast":
        """What a run would do now; nothing is done.

        Args:
            prune: as for `run`.
        """
        return await self._new_run().plan_only(self._certificates, self._desired, self._tenant_ids, prune=prune)

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
        batches = Batches(self._graph, self._clock, terms, self._clock.now() + _ONE_BUDGET)
        batches.add(actions)
        batches.close()
        results = await batches.run()
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
        return await self._new_run().run(self._certificates, self._desired, tenant_ids, gone=gone, prune=prune)

    def _new_run(self) -> "_Run":
        deadline = self._clock.now() + self._budget
        return _Run(self._graph, self._known, self._endpoint, self._clock, self._lifetimes, deadline)

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
    known: Known
    endpoint: Endpoint
    clock: Clock
    lifetimes: Lifetimes
    deadline: datetime
    failures: list[tuple[str, str, SwitchboardError, str | None]] = field(default_factory=list)
    loaded: dict[str, frozenset[str]] = field(default_factory=dict)  # known ids, by tenant
    ids: dict[str, set[str]] = field(default_factory=dict)  # those of them that may still be there
    whole: set[str] = field(default_factory=set)  # tenants of which all is known that there is

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
        terms = Terms(self.endpoint, certificate, self.lifetimes, self.clock.now)
        results = await self._reconcile(desired, tenant_ids, terms, gone=gone, prune=prune and known)
        results = await self._settle(results, desired, terms)
        await self._remember(results)
        self._check_anything_done(results)
        return self._report(started, len(desired), results)

    async def plan_only(
        self, certificates: Certificates, source: DesiredSource, tenant_ids: tuple[str, ...], *, prune: bool
    ) -> Forecast:
        certificate = await self._certificate(certificates)
        desired, known = await self._desired(source, tenant_ids)
        listed = await self._list(tenant_ids, lambda _: None)
        actions = self._plan(
            [want for want in desired if want.tenant_id in listed],
            [one for subscriptions in listed.values() for one in subscriptions],
            Terms(self.endpoint, certificate, self.lifetimes, self.clock.now),
            prune=prune and known,
        )
        return Forecast(actions, _summary(self.failures))

    async def _reconcile(
        self,
        desired: list[Desired],
        tenant_ids: tuple[str, ...],
        terms: Terms,
        *,
        gone: frozenset[str],
        prune: bool,
    ) -> list[Result]:
        """List, plan, act.

        Graph throttles lists to 25 pages in 20 seconds, so what a page shows to be due is renewed while the next ones
        are read; everything else needs the whole picture.
        """
        wanted = {want.key: want for want in desired}
        batches = Batches(self.graph, self.clock, terms, self.deadline)
        begun: set[str] = set()

        def begin(page: Iterable[Subscription]) -> None:
            page = [one for one in page if one.id not in gone]
            in_page = [want for one in page if (want := wanted.get(subscription_key(one))) is not None]
            due = [action for action in self._plan(in_page, page, terms) if action.reason is Reason.HALF_LIFE]
            begun.update(action.subscription.id for action in due if action.subscription is not None)
            batches.add(due)

        async with asyncio.TaskGroup() as group:
            driving = group.create_task(batches.run())
            listed = await self._list(tenant_ids, begin)
            actual = [one for subscriptions in listed.values() for one in subscriptions if one.id not in gone]
            actions = self._plan([want for want in desired if want.tenant_id in listed], actual, terms, prune=prune)
            batches.add(
                action for action in actions if action.subscription is None or action.subscription.id not in begun
            )
            batches.close()
        return driving.result()

    def _plan(
        self, desired: Iterable[Desired], actual: Iterable[Subscription], terms: Terms, *, prune: bool = False
    ) -> tuple[Action, ...]:
        return plan(
            desired,
            actual,
            self.clock.now(),
            endpoint=self.endpoint,
            certificate_id=None if terms.certificate is None else terms.certificate.id,
            lifetimes=self.lifetimes,
            prune=prune,
        )

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
        known = state.refusal is None
        if state.refusal is not None:
            self._failed("*", "desired-state", state.refusal)
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

    async def _list(
        self, tenant_ids: Iterable[str], see: Callable[[Sequence[Subscription]], None]
    ) -> dict[str, list[Subscription]]:
        """The subscriptions of every tenant whose list can be read to its end; `see` gets every page at once.

        What is known of earlier runs and not in the list is asked for by its id: the list has been wrong before.
        """
        found: dict[str, list[Subscription]] = {}

        async def read(tenant_id: str) -> None:
            subscriptions: list[Subscription] = []
            try:
                async for page in self.graph.subscription_pages(tenant_id):
                    see(page)
                    subscriptions += page
                hidden = await self._hidden(tenant_id, {one.id for one in subscriptions})
                see(hidden)
                subscriptions += hidden
            except (UnavailableError, GraphError) as error:
                self._failed(tenant_id, "list", error)
            else:
                found[tenant_id] = subscriptions

        await asyncio.gather(*(read(tenant_id) for tenant_id in tenant_ids))
        self.whole.update(found)
        return found

    async def _hidden(self, tenant_id: str, listed: Collection[str]) -> list[Subscription]:
        """Subscriptions that are known, alive, and not in Graph's list.

        Raises:
            UnavailableError: of one it could not be found out.
        """
        known = await self._known_ids(tenant_id)
        slots = asyncio.Semaphore(_READS)

        async def read(subscription_id: str) -> Subscription | SwitchboardError | None:
            async with slots:
                if self.clock.now() >= self.deadline:
                    return UnavailableError("the run's time", reason="out-of-time")
                try:
                    return await self.graph.subscription(tenant_id, subscription_id)
                except UnavailableError as error:
                    return error
                except GraphError:
                    known.discard(subscription_id)
                    return None

        answers = await asyncio.gather(*(read(subscription_id) for subscription_id in sorted(known.difference(listed))))
        for answer in answers:
            if isinstance(answer, SwitchboardError):
                raise answer
        hidden = [answer for answer in answers if isinstance(answer, Subscription)]
        if hidden:
            logger.warning("Graph's list of tenant %s leaves out %d subscriptions that exist", tenant_id, len(hidden))
        return hidden

    async def _known_ids(self, tenant_id: str) -> set[str]:
        if tenant_id not in self.ids:
            try:
                self.loaded[tenant_id] = await self.known.load(tenant_id)
            except UnavailableError as error:
                self._failed(tenant_id, "known", error)
            self.ids[tenant_id] = set(self.loaded.get(tenant_id, ()))
        return self.ids[tenant_id]

    async def _remember(self, results: Iterable[Result]) -> None:
        """Keep the ids of what is there now; where not all of that is known, what was there before too."""
        there: defaultdict[str, set[str]] = defaultdict(set)
        for one in self._live(results):
            there[one.tenant_id].add(one.id)
        for tenant_id in {*self.ids, *there}:
            before = await self._known_ids(tenant_id)
            now = frozenset(there[tenant_id] if tenant_id in self.whole else there[tenant_id] | before)
            if now == self.loaded.get(tenant_id, now):
                continue  # or what was there before cannot be read, and so need not be replaced
            try:
                await self.known.save(tenant_id, now)
            except UnavailableError as error:
                self._failed(tenant_id, "known", error)

    async def _settle(self, results: list[Result], desired: list[Desired], terms: Terms) -> list[Result]:
        """Find out by fresh lists what became of creations that Graph answered with a conflict or not at all.

        Planned is with all that is desired, lest the rest be taken for something to be superseded.
        """
        for _ in range(_ROUNDS - 1):
            wanted = {
                result.action.desired
                for result in results
                if result.outcome is Outcome.UNSETTLED and result.action.desired is not None
            }
            if not wanted or self.clock.now() >= self.deadline + GRACE:
                break
            listed = await self._list({want.tenant_id for want in wanted}, lambda _: None)
            actual = [one for subscriptions in listed.values() for one in subscriptions]
            actual += await self._unlisted(results, {one.id for one in actual})
            batches = Batches(self.graph, self.clock, terms, self.deadline)
            batches.add(
                action
                for action in self._plan([want for want in desired if want.tenant_id in listed], actual, terms)
                if action.desired in wanted
            )
            batches.close()
            settled = {
                result.action.desired.key: result for result in await batches.run() if result.action.desired is not None
            }
            results = [self._merged(result, settled) for result in results]
        return [
            replace(result, outcome=Outcome.FAILED) if result.outcome is Outcome.UNSETTLED else result
            for result in results
        ]

    async def _unlisted(self, results: Iterable[Result], listed: Collection[str]) -> list[Subscription]:
        """What holds a place although no list shows it: whether a list shows everything is not documented."""
        found = []
        for result in results:
            error = result.error
            if (
                result.outcome is Outcome.UNSETTLED
                and isinstance(error, graph.SubscriptionConflictError)
                and error.holder is not None
                and error.holder not in listed
                and self.clock.now() < self.deadline
            ):
                try:
                    found.append(await self.graph.subscription(result.action.tenant_id, error.holder))
                except (UnavailableError, GraphError):
                    continue  # the conflict is what is reported
        return found

    def _merged(self, before: Result, settled: Mapping[tuple[str, str], Result]) -> Result:
        want = before.action.desired
        after = settled.get(want.key) if want is not None and before.outcome is Outcome.UNSETTLED else None
        if after is None:
            return before
        return replace(after, outcome=Outcome.ADOPTED) if after.outcome is Outcome.LEFT else after

    def _check_anything_done(self, results: list[Result]) -> None:
        """Raise what stopped everything, if something did: then not one subscription is known to be well."""
        known = [result for result in results if result.action.reason is not Reason.FOREIGN]
        errors = [result.error for result in known if result.outcome is Outcome.FAILED]
        if len(errors) < len(known):
            return
        unlisted = [error for _, what, error, _ in self.failures if what == "list"]
        first = next((error for error in (*errors, *unlisted) if isinstance(error, UnavailableError)), None)
        if first is not None and (errors or unlisted):
            raise UnavailableError("everything that renewal needs", reason=first.reason) from first

    def _live(self, results: Iterable[Result]) -> list[Subscription]:
        return [
            result.subscription
            for result in results
            if result.subscription is not None and self.endpoint.owns(result.subscription.notification_url)
        ]

    def _of_call_records(self, results: Iterable[Result]) -> Iterator[Subscription]:
        """Those that deliver: an unknown mark means that what comes from one is refused."""
        for result in results:
            want, one = result.action.desired, result.subscription
            if want is None or want.kind is not resources.CALL_RECORDS or one is None:
                continue
            if self.endpoint.standing(one.notification_url)[0] is not Standing.UNKNOWN:
                yield one

    def _failed(self, tenant_id: str, kind: str, error: SwitchboardError, identity: str | None = None) -> None:
        self.failures.append((tenant_id, kind, error, identity))

    def _report(self, started: datetime, desired: int, results: list[Result]) -> RenewalReport:
        now = self.clock.now()
        for result in results:
            if result.error is not None:
                kind = result.action.kind
                identity = result.subscription.id if result.subscription is not None else None
                self._failed(result.action.tenant_id, "" if kind is None else kind.key, result.error, identity)
        live = self._live(results)
        return RenewalReport(
            started=started,
            finished=now,
            desired=desired,
            live=len(live),
            outcomes=Counter(result.outcome for result in results),
            failures=_summary(self.failures),
            nearest=min((one.expires - now for one in live), default=None),
            subscriptions=tuple(sorted(live, key=lambda one: one.expires)),
            call_records=tuple(self._of_call_records(results)),
        )


def _summary(failures: Iterable[tuple[str, str, SwitchboardError, str | None]]) -> tuple[Failure, ...]:
    grouped: defaultdict[tuple[str, str, str], list[tuple[SwitchboardError, str | None]]] = defaultdict(list)
    for tenant_id, kind, error, identity in failures:
        grouped[tenant_id, kind, error.reason].append((error, identity))
    return tuple(
        Failure(tenant_id, kind, reason, len(found), str(found[0][0]), found[0][1])
        for (tenant_id, kind, reason), found in itertools.islice(grouped.items(), _LISTED_FAILURES)
    )
