"""What is published for consumers is what the types say, and every event that is written fits it."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from dev import samples, schemas
from dev.simulator.payloads import Kind, Options, Payload, Spelling, build
from shared.notifications.events import Event, schema_id, with_record
from shared.values import resources
from shared.values.events.event_data import DATA_TYPES
from shared.values.events.event_types import parse
from shared.values.resources import UNRECOGNIZED
from tests.fakes import event_from

RECEIVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SAMPLES = schemas.ROOT / "tests" / "samples"
USER = "/users/048c94fb-dda6-48b8-9fc8-6740ee418fb9"


@cache  # and not while tests are collected, which each worker does
def generated() -> dict[Path, str]:
    return schemas.generated(schemas.ROOT)


formats = FormatChecker(formats=())


@formats.checks("date-time", raises=ValueError)
def is_date_time(value: object) -> bool:
    return datetime.fromisoformat(str(value)).tzinfo is not None and "T" in str(value)


@formats.checks("uri", raises=ValueError)
def is_uri(value: object) -> bool:
    parts = urlsplit(str(value))
    return bool(parts.scheme and parts.netloc) and re.fullmatch(r"[!-~]+", str(value)) is not None


def published(event_type: str, part: str = "event") -> dict[str, Any]:
    path = schemas.ROOT / schemas.SCHEMAS / part / f"{schemas.name(event_type)}.json"
    return json.loads(path.read_text("utf-8"))


VALIDATORS = {name: Draft202012Validator(published(name), format_checker=formats) for name in DATA_TYPES}
DATA_VALIDATORS = {
    found["$id"]: Draft202012Validator(found) for found in (published(name, "data") for name in DATA_TYPES)
}


def check(event: Mapping[str, Any]) -> None:
    VALIDATORS[event["type"]].validate(event)
    if "data" in event:
        DATA_VALIDATORS[event["dataschema"]].validate(event["data"])


def written(payload: Payload, plaintext: bytes | None) -> Event:
    notification = {
        "id": "lsgTZMr9KwAAA",
        "subscriptionId": "76222963-cc7b-42d2-882d-8aaa69cb2ba3",
        "changeType": payload.change_type,
        "tenantId": "f69f5191-20ae-4093-8dae-3ec09edeb253",
        "resource": payload.resource,
        "resourceData": payload.resource_data | ({} if plaintext else payload.basic),
    }
    return event_from(notification, plaintext, received=RECEIVED, traceparent=TRACE)


def of(kind: Kind, options: Options | None = None) -> dict[str, Any]:
    payload = build(kind, options)
    plaintext = None if payload.content is None else json.dumps(payload.content).encode()
    return json.loads(written(payload, plaintext).to_json())


class TestPublished:
    def test_is_what_the_types_say(self) -> None:
        stale = [path for path in generated() if (schemas.ROOT / path).read_text("utf-8") != generated()[path]]
        assert stale == [], "not up to date; run: python -m dev.schemas"

    def test_nothing_else_is_published(self) -> None:
        folders = (schemas.ROOT / schemas.SCHEMAS, schemas.ROOT / schemas.SAMPLES)
        found = {path.relative_to(schemas.ROOT) for folder in folders for path in folder.rglob("*.json")}
        assert found == set(generated()) - {schemas.PAGE, schemas.ASYNCAPI}

    def test_that_of_the_data_bears_the_dataschema_as_its_id(self) -> None:
        for event_type in DATA_TYPES:
            assert published(event_type, "data")["$id"] == schema_id(event_type)
            assert published(event_type, "event")["$id"] == schemas.event_schema_id(event_type)

    @pytest.mark.parametrize("part", ["data", "event"])
    def test_each_is_a_schema(self, part: str) -> None:
        one_of_each_shape = {shape: event_type for event_type, shape in DATA_TYPES.items()}
        for event_type in one_of_each_shape.values():
            Draft202012Validator.check_schema(published(event_type, part))

    def test_the_bundle_describes_every_event(self) -> None:
        bundle = json.loads((schemas.ROOT / schemas.SCHEMAS / "bundle.json").read_text("utf-8"))
        Draft202012Validator.check_schema(bundle)
        validator = Draft202012Validator(bundle)
        for kind in Kind:
            validator.validate(of(kind))
        with pytest.raises(ValidationError):
            validator.validate(of(Kind.CALL_STARTED) | {"data": {"eventType": 7}})

    def test_there_is_a_sample_of_every_type_in_every_spelling(self) -> None:
        found = {path: json.loads(text) for path, text in generated().items() if schemas.SAMPLES in path.parents}
        for path, event in found.items():
            check(event)
            assert path.parent.name == schemas.name(event["type"])
            assert [parsed.type for parsed in parse(json.dumps(event))] == [event["type"]]
        assert {event["type"] for event in found.values()} == set(DATA_TYPES)
        spelled = {path.stem for path in found if path.parent.name == "MeetingRosterUpdated"}
        assert spelled >= {*Spelling, "lobby", "inactive", "exited", "older", "older-delta-remove", "dataref"}

    def test_every_type_of_the_catalogue_has_one(self) -> None:
        types = {each.name for kind in resources.CATALOGUE.values() for each in kind.event_types.values()}
        assert types | {UNRECOGNIZED} == set(DATA_TYPES)
        assert len({schema_id(name) for name in DATA_TYPES}) == len(DATA_TYPES)

    def test_every_queue_of_events_is_a_channel_with_its_types(self) -> None:
        channels = yaml.safe_load(generated()[schemas.ASYNCAPI])["channels"]
        assert {channel["address"] for channel in channels.values()} == set(resources.EVENT_QUEUES)
        assert "MeetingRecordingStateUpdated" in channels["meeting-events"]["messages"]
        assert all("Unrecognized" in channel["messages"] for channel in channels.values())

    def test_the_pages_example_fits(self) -> None:
        check(json.loads(samples.example().to_json()))

    @pytest.mark.parametrize("part", ["example", "types", "attributes", "data"])
    def test_a_page_without_a_place_for_a_part_is_refused(self, part: str, tmp_path: Path) -> None:
        page = tmp_path / schemas.PAGE
        page.parent.mkdir()
        page.write_text(generated()[schemas.PAGE].replace(f"<!-- end: {part} -->", ""), "utf-8")
        with pytest.raises(ValueError, match=part):
            schemas.generated(tmp_path)

    def test_the_pages_python_reads_the_pages_example(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(schemas.ROOT / "clients" / "python")
        (code,) = re.findall(r"```python\n(.*?)```", generated()[schemas.PAGE], re.DOTALL)
        names: dict[str, Any] = {}
        exec(code, names)
        event = samples.example()
        key = (event.attributes["source"], event.id)
        assert names["summaries"](event.to_json().decode()) == [f"{key}: 1 participants changed"]


class TestEvents:
    """What `event_of` writes."""

    @pytest.mark.parametrize("spelling", [None, *Spelling])
    def test_every_kind_in_every_spelling_fits(self, spelling: Spelling | None) -> None:
        for kind in Kind:
            check(of(kind, Options(spelling=spelling, participants=3)))

    @pytest.mark.parametrize("roster", ["joined-exited", "delta-remove"])
    def test_every_older_roster_fits(self, roster: Any) -> None:
        check(of(Kind.LEGACY_ROSTER, Options(roster=roster, participants=2)))

    def test_every_kind_without_data_of_its_own_fits(self) -> None:
        blob = "https://account.blob.core.windows.net/event-data/call-events/1.json"
        for kind in Kind:
            check(json.loads(written(build(kind), None).to_json()))
            check(json.loads(written(build(kind), b'{"eventType":"callStarted"}').to_json_with_ref(blob)))

    @pytest.mark.parametrize("path", sorted(SAMPLES.glob("decrypted/*.json")), ids=lambda path: path.stem)
    def test_graphs_own_examples_fit(self, path: Path) -> None:
        plaintext = path.read_bytes()
        named = json.loads(plaintext)
        resource = str(named.get("@odata.id", f"{USER}/communications/callEvents"))
        payload = Payload(resource, "updated", {"@odata.type": named.get("@odata.type")})
        outside = SAMPLES / "notifications" / path.name
        if outside.exists():  # the content does not name its kind
            (item,) = json.loads(outside.read_bytes())["value"]
            payload = Payload(item["resource"], item["changeType"], item["resourceData"])
        event = written(payload, plaintext)
        assert event.type != UNRECOGNIZED
        check(json.loads(event.to_json()))
        assert isinstance(parse(event.to_json())[0].typed(), DATA_TYPES[event.type])

    @pytest.mark.parametrize("path", sorted(SAMPLES.glob("records/*.json")), ids=lambda path: path.stem)
    def test_records_fit(self, path: Path) -> None:
        event = with_record(written(build(Kind.CALL_RECORD_UPDATED), None), path.read_bytes())
        check(json.loads(event.to_json()))
        assert parse(event.to_json())[0].typed()

    def test_what_lies_on_queues_from_before_fits_and_is_read(self) -> None:
        event = of(Kind.CALL_STARTED) | {"dataschema": "urn:switchboard:schema:CallStarted:1"}
        VALIDATORS[event["type"]].validate(event)
        assert parse(json.dumps(event))[0].typed()

    @pytest.mark.parametrize("kind", [Kind.CALL_STARTED, Kind.ROSTER_JOINED, Kind.EMERGENCY_FLAT, Kind.PRESENCE])
    def test_a_word_that_graph_knows_no_name_for_yet_is_delivered(self, kind: Kind) -> None:
        payload = build(kind)
        content = json.dumps((payload.content or {}) | {"callEventType": "unknownFutureValue", "eventType": None})
        event = written(replace(payload, change_type="unknownFutureValue"), content.encode())
        assert event.type in {UNRECOGNIZED, "Microsoft.Graph.PresenceUpdated"}
        check(json.loads(event.to_json()))

    @pytest.mark.parametrize("path", sorted(SAMPLES.glob("notifications/*.json")), ids=lambda path: path.stem)
    def test_graphs_own_notifications_fit(self, path: Path) -> None:
        body = json.loads(path.read_bytes())
        for raw in body.get("value", [body]):  # Graph's page on calls shows one without its collection
            check(json.loads(event_from(raw, traceparent=TRACE).to_json()))

    @pytest.mark.parametrize("plaintext", [b"null", b"7", b'"x"', b"[1]", b'{"eventType":"callParked"}'])
    def test_what_no_type_knows_fits_unrecognized(self, plaintext: bytes) -> None:
        event = written(Payload(f"{USER}/communications/callEvents", "updated", {}), plaintext)
        assert event.type == UNRECOGNIZED
        check(json.loads(event.to_json()))

    def test_a_notification_that_says_nothing_fits(self) -> None:
        check(json.loads(event_from({}, traceparent=TRACE).to_json()))

    def test_unknown_fields_are_allowed_everywhere(self) -> None:
        event = of(Kind.ROSTER_JOINED) | {"newextension": "x"}
        event["data"]["new"] = 1
        event["data"]["participants@delta"][0]["new"] = 1
        check(event)

    @pytest.mark.parametrize(
        ("change", "path"),
        [
            ({"type": "Microsoft.Graph.CallEnded"}, ["type"]),
            ({"dataschema": "urn:switchboard:schema:CallStarted:3"}, ["dataschema"]),
            ({"specversion": "0.3"}, ["specversion"]),
            ({"id": ""}, ["id"]),
            ({"time": "yesterday"}, ["time"]),
            ({"source": "a subscription"}, ["source"]),
            ({"subject": None}, ["subject"]),
            ({"backfilled": None}, ["backfilled"]),
            ({"backfilled": True}, ["backfilled"]),
            ({"data": {"eventType": 7}}, ["data", "eventType"]),
            ({"data": []}, ["data"]),
            ({"dataref": "https://account.blob.core.windows.net/event-data/1.json"}, []),
        ],
        ids=str,
    )
    def test_what_is_no_such_event_does_not_fit(self, change: dict[str, Any], path: list[str]) -> None:
        with pytest.raises(ValidationError) as caught:
            VALIDATORS["Microsoft.Graph.CallStarted"].validate(of(Kind.CALL_STARTED) | change)
        assert list(caught.value.absolute_path) == path

    @pytest.mark.parametrize("name", published("Microsoft.Graph.CallStarted")["required"])
    def test_what_is_always_there_is_required(self, name: str) -> None:
        event = of(Kind.CALL_STARTED)
        del event[name]
        with pytest.raises(ValidationError, match=name):
            VALIDATORS["Microsoft.Graph.CallStarted"].validate(event)

    def test_data_or_its_address_is_required(self) -> None:
        event = of(Kind.CALL_STARTED)
        del event["data"]
        with pytest.raises(ValidationError):
            check(event)


def test_the_python_types_read_what_the_schemas_describe() -> None:
    for kind in Kind:
        event = of(kind, Options(spelling=Spelling.ENTITY))
        (found,) = parse(json.dumps(event))
        data = found.typed()
        assert isinstance(data, DATA_TYPES[event["type"]]), kind
        assert data.id == event["data"]["id"]
