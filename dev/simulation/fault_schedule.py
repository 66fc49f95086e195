"""EventName befalls a year: drawn from a seed, so that it can be had again."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final, Literal

from dev.simulator.faults import Fault

HALF_LIVES: Final = (timedelta(minutes=29), timedelta(hours=11.8), timedelta(hours=34.8))
"""Just under half of what presence, callEvents and callRecords are granted."""

_DAY: Final = 86400.0
_YEAR: Final = 365.0

type EventName = Literal[
    "outage of graph",
    "outage of entra",
    "outage of vault",
    "storm of 429",
    "fault",
    "removal",
    "told removal",
    "reauthorization",
    "shorter lives",
    "blind lists",
    "whim of graph",
    "refused renewals",
    "refused reads",
    "refused creation",
    "refused deletion",
    "only creation works",
    "trouble of a tenant",
    "slow reads of a tenant",
    "bad entries",
    "patchy lists",
    "lost memory",
    "stuck renewals",
    "short grants",
    "odd echoes",
    "untold expirations",
    "outage of storage",
    "deploy",
    "overlap",
    "version before",
    "new certificate",
    "new client state",
    "joins",
    "leaves",
    "taken off",
    "cut off",
    "operator looks",
]

_A_YEAR: Final[tuple[tuple[EventName, int], ...]] = (
    ("outage of graph", 10),
    ("outage of entra", 8),
    ("outage of vault", 8),
    ("storm of 429", 12),
    ("fault", 120),
    ("removal", 40),
    ("told removal", 30),
    ("reauthorization", 40),
    ("shorter lives", 6),
    ("blind lists", 4),
    ("whim of graph", 10),
    ("refused renewals", 8),
    ("refused reads", 4),
    ("refused creation", 4),
    ("refused deletion", 4),
    ("only creation works", 3),
    ("trouble of a tenant", 12),
    ("slow reads of a tenant", 6),
    ("bad entries", 4),
    ("patchy lists", 4),
    ("lost memory", 2),
    ("stuck renewals", 4),
    ("short grants", 6),
    ("odd echoes", 6),
    ("untold expirations", 4),
    ("outage of storage", 10),
    ("deploy", 40),
    ("overlap", 60),
    ("version before", 10),
    ("new client state", 2),
    ("joins", 6),
    ("leaves", 12),
    ("taken off", 12),
    ("cut off", 12),
)
"""How often on average; a certificate is new each month, and an operator looks every second day."""

_WRAPPED: Final = "Operation: Update; Exception: [Status Code: {}; Reason: x]"
_FAULTS: Final = (
    Fault("graph", "PATCH", "/subscriptions/", status=404),
    Fault("graph", "GET", "/subscriptions/", status=404),
    Fault("graph", "PATCH", "/subscriptions/", status=429, retry_after=30),
    Fault("graph", "PATCH", "/subscriptions/", status=503),
    Fault("graph", "PATCH", "/subscriptions/", hang_up="after"),
    Fault("graph", "PATCH", "/subscriptions/", status=429),
    Fault("graph", "PATCH", "/subscriptions/", status=400, message=_WRAPPED.format("BadGateway")),
    Fault("graph", "PATCH", "/subscriptions/", status=400, message=_WRAPPED.format("Unauthorized")),
    Fault("graph", "PATCH", "/subscriptions/", status=400, message="Subscription validation request timed out."),
    Fault("graph", "GET", "/subscriptions/", status=500, message=_WRAPPED.format("InternalServerError")),
    Fault("graph", "POST", r"/subscriptions$", status=500, message=_WRAPPED.format("GatewayTimeout")),
    Fault("graph", "DELETE", "/subscriptions/", status=400, message=_WRAPPED.format("Unauthorized")),
    Fault("graph", "POST", r"/subscriptions$", hang_up="after"),
    Fault("graph", "POST", r"/subscriptions$", hang_up="before"),
    Fault("graph", "DELETE", "/subscriptions/", hang_up="after"),
    Fault("graph", "DELETE", "/subscriptions/", status=503),
    Fault("graph", "POST", r"\$batch", hang_up="before"),
    Fault("graph", "POST", r"\$batch", hang_up="after"),
    Fault("graph", "POST", r"\$batch", status=504),
    Fault("graph", "POST", r"\$batch", status=500),
    Fault("graph", "GET", r"/subscriptions$", status=500),
    Fault("graph", "GET", r"/subscriptions$", hang_up="before"),
    Fault("graph", "GET", "/groups/", status=503),
    Fault("graph", ".*", "/subscriptions", delay=40.0),
)
_REFUSED: Final = (
    *((status, "Answered on demand.") for status in (400, 401, 403, 409, 412, 422, 424)),
    *((400, _WRAPPED.format(inner)) for inner in ("Forbidden", "PreconditionFailed", "Unauthorized", "BadGateway")),
    *((500, _WRAPPED.format(inner)) for inner in ("InternalServerError", "GatewayTimeout")),
    (400, "Subscription validation request timed out."),
)
"""Every sort of refusal, status and message; "not found" is none: it says something about the subscription."""

_REFUSED_REQUESTS: Final[dict[EventName, tuple[str, str]]] = {
    "refused renewals": ("PATCH", "/subscriptions/"),
    "refused reads": ("GET", "/subscriptions/"),
    "refused creation": ("POST", r"/subscriptions$"),
    "refused deletion": ("DELETE", "/subscriptions/"),
    "only creation works": ("PATCH|GET|DELETE", "/subscriptions/"),
}
"""Method and path; see `Fault`."""

SLOW_READS: Final = (
    Fault("graph", "GET", r"/subscriptions(\?|$)", delay=45.0),
    Fault("graph", "GET", r"/subscriptions(\?|$)", delay=60.0, hang_up="before"),
    Fault("graph", "GET", "/groups/", delay=45.0),
    Fault("graph", "GET", "/groups/", delay=60.0, hang_up="before"),
    Fault("graph", "GET", "/groups/", status=429),
)
TROUBLES: Final = (
    Fault("graph", delay=30.0),
    Fault("graph", delay=60.0, hang_up="before"),
    Fault("graph", status=429),
    Fault("graph", status=403),
    Fault("graph", status=400, message=_WRAPPED.format("Unauthorized")),
    Fault("graph", status=503),
    Fault("login"),
)
"""EventName befalls one tenant alone."""

_OUTAGES: Final = (
    Fault("graph", status=503),
    Fault("graph", status=503, retry_after=120),
    Fault("graph", status=500),
    Fault("graph", status=504),
    Fault("graph", hang_up="before"),
)
_STORMS: Final = (
    Fault("graph", status=429, retry_after=10),
    Fault("graph", status=429, retry_after=100),
    Fault("graph", "POST|PATCH|DELETE", "/subscriptions", status=429, retry_after=20),
    Fault("graph", "POST", r"\$batch", status=429),
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens `at` (seconds from the start), for `seconds`; `fault` is what requests then meet.

    `draw` is a number from 0 to 1 for whatever else has to be chosen.
    """

    at: float
    name: EventName
    seconds: float = 0.0
    fault: Fault | None = None
    draw: float = 0.0


