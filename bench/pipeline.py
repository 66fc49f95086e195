"""A notification's whole way in CPU, HTTP body in to event put: the real SDKs, and storage that is not ours."""

import asyncio
import math
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from azure.storage.queue.aio import QueueClient
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from bench.figures import APP, CERTIFICATE_ID, STATE, TENANT, FixedKeys, rsa_operation
from bench.measure import Finding, Ratio, compare, cpu_seconds
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


class _Pipeline:
    """Receiver and decryptor over one storage account, and a POST of rich items for them."""

    def __init__(self, connection: str, form: Literal["single", "batch"]) -> None:
        self.pair, signing = KeyCertificate.generate(), SigningKey.generate()
        self._account = StorageAccount(StorageSettings(connection, None, None, None))
        self.raw, self.events, blobs = _Tee(self._account), _Tee(self._account), Blobs(self._account)
        self._receiver = Receiver(
            queues=self.raw,
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
        self._decryptor = Decryptor(
            raw_messages=RawMessages(blobs, self.raw, quarantine, lambda: datetime.now(UTC)),
            queues=self.events,
            blobs=blobs,
            private_keys=_Keys(self.pair.private_key),
            encoding="base64",
            batched=form == "batch",
        )
        to = Addressee(TENANT, STATE, Recipient.of(self.pair, CERTIFICATE_ID))
        token = signing.sign(validation_claims(app_id=APP, tenant_id=TENANT, now=datetime.now(UTC)))
        items = [change_notification(build(Kind.CALL_STARTED, Options()), to) for _ in range(ITEMS)]
        self._body = collection(items, [token])

    async def post(self) -> None:
        """One POST, all the way."""
        self.raw.bodies.clear()
        self.events.bodies.clear()
        answer = await self._receiver.receive(self._body, None)
        assert answer.status == 202, answer
        # One after the other: the RSA operation that this is held against has a core to itself as well.
        for body in list(self.raw.bodies):
            await self._decryptor.handle(body.decode(), queue="raw-notifications", attempts=1)

    async def close(self) -> None:
        await self._account.queues.close()


async def _whole(connection: str, rounds: int, form: Literal["single", "batch"], target: str) -> Ratio:
    pipeline = _Pipeline(connection, form)
    operation = rsa_operation(pipeline.pair.private_key)
    pairs = []
    for _ in range(rounds + 1):
        started = time.process_time()
        for _ in range(10):
            await pipeline.post()
        pairs.append(((time.process_time() - started) / 10 / ITEMS, cpu_seconds(operation, 300)))
    await pipeline.close()
    return compare_pairs(
        f"pipeline per rich notification, {ITEMS} to a POST, {form} events, in RSA operations", pairs[1:], target
    )


def storage_operations() -> Iterator[Finding]:
    """What the storage account is asked for each notification; the host gets up to 16 raw messages at a time."""
    with stub() as connection:
        for form, aim in (("single", "1.2"), ("batch", "0.15")):
            raw, events = asyncio.run(_count(connection, "single" if form == "single" else "batch"))
            total = (2 * raw + math.ceil(raw / 16) + events) / ITEMS
            yield Finding(
                f"storage operations per notification, {form} events",
                f"{total:.3f} (aim {aim}): {raw} raw puts and deletes, 1 get, {events} event puts to {ITEMS}",
            )


async def _count(connection: str, form: Literal["single", "batch"]) -> tuple[int, int]:
    pipeline = _Pipeline(connection, form)
    await pipeline.post()
    await pipeline.close()
    return len(pipeline.raw.bodies), len(pipeline.events.bodies)
