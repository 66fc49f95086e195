"""Make Graph's subscriptions equal the desired ones, and renew each in time.

A run does each tenant's part by itself (see `tenant_run`), so none waits for another's trouble. Any run may be
interrupted, repeated or overlapped by another. What depends on something that is down is left for the next run, and
everything else is still done: live subscriptions are renewed even while Key Vault or storage is away, the list shows
nothing, or the desired state cannot be read.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from shared.clock import Clock
from shared.subscriptions.actions import Outcome, Result, RunContext
from shared.subscriptions.desired_source import DesiredStateSource, RunSources, Stage, Trouble
from shared.subscriptions.plan import plan
from shared.subscriptions.run_report import Forecast, Removal, RenewalReport, RunEnd, removal, summary
from shared.subscriptions.scheduler import BatchScheduler, no_guard
from shared.subscriptions.state import (
    SKEW,
    Changes,
    KnownSubscriptions,
    Memory,
    Remembered,
    believed,
    recalled,
)
from shared.subscriptions.tenant_run import Order, TenantRun
from shared.values import graph_errors
from shared.values.endpoint import Endpoint
from shared.values.errors import MalformedInputError, SettingsError, UnavailableError
from shared.values.graph import Subscription
from shared.values.items import is_plain_id
from shared.values.lifetimes import Lifetimes

if TYPE_CHECKING:
    from shared.graph.client import GraphClient
    from shared.key_vault import KeyVaultCertificates
    from shared.subscriptions.unwanted import Confirmations

TIME_BUDGET: Final = timedelta(minutes=8)  # of the twelve that host.json gives a function
_ONE_BUDGET: Final = timedelta(seconds=60)  # for a single subscription
_CERTIFICATE_SECONDS: Final = 10.0

logger = logging.getLogger(__name__)


class Renewal:
    """Runs of one process; only one at a time, for they would do each other's work."""

    def __init__(
        self,
        *,
        graph: "GraphClient",
        certificates: "KeyVaultCertificates",
        desired: DesiredStateSource,
        known: KnownSubscriptions,
        endpoint: Endpoint,
        tenant_ids: Iterable[str],
        clock: Clock,
        budget: timedelta = TIME_BUDGET,
        concerns: Mapping[str, str] = MappingProxyType({}),
        confirmations: "Confirmations | None" = None,
        unsubscribes: bool = True,
    ) -> None:
        """Take what it needs.

        Args:
            graph: where subscriptions are listed, made, renewed and deleted.
            certificates: where the current encryption certificate comes from.
            desired: where the desired state comes from.
            known: where is kept what is remembered.
            endpoint: where Graph is to deliver.
            tenant_ids: the tenants served.
            clock: what time it is.
            budget: how long a run may take.
            concerns: settings that nothing new is made with, and what to do about them.
            confirmations: where an operator's confirmations lie; without it, nothing is confirmed.
            unsubscribes: whether a run of the timer removes what nobody desires any more.
        """
        self._graph = graph
        self._certificates = certificates
        self._desired = desired
        self._known = known
        self._endpoint = endpoint
        self._tenant_ids = tuple(sorted(tenant_ids))
        self._clock = clock
        self._budget = budget
        self._concerns = concerns
        self._confirmations = confirmations
        self._unsubscribes = unsubscribes
        self._lifetimes = Lifetimes()
        self._lock = asyncio.Lock()
        self._next: _Pending | None = None
        self._remembered: dict[str, Memory] = {}
        self._unsaved: dict[str, Changes] = {}

    async def run(self, *, review: bool = False) -> RenewalReport:
        """Do all that is to be done; what is ours and not desired is renewed.

        Args:
            review: look also for what nobody desires any more, and remove what has been so for long enough (see
                `unwanted`). This is for the timer alone: whoever else runs may see other subscriptions.

        Raises:
            UnavailableError: nothing at all could be done.
        """
        async with self._lock:
            order = Order(review=review, unsubscribe=review and self._unsubscribes)
            return await self._run(self._tenant_ids, order)

    async def plan(self, *, prune: bool = False) -> Forecast:
        """What a run would do now; nothing is done.

        Args:
            prune: say also what `prune` would delete; that is nothing while not all is known.
        """
        run = self._new_run()
        context = await self._context(run)
        async with self._scheduler(context, self._budget) as scheduler:
            tenants = [self._tenant(run, scheduler, tenant_id, Order(prune=prune)) for tenant_id in self._tenant_ids]
            planned = await asyncio.gather(*(tenant.forecast() for tenant in tenants))
        troubles = (*run.troubles, *(trouble for tenant in tenants for trouble in tenant.record.troubles))
        actions = sorted(itertools.chain.from_iterable(planned), key=lambda action: action.deadline)
        return Forecast(tuple(actions), summary(troubles))

    async def prune(self, ids: Collection[str]) -> Removal:
        """Delete those of the ids that are ours and not desired, as all is found to be now.

        In a tenant of which not all is known, nothing is deleted.
        """
        async with self._lock:
            run = self._new_run()
            async with self._tenants(run, Order(prune=True)) as tenants:
                await asyncio.gather(*(tenant.prune(ids) for tenant in tenants))
            return removal((tenant.record for tenant in tenants), run.troubles)

    async def delete(self, ids: Collection[str]) -> Removal:
        """Delete subscriptions of ours, desired or not.

        Raises:
            MalformedInputError: one of them is not ours, or is no id; nothing is deleted then.
            GraphError: there is no such subscription, or Graph does not say so; nothing is deleted then.
            UnavailableError: Graph or Entra ID did not answer; nothing is deleted then.
        """
        if wrong := [identity for identity in ids if not is_plain_id(identity)]:  # it becomes part of a URL
            raise MalformedInputError(f"{wrong[0]} is not the id of a subscription", reason="not-found")
        async with self._lock:
            run = self._new_run()
            async with self._tenants(run, Order()) as tenants:
                by_tenant = await asyncio.gather(*(tenant.find(ids) for tenant in tenants))
                self._check_ours(ids, itertools.chain.from_iterable(by_tenant), tenants)
                concerned = [pair for pair in zip(tenants, by_tenant, strict=True) if pair[1]]
                await asyncio.gather(*(tenant.delete(subscriptions) for tenant, subscriptions in concerned))
            return removal(tenant.record for tenant, _ in concerned)

    def _check_ours(
        self, ids: Iterable[str], subscriptions: Iterable[Subscription], tenants: Iterable[TenantRun]
    ) -> None:
        by_id = {subscription.id: subscription for subscription in subscriptions}
        for identity in ids:
            subscription = by_id.get(identity)
            if subscription is None:
                troubles = (trouble for tenant in tenants for trouble in tenant.record.troubles)
                why = next((trouble.error for trouble in troubles if trouble.identity == identity), None)
                raise why or graph_errors.NotFoundError(f"there is no subscription {identity}")
            if not self._endpoint.owns(subscription.notification_url):
                message = f"{identity} delivers elsewhere: it is not ours to delete"
                raise MalformedInputError(message, reason="not-ours")

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
        """Prolong one subscription now, which also reauthorizes it.

        Only PATCH is used: together with `/reauthorize` within ten minutes it would be refused ("Reduce missing
        subscriptions and change notifications", https://learn.microsoft.com/graph/change-notifications-lifecycle-events).
        A subscription that is remembered as alive is renewed without being read first.

        Returns:
            RENEWED; UNCHANGED where it is not ours; GONE where Graph does not have it.

        Raises:
            UnavailableError: Graph or Entra ID did not answer.
            GraphError: Graph refuses.
            MalformedInputError: the tenant is not served.
        """
        self._check_served(tenant_id)
        try:
            subscription = await self._recall(tenant_id, subscription_id)
        except graph_errors.NotFoundError:
            return Outcome.GONE
        actions = plan(
            (),
            (subscription,),
            self._clock.now(),
            endpoint=self._endpoint,
            certificate_id=None,
            lifetimes=self._lifetimes,
            reauthorize=frozenset({subscription_id}),
        )
        context = RunContext(self._endpoint, None, self._lifetimes, self._clock.now)
        async with self._scheduler(context, _ONE_BUDGET) as scheduler:
            results = await scheduler.perform(actions)
        await self._remember(tenant_id, results)
        for result in results:
            if result.error is not None:
                raise result.error
        return results[0].outcome if results else Outcome.GONE

    async def _recall(self, tenant_id: str, subscription_id: str) -> Subscription:
        """By what this process remembers, or storage, or Graph: another process may have prolonged it since."""
        known = self._remembered.get(tenant_id, Memory()).known.get(subscription_id)
        if known is None or self._is_over(known):
            try:
                known = (await self._known.load(tenant_id)).memory.known.get(subscription_id, known)
            except UnavailableError as error:
                logger.warning("what is known of tenant %s cannot be read: reason=%s", tenant_id, error.reason)
        recollection = None if known is None or self._is_over(known) else recalled(subscription_id, tenant_id, known)
        return recollection or believed(await self._graph.subscription(tenant_id, subscription_id), known)

    def _is_over(self, known: Remembered) -> bool:
        return known.expires <= self._clock.now() - SKEW

    async def _remember(self, tenant_id: str, results: Iterable[Result]) -> None:
        changes = self._unsaved.pop(tenant_id, None) or Changes()
        for result in results:
            if result.outcome is Outcome.RENEWED and result.subscription is not None:
                changes.saw(result.subscription)
            elif result.removed is not None:
                changes.lost(result.removed)
        try:
            self._remembered[tenant_id] = await self._known.save(tenant_id, changes, self._clock.now())
        except UnavailableError as error:
            logger.warning("what is known of tenant %s cannot be saved: reason=%s", tenant_id, error.reason)
            self._remembered[tenant_id] = changes.applied(self._remembered.get(tenant_id, Memory()), self._clock.now())
            self._keep(tenant_id, changes)

    def _keep(self, tenant_id: str, changes: Changes) -> None:
        """Have the next run save what could not be saved: lists may not show it, and another process may be asked."""
        self._unsaved.setdefault(tenant_id, Changes()).add(changes)

    async def _run_next(self, pending: "_Pending") -> RenewalReport:
        async with self._lock:
            self._next = None
            return await self._run(tuple(sorted(pending.tenant_ids)), Order(gone=frozenset(pending.gone)))

    async def _run(self, tenant_ids: tuple[str, ...], order: Order) -> RenewalReport:
        started = self._clock.now()
        run = self._new_run()
        loading = asyncio.create_task(run.desired())
        async with self._tenants(run, order, tenant_ids) as tenants:
            await asyncio.gather(*(tenant.run() for tenant in tenants))
        await loading
        end = RunEnd(
            started,
            self._clock.now(),
            self._endpoint,
            self._lifetimes,
            tuple(tenant.record for tenant in tenants),
            run.troubles,
            whole=set(tenant_ids) == set(self._tenant_ids),
        )
        end.check_anything_done()
        return end.report()

    @asynccontextmanager
    async def _tenants(
        self, run: RunSources, order: Order, tenant_ids: Collection[str] | None = None
    ) -> AsyncIterator[tuple[TenantRun, ...]]:
        """The tenants' parts of a run, each asked for its turn before anything is made or deleted in it."""
        tenants: dict[str, TenantRun] = {}

        async def guard(tenant_id: str) -> None:
            await tenants[tenant_id].turn.guard()

        context = await self._context(run)
        async with self._scheduler(context, self._budget, guard) as scheduler:
            for tenant_id in self._tenant_ids if tenant_ids is None else tenant_ids:
                tenants[tenant_id] = self._tenant(run, scheduler, tenant_id, order)
                if (unsaved := self._unsaved.pop(tenant_id, None)) is not None:
                    tenants[tenant_id].record.changes.add(unsaved)
            yield tuple(tenants.values())
        for tenant_id, tenant in tenants.items():
            if tenant.turn.remembered is not None:
                self._remembered[tenant_id] = tenant.turn.remembered
            if not tenant.turn.saved:
                self._keep(tenant_id, tenant.record.changes)

    def _new_run(self) -> RunSources:
        concerns = (SettingsError([f"{name} {concern}"]) for name, concern in self._concerns.items())
        troubles = [Trouble("*", Stage.SETTINGS, concern) for concern in concerns]
        return RunSources(self._desired, self._confirmations, troubles)

    async def _context(self, run: RunSources) -> RunContext:
        certificate = None
        try:
            async with asyncio.timeout(_CERTIFICATE_SECONDS):
                certificate = await self._certificates.current()
        except UnavailableError as error:
            run.troubles.append(Trouble("*", Stage.CERTIFICATE, error))
        except TimeoutError:
            run.troubles.append(Trouble("*", Stage.CERTIFICATE, UnavailableError("Key Vault", reason="out-of-time")))
        return RunContext(self._endpoint, certificate, self._lifetimes, self._clock.now)

    def _scheduler(
        self, context: RunContext, budget: timedelta, guard: Callable[[str], Awaitable[None]] = no_guard
    ) -> BatchScheduler:
        return BatchScheduler(self._graph, self._clock, context, self._clock.now() + budget, guard)

    def _tenant(self, run: RunSources, scheduler: BatchScheduler, tenant_id: str, order: Order) -> TenantRun:
        return TenantRun(
            tenant_id,
            graph=self._graph,
            known=self._known,
            clock=self._clock,
            scheduler=scheduler,
            order=order,
            desired=run.desired,
            confirmed=run.confirmed,
            remembered=self._remembered.get(tenant_id),
            concerns=self._concerns,
        )

    def _check_served(self, tenant_id: str) -> None:
        if tenant_id not in self._tenant_ids:
            raise MalformedInputError("the tenant is not one of ours", reason="unknown-tenant")


@dataclass(slots=True)
class _Pending:
    """A run that waits for the one before it; it is for everybody who asks until it starts."""

    run: asyncio.Task[RenewalReport] = field(init=False)
    tenant_ids: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
