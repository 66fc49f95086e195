"""Taking turns: two things are timed in alternation, so that a machine that slows down slows both."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Thread


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


@dataclass(frozen=True, slots=True)
class Stage:
    """CPU seconds of a stage of a notification's way, and of what it cannot do without."""

    name: str
    seconds: float
    limit_seconds: float | None = None
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a million notifications take and cost, where so many `items` come with a POST."""

    items: int
    form: str
    executions: float
    gb_seconds: float
    operations: float
    dollars: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Notifications a second, end to end, and how they came."""

    workers: int
    form: str  # of the events, as `EVENT_FORMAT` has it
    items: int  # to a POST
    event_bytes: int
    rate: float


def cpu_seconds(work: Callable[[], object], count: int) -> float:
    """CPU seconds of one call, over `count` calls in a row."""
    started = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - started) / count


def seconds_on_threads(work: Callable[[], object], count: int, threads: int) -> float:
    """Seconds for each call where `threads` threads make `count` calls each, all at once."""

    def repeat() -> None:
        for _ in range(count):
            work()

    crew = [Thread(target=repeat) for _ in range(threads)]
    started = time.perf_counter()
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return (time.perf_counter() - started) / count / threads


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
    return of_pairs(name, pairs, target=target, ratio=ratio)


def of_pairs(
    name: str,
    pairs: Iterable[tuple[float, float]],
    *,
    target: str,
    ratio: Callable[[float, float], float] = lambda seconds, reference: seconds / reference,
) -> Ratio:
    """The figure of pairs that were measured in turn; the arguments are those of `compare`."""
    known = list(pairs)
    ratios = [ratio(*pair) for pair in known]
    return Ratio(
        name,
        statistics.median(first for first, _ in known),
        statistics.median(second for _, second in known),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        len(known),
        target,
    )
