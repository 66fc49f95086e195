"""What Graph's metadata has by now that the published schemas have not: `python3 run.py drift [VERSION]`.

Microsoft generates `msgraph-beta-sdk` from Graph's metadata. It is downloaded from the package index and read as text,
never imported: for each type of `COMPARED`, and for what its fields hold, every field and every member of an
enumeration has to stand in `docs/schemas/bundle.json`, or in `LEFT_OUT` with its reason. That goes as deep as the
bundle types it.

A new member of `callEventType` or `changeType` is a failure, as its events would have no type. The rest is only told.
"""

import argparse
import ast
import json
import posixpath
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

JSON = dict[str, Any]

PACKAGE: Final = "msgraph-beta-sdk"
BUNDLE: Final = Path(__file__).parents[1] / "docs" / "schemas" / "bundle.json"
_MODELS: Final = "msgraph_beta/generated/models"

COMPARED: Final[Sequence[tuple[str, str]]] = (
    ("call_event", "CallEventData"),
    ("call_event", "MeetingCallEventData"),
    ("emergency_call_event", "EmergencyCall"),
    ("emergency_call_event", "EmergencyCallEventData"),
    ("call_records/call_record", "CallRecordData"),
    ("presence", "PresenceData"),
    ("online_meeting", "OnlineMeetingData"),
    ("call_transcript", "CallTranscriptData"),
    ("call_recording", "CallRecordingData"),
    ("communications_identity_set", "IdentitySet"),
    ("communications_user_identity", "Identity"),
    ("teamwork_user_identity", "Identity"),
)
"""A model of the package's, and the definition of the bundle's that describes it."""

_STREAM: Final = "a stream, which has its own address and is in no payload"
_NAVIGATION: Final = "a resource of its own, which comes by asking for it alone"
_OBJECT: Final = "of a meeting the bundle has what is no object"

LEFT_OUT: Final[Mapping[str, str]] = {
    "@odata.type": "an annotation, which any object may have",
    "call_records/call_record.organizer": "Graph stopped it on 30 June 2026",
    "call_records/call_record.participants": "Graph stopped it on 30 June 2026",
    "call_records/call_record.organizer_v2": "comes untyped, as Graph has it",
    "teamwork_user_identity.userPrincipalName": "in no payload of Graph's pages",
    "call_recording.content": _STREAM,
    "call_transcript.content": _STREAM,
    "call_transcript.metadataContent": _STREAM,
    "online_meeting.aiInsights": _NAVIGATION,
    "online_meeting.alternativeRecording": _STREAM,
    "online_meeting.attendeeReport": _STREAM,
    "online_meeting.broadcastRecording": _STREAM,
    "online_meeting.broadcastSettings": _OBJECT,
    "online_meeting.meetingAttendanceReport": _NAVIGATION,
    "online_meeting.participants": _OBJECT,
    "online_meeting.recording": _STREAM,
    "online_meeting.recordings": _NAVIGATION,
    "online_meeting.registration": _NAVIGATION,
    "online_meeting.transcripts": _NAVIGATION,
    "online_meeting_base.attendanceReports": _NAVIGATION,
    "online_meeting_base.audioConferencing": _OBJECT,
    "online_meeting_base.chatInfo": _OBJECT,
    "online_meeting_base.chatRestrictions": _OBJECT,
    "online_meeting_base.cloudVideoInteropInfo": _OBJECT,
    "online_meeting_base.joinInformation": _OBJECT,
    "online_meeting_base.joinMeetingIdSettings": _OBJECT,
    "online_meeting_base.lobbyBypassSettings": _OBJECT,
    "online_meeting_base.sensitivityLabelAssignment": _OBJECT,
    "online_meeting_base.watermarkProtection": _OBJECT,
}
"""Why a field is not in the bundle, by the model that it stands in and its name; without a model, of all of them."""

FAILING: Final[Mapping[str, tuple[str, str]]] = {
    "call_event_type": ("CallEventData", "callEventType"),
    "change_type": ("CloudEvent", "changetype"),
}
"""Enumerations whose members decide the type of an event, and where the bundle names those that are known.

Graph's metadata has changeType, but release 1.66.0 of the package has not, as nothing in it refers to that: it is
compared in releases that have it.
"""


class DriftError(Exception):
    """The package cannot be had, or is not what it was."""


@dataclass(frozen=True)
class Field:
    """A field of a model: the model that declares it, and the one that it holds; None where it holds a plain value."""

    owner: str
    name: str
    holds: str | None


