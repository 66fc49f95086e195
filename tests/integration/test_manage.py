"""The operators' commands, on the whole stack."""

import asyncio
import base64
import contextlib
import functools
import http.server
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import aiohttp.connector
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient
from typer.testing import CliRunner, Result

from commands import terminal
from dev import traffic
from dev.simulator import Fault, Kind
from dev.simulator.crypto import KeyCertificate
from dev.simulator.directory import CallRecord
from dev.simulator.entra import APP_ROLES, User
from dev.stack import Stack
from manage import app as manage
from shared.subscriptions.renewal_state import RenewalStates
from shared.values.resources import SELF_TEST
from tests.integration.conftest import be_patient
from tests.integration.test_stack import patient

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0
NEVER = "0 0 0 29 2 *"  # timers that come by themselves would come in between
SCHEDULES = {"RENEWAL_SCHEDULE": NEVER, "SELFTEST_SCHEDULE": NEVER}
UNWANTED = f'[[callEvents]]\nusers = ["{uuid4()}"]\n'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with Stack.start(folder, subscriptions=traffic.SUBSCRIPTIONS, settings=SCHEDULES) as stack:
        # aiohttp read SSL_CERT_FILE when it was imported, long before there was a simulator to trust.
        aiohttp.connector._SSL_CONTEXT_VERIFIED.load_verify_locations(stack.sim.ca_bundle)
        yield patient(stack)


