"""What Switchboard tells OpenTelemetry: metrics and spans, by the API alone.

Whether anything listens is the deployment's business; without an SDK every call here does next to nothing. The names
below are a contract with the queries of the workbook and the alerts. No attribute ever holds more than an id.
"""

from typing import Final

# Counters, unless said otherwise. Azure Monitor shows attributes as `Properties` of `AppMetrics`.
RECEIVED: Final = "switchboard.received"
"""Notifications that are durably queued; `queue` is the raw queue."""
REFUSED: Final = "switchboard.refused"
"""Notifications left out because they are not authentic; `reason`."""
DECRYPTED: Final = "switchboard.decrypted"
"""Notifications whose content was decrypted; `queue` is the raw queue."""
WRITTEN: Final = "switchboard.written"
"""Events written; `type` is the CloudEvent's."""
QUARANTINED: Final = "switchboard.quarantined"
"""Notifications, or whole messages, put into quarantine; `reason` and `queue`, the raw queue."""
LATENCY: Final = "switchboard.latency"
"""Histogram in seconds: until an event was written, `since` Graph's `event` time or since our `receipt`; `queue`."""
RENEWALS: Final = "switchboard.renewals"
"""Subscriptions that a renewal run dealt with; `outcome`, as `shared.domain.execution.Outcome` spells it."""
REMAINING: Final = "switchboard.subscription.remaining"
"""Gauge in seconds: remaining life of the subscription nearest to its end, by `kind`, after each renewal run."""

QUEUE: Final = "queue"
REASON: Final = "reason"
TYPE: Final = "type"
SINCE: Final = "since"
OUTCOME: Final = "outcome"
KIND: Final = "kind"

ATTRIBUTES: Final = {
    RECEIVED: (QUEUE,),
    REFUSED: (REASON,),
    DECRYPTED: (QUEUE,),
    WRITTEN: (TYPE,),
    QUARANTINED: (REASON, QUEUE),
    LATENCY: (SINCE, QUEUE),
    RENEWALS: (OUTCOME,),
    REMAINING: (KIND,),
}
"""The attributes of each metric: all that a query may refer to."""
