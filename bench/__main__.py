"""`python3 run.py bench [--quick]`."""

import argparse
from itertools import chain

from rich.console import Console
from rich.table import Table

from bench.figures import figures
from bench.pipeline import pipeline


def main() -> None:
    """Measure, and print a row for each figure as it comes."""
    parser = argparse.ArgumentParser(
        prog="run.py bench", description="Measure, in ratios to a reference of the same run."
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under a minute")
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    table = Table("figure", "ratio", "lowest to highest", "itself", "reference", "rounds", "aim")
    with console.status("measuring …") as status:
        for figure in chain(figures(quick=arguments.quick), pipeline(quick=arguments.quick)):
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


if __name__ == "__main__":
    main()
