"""A notification's whole way in CPU, HTTP body in to event put, on a worker's loop; the storage is not ours."""

import asyncio
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Literal
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from bench.clients import bare_put, cpu_of
from bench.figures import APP, CERTIFICATE_ID, STATE, TENANT, raw_messages_over, receiver_of, rsa_operation
from bench.loops import run_in_worker
from bench.measure import Finding, Ratio, cpu_seconds, of_pairs
from bench.storage_stub import connection_string, stub
from dev.simulator import Kind, Options, Simulator, build
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import KeyCertificate, Recipient
from dev.simulator.tokens import SigningKey, validation_claims
from shared.http_client import HttpClient
from shared.notifications.decrypt import Decryptor
from shared.notifications.event_writer import EventWriter
from shared.settings import IdentityEndpoint, StorageSettings
from shared.storage.account import StorageAccount
from shared.storage.blobs import AzureBlobs
from shared.storage.ports import Receipt
from shared.storage.queues import AzureQueues
from shared.values.message_text import Encoding, encode

ITEMS = 40
POSTS = 10

type Form = Literal["single", "batch"]
type Connect = Callable[[], StorageAccount]


def pipeline(*, quick: bool) -> Iterator[Ratio]:
    """An event's put against a bare Protocol's, and the whole pipeline in RSA operations, in both formats.

    As in production, with the managed identity's tokens over TLS; and as with an account key over plain HTTP.
    """
    rounds = 5 if quick else 21
    with production() as connect:
        yield from _figures(connect, "", rounds, ("<= 1.5", "<= 1.6", "<= 1.25"))
    with stub() as url:
        yield from _figures(lambda: _with_account_key(url), ", account key and no TLS", rounds, ("", "", ""))


def _figures(connect: Connect, how: str, rounds: int, targets: tuple[str, str, str]) -> Iterator[Ratio]:
    name = f"CPU of an event's put{how}, over a bare Protocol's on the same loop"
    yield run_in_worker(_put(connect, name, rounds, targets[0]))
    for form, target in (("single", targets[1]), ("batch", targets[2])):
        name = f"pipeline per rich notification, {ITEMS} to a POST, {form} events{how}, in RSA operations"
        yield run_in_worker(_whole(connect, "single" if form == "single" else "batch", name, rounds, target))


def _with_account_key(url: str) -> StorageAccount:
    return StorageAccount(StorageSettings(connection_string(url), None, None, None), HttpClient())


@contextmanager
def production() -> Iterator[Connect]:
    """Storage that takes bearer tokens over TLS, and an identity endpoint that gives them."""
    with (
        Simulator.start() as sim,
        patch.dict(os.environ, sim.environment()),
        stub(sim.server_certificate) as url,
    ):
        identity = IdentityEndpoint(os.environ["IDENTITY_ENDPOINT"], os.environ["IDENTITY_HEADER"])
        yield lambda: StorageAccount(StorageSettings(None, url, url, None, identity), HttpClient())


async def _put(connect: Connect, name: str, rounds: int, target: str) -> Ratio:
    account = connect()
    queues, bare = AzureQueues(account), bare_put(account.queues.url, os.environ.get("SSL_CERT_FILE"))
    body = b'{"x":"%b"}' % (b"x" * 2000)
    sent = f"<QueueMessage><MessageText>{encode(body, 'base64')}</MessageText></QueueMessage>".encode()
    pairs = [
        (await cpu_of(lambda body: queues.put("call-events", body, "base64"), body), await cpu_of(bare.put, sent))
        for _ in range(rounds + 1)
    ]
    account.http.close()
    await bare.close()
    return of_pairs(name, pairs[1:], target=target)


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
        self._account.http.close()


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
            raw, events = run_in_worker(_count(url, "single" if form == "single" else "batch"))
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
