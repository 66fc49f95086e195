"""What a run did, and what it would do, as commands, health and telemetry are told."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from shared.subscriptions.actions import Action, Outcome, Reason, Result
from shared.subscriptions.desired_source import Stage, Trouble
from shared.subscriptions.listing import TenantRecord
from shared.subscriptions.unwanted import Unwanted
from shared.values import graph_errors
from shared.values.endpoint import ClientStateVersion, Endpoint
from shared.values.errors import NoTurnError, SettingsError, SwitchboardError, UnavailableError
from shared.values.graph import Subscription
from shared.values.lifetimes import Lifetimes, last_resort
from shared.values.resource_paths import Names

_LISTED_FAILURES: Final = 100
_STAGES: Final[Mapping[type[SwitchboardError], Stage]] = {NoTurnError: Stage.TURN, SettingsError: Stage.SETTINGS}


@dataclass(frozen=True, slots=True)
class Failure:
    """What was not done, `count` times for a tenant, stage, kind and reason; `subscription_id` and `detail` are of one.

    `kind` is the catalogue's key, None where it is about no kind. `told` is for an operator at a terminal: it may
    repeat what stands in the desired state, which `detail`, for logs, does not.
    """

    tenant_id: str
    stage: Stage
    kind: str | None
    reason: str
    count: int
    detail: str
    told: str
    subscription_id: str | None = None

    @property
    def what(self) -> str:
        """The kind, else the stage: one word for logs and lists."""
        return self.kind or str(self.stage)


@dataclass(frozen=True, slots=True)
class Kept:
    """A subscription that Graph does not renew, or not with what is current.

    It is replaced from `replaced_from` on; None if nobody wants it.
    """

    subscription: Subscription
    reason: str
    replaced_from: datetime | None


@dataclass(frozen=True, slots=True)
class RenewalReport:
    """What a run did.

    `nearest` is the shortest remaining life among the live subscriptions of ours at its end; `call_records` are those
    of call records that are as desired, for these have a past that can be looked up. `previous_client_state` counts the
    live ones that still carry it. `lists_whole` says whether Graph's lists were read to their ends. A run is `whole` if
    it was for all tenants. `unwanted` is what nobody desires, by id, as the last run of the timer found it, and
    `reviewed` says whether that is known of every tenant. All that came of its actions are `results`.
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
    previous_client_state: int = 0
    kept: tuple[Kept, ...] = ()  # the nearest to its end first
    lists_whole: bool = True
    whole: bool = True
    unwanted: Mapping[str, Unwanted] = field(default_factory=dict)
    reviewed: bool = True
    results: tuple[Result, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything desired is as it should be."""
        return not self.failures

    @property
    def waiting(self) -> int:
        """How many unwanted subscriptions wait for an operator's confirmation."""
        return sum(entry.needs_confirmation for entry in self.unwanted.values())


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do with each subscription, and what could not be found out."""

    actions: tuple[Action, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of what was to be deleted, and why something was not looked at."""

    results: tuple[Result, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class RunEnd:
    """What came of all tenants."""

    started: datetime
    now: datetime
    endpoint: Endpoint
    lifetimes: Lifetimes
    tenants: tuple[TenantRecord, ...]
    troubles: Sequence[Trouble]
    whole: bool

    @property
    def results(self) -> Iterator[Result]:
        return (result for tenant in self.tenants for result in tenant.results)

    def check_anything_done(self) -> None:
        """Raise what stopped everything, if something did: then not one subscription is known to be well."""
        known = [result for result in self.results if result.action.reason is not Reason.FOREIGN]
        undone = {Outcome.FAILED, Outcome.DEFERRED}
        errors = [result.error for result in known if result.outcome in undone]
        if len(errors) < len(known):
            return
        unlisted = [
            trouble.error
            for trouble in self._all_troubles()
            if trouble.stage is Stage.LIST and not isinstance(trouble.error, graph_errors.SignedInListError)
        ]
        first = next((error for error in (*errors, *unlisted) if isinstance(error, UnavailableError)), None)
        if first is not None and (errors or unlisted):
            raise UnavailableError("everything that renewal needs", reason=first.reason) from first

    def report(self) -> RenewalReport:
        live = sorted(self._live(), key=lambda subscription: subscription.expires)
        kept = tuple(sorted(self._kept(), key=lambda kept: kept.subscription.expires))
        versions = Counter(self.endpoint.read_mark(subscription.notification_url)[0] for subscription in live)
        return RenewalReport(
            started=self.started,
            finished=self.now,
            desired=sum(len(tenant.wanted) for tenant in self.tenants),
            live=len(live),
            outcomes=Counter(result.outcome for result in self.results),
            failures=summary((*self._all_troubles(), *self._undone(kept))),
            nearest=min((one.expires - self.now for one in live), default=None),
            subscriptions=tuple(live),
            call_records=tuple(self._of_call_records()),
            previous_client_state=versions[ClientStateVersion.PREVIOUS],
            kept=kept,
            lists_whole=all(trouble.stage is not Stage.LIST for trouble in self._all_troubles()),
            whole=self.whole,
            unwanted={
                identity: entry
                for tenant in self.tenants
                if tenant.review is not None
                for identity, entry in tenant.review.unwanted.items()
            },
            reviewed=all(tenant.review is not None for tenant in self.tenants),
            results=tuple(self.results),
        )

    def _all_troubles(self) -> Iterator[Trouble]:
        return itertools.chain(self.troubles, *(tenant.troubles for tenant in self.tenants))

    def _undone(self, kept: Iterable[Kept]) -> Iterator[Trouble]:
        what_next = {one.subscription.id: self._what_next(one) for one in kept}
        for result in self.results:
            if result.error is None:
                continue
            stage = _STAGES.get(type(result.error), Stage.SUBSCRIPTION)
            kind, subscription = result.action.kind, result.subscription
            yield Trouble(
                result.action.tenant_id,
                stage,
                result.error,
                None if kind is None else kind.key,
                None if subscription is None else subscription.id,
                what_next.get(subscription.id) if subscription is not None and result.outcome is Outcome.KEPT else None,
            )

    def _kept(self) -> Iterator[Kept]:
        for tenant in self.tenants:
            results = [result for result in tenant.results if result.outcome is Outcome.KEPT]
            names = Names(want.resource for want in tenant.wanted if results)
            for result in results:
                subscription, reason = result.subscription, str(result.action.reason)
                if subscription is not None:
                    is_wanted = names.recognised(subscription) is not None
                    last = subscription.expires - last_resort(subscription, self.lifetimes) if is_wanted else None
                    yield Kept(subscription, reason if result.error is None else result.error.reason, last)

    @staticmethod
    def _what_next(kept: Kept) -> str:
        replaced = f"from {kept.replaced_from:%Y-%m-%d %H:%M} UTC on it is replaced, and " if kept.replaced_from else ""
        ends = kept.subscription.expires
        return f"it is kept, and tried again by every run; {replaced}it ends at {ends:%Y-%m-%d %H:%M} UTC"

    def _live(self) -> Iterator[Subscription]:
        for tenant in self.tenants:
            for subscription in tenant.there.values():
                if subscription.expires > self.now and self.endpoint.owns(subscription.notification_url):
                    yield subscription

    def _of_call_records(self) -> Iterator[Subscription]:
        """Those that deliver: an unknown mark means that what comes from one is refused."""
        for tenant in self.tenants:
            wanted = {want.resource for want in tenant.wanted if want.kind.is_fetchable}
            for identity in sorted(tenant.confirmed):
                subscription = tenant.there[identity]
                url = subscription.notification_url
                delivers = self.endpoint.owns(url) and self.endpoint.read_mark(url)[0] is not ClientStateVersion.UNKNOWN
                if delivers and subscription.resource in wanted:
                    yield subscription


def removal(tenants: Iterable[TenantRecord], troubles: Iterable[Trouble] = ()) -> Removal:
    tenants = tuple(tenants)
    results = tuple(itertools.chain.from_iterable(tenant.results for tenant in tenants))
    return Removal(results, summary((*troubles, *(trouble for tenant in tenants for trouble in tenant.troubles))))


def summary(troubles: Iterable[Trouble]) -> tuple[Failure, ...]:
    grouped: defaultdict[tuple[str, Stage, str | None, str], list[Trouble]] = defaultdict(list)
    for trouble in troubles:
        grouped[trouble.tenant_id, trouble.stage, trouble.kind, trouble.error.reason].append(trouble)
    return tuple(
        Failure(
            tenant_id,
            stage,
            kind,
            reason,
            len(alike),
            _detail(alike[0], str(alike[0].error)),
            _detail(alike[0], alike[0].error.told),
            alike[0].identity,
        )
        for (tenant_id, stage, kind, reason), alike in itertools.islice(grouped.items(), _LISTED_FAILURES)
    )


def _detail(trouble: Trouble, said: str) -> str:
    return said if trouble.next is None else f"{said}; {trouble.next}"
