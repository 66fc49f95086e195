"""A notification's whole way in CPU, HTTP body in to event put: the real SDKs, and storage that is not ours."""

import asyncio
import math
import os
import ssl
import statistics
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from unittest.mock import patch

import aiohttp
from azure.identity.aio import DefaultAzureCredential
from azure.storage.queue.aio import QueueClient
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from bench.figures import APP, CERTIFICATE_ID, STATE, TENANT, raw_messages_over, receiver_of, rsa_operation
from bench.measure import Finding, Ratio, cpu_seconds, of_pairs
from bench.storage_stub import connection_string, stub
from dev.simulator import Kind, Options, Simulator, build
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import KeyCertificate, Recipient
from dev.simulator.tokens import SigningKey, validation_claims
from shared.notifications.decrypt import Decryptor
from shared.notifications.event_writer import EventWriter
from shared.settings import StorageSettings
from shared.storage.account import StorageAccount
from shared.storage.blobs import AzureBlobs
from shared.storage.ports import Receipt
from shared.storage.queues import AzureQueues
from shared.values.message_text import Encoding

ITEMS = 40
POSTS = 10

type Form = Literal["single", "batch"]
type Connect = Callable[[], StorageAccount]


def pipeline(*, quick: bool) -> Iterator[Ratio]:
    """An event's put against the SDK's own, and the whole pipeline in RSA operations, in both formats.

    As in production, with the managed identity's tokens over TLS; and as with an account key over plain HTTP.
    """
    rounds = 5 if quick else 21
    with production() as connect:
        yield from _figures(connect, "", rounds, ("<= 250 µs", "<= 2.5", "<= 1.4"))
    with stub() as url:
        yield from _figures(lambda: _with_account_key(url), ", account key and no TLS", rounds, ("", "", ""))


def _figures(connect: Connect, how: str, rounds: int, targets: tuple[str, str, str]) -> Iterator[Ratio]:
    yield asyncio.run(_put(connect, f"CPU of an event's put{how}, over the SDK's send_message", rounds, targets[0]))
    for form, target in (("single", targets[1]), ("batch", targets[2])):
        name = f"pipeline per rich notification, {ITEMS} to a POST, {form} events{how}, in RSA operations"
        yield asyncio.run(_whole(connect, "single" if form == "single" else "batch", name, rounds, target))


def _with_account_key(url: str) -> StorageAccount:
    return StorageAccount(StorageSettings(connection_string(url), None, None, None))


@contextmanager
def production() -> Iterator[Connect]:
    """Storage that takes bearer tokens over TLS, and an identity endpoint that gives them."""
    with (
        Simulator.start() as sim,
        patch.dict(os.environ, sim.environment()),
        stub(sim.server_certificate) as url,
    ):
        trust = ssl.create_default_context(cafile=sim.ca_bundle)

        def connect() -> StorageAccount:
            account = StorageAccount(StorageSettings(None, url, url, None))
            # In a worker the environment names the authority before anything is imported; here it is too late for that.
            account.transport.session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trust), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )
            return account

        yield connect


async def close(account: StorageAccount) -> None:
    """Close an account's connections, and its identity's."""
    await account.queues.close()
    if isinstance(account.queues.credential, DefaultAzureCredential):
        await account.queues.credential.close()


async def _put(connect: Connect, name: str, rounds: int, target: str) -> Ratio:
    account = connect()
    queues, client = AzureQueues(account), account.queues.get_queue_client("call-events")
    body = b'{"x":"%b"}' % (b"x" * 2000)

    async def cpu(work: Any, *arguments: object) -> float:
        started = time.process_time()
        for _ in range(20):
            await asyncio.gather(*(work(*arguments) for _ in range(ITEMS)))
        return (time.process_time() - started) / 20 / ITEMS

    pairs = [
        (await cpu(queues.put, "call-events", body, "base64"), await cpu(_sdk_put, client, body))
        for _ in range(rounds + 1)
    ]
    await close(account)
    return of_pairs(name, pairs[1:], target=target)


async def _sdk_put(client: QueueClient, body: bytes) -> None:
    await client.send_message(b64encode(body).decode(), time_to_live=-1)


