"""`python3 run.py bench [--quick | --reliability | --year]`."""

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import reliability, year
from bench.endtoend import end_to_end
from bench.figures import figures
from bench.measure import Finding, Ratio
from bench.pipeline import pipeline, storage_operations
from bench.renewal import renewal

RESULTS = Path(__file__).parent / "results" / "latest.json"


def main() -> None:
    """Measure, print a row for each figure as it comes, and keep them all."""
    parser = argparse.ArgumentParser(
        prog="run.py bench", description="Measure, in ratios to a reference of the same run."
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller amounts: under a minute")
    parser.add_argument("--only", choices=["cpu", "end-to-end", "renewal"], help="a part of it")
    parser.add_argument("--reliability", action="store_true", help="the long ledger run instead: docs/reliability.md")
    parser.add_argument("--notifications", type=int, default=50_000, help="of the ledger run")
    parser.add_argument("--faults", type=int, default=36, help="of the ledger run")
    parser.add_argument("--year", action="store_true", help="the simulated years instead: docs/subscriptions.md")
    parser.add_argument("--seeds", type=int, default=100, help="how many years")
    parser.add_argument("--days", type=float, default=365, help="of a year")
    parser.add_argument("--seed", type=int, default=1, help="of the ledger run, or of the first year")
    parser.add_argument("--time-scale", type=float, default=1.0, help="of the ledger run: shortens Graph's waits")
    arguments = parser.parse_args()
    if arguments.reliability:
        sys.exit(reliability.main(arguments.notifications, arguments.faults, arguments.seed, arguments.time_scale))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    if arguments.year:
        sys.exit(year.run(range(arguments.seed, arguments.seed + arguments.seeds), arguments.days, console))
    quick, only = arguments.quick, arguments.only
    ratios, findings = [], []
    if only in {None, "cpu"}:
        ratios = _ratios(console, chain(figures(quick=quick), pipeline(quick=quick)))
        findings += _findings(console, storage_operations())
    if only in {None, "end-to-end"}:
        findings += _findings(console, end_to_end(quick=quick))
    if only in {None, "renewal"}:
        findings += _findings(console, renewal(quick=quick))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps(
            {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
                "quick": quick,
                "ratios": [asdict(ratio) for ratio in ratios],
                "findings": [asdict(finding) for finding in findings],
            },
            indent=2,
        )
        + "\n"
    )


def _ratios(console: Console, figures: Iterator[Ratio]) -> list[Ratio]:
    table = Table("figure", "ratio", "lowest to highest", "itself", "reference", "rounds", "aim")
    found = []
    with console.status("measuring …") as status:
        for figure in figures:
            found.append(figure)
            table.add_row(
                figure.name,
                f"{figure.ratio:.2f}",
                f"{figure.low:.2f} to {figure.high:.2f}",
                f"{figure.seconds * 1e6:,.0f} µs",
                f"{figure.reference_seconds * 1e6:,.0f} µs",
                str(figure.rounds),
                figure.target,
            )
            status.update(f"measured: {figure.name}")
    console.print(table)
    return found


def _findings(console: Console, findings: Iterator[Finding]) -> list[Finding]:
    found = []
    for finding in findings:
        found.append(finding)
        console.print(f"  {finding.name:55} {finding.value}", highlight=False)
    return found


if __name__ == "__main__":
    main()
