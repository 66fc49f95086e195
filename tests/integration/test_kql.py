"""Microsoft's own parser on the queries, and that it minds what would make an alert that never fires."""

import pytest

from commands.log_analytics import BILLED
from dev.kql import Diagnostic, check, load

WRONG = {
    "keyword": "AppMetrics\n| count;\nlet latest = 1;\nAppMetrics",
    "column": "AppMetrics\n| where Nam == 'x'",
    "type": "AppMetrics\n| where Name > 3",
}


@pytest.fixture(scope="module")
def found() -> list[Diagnostic]:
    """What it minds; it takes two seconds to start."""
    return check({**load(), "billed": BILLED, **WRONG})


def test_no_query_is_minded(found: list[Diagnostic]) -> None:
    assert [one for one in found if one.query not in WRONG] == []


def test_a_keyword_a_column_that_is_missing_and_a_wrong_type_are_found_where_they_stand(
    found: list[Diagnostic],
) -> None:
    assert {(one.query, one.line) for one in found} == {("keyword", 3), ("column", 2), ("type", 2)}
