"""Taking turns: two things are timed in alternation, so that a machine that slows down slows both."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ratio:
    """How one thing compares with another, over several rounds: medians, in seconds, and the ratios of the rounds."""

    name: str
    seconds: float
    reference_seconds: float
    ratio: float
    low: float
    high: float
    rounds: int
    target: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A measured value with its unit, for a person to read."""

    name: str
    value: str


def cpu_seconds(work: Callable[[], object], count: int) -> float:
    """CPU seconds of one call, over `count` calls in a row."""
    started = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - started) / count


def compare(
    name: str,
    work: Callable[[], float],
    reference: Callable[[], float],
    *,
    rounds: int,
    target: str,
    ratio: Callable[[float, float], float] = lambda seconds, reference: seconds / reference,
) -> Ratio:
    """Measure both in turn.

    Args:
        name: of the figure.
        work: measures what is of interest once; seconds.
        reference: measures what it is held against once; seconds.
        rounds: how often; an uncounted one comes first.
        target: what is aimed at, for the reader.
        ratio: how to set one against the other.
    """
    pairs = [(work(), reference()) for _ in range(rounds + 1)][1:]
    ratios = [ratio(*pair) for pair in pairs]
    return Ratio(
        name,
        statistics.median(first for first, _ in pairs),
        statistics.median(second for _, second in pairs),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        rounds,
        target,
    )
