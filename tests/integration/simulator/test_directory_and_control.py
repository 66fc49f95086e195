import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from dev.simulator import Simulator
from dev.simulator.directory import CallRecord
from tests.integration.simulator.conftest import Body, GraphClient

ROOT = Path(__file__).parents[3]


def pages(graph: GraphClient, url: str | None) -> list[list[dict[str, Any]]]:
    found = []
    while url:
        url = url.replace("$metadata#", "")
        page = graph("GET", url).json()
        found.append(page["value"])
        url = page.get("@odata.nextLink")
    return found


class TestDirectory:
    @pytest.mark.parametrize("path", ["members", "transitiveMembers", "transitiveMembers/microsoft.graph.user"])
    def test_members_come_in_pages(self, path: str, graph: GraphClient, sim: Simulator) -> None:
        sim.directory.groups["sales"] = ["a", "b", "c"]
        sim.directory.group_page = 2
        found = pages(graph, f"/v1.0/groups/sales/{path}?$select=id")
        assert [[entry["id"] for entry in page] for page in found] == [["a", "b"], ["c"]]
        assert graph("GET", f"/v1.0/groups/none/{path}").status_code == 404

    def test_a_missing_permission_is_forbidden(self, graph: GraphClient, sim: Simulator) -> None:
        sim.entra.roles = ()
        token, _ = sim.entra.app_token(audience=sim.graph_url, client_id="c", tenant_id=sim.tenants[0])
        graph.headers = {"Authorization": f"Bearer {token}"}
        assert graph("GET", "/v1.0/groups/sales/members").status_code == 403

    def test_call_records_are_filtered_by_their_start(self, graph: GraphClient, sim: Simulator) -> None:
        now = sim.clock.now()
        for days in (1, 2, 3, 40):
            sim.directory.call_records[str(days)] = CallRecord(str(days), now - timedelta(days=days))
        window = f"startDateTime ge {now - timedelta(days=2, hours=1):%Y-%m-%dT%H:%M:%SZ}"
        narrow = f"{window} and startDateTime lt {now - timedelta(days=1, hours=1):%Y-%m-%dT%H:%M:%SZ}"
        path = "/v1.0/communications/callRecords"
        found = [
            [entry["id"] for entry in graph("GET", path, params={"$filter": text} if text else {}).json()["value"]]
            for text in ("", window, narrow)
        ]
        assert found == [["3", "2", "1"], ["2", "1"], ["2"]]
        assert graph("GET", path, params={"$filter": "version gt 1"}).status_code == 400
        assert graph("GET", f"{path}/40").status_code == 404

    def test_a_record_expands_in_pages(self, graph: GraphClient, sim: Simulator) -> None:
        sim.directory.call_records["r"] = CallRecord("r", sim.clock.now(), participants=300, sessions=70)
        path = "/v1.0/communications/callRecords/r"
        assert "sessions" not in graph("GET", path).json()
        record = graph("GET", f"{path}?$expand=sessions($expand=segments)").json()
        rest = pages(graph, record["sessions@odata.nextLink"])
        assert [len(page) for page in (record["sessions"], *rest)] == [60, 10]
        assert all(len(session["segments"]) == 1 for page in rest for session in page)
        record = graph("GET", f"{path}?$expand=participants_v2").json()
        people = pages(graph, record["participants_v2@odata.nextLink"])
        assert [len(page) for page in (record["participants_v2"], *people)] == [130, 130, 40]
        assert [len(page) for page in pages(graph, f"{path}/participants_v2")] == [130, 130, 40]
        assert graph("GET", f"{path}?$expand=sessions,participants_v2").status_code == 400

    def test_call_records_are_filtered_by_participant(self, graph: GraphClient, sim: Simulator) -> None:
        for name in ("a", "b"):
            sim.directory.call_records[name] = CallRecord(name, sim.clock.now() - timedelta(hours=1))
        user = sim.directory.call_records["b"].user_ids[1]
        since = f"{sim.clock.now() - timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}"
        condition = f"startDateTime ge {since} and participants_v2/any(p:p/id eq '{user}')"
        found = graph("GET", "/v1.0/communications/callRecords", params={"$filter": condition}).json()["value"]
        assert [entry["id"] for entry in found] == ["b"]

    def test_the_service_principal_tells_of_its_assignments(self, graph: GraphClient, sim: Simulator) -> None:
        path = f"/v1.0/servicePrincipals(appId='{sim.app_id}')"
        before = graph("GET", path).json()
        assert before["appRoleAssignmentRequired"] is False
        sim.directory.assignment_required.add(sim.app_id)
        sim.directory.change_tracking_assigned.add(sim.app_id)
        assert graph("GET", path).json()["appRoleAssignmentRequired"] is True
        for address in (path, f"/v1.0/servicePrincipals/{before['id']}"):
            (assignment,) = graph("GET", f"{address}/appRoleAssignedTo").json()["value"]
            assert assignment["resourceId"] == before["id"]


