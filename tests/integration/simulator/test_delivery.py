from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from aiohttp import web

from dev.simulator import Kind, ManualClock, Options, Simulator, build
from dev.simulator.collection import collection
from tests.integration.simulator.conftest import Body, GraphClient
from tests.integration.simulator.subscriber import Subscriber, honest

START = datetime(2026, 1, 1, tzinfo=UTC)
RECORD = Kind.CALL_RECORD_CREATED


def failing(times: int, status: int = 503) -> Callable[[web.Request], web.Response]:
    left = [times]

    def answer(request: web.Request) -> web.Response:
        if "validationToken" in request.query or not left[0]:
            return honest(request)
        left[0] -= 1
        return web.Response(status=status)

    return answer


def many(graph: GraphClient, body: Body, count: int) -> list[str]:
    resources = [f"users/{number}/communications/callEvents" for number in range(count)]
    return [graph.create(body(resource=resource)).json()["id"] for resource in resources]


class TestWhatIsSent:
    def test_a_basic_item_has_no_secrets_and_no_tokens(
        self, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber
    ) -> None:
        created = graph.create(body(RECORD, rich=False, changeType="created,updated"), "v1.0").json()
        sim.graph.notify("communications/callRecords", RECORD, Options(id="record-1"))
        sim.graph.drain()
        (sent,) = subscriber.collections
        assert "validationTokens" not in sent
        (item,) = sent["value"]
        assert "encryptedContent" not in item
        assert item["resource"] == "communications/callRecords/record-1"
        assert item["changeType"] == "created"
        assert item["subscriptionExpirationDateTime"] == created["expirationDateTime"]

    @pytest.mark.parametrize(
        ("asked", "told"), [("created", ["created"]), ("updated", ["updated", "updated"]), ("created,updated", None)]
    )
    def test_change_types_are_kept_apart(
        self, asked: str, told: list[str] | None, graph: GraphClient, body: Body, sim: Simulator
    ) -> None:
        name = graph.create(body(RECORD, rich=False, changeType=asked), "v1.0").json()["id"]
        kinds = (RECORD, Kind.CALL_RECORD_UPDATED)
        items = [entry.item["changeType"] for kind in kinds for entry in sim.graph.prepare(name, kind)]
        assert items == (told or ["created", "updated"])

    def test_a_basic_legacy_meeting_says_more_outside(
        self, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber
    ) -> None:
        created = graph.create(body(Kind.LEGACY_ROSTER, rich=False)).json()
        sim.graph.notify(created["id"], Kind.LEGACY_ROSTER)
        sim.graph.drain()
        (item,) = subscriber.collections[0]["value"]
        assert item["resourceData"]["eventType"] == "Microsoft.Communication.CallRosterUpdate"

    def test_items_for_one_url_travel_together(
        self, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber
    ) -> None:
        sim.graph.delivery.batch_size = 4
        ids = many(graph, body, 6)
        sim.graph.send([entry for name in ids for entry in sim.graph.prepare(name, Kind.CALL_STARTED)])
        sim.graph.drain()
        assert sorted(len(sent["value"]) for sent in subscriber.collections) == [2, 4]
        assert all(len(sent["validationTokens"]) == 1 for sent in subscriber.collections)

    @pytest.mark.parametrize("copies", [1, 3])
    def test_copies_are_exact(
        self, copies: int, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber
    ) -> None:
        graph.create(body())
        sim.graph.delivery.copies = copies
        sim.graph.notify(body()["resource"], Kind.CALL_STARTED)
        sim.graph.drain()
        assert len(subscriber.collections) == copies
        assert all(sent == subscriber.collections[0] for sent in subscriber.collections)

    def test_order_can_be_lost(self, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber) -> None:
        ids = many(graph, body, 8)
        prepared = [entry for name in ids for entry in sim.graph.prepare(name, Kind.CALL_STARTED)]
        sim.graph.delivery.shuffle = True
        sim.graph.send(prepared)
        sim.graph.drain()
        sent = [item["subscriptionId"] for item in subscriber.collections[0]["value"]]
        assert sorted(sent) == sorted(ids)
        assert sent != ids

    def test_an_own_payload_or_content_can_be_sent(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        name = graph.create(body()).json()["id"]
        content = {"@odata.type": "#microsoft.graph.somethingNew", "id": "1", "answer": 42}
        (mapping,) = sim.graph.prepare(name, content)
        assert mapping.plaintext == content
        assert mapping.item["resourceData"] == {"@odata.type": "#microsoft.graph.somethingNew", "id": "1"}
        (payload,) = sim.graph.prepare(name, build(Kind.EMERGENCY_FLAT))
        assert payload.item["resourceData"]["@odata.type"] == "#microsoft.graph.emergencyCallEvent"

    def test_ids_of_items_can_be_left_out(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        name = graph.create(body()).json()["id"]
        assert "id" in sim.graph.prepare(name, Kind.CALL_STARTED)[0].item
        sim.graph.settings.notification_ids = False
        assert "id" not in sim.graph.prepare(name, Kind.CALL_STARTED)[0].item

    def test_lifecycle_notifications_go_to_their_own_url(
        self, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber
    ) -> None:
        created = graph.create(body(lifecycleNotificationUrl=f"{subscriber.url}/lifecycle")).json()
        sim.graph.notify_lifecycle(created["id"], "reauthorizationRequired")
        sim.graph.notify_lifecycle(created["id"], "somethingNew")
        sim.graph.drain()
        assert {entry.url for entry in sim.graph.deliveries} == {f"{subscriber.url}/lifecycle"}
        items = [sent["value"][0] for sent in subscriber.collections]
        assert {item["lifecycleEvent"] for item in items} == {"reauthorizationRequired", "somethingNew"}
        assert all(
            item.keys()
            == {"subscriptionId", "subscriptionExpirationDateTime", "tenantId", "clientState", "lifecycleEvent"}
            for item in items
        )

    def test_items_can_name_their_certificate_in_capitals(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        created = graph.create(body()).json()
        sim.graph.settings.odd_echoes = True
        (sent,) = sim.graph.prepare(created["id"], Kind.CALL_STARTED)
        named = sent.item["encryptedContent"]["encryptionCertificateId"]
        assert named == created["encryptionCertificateId"].upper() != created["encryptionCertificateId"]

    def test_lifecycle_notifications_can_name_their_resource(
        self, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber
    ) -> None:
        created = graph.create(body(lifecycleNotificationUrl=f"{subscriber.url}/lifecycle")).json()
        sim.graph.settings.lifecycle_names_resource = True
        sim.graph.notify_lifecycle(created["id"], "reauthorizationRequired")
        sim.graph.drain()
        (sent,) = subscriber.collections
        (item,) = sent["value"]
        assert "validationTokens" not in sent
        assert (item["resource"], item["encryptedContent"], "tenantId" in item) == (created["resource"], None, False)

    def test_the_ledger_can_be_struck(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        graph.create(body())
        sim.graph.notify(body()["resource"], Kind.CALL_STARTED)
        sim.graph.drain()
        assert len(sim.graph.deliveries) == 1
        sim.graph.forget_deliveries()
        assert not sim.graph.deliveries
        sim.graph.drain(0)

    def test_nobody_subscribed(self, sim: Simulator) -> None:
        with pytest.raises(LookupError):
            sim.graph.notify("communications/callRecords", RECORD)

    def test_whatever_can_be_posted(self, sim: Simulator, subscriber: Subscriber) -> None:
        attempt = sim.graph.post(subscriber.url, collection([{"a": 1}]), {"Content-Type": "application/json"})
        assert attempt.status == 202
        assert subscriber.collections == [{"value": [{"a": 1}]}]


class TestValidationTokens:
    @pytest.fixture
    def sim(self) -> Iterator[Simulator]:
        tenants = ("f69f5191-20ae-4093-8dae-3ec09edeb253", "909c6581-5130-43e9-88f3-fcb3582cde37")
        with Simulator.start(tenants=tenants) as simulator:
            yield simulator

    def test_there_is_one_for_each_app_and_tenant(
        self, clients: Callable[..., GraphClient], body: Body, sim: Simulator, subscriber: Subscriber
    ) -> None:
        callers = [(sim.app_id, sim.tenants[0]), (sim.app_id, sim.tenants[1]), ("another-app", sim.tenants[0])]
        names = [clients(*caller).create(body()).json()["id"] for caller in callers]
        sim.graph.send([entry for name in [*names, *names] for entry in sim.graph.prepare(name, Kind.CALL_STARTED)])
        sim.graph.drain()
        (sent,) = subscriber.collections
        claims = [jwt.decode(token, options={"verify_signature": False}) for token in sent["validationTokens"]]
        assert [(entry["aud"], entry["tid"]) for entry in claims] == callers
        assert len(sent["value"]) == 6

    @pytest.mark.parametrize(("version", "caller"), [(1, "appid"), (2, "azp")])
    def test_they_come_in_both_versions(
        self, version: Any, caller: str, graph: GraphClient, body: Body, sim: Simulator
    ) -> None:
        sim.entra.validation_token_version = version
        graph.create(body())
        token = sim.entra.validation_token(sim.app_id, sim.tenants[0])
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["ver"] == f"{version}.0"
        assert claims[caller] == "0bf30f3b-4a52-48df-9a82-234910c4a086"

    def test_a_switch_holds_from_the_next_one_on(self, sim: Simulator) -> None:
        fresh = sim.entra.validation_token(sim.app_id, sim.tenants[0])
        assert sim.entra.validation_token(sim.app_id, sim.tenants[0]) == fresh
        sim.entra.validation_token_lifetime = timedelta(hours=-1)
        stale = jwt.decode(sim.entra.validation_token(sim.app_id, sim.tenants[0]), options={"verify_signature": False})
        assert stale["exp"] < sim.clock.now().timestamp()
        rotated = sim.entra.rotate_keys()
        token = sim.entra.validation_token(sim.app_id, sim.tenants[0])
        assert jwt.get_unverified_header(token)["kid"] == rotated.kid

    def test_without_the_assignment_there_are_none(
        self, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber
    ) -> None:
        graph.create(body())
        sim.directory.assignment_required.add(sim.app_id)
        sim.graph.notify(body()["resource"], Kind.CALL_STARTED)
        sim.graph.drain()
        sim.directory.change_tracking_assigned.add(sim.app_id)
        sim.graph.notify(body()["resource"], Kind.CALL_STARTED)
        sim.graph.drain()
        tokens = [sent["validationTokens"] for sent in subscriber.collections]
        assert tokens[0] is None
        assert len(tokens[1]) == 1


class TestRetries:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(START)

    @pytest.fixture
    def sim(self, clock: ManualClock) -> Iterator[Simulator]:
        with Simulator.start(clock=clock) as simulator:
            yield simulator

    def test_waits_double_until_it_is_taken(
        self, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber, clock: ManualClock
    ) -> None:
        graph.create(body())
        subscriber.answer = failing(3)
        sim.graph.notify(body()["resource"], Kind.CALL_STARTED)
        for _ in range(3):
            clock.advance_to_next()
        sim.graph.drain()
        (delivery,) = sim.graph.deliveries
        assert delivery.state == "delivered"
        assert [attempt.status for attempt in delivery.attempts] == [503, 503, 503, 202]
        waited = [(attempt.at - START).total_seconds() for attempt in delivery.attempts]
        assert waited == [0, 10, 30, 70]

    def test_after_four_hours_it_is_given_up(
        self, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber, clock: ManualClock
    ) -> None:
        graph.create(body())
        sim.graph.delivery.time_scale = 0.01
        subscriber.answer = failing(1000)
        sim.graph.notify(body()["resource"], Kind.CALL_STARTED)
        for _ in range(14):
            clock.advance_to_next()
        sim.graph.drain()
        (delivery,) = sim.graph.deliveries
        assert delivery.state == "given up"
        assert len(delivery.attempts) == 15
        # 10, 20, … 1,280 seconds, then half-hours, as long as four hours are not over.
        assert delivery.attempts[-1].at - START == timedelta(seconds=13_350 * 0.01)

    def test_silence_is_retried_too(
        self, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber, clock: ManualClock
    ) -> None:
        graph.create(body())
        sim.graph.delivery.first_timeout = 0.05
        subscriber.hold = 0.5
        sim.graph.notify(body()["resource"], Kind.CALL_STARTED)
        clock.advance_to_next()
        sim.graph.drain()
        (delivery,) = sim.graph.deliveries
        assert [attempt.status for attempt in delivery.attempts] == [None, 202]
        assert delivery.attempts[0].error == "no answer within 0.05 s"
        assert len(subscriber.collections) == 2

    def test_subscriptions_end_on_the_same_clock(
        self, graph: GraphClient, body: Body, sim: Simulator, clock: ManualClock
    ) -> None:
        graph.create(body(minutes=50))
        clock.advance(timedelta(minutes=49))
        assert len(sim.graph.subscriptions) == 1
        clock.advance(timedelta(minutes=1))
        assert not sim.graph.subscriptions
        with pytest.raises(LookupError):
            sim.graph.notify(body()["resource"], Kind.CALL_STARTED)
