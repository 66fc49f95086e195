"""A notification's whole way in CPU, HTTP body in to event put: the real SDKs, and storage that is not ours."""

import asyncio
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from azure.storage.queue.aio import QueueClient
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from bench.figures import APP, CERTIFICATE_ID, STATE, TENANT, FixedKeys, rsa_operation
from bench.measure import Ratio, compare, cpu_seconds
from bench.storage_stub import stub
from dev.simulator import Kind, Options, build
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import KeyCertificate, Recipient
from dev.simulator.tokens import SigningKey, validation_claims
from shared.adapters.blobs import Blobs
from shared.adapters.queues import Queues
from shared.adapters.storage import StorageAccount
from shared.domain.queue_text import Encoding
from shared.domain.validation_tokens import PUBLIC_CLOUD
from shared.services.decrypt import Decryptor
from shared.services.quarantine import Quarantine
from shared.services.raw_messages import RawMessages
from shared.services.receive import Receiver
from shared.settings import StorageSettings

ITEMS = 40


def pipeline(*, quick: bool) -> Iterator[Ratio]:
    """An event's put against the SDK's own, and the whole pipeline in RSA operations, both formats."""
    rounds = 5 if quick else 11
    with stub() as connection:
        yield asyncio.run(_put(connection, rounds))
        yield asyncio.run(_whole(connection, rounds, "single", "<= 2.5"))
        yield asyncio.run(_whole(connection, rounds, "batch", "<= 1.4"))


async def _put(connection: str, rounds: int) -> Ratio:
    account = StorageAccount(StorageSettings(connection, None, None, None))
    queues, client = Queues(account), account.queues.get_queue_client("call-events")
    body = b'{"x":"%b"}' % (b"x" * 2000)
    ours = await _alternate(
        rounds, lambda: queues.put("call-events", body, "base64"), lambda: _sdk_put(client, body), count=300
    )
    await account.queues.close()
    return compare_pairs("CPU of an event's put, over the SDK's send_message", ours, "<= 250 µs")


async def _sdk_put(client: QueueClient, body: bytes) -> None:
    await client.send_message(b64encode(body).decode(), time_to_live=-1)


async def _alternate(rounds: int, ours: Any, reference: Any, *, count: int) -> list[tuple[float, float]]:
    async def cpu(work: Any) -> float:
        started = time.process_time()
        await asyncio.gather(*(work() for _ in range(count)))
        return (time.process_time() - started) / count

    return [(await cpu(ours), await cpu(reference)) for _ in range(rounds + 1)][1:]


def compare_pairs(name: str, pairs: list[tuple[float, float]], target: str) -> Ratio:
    """A figure of pairs that were measured in turn already."""
    turn = iter(pairs[:1] + pairs)
    current: list[tuple[float, float]] = []

    def first() -> float:
        current.append(next(turn))
        return current[-1][0]

    return compare(name, first, lambda: current[-1][1], rounds=len(pairs), target=target)


class _Tee(Queues):
    """Real queues that also keep what was put."""

    def __init__(self, account: StorageAccount) -> None:
        super().__init__(account)
        self.bodies: list[bytes] = []

    async def put(self, queue: str, body: bytes, encoding: Encoding, delay: timedelta = timedelta(0)) -> None:
        self.bodies.append(body)
        await super().put(queue, body, encoding, delay)


class _Keys:
    def __init__(self, key: RSAPrivateKey) -> None:
        self._key = key

    async def private_key(self, certificate_id: str) -> RSAPrivateKey:
        assert certificate_id == CERTIFICATE_ID
        return self._key


async def _whole(connection: str, rounds: int, form: Literal["single", "batch"], target: str) -> Ratio:
    pair, signing = KeyCertificate.generate(), SigningKey.generate()
    account = StorageAccount(StorageSettings(connection, None, None, None))
    raw, queues, blobs = _Tee(account), Queues(account), Blobs(account)
    receiver = Receiver(
        queues=raw,
        blobs=blobs,
        signing_keys=FixedKeys({signing.kid: signing.private_key.public_key()}),
        client_states=(STATE,),
        app_ids={APP},
        tenant_ids={TENANT},
        issuers=PUBLIC_CLOUD,
        max_body_bytes=4 * 1024 * 1024,
        now=lambda: datetime.now(UTC),
    )
    quarantine = Quarantine(blobs, lambda: datetime.now(UTC))
    decryptor = Decryptor(
        raw_messages=RawMessages(blobs, raw, quarantine, lambda: datetime.now(UTC)),
        queues=queues,
        blobs=blobs,
        private_keys=_Keys(pair.private_key),
        encoding="base64",
        batched=form == "batch",
    )
    to = Addressee(TENANT, STATE, Recipient.of(pair, CERTIFICATE_ID))
    token = signing.sign(validation_claims(app_id=APP, tenant_id=TENANT, now=datetime.now(UTC)))
    items = [change_notification(build(Kind.CALL_STARTED, Options()), to) for _ in range(ITEMS)]
    body = collection(items, [token])

    async def one_post() -> None:
        raw.bodies.clear()
        answer = await receiver.receive(body, None)
        assert answer.status == 202, answer
        await asyncio.gather(
            *(decryptor.handle(text.decode(), queue="raw-notifications", attempts=1) for text in list(raw.bodies))
        )

    operation = rsa_operation(pair.private_key)
    pairs = []
    for _ in range(rounds + 1):
        started = time.process_time()
        for _ in range(10):
            await one_post()
        pairs.append(((time.process_time() - started) / 10 / ITEMS, cpu_seconds(operation, 300)))
    await account.queues.close()
    return compare_pairs(
        f"pipeline per rich notification, {ITEMS} to a POST, {form} events, in RSA operations", pairs[1:], target
    )
