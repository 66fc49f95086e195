"""The catalogue, against the seeds' own examples."""

import tracemalloc

import pytest

from dev import traffic
from dev.simulator.payloads import JOIN_WEB_URL, Kind, default_resource
from shared.values import resources
from shared.values.resource_row import ResourceKind, normal_path

# The example of Graph's page on meetings: a join URL, and what it must read in a subscription's resource.
SEED_URL = (
    "https://teams.microsoft.com/l/meetup-join/19%3ameeting_ZmYwZTEyYjctZjA5MS00OTkzLWJhNzEtYzFiZDVjNGE0OGFj"
    "%40thread.v2/0?context=%7b%22Tid%22%3a%22909c6581-5130-43e9-88f3-fcb3582cde37%22%2c%22Oid%22%3a"
    "%22048c94fb-dda6-48b8-9fc8-6740ee418fb9%22%7d"
)
SEED_PATH = (
    "communications/onlineMeetings(joinWebUrl='https%3A%2F%2Fteams.microsoft.com%2Fl%2Fmeetup-join%2F19%253ameeting_"
    "ZmYwZTEyYjctZjA5MS00OTkzLWJhNzEtYzFiZDVjNGE0OGFj%2540thread.v2%2F0%3Fcontext%3D%257b%2522Tid%2522%253a"
    "%2522909c6581-5130-43e9-88f3-fcb3582cde37%2522%252c%2522Oid%2522%253a%2522048c94fb-dda6-48b8-9fc8-6740ee418fb9"
    "%2522%257d')/meetingCallEvents"
)


