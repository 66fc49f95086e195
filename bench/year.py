"""The simulated year, for many seeds: how much of the time each kind of subscription was there; and its page."""

import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from rich.console import Console

from bench.page import DOCS, write
from dev.simulation.coverage import Figures
from dev.simulation.year import Year, simulate


def run(seeds: Iterable[int], days: float, console: Console) -> int:
    """Live through every seed's year, print what came of it and write it into the page; 1 if a seed fails."""
    total = _Total()
    failed = []
    with (
        console.status("living …") as status,
        ProcessPoolExecutor(os.process_cpu_count()) as pool,
    ):
        for lived in as_completed([pool.submit(simulate, seed, days) for seed in seeds]):
            year = lived.result()
            total.add(year)
            status.update(f"{total.years} lived, the last was seed {year.seed}")
            if not console.is_terminal:
                console.print(f"seed {year.seed}: {year.runs:,} runs, {len(year.violations)} violations")
            if year.violations:
                failed.append(year.seed)
                console.print(f"[red]failed:[/] python -m dev.simulation.year --seed {year.seed} --days {days:g}")
                console.print("\n".join(year.violations), markup=False, highlight=False)
    figures = total.figures_of(days, len(failed))
    console.print(figures, markup=False, soft_wrap=True)
    write(DOCS / "subscriptions.md", "run.py bench --year", figures)
    return 1 if failed else 0


@dataclass
class _Total:
    years: int = 0
    ticks: int = 0
    runs: int = 0
    requests: int = 0
    figures: dict[str, Figures] = field(default_factory=dict)

    def add(self, year: Year) -> None:
        self.years += 1
        self.ticks += year.ticks
        self.runs += year.runs
        self.requests += year.requests
        for kind, found in year.figures.items():
            so_far = self.figures.get(kind)
            self.figures[kind] = found if so_far is None else so_far + found

    def figures_of(self, days: float, failed: int) -> str:
        """The figures as Markdown."""
        head = (
            f"Run of {datetime.now(UTC):%Y-%m-%d}: {self.years} seeds of {days:g} days, {failed} failed. "
            f"{self.ticks:,} ticks of the timer, {self.runs:,} of them run, {self.requests:,} requests.\n\n"
            "| kind | there, of all time | there, while Graph is reachable | longest undisturbed absence "
            "| absent a year while Graph is reachable | lapsed | vanished | replaced | moved to a new certificate |\n"
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
        )
        lines = [head]
        for kind, found in self.figures.items():
            share = found.absent_while_reachable / found.reachable
            cells = (
                kind,
                f"{1 - found.absent / found.wanted:.3%}",
                f"{1 - share:.4%}",
                _minutes(found.longest_while_reachable),
                _minutes(share * timedelta(days=365)),
                *(f"{found.causes[cause]:,}" for cause in ("lapsed", "removed", "deleted", "old certificate")),
            )
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def _minutes(time: timedelta) -> str:
    return f"{time / timedelta(minutes=1):.1f} min"