class _Tee(AzureQueues):
    """Real queues that also keep what was put."""

    def __init__(self, account: StorageAccount) -> None:
        super().__init__(account)
        self.bodies: list[bytes] = []

    async def put(self, queue: str, body: bytes, encoding: Encoding, delay: timedelta = timedelta(0)) -> Receipt:
        self.bodies.append(body)
        return await super().put(queue, body, encoding, delay)


class _Keys:
    def __init__(self, key: RSAPrivateKey) -> None:
        self._key = key

    async def private_key(self, certificate_id: str) -> RSAPrivateKey:
        assert certificate_id == CERTIFICATE_ID
        return self._key


class Pipeline:
    """Receiver and decryptor over one storage account, and a POST of so many rich items for them."""

    def __init__(self, account: StorageAccount, form: Form, items: int = ITEMS) -> None:
        self.pair, signing = KeyCertificate.generate(), SigningKey.generate()
        self._account = account
        self.raw, self.events, blobs = _Tee(self._account), _Tee(self._account), AzureBlobs(self._account)
        raw_messages = raw_messages_over(self.raw, blobs)
        self._receiver = receiver_of(raw_messages, signing)
        self._decryptor = Decryptor(
            raw_messages=raw_messages,
            writer=EventWriter(self.events, blobs, "base64", form == "batch"),
            private_keys=_Keys(self.pair.private_key),
        )
        to = Addressee(TENANT, STATE, Recipient.of(self.pair, CERTIFICATE_ID))
        token = signing.sign(validation_claims(app_id=APP, tenant_id=TENANT, now=datetime.now(UTC)))
        self._items = items
        self._body = collection(
            [change_notification(build(Kind.CALL_STARTED, Options()), to) for _ in range(items)], [token]
        )

    async def post(self) -> None:
        """One POST, all the way."""
        self.raw.bodies.clear()
        self.events.bodies.clear()
        answer = await self._receiver.receive(self._body, None)
        assert answer.status == 202, answer
        # At once, as the Functions host calls for the messages that it takes together.
        await asyncio.gather(
            *(self._decryptor.handle(body.decode(), queue="raw-notifications", attempts=1) for body in self.raw.bodies)
        )

    async def cpu_seconds(self, posts: int) -> float:
        """The CPU of a notification, over so many POSTs."""
        started = time.process_time()
        for _ in range(posts):
            await self.post()
        return (time.process_time() - started) / posts / self._items

    async def close(self) -> None:
        """Close what it holds open."""
        await close(self._account)


async def _whole(connect: Connect, form: Form, name: str, rounds: int, target: str) -> Ratio:
    pipeline = Pipeline(connect(), form)
    operation = rsa_operation(pipeline.pair.private_key)
    pairs = [(await pipeline.cpu_seconds(POSTS), cpu_seconds(operation, 300)) for _ in range(rounds + 1)]
    await pipeline.close()
    return of_pairs(name, pairs[1:], target=target)


def operations(raw: int, events: int) -> int:
    """Storage operations for so many raw messages and events: a put and a delete, gets of up to 16, a put."""
    return 2 * raw + math.ceil(raw / 16) + events


def storage_operations() -> Iterator[Finding]:
    """What the storage account is asked for each notification."""
    with stub() as url:
        for form, aim in (("single", "1.2"), ("batch", "0.15")):
            raw, events = asyncio.run(_count(url, "single" if form == "single" else "batch"))
            share = f"{operations(raw, events) / ITEMS:.3f} (aim {aim})"
            yield Finding(
                f"storage operations per notification, {form} events",
                f"{share}: {raw} raw puts and deletes, 1 get, {events} event puts to {ITEMS}",
            )


async def _count(url: str, form: Form) -> tuple[int, int]:
    """Raw messages and messages of events, of the median of some POSTs: whether two share one is a matter of time."""
    pipeline = Pipeline(_with_account_key(url), form)
    counts = []
    for _ in range(POSTS):
        await pipeline.post()
        counts.append((len(pipeline.raw.bodies), len(pipeline.events.bodies)))
    await pipeline.close()
    return statistics.median_low(counts)