def test_a_join_url_is_encoded_exactly_once_more() -> None:
    assert resources.meeting_call_events_path(SEED_URL) == SEED_PATH


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("communications/callRecords", "callRecords"),
        ("/communications/callRecords/1", "callRecords"),
        ("communications/callRecords?$filter=participants/any(p:p/id eq 'x')", "callRecords"),
        ("users/1/communications/callEvents", "callEvents"),
        ("/users/1/communications/callevents/2", "callEvents"),
        ("users('1')/communications/callEvents", "callEvents"),
        (SEED_PATH, "meetingCallEvents"),
        ("/" + SEED_PATH, "meetingCallEvents"),
        ("communications/calls/getEmergencyEventsByPolicy(policyName='P')", "emergencyCallEvents"),
        ("communications/presences/1", "presence"),
        ("/communications/presences?$filter=id in ('1','2')", "presence"),
        (f"/communications/onlineMeetings/?$filter=JoinWebUrl eq '{JOIN_WEB_URL}'", "onlineMeeting"),
        ("communications/onlineMeetings/1", "onlineMeeting"),
        ("communications/onlineMeetings(joinWebUrl='x')", "onlineMeeting"),
        ("communications/onlineMeetings(joinWebUrl='https://x/y?z=(1)')/", "onlineMeeting"),
        ("communications//onlineMeetings('it''s')", "onlineMeeting"),
        ("communications/onlineMeetings", "onlineMeeting"),
        ("communications/onlineMeetings('x')/transcripts('y')", "transcripts"),
        ("communications/onlineMeetings/x/attendanceReports", None),
        ("communications/onlineMeetings/getAllTranscripts", "transcripts"),
        ("communications/onlineMeetings/getAllOthers", None),
        ("communications/onlineMeetings/x/recordings", "recordings"),
        ("users/1/onlineMeetings('x')/recordings('y')", "recordings"),
        ("/users/1/onlineMeetings/getAllRecordings", "recordings"),
        ("users/1/adhoccalls('c')/transcripts(y)", "transcripts"),
        ("users/1/adhocCalls/c/recordings/y", "recordings"),
        ("users/1/adhoccalls/adhocCalls/c/recordings('y')", "recordings"),
        ("communications/adhocCalls/getAllTranscripts", "transcripts"),
        ("users/1/adhocCalls/c/transcriptsX/y", None),
        ("users/1/onlineMeetings('x')", None),
        ("communications/onlineMeetingsX", None),
        ("communications/callRecordsX/1", None),
        ("switchboard/selfTest/1", "selfTest"),
        ("switchboard/other", None),
        ("other/selfTest/1", None),
        ("chats/1/messages", None),
        ("Xcommunications/callRecords", None),
        ("communications/calls/1", None),
        ("users/1/chats", None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_match_by_path(path: object, key: str | None) -> None:
    found = resources.match(path)
    assert (found and found.key) == key


@pytest.mark.parametrize("kind", Kind)
def test_every_resource_of_graphs_has_a_row(kind: Kind) -> None:
    assert resources.match(default_resource(kind)) is not None


@pytest.mark.parametrize(
    ("odata_type", "key"),
    [
        ("#Microsoft.Graph.callrecord", "callRecords"),
        ("#Microsoft.Graph.callRecord", "callRecords"),
        ("microsoft.graph.presence", "presence"),
        ("#MICROSOFT.GRAPH.EMERGENCYCALLEVENT", "emergencyCallEvents"),
        ("#Microsoft.Graph.onlineMeeting", "onlineMeeting"),
        ("#microsoft.graph.callevent", None),  # two rows share it
        ("#microsoft.graph.chatMessage", None),
        ("Xmicrosoft.graph.presence", None),
        (None, None),
        (["#microsoft.graph.presence"], None),
    ],
)
def test_match_by_type_where_the_path_says_nothing(odata_type: object, key: str | None) -> None:
    found = resources.match("some/new/path", odata_type)
    assert (found and found.key) == key


@pytest.mark.parametrize(
    ("resource_data", "odata_type"),
    [({"@odata.type": "#x", "id": "1"}, "#x"), ({"id": "1"}, None), ({}, None), (None, None), ([], None), ("x", None)],
)
def test_the_type_of_resource_data(resource_data: object, odata_type: str | None) -> None:
    assert resources.odata_type_of(resource_data) == odata_type


def test_the_path_comes_before_the_type() -> None:
    assert resources.match("communications/presences/1", "#microsoft.graph.callrecord") is resources.PRESENCE


def test_queue_names_are_ones_that_storage_takes() -> None:
    for name in (*resources.EVENT_QUEUES, *resources.RAW_QUEUES):
        assert 3 <= len(name) + len("-poison") <= 63
        assert name.replace("-", "").isalnum()
        assert name == name.lower()
    assert len(set(resources.EVENT_QUEUES)) == len(resources.EVENT_QUEUES)


def test_a_quote_in_a_policy_name_is_doubled() -> None:
    assert resources.emergency_path("St. Mary's").endswith("(policyName='St. Mary''s')")


@pytest.mark.parametrize(
    ("users", "path"),
    [
        (("a",), "communications/presences/a"),
        (("a", "b"), "communications/presences?$filter=id in ('a','b')"),
    ],
)
def test_presence_paths(users: tuple[str, ...], path: str) -> None:
    assert resources.presence_path(users) == path
    assert resources.match(path) is resources.PRESENCE


@pytest.mark.parametrize("kind", resources.CATALOGUE.values(), ids=lambda kind: kind.key)
def test_the_path_that_a_form_makes_is_of_that_form_and_of_no_other_row(kind: ResourceKind) -> None:
    for form in kind.forms:
        path = form.path(*(traffic.EXAMPLES[form.value][:1] if form.value is not None else ()))
        assert kind.form(path) is form
        assert kind.form("/" + path.upper()) is form
        assert [one.key for one in resources.CATALOGUE.values() if one.matches(normal_path(path))] == [kind.key]


@pytest.mark.parametrize(
    "text",
    ["communications/onlineMeetings(", "communications/onlineMeetings('", "users('a'b", "users/1/onlineMeetings/"],
)
def test_a_long_path_of_no_row_is_given_up_on_in_one_pass(text: str) -> None:
    assert resources.match(text + "a'" * 50_000) is None  # which takes ages where a pattern tries again


def test_long_paths_are_matched_and_not_kept() -> None:
    tracemalloc.start()
    try:
        for number in range(200):
            padding = str(number) + "x" * 100_000
            meeting = f"communications/onlineMeetings(joinWebUrl='{padding}')/meetingCallEvents"
            assert resources.match(f"communications/callRecords/{padding}") is resources.CALL_RECORDS
            assert resources.match(meeting) is resources.MEETING_CALL_EVENTS
            assert resources.match(padding) is None
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1024 * 1024
