"""Too much, too slow, too full: an answer that waits for nobody, and a 202 only for what is kept.

How many seconds an answer takes is measured in `bench`; a busy machine would make it a matter of luck here.
"""

import asyncio
import gc
import time
import tracemalloc
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import azure.functions as func
import pytest

from dev.azurite import ACCOUNT, ACCOUNT_KEY, Azurite
from dev.ports import HOST
from dev.simulator import Fault, Kind, Options, build
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import Recipient
from dev.simulator.tokens import validation_claims
from dev.tcp_proxy import TcpProxy
from shared.notifications import receive
from shared.notifications.receive import Receiver
from shared.storage.ports import Receipt
from shared.values.errors import UnavailableError
from tests.integration.app import App
from tests.unit.test_receive import APP, KEY, PAIR, START, STATE, TENANT, setup

GOOD = Kind.CALL_STARTED
ANSWER_SECONDS = receive._ANSWER_SECONDS  # which the app of the tests does not keep to
SLOW = 60.0
"""Seconds for which storage keeps its answer back."""


async def timed(app: App, posted: bytes) -> tuple[func.HttpResponse, float]:
    started = time.monotonic()
    return await app.post(posted), time.monotonic() - started


def over(monkeypatch: pytest.MonkeyPatch, queue: TcpProxy, blob: TcpProxy) -> None:
    monkeypatch.setenv(
        "AzureWebJobsStorage",
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
        f"QueueEndpoint=http://{HOST}:{queue.port}/{ACCOUNT};BlobEndpoint=http://{HOST}:{blob.port}/{ACCOUNT}",
    )


@pytest.mark.parametrize("participants", [2, 400], ids=["on the queue", "by claim check"])
async def test_storage_that_is_slow(
    app: App, azurite: Azurite, monkeypatch: pytest.MonkeyPatch, participants: int
) -> None:
    posted = app.collection(app.item(build(Kind.ROSTER_JOINED, Options(participants=participants))))
    with TcpProxy.to(azurite.ports.queue) as queue, TcpProxy.to(azurite.ports.blob) as blob:
        over(monkeypatch, queue, blob)
        queue.delay = blob.delay = SLOW
        with monkeypatch.context() as patch:
            patch.setattr(receive, "_ANSWER_SECONDS", ANSWER_SECONDS)
            response, seconds = await timed(app, posted)
        assert (response.status_code, int(response.headers["Retry-After"]) > 0) == (503, True)
        assert seconds < SLOW
        queue.mend()
        blob.mend()
        response, _ = await timed(app, posted)
        assert response.status_code == 202


