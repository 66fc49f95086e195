"""Granting Graph permissions, against a directory that keeps app role assignments and speaks HTTP."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from commands.directory import Directory
from infra.graph_permissions import grant_needed, needed
from shared.clock import SystemClock
from shared.graph.client import GraphClient
from shared.subscriptions.desired import DesiredState, parse_desired
from shared.values.errors import UnavailableError
from shared.values.graph_errors import NotFoundError, PermissionDeniedError
from shared.values.resources import CATALOGUE

TENANT = "99999999-9999-9999-9999-999999999999"
IDENTITY = "11111111-1111-1111-1111-111111111111"
USER = "22222222-2222-2222-2222-222222222222"
GRAPH = "graph-in-this-tenant"
PERMISSIONS = {name for kind in CATALOGUE.values() for name in kind.permissions}
ROLES = sorted({*PERMISSIONS, "GroupMember.Read.All", "Mail.ReadWrite"})
SAMPLE = (Path(__file__).parents[2] / "subscriptions.sample.toml").read_text()


class FakeDirectory(ThreadingHTTPServer):
    """Service principals of Graph and of one identity. Lists come one entry to a page."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.assignments: list[dict[str, str]] = [
            {"principalId": IDENTITY, "resourceId": "another-api", "appRoleId": "role-CallRecords.Read.All"}
        ]
        self.refused = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def permissions(self) -> set[str]:
        return {found["appRoleId"].removeprefix("role-") for found in self.assignments if found["resourceId"] == GRAPH}


class Handler(BaseHTTPRequestHandler):
    server: FakeDirectory

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/v1.0/servicePrincipals(appId='00000003-0000-0000-c000-000000000000')":
            delegated = {"value": "CallRecords.Read.All", "id": "scope", "allowedMemberTypes": ["User"]}
            roles = [{"value": name, "id": f"role-{name}", "allowedMemberTypes": ["Application"]} for name in ROLES]
            self.answer(200, {"id": GRAPH, "appRoles": [*roles, delegated]})
        elif parts.path == f"/v1.0/servicePrincipals/{IDENTITY}/appRoleAssignments":
            start = int(parts.query.removeprefix("start=") or 0)
            page: dict[str, object] = {"value": self.server.assignments[start : start + 1]}
            if start + 1 < len(self.server.assignments):
                page["@odata.nextLink"] = f"{self.server.url}{parts.path}?start={start + 1}"
            self.answer(200, page)
        else:
            self.answer(404, {"error": {"code": "Request_ResourceNotFound", "message": "no such thing"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refused or self.headers["Authorization"] != "Bearer administrator":
            self.answer(403, {"error": {"code": "Authorization_RequestDenied", "message": "not an administrator"}})
        elif body in self.server.assignments:
            self.answer(400, {"error": {"code": "Request_BadRequest", "message": "it exists already"}})
        else:
            self.server.assignments.append(body)
            self.answer(201, body)

    def answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def fake() -> Iterator[FakeDirectory]:
    with FakeDirectory() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Impatient(SystemClock):
    """Does not wait between tries."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(0)


class Token(NamedTuple):
    """A credential, and its token."""

    token: str

    def get_token(self, _scope: str) -> "Token":
        return self


@pytest.fixture
def directory() -> Iterator[Callable[..., Directory]]:
    """Makes the directory at an address, as whoever has a token sees it."""
    clients = []

    def make(url: str, token: str = "administrator") -> Directory:
        client = GraphClient(url, lambda _tenant_id, *, delegated: Token(token), Impatient())  # type: ignore[arg-type, return-value]
        clients.append(client)
        return Directory(client, url, TENANT)

    yield make
    for client in clients:
        client.close()


def state(text: str) -> DesiredState:
    return parse_desired(text, tenant_ids=frozenset({TENANT}))


CALLS = state(f'[[callRecords]]\n[[callEvents]]\nusers = ["{USER}"]\n')


class TestNeeded:
    def test_is_what_the_catalogue_says(self) -> None:
        assert needed(CALLS) == {
            "CallRecords.Read.All": frozenset({"callRecords"}),
            "CallEvents.Read.All": frozenset({"callEvents"}),
        }

    def test_groups_need_their_members_read(self) -> None:
        found = needed(state(f'[[callEvents]]\ngroups = ["{USER}"]\n'))

        assert set(found) == {"CallEvents.Read.All", "GroupMember.Read.All"}

    def test_presence_is_nothing_that_an_application_can_have(self) -> None:
        assert needed(state(f'[[presence]]\nusers = ["{USER}"]\n')) == {}

    def test_the_sample_asks_for_nothing_that_is_not_used(self) -> None:
        assert set(needed(state(SAMPLE))) == {"CallRecords.Read.All"}


class TestGrantNeeded:
    async def test_grants_exactly_what_is_needed(
        self, fake: FakeDirectory, directory: Callable[..., Directory]
    ) -> None:
        assert await grant_needed(directory(fake.url), CALLS, IDENTITY, agreed=True)

        assert fake.permissions() == {"CallRecords.Read.All", "CallEvents.Read.All"}

    async def test_does_nothing_when_run_again(
        self, fake: FakeDirectory, directory: Callable[..., Directory], capsys: pytest.CaptureFixture[str]
    ) -> None:
        known = directory(fake.url)
        await grant_needed(known, CALLS, IDENTITY, agreed=True)
        before = list(fake.assignments)

        assert await grant_needed(known, CALLS, IDENTITY, agreed=True)

        assert fake.assignments == before
        assert "Nothing to grant" in capsys.readouterr().out

    async def test_grants_what_is_new_and_points_at_what_is_not_needed(
        self, fake: FakeDirectory, directory: Callable[..., Directory], capsys: pytest.CaptureFixture[str]
    ) -> None:
        known = directory(fake.url)
        await grant_needed(known, CALLS, IDENTITY, agreed=True)

        await grant_needed(known, state('[[emergencyCallEvents]]\npolicies = ["All"]\n'), IDENTITY, agreed=True)

        assert fake.permissions() == {"CallRecords.Read.All", "CallEvents.Read.All", "CallEvents-Emergency.Read.All"}
        assert capsys.readouterr().out.count("not needed") == 2

    async def test_shows_them_and_asks_first(
        self,
        fake: FakeDirectory,
        directory: Callable[..., Directory],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        questions = []
        monkeypatch.setattr("typer.confirm", lambda question: questions.append(question) or False)

        assert not await grant_needed(directory(fake.url), CALLS, IDENTITY, agreed=False)

        assert fake.permissions() == set()
        assert questions == [f"Grant CallEvents.Read.All, CallRecords.Read.All to {IDENTITY}?"]
        assert "to be granted" in capsys.readouterr().out

    async def test_says_why_it_may_not(self, fake: FakeDirectory, directory: Callable[..., Directory]) -> None:
        with pytest.raises(PermissionDeniedError, match="403 Authorization_RequestDenied"):
            await grant_needed(directory(fake.url, "somebody"), CALLS, IDENTITY, agreed=True)

    async def test_says_when_the_identity_does_not_exist(
        self, fake: FakeDirectory, directory: Callable[..., Directory]
    ) -> None:
        with pytest.raises(NotFoundError, match="404 Request_ResourceNotFound"):
            await grant_needed(directory(fake.url), CALLS, USER, agreed=True)

    async def test_says_when_graph_is_out_of_reach(self, directory: Callable[..., Directory]) -> None:
        with FakeDirectory() as server:
            url = server.url

        with pytest.raises(UnavailableError):
            await grant_needed(directory(url), CALLS, IDENTITY, agreed=True)
