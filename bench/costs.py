"""What a million rich notifications cost, by how many come with a POST: counted, measured, and at list prices."""

from collections.abc import Iterator
from typing import Final

from bench.loops import run_in_worker
from bench.measure import Cost
from bench.pipeline import Connect, Form, Pipeline, operations, production

# Azure Functions Flex Consumption (on demand) and Queue Storage (GPv2, LRS), US regions, May 2025, in USD.
_EXECUTION: Final = 0.40 / 1e6
_GB_SECOND: Final = 0.000026
_OPERATION: Final = 0.004 / 10_000

_MEMORY_GB: Final = 2  # of an instance, which has one core
_MILLION: Final = 1_000_000
_NOTIFICATIONS: Final = 400  # measured for each row


def costs() -> Iterator[Cost]:
    """A row for each size of POST and format of events."""
    with production() as connect:
        for items in (1, 10, 40):
            for form in ("single", "batch"):
                yield run_in_worker(_cost(connect, items, "single" if form == "single" else "batch"))


async def _cost(connect: Connect, items: int, form: Form) -> Cost:
    pipeline = Pipeline(connect(), form, items)
    await pipeline.cpu_seconds(_NOTIFICATIONS // items)
    cpu = await pipeline.cpu_seconds(_NOTIFICATIONS // items)
    raw, events = len(pipeline.raw.bodies), len(pipeline.events.bodies)
    await pipeline.close()
    executions = (1 + raw) / items
    stored = operations(raw, events) / items
    price = executions * _EXECUTION + cpu * _MEMORY_GB * _GB_SECOND + stored * _OPERATION
    return Cost(items, form, executions * _MILLION, cpu * _MEMORY_GB * _MILLION, stored * _MILLION, price * _MILLION)
