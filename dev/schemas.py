"""What consumers rely on, written from the types: `docs/schemas`, `docs/asyncapi.yaml`, `docs/samples` and the
generated parts of `docs/events.md`.

    python -m dev.schemas

A generated part of the page stands between `<!-- generated: name -->` and `<!-- end: name -->`.

Source: JSON Schema 2020-12; CloudEvents 1.0, "JSON Event Format for CloudEvents".
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from dev import asyncapi, pages, samples
from shared.notifications.events import JSON_CONTENT_TYPE, schema_id
from shared.values.events.event_data import DATA_TYPES
from shared.values.events.event_types import CloudEvent
from shared.values.resources import CATALOGUE, UNRECOGNIZED, UNRECOGNIZED_QUEUE

JSON = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parent.parent
SCHEMAS: Final = Path("docs", "schemas")
SAMPLES: Final = Path("docs", "samples")
ASYNCAPI: Final = Path("docs", "asyncapi.yaml")
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
    whole = bundle()
    files = {PAGE: pages.filled(root, PAGE, _PARTS), ASYNCAPI: asyncapi.document(whole)}
    files[SCHEMAS / "bundle.json"] = _json(whole)
    for event_type in DATA_TYPES:
        files[SCHEMAS / "data" / f"{name(event_type)}.json"] = _json(data_schema(event_type))
        files[SCHEMAS / "event" / f"{name(event_type)}.json"] = _json(event_schema(event_type))
    for event_type, variant, event in samples.samples():
        files[SAMPLES / name(event_type) / f"{variant}.json"] = _json(json.loads(event))
    return files


def name(event_type: str) -> str:
    """The short name of a type: `CallStarted` for `Microsoft.Graph.CallStarted`."""
    return event_type.removeprefix(_PREFIX)


# --- schemas --------------------------------------------------------------------------------------------------------


def event_schema_id(event_type: str) -> str:
    """The ``$id`` of the schema of a whole event."""
    return f"urn:switchboard:event:{name(event_type)}:2"


def data_schema(event_type: str) -> JSON:
    """The JSON Schema of the data of a type, which `dataschema` names. Unknown properties are allowed."""
    head = {"$schema": _DIALECT, "$id": schema_id(event_type), "title": f"The data of a {event_type}"}
    (data,), definitions = _components(DATA_TYPES[event_type])
    if "$ref" not in data:
        return head
    shape = definitions.pop(next(_targets([data])))
    return head | {key: value for key, value in shape.items() if key != "title"} | _definitions(definitions)


def event_schema(event_type: str) -> JSON:
    """The JSON Schema of a whole event of a type. Unknown properties are allowed, in the event and in its data."""
    (data,), definitions = _components(DATA_TYPES[event_type])
    event = _attributes_schema()
    properties = event["properties"]
    properties["type"]["const"] = event_type
    properties["datacontenttype"]["const"] = JSON_CONTENT_TYPE
    # Events with the id of before lie on queues for as long as nobody reads them.
    properties["dataschema"]["enum"] = [schema_id(event_type), f"urn:switchboard:schema:{name(event_type)}:1"]
    properties["data"] = {"description": properties["data"]["description"]} | data
    return {
        "$schema": _DIALECT,
        "$id": event_schema_id(event_type),
        "title": event_type,
        "description": _WHEN[event_type],
        **event,
        "oneOf": [{"required": ["data"]}, {"required": ["dataref"]}],
        **_definitions(definitions),
    }


def bundle() -> JSON:
    """All in one, to make code from: `$defs` has the attributes (`CloudEvent`), the events, and what their data is."""
    _, definitions = _components(*DATA_TYPES.values())
    attributes = _attributes_schema()
    del attributes["properties"]["data"]
    events = {f"{name(event_type)}Event": _event_definition(event_type) for event_type in DATA_TYPES}
    return {
        "$schema": _DIALECT,
        "$id": "urn:switchboard:bundle:2",
        "title": "Event",
        "description": "An event of any type.",
        "oneOf": [{"$ref": _REF.format(name=event)} for event in events],
        "$defs": {"CloudEvent": {"title": "CloudEvent", **attributes}} | events | definitions,
    }


def _event_definition(event_type: str) -> JSON:
    (data,), _ = _components(DATA_TYPES[event_type])
    return {
        "title": f"{name(event_type)}Event",
        "description": _WHEN[event_type],
        "type": "object",
        "allOf": [{"$ref": _REF.format(name="CloudEvent")}],
        "properties": {"type": {"const": event_type}, "data": data},
        "required": ["type"],
    }


def _attributes_schema() -> JSON:
    """An object with the attributes that all events have, and `data`."""
    _, definitions = _components(CloudEvent)
    event = definitions["CloudEvent"]
    return {
        "type": "object",
        "description": event["description"],
        "properties": {key: _without_null(attribute) for key, attribute in event["properties"].items()},
        "required": [*event["required"], *_ALWAYS],
    }


def _definitions(definitions: JSON) -> JSON:
    return {"$defs": definitions} if definitions else {}


def _components(*types: Any) -> tuple[tuple[JSON, ...], JSON]:
    schemas, definitions = msgspec.json.schema_components(types, ref_template=_REF)
    return schemas, {key: _tidy(definition) for key, definition in definitions.items()}


def _tidy(found: Any) -> Any:
    """Say the same in less: no defaults (absent is absent), no empty lists, a union of plain types or of all as one."""
    if isinstance(found, list):
        return [_tidy(value) for value in found]
    if not isinstance(found, dict):
        return found
    tidy = {key: _tidy(value) for key, value in found.items() if key != "default" and (key, value) != ("required", [])}
    if "description" in tidy:
        tidy["description"] = " ".join(tidy["description"].split())
    union = tidy.get("anyOf", [])
    if {} in union:
        del tidy["anyOf"]
    elif union and all(set(member) == {"type"} for member in union):
        del tidy["anyOf"]
        tidy["type"] = [member["type"] for member in union]
    return tidy


def _without_null(attribute: JSON) -> JSON:
    """An attribute that has no value is left out of an event; it is never null."""
    match attribute:
        case {"type": [*members]}:
            (only,) = (member for member in members if member != "null")
            return attribute | {"type": only}
        case {"anyOf": [*members]}:
            (only,) = (member for member in members if member != {"type": "null"})
            return {key: value for key, value in attribute.items() if key != "anyOf"} | only
    return dict(attribute)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# --- the page -------------------------------------------------------------------------------------------------------


def _example() -> str:
    return f"```json\n{_json(json.loads(samples.example().to_json()))}```\n"


def _types() -> str:
    def row(event_type: str, data_type: Any) -> tuple[str, ...]:
        kinds = [kind for kind in CATALOGUE.values() if event_type in {each.name for each in kind.event_types.values()}]
        return (
            f"`{event_type}` ({_schema_link('data', event_type)}, {_schema_link('event', event_type)})",
            pages.codes(kind.events_queue for kind in kinds) or f"`{UNRECOGNIZED_QUEUE}`, or the resource's own queue",
            pages.codes(kind.key for kind in kinds) or "any",
            _WHEN[event_type],
            "anything" if data_type is Any else _link(data_type.__name__),
        )

    rows = [row(event_type, data_type) for event_type, data_type in DATA_TYPES.items()]
    return pages.table(("`type`", "queue", "resource", "when", "`data`"), rows)


def _attributes() -> str:
    event = _attributes_schema()
    there = dict.fromkeys(event["required"], "always") | dict.fromkeys(("data", "dataref"), "one of the two")
    there |= {"backfilled": "[where backfilled](#call-records)"}
    rows = [
        (f"`{key}`", there.get(key, "where known"), f"{attribute['description']}{_known(attribute)}")
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
        (f"`{key}`", _type_of(field), f"{field['description']}{_known(field)}")
        for key, field in definition["properties"].items()
    ]
    return f"### {shape}\n\n{definition['description']}\n\n{pages.table(('field', 'type', 'what it is'), rows)}"


def _known(field: JSON) -> str:
    """The values that Graph's metadata names."""
    return f" Known: {pages.codes(field['examples'])}." if "examples" in field else ""


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


def _schema_link(part: str, event_type: str) -> str:
    return f"[{part}](schemas/{part}/{name(event_type)}.json)"


def _link(shape: str) -> str:
    return f"[{shape}](#{shape.lower()})"


_PARTS: Final = {"example": _example, "types": _types, "attributes": _attributes, "data": _data}


if __name__ == "__main__":
    pages.write(ROOT, generated(ROOT))
