"""Bad input has one exact outcome each, and never harms what is next to it."""

import asyncio
import base64
import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import azure.functions as func
import pytest
from azure.core.exceptions import ResourceExistsError

from dev.simulator import Fault, Kind, Options, build
from dev.simulator.crypto import Recipient, encrypt
from dev.simulator.tokens import Forgery, forge
from shared import triggers
from shared.app import App as Parts
from shared.notifications import receive
from tests.integration.app import CLIENT_STATE, PREVIOUS_CLIENT_STATE, App, Message
from tests.integration.conftest import OTHER_TENANT
from tests.keys import OTHER_PAIR

GOOD = Kind.CALL_STARTED
ANSWER_SECONDS = receive._ANSWER_SECONDS  # which the app of the tests does not keep to
PLAIN = '{"hello": "put on raw-notifications as it is, without base64"}'


async def outcome(app: App, body: bytes, **headers: str) -> tuple[int, int]:
    """The status, and how many items went onto raw queues."""
    response = await app.post(body, headers)
    return response.status_code, queued(await app.raw())


def queued(raw: dict[str, list[dict[str, Any]]]) -> int:
    return sum(len(message.get("notifications", "1")) for messages in raw.values() for message in messages)


# --- bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "empty"),
        (b"hello", "not JSON"),
        (b"[]", "collection"),
        (b'{"value":{}}', "collection"),
        (b'{"values":[]}', "collection"),
        (b'{"value":[],"validationTokens":"x"}', "collection"),
        (b"\xff\xfe{\x00}\x00", "UTF-8"),
        (b'{"value":' + b"[" * 10_000, "not JSON"),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_what_is_no_collection(app: App, body: bytes, word: str) -> None:
    response = await app.post(body, {"Content-Length": str(len(body))})
    assert response.status_code == 400
    assert word in response.get_body().decode()
    assert await app.raw() == {}


@pytest.mark.parametrize("headers", [{}, {"Transfer-Encoding": "chunked"}, {"Content-Length": "4711"}])
async def test_a_body_that_the_host_has_not_handed_over(
    app: App, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    response = await app.post(b"", headers)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "reason=no-body" in caplog.text


async def test_five_mebibytes(app: App) -> None:
    body = b'{"value":[' + b" " * (5 * 1024 * 1024) + b"]}"
    assert await outcome(app, body) == (413, 0)


@pytest.mark.parametrize("inside", [b"[" * 4_000_000, b"1," * 2_000_000 + b"1", b"1," * 100 + b"1"])
async def test_more_elements_than_graph_sends(app: App, inside: bytes) -> None:
    assert await outcome(app, b'{"value":[' + inside + b"]}") == (413, 0)


async def test_exactly_the_largest_body(app: App) -> None:
    body = b'{"value":[],"x":"' + b"x" * (4 * 1024 * 1024 - 19) + b'"}'
    assert len(body) == 4 * 1024 * 1024
    assert await outcome(app, body) == (202, 0)
    assert await outcome(app, body + b" ") == (413, 0)


async def test_no_items(app: App) -> None:
    assert await outcome(app, b'{"value":[]}') == (202, 0)


async def test_a_thousand_items(app: App) -> None:
    items = [app.item(build(Kind.CALL_RECORD_UPDATED)) for _ in range(1000)]
    assert await outcome(app, app.collection(*items, tokens=[])) == (202, 1000)


async def test_items_that_are_no_objects(app: App) -> None:
    good = json.dumps(app.item(build(Kind.CALL_RECORD_CREATED)))
    assert await outcome(app, f'{{"value":[1,null,"x",[],{good}]}}'.encode()) == (202, 1)


# --- the handshake --------------------------------------------------------------------------------------------------


def request(method: str = "POST", body: bytes = b"", **params: str) -> func.HttpRequest:
    return func.HttpRequest(method=method, url="http://localhost/api/notifications", params=params, body=body)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_handshake(method: str) -> None:
    token = "Validation: Testing client application reachability for subscription Request-Id: 7c5f & ä+%41"
    response = await triggers.receive(Parts(), request(method, validationToken=token))
    assert (response.status_code, response.get_body().decode(), response.mimetype) == (200, token, "text/plain")
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("token", "status"), [("x" * 2048, 200), ("x" * 2049, 400), ("a<b", 400), ("a>b", 400), ("", 400)]
)
async def test_a_token_that_is_none_of_graphs(token: str, status: int) -> None:
    response = await triggers.receive(Parts(), request(validationToken=token))
    assert response.status_code == status
    if status == 400:
        assert "<" not in response.get_body().decode()


