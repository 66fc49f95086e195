"""Which subscription of a kind telemetry is told of."""

from datetime import UTC, datetime, timedelta

from shared.subscriptions.desired_source import Stage
from shared.subscriptions.renewal_state import lives_by_kind
from shared.subscriptions.run_report import Failure, RenewalReport
from shared.telemetry import Life
from shared.values.graph import Subscription

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
CALL = "users/1/communications/callEvents"


def live(resource: str, left: timedelta, granted: timedelta | None) -> Subscription:
    return Subscription(
        id=f"{resource} {left}",
        tenant_id="t",
        api_version="beta",
        resource=resource,
        change_type="updated",
        notification_url="https://switchboard.example",
        expires=NOW + left,
        life=granted,
    )


def report(*subscriptions: Subscription, failures: tuple[Failure, ...] = ()) -> RenewalReport:
    return RenewalReport(
        started=NOW,
        finished=NOW,
        desired=len(subscriptions),
        live=len(subscriptions),
        outcomes={},
        failures=failures,
        nearest=None,
        subscriptions=subscriptions,
    )


def failed(kind: str | None) -> Failure:
    return Failure(
        tenant_id="t", stage=next(iter(Stage)), kind=kind, reason="graph-403", count=1, detail="no", told="no"
    )


def test_the_one_that_comes_first_to_a_quarter_of_its_own_life() -> None:
    long, short = live(CALL, 5 * HOUR, 24 * HOUR), live(CALL, 0.5 * HOUR, HOUR)
    assert lives_by_kind(report(short, long)) == {"callEvents": Life(NOW + 5 * HOUR, 24 * HOUR)}
    assert lives_by_kind(report(short)) == {"callEvents": Life(NOW + 0.5 * HOUR, HOUR)}


def test_the_longest_possible_life_where_nobody_knows_what_was_granted() -> None:
    assert lives_by_kind(report(live(CALL, HOUR, None))) == {"callEvents": Life(NOW + HOUR, 24 * HOUR)}


def test_a_kind_that_has_lost_its_last_one_has_come_to_its_end() -> None:
    """Else the alert would resolve with the end of what it warned of."""
    found = lives_by_kind(report(failures=(failed("emergencyCallEvents"), failed(None))))
    assert found == {"emergencyCallEvents": Life(NOW, 24 * HOUR)}


def test_what_is_live_is_told_of_though_another_of_its_kind_failed() -> None:
    found = lives_by_kind(report(live(CALL, 20 * HOUR, 24 * HOUR), failures=(failed("callEvents"),)))
    assert found == {"callEvents": Life(NOW + 20 * HOUR, 24 * HOUR)}


def test_nothing_is_told_of_nothing() -> None:
    assert lives_by_kind(report()) == {}
