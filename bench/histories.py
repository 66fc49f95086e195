"""`python3 run.py bench --histories COUNT`: what becomes of notifications if calls go wrong; a line of the page."""

import logging
from concurrent.futures import ProcessPoolExecutor
from os import process_cpu_count

from rich.console import Console

from bench.page import DOCS, put
from dev.simulation.histories import try_some

_AT_A_TIME = 500


def main(count: int, seed: int) -> int:
    """Try so many histories, print those that broke a promise, and write down how many there were; 1 if one did."""
    console = Console(highlight=False)
    violations: list[str] = []
    shares = [min(_AT_A_TIME, count - done) for done in range(0, count, _AT_A_TIME)]
    with ProcessPoolExecutor(process_cpu_count(), initializer=logging.disable) as pool:
        for tried in pool.map(try_some, shares, range(seed, seed + len(shares))):
            violations += tried.violations
    console.print("\n".join(violations), markup=False)
    line = f"Tried: {count:,} histories, seed {seed}; {len(violations)} of them broke a promise.\n"
    console.print(line)
    page = DOCS / "reliability.md"
    text = put(page.read_text(encoding="utf-8"), "histories", "run.py bench --histories", line)
    page.write_text(text, encoding="utf-8")
    return 1 if violations else 0
