"""Gaps in call records, as values: noticing them, searching them, judging what is found."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.call_records.coverage import (
    NOTIFICATION_LATENCY,
    Coverage,
    Gap,
    ListedRecord,
    missed,
    notification_of,
    observed,
    parse_record,
    participants_of,
)
from shared.values.errors import MalformedInputError
from tests.fakes import event_from
from tests.unit.model_graph import TENANT, call_records, user

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
CLOCKS = timedelta(minutes=5)  # by which two may differ
GAP = Gap(NOW - 2 * HOUR, NOW)


class TestObserved:
    @pytest.mark.parametrize(
        ("known", "identity", "later", "gaps"),
        [
            (None, "a", NOW, ()),  # the first sight
            (Coverage("a", NOW), "a", NOW + HOUR, ()),
            (Coverage("a", NOW), "b", NOW + CLOCKS, (Gap(NOW, NOW + CLOCKS),)),  # another one
            # A long silence, even where the subscription lived through it.
            (Coverage("a", NOW), "a", NOW + HOUR + SECOND, (Gap(NOW, NOW + HOUR + SECOND),)),
        ],
    )
    def test_a_gap_is_the_time_since_another_or_none_was_seen(
        self, known: Coverage | None, identity: str, later: datetime, gaps: tuple[Gap, ...]
    ) -> None:
        assert observed(known, identity, later) == Coverage(identity, later, gaps)

    def test_what_graph_missed_may_be_as_old_as_its_tries(self) -> None:
        [gap] = missed(Coverage("a", NOW), NOW).gaps
        assert (gap, gap.done, gap.link) == (Gap(NOW - 4 * HOUR, NOW), 0, None)

    def test_gaps_that_wait_become_one_and_leave_the_one_under_way_alone(self) -> None:
        under_way = Gap(NOW - 9 * HOUR, NOW - 8 * HOUR, 3, "link")
        known = Coverage("a", NOW, (under_way,))
        known = known.noted(NOW - 5 * HOUR, NOW - 4 * HOUR).noted(NOW - 6 * HOUR, NOW - 3 * HOUR)
        assert known.gaps == (under_way, Gap(NOW - 6 * HOUR, NOW - 3 * HOUR))


class TestSearched:
    def test_progress_is_that_of_the_gap_it_was_made_in(self) -> None:
        known = Coverage("a", NOW, (GAP, Gap(NOW, NOW + HOUR)))
        onward = msgspec.structs.replace(GAP, done=2, link="x")
        assert known.searched(GAP, onward).gaps == (onward, Gap(NOW, NOW + HOUR))
        assert known.searched(onward, None).gaps == (Gap(NOW, NOW + HOUR),)

    def test_somebody_else_has_finished_it(self) -> None:
        known = Coverage("a", NOW, (Gap(NOW, NOW + HOUR),))
        assert known.searched(GAP, None) is known
        assert Coverage("a", NOW).searched(GAP, GAP) == Coverage("a", NOW)


class TestSteps:
    @given(st.integers(0, 40 * 24 * 60), st.integers(1, 31 * 24 * 60))
    def test_they_cover_all_starts_that_matter_without_holes(self, ago: int, minutes: int) -> None:
        since = NOW - timedelta(minutes=ago)
        gap = Gap(since, since + timedelta(minutes=minutes))
        steps = gap.steps((), NOW)
        assert steps[0].start == gap.since - NOTIFICATION_LATENCY - timedelta(hours=30)
        assert all(one.end == after.start for one, after in pairwise(steps))
        assert gap.until < steps[-1].end
        assert steps == gap.steps((), NOW + timedelta(days=1))  # progress is counted in them

    def test_the_condition_is_what_graph_understands(self) -> None:
        first = GAP.steps((), NOW)[0]
        assert first.condition == ("startDateTime ge 2026-02-28T01:30:00Z and startDateTime lt 2026-02-28T07:30:00Z")

    def test_participants_are_asked_for_one_by_one(self) -> None:
        conditions = [step.condition for step in GAP.steps((user(1), user(2)), NOW)]
        assert [condition.partition(" and participants")[2] for condition in conditions] == [
            f"_v2/any(p:p/id eq '{user(number)}')" for number in (1, 2)
        ]

    def test_nobody_is_asked_for_what_graph_has_forgotten(self) -> None:
        old = Gap(NOW - timedelta(days=60), NOW)
        (step,) = old.steps((user(1),), NOW)
        assert step.start == NOW - timedelta(days=30)


@pytest.mark.parametrize(
    ("modified", "version", "may"),
    [
        (NOW - HOUR, 1, True),
        (GAP.since - NOTIFICATION_LATENCY, 1, True),  # its notification was on its way
        (GAP.since - NOTIFICATION_LATENCY - CLOCKS, 1, True),
        (GAP.since - NOTIFICATION_LATENCY - CLOCKS - SECOND, 1, False),
        (GAP.since - NOTIFICATION_LATENCY - HOUR, 1, False),
        (GAP.since - NOTIFICATION_LATENCY - HOUR, 2, True),  # its second version may be younger
        (GAP.until + CLOCKS, 1, True),
        (GAP.until + CLOCKS + SECOND, 1, False),
        (NOW + HOUR, 1, False),  # there was a subscription again
        (NOW + HOUR, 2, False),
        (None, 1, True),
    ],
)
def test_what_may_have_been_missed(modified: datetime | None, version: int, may: bool) -> None:
    assert GAP.may_miss(ListedRecord("r", version, modified, b"{}")) is may


def test_participants_are_those_of_the_filter() -> None:
    assert participants_of(call_records().resource) == ()
    condition = f"communications/callRecords?$filter=participants/any(p:p/id in ('{user(1)}','{user(2)}'))"
    assert participants_of(condition) == (user(1), user(2))
    for one in ("abcdef00-0000-4000-8000-000000000001", "ABCDEF00-0000-4000-8000-000000000001"):
        condition = f"communications/callRecords?$filter=participants/any(p:p/id eq '{one}')"
        assert participants_of(condition) == (one,)


class TestRecord:
    def test_what_matters_is_read_and_the_rest_is_kept(self) -> None:
        value = {"id": "r", "version": 2, "lastModifiedDateTime": "2026-03-01T11:00:00.1234567Z", "new": [1]}
        found = parse_record(value)
        assert (found.id, found.version, found.modified) == ("r", 2, datetime(2026, 3, 1, 11, 0, 0, 123456, UTC))
        assert msgspec.json.decode(found.data) == value

    @pytest.mark.parametrize("value", [{"id": "r", "version": "2"}, {"id": "r", "lastModifiedDateTime": "soon"}])
    def test_what_cannot_be_read_is_taken_for_missed(self, value: dict[str, object]) -> None:
        assert GAP.may_miss(parse_record(value))

    @pytest.mark.parametrize("version", [None, "2", 2.0])
    def test_a_version_that_is_none_is_before_the_first(self, version: object) -> None:
        assert parse_record({"id": "r", "version": version}).version == 0

    @pytest.mark.parametrize("value", [{}, {"id": ""}, {"id": 5}])
    def test_without_an_id_it_is_none(self, value: dict[str, object]) -> None:
        with pytest.raises(MalformedInputError) as caught:
            parse_record(value)
        assert (caught.value.reason, str(caught.value)) == ("call-record-malformed", "not a call record")

    @pytest.mark.parametrize(("version", "change_type"), [(0, "created"), (1, "created"), (2, "updated")])
    def test_its_notification_is_the_one_that_graph_would_have_sent(self, version: int, change_type: str) -> None:
        record = parse_record({"id": "r", "version": version})
        assert msgspec.json.decode(notification_of(record, TENANT)) == {
            "changeType": change_type,
            "tenantId": TENANT,
            "resource": "communications/callRecords/r",
            "resourceData": {"id": "r", "version": version},
        }

    @pytest.mark.parametrize(("version", "event_type"), [(1, "CallRecordCreated"), (4, "CallRecordUpdated")])
    def test_its_event_is_named_after_its_version(self, version: int, event_type: str) -> None:
        record = parse_record({"id": "r", "version": version, "lastModifiedDateTime": "2026-03-01T11:00:00Z"})
        event = event_from(notification_of(record, TENANT), backfilled=True)
        assert event.data == record.data
        assert {
            "id": f"r/{version}",
            "source": "https://graph.microsoft.com/v1.0/communications/callRecords",
            "type": f"Microsoft.Graph.{event_type}",
            "time": "2026-03-01T11:00:00Z",
            "subject": "communications/callRecords/r",
            "tenantid": TENANT,
            "backfilled": "true",
        }.items() <= event.attributes.items()
        assert "subscriptionid" not in event.attributes
