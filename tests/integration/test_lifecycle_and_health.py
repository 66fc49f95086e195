"""Renewal, lifecycle notifications and health, as the triggers reach them."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import azure.functions as func
import msgspec
import pytest

from dev.simulator import Fault
from shared import triggers
from shared.clock import SystemClock
from shared.subscriptions.unwanted import Confirmations
from tests.integration.app import CLIENT_STATE, App, Message

QUEUE = "lifecycle-notifications"
DESIRED = """\
[[callRecords]]
tenant = "f69f5191-20ae-4093-8dae-3ec09edeb253"

[[emergencyCallEvents]]
tenant = "f69f5191-20ae-4093-8dae-3ec09edeb253"
policies = ["Headquarters"]
"""


@pytest.fixture
def desired(app: App, desire: Callable[[str], None]) -> App:
    """The app with a desired state of two subscriptions."""
    desire(DESIRED)
    return app


def lifecycle(app: App, event: str, **changes: Any) -> dict[str, Any]:
    item = {
        "subscriptionId": app.sim.graph.subscriptions[0].id,
        "subscriptionExpirationDateTime": "2026-01-01T00:00:00Z",
        "tenantId": app.sim.tenants[0],
        "clientState": CLIENT_STATE,
        "lifecycleEvent": event,
    }
    return item | changes


async def handle(app: App) -> None:
    client = app.queues.get_queue_client(QUEUE)
    for message in (await app.raw()).get(QUEUE, []):
        await triggers.handle_lifecycle(app.parts, Message(json.dumps(message), 1), QUEUE)
    await client.clear_messages()


def request(name: str) -> func.HttpRequest:
    headers = {"Accept": "application/json"}
    return func.HttpRequest(method="GET", url=f"http://localhost/api/{name}", headers=headers, params={}, body=b"")


async def health(app: App) -> tuple[int, dict[str, Any]]:
    """What everybody is told, and what whoever has the key of the status is told."""
    app.look_anew()
    told = await triggers.health(app.parts, request("health"))
    assert told.get_body() == (b"ok" if told.status_code == 200 else b"failing")
    found = json.loads((await triggers.status(app.parts, request("status"))).get_body())
    return told.status_code, found["health"]["checks"]


async def test_the_timer_creates_what_is_missing_and_then_has_nothing_to_do(desired: App) -> None:
    await triggers.renew(desired.parts)
    made = {found.resource.strip("/"): found for found in desired.sim.graph.subscriptions}
    assert set(made) == {
        "communications/callRecords",
        "communications/calls/getEmergencyEventsByPolicy(policyName='Headquarters')",
    }
    assert all(found.client_state == CLIENT_STATE for found in made.values())
    assert all(found.lifecycle_notification_url for found in made.values())
    await triggers.renew(desired.parts)
    assert {found.id for found in desired.sim.graph.subscriptions} == {found.id for found in made.values()}


class LateClock(SystemClock):
    """The real time, and `late` more."""

    late = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.late


async def renew_for_an_hour(app: App, clock: LateClock) -> None:
    for _ in range(3):
        clock.late += timedelta(minutes=21)
        await triggers.renew(app.parts)


@pytest.mark.parametrize("setting", ["unwanted", "never"])
async def test_the_timer_ends_what_is_taken_off_the_list_unless_that_is_switched_off(
    app: App, desire: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("UNSUBSCRIBE", setting)
    clock = app.parts.clock = LateClock()
    entry = f'[[callEvents]]\ntenant = "{app.sim.tenants[0]}"\nusers = ["{uuid4()}", "{uuid4()}"]\n'
    desire(entry)
    await triggers.renew(app.parts)
    (tmp_path / "subscriptions.toml").write_text(entry.partition(", ")[0] + "]")
    await triggers.renew(app.parts)
    assert len(app.sim.graph.subscriptions) == 2
    await renew_for_an_hour(app, clock)
    assert len(app.sim.graph.subscriptions) == (1 if setting == "unwanted" else 2)
    status = json.loads((await triggers.status(app.parts, request("status"))).get_body())
    waits = [entry["waits"] for entry in status["renewal"]["unwanted"]["listed"]]
    assert waits == ([] if setting == "unwanted" else ["switched-off"])


async def test_a_confirmation_reaches_the_timer(desired: App, tmp_path: Path) -> None:
    clock = desired.parts.clock = LateClock()
    await triggers.renew(desired.parts)
    (tmp_path / "subscriptions.toml").write_text(DESIRED.partition("[[emergencyCallEvents]]")[0])
    await triggers.renew(desired.parts)
    await renew_for_an_hour(desired, clock)
    emergency = next(kept for kept in desired.sim.graph.subscriptions if "Emergency" in kept.resource)
    await Confirmations(desired.parts.blobs, clock.now).add([emergency.id])
    await triggers.renew(desired.parts)
    assert [kept.resource for kept in desired.sim.graph.subscriptions] == ["communications/callRecords"]


async def test_reauthorization_prolongs(desired: App) -> None:
    await triggers.renew(desired.parts)
    subscription = desired.sim.graph.subscriptions[0]
    desired.sim.faults.forget_requests()
    await desired.post(desired.collection(lifecycle(desired, "reauthorizationRequired"), tokens=[]))
    await handle(desired)
    asked = [(record.method, record.path) for record in desired.sim.faults.requests if subscription.id in record.path]
    assert "PATCH" in {method for method, _ in asked}
    assert not any("reauthorize" in path for _, path in asked)
    assert await desired.quarantined() == []


async def test_a_removed_subscription_is_made_anew(desired: App) -> None:
    await triggers.renew(desired.parts)
    gone = desired.sim.graph.subscriptions[0]
    await desired.post(desired.collection(lifecycle(desired, "subscriptionRemoved"), tokens=[]))
    desired.sim.graph.remove(gone.id)
    await handle(desired)
    assert gone.resource in {found.resource for found in desired.sim.graph.subscriptions}
    assert gone.id not in {found.id for found in desired.sim.graph.subscriptions}


async def test_what_cannot_be_handled_is_kept_and_harms_no_neighbour(desired: App) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"lifecycleEvent": "somethingNew"}, "unknown-lifecycle-event"),
        ({"lifecycleEvent": 7}, "unknown-lifecycle-event"),
        ({"subscriptionId": None}, "lifecycle-malformed"),
        ({"tenantId": "00000000-0000-0000-0000-000000000000"}, "unknown-tenant"),
    ]
    await triggers.renew(desired.parts)
    gone = desired.sim.graph.subscriptions[0]
    items = [lifecycle(desired, "missed", **changes) for changes, _ in bad]
    await desired.post(desired.collection(*items, lifecycle(desired, "subscriptionRemoved"), tokens=[]))
    desired.sim.graph.remove(gone.id)
    await handle(desired)
    parked = [(entry["reason"], entry["queue"]) for entry in await desired.quarantined()]
    assert sorted(parked) == sorted((reason, QUEUE) for _, reason in bad)
    assert gone.resource in {found.resource for found in desired.sim.graph.subscriptions}


async def test_health_of_an_app_that_runs(desired: App) -> None:
    status, found = await health(desired)
    assert (status, found["renewal"]["finding"]) == (503, "no renewal run has finished yet")
    await triggers.renew(desired.parts)
    desired.sim.faults.forget_requests()
    status, found = await health(desired)
    assert (status, {check["level"] for check in found.values()}) == (200, {"well"})
    # No private key is fetched for that.
    asked = {record.path.partition("?")[0] for record in desired.sim.faults.requests if record.service == "vault"}
    assert asked == {"/secrets/switchboard/versions"}


async def test_health_without_key_vault(desired: App) -> None:
    await triggers.renew(desired.parts)
    desired.sim.faults.add(Fault("vault", status=403), times=None)
    status, found = await health(desired)
    assert (status, found["keyVault"]["reason"]) == (503, "key-vault-403")
    assert found["rawMessages"]["level"] == "well"


@pytest.mark.parametrize("gone", ["deleted", "disabled"])
async def test_health_without_a_certificate(desired: App, gone: str) -> None:
    await triggers.renew(desired.parts)
    vault = desired.sim.vault
    kept = vault.certificate()
    if gone == "deleted":
        vault.delete(vault.certificate_name)
    else:
        for version in vault.versions(vault.certificate_name):
            vault.update(vault.certificate_name, version.version, replace(version, enabled=False))
    try:
        status, found = await health(desired)
    finally:
        vault.delete(vault.certificate_name)
        vault.set_secret(vault.certificate_name, kept.value)
        vault.rotate_certificate()
    assert (status, found["keyVault"]["reason"]) == (503, "no-usable-certificate")


async def test_health_with_a_damaged_state_of_the_renewal(desired: App) -> None:
    await triggers.renew(desired.parts)
    container = desired.blobs.get_container_client("state")
    await container.upload_blob("renewal.json", b'{"finished":', overwrite=True)
    status, found = await health(desired)
    assert (status, found["renewal"]["reason"]) == (503, "no-run")


async def test_health_fails_while_the_host_does_not_call_a_timer(desired: App) -> None:
    await triggers.renew(desired.parts)
    now = datetime.now(UTC)
    runs = {"since": now - timedelta(days=2), "last": {"drain_poison": now, "renew_subscriptions": now}}
    container = desired.blobs.get_container_client("state")
    await container.upload_blob("function-runs.json", msgspec.json.encode(runs), overwrite=True)

    status, found = await health(desired)

    assert (status, found["functions"]["reason"]) == (503, "not-called")
    assert found["functions"]["finding"] == "sweep_claim_checks has not run once in 2 d"


async def test_health_fails_while_messages_stay_on_a_poison_queue(desired: App) -> None:
    await triggers.renew(desired.parts)
    for minutes, status, reason in ((14, 200, None), (16, 503, "poison")):
        since = datetime.now(UTC) - timedelta(minutes=minutes)
        await desired.parts.poison_states.save({"raw-emergency-poison": since})
        found = await health(desired)
        assert (found[0], found[1]["poison"]["reason"]) == (status, reason)


async def test_health_without_settings(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CERTIFICATE_NAME")
    told = await triggers.health(app.parts, request("health"))
    assert (told.status_code, told.get_body()) == (503, b"failing")
    found = await triggers.status(app.parts, request("status"))
    assert found.status_code == 503
    assert found.get_body().startswith(b"CERTIFICATE_NAME")


async def test_a_permission_that_is_missing_shows_in_health(desired: App) -> None:
    roles = desired.sim.entra.roles
    desired.sim.entra.roles = tuple(role for role in roles if not role.startswith("CallEvents-Emergency"))
    try:
        await triggers.renew(desired.parts)
    finally:
        desired.sim.entra.roles = roles
    status, found = await health(desired)
    assert status == 503
    assert "emergencyCallEvents" in found["renewal"]["finding"]
