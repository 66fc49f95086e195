"""Microsoft's own parser on the queries, and that it minds what would make an alert that never fires."""

from dev.kql import check, load


def test_no_query_is_minded() -> None:
    assert check(load()) == []


def test_a_keyword_a_column_that_is_missing_and_a_wrong_type_are_found_where_they_stand() -> None:
    found = check(
        {
            "keyword": "AppMetrics\n| count;\nlet latest = 1;\nAppMetrics",
            "column": "AppMetrics\n| where Nam == 'x'",
            "type": "AppMetrics\n| where Name > 3",
            "well": "AppMetrics | where Name == 'x'",
        }
    )

    assert {(one.query, one.line) for one in found} == {("keyword", 3), ("column", 2), ("type", 2)}
