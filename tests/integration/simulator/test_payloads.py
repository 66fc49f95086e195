import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dev.simulator.payloads import JOIN_WEB_URL, Kind, Options, Spelling, build, default_resource, meeting_resource
from dev.simulator.rules import rule_for

SAMPLES = Path(__file__).parents[2] / "samples"


def shape(value: Any) -> Any:
    """What a resource is made of, names in their order aside, without its values."""
    if isinstance(value, Mapping):
        return {name: shape(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


@pytest.mark.parametrize(
    ("sample", "kind"),
    [
        ("call-started", Kind.CALL_STARTED),
        ("call-ended", Kind.CALL_ENDED),
        ("meeting-started", Kind.MEETING_STARTED),
        ("meeting-ended", Kind.MEETING_ENDED),
        ("meeting-roster-joined", Kind.ROSTER_JOINED),
        ("meeting-roster-inactive", Kind.ROSTER_INACTIVE),
        ("meeting-roster-exited", Kind.ROSTER_EXITED),
        ("legacy-meeting-started", Kind.LEGACY_MEETING_STARTED),
        ("legacy-meeting-ended", Kind.LEGACY_MEETING_ENDED),
        ("emergency-nested", Kind.EMERGENCY_NESTED),
        ("emergency-flat", Kind.EMERGENCY_FLAT),
        ("presence", Kind.PRESENCE),
    ],
)
def test_content_has_the_documented_shape(sample: str, kind: Kind) -> None:
    documented = json.loads((SAMPLES / "decrypted" / f"{sample}.json").read_text())
    assert shape(build(kind).content) == shape(documented)


@pytest.mark.parametrize("sample", ["call-record-created", "call-record-updated"])
def test_call_records_have_the_documented_outside(sample: str) -> None:
    (documented,) = json.loads((SAMPLES / "notifications" / f"{sample}.json").read_text())["value"]
    payload = build(Kind(sample), Options(id=documented["resourceData"]["id"]))
    assert payload.resource_data == documented["resourceData"]
    assert payload.resource == documented["resource"]
    assert payload.change_type == documented["changeType"]


@pytest.mark.parametrize(
    ("spelling", "word"),
    [
        (Spelling.DRAFT, "{Microsoft.Communication.CallEventType.CallStarted}"),
        (Spelling.QUALIFIED, "Microsoft.Communication.CallStarted"),
        (Spelling.HASHED, "#Microsoft.Communication.CallStarted"),
        (Spelling.PLAIN, "callStarted"),
    ],
)
def test_every_spelling_can_be_had(spelling: Spelling, word: str) -> None:
    content = build(Kind.CALL_STARTED, Options(spelling=spelling)).content
    assert content is not None
    assert content["eventType"] == word


def test_the_published_entity_names_its_type_otherwise() -> None:
    content = build(Kind.CALL_ENDED, Options(spelling=Spelling.ENTITY)).content
    assert content is not None
    assert content["callEventType"] == "callEnded"
    assert "eventType" not in content


def test_a_large_roster_has_all_its_participants() -> None:
    content = build(Kind.ROSTER_LOBBY, Options(participants=400)).content
    assert content is not None
    participants = content["participants@delta"]
    assert len({entry["id"] for entry in participants}) == 400
    assert all(entry["isInLobby"] for entry in participants)
    assert 80_000 < len(json.dumps(content)) < 120_000


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_belongs_to_a_resource_that_can_be_subscribed_to(kind: Kind) -> None:
    rule = rule_for(default_resource(kind), "beta")
    payload = build(kind)
    assert payload.change_type in rule.change_types
    assert (payload.content is not None) in rule.rich


def test_the_join_url_is_encoded_once_more() -> None:
    resource = meeting_resource("https://teams.microsoft.com/l/meetup-join/19%3ameeting_x%40thread.v2/0?context=%7b%7d")
    assert resource == (
        "communications/onlineMeetings(joinWebUrl='https%3A%2F%2Fteams.microsoft.com%2Fl%2Fmeetup-join%2F"
        "19%253ameeting_x%2540thread.v2%2F0%3Fcontext%3D%257b%257d')/meetingCallEvents"
    )
    assert meeting_resource(JOIN_WEB_URL).count("'") == 2
