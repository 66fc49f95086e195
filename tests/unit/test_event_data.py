"""What consumers read data with takes whatever Graph may write into it, and the schemas say the same."""

import ast
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import inspect

from dev.schemas import data_schema
from shared.values import resources
from shared.values.events import event_data, event_parts, event_types, unusual_json
from shared.values.events.event_data import DATA_TYPES, EventData
from shared.values.events.event_types import parse

SHAPES = {shape: event_type for event_type, shape in DATA_TYPES.items() if shape is not Any}
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=3,
)
ANNOTATIONS = st.sampled_from(
    ["@odata.type", "@odata.id", "@odata.context", "id@odata.type", "participants@odata.context", "info@odata.type"]
)
UNKNOWN = st.sampled_from(["", "new", "Id", "participants@removed", "identities"])


def values(found: inspect.Type) -> st.SearchStrategy[Any]:
    """What Graph may write where our types expect `found`."""
    match found:
        case inspect.Metadata(type=inner):
            return values(inner)
        case inspect.UnionType(types=types):
            return st.one_of([values(each) for each in types])
        case inspect.StructType(fields=fields):
            known = st.fixed_dictionaries({}, optional={field.encode_name: values(field.type) for field in fields})
            more = st.dictionaries(UNKNOWN, ANYTHING, max_size=2)
            annotations = st.dictionaries(ANNOTATIONS, TEXT, max_size=2)
            return st.builds(lambda *parts: parts[0] | parts[1] | parts[2], annotations, more, known)
        case inspect.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=3)
        case inspect.DictType():
            return st.dictionaries(TEXT, ANYTHING, max_size=2)
    return {
        inspect.NoneType: st.none(),
        inspect.BoolType: st.booleans(),
        inspect.IntType: st.integers(-(2**63), 2**63 - 1),
        inspect.FloatType: st.floats(allow_nan=False, allow_infinity=False),
        inspect.StrType: TEXT,
        inspect.AnyType: ANYTHING,
    }[type(found)]


def arrays(read: object) -> list[Any]:
    """What was read where there is an array, at every level."""
    if not isinstance(read, msgspec.Struct):
        return []
    fields = [getattr(read, name) for name in read.__struct_fields__]
    inner = [member for field in fields for member in (field if isinstance(field, tuple) else [field])]
    own = [field for field, default in zip(fields, read.__struct_defaults__, strict=True) if default == ()]
    return own + [each for one in inner for each in arrays(one)]


def read(event_type: str, data: object) -> EventData:
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": event_type, "time": "2026-01-01T00:00:00Z"}
    (found,) = parse(json.dumps(event | {"data": data}))
    return found.typed()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_nulls_unknown_fields_and_annotations_are_welcome_at_every_level(shape: type[msgspec.Struct]) -> None:
    event_type = SHAPES[shape]
    validator = Draft202012Validator(data_schema(event_type))

    @settings(max_examples=12, deadline=None)
    @given(values(inspect.type_info(shape)))
    def check(data: Any) -> None:
        validator.validate(data)
        for array in arrays(read(event_type, data)):
            assert isinstance(array, tuple)
            assert None not in array

    check()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_field_may_be_null(shape: type[msgspec.Struct]) -> None:
    nulls = {field.encode_name: None for field in msgspec.structs.fields(shape)}
    Draft202012Validator(data_schema(SHAPES[shape])).validate(nulls)
    assert read(SHAPES[shape], nulls) == shape()


def test_an_array_that_is_null_reads_as_empty_and_its_null_members_are_dropped() -> None:
    data = {"participants@delta": [None, {"id": "a", "mediaStreams": None}, None], "participants": None}
    found = read("Microsoft.Graph.CallRosterUpdated", data)
    (participant,) = found.participants_delta
    assert (participant.id, participant.media_streams, found.participants) == ("a", (), ())


def test_an_identity_set_holds_more_than_identities() -> None:
    identity = {"@odata.type": "#microsoft.graph.identitySet", "user": {"id": "u"}, "endpointType": "voicemail"}
    data = {"participants@delta": [{"info": {"identity": identity}}]}
    (participant,) = read("Microsoft.Graph.MeetingRosterUpdated", data).participants_delta
    assert participant.info.identity.user.id == "u"
    assert participant.info.identity.endpoint_type == "voicemail"


def test_every_word_that_graphs_metadata_has_for_a_call_has_a_type() -> None:
    described = data_schema("Microsoft.Graph.CallStarted")["properties"]["callEventType"]
    words = {word.lower() for word in described["examples"]} - {"unknownfuturevalue"}
    for kind in (resources.CALL_EVENTS, resources.MEETING_CALL_EVENTS, resources.ONLINE_MEETING):
        assert words <= kind.event_types.keys()


@pytest.mark.parametrize("module", [event_types, event_data, event_parts, unusual_json])
def test_what_consumers_get_imports_msgspec_alone(module: Any) -> None:
    files = {Path(str(found.__file__)).stem for found in (event_types, event_data, event_parts, unusual_json)}
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert (node.level, node.module in files) == (1, True)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            named = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert {str(name).partition(".")[0] for name in named} <= sys.stdlib_module_names | {"msgspec"}