def fault_schedule(seed: int, days: float) -> list[Event]:
    """The events of `days` days, in order."""
    return sorted(_events(Random(seed), days), key=lambda event: event.at)


def _events(random: Random, days: float) -> Iterator[Event]:
    length = days * _DAY
    for name, in_a_year in _A_YEAR:
        share = in_a_year * days / _YEAR
        for _ in range(int(share) + (random.random() < share % 1)):
            at = random.uniform(0, length)
            if random.random() < 0.3:
                at += 4 - at % 300 + random.uniform(0, 10)  # while the timer's function runs
            yield _event(random, at, name)
    for month in range(int(days // 30)):
        yield Event((month + random.random()) * 30 * _DAY, "new certificate")
    for day in range(2, int(days), 2):
        yield Event((day + random.random()) * _DAY, "operator looks")
    for hours in (26.0, 75.0):  # longer than any life of its kind
        if days >= 60:
            fault = random.choice(_OUTAGES)
            yield Event(random.uniform(0, length - 100 * 3600), "outage of graph", hours * 3600, fault)


_LENGTHS: Final[dict[EventName, tuple[float, float]]] = {
    "taken off": (0.005, 4.0),
    "cut off": (0.005, 0.15),
    "outage of storage": (0.002, 0.4),
    "deploy": (0.0, 1 / 24),
}
"""From and up to so many days."""


def _event(random: Random, at: float, name: EventName) -> Event:
    seconds, fault = 0.0, None
    match name:
        case "outage of graph" | "outage of entra" | "outage of vault":
            seconds = random.choice(HALF_LIVES).total_seconds() * random.uniform(0.02, 1.0)
            fault = random.choice(_OUTAGES) if name == "outage of graph" else None
        case "storm of 429":
            seconds, fault = random.uniform(60, 2400), random.choice(_STORMS)
        case "fault":
            fault = random.choice(_FAULTS)
        case "shorter lives":
            seconds = random.uniform(0.5, 10) * _DAY
        case "blind lists":
            seconds = random.uniform(0.02, 3) * _DAY
        case "refused renewals" | "refused reads" | "refused creation" | "refused deletion" | "only creation works":
            method, path = _REFUSED_REQUESTS[name]
            status, message = random.choice(_REFUSED)
            seconds = random.uniform(0.02, 1.5) * _DAY
            fault = Fault("graph", method, path, status=status, message=message)
        case "trouble of a tenant":
            seconds, fault = random.uniform(0.005, 0.5) * _DAY, random.choice(TROUBLES)
        case "slow reads of a tenant":
            seconds, fault = random.uniform(0.005, 0.5) * _DAY, random.choice(SLOW_READS)
        case "stuck renewals" | "short grants" | "odd echoes" | "untold expirations" | "bad entries" | "patchy lists":
            seconds = random.uniform(0.02, 2) * _DAY
        case "taken off" | "cut off" | "outage of storage" | "deploy":
            seconds = random.uniform(*_LENGTHS[name]) * _DAY
    return Event(at, name, seconds, fault, random.random())
