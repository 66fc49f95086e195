"""What a release of Microsoft's SDK has that the schemas have not, on a small one made up after its form."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dev import drift

BUNDLE = json.loads(drift.BUNDLE.read_text("utf-8"))
CALL_EVENT_TYPES = BUNDLE["$defs"]["CallEventData"]["properties"]["callEventType"]["examples"]


def class_name(model: str) -> str:
    return "".join(part.capitalize() for part in model.rpartition("/")[2].split("_"))


def module(model: str) -> str:
    """How a module of the same folder is imported."""
    return model.rpartition("/")[2]


def a_class(name: str, fields: Mapping[str, str], parent: str = "entity") -> str:
    """A model as the generator writes it; a field holds the model that is named, or a string where none is."""
    outside = f"from .{'.' * name.count('/')}{parent}"
    imports = "".join(f"        from .{module(held)} import {class_name(held)}\n" for held in fields.values() if held)
    entries = "".join(
        f"            \"{field}\": lambda n : setattr(self, 'x', n.{getter(held)}),\n" for field, held in fields.items()
    )
    return (
        f"from __future__ import annotations\n{outside} import {class_name(parent)}\n\n"
        f"@dataclass\nclass {class_name(name)}({class_name(parent)}, Parsable):\n"
        "    def get_field_deserializers(self,) -> dict[str, Callable[[ParseNode], None]]:\n"
        f"{imports}        fields: dict[str, Callable[[Any], None]] = {{\n{entries}        }}\n"
        "        super_fields = super().get_field_deserializers()\n        fields.update(super_fields)\n"
        "        return fields\n"
    )


def getter(held: str) -> str:
    return f"get_object_value({class_name(held)})" if held else "get_str_value()"


def an_enumeration(name: str, members: list[str]) -> str:
    assigned = "".join(f'    {member.capitalize()} = "{member}",\n' for member in members)
    return f"from enum import Enum\n\nclass {class_name(name)}(str, Enum):\n{assigned}"


def release(tmp_path: Path, **models: str) -> Path:
    """A wheel with all that is compared, and nothing new in it but what is given."""
    found = {model: a_class(model, {}) for model, _ in drift.COMPARED}
    found["call_event"] = a_class("call_event", {"@odata.type": "", "callEventType": "call_event_type"})
    found["emergency_call_event"] = a_class("emergency_call_event", {"policyName": ""}, parent="call_event")
    found["call_event_type"] = an_enumeration("call_event_type", CALL_EVENT_TYPES)
    wheel = tmp_path / "msgraph_beta_sdk-9.9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for model, text in (found | models).items():
            archive.writestr(f"msgraph_beta/generated/models/{model}.py", text)
    return wheel


@pytest.fixture(autouse=True)
def nothing_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "LEFT_OUT", {"@odata.type": "an annotation"})


def new(wheel: Path, bundle: Any = BUNDLE) -> tuple[list[str], bool]:
    found = drift.compare(wheel, bundle)
    return found.new, found.failed


ROSTER = {
    "call_event": a_class("call_event", {"@odata.type": "", "participants": "participant"}),
    "participant": a_class("participant", {"id": "", "info": "participant_info", "@odata.type": ""}),
    "participant_info": a_class("participant_info", {"shoeSize": ""}),
}
INHERITED = {
    "online_meeting": a_class("online_meeting", {"subject": ""}, parent="online_meeting_base"),
    "online_meeting_base": a_class("online_meeting_base", {"mood": ""}),
}
MODALITIES = {
    "call_records/call_record": a_class("call_records/call_record", {"modalities": "call_records/modality"}),
    "call_records/modality": an_enumeration("modality", ["audio", "smell"]),
}


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ({}, []),
        ({"presence": a_class("presence", {"mood": ""})}, ["presence.mood: not in PresenceData"]),
        (ROSTER, ["participant_info.shoeSize: not in ParticipantInfo"]),
        (INHERITED, ["online_meeting_base.mood: not in OnlineMeetingData"]),
        (MODALITIES, ["call_records/modality: smell is not known in CallRecordData.modalities"]),
    ],
    ids=["nothing", "a field", "a field deep inside", "what a model inherits", "a member"],
)
def test_what_no_schema_has_is_told_once(tmp_path: Path, models: dict[str, str], told: list[str]) -> None:
    assert new(release(tmp_path, **models)) == (told, False)


@pytest.mark.parametrize(
    ("model", "members", "told"),
    [
        (
            "call_event_type",
            [*CALL_EVENT_TYPES, "callParked"],
            "call_event_type: callParked is not known in CallEventData.callEventType",
        ),
        ("change_type", ["created", "merged"], "change_type: merged is not known in CloudEvent.changetype"),
    ],
)
def test_a_new_word_for_what_happened_fails(tmp_path: Path, model: str, members: list[str], told: str) -> None:
    assert new(release(tmp_path, **{model: an_enumeration(model, members)})) == ([told], True)


def test_what_is_left_out_is_not_told_until_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = {"@odata.type": "an annotation", "presence.mood": "private"}
    monkeypatch.setattr(drift, "LEFT_OUT", left_out)
    assert new(release(tmp_path, presence=a_class("presence", {"mood": ""}))) == ([], False)
    assert new(release(tmp_path)) == (["presence.mood: left out, and not there any more"], False)


def test_a_release_of_another_form_is_no_release_without_drift(tmp_path: Path) -> None:
    wheel = release(tmp_path, presence=a_class("presence", {"statusMessage": "gone"}))
    with pytest.raises(drift.DriftError, match=r"models/gone\.py"):
        drift.compare(wheel, BUNDLE)


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ({}, (0, ["msgraph_beta_sdk-9.9.9-py3-none-any.whl: nothing new"])),
        (
            {"presence": a_class("presence", {"mood": ""})},
            (0, ["presence.mood: not in PresenceData", "msgraph_beta_sdk-9.9.9-py3-none-any.whl: 1 new"]),
        ),
        (
            {"call_event_type": an_enumeration("call_event_type", ["callParked"])},
            (
                1,
                [
                    "call_event_type: callParked is not known in CallEventData.callEventType",
                    "msgraph_beta_sdk-9.9.9-py3-none-any.whl: 1 new",
                ],
            ),
        ),
    ],
)
def test_all_is_told_and_only_a_new_word_fails(
    models: dict[str, str],
    told: tuple[int, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(drift, "download", lambda _folder, _version: release(tmp_path, **models))
    assert (drift.main([]), capsys.readouterr().out.splitlines()) == told
