"""`python3 run.py bench [--quick | --reliability | --year | --hostile | --histories]`."""

import argparse
import sys
from collections.abc import Iterable
from itertools import chain

from rich.console import Console
from rich.table import Table

from bench import histories, reliability, year
from bench.clients import clients
from bench.cold import cold_findings, cold_ratios
from bench.costs import costs
from bench.emergency import emergencies
from bench.endtoend import end_to_end
from bench.figures import figures, loop_delay
from bench.hostile import hostile
from bench.idle import idle
from bench.measure import Finding, Ratio, Stage, Throughput
from bench.pipeline import pipeline, storage_operations
from bench.raw_puts import raw_puts
from bench.renewal import renewal
from bench.results import Results, duration
from bench.stages import stages
from dev.host.process import add_host_options, use_host


def main() -> None:
    """Measure, print a row for each figure as it comes, and keep them all."""
    parser = argparse.ArgumentParser(
        prog="run.py bench", description="Measure, in ratios to a reference of the same run."
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller amounts: under a minute")
    parser.add_argument("--only", choices=["cpu", "end-to-end", "emergency", "renewal", "idle"], help="a part of it")
    parser.add_argument("--reliability", action="store_true", help="the long ledger run instead: docs/reliability.md")
    parser.add_argument("--notifications", type=int, default=50_000, help="of the ledger run")
    parser.add_argument("--faults", type=int, default=38, help="of the ledger run")
    parser.add_argument("--clients", action="store_true", help="ways to put a message instead: docs/performance.md")
    parser.add_argument("--hostile", action="store_true", help="what strangers may send instead: SECURITY.md")
    parser.add_argument("--year", action="store_true", help="the simulated years instead: docs/subscriptions.md")
    parser.add_argument("--seeds", type=int, default=100, help="how many years")
    parser.add_argument("--days", type=float, default=365, help="of a year")
    parser.add_argument("--histories", type=int, metavar="COUNT", help="what calls that go wrong do to notifications")
    parser.add_argument("--seed", type=int, default=1, help="of the ledger run, the first year, or the histories")
    parser.add_argument("--time-scale", type=float, default=1.0, help="of the ledger run: shortens Graph's waits")
    add_host_options(parser)
    arguments = parser.parse_args()
    use_host(arguments)
    if arguments.reliability:
        sys.exit(reliability.main(arguments.notifications, arguments.faults, arguments.seed, arguments.time_scale))
    if arguments.histories:
        sys.exit(histories.main(arguments.histories, arguments.seed))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    if arguments.year:
        sys.exit(year.run(range(arguments.seed, arguments.seed + arguments.seeds), arguments.days, console))
    if arguments.clients:
        _print_ratios(console, clients(quick=arguments.quick))
        return
    if arguments.hostile:
        _print_ratios(console, hostile(quick=arguments.quick))
        return
    _measure(console, quick=arguments.quick, only=arguments.only)


def _measure(console: Console, *, quick: bool, only: str | None) -> None:
    found = Results()
    if only in {None, "cpu"}:
        ratios = chain(figures(quick=quick), cold_ratios(quick=quick), pipeline(quick=quick), raw_puts(quick=quick))
        found.ratios = _print_ratios(console, ratios)
        found.costs = list(costs())
        found.stages = _print_stages(console, stages())
        _print_findings(console, chain(cold_findings(quick=quick), [loop_delay()], storage_operations()), found)
    if only in {None, "end-to-end"}:
        _print_findings(console, end_to_end(quick=quick), found)
    if only in {None, "emergency"}:
        _print_findings(console, emergencies(quick=quick), found)
    if only in {None, "renewal"}:
        _print_findings(console, renewal(quick=quick), found)
    if only in {None, "idle"}:
        _print_findings(console, idle(quick=quick), found)
    complete = only is None and not quick
    found.save(complete=complete)
    if complete:
        from bench.picture import draw  # noqa: PLC0415 - what it loads would count in the memory measured above

        draw(found.throughputs)


def _print_ratios(console: Console, ratios: Iterable[Ratio]) -> list[Ratio]:
    table = Table("figure", "ratio", "lowest to highest", "itself", "reference", "rounds", "aim")
    found = []
    with console.status("measuring …") as status:
        for one in ratios:
            found.append(one)
            table.add_row(
                one.name,
                f"{one.ratio:.2f}",
                f"{one.low:.2f} to {one.high:.2f}",
                duration(one.seconds),
                duration(one.reference_seconds),
                str(one.rounds),
                one.target,
            )
            status.update(f"measured: {one.name}")
    console.print(table)
    return found


def _print_stages(console: Console, stages: Iterable[Stage]) -> list[Stage]:
    table = Table("stage of a rich notification, 40 to a POST", "itself", "limit", "which is")
    found = list(stages)
    for one in found:
        limit = "" if one.limit_seconds is None else duration(one.limit_seconds)
        table.add_row(one.name, duration(one.seconds), limit, one.limit)
    console.print(table)
    return found


def _print_findings(console: Console, findings: Iterable[Finding | Throughput], results: Results) -> None:
    for one in findings:
        if isinstance(one, Finding):
            results.findings.append(one)
            console.print(f"  {one.name:55} {one.value}", highlight=False)
        else:
            results.throughputs.append(one)
            how = f"{one.workers} worker(s), {one.form}, {one.items} to a POST, {one.event_bytes / 1000:.1f} KB"
            console.print(f"    {how:53} {one.rate:,.0f} notifications/s", highlight=False)


if __name__ == "__main__":
    main()