@dataclass(frozen=True)
class Model:
    """A module of the package's: a class with its fields, or an enumeration with its members."""

    name: str
    tree: ast.Module

    @cached_property
    def members(self) -> list[str]:
        """The members of an enumeration; none in a class of another kind."""
        if not any(ast.unparse(base) == "Enum" for base in self._class.bases):
            return []
        assigned = [statement.value for statement in self._class.body if isinstance(statement, ast.Assign)]
        # Each is written with a comma behind it, and so a tuple of one.
        values = [value.elts[0] if isinstance(value, ast.Tuple) else value for value in assigned]
        return [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]

    @cached_property
    def parents(self) -> list[str]:
        """The models that the class inherits from."""
        return [self._imported[name] for base in self._class.bases if (name := ast.unparse(base)) in self._imported]

    @cached_property
    def fields(self) -> list[Field]:
        """The fields that the class itself declares."""
        return [
            Field(self.name, key.value, self._imported.get(ast.unparse(call.args[-1])) if call.args else None)
            for node in ast.walk(self._class)
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "fields"
            if isinstance(node.value, ast.Dict)
            for key, value in zip(node.value.keys, node.value.values, strict=True)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
            if isinstance(value, ast.Lambda) and isinstance(value.body, ast.Call)
            if isinstance(call := value.body.args[-1], ast.Call)
        ]

    @property
    def _class(self) -> ast.ClassDef:
        return next(node for node in self.tree.body if isinstance(node, ast.ClassDef))

    @cached_property
    def _imported(self) -> dict[str, str]:
        """The models that are imported, by the names of their classes."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                folder = posixpath.join(posixpath.dirname(self.name), *[".."] * (node.level - 1))
                path = posixpath.normpath(posixpath.join(folder, node.module.replace(".", "/")))
                found |= {alias.name: path for alias in node.names}
        return found


class Sdk:
    """The models of a release, read from its wheel."""

    def __init__(self, wheel: Path) -> None:
        self._wheel = zipfile.ZipFile(wheel)
        self._files = set(self._wheel.namelist())

    def __contains__(self, model: str) -> bool:
        return f"{_MODELS}/{model}.py" in self._files

    def model(self, name: str) -> Model:
        """A model by the path of its module.

        Raises:
            DriftError: the release has none of that name.
        """
        if name not in self:
            raise DriftError(f"{PACKAGE} has no {_MODELS}/{name}.py")
        return Model(name, ast.parse(self._wheel.read(f"{_MODELS}/{name}.py")))

    def fields(self, name: str) -> list[Field]:
        """The fields of a model, with those that it inherits; without what every entity has."""
        model = self.model(name)
        inherited = [found for parent in model.parents if parent != "entity" for found in self.fields(parent)]
        return [*inherited, *model.fields]


@dataclass
class Drift:
    """What is new, line by line; `failed` says that some of it may not be."""

    sdk: Sdk
    definitions: JSON
    new: list[str] = field(default_factory=list)
    failed: bool = False
    _seen: set[tuple[str, str]] = field(default_factory=set)
    _left_out: set[str] = field(default_factory=set)

    def find(self) -> None:
        """Compare all."""
        for model, definition in COMPARED:
            self._compare(model, definition)
        self.new += [f"{key}: left out, and not there any more" for key in LEFT_OUT.keys() - self._left_out]
        for enumeration, (definition, name) in FAILING.items():
            if enumeration in self.sdk:
                described = self.definitions[definition]["properties"][name]
                self.failed |= self._lacks_members(f"{definition}.{name}", enumeration, described)

    def _compare(self, model: str, definition: str) -> None:
        if (model, definition) in self._seen:
            return
        self._seen.add((model, definition))
        properties = self.definitions[definition]["properties"]
        for found in self.sdk.fields(model):
            reasons = {key for key in (found.name, f"{found.owner}.{found.name}") if key in LEFT_OUT}
            self._left_out |= reasons
            if found.name not in properties:
                self.new += [] if reasons else [f"{found.owner}.{found.name}: not in {definition}"]
            elif found.holds is not None and found.holds not in FAILING:
                self._lacks_members(f"{definition}.{found.name}", found.holds, properties[found.name])
                for inner in _targets(properties[found.name]):
                    self._compare(found.holds, inner)

    def _lacks_members(self, place: str, model: str, described: JSON) -> bool:
        known = described.get("examples", [])
        unknown = [member for member in self.sdk.model(model).members if member not in known]
        self.new += [f"{model}: {member} is not known in {place}" for member in unknown]
        return bool(unknown)


def _targets(described: Any) -> Iterator[str]:
    """The definitions that a schema refers to."""
    if isinstance(described, dict):
        if "$ref" in described:
            yield described["$ref"].removeprefix("#/$defs/")
        described = list(described.values())
    if isinstance(described, list):
        for part in described:
            yield from _targets(part)


def compare(wheel: Path, bundle: JSON) -> Drift:
    """What a release has that a bundle of schemas has not.

    Raises:
        DriftError: a model that is compared is not in it.
    """
    drift = Drift(Sdk(wheel), bundle["$defs"])
    drift.find()
    return drift


def download(folder: Path, version: str | None) -> Path:
    """The wheel of a release, the newest if none is named.

    Raises:
        DriftError: it cannot be had.
    """
    wanted = PACKAGE if version is None else f"{PACKAGE}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-q", "-d", str(folder)]
    done = subprocess.run([*command, wanted], check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise DriftError(f"{wanted} cannot be downloaded")
    return wheels[0]


def main(arguments: Sequence[str]) -> int:
    """Print what is new; 1 where a new member would leave its events without a type."""
    parser = argparse.ArgumentParser(
        prog="run.py drift", description="What Graph's metadata has that the schemas lack."
    )
    parser.add_argument("version", nargs="?", metavar="VERSION", help=f"of {PACKAGE} (the newest)")
    version = parser.parse_args(arguments).version
    with tempfile.TemporaryDirectory() as folder:
        try:
            wheel = download(Path(folder), version)
            drift = compare(wheel, json.loads(BUNDLE.read_text("utf-8")))
        except DriftError as error:
            print(f"drift: {error}", file=sys.stderr)
            return 2
    for line in drift.new:
        print(line)
    print(f"{wheel.name}: {len(drift.new) or 'nothing'} new")
    return 1 if drift.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
