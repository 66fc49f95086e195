from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import requests
from aiohttp import web

from dev.simulator import Fault, Kind, Simulator
from dev.simulator.clock import parse_time
from dev.simulator.crypto import KeyCertificate
from tests.integration.simulator.conftest import Body, GraphClient
from tests.integration.simulator.subscriber import Subscriber

MEETING, EMERGENCY, RECORD, PRESENCE = (
    Kind.MEETING_STARTED,
    Kind.EMERGENCY_NESTED,
    Kind.CALL_RECORD_CREATED,
    Kind.PRESENCE,
)
Clients = Callable[..., GraphClient]


def message(answer: requests.Response) -> str:
    return str(answer.json()["error"]["message"])


class TestCreate:
    def test_the_entity_is_returned(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        sent = body()
        answer = graph.create(sent)
        assert answer.status_code == 201
        entity = answer.json()
        assert entity.items() >= {k: v for k, v in sent.items() if k != "expirationDateTime"}.items()
        assert parse_time(entity["expirationDateTime"]) == parse_time(sent["expirationDateTime"])
        assert entity["applicationId"] == sim.app_id
        assert entity["latestSupportedTlsVersion"] == "v1_2"

    @pytest.mark.parametrize("name", ["changeType", "notificationUrl", "resource", "expirationDateTime"])
    def test_required_fields_are_required(self, name: str, graph: GraphClient, body: Body) -> None:
        answer = graph.create(body(**{name: None}))
        assert answer.status_code == 400
        assert name in message(answer)

    @pytest.mark.parametrize(
        ("kind", "version", "fields"),
        [
            (Kind.CALL_STARTED, "beta", {"changeType": "created"}),
            (Kind.CALL_STARTED, "beta", {"resource": "users/x/messages"}),
            (Kind.CALL_STARTED, "v1.0", {}),
            (Kind.CALL_STARTED, "beta", {"includeResourceData": False}),
            (EMERGENCY, "beta", {"includeResourceData": None}),
            (RECORD, "v1.0", {}),  # rich, as the fixture makes them
            (MEETING, "v1.0", {}),
            (MEETING, "beta", {"resource": "communications/onlineMeetings(joinWebUrl='x')/meetingCallEvents"}),
            (Kind.CALL_STARTED, "beta", {"encryptionCertificate": None}),
            (Kind.CALL_STARTED, "beta", {"encryptionCertificateId": None}),
            (Kind.CALL_STARTED, "beta", {"encryptionCertificateId": "x" * 129}),
            (Kind.CALL_STARTED, "beta", {"encryptionCertificate": "c3NoLXJzYQ=="}),
            (Kind.CALL_STARTED, "beta", {"clientState": "x" * 129}),
            (Kind.CALL_STARTED, "beta", {"notificationUrl": "http://example.com/api"}),
            (Kind.CALL_STARTED, "beta", {"expirationDateTime": "tomorrow"}),
            (Kind.CALL_STARTED, "beta", {"expirationDateTime": "2020-01-01T00:00:00Z"}),
        ],
    )
    def test_what_graph_refuses(
        self, kind: Kind, version: str, fields: dict[str, Any], graph: GraphClient, body: Body
    ) -> None:
        assert graph.create(body(kind, **fields), version).status_code == 400
        assert graph("GET", "/beta/subscriptions").json()["value"] == []

    @pytest.mark.parametrize(
        ("kind", "minutes"),
        [
            (RECORD, 4230),
            (Kind.CALL_STARTED, 1440),
            (MEETING, 4230),
            (EMERGENCY, 1440),
            (Kind.ONLINE_MEETING_UPDATED, 4230),
        ],
    )
    def test_lifetimes_end_where_they_are_documented(
        self, kind: Kind, minutes: int, graph: GraphClient, body: Body
    ) -> None:
        rich = kind is not RECORD
        over = graph.create(body(kind, minutes=minutes + 1, rich=rich))
        assert over.status_code == 400
        assert over.json()["error"]["code"] == "ExtensionError"
        assert message(over) == f"Subscription expiration can only be {minutes} minutes in the future."
        assert graph.create(body(kind, minutes=minutes - 0.1, rich=rich)).status_code == 201

    def test_the_enforced_lifetime_can_be_shorter(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        sim.graph.settings.lifetime_margin = timedelta(minutes=10)
        assert graph.create(body(minutes=1435)).status_code == 400

    def test_too_short_a_lifetime_is_raised(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        granted = parse_time(graph.create(body(minutes=5)).json()["expirationDateTime"])
        assert timedelta(minutes=44) < granted - sim.clock.now() <= timedelta(minutes=45)

    def test_over_an_hour_a_lifecycle_url_is_demanded(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        without: dict[str, Any] = {"lifecycleNotificationUrl": None}
        refused = graph.create(body(minutes=90, **without))
        assert refused.status_code == 400
        assert "lifecycleNotificationUrl is required" in message(refused)
        assert graph.create(body(minutes=59, **without)).status_code == 201
        assert graph.create(body(MEETING, minutes=90, **without)).status_code == 201
        sim.graph.settings.lifecycle_url_everywhere = True
        assert graph.create(body(EMERGENCY, minutes=90, **without)).status_code == 400

    def test_permissions_are_checked(self, graph: GraphClient, clients: Clients, body: Body, sim: Simulator) -> None:
        assert graph.create(body(PRESENCE, minutes=59)).status_code == 403
        assert clients(user=True).create(body(PRESENCE, minutes=59)).status_code == 201
        sim.entra.roles = ("CallRecords.Read.All",)
        assert clients().create(body()).status_code == 403

    def test_no_more_than_650_presences(self, clients: Clients, body: Body) -> None:
        many = "communications/presences?$filter=id in (" + ",".join(f"'{n}'" for n in range(651)) + ")"
        assert clients(user=True).create(body(PRESENCE, minutes=59, resource=many)).status_code == 400
        fewer = many.replace(",'650'", "")
        assert clients(user=True).create(body(PRESENCE, minutes=59, resource=fewer)).status_code == 201


class TestAuthorization:
    @pytest.mark.parametrize("header", ["", "Bearer ", "Bearer abc", "Basic abc"])
    def test_no_token_no_answer(self, header: str, graph: GraphClient) -> None:
        graph.headers = {"Authorization": header}
        assert graph("GET", "/v1.0/subscriptions").status_code == 401

    def test_a_token_for_the_vault_is_none_for_graph(self, graph: GraphClient, sim: Simulator) -> None:
        token, _ = sim.entra.app_token(audience="https://vault.azure.net", client_id="c", tenant_id=sim.tenants[0])
        graph.headers = {"Authorization": f"Bearer {token}"}
        assert graph("GET", "/v1.0/subscriptions").status_code == 401

    def test_a_token_that_has_expired_is_none(self, clients: Clients, sim: Simulator) -> None:
        sim.entra.access_token_lifetime = timedelta(seconds=-1)
        assert clients()("GET", "/v1.0/subscriptions").status_code == 401

    def test_the_app_sees_its_own_only(self, graph: GraphClient, clients: Clients, body: Body) -> None:
        mine = graph.create(body()).json()["id"]
        other = clients("another-app")
        assert other("GET", "/beta/subscriptions").json()["value"] == []
        assert other("GET", f"/beta/subscriptions/{mine}").status_code == 404
        assert other("DELETE", f"/beta/subscriptions/{mine}").status_code == 404


class TestHandshake:
    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (lambda _: web.Response(status=403), "403"),
            (lambda _: web.Response(status=200, text="other"), "exactly match"),
            (lambda r: web.Response(text=r.query["validationToken"] + "\n"), "exactly match"),
            (lambda r: web.Response(text=r.raw_path.partition("=")[2]), "exactly match"),
            (lambda r: web.Response(text=r.query["validationToken"], content_type="text/html"), "text/plain"),
        ],
    )
    def test_a_wrong_answer_makes_no_subscription(
        self,
        answer: Callable[[web.Request], web.Response],
        words: str,
        graph: GraphClient,
        body: Body,
        subscriber: Subscriber,
    ) -> None:
        subscriber.answer = answer
        refused = graph.create(body())
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "ValidationError"
        assert words in message(refused)
        assert graph("GET", "/beta/subscriptions").json()["value"] == []

    def test_a_late_answer_is_none(
        self, graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber
    ) -> None:
        sim.graph.delivery.handshake_timeout = 0.05
        subscriber.hold = 5
        assert "timed out" in message(graph.create(body()))

    def test_nobody_there(self, graph: GraphClient, body: Body) -> None:
        assert graph.create(body(notificationUrl="http://127.0.0.1:1/api")).status_code == 400

    def test_each_url_is_asked_even_if_both_are_the_same(
        self, graph: GraphClient, body: Body, subscriber: Subscriber
    ) -> None:
        graph.create(body())
        assert len(subscriber.handshakes) == 2
        assert {entry.content_type for entry in subscriber.handshakes} == {"text/plain; charset=utf-8"}
        assert {entry.body for entry in subscriber.handshakes} == {b""}

    def test_the_query_of_the_url_is_kept(self, graph: GraphClient, body: Body, subscriber: Subscriber) -> None:
        graph.create(body(notificationUrl=f"{subscriber.url}?code=a%2Bb"))
        assert "?code=a%2Bb&validationToken=Validation%3A%20" in subscriber.handshakes[0].path_qs


class TestDuplicatesAndQuotas:
    def test_the_same_again_is_a_conflict_that_names_the_first(self, graph: GraphClient, body: Body) -> None:
        first = graph.create(body()).json()["id"]
        second = graph.create(body(resource=body()["resource"].upper().strip("/")))
        assert second.status_code == 409
        assert message(second) == f"Subscription Id {first} already exists for the requested combination"

    def test_a_different_change_type_is_no_duplicate(self, graph: GraphClient, body: Body) -> None:
        answers = [
            graph.create(body(RECORD, rich=False, changeType=change), "v1.0").status_code
            for change in ("created", "updated", "created,updated", "updated,created")
        ]
        assert answers == [201, 201, 201, 409]

    def test_a_meeting_is_watched_once(self, graph: GraphClient, body: Body) -> None:
        assert [graph.create(body(MEETING)).status_code for _ in range(2)] == [201, 409]

    def test_a_user_has_one_presence_subscription(self, clients: Clients, body: Body) -> None:
        graph = clients(user=True)
        resources = ("communications/presences/a", "communications/presences/b")
        answers = [graph.create(body(PRESENCE, minutes=59, resource=name)).status_code for name in resources]
        assert answers == [201, 409]

    def test_duplicates_can_be_allowed(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        sim.graph.settings.duplicates = "allow"
        assert [graph.create(body()).status_code for _ in range(2)] == [201, 201]

    def test_a_quota_is_used_up_and_freed(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        sim.graph.settings.quotas["teams"] = 1
        first = graph.create(body()).json()["id"]
        refused = graph.create(body(MEETING))
        assert refused.status_code == 403
        assert "limit of 1" in message(refused)
        graph("DELETE", f"/beta/subscriptions/{first}")
        assert graph.create(body(MEETING)).status_code == 201

    @pytest.mark.parametrize("made", ["Transcripts", "Recordings"])
    def test_ten_applications_may_watch_what_is_made_in_a_users_meetings(
        self, made: str, clients: Clients, body: Body
    ) -> None:
        """Graph, "Change notifications overview": 1 per app and user, and 10 per user."""
        user, whole = f"users/11111111/onlineMeetings/getAll{made}", f"communications/onlineMeetings/getAll{made}"
        apps = [clients(app_id=f"app-{number}") for number in range(11)]
        of_user = body(Kind.TRANSCRIPT, changeType="created", resource=user)
        first, *others = [graph.create(of_user, "v1.0") for graph in apps[:10]]
        assert {answer.status_code for answer in (first, *others)} == {201}
        for graph, limit in ((apps[0], 1), (apps[10], 10)):
            refused = graph.create(of_user | {"resource": f"/{user.upper()}"}, "v1.0")
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "ExtensionError")
            assert f"has reached its limit of '{limit}'" in message(refused)
        assert apps[10].create(of_user | {"resource": user.replace("1111", "2222")}, "v1.0").status_code == 201
        assert [graph.create(of_user | {"resource": whole}, "v1.0").status_code for graph in apps] == [201] * 11
        apps[0]("DELETE", f"/v1.0/subscriptions/{first.json()['id']}")
        assert apps[10].create(of_user, "v1.0").status_code == 201


class TestReadAndChange:
    def test_get_and_delete(self, graph: GraphClient, body: Body) -> None:
        path = f"/beta/subscriptions/{graph.create(body()).json()['id']}"
        assert graph("GET", path).json()["clientState"] == "a secret"
        deleted = graph("DELETE", path)
        assert (deleted.status_code, deleted.content) == (204, b"")
        assert graph("GET", path).status_code == graph("DELETE", path).status_code == 404
        assert graph("PATCH", path, json={"expirationDateTime": "2099-01-01T00:00:00Z"}).status_code == 404

    @pytest.mark.parametrize("empty_first", [False, True])
    def test_lists_come_in_pages_without_the_secret(
        self, empty_first: bool, graph: GraphClient, body: Body, sim: Simulator
    ) -> None:
        sim.graph.settings.page_size = 2
        sim.graph.settings.empty_page_first = empty_first
        made = [graph.create(body(resource=f"users/{n}/communications/callEvents")).json()["id"] for n in range(5)]
        pages: list[list[dict[str, Any]]] = []
        url: str | None = "/beta/subscriptions"
        while url:
            page = graph("GET", url).json()
            pages.append(page["value"])
            url = page.get("@odata.nextLink")
        assert [len(page) for page in pages] == [0, 2, 2, 1] if empty_first else [2, 2, 1]
        assert [entry["id"] for page in pages for entry in page] == made
        assert {entry["clientState"] for page in pages for entry in page} == {None}

    def test_versions_can_be_listed_apart(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        graph.create(body())
        assert len(graph("GET", "/v1.0/subscriptions").json()["value"]) == 1
        sim.graph.settings.separate_versions = True
        assert graph("GET", "/v1.0/subscriptions").json()["value"] == []

    def test_patch_renews_within_the_same_limits(self, graph: GraphClient, body: Body) -> None:
        path = f"/beta/subscriptions/{graph.create(body(minutes=50)).json()['id']}"
        later = body(minutes=1400)["expirationDateTime"]
        renewed = graph("PATCH", path, json={"expirationDateTime": later})
        assert (renewed.status_code, renewed.json()["expirationDateTime"]) == (200, later)
        too_late = body(minutes=1500)["expirationDateTime"]
        assert graph("PATCH", path, json={"expirationDateTime": too_late}).status_code == 400
        assert graph("PATCH", path, json={"clientState": "new"}).status_code == 400

    @pytest.mark.parametrize("switch", ["honour", "ignore"])
    def test_patch_may_or_may_not_take_a_certificate(
        self, switch: Any, graph: GraphClient, body: Body, sim: Simulator
    ) -> None:
        sim.graph.settings.certificate_patch = switch
        created = graph.create(body()).json()
        path, other = f"/beta/subscriptions/{created['id']}", KeyCertificate.generate()
        change = {
            "expirationDateTime": created["expirationDateTime"],
            "encryptionCertificate": other.der_base64,
            "encryptionCertificateId": "switchboard/2",
        }
        answer = graph("PATCH", path, json=change).json()
        assert answer["encryptionCertificateId"] == ("switchboard/2" if switch == "honour" else "switchboard/1")
        (notification,) = sim.graph.prepare(created["id"], Kind.CALL_STARTED)
        thumbprint = notification.item["encryptedContent"]["encryptionCertificateThumbprint"]
        recipient = sim.graph.subscriptions[0].recipient
        assert recipient is not None
        assert thumbprint == recipient.thumbprint
        half = {name: value for name, value in change.items() if name != "encryptionCertificateId"}
        assert graph("PATCH", path, json=half).status_code == 400

    def test_reauthorize_changes_nothing(self, graph: GraphClient, body: Body) -> None:
        created = graph.create(body()).json()
        path = f"/beta/subscriptions/{created['id']}"
        answer = graph("POST", f"{path}/reauthorize")
        assert (answer.status_code, answer.content) == (204, b"")
        assert graph("GET", path).json()["expirationDateTime"] == created["expirationDateTime"]
        assert graph("POST", "/beta/subscriptions/none/reauthorize").status_code == 404


class TestFaults:
    def test_an_error_comes_before_the_work(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        sim.faults.add(Fault("graph", "POST", "subscriptions", status=503, retry_after=7))
        answer = graph.create(body())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
        assert sim.graph.subscriptions == ()
        assert graph.create(body()).status_code == 201

    def test_an_answer_can_be_lost_after_the_work(self, graph: GraphClient, body: Body, sim: Simulator) -> None:
        sim.faults.add(Fault("graph", "POST", hang_up="after"))
        with pytest.raises(requests.ConnectionError):
            graph.create(body())
        assert len(sim.graph.subscriptions) == 1
        assert graph.create(body()).status_code == 409

    def test_the_record_tells_what_was_answered(self, graph: GraphClient, sim: Simulator) -> None:
        sim.faults.forget_requests()
        graph("GET", "/v1.0/subscriptions")
        graph("GET", "/v1.0/subscriptions/none")
        assert [(entry.method, entry.path, entry.status) for entry in sim.faults.requests] == [
            ("GET", "/v1.0/subscriptions", 200),
            ("GET", "/v1.0/subscriptions/none", 404),
        ]
