"""The table of docs/scaling.md."""

from bench import scale
from bench.measure import Cost
from bench.page import put
from bench.results import SCALING

# Of a million: executions, GB-seconds, storage operations.
ALONE = Cost(1, "single", 2_000_000, 2_000, 4_000_000, 2.5)
FORTY = Cost(40, "batch", 75_000, 800, 175_000, 0.1)


def test_it_says_what_a_load_asks_of_the_plan_and_of_storage() -> None:
    first, second, *rows = scale.table([ALONE, FORTY])
    assert (first.count("|"), second.count("|")) == (7, 7)
    assert rows[0] == "| 1, 1 | single | 0.001 | 1 | 4 (0.0%) | 1 (0%) |"
    assert rows[1] == "| 10, 1 | single | 0.01 | 1 | 40 (0.2%) | 10 (0%) |"
    assert rows[2] == "| 1,000, 40 | batch | 0.4 | 1 | 175 (0.9%) | 50 (2%) |"
    assert rows[3].startswith("| 50,000 users' calls")


def test_in_a_morning_everything_is_handled_and_dearer_notifications_wait_longer() -> None:
    cheap, dear = scale.morning(FORTY), scale.morning(Cost(40, "batch", 75_000, 80_000, 175_000, 0.1))
    assert 250 < cheap.rate < 1000  # 150,000 in ten minutes, most of them in the middle
    assert dear.deepest > cheap.deepest
    assert dear.longest > cheap.longest
    assert dear.instances > cheap.instances


def test_it_has_its_place_in_the_page() -> None:
    assert "a table" in put(SCALING.read_text(encoding="utf-8"), "scale", "run.py bench", "a table\n")