@pytest.mark.parametrize("code", ["AccountIsDisabled", "ServerBusy", "InsufficientAccountPermissions"])
async def test_storage_that_is_full_or_says_no(app: App, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    async def refuse(*_: Any) -> None:
        raise UnavailableError("queue", reason=f"storage-{code}")

    await app.post(app.collection(tokens=[]))
    monkeypatch.setattr(app.parts.queues, "put", refuse)
    response = await app.post(app.collection(app.item(build(GOOD))))
    assert response.status_code == 503
    assert code not in response.get_body().decode()


async def test_a_claim_check_whose_message_was_not_taken_is_not_left_behind(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was taken and the answer lost, nobody knows: Graph's next delivery takes the claim check over."""

    async def refuse(*_: Any) -> None:
        raise UnavailableError("queue", reason="storage-503")

    await app.post(app.collection(tokens=[]))
    posted = app.collection(app.item(build(Kind.ROSTER_JOINED, Options(participants=400))))
    with monkeypatch.context() as patch:
        patch.setattr(app.parts.queues, "put", refuse)
        assert (await app.post(posted)).status_code == 503
    assert (await app.post(posted)).status_code == 202
    await app.handle()
    assert len(await app.events()) == 1
    assert await app.claims() == {}


async def test_one_queue_of_two_that_takes_nothing_is_no_202(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    await app.post(app.collection(tokens=[]))
    put = app.parts.queues.put

    async def refuse_one(queue: str, *rest: Any) -> None:
        if queue == "raw-emergency":
            raise UnavailableError("queue", reason="storage-503")
        await put(queue, *rest)

    monkeypatch.setattr(app.parts.queues, "put", refuse_one)
    both = app.collection(app.item(build(Kind.EMERGENCY_FLAT)), app.item(build(GOOD)))
    assert (await app.post(both)).status_code == 503


async def test_a_slow_key_vault_does_not_hold_up_receiving(app: App) -> None:
    app.sim.vault.rotate_certificate()
    await app.post(app.collection(app.item(build(GOOD))))
    app.sim.faults.add(Fault("vault", delay=SLOW), times=1)
    decrypting = asyncio.create_task(app.handle())
    async with asyncio.timeout(SLOW):
        while app.sim.faults._planned:  # noqa: ASYNC110 - until the vault has been asked
            await asyncio.sleep(0.01)
    for _ in range(3):
        assert (await app.post(app.collection(app.item(build(GOOD))))).status_code == 202
    assert not decrypting.done()
    decrypting.cancel()
    await asyncio.wait([decrypting])


# --- many at once ---------------------------------------------------------------------------------------------------


@dataclass
class Slow:
    """Queues that take nothing until they are told to, and count."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    items: int = 0

    async def put(self, queue: str, _body: bytes, _encoding: Any, _delay: timedelta) -> Receipt:
        self.asked += 1
        await self.go.wait()
        self.items += 1
        return Receipt(queue, "", "")


def body(items: int) -> bytes:
    to = Addressee(TENANT, STATE, Recipient.of(PAIR, "c/" + "0" * 32))
    token = KEY.sign(validation_claims(app_id=APP, tenant_id=TENANT, now=START))
    return collection([change_notification(build(GOOD), to) for _ in range(items)], [token])


def receiver_over(queues: Slow) -> Receiver:
    receiver, *_ = setup()
    raw_messages = replace(receiver.raw_messages, queues=queues)
    return replace(receiver, raw_messages=raw_messages, max_body_bytes=4 * 1024 * 1024)


async def test_ten_thousand_items_at_once_are_answered_in_time_and_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queues = Slow()
    receiver = receiver_over(queues)
    posted = body(items=40)

    async def storm() -> list[int]:
        return [answer.status for answer in await asyncio.gather(*(receiver.receive(posted, None) for _ in range(250)))]

    async def measured() -> tuple[list[int], int, int]:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        statuses = await storm()
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
        return statuses, after - before, peak - before

    tracemalloc.start()
    try:
        first, _, _ = await measured()
        assert set(first) == {503}
        assert queues.items == 0
        queues.go.set()
        monkeypatch.setattr(receive, "_ANSWER_SECONDS", SLOW)
        statuses, left, peak = await measured()
        assert set(statuses) <= {202, 503}
        assert 202 in statuses
    finally:
        tracemalloc.stop()
    assert queues.items >= statuses.count(202)
    assert peak < 400 * 1024 * 1024
    assert left < 1024 * 1024
    assert receiver.in_flight.total == 0


async def test_what_is_under_way_is_bounded_and_one_large_body_always_gets_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receive, "_ANSWER_SECONDS", SLOW)
    queues = Slow()
    receiver = receiver_over(queues)
    large = b'{"x":"' + b"x" * (4 * 1024 * 1024 - 8192) + b'",' + body(items=1).removeprefix(b"{")
    waiting = [asyncio.create_task(receiver.receive(large, None)) for _ in range(12)]
    while queues.asked + sum(task.done() for task in waiting) < len(waiting):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    done, pending = await asyncio.wait(waiting, timeout=0)
    assert [task.result().status for task in done] == [503] * 4
    assert all(task.result().headers["Retry-After"] for task in done)
    queues.go.set()
    assert {task.result().status for task in (await asyncio.wait(pending))[0]} == {202}
    assert (await receiver.receive(large, None)).status == 202
