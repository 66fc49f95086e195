"""What a run of the bench writes into docs/performance.md."""

import pytest

from bench.measure import Cost, Finding, Ratio, Stage, of_pairs
from bench.results import PAGE, Results


def results(ratio: float, value: str) -> Results:
    return Results(
        at="2026-01-01T00:00+00:00",
        machine="a machine",
        ratios=[Ratio("put", 0.0002, 0.0005, ratio, 0.3, 0.5, 21, "<= 250 µs")],
        findings=[Finding("memory", value)],
        stages=[Stage("parse", 8e-6, 2e-6, "the parser"), Stage("to a thread", 9e-6)],
        costs=[Cost(40, "batch", 75_000, 700, 175_000, 0.1234)],
    )


def test_each_table_has_its_place_in_the_page() -> None:
    page = results(0.4, "120 MiB").written_into(PAGE.read_text(encoding="utf-8"), results(0.5, "125 MiB"))
    rows = page.splitlines()
    assert "| put | 0.40 | 0.30 to 0.50 | 0.50 | -20% | 200 µs | <= 250 µs |" in rows
    assert "| memory | 120 MiB | 125 MiB |" in rows
    assert "| parse | 8 | 2 | the parser |" in rows
    assert "| to a thread | 9 |  |  |" in rows
    assert "| 40 | batch | 75,000 | 700 | 175,000 | 0.12 |" in rows


def test_writing_twice_leaves_the_last() -> None:
    page = results(0.5, "125 MiB").written_into(PAGE.read_text(encoding="utf-8"), None)
    again = results(0.4, "120 MiB").written_into(page, None)
    assert "125 MiB" not in again
    assert again == results(0.4, "120 MiB").written_into(again, None)


def test_a_page_without_a_place_is_not_written() -> None:
    with pytest.raises(ValueError, match="no place for figures"):
        results(0.4, "120 MiB").written_into("# Performance\n", None)


def test_a_figure_is_the_median_of_the_ratios_and_not_the_ratio_of_the_medians() -> None:
    found = of_pairs("x", [(1.0, 1.0), (4.0, 2.0), (9.0, 1.0)], target="")
    assert (found.ratio, found.low, found.high, found.rounds) == (2.0, 1.0, 9.0, 3)
    assert (found.seconds, found.reference_seconds) == (4.0, 1.0)
