"""Graph's throttling of the subscriptions API.

Source: Graph, "Microsoft Graph service-specific throttling limits", subscription service limits (per 20 seconds, for
an app across all tenants and per tenant).
"""

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from dev.simulator.clock import Clock
from dev.simulator.rules import GraphError

Operation = Literal["write", "reauthorize", "get", "list"]

WINDOW: Final = 20.0
LIMITS: Final[dict[Operation, tuple[int, int]]] = {
    "write": (2000, 500),
    "reauthorize": (4000, 1000),
    "get": (2000, 500),
    "list": (40, 25),
}
"""Requests per 20 seconds: of an app across all tenants, and per tenant."""


@dataclass
class _Bucket:
    capacity: int
    filled: datetime
    tokens: float

    def wait(self, now: datetime) -> float:
        """Refill to `now`; seconds until there is a token, 0 if there is one."""
        rate = self.capacity / WINDOW
        self.tokens = min(self.capacity, self.tokens + (now - self.filled).total_seconds() * rate)
        self.filled = now
        # A hair's breadth, so that a refill that is exact on paper is not undone by rounding.
        return 0.0 if self.tokens >= 1 - 1e-9 else (1 - self.tokens) / rate


@dataclass
class Throttle:
    """Token buckets, full at first. A refused request takes no token. `limits` may be changed before the first use."""

    clock: Clock
    enabled: bool = False
    limits: dict[Operation, tuple[int, int]] = field(default_factory=lambda: dict(LIMITS))
    _buckets: dict[tuple[Operation, str, str], _Bucket] = field(default_factory=dict)

    def admit(self, operation: Operation, app_id: str, tenant_id: str) -> None:
        """Take a token from both buckets.

        Raises:
            GraphError: 429 with the seconds to wait.
        """
        if not self.enabled:
            return
        now = self.clock.now()
        everywhere, here = self.limits[operation]
        buckets = [
            self._buckets.setdefault((operation, app_id, tenant), _Bucket(limit, now, limit))
            for tenant, limit in (("", everywhere), (tenant_id, here))
        ]
        wait = max(bucket.wait(now) for bucket in buckets)
        if wait > 0:
            raise GraphError(429, "TooManyRequests", "Too many requests.", retry_after=max(1, math.ceil(wait)))
        for bucket in buckets:
            bucket.tokens -= 1
