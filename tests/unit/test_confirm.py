"""`manage.py subscriptions confirm`: an operator's word that what nobody desires goes."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Self

import pytest
from typer.testing import CliRunner, Result

from commands import context, identity, subscriptions
from dev.simulation.known import Known
from dev.simulation.storage_model import StorageModel
from shared.subscriptions.actions import Action, Reason, Verb
from shared.subscriptions.run_report import Forecast
from shared.subscriptions.state import Memory
from shared.subscriptions.unwanted import CONFIRMATIONS, Review, Unwanted, Waits
from shared.values import resources
from tests.unit.model_graph import OTHER_TENANT, TENANT, ModelGraph, VirtualClock, call_events

SINCE = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
ENTRIES = {
    TENANT: {
        "first": Waits.FIRST_RECORD,
        "goes": None,
    },
    OTHER_TENANT: {"last": Waits.LAST_OF_ITS_KIND, "off": Waits.SWITCHED_OFF},
}


class Context:
    """What the commands use of a deployment whose timer has found four unwanted ones."""

    storage = StorageModel()
    forecast = Forecast((), ())

    def __init__(self) -> None:
        self.settings = SimpleNamespace(tenant_ids=frozenset(ENTRIES))
        self.known = Known(
            memories={
                tenant_id: Memory(
                    review=Review(
                        unwanted={
                            identity: Unwanted(
                                kind="callEvents", resource=f"users/{identity}", since=SINCE, waits=waits
                            )
                            for identity, waits in entries.items()
                        }
                    )
                )
                for tenant_id, entries in ENTRIES.items()
            }
        )
        self.blobs = self.storage.blobs
        self.clock = SimpleNamespace(now=lambda: self.storage.now)
        self.renewal = self

    async def plan(self, *, prune: bool) -> Forecast:
        return self.forecast

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


async def the_app_itself(_: Context) -> None:
    return None


@pytest.fixture(autouse=True)
def deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    Context.storage, Context.forecast = StorageModel(), Forecast((), ())
    monkeypatch.setattr(context, "CommandContext", Context)
    monkeypatch.setattr(identity, "stranger", the_app_itself)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(subscriptions.app, arguments)


def confirmed() -> Any:
    blob = Context.storage.containers[CONFIRMATIONS[0]].get(CONFIRMATIONS[1])
    return None if blob is None else json.loads(blob.data)["confirmed"]


def test_it_confirms_what_waits() -> None:
    result = run("confirm", "--yes")
    assert result.exit_code == 0
    assert set(confirmed()) == {"first", "last"}
    assert "2 confirmed" in result.output


def test_it_shows_first_and_asks() -> None:
    result = run("confirm")
    assert (result.exit_code, confirmed()) == (2, None)  # there is nobody to ask
    assert "the last of its kind" in result.output


def test_some_of_them_by_id() -> None:
    result = run("confirm", "last", "--yes", "--json")
    assert (json.loads(result.output), set(confirmed())) == ({"confirmed": ["last"]}, {"last"})


@pytest.mark.parametrize("stays", ["goes", "off", "nobody"])
def test_what_does_not_wait_cannot_be_confirmed(stays: str) -> None:
    result = run("confirm", "last", stays, "--yes", "--json")
    assert (result.exit_code, confirmed()) == (1, None)
    assert json.loads(result.output)["error"]["reason"] == "not-waiting"


def test_the_plan_lists_what_the_timer_found_without_being_asked() -> None:
    planned = json.loads(run("plan", "--json").output)
    assert [(entry["subscriptionId"], entry["waits"]) for entry in planned["unwanted"]] == [
        ("first", "first-record"),
        ("goes", None),
        ("last", "last-of-its-kind"),
        ("off", "switched-off"),
    ]
    shown = run("plan").output
    assert "goes at 13:00 UTC at the earliest" in shown
    assert "subscriptions confirm" in shown


def test_the_plan_lists_what_it_finds_itself() -> None:
    unwanted = ModelGraph(VirtualClock(SINCE)).add(call_events(1), expires=SINCE + timedelta(days=400))
    action = Action(Verb.LEAVE, Reason.UNWANTED, TENANT, resources.CALL_EVENTS, SINCE, subscription=unwanted)
    Context.forecast = Forecast((action,), ())
    planned = json.loads(run("plan", "--json").output)
    assert [found["subscriptionId"] for found in planned["actions"]] == [unwanted.id]