@pytest.fixture
def stack(running: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A stack without subscriptions or faults, and its settings in the environment."""
    for name, value in running.settings.items():
        monkeypatch.setenv(name, value)
    be_patient(monkeypatch)
    sim = running.sim
    sim.faults.clear()
    sim.entra.roles = APP_ROLES
    sim.directory.assignment_required.clear()
    sim.directory.change_tracking_assigned.clear()
    sim.vault.delete(f"presence-sign-in-{sim.tenants[0]}")
    for known in sim.graph.subscriptions:
        sim.graph.remove(known.id)
    with BlobServiceClient.from_connection_string(running.azurite.connection_string) as blobs:
        for container in ("state", "quarantine"):
            client = blobs.get_container_client(container)
            with contextlib.suppress(ResourceNotFoundError):
                for name in client.list_blob_names():
                    client.delete_blob(name)
    return running


@pytest.fixture
def empty(stack: Stack) -> Stack:
    """The same without messages; only few tests make some, and take notice of them."""
    with QueueServiceClient.from_connection_string(stack.azurite.connection_string) as queues:
        for queue in queues.list_queues():
            queues.get_queue_client(queue).clear_messages()
    return stack


@pytest.fixture
def desire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Changes what the commands take for the desired state."""

    def change(text: str) -> None:
        path = tmp_path / "subscriptions.toml"
        path.write_text(text)
        monkeypatch.setenv("SUBSCRIPTIONS", str(path))

    return change


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(manage, list(arguments), input=answer)


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody is there to answer."""
    monkeypatch.setattr(terminal, "is_attended", lambda: True)


def run_json(*arguments: str, exit_code: int = 0) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


def self_tested(*arguments: str, exit_code: int = 0) -> Any:
    """What a self-test has found; it is made again where the app, on a slow machine, had no time for an answer."""
    while "which answered 503" in (result := run("selftest", *arguments, "--json")).stdout:
        pass
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


class TestSubscriptions:
    def test_plan_says_what_a_run_would_do_and_why_and_does_nothing(self, stack: Stack) -> None:
        planned = run_json("subscriptions", "plan")
        assert {(action["action"], action["reason"]) for action in planned["actions"]} == {("create", "missing")}
        assert len(planned["actions"]) == traffic.SUBSCRIPTION_COUNT
        assert not stack.sim.graph.subscriptions

        shown = run("subscriptions", "plan")
        assert shown.exit_code == 0
        assert f"{traffic.SUBSCRIPTION_COUNT} to create; 0 stay as they are" in shown.output
        assert "missing: it does not exist" in shown.output

    def test_apply_does_it_and_then_there_is_nothing_to_do(self, stack: Stack) -> None:
        report = run_json("subscriptions", "apply", "--yes")
        assert report["outcomes"] == {"created": traffic.SUBSCRIPTION_COUNT}
        assert report["live"] == len(stack.sim.graph.subscriptions) == traffic.SUBSCRIPTION_COUNT
        assert run_json("subscriptions", "plan")["actions"] == []
        assert len(run_json("subscriptions", "plan", "--all")["actions"]) == traffic.SUBSCRIPTION_COUNT

    def test_apply_shows_what_it_will_do_and_asks(self, stack: Stack, attended: None) -> None:
        asked = run("subscriptions", "apply", answer="n\n")
        assert asked.exit_code == 1
        assert f"{traffic.SUBSCRIPTION_COUNT} to create" in asked.output
        assert not stack.sim.graph.subscriptions
        assert run("subscriptions", "apply", answer="y\n").exit_code == 0
        assert len(stack.sim.graph.subscriptions) == traffic.SUBSCRIPTION_COUNT

    def test_apply_tells_ids_before_its_end_is_saved(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        async def save(*_: object) -> None:
            raise RuntimeError("the machine ends here")

        monkeypatch.setattr(RenewalStates, "save", save)
        result = run("subscriptions", "apply", "--yes")
        assert isinstance(result.exception, RuntimeError)
        for known in stack.sim.graph.subscriptions:
            assert known.id in result.stdout

    def test_apply_says_who_ran_it(self, stack: Stack) -> None:
        made = run_json("subscriptions", "apply", "--yes")["results"]
        assert {result["subscriptionId"] for result in made} == {known.id for known in stack.sim.graph.subscriptions}
        with BlobServiceClient.from_connection_string(stack.azurite.connection_string) as blobs:
            state = json.loads(blobs.get_blob_client("state", "renewal.json").download_blob().readall())
        assert state["by"] == "operator"

    def test_nobody_but_the_app_applies(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GRAPH_APP_IDS", str(uuid4()))
        refused = run_json("subscriptions", "apply", "--yes", exit_code=1)
        assert refused["error"]["reason"] == "not-the-app"
        assert run_json("subscriptions", "prune", "--yes", exit_code=1) == refused
        assert not stack.sim.graph.subscriptions
        listed = run("subscriptions", "list")
        assert "and not the app" in listed.stderr

    def test_what_is_wrong_with_the_desired_state_is_shown_with_its_value(
        self, stack: Stack, desire: Callable[[str], None]
    ) -> None:
        desire('[[callEvents]]\nusers = ["jane@contoso.com"]\n')
        shown = run("subscriptions", "plan").output
        assert "line 2: 'jane@contoso.com' in 'users'" in shown
        assert "desired-state: desired-state" not in shown

    def test_apply_names_what_failed_and_does_the_rest(self, stack: Stack) -> None:
        stack.sim.entra.roles = tuple(role for role in APP_ROLES if role != "CallEvents.Read.All")
        report = run_json("subscriptions", "apply", "--yes", exit_code=1)
        (failure,) = report["failures"]
        assert (failure["kind"], failure["reason"], failure["count"]) == ("callEvents", "permission", 2)
        assert "CallEvents.Read.All" in failure["detail"]
        assert report["live"] == traffic.SUBSCRIPTION_COUNT - 2

    def test_list_shows_what_is_left_of_each_life(self, stack: Stack) -> None:
        run("subscriptions", "apply", "--yes")
        listed = run_json("subscriptions", "list")
        assert {one["id"] for one in listed} == {known.id for known in stack.sim.graph.subscriptions}
        assert {one["state"] for one in listed} == {"current"}
        assert [one["remainingSeconds"] for one in listed] == sorted(one["remainingSeconds"] for one in listed)

        shown = run("subscriptions", "list").output
        assert shown.count("█" * 20) == traffic.SUBSCRIPTION_COUNT
        assert all(one["id"] in shown for one in listed)
        assert all(one["resource"] in shown for one in listed)

    def test_delete_deletes_what_it_is_told_to(self, stack: Stack) -> None:
        run("subscriptions", "apply", "--yes")
        first, second, *others = (known.id for known in stack.sim.graph.subscriptions)
        assert run_json("subscriptions", "delete", first, second, "--yes") == {"deleted": 2, "problems": {}}
        assert {known.id for known in stack.sim.graph.subscriptions} == set(others)

    def test_delete_leaves_alone_what_is_not_ours(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        run("subscriptions", "apply", "--yes")
        (foreign, *_) = (known.id for known in stack.sim.graph.subscriptions)
        monkeypatch.setenv("NOTIFICATION_URL", "https://elsewhere.example/api/notifications")
        assert run_json("subscriptions", "delete", foreign, "--yes", exit_code=1)["error"]["reason"] == "not-ours"
        assert run_json("subscriptions", "list")[0]["state"] == "foreign"
        assert len(stack.sim.graph.subscriptions) == traffic.SUBSCRIPTION_COUNT

    def test_delete_asks_first(self, stack: Stack) -> None:
        run("subscriptions", "apply", "--yes")
        (first, *_) = (known.id for known in stack.sim.graph.subscriptions)
        assert run("subscriptions", "delete", first).exit_code == 2
        assert len(stack.sim.graph.subscriptions) == traffic.SUBSCRIPTION_COUNT

    def test_prune_deletes_what_nothing_asks_for(self, stack: Stack, desire: Callable[[str], None]) -> None:
        desire(traffic.SUBSCRIPTIONS + UNWANTED)
        run("subscriptions", "apply", "--yes")
        desire(traffic.SUBSCRIPTIONS)
        run("subscriptions", "apply", "--yes")
        assert "may have been cut off" in run("subscriptions", "prune", "--yes").output
        let_readings_settle(stack)
        assert run("subscriptions", "prune").exit_code == 2  # nobody to ask
        assert run_json("subscriptions", "prune", "--yes") == {"deleted": 1, "problems": {}}
        assert len(stack.sim.graph.subscriptions) == traffic.SUBSCRIPTION_COUNT
        assert "nothing to delete" in run("subscriptions", "prune", "--yes").output

    def test_prune_does_nothing_while_it_does_not_know_everything(
        self, stack: Stack, desire: Callable[[str], None]
    ) -> None:
        run("subscriptions", "apply", "--yes")
        desire("[[callRecord]]\n")
        assert run_json("subscriptions", "prune", "--yes", exit_code=1)["error"]["reason"] == "incomplete"
        assert len(stack.sim.graph.subscriptions) == traffic.SUBSCRIPTION_COUNT


class TestLogin:
    def test_makes_presence_possible(self, stack: Stack, desire: Callable[[str], None]) -> None:
        desire(traffic.WITH_PRESENCE)
        assert run_json("subscriptions", "apply", "--yes", exit_code=1)["failures"][0]["reason"] == "sign-in-required"

        stack.sign_in()

        report = run_json("subscriptions", "apply", "--yes")
        assert report["live"] == traffic.WITH_PRESENCE_COUNT

    def test_tells_whose_sign_in_it_keeps_by_id_alone(self, stack: Stack) -> None:
        approving = threading.Thread(target=approve, args=(stack, set(stack.sim.entra._user_codes)), daemon=True)
        stack.sim.entra.device_code_interval = 1
        approving.start()
        result = run("login")
        approving.join()
        assert result.exit_code == 0, result.output
        assert "5b1d0f4e-93c6-4d44-8c57-2f5f6c8b6d10" in result.output
        assert "operator" not in result.output.lower().replace("operators", "")

    def test_is_for_a_tenant_that_is_served(self, stack: Stack) -> None:
        assert run("login", "--tenant", str(uuid4())).exit_code == 2


def approve(stack: Stack, known: set[str]) -> None:
    """Enter the code of whoever wants to sign in: the first that is not `known`."""
    entra, deadline = stack.sim.entra, time.monotonic() + PATIENCE
    while not (new := set(entra._user_codes) - known) and time.monotonic() < deadline:
        time.sleep(0.02)
    entra.approve(new.pop())


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C cannot be sent to one process there")
class TestInterrupted:
    def test_login_ends_at_once(self, stack: Stack) -> None:
        """It waits in a thread for somebody who does not come."""
        command = [sys.executable, str(ROOT / "manage.py"), "login"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert "enter the code" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
            assert process.stderr.read().endswith("Interrupted.\n")


class TestEvents:
    @pytest.fixture
    def sent(self, empty: Stack) -> Stack:
        """The stack, with an event of a call record and one of an emergency call with all its personal data."""
        run("subscriptions", "apply", "--yes")
        empty.sim.graph.notify(traffic.RECORDS, Kind.CALL_RECORD_CREATED)
        empty.sim.graph.notify(traffic.EMERGENCY, Kind.EMERGENCY_NESTED)
        wait_for(lambda: min(count(empty, name) for name in ("call-record-events", "emergency-call-events")) > 0)
        return empty

    def test_peek_takes_nothing_and_shows_no_data(self, sent: Stack) -> None:
        for _ in range(2):
            lines = [json.loads(line) for line in run("events", "tail", "--once", "--json").stdout.splitlines()]
            assert {line["event"]["type"] for line in lines} == {
                "Microsoft.Graph.CallRecordCreated",
                "Microsoft.Graph.EmergencyCallStarted",
            }
        assert run("events", "tail", "--take", "--count", "1").exit_code == 2  # taking has to be confirmed
        assert count(sent, "call-record-events") == 1

        sent_data = [one.plaintext for delivery in sent.sim.graph.deliveries for one in delivery.notifications]
        assert "phoneNumber" in json.dumps(sent_data)
        for form in ((), ("--json",)):
            shown = run("events", "tail", "--once", "--queue", "emergency-call-events", *form).output
            assert "EmergencyCallStarted" in shown
            assert "phoneNumber" not in shown
            assert "callerInfo" not in shown

    def test_tail_follows_and_shows_each_event_once(self, sent: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        async def sleep(_seconds: float) -> None:
            """In place of a second, another event."""
            with QueueServiceClient.from_connection_string(sent.azurite.connection_string) as queues:
                client = queues.get_queue_client("call-record-events")
                text = client.peek_messages()[0].content
                event = json.loads(base64.b64decode(text)) | {"id": "another"}
                client.send_message(base64.b64encode(json.dumps(event).encode()).decode())

        monkeypatch.setattr(asyncio, "sleep", sleep)
        followed = run("events", "tail", "--count", "3", "--json").stdout.splitlines()
        ids = [json.loads(line)["event"]["id"] for line in followed]
        assert len(set(ids)) == 3
        assert ids[-1] == "another"
        assert count(sent, "emergency-call-events") == 1

    def test_tail_takes_events_off(self, sent: Stack) -> None:
        result = run("events", "tail", "--queue", "call-record-events", "--take", "--count", "1", "--yes")
        assert "Microsoft.Graph.CallRecordCreated" in result.stdout
        assert count(sent, "call-record-events") == 0
        assert count(sent, "emergency-call-events") == 1

    def test_another_queue_is_no_events_queue(self, stack: Stack) -> None:
        assert run("events", "tail", "--queue", "raw-notifications").exit_code == 2


@pytest.mark.usefixtures("empty")
class TestSelfTest:
    def test_goes_all_the_way(self, stack: Stack) -> None:
        found = self_tested()
        assert found["ok"]
        assert [leg["name"] for leg in found["legs"] if leg["seconds"] > 0] == [
            "endpoint",
            "event by way of the endpoint",
            "raw queue",
            "event of encrypted content",
        ]
        assert count(stack, SELF_TEST.events_queue) == 0
        assert count(stack, "unrecognized-events") == 0

    def test_can_be_a_timers_work(self, stack: Stack) -> None:
        stack.host.start_function("self_test")
        stack.host.wait_for_log("self-test: leg='event by way of the endpoint' seconds=")
        stack.host.wait_for_log("self-test: leg='event of encrypted content' seconds=")

    def test_says_that_the_client_state_is_not_the_apps(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CLIENT_STATE", "another")
        legs = {leg["name"]: leg for leg in self_tested("--patience", "2", exit_code=1)["legs"]}
        assert legs["endpoint"]["problem"] is None  # a forger learns nothing, and neither do we
        assert "did not come" in legs["event by way of the endpoint"]["problem"]

    def test_says_that_the_endpoint_is_not_there(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOTIFICATION_URL", f"{stack.url}/api/nothing")
        legs = {leg["name"]: leg for leg in self_tested("--patience", "60", exit_code=1)["legs"]}
        assert "404" in legs["endpoint"]["problem"]
        assert legs["event of encrypted content"]["problem"] is None

    def test_says_that_key_vault_is_not_there(self, stack: Stack) -> None:
        stack.sim.vault.rotate_certificate()  # a version that the app has not seen yet
        stack.sim.faults.add(Fault("vault", status=403), times=None)
        legs = {leg["name"]: leg for leg in self_tested("--patience", "60", exit_code=1)["legs"]}
        assert "key-vault-403" in legs["raw queue"]["problem"]
        assert legs["event by way of the endpoint"]["problem"] is None


class TestDoctor:
    def test_finds_nothing_wrong_with_a_set_up_that_works(
        self, stack: Stack, desire: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        desire(traffic.WITH_PRESENCE)
        monkeypatch.setattr(stack.sim.entra, "auto_approve", User())
        assert run("login").exit_code == 0
        run("subscriptions", "apply", "--yes")
        result = run("doctor")
        assert result.exit_code == 0, result.output
        assert "All is well." in result.output
        assert "✗" not in result.output
        assert "!" not in result.output

    def test_lists_every_setting_that_is_wrong(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CLIENT_STATE", "")
        monkeypatch.setenv("KEY_VAULT_URL", "nonsense")
        found = [check["finding"] for check in run_json("doctor", exit_code=1)["checks"]]
        assert [text.partition(":")[0] for text in found] == ["CLIENT_STATE", "KEY_VAULT_URL"]

    @pytest.mark.parametrize(
        ("settings", "remedies"),
        [
            ({"CLIENT_STATE": ""}, {"settings": "set it"}),
            (
                {"AzureWebJobsStorage": "storage-elsewhere", "SUBSCRIPTIONS": "nowhere.toml"},
                {"queue storage": "firewall", "blob storage": "firewall", "desired state": "correct nowhere.toml"},
            ),
            (
                {"AzureWebJobsStorage": "another-key", "CERTIFICATE_NAME": "another"},
                {
                    "queue storage": "correct the key",
                    "blob storage": "correct the key",
                    "certificate": "az keyvault certificate create",
                },
            ),
            (
                {
                    "KEY_VAULT_URL": "https://127.0.0.1:1",
                    "NOTIFICATION_URL": "http://127.0.0.1:1/",
                    "LIFECYCLE_NOTIFICATION_URL": "http://127.0.0.1:2/",
                },
                {
                    "certificate": "check KEY_VAULT_URL",
                    "handshake, 127.0.0.1:1": "Graph may reach it",
                    "handshake, 127.0.0.1:2": "Graph may reach it",
                },
            ),
            ({"IDENTITY_HEADER": "another"}, {"Graph token": "managed identity"}),
            ({"GRAPH_TENANT_IDS": str(uuid4())}, {"Graph token": "GRAPH_TENANT_IDS"}),
        ],
        ids=" and ".join,
    )
    def test_names_the_remedy_for_a_setting(
        self, stack: Stack, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], remedies: dict[str, str]
    ) -> None:
        connection = stack.azurite.connection_string
        values = {
            "storage-elsewhere": connection.replace(str(port_of(stack.azurite.queue_url)), "1").replace(
                str(port_of(stack.azurite.blob_url)), "1"
            ),
            "another-key": connection.replace("AccountKey=", "AccountKey=AAAA"),
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, values.get(value, value))
        found = examination()
        for check, remedy in remedies.items():
            assert remedy in problem(check, found)["remedy"]

    @pytest.mark.parametrize(
        ("permission", "remedies"),
        [
            (
                "CallEvents.Read.All",
                {"permission CallEvents.Read.All": "CallEvents.Read.All of Microsoft Graph"},
            ),
            (
                "GroupMember.Read.All",
                {
                    "permission GroupMember.Read.All": "GroupMember.Read.All of Microsoft Graph",
                    "subscriptions": "GroupMember.Read.All",
                },
            ),
        ],
    )
    def test_names_a_permission_that_is_missing(
        self, stack: Stack, desire: Callable[[str], None], permission: str, remedies: dict[str, str]
    ) -> None:
        group = str(uuid4())
        stack.sim.directory.groups[group] = []
        desire(f'[[callEvents]]\ngroups = ["{group}"]\n')
        stack.sim.entra.roles = tuple(role for role in APP_ROLES if role != permission)
        found = examination()
        for check, remedy in remedies.items():
            assert remedy in problem(check, found)["remedy"]

    def test_says_where_an_assignment_is_required(self, stack: Stack) -> None:
        stack.sim.directory.assignment_required.add(stack.sim.app_id)
        assert "Assignment required" in problem("appRoleAssignmentRequired")["remedy"]

        stack.sim.directory.change_tracking_assigned.add(stack.sim.app_id)
        assert only("appRoleAssignmentRequired")["level"] == "well"

    def test_says_how_to_look_where_it_cannot(self, stack: Stack) -> None:
        stack.sim.entra.roles = tuple(role for role in APP_ROLES if role != "Application.Read.All")
        found = only("appRoleAssignmentRequired")
        assert found["level"] == "attention"
        assert "Application.Read.All" in found["remedy"]

    def test_says_that_key_vault_refuses(self, stack: Stack) -> None:
        stack.sim.faults.add(Fault("vault", status=403), times=None)
        assert "Key Vault Secrets User" in problem("certificate")["remedy"]

    @pytest.mark.parametrize(
        ("key_size", "from_now", "state", "remedy"),
        [
            (1024, timedelta(days=300), "bad", "2048 bits"),
            (2048, timedelta(days=-1), "bad", "rotate it"),
            (2048, timedelta(days=20), "attention", "rotate it"),
        ],
    )
    def test_knows_a_bad_certificate(
        self, stack: Stack, key_size: int, from_now: timedelta, state: str, remedy: str
    ) -> None:
        vault, now = stack.sim.vault, datetime.now(UTC)
        pair = KeyCertificate.generate(key_size=key_size, not_before=now - timedelta(days=30), not_after=now + from_now)
        bad = vault.rotate_certificate(pair)
        try:
            found = only("certificate")
        finally:
            vault._secrets[vault.certificate_name].remove(bad)
        assert (found["level"], remedy in found["remedy"]) == (state, True)

    @pytest.mark.parametrize(
        ("policy", "state", "remedy"),
        [
            ({"key_props": {"exportable": False}}, "bad", "exportable"),
            ({"lifetime_actions": []}, "attention", "AutoRenew"),
        ],
    )
    def test_knows_a_bad_policy(
        self, stack: Stack, monkeypatch: pytest.MonkeyPatch, policy: dict[str, Any], state: str, remedy: str
    ) -> None:
        monkeypatch.setattr(stack.sim.vault, "policy", stack.sim.vault.policy | policy)
        found = only("certificate policy")
        assert (found["level"], remedy in found["remedy"]) == (state, True)

    def test_says_that_nobody_is_signed_in(self, stack: Stack, desire: Callable[[str], None]) -> None:
        desire(traffic.WITH_PRESENCE)
        assert "manage.py login" in problem("sign-in for presence")["remedy"]

    def test_says_that_no_application_is_set_to_sign_in_to(
        self, stack: Stack, desire: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        desire(traffic.WITH_PRESENCE)
        monkeypatch.setenv("GRAPH_APP_IDS", f"{stack.sim.app_id},{uuid4()}")
        assert "SIGN_IN_APP_ID" in problem("sign-in for presence")["remedy"]

    @pytest.mark.parametrize(("status", "body", "found"), [(500, b"", "500"), (200, b"hello", "echo")])
    def test_tells_how_the_endpoint_answers_wrongly(
        self, stack: Stack, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, found: str
    ) -> None:
        with serve(status, body) as url:
            monkeypatch.setenv("NOTIFICATION_URL", url)
            check = problem("handshake")
        assert found in check["finding"]
        assert "NOTIFICATION_URL" in check["remedy"]

    def test_never_shows_a_function_key(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOTIFICATION_URL", "http://127.0.0.1:1/api/notifications?code=hush")
        assert "hush" not in run("doctor").output

    def test_names_the_line_of_a_wrong_desired_state(self, stack: Stack, desire: Callable[[str], None]) -> None:
        desire('[[callRecords]]\nparticipant = "x"\n')
        assert "line 2" in problem("desired state")["finding"]

    def test_says_that_subscriptions_and_runs_are_missing(self, stack: Stack) -> None:
        found = examination()
        assert "subscriptions apply" in problem("subscriptions", found)["remedy"]
        assert "renew_subscriptions is enabled" in problem("renewal timer", found)["remedy"]

    def test_says_what_nothing_asks_for(self, stack: Stack, desire: Callable[[str], None]) -> None:
        desire(traffic.SUBSCRIPTIONS + UNWANTED)
        run("subscriptions", "apply", "--yes")
        desire(traffic.SUBSCRIPTIONS)
        assert "subscriptions prune" in " ".join(str(check["remedy"]) for check in checks("unwanted subscriptions"))

    def test_says_what_the_last_run_could_not_do(self, stack: Stack, desire: Callable[[str], None]) -> None:
        desire(traffic.WITH_PRESENCE)
        run("subscriptions", "apply", "--yes")
        assert "manage.py login" in problem("renewal timer")["remedy"]

    def test_counts_what_lies_in_quarantine(self, stack: Stack) -> None:
        with BlobServiceClient.from_connection_string(stack.azurite.connection_string) as blobs:
            container = blobs.get_container_client("quarantine")
            if not container.exists():
                container.create_container()
            container.upload_blob("x.json", b"{}")
        found = problem("quarantine")
        assert "1 in quarantine" in found["finding"]
        assert "quarantine list" in found["remedy"]

    def test_says_when_it_is_somebody_else_and_never_to_let_that_be_the_app(
        self, stack: Stack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GRAPH_APP_IDS", str(uuid4()))
        (token,) = checks("Graph token")
        assert f"application {stack.sim.app_id}, and not the app" in token["finding"]
        stack.sim.directory.granted.remove("CallEvents.Read.All")
        try:
            found = examination()
        finally:
            stack.sim.directory.granted.add("CallEvents.Read.All")
        assert problem("permission CallEvents.Read.All", found)
        assert "GRAPH_APP_IDS" not in str(found)

    @pytest.mark.parametrize("settings", [{"AzureWebJobsStorage": "nonsense"}, {"SUBSCRIPTIONS": "."}])
    def test_lives_through_whatever_is_set(
        self, stack: Stack, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
    ) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        assert {"handshake", "certificate"} <= {check["id"] for check in examination()}


def let_readings_settle(stack: Stack) -> None:
    """Have what is desired been read as it is for two hours."""
    with BlobServiceClient.from_connection_string(stack.azurite.connection_string) as blobs:
        container = blobs.get_container_client("state")
        for name in container.list_blob_names(name_starts_with="known/"):
            known = json.loads(container.download_blob(name).readall())
            for reading in known["readings"].values():
                reading["since"] = (datetime.fromisoformat(reading["since"]) - timedelta(hours=2)).isoformat()
            container.upload_blob(name, json.dumps(known), overwrite=True)


def examination() -> list[dict[str, Any]]:
    """All that the doctor finds."""
    result = run("doctor", "--json")
    assert result.exit_code in {0, 1}, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["checks"]
    return found


def checks(name: str) -> list[dict[str, Any]]:
    return [check for check in examination() if check["name"].startswith(name)]


def only(name: str) -> dict[str, Any]:
    found = [check for check in checks(name) if check["name"].split(",")[0] == name or "," in name]
    assert len(found) == 1, found
    return found[0]


def problem(name: str, examined: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The first problem that a check of that name has found."""
    found = [
        check
        for check in (examination() if examined is None else examined)
        if check["name"].startswith(name) and check["level"] == "bad"
    ]
    assert found, f"{name}: all is well"
    return found[0]


def port_of(url: str) -> str:
    return str(urlsplit(url).port)


class TestCallRecords:
    @pytest.mark.usefixtures("empty")
    def test_backfill_writes_what_is_not_noted_as_delivered_and_counts_it(self, stack: Stack) -> None:
        now = stack.sim.clock.now()
        stack.sim.directory.call_records.clear()
        for name in (str(uuid4()), str(uuid4())):
            stack.sim.directory.call_records[name] = CallRecord(name, now - timedelta(hours=1), modified=now)
        since = f"{now - timedelta(minutes=30):%Y-%m-%dT%H:%M}"
        found = run_json("call-records", "backfill", "--since", since)
        assert found == {"listed": 2, "absent": 2, "problems": {}}
        wait_for(lambda: count(stack, "call-record-events") > 0)  # in as many messages as there were pages

        again = run("call-records", "backfill", "--since", since, "--tenant", stack.sim.tenants[0].upper())
        assert again.exit_code == 0
        assert "2 listed; 0 were absent" in again.output

    def test_backfill_says_why_it_stops(self, stack: Stack) -> None:
        stack.sim.faults.add(Fault("graph", "GET", "communications/callRecords", status=403))
        found = run_json("call-records", "backfill", "--since", "0001-01-01", "--until", "9999-12-31", exit_code=1)
        assert found["problems"] == {stack.sim.tenants[0]: "permission"}

    def test_backfill_without_call_records(self, stack: Stack, desire: Callable[[str], None]) -> None:
        desire(UNWANTED)
        found = run_json("call-records", "backfill", "--since", "2026-11-01", exit_code=1)
        assert found["error"]["reason"] == "not-desired"

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--since", "yesterday"),
            ("--since", "2026-11-02", "--until", "2026-11-01"),
            ("--until", "2020-01-01"),
            ("--tenant", str(UUID(int=1))),
        ],
    )
    def test_backfill_of_what_cannot_be_is_refused(self, stack: Stack, arguments: tuple[str, ...]) -> None:
        assert run("call-records", "backfill", "--since", "2026-11-01", *arguments).exit_code == 2


