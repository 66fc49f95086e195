"""How long a life to ask of Graph, and with how much of it left a subscription is renewed or replaced."""

from datetime import timedelta
from typing import Final

from shared.values.graph import Subscription
from shared.values.resource_row import PathForm, ResourceKind

SMALLEST_MARGIN: Final = timedelta(minutes=2)
LEAST_GRANTED: Final = timedelta(minutes=45)  # Graph raises anything shorter to this
_THREE_RUNS: Final = timedelta(minutes=15)  # of a timer of five minutes
_LEAST_ASKED: Final = timedelta(minutes=30)  # on a clock that is ahead, Graph may find 45 minutes too many


class Lifetimes:
    """How long a life to ask for, by tenant and form of path.

    A little less than Graph's documented maximum: clocks differ, and enforced limits have been seen below the
    documented ones. Graph's table gives transcripts and recordings three days and says nothing of those of ad hoc
    calls, for which applications have found an hour: what one form is refused says nothing of the others. What is
    learned lives as long as the process: forgetting it costs one refused request.
    """

    def __init__(self) -> None:
        self._asked: dict[tuple[str, PathForm], timedelta] = {}

    def ask(self, tenant_id: str, kind: ResourceKind, resource: str) -> timedelta:
        return self._asked.get((tenant_id, kind.form(resource))) or _less_a_margin(kind.max_lifetime)

    def refused(self, tenant_id: str, kind: ResourceKind, resource: str, asked: timedelta, maximum: timedelta) -> None:
        """Graph refused what was asked for and named its maximum: ask for less than both from now on."""
        shorter = max(min(_less_a_margin(maximum), asked * 0.9), _LEAST_ASKED)
        self._asked[tenant_id, kind.form(resource)] = min(shorter, self.ask(tenant_id, kind, resource))


def half_life(subscription: Subscription, lifetimes: Lifetimes) -> timedelta:
    """With this much or less remaining, renew: half of what Graph granted this very subscription."""
    return _life(subscription, lifetimes) / 2


def last_resort(subscription: Subscription, lifetimes: Lifetimes) -> timedelta:
    """With this much or less remaining, delete before creating: the gap of a second is better than expiring."""
    return max(_life(subscription, lifetimes) / 4, _THREE_RUNS)


def _life(subscription: Subscription, lifetimes: Lifetimes) -> timedelta:
    if subscription.life is not None:
        return max(subscription.life, LEAST_GRANTED)
    if subscription.kind is None:
        return LEAST_GRANTED
    return lifetimes.ask(subscription.tenant_id, subscription.kind, subscription.resource)


def _less_a_margin(lifetime: timedelta) -> timedelta:
    return lifetime - max(SMALLEST_MARGIN, lifetime / 100)
