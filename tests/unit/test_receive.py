"""What receiving remembers between POSTs, and what it must not."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev.simulation.keys import SigningKeysModel, published
from dev.simulation.storage_model import StorageModel
from dev.simulator import Kind, build
from dev.simulator.collection import Addressee, change_notification, collection, lifecycle_notification
from dev.simulator.crypto import Recipient
from dev.simulator.tokens import validation_claims
from shared.notifications.collection import ClientStates
from shared.notifications.paced_log import PacedLog
from shared.notifications.receive import Receiver
from shared.notifications.tokens import PUBLIC_CLOUD, Claims
from shared.storage.ports import Receipt
from shared.values.envelope import parse_envelope
from shared.values.items import parse_item
from shared.values.resources import LIFECYCLE_QUEUE, RAW_QUEUE
from tests.keys import PAIR
from tests.keys import SIGNING_KEY as KEY

OTHER_TENANT = "909c6581-5130-43e9-88f3-fcb3582cde37"
TENANT = "f69f5191-20ae-4093-8dae-3ec09edeb253"
APP = "7f4f3c3a-6a1e-4d0e-9a53-0d4f7a3c9b11"
STATE = "a-client-state"
START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@dataclass
class Clock:
    now: datetime = START

    def __call__(self) -> datetime:
        return self.now


def receiver_of(storage: StorageModel, keys: SigningKeysModel, now: Callable[[], datetime], **parts: Any) -> Receiver:
    return Receiver(
        signing_keys=keys,
        client_states=ClientStates((STATE,)),
        app_ids={APP},
        tenant_ids={TENANT},
        issuers=PUBLIC_CLOUD,
        max_body_bytes=10**6,
        now=now,
        log=PacedLog(logging.getLogger("shared.notifications.receive"), now),
        **{"raw_messages": storage.raw_messages, **parts},
    )


def setup() -> tuple[Receiver, SigningKeysModel, StorageModel, Clock]:
    keys, storage, clock = SigningKeysModel(), StorageModel(), Clock()
    return receiver_of(storage, keys, clock), keys, storage, clock


def body(lifetime: timedelta = timedelta(hours=24)) -> bytes:
    to = Addressee(TENANT, STATE, Recipient.of(PAIR, "c/" + "0" * 32))
    token = KEY.sign(validation_claims(app_id=APP, tenant_id=TENANT, now=START, lifetime=lifetime))
    return collection([change_notification(build(Kind.CALL_STARTED), to)], [token])


async def test_a_token_is_verified_once() -> None:
    receiver, keys, storage, _ = setup()
    post = body()
    for _ in range(3):
        assert (await receiver.receive(post, None)).status == 202
    assert (keys.asked, len(storage.messages[RAW_QUEUE])) == (1, 3)


async def test_a_verified_token_still_expires() -> None:
    receiver, _, storage, clock = setup()
    post = body(lifetime=timedelta(minutes=30))
    await receiver.receive(post, None)
    clock.now += timedelta(minutes=36)
    assert (await receiver.receive(post, None)).status == 202
    assert len(storage.messages[RAW_QUEUE]) == 1


async def test_a_withdrawn_key_is_noticed_within_the_hour() -> None:
    receiver, keys, storage, clock = setup()
    post = body()
    await receiver.receive(post, None)
    keys.known = {}
    clock.now += timedelta(minutes=59)
    await receiver.receive(post, None)
    assert len(storage.messages[RAW_QUEUE]) == 2
    clock.now += timedelta(minutes=2)
    await receiver.receive(post, None)
    assert len(storage.messages[RAW_QUEUE]) == 2


async def test_a_refused_token_is_not_remembered_as_good() -> None:
    receiver, keys, storage, _ = setup()
    keys.known = {}
    post = body()
    for _ in range(2):
        await receiver.receive(post, None)
    assert (keys.asked, storage.messages[RAW_QUEUE]) == (2, [])
    keys.known = published()
    await receiver.receive(post, None)
    assert len(storage.messages[RAW_QUEUE]) == 1


async def test_what_is_remembered_has_a_bound() -> None:
    verified = setup()[0].verified
    for number in range(1100):
        verified.add(f"token-{number}", _claims(), START)
    remembered = [number for number in range(1100) if verified.tenant(f"token-{number}", START) is not None]
    assert len(remembered) <= 1000
    assert remembered[-1] == 1099


def _claims() -> Any:
    return Claims(TENANT, APP, START + timedelta(hours=1))


# --- what strangers send beside it ----------------------------------------------------------------------------------


@dataclass
class Slow:
    """A queue that takes what is put after some turns of the event loop."""

    turns: int

    async def put(self, queue: str, _body: bytes, _encoding: Any, _delay: timedelta) -> Receipt:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        return Receipt(queue, "", "")


async def test_of_ten_senders_one_body_is_looked_at_for_each_turn_of_the_others() -> None:
    """Otherwise an authentic POST would wait for ten of them at each of its steps."""
    receiver, _, storage, _ = setup()
    receiver = replace(receiver, raw_messages=replace(storage.raw_messages, queues=Slow(turns=20)))
    looked_at = 0

    async def sender() -> None:
        nonlocal looked_at
        while True:
            assert (await receiver.receive(b'{"value":[{"clientState":"theirs"}]}', None)).status == 202
            looked_at += 1
            await asyncio.sleep(0)

    senders = [asyncio.create_task(sender()) for _ in range(10)]
    while looked_at < 30:  # noqa: ASYNC110 - they have to be at it
        await asyncio.sleep(0)
    before = looked_at
    answer = await receiver.receive(body(), None)
    seen = looked_at - before
    for task in senders:
        task.cancel()
    assert answer.status == 202
    assert seen <= 10 + 2 * 20


async def test_bodies_that_nobody_vouches_for_leave_the_room_to_others() -> None:
    receiver, _, storage, _ = setup()
    receiver = replace(receiver, max_body_bytes=4 * 1024 * 1024)
    foreign = b'{"value":[{"clientState":"theirs","a":"' + b"x" * (4 * 1024 * 1024 - 100) + b'"}]}'
    posts = [foreign] * 12 + [body()]
    answers = await asyncio.gather(*(receiver.receive(post, None) for post in posts))
    assert [answer.status for answer in answers] == [202] * 13
    assert len(storage.messages[RAW_QUEUE]) == 1


async def test_too_many_tokens_are_no_reason_to_leave_an_item_out() -> None:
    receiver, keys, storage, _ = setup()
    post = json.loads(body())
    post["validationTokens"] = [f"{number}.b.c" for number in range(200)] + post["validationTokens"]
    answer = await receiver.receive(json.dumps(post).encode(), None)
    assert (answer.status, storage.messages[RAW_QUEUE], keys.asked) == (503, [], 0)
    assert int(answer.headers["Retry-After"]) > 0
    # Whoever does not know the secret learns nothing of it.
    post["value"][0]["clientState"] = "theirs"
    assert (await receiver.receive(json.dumps(post).encode(), None)).status == 202


async def test_only_tokens_of_a_tenant_that_is_wanted_are_verified() -> None:
    receiver, keys, storage, _ = setup()
    post = json.loads(body())
    foreign = [
        KEY.sign(validation_claims(app_id=APP, tenant_id=OTHER_TENANT, now=START) | {"uti": str(number)})
        for number in range(3)
    ]
    post["validationTokens"] += foreign
    assert (await receiver.receive(json.dumps(post).encode(), None)).status == 202
    assert len(storage.messages[RAW_QUEUE]) == 1
    assert all(receiver.verified.tenant(token, START) is None for token in foreign)
    post["validationTokens"] = [*foreign, "x", "a.b.c"]
    keys.asked = 0
    assert (await receiver.receive(json.dumps(post).encode(), None)).status == 202
    assert (len(storage.messages[RAW_QUEUE]), keys.asked) == (1, 0)


async def test_an_item_of_ours_that_cannot_be_read_is_kept_for_quarantine_with_its_neighbours() -> None:
    receiver, _, storage, _ = setup()
    odd = f'{{"clientState":"{STATE}","resourceData":{{"a":1e999}}}}'
    good = body()[len(b'{"value":[') :].decode()
    assert (await receiver.receive(f'{{"value":[{odd},{good}'.encode(), None)).status == 202
    (message,) = storage.messages[RAW_QUEUE]
    assert odd in message.body
    assert len(parse_envelope(message.body).notifications) == 2


# --- unusual, and Graph's all the same ------------------------------------------------------------------------------


def rewritten(post: bytes, **changes: Any) -> bytes:
    """A POST with fields of its first item changed, or left out by `...`."""
    found = json.loads(post)
    item = found["value"][0] | changes
    found["value"][0] = {name: value for name, value in item.items() if value is not ...}
    return json.dumps(found).encode()


@pytest.mark.parametrize("missing", [..., None, "", 7])
async def test_an_item_that_names_no_tenant_is_of_the_one_that_is_served(missing: Any) -> None:
    receiver, _, storage, _ = setup()
    lifecycle = {"changeType": ..., "lifecycleEvent": "missed", "encryptedContent": ...}
    for changes in ({}, {"encryptedContent": ..., "resource": "communications/callRecords/1"}, lifecycle):
        post = rewritten(body(), tenantId=missing, organizationId=..., **changes)
        assert (await receiver.receive(post, None)).status == 202
    raws = [parse_envelope(message.body).notifications for found in storage.messages.values() for message in found]
    assert [parse_item(bytes(raw)).notification.tenant for (raw,) in raws] == [TENANT] * 3


async def test_where_several_tenants_are_served_none_is_filled_in() -> None:
    receiver, _, storage, _ = setup()
    receiver = replace(receiver, tenant_ids={TENANT, OTHER_TENANT})
    assert (await receiver.receive(rewritten(body(), tenantId=..., organizationId=...), None)).status == 202
    assert storage.messages[RAW_QUEUE] == []


async def test_a_lifecycle_notification_needs_no_token_though_it_names_what_is_always_rich() -> None:
    receiver, _, storage, _ = setup()
    emergency = build(Kind.EMERGENCY_FLAT).resource
    item = lifecycle_notification("reauthorizationRequired", Addressee(TENANT, STATE), resource=emergency)
    change = change_notification(build(Kind.CALL_STARTED), Addressee(TENANT, STATE, Recipient.of(PAIR, "c/1")))
    assert (await receiver.receive(collection([change, item], ["no.token.ofours"]), None)).status == 202
    assert {queue: len(found) for queue, found in storage.messages.items() if found} == {LIFECYCLE_QUEUE: 1}


async def test_half_a_surrogate_in_an_outer_field_costs_nobody_anything() -> None:
    receiver, _, storage, _ = setup()
    odd = {"resource": "communications/callRecords/1", "x": "Kim \ud83d", "y": "\\ud83d \ude00", "z": "\ud83d\ude00"}
    post = rewritten(body(), **odd, encryptedContent=...)
    post = post.replace(b'"value": [', b'"value": [' + json.dumps(json.loads(body())["value"][0]).encode() + b",")
    assert b"Kim \\ud83d" in post
    assert (await receiver.receive(post, None)).status == 202
    (message,) = storage.messages[RAW_QUEUE]
    _, raw = parse_envelope(message.body).notifications
    assert json.loads(bytes(raw)) | {"x": "Kim \ufffd", "y": "\\ud83d \ufffd", "z": "\U0001f600"} == json.loads(
        bytes(raw)
    )


# --- what is logged of it -------------------------------------------------------------------------------------------


async def test_however_much_is_refused_a_reason_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    receiver, _, _, clock = setup()
    foreign = json.dumps(
        {
            "value": [{"subscriptionId": f"s{number}", "clientState": "theirs"} for number in range(9)]
            + [{"subscriptionId": "a\nforged line", "clientState": "theirs"}, 7]
        }
    ).encode()
    post = json.loads(body())
    post["validationTokens"] = [f"{number}.b.c" for number in range(190)]
    for _ in range(20):
        assert (await receiver.receive(foreign, None)).status == 202
        assert (await receiver.receive(json.dumps(post).encode(), None)).status == 202
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4
    assert "notifications refused: reason=client-state count=10 subscriptions=s0,s1,s2,s3,s4" in lines
    clock.now += timedelta(seconds=61)
    await receiver.receive(foreign, None)
    assert "notifications refused: reason=client-state count=200 subscriptions=s0,s1,s2,s3,s4" in caplog.text
    assert "forged" not in caplog.text
