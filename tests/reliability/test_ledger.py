"""Nothing lost, nothing forged: a short run, every process real. `run.py bench --reliability` makes the long one."""

from pathlib import Path

from dev.reliability import Plan, Run


def test_the_ledger_balances(tmp_path: Path) -> None:
    plan = Plan(
        notifications=120,
        faults=("host killed", "worker killed", "storage restarted", "Key Vault answers 503", "duplicated deliveries"),
        time_scale=0.05,
        outage_seconds=2.0,
        visibility_timeout="00:00:02",
        idle_seconds=0.5,
        patience=900.0,  # what is refused six times waits for more than two minutes, even scaled
        forged=8,
        undecryptable=6,
    )
    with Run.start(tmp_path, plan, print) as run:
        report = run.execute()
    assert report.balances, report
    assert report.notifications >= plan.notifications
    assert report.events == report.notifications
    assert (report.forged_sent, report.quarantined) == (plan.forged, plan.undecryptable)
    assert report.faults.total() == len(plan.faults)
