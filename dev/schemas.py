"""What consumers rely on, written from the types: `docs/schemas/*.json` and the generated parts of `docs/events.md`.

    python -m dev.schemas

A generated part of the page stands between `<!-- generated: name -->` and `<!-- end: name -->`.

Source: JSON Schema 2020-12; CloudEvents 1.0, "JSON Event Format for CloudEvents".
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from dev import pages
from dev.simulator.payloads import Kind, Options, build
from shared.notifications.events import JSON_CONTENT_TYPE, Event, event_of, schema_id
from shared.values.event_types import DATA_TYPES, CloudEvent
from shared.values.items import parse_item
from shared.values.resources import CATALOGUE, UNRECOGNIZED, UNRECOGNIZED_QUEUE

JSON = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parent.parent
SCHEMAS: Final = Path("docs", "schemas")
PAGE: Final = Path("docs", "events.md")

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_PREFIX: Final = "Microsoft.Graph."
_REF: Final = "#/$defs/{name}"

_WHEN: Final[Mapping[str, str]] = {
    **{each.name: each.when for kind in CATALOGUE.values() for each in kind.event_types.values()},
    UNRECOGNIZED: "An authentic notification says what this version of Switchboard does not know.",
}

# What every event has, although a reader can do without.
_ALWAYS: Final = ("datacontenttype", "dataschema", "traceparent")


def generated(root: Path) -> dict[Path, str]:
    """The text of every generated file by its path under `root`, where the page's hand-written parts are read."""
    files = {SCHEMAS / f"{name(event_type)}.json": _json(schema(event_type)) for event_type in DATA_TYPES}
    return files | {PAGE: pages.filled(root, PAGE, _PARTS)}


def name(event_type: str) -> str:
    """The short name of a type: `CallStarted` for `Microsoft.Graph.CallStarted`."""
    return event_type.removeprefix(_PREFIX)


# --- schemas --------------------------------------------------------------------------------------------------------


def schema(event_type: str) -> JSON:
    """The JSON Schema of a whole event of a type. Unknown properties are allowed, in the event and in its data."""
    (_, data), definitions = _components(CloudEvent, DATA_TYPES[event_type])
    event = definitions.pop("CloudEvent")
    properties = {key: _without_null(attribute) for key, attribute in event["properties"].items()}
    properties["type"]["const"] = event_type
    properties["datacontenttype"]["const"] = JSON_CONTENT_TYPE
    properties["dataschema"]["const"] = schema_id(event_type)
    properties["data"] |= data
    found = {
        "$schema": _DIALECT,
        "$id": schema_id(event_type),
        "title": event_type,
        "description": _WHEN[event_type],
        "type": "object",
        "properties": properties,
        "required": [*event["required"], *_ALWAYS],
        "oneOf": [{"required": ["data"]}, {"required": ["dataref"]}],
    }
    return found | ({"$defs": definitions} if definitions else {})


def _components(*types: Any) -> tuple[tuple[JSON, ...], JSON]:
    schemas, definitions = msgspec.json.schema_components(types, ref_template=_REF)
    return schemas, {key: _tidy(definition) for key, definition in definitions.items()}


def _tidy(found: Any) -> Any:
    """Say the same in less: no defaults (absent is absent), no empty lists, a union of plain types as one."""
    if isinstance(found, list):
        return [_tidy(value) for value in found]
    if not isinstance(found, dict):
        return found
    tidy = {key: _tidy(value) for key, value in found.items() if key != "default" and (key, value) != ("required", [])}
    if "description" in tidy:
        tidy["description"] = " ".join(tidy["description"].split())
    union = tidy.get("anyOf", [])
    if union and all(set(member) == {"type"} for member in union):
        del tidy["anyOf"]
        tidy["type"] = [member["type"] for member in union]
    return tidy


def _without_null(attribute: JSON) -> JSON:
    """An attribute that has no value is left out of an event; it is never null."""
    if isinstance(attribute.get("type"), list):
        (only,) = (member for member in attribute["type"] if member != "null")
        return attribute | {"type": only}
    return dict(attribute)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# --- the page -------------------------------------------------------------------------------------------------------


