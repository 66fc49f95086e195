"""From plaintext to CloudEvent and back, in every spelling of Graph's."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.simulator.payloads import Kind, Options, Spelling, build, default_resource
from shared.notifications.events import Event, event_word, with_record
from shared.values import resources
from shared.values.errors import MalformedInputError
from shared.values.events.event_data import (
    CallEventData,
    CallRecordData,
    EmergencyCallEventData,
    MeetingCallEventData,
    PresenceData,
)
from shared.values.events.event_types import EventError, parse
from shared.values.resource_row import ResourceKind
from shared.values.resources import UNRECOGNIZED
from tests.expected_events import EXPECTED
from tests.fakes import event_from

RECEIVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SIGNATURE = base64.b64encode(bytes(range(32))).decode()
OUTER = {"subscriptionId": "5b1c0f3e-sub", "changeType": "updated", "tenantId": "T", "clientState": "the secret"}


PATHS = {
    found.key: default_resource(kind) for kind in Kind if (found := resources.match(default_resource(kind))) is not None
}


def event(outer: dict[str, Any], plaintext: bytes | None = None) -> Event:
    return event_from(OUTER | outer, plaintext, fallback_id="delivery-0", received=RECEIVED, traceparent=TRACE)


def rich(kind: Kind, options: Options | None = None, **outer: Any) -> Event:
    payload = build(kind, options)
    return event(
        {
            "resource": payload.resource,
            "changeType": payload.change_type,
            "resourceData": payload.resource_data,
            "encryptedContent": {"dataSignature": SIGNATURE},
        }
        | outer,
        json.dumps(payload.content).encode(),
    )


def refusal(error: MalformedInputError) -> tuple[str, str]:
    return error.reason, str(error)


RICH = tuple(kind for kind in Kind if build(kind).content is not None)


@pytest.mark.parametrize("kind", RICH)
def test_every_kind_in_every_spelling(kind: Kind) -> None:
    queue, name = EXPECTED[kind]
    for spelling in (None, *Spelling):
        found = rich(kind, Options(spelling=spelling))
        assert (found.queue, found.type) == (queue, f"Microsoft.Graph.{name}"), spelling


@pytest.mark.parametrize(("change", "word"), [("created", "Created"), ("updated", "Updated"), ("CREATED", "Created")])
def test_call_records_follow_the_change_type(change: str, word: str) -> None:
    found = event({"resource": "communications/callRecords/1", "changeType": change, "resourceData": {"id": "1"}})
    assert (found.type, found.queue) == (f"Microsoft.Graph.CallRecord{word}", "call-record-events")


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("{Microsoft.Communication.CallEventType.CallStarted}", "callstarted"),
        ("Microsoft.Communication.CallRosterUpdate", "callrosterupdate"),
        ("#microsoft.communication.callStarted", "callstarted"),
        (" CALLSTARTED ", "callstarted"),
        ("callStarted", "callstarted"),
        ("{XcallStartedX}", "xcallstartedx"),
        ("", ""),
        (None, ""),
        (7, ""),
        (["callStarted"], ""),
    ],
)
def test_event_word(value: object, word: str) -> None:
    assert event_word(value) == word


@pytest.mark.parametrize(
    ("outer", "plaintext", "queue"),
    [
        ({"resource": "chats/1/messages/2"}, b'{"id":"2"}', "unrecognized-events"),
        ({}, b"[1,2]", "unrecognized-events"),
        ({"resource": 7, "resourceData": "x"}, None, "unrecognized-events"),
        ({"resource": "/users/1/communications/callEvents"}, b'{"eventType":"callParked"}', "call-events"),
        ({"resource": "/users/1/communications/callEvents"}, b'{"eventType":7}', "call-events"),
        ({"resource": "/users/1/communications/callEvents"}, b"null", "call-events"),
        ({"resource": "communications/presences/1"}, b"[]", "presence-events"),
        ({"resource": "communications/onlineMeetings/1"}, b"null", "online-meeting-events"),
        ({"resource": "communications/callRecords/1", "changeType": "deleted"}, None, "call-record-events"),
    ],
)
def test_what_no_row_knows_is_delivered_all_the_same(
    outer: dict[str, Any], plaintext: bytes | None, queue: str
) -> None:
    found = event(outer, plaintext)
    assert (found.type, found.queue) == (UNRECOGNIZED, queue)
    if plaintext is not None:
        assert found.data == plaintext


def test_data_is_verbatim() -> None:
    plaintext = b' {"id" : "1",  "new":{"a":[1.0e2, 1e999]}, "eventType":"callStarted","n\\u00e4me":"\xc3\xa4"}\r\n'
    found = event({"resource": "/users/1/communications/callEvents"}, plaintext)
    assert found.data == plaintext
    assert plaintext in found.to_json()
    assert event({}, b"\xef\xbb\xbf{}").data == b"{}"  # but for a byte order mark


def test_the_envelope_is_a_cloud_event() -> None:
    resource = "communications/onlineMeetings(joinWebUrl='x')/meetingCallEvents"
    found = json.loads(rich(Kind.ROSTER_JOINED, Options(id="n", at=RECEIVED, resource=resource)).to_json())
    data = found.pop("data")
    assert data["participants@delta"][0]["isInLobby"] is False
    assert found == {
        "specversion": "1.0",
        "id": bytes(range(32)).hex(),
        "source": "https://graph.microsoft.com/beta/subscriptions/5b1c0f3e-sub",
        "type": "Microsoft.Graph.MeetingRosterUpdated",
        "subject": resource,
        "time": data["eventDateTime"],
        "datacontenttype": "application/json",
        "dataschema": "urn:switchboard:schema:MeetingRosterUpdated:2",
        "tenantid": "t",
        "subscriptionid": "5b1c0f3e-sub",
        "changetype": "updated",
        "traceparent": TRACE,
    }


def test_a_claim_check_has_a_dataref_and_no_data() -> None:
    found = json.loads(rich(Kind.CALL_STARTED).to_json_with_ref("https://blob/x"))
    assert found["dataref"] == "https://blob/x"
    assert "data" not in found


@pytest.mark.parametrize("plaintext", [b"", b" ", b"hello", b"{", b'{"a":1}}', b'{"a":"\xff"}', b"\x00", b"[" * 10**6])
def test_plaintext_that_is_not_json(plaintext: bytes) -> None:
    with pytest.raises(MalformedInputError) as caught:
        event({"resource": "/users/1/communications/callEvents"}, plaintext)
    assert refusal(caught.value) == ("plaintext-not-json", "the content is not JSON")


SIGNED = {"encryptedContent": {"dataSignature": SIGNATURE}}


@pytest.mark.parametrize(
    ("outer", "identity"),
    [
        ({"id": "graphs"} | SIGNED, "graphs"),
        ({"id": "7"} | SIGNED, "7"),
        ({"id": "x" * 256} | SIGNED, "x" * 256),
        *(({"id": none} | SIGNED, bytes(range(32)).hex()) for none in ("", None, 7, "x" * 257, ["a"])),
        (SIGNED, bytes(range(32)).hex()),
        *(
            ({"encryptedContent": {"dataSignature": none}}, "delivery-0")
            for none in (None, 7, "", "not base64", f"?{SIGNATURE}", [])
        ),
        ({"resource": "communications/callRecords/1"}, "delivery-0"),
    ],
)
def test_the_id_is_graphs_else_the_signatures_else_the_deliverys(outer: dict[str, Any], identity: str) -> None:
    assert event(outer, b"{}").id == identity


@pytest.mark.parametrize(
    ("when", "used"),
    [
        ("2022-02-28T00:00:00.0000000Z", True),
        ("2024-01-01T10:00:00.0000000+00:00", True),
        ("2024-02-31T10:00:00Z", False),
        ("2024-01-01", False),
        ("2024-01-01T10:00:00", False),
        ("٢024-01-01T10:00:00Z", False),
        ("{eventDateTime}", False),
        (7, False),
        (None, False),
        ({}, False),
    ],
)
def test_time_is_the_events_own_where_it_is_one(when: object, used: bool) -> None:
    plaintext = json.dumps({"eventType": "callStarted", "eventDateTime": when}).encode()
    found = event({"resource": "/users/1/communications/callEvents"}, plaintext)
    assert found.attributes["time"] == (when if used else "2026-01-02T03:04:05+00:00")
    assert parse(found.to_json())[0].time.tzinfo is not None


def test_a_nested_emergency_may_call_its_type_by_either_name() -> None:
    for name in ("callEventType", "eventType"):
        plaintext = json.dumps({"emergencyCallEvent": {name: "callEnded"}, "eventType": "callStarted"}).encode()
        found = event({"resource": resources.emergency_path("P")}, plaintext)
        assert found.type == "Microsoft.Graph.EmergencyCallEnded"


def test_the_time_of_a_nested_emergency_is_found() -> None:
    at = datetime(2025, 1, 1, 10, tzinfo=UTC)
    assert parse(rich(Kind.EMERGENCY_NESTED, Options(at=at)).to_json())[0].time == at


NAMES = {"id": "1", "@odata.type": "#x", "@odata.id": "y/1", "@odata.etag": "W/1"}
FORGED = {"eventType": "callStarted", "callEventType": "callStarted", "state": "active", "organizer": {"user": {}}}
FORGED |= {"participants@delta": [{"info": {}}], "eventDateTime": "2020-01-01T00:00:00Z", "availability": "Busy"}


@pytest.mark.parametrize("kind", [*resources.CATALOGUE.values(), None])
def test_of_what_nobody_has_signed_only_the_names_are_believed(kind: ResourceKind | None) -> None:
    resource = PATHS[kind.key] if kind else "chats/1"
    found = event({"resource": resource, "resourceData": FORGED | NAMES})
    assert json.loads(found.data) == NAMES
    assert b"the secret" not in found.to_json()
    assert found.attributes["time"] == RECEIVED.isoformat()
    assert found.type in {
        UNRECOGNIZED,
        "Microsoft.Graph.PresenceUpdated",
        "Microsoft.Graph.OnlineMeetingUpdated",
        "Microsoft.Graph.CallRecordUpdated",
    }


def test_a_name_is_text() -> None:
    odd = {"id": {"user": "x"}, "@odata.type": ["x"], "@odata.id": 7, "@odata.etag": None}
    assert json.loads(event({"resource": "chats/1", "resourceData": odd}).data) == {}


def test_an_unknown_kind_without_resource_data_keeps_its_own_fields_and_never_the_secret() -> None:
    for inner in (None, "x", ["a roster"]):
        odd = event({"resource": "chats/1", "resourceData": inner, "encryptedContent": None})
        outer = {name: OUTER[name] for name in ("subscriptionId", "changeType", "tenantId")}
        assert json.loads(odd.data) == {"resource": "chats/1"} | outer


@pytest.mark.parametrize(
    "resource",
    ["communications/callRecords/r-1", "/communications/callrecords('r-1')", "communications/callRecords(r-1"],
)
def test_a_call_record_without_resource_data_is_named_by_its_resource(resource: str) -> None:
    found = event({"resource": resource, "resourceData": None})
    assert json.loads(found.data) == ({} if resource.endswith("(r-1") else {"id": "r-1"})
    assert found.type == "Microsoft.Graph.CallRecordUpdated"


def test_a_resource_that_is_only_ever_rich_is_not_believed_in_the_clear() -> None:
    found = event(
        {"resource": resources.emergency_path("P"), "resourceData": {"callEventType": "callStarted", "id": "1"}}
    )
    assert (found.type, found.queue) == (UNRECOGNIZED, "emergency-call-events")


@pytest.mark.parametrize("subscription", [None, 7, "", "a/b c"])
def test_the_source_is_a_uri_whatever_the_subscription_id_is(subscription: object) -> None:
    source = event({"subscriptionId": subscription}).attributes["source"]
    assert source == "https://graph.microsoft.com/v1.0/subscriptions" + (
        "/a%2Fb%20c" if subscription == "a/b c" else ""
    )


@pytest.mark.parametrize("value", ["", None, 7, ["x"], {"x": 1}])
def test_an_attribute_is_text_or_left_out(value: object) -> None:
    names = ("resource", "tenantId", "subscriptionId", "changeType")
    found = event(dict.fromkeys(names, value))
    assert not found.attributes.keys() & {"subject", "tenantid", "subscriptionid", "changetype"}
    assert parse(found.to_json())


def test_an_event_that_nobody_sent_says_so_and_carries_its_record() -> None:
    record = {"id": "r", "version": 2, "type": "groupCall"}
    found = event_from({"resource": "communications/callRecords/r", "resourceData": record}, backfilled=True)
    assert (found.id, found.attributes["backfilled"], json.loads(found.data)) == ("r/2", "true", record)
    assert parse(found.to_json())[0].backfilled == "true"


def test_a_record_and_its_version_name_its_event() -> None:
    bare = event({"resource": "communications/callRecords/r", "resourceData": {"id": "r"}})
    record = b'{"id":"r","version":3,"lastModifiedDateTime":"2026-01-01T00:00:00Z","sessions":[]}'
    found = with_record(bare, record)
    assert found.data == record
    assert found.attributes == bare.attributes | {
        "id": "r/3",
        "source": "https://graph.microsoft.com/v1.0/communications/callRecords",
        "time": "2026-01-01T00:00:00Z",
    }


@pytest.mark.parametrize("modified", [None, 7, "yesterday", "2026-02-31T00:00:00Z"])
def test_a_record_that_tells_no_time_leaves_the_events(modified: object) -> None:
    bare = event({"resource": "communications/callRecords/r"})
    found = with_record(bare, json.dumps({"id": "r", "lastModifiedDateTime": modified}).encode())
    assert (found.id, found.attributes["time"]) == ("r/0", bare.attributes["time"])


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b'{"id":""}', b'{"id":7}', b'{"id":"r","version":"3"}'])
def test_what_is_no_record_says_so(record: bytes) -> None:
    with pytest.raises(MalformedInputError) as caught:
        with_record(event({}), record)
    assert refusal(caught.value) == ("call-record-malformed", "not a call record")


def test_consumers_get_types() -> None:
    assert isinstance(typed(rich(Kind.CALL_STARTED)), CallEventData)
    assert isinstance(typed(rich(Kind.LEGACY_ROSTER)), MeetingCallEventData)
    assert isinstance(typed(event({"resource": "communications/callRecords/1"})), CallRecordData)
    presence = typed(rich(Kind.PRESENCE, Options(availability="Away", activity="BeRightBack")))
    assert isinstance(presence, PresenceData)
    assert (presence.availability, presence.activity) == ("Away", "BeRightBack")


def typed(found: Event) -> Any:
    return parse(found.to_json())[0].typed()


def test_a_roster_has_participants() -> None:
    roster = typed(rich(Kind.ROSTER_EXITED, Options(participants=3)))
    assert len(roster.participants_delta) == 3
    first = roster.participants_delta[0]
    assert first.info.identity.user.display_name == "Participant 0"
    assert first.removed_state.reason == "Participant has left the meeting call."


def test_a_type_that_this_version_does_not_know_reads_as_json() -> None:
    text = rich(Kind.CALL_STARTED).to_json().replace(b"Microsoft.Graph.CallStarted", b"Microsoft.Graph.CallParked")
    found = parse(text)[0]
    assert found.typed() == json.loads(bytes(found.data))


@pytest.mark.parametrize("kind", [Kind.EMERGENCY_FLAT, Kind.EMERGENCY_NESTED])
def test_an_emergency_has_all_its_fields_in_both_shapes(kind: Kind) -> None:
    found = rich(kind)
    content = json.loads(found.data)
    said = content.get("emergencyCallEvent", content)
    data = typed(found)
    assert isinstance(data, EmergencyCallEventData)
    read = msgspec.json.decode(msgspec.json.encode(data.call))
    assert len(said) > 5
    for name, value in said.items():
        if not isinstance(value, dict):
            assert read[name] == value, name
    assert data.call.caller_info is not None
    assert data.call.caller_info.location is not None
    assert data.call.caller_info.location.coordinates is not None
    assert data.call.caller_info.location.coordinates.latitude == "47.6400"


def test_messages_in_base64_and_in_batches() -> None:
    one = rich(Kind.CALL_STARTED).to_json()
    in_base64 = base64.b64encode(one)
    for text in (one, one.decode(), in_base64, in_base64.decode(), b"[" + one + b"]", b"\r\n " + one):
        assert [found.type for found in parse(text)] == ["Microsoft.Graph.CallStarted"]
    assert len(parse(b"[%b,%b]" % (one, one))) == 2


@pytest.mark.parametrize(
    "text", ["", "x", "{}", "[7]", "W10", "?W10=", "[[]]", '{"specversion":"0.3"}', "[" * 10**6, "\ud83d"]
)
def test_messages_that_are_no_cloud_events(text: str) -> None:
    with pytest.raises(EventError, match=r"^the message is not a CloudEvent$"):
        parse(text)


def test_data_elsewhere_is_asked_for_and_then_typed() -> None:
    found = rich(Kind.CALL_STARTED)
    (parsed,) = parse(found.to_json_with_ref("https://blob/x"))
    with pytest.raises(EventError, match="the event's data is in the blob that its dataref names"):
        parsed.typed()
    assert isinstance(parsed.typed(found.data), CallEventData)


def test_data_that_does_not_fit_its_type() -> None:
    found = event({"resource": "/users/1/communications/callEvents"}, b'{"eventType":"callStarted","callId":7}')
    with pytest.raises(EventError, match=r"the data of a Microsoft\.Graph\.CallStarted does not fit its type"):
        typed(found)


VALUES = st.none() | st.text(st.characters(codec="utf-8"), max_size=8) | st.integers(-(2**63), 2**63 - 1)


@given(st.sampled_from(RICH), VALUES | st.lists(VALUES, max_size=2))
def test_a_field_of_any_type_never_stops_an_event(kind: Kind, value: Any) -> None:
    payload = build(kind)
    for name in payload.content or {}:
        content = json.dumps((payload.content or {}) | {name: value}).encode()
        found = event({"resource": payload.resource, "resourceData": {}}, content)
        assert msgspec.json.decode(found.to_json())["data"] == json.loads(content)
