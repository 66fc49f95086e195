"""A sample of each type of event, in each spelling of Graph's: `docs/samples/{type}/{spelling}.json`."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from dev.simulator.payloads import Kind, Options, Payload, Spelling, build
from shared.notifications.events import Event, event_of, with_record
from shared.values.items import parse_item

_AT: Final = datetime(2026, 1, 15, 9, 30, 12, 345678, tzinfo=UTC)
_OPTIONS: Final = Options(id="b3a1c4f2-5f0e-4d0e-8a55-0c3f3b0f6a21", at=_AT)
_TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_BLOB: Final = (
    "https://account.blob.core.windows.net/event-data/meeting-events/2026/01/15/0af7651916cd43dd8448eb211c80319c-0.json"
)

_SPELLED: Final = (
    Kind.CALL_STARTED,
    Kind.CALL_ENDED,
    Kind.CALL_ROSTER,
    Kind.CALL_RECORDING,
    Kind.CALL_TRANSCRIPTION,
    Kind.MEETING_STARTED,
    Kind.MEETING_ENDED,
    Kind.ROSTER_JOINED,
    Kind.MEETING_RECORDING,
    Kind.MEETING_TRANSCRIPTION,
    Kind.EMERGENCY_NESTED,
    Kind.EMERGENCY_ENDED,
)
_OTHERS: Final = {
    Kind.ROSTER_LOBBY: "lobby",
    Kind.ROSTER_INACTIVE: "inactive",
    Kind.ROSTER_EXITED: "exited",
    Kind.LEGACY_MEETING_STARTED: "older",
    Kind.LEGACY_MEETING_ENDED: "older",
    Kind.LEGACY_ROSTER: "older",
    Kind.ONLINE_MEETING_UPDATED: "rich",
    Kind.EMERGENCY_FLAT: "flat",
    Kind.PRESENCE: "rich",
    Kind.CALL_RECORD_CREATED: "notified",
    Kind.CALL_RECORD_UPDATED: "notified",
}
_RECORD: Final = {
    "id": _OPTIONS.id,
    "version": 2,
    "type": "groupCall",
    "modalities": ["audio", "video"],
    "lastModifiedDateTime": "2026-01-15T10:45:00Z",
    "startDateTime": "2026-01-15T09:30:12.345678Z",
    "endDateTime": "2026-01-15T10:15:00Z",
    "joinWebUrl": "https://teams.microsoft.com/l/meetup-join/19%3ameeting_OTkxNDZkNGEtMzk1Yy00ZjI3%40thread.v2/0",
}
_PERSON: Final = {
    "id": "f3ce5e01-0724-43c7-ae4d-80ca18703a96",
    "identity": {"user": {"id": "f3ce5e01-0724-43c7-ae4d-80ca18703a96", "displayName": "Adele Example"}},
}
_SESSION: Final = {
    "id": "e523d2ed-2966-4b6b-925b-754a88034cc5",
    "modalities": ["audio"],
    "startDateTime": "2026-01-15T09:30:12.345678Z",
    "endDateTime": "2026-01-15T10:15:00Z",
    "segments": [{"id": "e523d2ed-2966-4b6b-925b-754a88034cc5", "failureInfo": None}],
}


def samples() -> Iterator[tuple[str, str, str]]:
    """A type, what tells the sample from others of its type, and the event in the CloudEvents JSON format."""
    for kind in _SPELLED:
        seen = set()
        for spelling in Spelling:
            event = _event(build(kind, replace(_OPTIONS, spelling=spelling)))
            if event.data not in seen:  # emergencies have no entity of their own
                seen.add(event.data)
                yield _named(event, spelling.value)
    for kind in (kind for kind in Kind if kind not in _SPELLED):
        yield _named(_event(build(kind, _OPTIONS)), _OTHERS.get(kind, kind.value))
    exchanged = build(Kind.LEGACY_ROSTER, replace(_OPTIONS, roster="delta-remove"))
    yield _named(_event(exchanged), "older-delta-remove")
    presence, meeting = build(Kind.PRESENCE, _OPTIONS), build(Kind.ONLINE_MEETING_UPDATED, _OPTIONS)
    for payload in (presence, meeting):
        yield _named(_event(replace(payload, content=None)), "basic")
    record = build(Kind.CALL_RECORD_UPDATED, _OPTIONS)
    yield _named(
        with_record(
            _event(record), json.dumps(_RECORD | {"sessions": [_SESSION], "participants_v2": [_PERSON]}).encode()
        ),
        "fetched",
    )
    yield _named(_event(record, backfilled=True), "backfilled")
    large = _event(build(Kind.ROSTER_JOINED, _OPTIONS))
    yield large.type, "dataref", large.to_json_with_ref(_BLOB).decode()
    unknown = replace(build(Kind.CALL_STARTED, _OPTIONS), content={"eventType": "unknownFutureValue"})
    yield _named(_event(unknown), "call")


def example() -> Event:
    """The event that docs/events.md shows."""
    return _event(build(Kind.ROSTER_JOINED, _OPTIONS))


def _named(event: Event, variant: str) -> tuple[str, str, str]:
    return event.type, variant, event.to_json().decode()


def _event(payload: Payload, *, backfilled: bool = False) -> Event:
    notification: dict[str, Any] = {
        "id": "lsgTZMr9KwAAA",
        "changeType": payload.change_type,
        "tenantId": _OPTIONS.tenant_id,
        "resource": payload.resource,
        "resourceData": _RECORD if backfilled else payload.resource_data,
    }
    if not backfilled:
        notification["subscriptionId"] = "76222963-cc7b-42d2-882d-8aaa69cb2ba3"
    return event_of(
        parse_item(json.dumps(notification).encode()),
        None if payload.content is None else json.dumps(payload.content).encode(),
        fallback_id="",
        received=_AT,
        traceparent=_TRACE,
        backfilled=backfilled,
    )
