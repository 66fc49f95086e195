"""What the app tells about its work; `shared.telemetry_export` passes it on to OpenTelemetry."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final


@dataclass(frozen=True, slots=True)
class Life:
    """The end and the granted life of one subscription: of its kind, the first that comes to a quarter of its life."""

    expires: datetime
    granted: timedelta

    @property
    def quarter(self) -> datetime:
        """When a quarter of it is left."""
        return self.expires - self.granted / 4


class Telemetry:
    """Takes figures and the beginnings and ends of work, and keeps none of it: a base class.

    Nothing it is told may hold more than ids.

    Traces are joined across the queues by W3C traceparents: each context manager takes that of what came before, and
    gives the one to pass on.
    """

    def received(self, queue: str, count: int) -> None:
        """That many notifications are durably on a raw queue."""

    def refused(self, reason: str, count: int) -> None:
        """That many notifications, or one body that is no collection, were not taken."""

    def express(self, outcome: str) -> None:
        """What became of an emergency where it was received: the word of an `ExpressOutcome`."""

    def decrypted(self, queue: str, count: int) -> None:
        """The content of that many notifications of a raw queue was decrypted."""

    def written(self, event_type: str, queue: str, *, since_event: float | None, since_receipt: float) -> None:
        """An event is durably on its queue.

        Args:
            event_type: the CloudEvent's.
            queue: the raw queue that its notification came by.
            since_event: seconds since it happened, by Graph's clock; None where Graph does not say when.
            since_receipt: seconds since its notification was received.
        """

    def quarantined(self, reason: str, queue: str) -> None:
        """A notification or a message of a raw queue was parked."""

    def waiting(self, queue: str, count: int, age: float) -> None:
        """So many messages wait on a queue that consumers read, the oldest for `age` seconds."""

    def renewed(self, outcomes: Mapping[str, int], lives: Mapping[str, Life] | None) -> None:
        """A renewal run has come to its end, also where there was nothing to do.

        Args:
            outcomes: subscriptions by what became of them.
            lives: by kind that is desired; one that has lost its last subscription has come to its end. None where the
                run was for a part of the tenants: that is no sign that the others are renewed.
        """

    def unconfirmed(self, count: int) -> None:
        """That many subscriptions that nobody desires wait for an operator's confirmation, in all tenants together."""

    def renewal_failed(self) -> None:
        """A renewal run could not come to its end."""

    def unnotified(self, count: int) -> None:
        """An audit has found that many call records of which Graph has sent no notification."""

    def self_tested(self, *, passed: bool) -> None:
        """A self-test is over, or could not be made."""

    async def flush(self) -> None:
        """Send the figures now, at the end of a run after which the instance may be gone; never raises."""

    def sending(self, queue: str, count: int, traceparent: str) -> AbstractContextManager[str]:
        """Around the putting of notifications on a raw queue, or of events on theirs."""
        return nullcontext(traceparent)

    def processing(self, queue: str, message_id: str, count: int, traceparent: str) -> AbstractContextManager[str]:
        """Around the handling of one raw message."""
        return nullcontext(traceparent)


NO_TELEMETRY: Final = Telemetry()
"""For whoever has nobody to tell."""


class Happening(StrEnum):
    """What is counted for the status page."""

    WRITTEN = "written"  # events, by type
    RECEIVED = "received"  # notifications that are durably queued, by raw queue
    REFUSED = "refused"  # notifications that were not taken, by reason
    EXPRESS = "express"  # raw messages of emergencies, by what became of them where they were received


class ExpressOutcome(StrEnum):
    """How an attempt ended to write an emergency's events where it was received; metrics carry these words.

    All but the first leave the message to the usual way, at once.
    """

    DONE = "done"
    MANY = "many"  # more items than can be opened while Graph waits
    LARGE = "large"  # an item needs a claim check
    NO_KEY = "no-key"  # the private key was not to be had in time, now or a moment ago
    UNOPENED = "unopened"  # an item could not be opened: the usual way judges it
    UNWRITTEN = "unwritten"  # storage did not confirm every event
    FAILED = "failed"  # a fault of ours