def example() -> Event:
    """The event that the page shows."""
    at = datetime(2026, 1, 15, 9, 30, 12, 345678, tzinfo=UTC)
    payload = build(Kind.ROSTER_JOINED, Options(id="b3a1c4f2-5f0e-4d0e-8a55-0c3f3b0f6a21", at=at))
    notification = {
        "id": "lsgTZMr9KwAAA",
        "subscriptionId": "76222963-cc7b-42d2-882d-8aaa69cb2ba3",
        "changeType": payload.change_type,
        "tenantId": "f69f5191-20ae-4093-8dae-3ec09edeb253",
        "resource": payload.resource,
    }
    return event_of(
        parse_item(json.dumps(notification).encode()),
        json.dumps(payload.content).encode(),
        fallback_id="",
        received=at,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


def _example() -> str:
    return f"```json\n{_json(json.loads(example().to_json()))}```\n"


def _types() -> str:
    def row(event_type: str, data_type: Any) -> tuple[str, ...]:
        kinds = [kind for kind in CATALOGUE.values() if event_type in {each.name for each in kind.event_types.values()}]
        return (
            f"[`{event_type}`](schemas/{name(event_type)}.json)",
            pages.codes(kind.events_queue for kind in kinds) or f"`{UNRECOGNIZED_QUEUE}`, or the resource's own queue",
            pages.codes(kind.key for kind in kinds) or "any",
            _WHEN[event_type],
            "anything" if data_type is Any else _link(data_type.__name__),
        )

    rows = [row(event_type, data_type) for event_type, data_type in DATA_TYPES.items()]
    return pages.table(("`type`", "queue", "resource", "when", "`data`"), rows)


def _attributes() -> str:
    event = schema(UNRECOGNIZED)  # the attributes are the same in all
    there = dict.fromkeys(event["required"], "always") | dict.fromkeys(("data", "dataref"), "one of the two")
    there |= {"backfilled": "[where backfilled](#call-records)"}
    rows = [
        (f"`{key}`", there.get(key, "where known"), attribute["description"])
        for key, attribute in event["properties"].items()
    ]
    return pages.table(("attribute", "there", "what it is"), rows)


def _data() -> str:
    shapes = [shape for shape in dict.fromkeys(DATA_TYPES.values()) if shape is not Any]
    references, definitions = _components(*shapes)
    ordered = dict.fromkeys(_targets([*references, *definitions.values()]))
    return "\n".join(_section(shape, definitions[shape]) for shape in ordered)


def _section(shape: str, definition: JSON) -> str:
    rows = [
        (f"`{key}`", _type_of(field), field.get("description", "")) for key, field in definition["properties"].items()
    ]
    return f"### {shape}\n\n{definition['description']}\n\n{pages.table(('field', 'type', 'what it is'), rows)}"


def _type_of(field: JSON) -> str:
    """A field's type as a reader says it; that it may be null is said once for all."""
    if "$ref" in field:
        return _link(next(_targets([field])))
    if "anyOf" in field:
        return " or ".join(_type_of(member) for member in field["anyOf"] if member != {"type": "null"})
    if field["type"] == "array":
        return f"array of {_type_of(field['items'])}" if field.get("items") else "array"
    if field["type"] == "object" and "additionalProperties" in field:
        return f"object of {_type_of(field['additionalProperties'])}"
    return field["type"] if isinstance(field["type"], str) else " or ".join(t for t in field["type"] if t != "null")


def _targets(found: Any) -> Iterator[str]:
    """The names of the definitions that a schema refers to, in its order."""
    if isinstance(found, list):
        for member in found:
            yield from _targets(member)
    elif isinstance(found, dict):
        if "$ref" in found:
            yield found["$ref"].removeprefix(_REF.format(name=""))
        yield from _targets(list(found.values()))


def _link(shape: str) -> str:
    return f"[{shape}](#{shape.lower()})"


_PARTS: Final = {"example": _example, "types": _types, "attributes": _attributes, "data": _data}


if __name__ == "__main__":
    pages.write(ROOT, generated(ROOT))
