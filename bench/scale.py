"""What so many notifications a second ask of the plan and of storage: from measured costs, and a morning simulated.

A part of docs/scaling.md. Sources: "Scalability and performance targets for Queue Storage" and "… for standard storage
accounts"; "Target-based scaling" (Azure Functions) for how many instances the platform aims at; "Azure Key Vault
service limits"; "Microsoft Graph throttling limits".
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.measure import Cost

ACCOUNT_OPERATIONS: Final = 20_000
"""Requests a second that a storage account is built for; 40,000 in large regions."""
QUEUE_MESSAGES: Final = 2_000
"""Messages of 1 KiB a second that one queue is built for."""

_MILLION: Final = 1_000_000
_MEMORY_GB: Final = 2  # of an instance, which has one core
_BUSY: Final = 0.6  # of a core: above that, what comes in bursts waits
_BATCH: Final = 16  # `batchSize` of host.json: the queue length that the platform wants of an instance at most
_DECIDES_SECONDS: Final = 10  # between two looks of the platform at a queue
_START_SECONDS: Final = 10  # until an instance that was asked for works
_USERS: Final = 50_000
_MORNING_SECONDS: Final = 600
_PER_CALL: Final = 3  # it starts, and two people join
_MORNINGS: Final = (1, 40)  # to a POST: no two together, and as many as Graph sends under load


@dataclass(frozen=True, slots=True)
class Load:
    """So many rich notifications a second, and how many of them Graph sends with a POST."""

    rate: float
    items: int


LOADS: Final = (Load(1, 1), Load(10, 1), Load(100, 10), Load(1_000, 40))


@dataclass(frozen=True, slots=True)
class Morning:
    """What a queue goes through while calls begin.

    Attributes:
        rate: notifications a second at the height of it.
        deepest: raw messages that waited, at most.
        longest: seconds that one of them waited, at most.
        instances: at most.
        drained: seconds after the last call until nothing waits.
    """

    rate: float
    deepest: int
    longest: float
    instances: int
    drained: int


def table(costs: Sequence[Cost]) -> Iterator[str]:
    """The lines of the page's table."""
    yield (
        "| notifications a second, and to a POST | format | cores | instances of one core | storage operations a second"
        " (of an account's 20,000) | puts to one queue a second (of its 2,000) |"
    )
    yield "|---:|---|---:|---:|---:|---:|"
    for load in LOADS:
        for cost in costs:
            if cost.items == load.items:
                yield _row(load, cost)
    for cost in costs:
        if cost.items in _MORNINGS:
            name = f"{_USERS:,} users' calls within ten minutes, at the height; {cost.items}"
            yield _row(Load(morning(cost).rate, cost.items), cost, name)


def _row(load: Load, cost: Cost, name: str = "") -> str:
    cores = load.rate * _cpu(cost)
    stored = load.rate * cost.operations / _MILLION
    puts = load.rate * (1 if cost.form == "single" or cost.items == 1 else _raw(cost))
    return (
        f"| {name or f'{load.rate:,.0f}, {load.items}'} | {cost.form} | {cores:.3g} |"
        f" {max(1, math.ceil(cores / _BUSY))} | {stored:,.0f} ({stored / ACCOUNT_OPERATIONS:.1%}) |"
        f" {puts:,.0f} ({puts / QUEUE_MESSAGES:.0%}) |"
    )


def _cpu(cost: Cost) -> float:
    """CPU seconds of a notification, POST to event."""
    return cost.gb_seconds / _MILLION / _MEMORY_GB


def _raw(cost: Cost) -> float:
    """Raw messages to a notification."""
    return cost.executions / _MILLION - 1 / cost.items


def morning(cost: Cost) -> Morning:
    """The raw queue, second by second, while calls begin as in a bell: few, many in the middle, few.

    Decrypting instances come when the platform has looked at the queue's length; each works at what its core can do.
    """
    total = _USERS * _PER_CALL
    middle, width = _MORNING_SECONDS / 2, _MORNING_SECONDS / 6
    weights = [math.exp(-(((second - middle) / width) ** 2) / 2) for second in range(_MORNING_SECONDS)]
    arrivals = [total * weight / sum(weights) * _raw(cost) for weight in weights]
    each = _BUSY / (_cpu(cost) / _raw(cost))  # raw messages a second and instance
    waiting, instances, coming = 0.0, 0, [0] * _START_SECONDS
    deepest = longest = 0.0
    most = second = 0
    while second < _MORNING_SECONDS or waiting > 1:
        instances += coming.pop(0)
        coming.append(0)
        waiting += arrivals[second] if second < _MORNING_SECONDS else 0
        waiting = max(0.0, waiting - instances * each)
        if second % _DECIDES_SECONDS == 0:
            coming[-1] += max(0, math.ceil(waiting / _BATCH) - instances - sum(coming))
        deepest, most = max(deepest, waiting), max(most, instances)
        longest = max(longest, waiting / (instances * each) if instances else _START_SECONDS)
        second += 1
    height = max(arrivals) / _raw(cost)
    return Morning(height, math.ceil(deepest), longest, most, max(second - _MORNING_SECONDS, 0))


def told(costs: Sequence[Cost]) -> Iterator[str]:
    """The morning in words."""
    for cost in costs:
        if cost.items in _MORNINGS:
            found = morning(cost)
            yield (
                f"- {cost.items} to a POST, `{cost.form}`: {found.rate:,.0f} notifications a second at the height, at"
                f" most {found.deepest:,} raw messages that wait, {found.longest:.0f} s for the longest, instances in"
                f" all: {found.instances}; nothing is left {found.drained} s after the last call."
            )