async def test_the_handshake_needs_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLIENT_STATE", "AzureWebJobsStorage", "KEY_VAULT_URL"):
        monkeypatch.delenv(name, raising=False)
    assert (await triggers.receive(Parts(), request(validationToken="x"))).status_code == 200


async def test_a_get_that_is_no_handshake(app: App) -> None:
    assert (await triggers.receive(app.parts, request("GET"))).status_code == 400


async def test_settings_that_are_missing(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CLIENT_STATE")
    response = await app.post(b'{"value":[]}')
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "CLIENT_STATE" in caplog.text
    assert "CLIENT_STATE" not in response.get_body().decode()


# --- who sent it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.CALL_RECORD_CREATED, GOOD])
async def test_client_state(app: App, kind: Kind) -> None:
    states: tuple[object, ...] = (..., None, "", "wrong", 7, [CLIENT_STATE])
    bad = [app.item(build(kind), clientState=state) for state in states]
    good = app.item(build(GOOD))
    assert await outcome(app, app.collection(*bad, good)) == (202, 1)
    (message,) = (await app.raw())["raw-notifications"]
    assert message["notifications"] == [good]


async def test_the_previous_client_state_is_accepted_while_it_is_rotated(app: App) -> None:
    assert await outcome(app, app.collection(app.item(build(GOOD), clientState=PREVIOUS_CLIENT_STATE))) == (202, 1)


@pytest.mark.parametrize("tokens", [[], ["x"], ["a.b.c"]])
async def test_a_rich_item_without_a_token(app: App, tokens: list[str]) -> None:
    basic = app.item(build(Kind.CALL_RECORD_CREATED))
    assert await outcome(app, app.collection(app.item(build(GOOD)), basic, tokens=tokens)) == (202, 1)


async def test_no_property_for_tokens_at_all(app: App) -> None:
    assert await outcome(app, json.dumps({"value": [app.item(build(GOOD))]}).encode()) == (202, 0)


async def test_a_rich_only_resource_without_content_is_no_way_around_the_tokens(app: App) -> None:
    item = app.item(build(Kind.EMERGENCY_FLAT), encryptedContent=...)
    assert await outcome(app, app.collection(item, tokens=[])) == (202, 0)


async def test_a_token_of_another_tenant(app: App) -> None:
    items = [app.item(build(GOOD)), app.item(build(GOOD), tenantId=OTHER_TENANT)]
    assert await outcome(app, app.collection(*items, tokens=[app.token(OTHER_TENANT)])) == (202, 1)
    (messages,) = (await app.raw()).values()
    assert messages[0]["notifications"][0]["tenantId"] == OTHER_TENANT


async def test_tokens_for_both_tenants(app: App) -> None:
    items = [app.item(build(GOOD)), app.item(build(GOOD), tenantId=OTHER_TENANT)]
    assert await outcome(app, app.collection(*items, tokens=[app.token(), app.token(OTHER_TENANT)])) == (202, 2)


async def test_the_organization_stands_in_for_the_tenant(app: App) -> None:
    item = app.item(build(GOOD), tenantId=..., organizationId=app.sim.tenants[0])
    other = app.item(build(GOOD), tenantId=..., organizationId=OTHER_TENANT)
    assert await outcome(app, app.collection(item, other)) == (202, 1)


async def test_an_item_without_any_tenant(app: App) -> None:
    assert await outcome(app, app.collection(app.item(build(GOOD), tenantId=..., organizationId=...))) == (202, 0)


async def test_one_bad_token_among_good_ones(app: App) -> None:
    items = [app.item(build(GOOD)), app.item(build(GOOD), tenantId=OTHER_TENANT)]
    bad = app.token(OTHER_TENANT, aud="00000000-0000-0000-0000-000000000000")
    assert await outcome(app, app.collection(*items, tokens=[bad, app.token()])) == (202, 1)


async def test_a_forged_token(app: App) -> None:
    key, tenant = app.sim.entra.signing_key, app.sim.tenants[0]
    for forgery in set(Forgery) - {Forgery.UNKNOWN_KID}:
        token = forge(forgery, key, app_id=app.sim.app_id, tenant_id=tenant, now=app.sim.clock.now())
        found = await outcome(app, app.collection(app.item(build(GOOD)), tokens=[token]))
        assert found == (202, 0), forgery


async def test_a_token_of_an_unknown_key_is_refused_once_the_keys_are_fresh_and_never_sooner(app: App) -> None:
    unknown = forge(
        Forgery.UNKNOWN_KID,
        app.sim.entra.signing_key,
        app_id=app.sim.app_id,
        tenant_id=app.sim.tenants[0],
        now=app.sim.clock.now(),
    )
    body = app.collection(app.item(build(GOOD)), tokens=[unknown])
    assert await outcome(app, body) == (202, 0)
    # The keys may be asked for again in a minute: until then nobody can say that this is not a new one.
    response = await app.post(body)
    assert response.status_code == 503
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    # What good tokens cover is not held up by it.
    assert await outcome(app, app.collection(app.item(build(GOOD)), tokens=[unknown, app.token()])) == (202, 1)


async def test_a_new_signing_key_is_found(app: App) -> None:
    assert await outcome(app, app.collection(tokens=[])) == (202, 0)
    app.sim.entra.rotate_keys()
    assert await outcome(app, app.collection(app.item(build(GOOD)))) == (202, 1)


# --- what could not be checked, or not be kept --------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault("login", status=503), Fault("login", hang_up="before")])
async def test_signing_keys_that_cannot_be_had(app: App, fault: Fault) -> None:
    app.sim.faults.add(fault, times=None)
    response = await app.post(app.collection(app.item(build(GOOD))))
    assert (response.status_code, queued(await app.raw())) == (503, 0)
    assert int(response.headers["Retry-After"]) > 0
    # Nobody needs the keys for what carries no tokens, or a wrong client state.
    assert await outcome(app, app.collection(app.item(build(Kind.CALL_RECORD_CREATED)), tokens=[])) == (202, 1)
    assert (await app.post(app.collection(app.item(build(GOOD), clientState="x")))).status_code == 202


async def test_signing_keys_that_take_too_long(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "_ANSWER_SECONDS", ANSWER_SECONDS)
    app.sim.faults.add(Fault("login", delay=60), times=None)
    started = asyncio.get_running_loop().time()
    response = await app.post(app.collection(app.item(build(GOOD))))
    assert response.status_code == 503
    assert asyncio.get_running_loop().time() - started < 60


async def test_storage_that_is_away(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AzureWebJobsStorage",
        "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=YQ==;"
        "QueueEndpoint=http://127.0.0.1:1/a;BlobEndpoint=http://127.0.0.1:1/a",
    )
    response = await app.post(app.collection(app.item(build(GOOD))))
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0


# --- what is in it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", ["chats/1/messages/2", "communications/rooms/1"])
async def test_an_unknown_resource_is_delivered(app: App, resource: str) -> None:
    item = app.item(build(GOOD), resource=resource, resourceData={"@odata.type": "#microsoft.graph.chatMessage"})
    await app.post(app.collection(item))
    await app.handle()
    (event,) = await app.on("unrecognized-events")
    assert event.type == "Microsoft.Graph.Unrecognized"
    assert event.subject == resource


async def test_an_item_that_claims_to_be_both_goes_both_ways(app: App) -> None:
    await app.post(app.collection(app.item(build(GOOD), lifecycleEvent="missed")))
    raw = await app.raw()
    assert sorted(raw) == ["lifecycle-notifications", "raw-notifications"]


def with_content(app: App, **changes: Any) -> dict[str, Any]:
    item = app.item(build(GOOD))
    content = item["encryptedContent"] | changes
    return item | {"encryptedContent": {name: value for name, value in content.items() if value is not ...}}


def for_another_key(app: App) -> dict[str, Any]:
    content = app.item(build(GOOD))["encryptedContent"]
    wrong = encrypt(b"{}", Recipient.of(OTHER_PAIR, content["encryptionCertificateId"]))
    return app.item(build(GOOD), encryptedContent=wrong)


def not_json(app: App) -> dict[str, Any]:
    current = app.sim.vault.certificate()
    assert current.certificate is not None
    content = encrypt(b"not json", Recipient.of(current.certificate, f"switchboard/{current.version}"))
    return app.item(build(GOOD), encryptedContent=content)


def flipped(text: str) -> str:
    return ("B" if text[0] == "A" else "A") + text[1:]


UNKNOWN_VERSION = "0123456789abcdef" * 2
BAD = {
    "data-key-for-another-key": (for_another_key, "data-key-not-for-this-certificate"),
    "plaintext-not-json": (not_json, "plaintext-not-json"),
    "signature-flipped": (
        lambda app: with_content(app, dataSignature=base64.b64encode(b"x" * 32).decode()),
        "data-signature-mismatch",
    ),
    "data-flipped": (
        lambda app: with_content(app, data=flipped(app.item(build(GOOD))["encryptedContent"]["data"])),
        "data-signature-mismatch",
    ),
    "data-not-base64": (lambda app: with_content(app, data="no base64!"), "encrypted-content-malformed"),
    "data-missing": (lambda app: with_content(app, data=...), "encrypted-content-malformed"),
    "data-no-string": (lambda app: with_content(app, data=7), "encrypted-content-malformed"),
    "data-key-missing": (lambda app: with_content(app, dataKey=...), "encrypted-content-malformed"),
    "content-no-object": (lambda app: app.item(build(GOOD), encryptedContent="x"), "encrypted-content-malformed"),
    "certificate-unknown-version": (
        lambda app: with_content(app, encryptionCertificateId=f"switchboard/{UNKNOWN_VERSION}"),
        "unknown-certificate",
    ),
    "certificate-of-another-name": (
        lambda app: with_content(app, encryptionCertificateId=f"other/{UNKNOWN_VERSION}"),
        "unknown-certificate",
    ),
    "certificate-of-another-name-with-our-version": (
        lambda app: with_content(app, encryptionCertificateId=f"other/{app.sim.vault.certificate().version}"),
        "unknown-certificate",
    ),
    "certificate-walks-a-path": (
        lambda app: with_content(app, encryptionCertificateId="switchboard/../other"),
        "unknown-certificate",
    ),
    "certificate-of-no-version": (
        lambda app: with_content(app, encryptionCertificateId="switchboard/"),
        "unknown-certificate",
    ),
    "certificate-with-a-query": (
        lambda app: with_content(app, encryptionCertificateId=f"switchboard/{UNKNOWN_VERSION}?x"),
        "unknown-certificate",
    ),
    "certificate-missing": (lambda app: with_content(app, encryptionCertificateId=...), "unknown-certificate"),
    "certificate-no-string": (lambda app: with_content(app, encryptionCertificateId=7), "unknown-certificate"),
}


async def test_a_permanent_failure_is_quarantined_at_once_and_its_neighbours_are_delivered(app: App) -> None:
    bad = [make(app) for make, _ in BAD.values()]
    await app.post(app.collection(app.item(build(GOOD)), *bad, app.item(build(Kind.CALL_ENDED))))
    await app.handle()
    assert sorted(event.type for event in await app.on("call-events")) == [
        "Microsoft.Graph.CallEnded",
        "Microsoft.Graph.CallStarted",
    ]
    parked = sorted(await app.quarantined(), key=lambda entry: int(entry["envelope"]["first"]))
    assert [entry["reason"] for entry in parked] == [reason for _, reason in BAD.values()]
    assert {(entry["queue"], entry["attempts"]) for entry in parked} == {("raw-notifications", 1)}
    assert [entry["envelope"]["notifications"] for entry in parked] == [[item] for item in bad]
    assert [entry["envelope"]["first"] for entry in parked] == list(range(1, len(bad) + 1))
    assert await app.raw() == {}


async def test_only_the_configured_certificate_is_ever_fetched(app: App) -> None:
    app.sim.vault.set_secret("other", "hush")
    for name in BAD:
        await app.post(app.collection(BAD[name][0](app)))
    await app.handle()
    asked = {record.path.partition("?")[0] for record in app.sim.faults.requests if record.service == "vault"}
    assert asked
    assert all(path.startswith("/secrets/switchboard/") for path in asked)


@pytest.mark.parametrize("status", [403, 503])
async def test_key_vault_away_is_worth_another_try_of_those_that_need_it_alone(app: App, status: int) -> None:
    app.sim.vault.rotate_certificate()
    items = [app.item(build(kind)) for kind in (GOOD, Kind.CALL_RECORD_CREATED, GOOD, Kind.CALL_ENDED)]
    await app.post(app.collection(*items))
    app.sim.faults.add(Fault("vault", status=status), times=None)
    await app.handle()
    assert [event.type for event in await app.events()] == ["Microsoft.Graph.CallRecordCreated"]
    assert await app.quarantined() == []
    app.sim.faults.clear()
    messages = (await _eventually_raw(app, 2))["raw-notifications"]
    found = [(found.get("first", 0), len(found["notifications"]), found["attempts"]) for found in messages]
    assert sorted(found) == [(0, 1, 1), (2, 2, 1)]
    for message in messages:
        await triggers.decrypt(app.parts, Message(json.dumps(message), 1), "raw-notifications")
    assert sorted(event.type for event in await app.on("call-events")) == [
        "Microsoft.Graph.CallEnded",
        "Microsoft.Graph.CallStarted",
        "Microsoft.Graph.CallStarted",
    ]


async def _eventually_raw(app: App, count: int) -> dict[str, list[dict[str, Any]]]:
    async with asyncio.timeout(90):
        while sum(map(len, (found := await app.raw()).values())) < count:  # noqa: ASYNC110 - another process makes it visible
            await asyncio.sleep(0.2)
    return found


@pytest.mark.parametrize("text", ["", "x", "{}", '{"v":2}', "[]"])
async def test_a_raw_message_that_is_none_is_parked_as_it_is(app: App, text: str) -> None:
    await triggers.decrypt(app.parts, Message(text, 1), "raw-notifications")
    (parked,) = await app.quarantined()
    assert (parked["reason"], parked["text"]) == ("raw-message-malformed", text)


async def test_a_claim_check_without_its_blob(app: App) -> None:
    await app.post(app.collection(app.item(build(Kind.ROSTER_JOINED, Options(participants=400)))))
    ((message,),) = (await app.raw()).values()
    await app.blobs.get_container_client("raw-claims").delete_blob(message["claim"])
    # On a later try it means that an earlier one has done all there was to do.
    await triggers.decrypt(app.parts, Message(json.dumps(message), 2), "raw-notifications")
    assert await app.quarantined() == []
    await triggers.decrypt(app.parts, Message(json.dumps(message), 1), "raw-notifications")
    (parked,) = await app.quarantined()
    assert parked["reason"] == "claim-missing"


async def drained(app: App, text: str) -> None:
    """What the host has given up, and the drain."""
    client = app.queues.get_queue_client("raw-notifications-poison")
    with contextlib.suppress(ResourceExistsError):
        await client.create_queue()
    await client.send_message(text)
    await triggers.drain_poison(app.parts)
    assert (await client.get_queue_properties()).approximate_message_count == 0


def encoded(message: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps(message).encode()).decode()


async def test_poison_is_put_back_until_it_has_failed_for_long_and_then_parked(app: App) -> None:
    await app.post(app.collection(app.item(build(GOOD)), app.item(build(GOOD))))
    ((message,),) = (await app.raw()).values()
    long_ago = (datetime.now(UTC) - timedelta(minutes=99)).isoformat()
    for since in ({}, {"failing_since": long_ago}):
        await app.queues.get_queue_client("raw-notifications").clear_messages()
        await drained(app, encoded(message | since))
        properties = await app.queues.get_queue_client("raw-notifications").get_queue_properties()
        assert properties.approximate_message_count == 1
        assert await app.quarantined() == []
    longer_ago = (datetime.now(UTC) - timedelta(minutes=101)).isoformat()
    old = message | {"attempts": 60, "failing_since": longer_ago}
    await drained(app, encoded(old))
    parked = await app.quarantined()
    assert [(found["reason"], found["queue"], found["attempts"]) for found in parked] == [
        ("retries-exhausted", "raw-notifications", 65)
    ] * 2
    assert len(message["notifications"]) == 2
    assert all(item in [found["envelope"]["notifications"][0] for found in parked] for item in message["notifications"])


async def test_text_that_is_no_base64_is_parked_as_it_lies(app: App) -> None:
    await drained(app, PLAIN)
    (parked,) = await app.quarantined()
    assert (parked["reason"], parked["text"], parked["unreadable"]) == ("message-unreadable", PLAIN, True)


async def test_poison_queues_that_are_not_there_hold_nothing(app: App) -> None:
    await triggers.drain_poison(app.parts)
    assert (await app.quarantined(), await app.raw()) == ([], {})
