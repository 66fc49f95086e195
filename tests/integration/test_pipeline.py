"""From a POST to events on queues, over the real SDKs."""

import json
from typing import Literal

import pytest

from dev.simulator import Kind, Options, Spelling, build
from tests.expected_events import EXPECTED
from tests.integration.app import App


async def test_one_post_with_every_kind_becomes_one_event_each(app: App) -> None:
    payloads = {kind: build(kind, Options(spelling=Spelling.PLAIN)) for kind in Kind}
    response = await app.post(app.collection(*(app.item(payload) for payload in payloads.values())))
    assert (response.status_code, response.get_body()) == (202, b"")
    await app.handle()

    for queue in sorted({queue for queue, _ in EXPECTED.values()}):
        expected = sorted(
            (f"Microsoft.Graph.{name}", json.dumps(payloads[kind].content or payloads[kind].resource_data))
            for kind, (where, name) in EXPECTED.items()
            if where == queue
        )
        found = sorted((event.type, json.dumps(json.loads(bytes(event.data)))) for event in await app.on(queue))
        assert found == expected
    assert await app.raw() == {}
    assert await app.quarantined() == []


async def test_a_thousand_items_share_messages(app: App) -> None:
    items = [app.item(build(Kind.CALL_RECORD_CREATED)) for _ in range(1000)]
    assert (await app.post(app.collection(*items, tokens=[]))).status_code == 202
    messages = (await app.raw())["raw-notifications"]
    assert sum(len(message["notifications"]) for message in messages) == 1000
    assert len(messages) < 20


async def test_a_roster_of_400_travels_by_claim_check_and_arrives_whole(app: App) -> None:
    payload = build(Kind.ROSTER_JOINED, Options(participants=400))
    await app.post(app.collection(app.item(payload), app.item(build(Kind.MEETING_STARTED))))
    assert len(await app.claims()) == 1
    await app.handle()
    large, small = sorted(await app.on("meeting-events"), key=lambda event: event.dataref is None)
    assert small.typed()
    assert large.dataref is not None
    (data,) = (await app.data()).values()
    assert json.loads(data) == payload.content
    assert len(large.typed(data).participants_delta) == 400
    assert await app.claims() == {}


async def test_a_redelivery_has_the_same_id(app: App) -> None:
    body = app.collection(app.item(build(Kind.CALL_STARTED)))
    await app.post(body)
    await app.post(body)
    await app.handle()
    first, second = await app.on("call-events")
    assert first.key == second.key


async def test_a_retry_of_a_basic_notification_has_the_same_id_and_another_delivery_another(app: App) -> None:
    body = app.collection(app.item(build(Kind.CALL_RECORD_CREATED)), tokens=[])
    await app.post(body)
    (message,) = (await app.raw())["raw-notifications"]
    await app.handle()
    await app.queues.get_queue_client("raw-notifications").send_message(json.dumps(message))
    await app.handle(attempts=2)
    await app.post(body)
    await app.handle()
    first, again, other = await app.on("call-record-events")
    assert first.key == again.key != other.key


@pytest.mark.parametrize("form", ["pkcs12", "pem"])
async def test_a_rotation_needs_no_state(app: App, form: Literal["pkcs12", "pem"]) -> None:
    before = app.item(build(Kind.CALL_STARTED))
    app.sim.vault.rotate_certificate(form=form)
    after = app.item(build(Kind.CALL_ENDED))
    assert before["encryptedContent"]["encryptionCertificateId"] != after["encryptedContent"]["encryptionCertificateId"]
    await app.post(app.collection(before, after))
    await app.handle()
    assert sorted(event.type for event in await app.on("call-events")) == [
        "Microsoft.Graph.CallEnded",
        "Microsoft.Graph.CallStarted",
    ]


async def test_a_certificate_is_fetched_once(app: App) -> None:
    for _ in range(3):
        await app.post(app.collection(*(app.item(build(Kind.CALL_STARTED)) for _ in range(5))))
        await app.handle()
    version = app.sim.vault.certificate().version
    fetched = [record for record in app.sim.faults.requests if version in record.path and record.status == 200]
    assert len(fetched) == 1
