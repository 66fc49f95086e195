from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from dev.simulator import Fault, ManualClock, Simulator
from dev.simulator.rules import GraphError
from dev.simulator.throttle import LIMITS, Throttle
from tests.integration.simulator.conftest import Body, GraphClient

START = datetime(2026, 1, 1, tzinfo=UTC)


def batch(graph: GraphClient, *parts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    requests = [{"id": str(number), **part} for number, part in enumerate(parts)]
    answer = graph("POST", "/v1.0/$batch", json={"requests": requests})
    assert answer.status_code == 200, answer.text
    return {entry["id"]: entry for entry in answer.json()["responses"]}


def get(name: str) -> dict[str, Any]:
    return {"method": "GET", "url": f"/subscriptions/{name}"}


class TestBatch:
    def test_each_part_has_its_own_answer(self, graph: GraphClient, body: Body) -> None:
        mine = graph.create(body(minutes=50)).json()["id"]
        later = body(minutes=100)["expirationDateTime"]
        patch = {
            "method": "PATCH",
            "url": f"/subscriptions/{mine}",
            "headers": {"Content-Type": "application/json"},
            "body": {"expirationDateTime": later},
        }
        answers = batch(
            graph, patch, get("none"), {"method": "DELETE", "url": f"subscriptions/{mine}"} | {"dependsOn": ["0"]}
        )
        assert {name: entry["status"] for name, entry in answers.items()} == {"0": 200, "1": 404, "2": 204}
        assert answers["0"]["body"]["expirationDateTime"] == later
        assert "body" not in answers["2"]

    def test_what_depends_on_a_failure_fails(self, graph: GraphClient) -> None:
        answers = batch(graph, get("none"), get("none") | {"dependsOn": ["0"]})
        assert [answers[name]["status"] for name in ("0", "1")] == [404, 424]

    def test_a_body_without_its_type_is_refused(self, graph: GraphClient, body: Body) -> None:
        answers = batch(graph, {"method": "POST", "url": "/subscriptions", "body": body()})
        assert answers["0"]["status"] == 400

    @pytest.mark.parametrize(
        "requests",
        [
            [],
            [{"id": str(number), **get("x")} for number in range(21)],
            [{"id": "1", **get("x")}, {"id": "1", **get("y")}],
            [get("x")],
            ["x"],
        ],
    )
    def test_an_ill_formed_batch_is_refused(self, requests: list[Any], graph: GraphClient) -> None:
        assert graph("POST", "/v1.0/$batch", json={"requests": requests}).status_code == 400

    def test_a_batch_in_a_batch_is_refused(self, graph: GraphClient) -> None:
        inner = {
            "method": "POST",
            "url": "/$batch",
            "headers": {"Content-Type": "application/json"},
            "body": {"requests": [{"id": "1", **get("x")}]},
        }
        assert batch(graph, inner)["0"]["status"] == 400

    def test_faults_befall_single_parts(self, graph: GraphClient, sim: Simulator) -> None:
        sim.faults.add(Fault("graph", "GET", "/subscriptions/b$", status=429, retry_after=9))
        sim.faults.add(Fault("graph", "GET", "/subscriptions/c$", hang_up="after"))
        answers = batch(graph, get("a"), get("b"), get("c"))
        assert [answers[name]["status"] for name in ("0", "1", "2")] == [404, 429, 504]
        assert answers["1"]["headers"]["Retry-After"] == "9"

    def test_the_record_has_parts_and_whole(self, graph: GraphClient, sim: Simulator) -> None:
        sim.faults.forget_requests()
        batch(graph, get("a"), get("b"))
        assert [(entry.method, entry.in_batch) for entry in sim.faults.requests] == [
            ("GET", True),
            ("GET", True),
            ("POST", False),
        ]


class TestThrottle:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(START)

    @pytest.fixture
    def throttle(self, clock: ManualClock) -> Throttle:
        return Throttle(clock, enabled=True)

    @pytest.mark.parametrize("operation", list(LIMITS))
    def test_a_tenant_may_do_so_much_at_once(self, operation: Any, throttle: Throttle) -> None:
        for _ in range(LIMITS[operation][1]):
            throttle.admit(operation, "app", "tenant")
        with pytest.raises(GraphError) as caught:
            throttle.admit(operation, "app", "tenant")
        assert caught.value.status == 429
        throttle.admit(operation, "app", "another tenant")
        throttle.admit(operation, "another app", "tenant")

    def test_all_tenants_together_may_do_more_but_not_endlessly(self, throttle: Throttle) -> None:
        for number in range(40):
            throttle.admit("list", "app", f"tenant {number}")
        with pytest.raises(GraphError):
            throttle.admit("list", "app", "one more tenant")

    def test_who_waits_as_long_as_asked_gets_in(self, throttle: Throttle, clock: ManualClock) -> None:
        for _ in range(25):
            throttle.admit("list", "app", "tenant")
        with pytest.raises(GraphError) as caught:
            throttle.admit("list", "app", "tenant")
        clock.advance(caught.value.retry_after or 0)
        throttle.admit("list", "app", "tenant")

    def test_over_a_long_time_the_rate_is_as_documented(self, throttle: Throttle, clock: ManualClock) -> None:
        admitted = 0
        for _ in range(400):
            for _ in range(100):
                try:
                    throttle.admit("write", "app", "tenant")
                    admitted += 1
                except GraphError:
                    break
            clock.advance(1)
        assert admitted == 500 + 399 * 25

    @pytest.fixture
    def sim(self, clock: ManualClock) -> Iterator[Simulator]:
        with Simulator.start(clock=clock) as simulator:
            yield simulator

    def test_it_is_off_until_switched_on(self, graph: GraphClient, sim: Simulator) -> None:
        statuses = [graph("GET", "/v1.0/subscriptions").status_code for _ in range(26)]
        assert set(statuses) == {200}
        sim.graph.throttle.enabled = True
        answers = [graph("GET", "/v1.0/subscriptions") for _ in range(26)]
        assert [answer.status_code for answer in answers] == [200] * 25 + [429]
        assert answers[-1].headers["Retry-After"] == "1"

    def test_parts_of_a_batch_count_one_by_one(self, graph: GraphClient, sim: Simulator) -> None:
        sim.graph.throttle.enabled = True
        sim.graph.throttle.limits["write"] = (2000, 3)
        answers = batch(graph, *({"method": "DELETE", "url": f"/subscriptions/{n}"} for n in range(5)))
        statuses = [answers[str(number)]["status"] for number in range(5)]
        assert sorted(statuses) == [404, 404, 404, 429, 429]
        assert all("Retry-After" in entry["headers"] for entry in answers.values() if entry["status"] == 429)
