"""A row of the catalogue, and whatever else a resource takes: what follows from it, and what is written by hand."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dev import catalogue
from dev.simulation.scenario import DESIRED
from dev.simulator.payloads import Kind, default_resource
from dev.simulator.rules import RULES
from dev.traffic import EVERYTHING, WITH_PRESENCE
from shared.subscriptions.desired import parse_desired
from shared.values import resources
from shared.values.events.event_data import DATA_TYPES
from shared.values.resource_row import EventType, ResourceKind
from shared.values.resources import CALL_RECORDS, CATALOGUE, match, odata_type_of
from tests.expected_events import EXPECTED

ROOT = Path(__file__).parents[2]
FEWEST = 9  # files by hand, the row's own among them


def has_data_types(kind: ResourceKind) -> bool:
    return all(getattr(DATA_TYPES.get(each.name), "__name__", None) == each.data for each in kind.event_types.values())


def has_a_rule_of_the_simulators(kind: ResourceKind) -> bool:
    """Written after Graph's pages and not after the row, and allowing what the row asks for."""
    rules = [rule for rule in RULES if rule.name == kind.key]
    return bool(rules) and all(
        rule.max_lifetime >= kind.max_lifetime
        and rule.delegated == kind.delegated_only
        and rule.change_types == frozenset(kind.change_type.split(","))
        and rule.permission in kind.permissions
        for rule in rules
    )


def has_payloads(kind: ResourceKind) -> bool:
    return any(match(default_resource(happening)) is kind for happening in Kind)


def is_in_the_sample(kind: ResourceKind) -> bool:
    text = (ROOT / "subscriptions.sample.toml").read_text()
    keys = {key for form in kind.forms for key in form.keys}
    return f"[[{kind.key}]]" in text and all(name in text for name in {*kind.permissions, *keys})


def is_in_the_changelog(kind: ResourceKind) -> bool:
    return f"`{kind.events_queue}`" in (ROOT / "CHANGELOG.md").read_text()


def lives_through_the_year(kind: ResourceKind) -> bool:
    return any(want.kind is kind for want in DESIRED)


def has_a_sample_of_graphs(kind: ResourceKind) -> bool:
    return any(kind in rows_of(json.loads(path.read_text())) for path in (ROOT / "tests" / "samples").rglob("*.json"))


def rows_of(sample: Any) -> list[ResourceKind | None]:
    items = sample.get("value", [sample])
    outer = [match(item.get("resource"), odata_type_of(item.get("resourceData"))) for item in items]
    return [*outer, match(sample.get("@odata.id"), sample.get("@odata.type"))]


def is_expected_as_an_event(kind: ResourceKind) -> bool:
    return kind.events_queue in {queue for queue, _ in EXPECTED.values()}


BY_HAND: Mapping[str, Callable[[ResourceKind], bool]] = {
    "shared/values/events/event_data.py": has_data_types,
    "dev/simulator/rules.py": has_a_rule_of_the_simulators,
    "dev/simulator/payloads.py": has_payloads,
    "subscriptions.sample.toml": is_in_the_sample,
    "CHANGELOG.md": is_in_the_changelog,
    "dev/simulation/scenario.py": lives_through_the_year,
    "tests/samples": has_a_sample_of_graphs,
    "tests/expected_events.py": is_expected_as_an_event,
}

NEW = replace(
    CALL_RECORDS,
    key="virtualEvents",
    events_queue="virtual-event-events",
    event_types={"created": EventType("Microsoft.Graph.VirtualEventCreated", "VirtualEventData", "One has begun.")},
    odata_types=frozenset(),
    forms=(replace(CALL_RECORDS.forms[0], pattern="virtualevents/", permission="VirtualEvent.Read.All"),),
)


class TestByHand:
    @pytest.mark.parametrize("kind", CATALOGUE.values(), ids=lambda kind: kind.key)
    @pytest.mark.parametrize("file", BY_HAND)
    def test_nothing_is_forgotten(self, kind: ResourceKind, file: str) -> None:
        assert BY_HAND[file](kind), f"{file} does not know {kind.key} as its row does"

    def test_all_of_it_is_noticed_where_it_is_forgotten(self) -> None:
        assert [file for file, knows in BY_HAND.items() if knows(NEW)] == []

    def test_it_is_no_more_than_nine_files(self) -> None:
        assert len({"shared/values/resources.py", *BY_HAND}) <= FEWEST

    @pytest.mark.parametrize("kind", [resources.TRANSCRIPTS, resources.RECORDINGS], ids=lambda kind: kind.key)
    def test_what_came_last_stands_in_no_other_code(self, kind: ResourceKind) -> None:
        """Those that came before have behaviour of their own in many places."""
        names = [kind.events_queue, *(each.name.rpartition(".")[2] for each in kind.event_types.values())]
        folders = ("shared/**", "commands", "infra/**", "dev", "dev/simulat*", "bench", "tests/*")
        files = {path for folder in folders for path in ROOT.glob(f"{folder}/*.py")} - {Path(__file__)}
        naming = {str(path.relative_to(ROOT)) for path in files if any(name in path.read_text() for name in names)}
        assert naming - {*BY_HAND, "shared/values/resources.py", "tests/unit/test_transcripts.py"} == set()

    def test_every_happening_of_the_simulators_is_expected_to_become_something(self) -> None:
        assert set(EXPECTED) == set(Kind)


class TestGenerated:
    def test_everything_is_up_to_date(self) -> None:
        files = catalogue.generated(ROOT)
        assert [str(path) for path, text in files.items() if (ROOT / path).read_text() != text] == [], (
            "run: python -m dev.catalogue"
        )

    def test_a_new_row_is_in_all_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = catalogue.generated(ROOT)
        monkeypatch.setattr(catalogue, "CATALOGUE", {**CATALOGUE, NEW.key: NEW})
        monkeypatch.setattr(catalogue, "KIND_QUEUES", {**catalogue.KIND_QUEUES, NEW.key: NEW.events_queue})
        after = catalogue.generated(ROOT)
        assert [path for path in before if before[path] == after[path]] == []

    def test_the_traffic_of_the_demo_has_every_row(self) -> None:
        wanted = parse_desired(WITH_PRESENCE, tenant_ids=("t",)).subscriptions
        assert (
            {want.kind for want in wanted} == {match(resource) for resource, _ in EVERYTHING} == {*CATALOGUE.values()}
        )

    def test_templates_name_no_queue_of_events(self) -> None:
        texts = {path.name: path.read_text() for path in (ROOT / "infra").rglob("*.bicep")}
        named = {
            (name, kind.events_queue)
            for name, text in texts.items()
            for kind in CATALOGUE.values()
            if kind.events_queue in text
        }
        assert named == set()


def test_nobody_asks_which_row_it_is() -> None:
    """A row says what is special about it; code that asks whether it is this one or that would have to be found."""
    asked = re.compile(rf"(?:is|is not|==|!=) (?:resources\.)?(?:{'|'.join(names_of_rows())})\b")
    folders = ("shared/**", "commands", "infra", "dev", "dev/simulator", "bench")
    sources = [path for folder in folders for path in ROOT.glob(f"{folder}/*.py")]
    assert {str(path) for path in sources if asked.search(path.read_text())} == set()


def names_of_rows() -> list[str]:
    return [name for name, value in vars(resources).items() if isinstance(value, ResourceKind)]
