"""Checks of `doctor`: what a set-up holds, and who is asking."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import jwt
import msgspec
import pytest
from azure.core.exceptions import ClientAuthenticationError

from commands import checks, identity_checks, subscription_checks
from commands.checks import Finding
from commands.directory import GRAPH_APP_ID
from commands.environment import environment
from commands.examination import make
from commands.identity import NotTheAppError, refuse_strangers
from shared.http_client import HttpClient
from shared.operations.limits import Level
from shared.settings import StorageSettings
from shared.storage.account import StorageAccount
from shared.subscriptions.desired import DesiredState, parse_desired
from shared.subscriptions.renewal_state import KeptSubscription, Renewals, RenewalState
from shared.values.consumers import NO_OTHERS, Consumers, parse_consumers
from shared.values.errors import SettingsError, UnavailableError
from shared.values.graph_errors import NotFoundError, PermissionDeniedError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = "99999999-9999-9999-9999-999999999999"
APP = "11111111-1111-1111-1111-111111111111"
AZURE_CLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
CALLS = parse_desired(f'[[callEvents]]\nusers = ["{APP}"]\n', tenant_ids=[TENANT])


@dataclass
class Context:
    """As much of a command's context as these checks look at. `app_id` is whose token there is; None: nobody's."""

    app_id: str | None = APP
    roles: tuple[str, ...] = ()
    granted: tuple[str, ...] | None = ()  # to the app, as the directory says; None: it says nothing
    state: RenewalState | None = None
    client_states: tuple[str, ...] = ("current", "previous")
    desired_state: DesiredState = CALLS
    app_ids: frozenset[str] = frozenset({APP})
    tenant_ids: frozenset[str] = frozenset({TENANT})
    graph_endpoint: str = "https://graph.example"
    subscriptions: str = "subscriptions.toml"
    asked: list[str] = field(default_factory=list)
    consumers: Consumers = NO_OTHERS
    messages: dict[str, int] = field(default_factory=dict)  # by queue

    @property
    def queues(self) -> "Context":
        return self

    async def names(self) -> list[str]:
        return list(self.messages)

    async def count(self, queue: str) -> int:
        return self.messages[queue]

    @property
    def settings(self) -> "Context":
        return self

    @property
    def renewal_states(self) -> "Context":
        return self

    @property
    def desired(self) -> "Context":
        return self

    @property
    def graph(self) -> "Context":
        return self

    @property
    def clock(self) -> Any:
        return SimpleNamespace(now=lambda: NOW)

    async def latest(self) -> Renewals:
        return Renewals(self.state)

    async def load(self) -> DesiredState:
        return self.desired_state

    def credentials(self, tenant_id: str, *, delegated: bool) -> "Context":
        assert (tenant_id, delegated) == (TENANT, False)
        return self

    def get_token(self, _scope: str) -> Any:
        if self.app_id is None:
            raise ClientAuthenticationError("please run az login")
        return SimpleNamespace(token=jwt.encode({"appid": self.app_id, "tid": TENANT, "roles": self.roles}, "k" * 32))

    async def get(self, url: str, _tenant_id: str) -> Any:
        if self.granted is None:
            raise PermissionDeniedError("403")
        assert f"appId='{GRAPH_APP_ID}'" in url
        offered = ({"value": name, "id": f"id-{name}", "allowedMemberTypes": ["Application"]} for name in self.granted)
        return {"id": "graph", "appRoles": list(offered)}

    async def pages(self, url: str, _tenant_id: str) -> Any:
        assert f"(appId='{APP}')/appRoleAssignments" in url
        yield [{"appRoleId": f"id-{name}", "resourceId": "graph"} for name in self.granted or ()]


def finished(ago: timedelta = timedelta(0), **changes: Any) -> RenewalState:
    state = RenewalState(finished=NOW - ago, desired=2, live=2, nearest_expiry=None, outcomes={}, failures=())
    return msgspec.structs.replace(state, **changes)


async def made(check: Any, context: Any) -> list[tuple[str, Level]]:
    return [(finding.id, finding.level) for finding in await check(context)]


class TestIdentity:
    async def test_the_app_itself_is_judged_by_its_token(self) -> None:
        context: Any = Context(roles=("CallEvents.Read.All",))
        assert await made(identity_checks.identities, context) == [("graphToken", "well"), ("permission", "well")]
        context.roles = ()
        assert await made(identity_checks.identities, context) == [("graphToken", "well"), ("permission", "bad")]

    @pytest.mark.parametrize(
        ("granted", "level"), [(("CallEvents.Read.All",), "well"), (("Mail.Read",), "bad"), (None, "attention")]
    )
    async def test_somebody_else_reads_in_the_directory_what_the_app_may_do(
        self, granted: tuple[str, ...] | None, level: str
    ) -> None:
        context: Any = Context(app_id=AZURE_CLI, granted=granted)
        token, permission = await identity_checks.identities(context)
        assert f"application {AZURE_CLI}, and not the app" in token.finding
        assert (token.level, permission.id, permission.level) == (Level.WELL, "permission", level)
        assert "GRAPH_APP_IDS" not in str(token)

    async def test_an_app_that_the_tenant_does_not_know_is_named(self) -> None:
        class Unknown(Context):
            async def pages(self, url: str, tenant_id: str) -> Any:
                raise NotFoundError("404")
                yield

        context: Any = Unknown(app_id=AZURE_CLI)
        _, permission = await identity_checks.identities(context)
        assert (permission.level, "does not know an application" in permission.finding) == (Level.BAD, True)

    async def test_who_is_not_logged_in_is_told_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("IDENTITY_ENDPOINT", raising=False)
        context: Any = Context(app_id=None)
        (finding,) = await identity_checks.identities(context)
        assert (finding.level, f"az login --tenant {TENANT}" in str(finding.remedy)) == (Level.BAD, True)
        monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:1")
        (finding,) = await identity_checks.identities(context)
        assert "managed identity" in str(finding.remedy)

    async def test_nobody_but_the_app_applies(self) -> None:
        await refuse_strangers(Context())  # type: ignore[arg-type]
        with pytest.raises(NotTheAppError, match="Fire the app's timer"):
            await refuse_strangers(Context(app_id=AZURE_CLI))  # type: ignore[arg-type]

    @pytest.mark.parametrize(("live", "level"), [(2, "well"), (1, "attention")])
    async def test_to_somebody_else_subscriptions_are_what_the_last_run_saw(self, live: int, level: str) -> None:
        context: Any = Context(app_id=AZURE_CLI, state=finished(timedelta(minutes=3), live=live))
        (finding,) = await subscription_checks.subscriptions(context)
        assert finding.level == level
        assert finding.finding == f"{live} live of 2 desired, says the run of 3 min ago"


async def test_what_graph_does_not_renew_is_told_with_what_happens_next() -> None:
    assert await subscription_checks.kept(Context()) == []  # type: ignore[arg-type]
    kept = KeptSubscription(
        id="a", kind="callEvents", reason="rejected", replaced_from=NOW, expires=NOW + timedelta(hours=6)
    )
    unwanted = msgspec.structs.replace(kept, id="b", replaced_from=None)
    context: Any = Context(state=finished(kept=(kept, unwanted)))
    first, second = await subscription_checks.kept(context)
    assert first.level is Level.ATTENTION
    assert first.finding == (
        "callEvents, not renewed by Graph (rejected); every run tries again, it is replaced from 2026-01-01 00:00 UTC "
        "on, and it ends at 2026-01-01 06:00 UTC"
    )
    assert second.finding.endswith("every run tries again, and it ends at 2026-01-01 06:00 UTC")


@pytest.mark.parametrize(
    ("count", "whole", "level", "finding"),
    [
        (7, True, Level.ATTENTION, "7 still carry it"),
        (0, False, Level.ATTENTION, "did not give the whole list"),
        (0, True, Level.WELL, "none carries it, says the run of 4 min ago"),
    ],
)
async def test_whether_the_previous_client_state_can_go(count: int, whole: bool, level: Level, finding: str) -> None:
    state = finished(timedelta(minutes=4), previous_client_state=count, lists_whole=whole)
    context: Any = Context(state=state)
    (told,) = await subscription_checks.client_state(context)
    assert (told.level, finding in told.finding) == (level, True)
    context.client_states = ("current",)
    assert await subscription_checks.client_state(context) == []


class Logs:
    """A workspace of Log Analytics with so many megabytes by table, or one that refuses."""

    def __init__(self, billed: dict[str, float] | UnavailableError) -> None:
        self._billed = billed

    @property
    def logs(self) -> "Logs":
        return self

    async def billed(self) -> dict[str, float]:
        if isinstance(self._billed, UnavailableError):
            raise self._billed
        return self._billed


@pytest.mark.parametrize(
    ("billed", "level", "told"),
    [
        ({"AppMetrics": 9.6, "AppRequests": 0.4}, Level.WELL, "10 MB in the last day"),
        (
            {"AppDependencies": 1400.0, "AppTraces": 300.0},
            Level.ATTENTION,
            "1700 MB in the last day (AppDependencies 1400 MB, AppTraces 300 MB)",
        ),
        (UnavailableError("Log Analytics", reason="log-analytics-403"), Level.ATTENTION, "Log Analytics Reader"),
    ],
)
async def test_ingestion(billed: dict[str, float] | UnavailableError, level: Level, told: str) -> None:
    (check,) = await checks.ingestion(Logs(billed))  # type: ignore[arg-type]
    assert check.level is level
    assert check.finding == told or told in str(check.remedy)


class TestNothingCrashesIt:
    @pytest.mark.parametrize("text", ["nonsense", "AccountName=a", ";;="])
    async def test_a_bad_connection_string_is_named_without_its_key(self, text: str) -> None:
        class Broken:
            @property
            def queues(self) -> Any:
                raise SettingsError(["AzureWebJobsStorage: not valid"])

        with pytest.raises(SettingsError, match="AzureWebJobsStorage: not valid") as raised:
            StorageAccount(StorageSettings(text, None, None, None), HttpClient())
        assert text not in str(raised.value)
        (finding,) = await checks.storage(Broken())  # type: ignore[arg-type]
        assert (finding.id, finding.level) == ("settings", Level.BAD)

    @pytest.mark.parametrize(
        "data",
        [
            b"{",
            b"[]",
            b'{"Values": {"A": 1}}',
            b'{"Values": {"A": "\\u0000"}}',
            b'{"Values": {"A=B": "x"}}',
            b"\xff\xfe{\x00}\x00",
            b"[" * 100_000,
            None,  # a folder
        ],
    )
    def test_a_settings_file_that_is_none_is_named(
        self, data: bytes | None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "deployed.settings.json"
        file.mkdir() if data is None else file.write_bytes(data)
        monkeypatch.setenv("SWITCHBOARD_SETTINGS", str(file))
        with pytest.raises(SettingsError, match=r"deployed\.settings\.json" if data else "cannot be read"):
            environment()

    def test_a_byte_order_mark_is_none_of_its_concerns(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "deployed.settings.json"
        file.write_bytes(b'\xef\xbb\xbf{"Values": {"OF_A_FILE": "x"}}')
        monkeypatch.setenv("SWITCHBOARD_SETTINGS", str(file))
        assert environment()["OF_A_FILE"] == "x"

    async def test_whatever_a_check_meets_is_told_by_its_type(self) -> None:
        async def broken(_context: Any) -> list[Finding]:
            raise KeyError("a secret")

        (finding,) = await make("handshake", broken, Context())  # type: ignore[arg-type]
        assert (finding.id, finding.level) == ("handshake", Level.BAD)
        assert "KeyError" in finding.finding
        assert "a secret" not in str(finding)

    async def test_what_storage_does_not_tell_is_said_by_the_check_of_storage(self) -> None:
        async def away(_context: Any) -> list[Finding]:
            raise UnavailableError("storage", reason="storage-no-answer")

        assert await make("quarantine", away, Context()) == []  # type: ignore[arg-type]


class TestLeftovers:
    BILLING = '{"name": "billing", "kinds": ["callRecords"]}'

    async def test_a_queue_of_a_consumer_that_is_listed_no_more_is_named(self) -> None:
        context: Any = Context(
            consumers=parse_consumers(f"[{self.BILLING}]"),
            messages={
                "call-record-events": 3,
                "call-record-events-billing": 3,
                "presence-events-wall-board": 7,
                "presence-events-wall-board-poison": 0,
                "raw-notifications": 1,
            },
        )
        found = {finding.name: finding for finding in await checks.leftovers(context)}
        assert list(found) == ["queue presence-events-wall-board", "queue presence-events-wall-board-poison"]
        named = found["queue presence-events-wall-board"]
        assert (named.id, named.level) == ("leftoverQueues", Level.ATTENTION)
        assert "7 messages" in named.finding
        assert "az storage queue delete --name presence-events-wall-board " in (named.remedy or "")

    async def test_a_queue_of_the_default_consumer_that_was_ended_is_named_while_something_lies_there(self) -> None:
        ended = parse_consumers(f'[{self.BILLING}, {{"name": "default", "kinds": []}}]')
        messages = {"call-record-events": 2, "call-record-events-poison": 0, "presence-events": 5}
        context: Any = Context(consumers=ended, messages=messages)
        (found,) = await checks.leftovers(context)
        assert found.name == "queue call-record-events"
        assert "message clear" in (found.remedy or "")


class TestUnclaimedKinds:
    """`{"name": "default", "kinds": []}` leaves what no other consumer takes on its old queue, read by nobody."""

    @pytest.mark.parametrize(
        ("consumers", "named"),
        [
            ("[]", None),
            ('[{"name": "a", "kinds": ["presence"]}]', None),
            ('[{"name": "default", "kinds": []}, {"name": "a", "kinds": ["callEvents", "unrecognized"]}]', None),
            ('[{"name": "default", "kinds": []}, {"name": "a", "kinds": ["callEvents"]}]', "unrecognized"),
            ('[{"name": "default", "kinds": []}]', "callEvents, unrecognized"),
        ],
    )
    async def test_are_named_with_their_queues(self, consumers: str, named: str | None) -> None:
        context: Any = Context(consumers=parse_consumers(consumers))
        found = await subscription_checks.unclaimed(context)
        assert [(one.id, one.level) for one in found] == (
            [] if named is None else [("unclaimedKinds", Level.ATTENTION)]
        )
        if named is not None:
            assert found[0].finding.startswith(f"{named}: ")
            assert "unrecognized-events" in found[0].finding

    async def test_of_groups_are_among_them(self) -> None:
        state = parse_desired(f'[[callEvents]]\ngroups = ["{APP}"]\n', tenant_ids=[TENANT])
        context: Any = Context(consumers=parse_consumers('[{"name": "default", "kinds": []}]'), desired_state=state)
        (found,) = await subscription_checks.unclaimed(context)
        assert "call-events" in found.finding