def documented() -> Iterator[str]:
    """Every command line of `manage.py` that the operators' documents print, once."""
    seen = set()
    for page in ("operations.md", "manage.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for line in re.findall(r"^(?:\$ )?python manage\.py (.+)$|`python manage\.py ([^`]+)`", text, re.MULTILINE):
            command = " ".join("".join(line).split())
            if "…" not in command and command not in seen:
                seen.add(command)
                yield command


@pytest.mark.usefixtures("attended")
def test_every_documented_command_line_runs_as_it_is_printed(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may find things that are not well; it must be a command, and say so itself."""
    run("subscriptions", "apply", "--yes")
    monkeypatch.setattr(stack.sim.entra, "device_code_interval", 1)
    monkeypatch.setattr(stack.sim.entra, "auto_approve", User())
    for line in documented():
        result = run(*shlex.split(line), answer="y\n")
        assert result.exit_code in {0, 1}, (line, result.output)
        assert result.exception is None or isinstance(result.exception, SystemExit), (line, result.exception)


def count(stack: Stack, queue: str) -> int:
    with QueueServiceClient.from_connection_string(stack.azurite.connection_string) as queues:
        try:
            return queues.get_queue_client(queue).get_queue_properties().approximate_message_count or 0
        except ResourceNotFoundError:
            return 0


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class serve:  # noqa: N801 - used like a function
    """An endpoint that answers every POST in the same way."""

    def __init__(self, status: int, body: bytes) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, status, body))

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}/api/notifications"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, status: int, body: bytes, *arguments: Any) -> None:
        self._status, self._body = status, body
        super().__init__(*arguments)

    def do_POST(self) -> None:
        self.send_response(self._status)
        self.send_header("Content-Length", str(len(self._body)))
        self.end_headers()
        self.wfile.write(self._body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
