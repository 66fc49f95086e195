"""`python3 run.py bench --reliability`: the long ledger run, and the page that it writes."""

import platform
import random
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench.page import DOCS, write
from dev.reliability import FAULTS, Plan, Report, Run


def main(notifications: int, faults: int, seed: int, time_scale: float) -> int:
    """Make the run, write its figures into the page, and return the exit code: 0 where the ledger balances."""
    console = Console(highlight=False)
    schedule = [FAULTS[number % len(FAULTS)] for number in range(faults)]
    random.Random(seed).shuffle(schedule)
    plan = Plan(
        notifications,
        tuple(schedule),
        seed=seed,
        time_scale=time_scale,
        # A function that takes longer than the lease is called again, and on a busy machine two seconds are soon over.
        lease_seconds=20,
        patience=900.0,
        forged=notifications // 100,
        undecryptable=faults * 2,
    )
    with tempfile.TemporaryDirectory() as directory, Run.start(Path(directory), plan, console.print) as run:
        report = run.execute()
    figures = describe(plan, report)
    console.print(figures, markup=False, soft_wrap=True)
    write(DOCS / "reliability.md", "run.py bench --reliability", figures)
    return 0 if report.balances else 1


def describe(plan: Plan, report: Report) -> str:
    """The figures as Markdown."""
    worst = max((seconds, name) for name, found in report.recovery.items() for seconds in found)
    rows = (
        ("notifications", f"{report.notifications:,}"),
        ("events, each notification counted once", f"{report.events:,}"),
        ("faults", f"{report.faults.total()}"),
        ("lost", f"{report.lost}"),
        ("forged collections sent, each answered with 202", f"{report.forged_sent:,}"),
        ("forged items accepted", f"{report.forged_accepted}"),
        ("notifications with more than one event id", f"{report.duplicates_by_id}"),
        (
            "the same, of basic items that carry no id, after a delivery whose answer was lost, or a duplicate one",
            f"{report.second_ids_of_basic_items:,}",
        ),
        ("events that came again under the same id", f"{report.deliveries_repeated:,}"),
        (
            "undecryptable items planted, and quarantined",
            f"{report.undecryptable_sent}, {report.quarantined}"
            + (" (exactly those)" if report.quarantine_exact else " (not the same)"),
        ),
        ("claim checks that a crash orphaned, and that the sweep brought back", f"{report.claims_swept}"),
        ("blobs left over", f"{report.claims_left + report.data_blobs_without_event}"),
        ("POSTs by Graph, and those that had to be repeated", f"{report.posts:,}, {report.posts_failed:,}"),
        ("Graph's waits between its tries, of their real length", f"{plan.time_scale:.0%}"),
        ("the host's leases of ten minutes, shortened to", f"{plan.lease_seconds} s"),
        ("worst recovery", f"{worst[0]:.1f} s ({worst[1]})"),
        *(
            (
                f"emergencies late because of: {name}, with leases of {plan.emergency_lease_seconds} s",
                f"{len(found)}, by {min(found):.1f} to {max(found):.1f} s",
            )
            for name, found in sorted(report.emergency_delays.items())
        ),
        ("duration of the run", f"{report.seconds / 60:.1f} min"),
    )
    lines = [
        f"Run of {datetime.now(UTC):%Y-%m-%d}, seed {plan.seed}, Python {platform.python_version()}:\n",
        "| figure | value |",
        "|---|---:|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "| fault | times | recovery, shortest to longest | events that came again in its waves |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {report.faults[name]} | {min(found):.1f} to {max(found):.1f} s | {report.repeated[name]:,} |"
            for name, found in sorted(report.recovery.items())
        ),
    ]
    return "\n".join(lines) + "\n"