class TestControl:
    def post(self, sim: Simulator, command: str, **body: Any) -> requests.Response:
        return requests.post(f"{sim.control_url}/_control/{command}", json=body, timeout=90)

    def state(self, sim: Simulator) -> Any:
        return requests.get(f"{sim.control_url}/_control/state", timeout=90).json()

    def test_a_person_can_make_things_happen(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        name = graph.create(body()).json()["id"]
        assert self.post(sim, "notify", target=name, kind="call-started", options={"id": "7"}).status_code == 200
        assert self.post(sim, "lifecycle", target=name).status_code == 200
        sim.graph.drain()
        state = self.state(sim)
        assert [entry["state"] for entry in state["deliveries"]] == ["delivered"] * 2
        assert [entry["id"] for entry in state["subscriptions"]] == [name]
        assert "a secret" not in str(state)
        assert sim.identity.header not in str(state)
        assert self.post(sim, "remove", id=name).status_code == 200
        assert self.state(sim)["subscriptions"] == []

    def test_keys_and_certificates_turn_over(self, sim: Simulator) -> None:
        version = self.post(sim, "rotate-certificate").json()["result"]
        kid = self.post(sim, "rotate-keys").json()["result"]
        state = self.state(sim)
        assert state["certificateVersions"][-1] == version
        assert state["signingKeys"][-1] == kid

    def test_faults_come_and_go(self, graph: GraphClient, sim: Simulator) -> None:
        self.post(sim, "fault", fault={"service": "graph", "status": 503}, times=None)
        assert graph("GET", "/v1.0/subscriptions").status_code == 503
        self.post(sim, "clear-faults")
        assert graph("GET", "/v1.0/subscriptions").status_code == 200

    def test_a_device_code_can_be_approved(self, sim: Simulator) -> None:
        flow = sim.entra.start_device_code(sim.tenants[0], {"client_id": "c", "scope": "User.Read"})
        assert self.post(sim, "approve", user_code=flow["user_code"]).status_code == 200
        assert sim.entra.grant(sim.tenants[0], {"grant_type": "device_code", **flow})["access_token"]

    def test_a_device_code_is_entered_on_the_page_that_it_names(self, sim: Simulator) -> None:
        flow = sim.entra.start_device_code(sim.tenants[0], {"client_id": "c", "scope": "User.Read"})
        page = flow["verification_uri"]
        assert 'name="code"' in requests.get(page, timeout=90).text
        assert requests.post(page, data={"code": "another"}, timeout=90).status_code == 404
        assert requests.post(page, data={"code": flow["user_code"].lower()}, timeout=90).status_code == 200
        assert sim.entra.grant(sim.tenants[0], {"grant_type": "device_code", **flow})["access_token"]

    @pytest.mark.parametrize(
        ("command", "body", "status"),
        [
            ("notify", {"target": "nobody", "kind": "call-started"}, 404),
            ("notify", {"target": "nobody", "kind": "what"}, 400),
            ("remove", {}, 400),
            ("remove", {"id": "none"}, 404),
            ("approve", {"user_code": "none"}, 404),
        ],
    )
    def test_mistakes_are_told(self, command: str, body: dict[str, Any], status: int, sim: Simulator) -> None:
        assert self.post(sim, command, **body).status_code == status


def test_it_runs_by_itself_and_ends_when_asked() -> None:
    command = [sys.executable, "-m", "dev.simulator"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith("# control: "):
                break
        settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        state = requests.get(lines[-1].removeprefix("# control: "), timeout=90).json()
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
    assert state["settings"]["GRAPH_ENDPOINT"] == settings["GRAPH_ENDPOINT"]
    assert not Path(settings["SSL_CERT_FILE"]).exists()
