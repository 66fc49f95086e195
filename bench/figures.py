"""The figures of what one process does by itself: the decrypt path, and receiving."""

import asyncio
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from bench.measure import Finding, Ratio, compare, cpu_seconds, seconds_on_threads
from dev.simulation.keys import SigningKeysModel, published
from dev.simulator import Kind, Options, Payload, build
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import KeyCertificate, Recipient
from dev.simulator.tokens import SigningKey, validation_claims
from shared.notifications.collection import ClientStates, parse_collection
from shared.notifications.decrypt import open_items, parse_each
from shared.notifications.paced_log import PacedLog
from shared.notifications.quarantine import Quarantine
from shared.notifications.raw_messages import RawMessages
from shared.notifications.receive import Receiver
from shared.notifications.tokens import PUBLIC_CLOUD
from shared.storage.ports import Receipt
from shared.values.envelope import pack, parse_envelope
from shared.values.message_text import Encoding

CERTIFICATE_ID = f"switchboard/{'0' * 32}"
TENANT = "f69f5191-20ae-4093-8dae-3ec09edeb253"
APP = "7f4f3c3a-6a1e-4d0e-9a53-0d4f7a3c9b11"
STATE = "a-client-state"
STATES = ClientStates((STATE,))
_PARTICIPANTS = 6
_TICK = 0.001  # seconds
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def figures(*, quick: bool) -> Iterator[Ratio]:
    """All figures, one by one as they are measured."""
    rounds = 5 if quick else 15
    for bits in (2048,) if quick else (2048, 3072, 4096):
        pair = KeyCertificate.generate(key_size=bits)
        for kind, participants, target in (
            (Kind.CALL_STARTED, 0, ">= 0.85"),
            (Kind.ROSTER_JOINED, 12, ">= 0.85"),
            (Kind.ROSTER_JOINED, 500, ">= 0.40"),
        ):
            path = DecryptPath(pair, build(kind, Options(participants=participants)))
            yield path.on_one_core(rounds, target if bits == 2048 else "")
            if bits == 2048:
                yield path.on_two_cores(rounds)
    for count in (40,) if quick else (1, 10, 40, 1000):
        rich, basic = Posts(count, Kind.ROSTER_JOINED), Posts(count, Kind.CALL_RECORD_CREATED)
        yield rich.receive(rounds, warm=True, target="<= 1 ms" if count == 40 else "")
        yield rich.receive(rounds, warm=False)
        yield basic.receive(rounds, warm=True)


def rsa_operation(key: RSAPrivateKey) -> Callable[[], object]:
    """The bare private-key operation: a signature over a ready-made digest does next to nothing else."""
    digest = bytes(32)
    padding, algorithm = PKCS1v15(), Prehashed(hashes.SHA256())
    return lambda: key.sign(digest, padding, algorithm)


class DecryptPath:
    """Raw message in, CloudEvent bytes out, for messages of one item."""

    def __init__(self, pair: KeyCertificate, payload: Payload) -> None:
        to = Addressee(TENANT, STATE, Recipient.of(pair, CERTIFICATE_ID))
        raws = [collection([change_notification(payload, to)])[len('{"value":[') : -len("]}")] for _ in range(20)]
        self._messages = cycle(
            message.body
            for raw in raws
            for message in pack([raw], delivery_id="d" * 32, received=datetime.now(UTC), traceparent=TRACE)
        )
        self._keys = {CERTIFICATE_ID: pair.private_key}
        self._operation = rsa_operation(pair.private_key)
        self._rate = f"the RSA-{pair.private_key.key_size} rate"
        self._event = f"an event of {len(self._run()[0]) / 1000:.1f} KB"

    def _run(self) -> list[bytes]:
        envelope = parse_envelope(next(self._messages))
        items = parse_each(envelope.notifications)
        return [one.result.to_json() for one in open_items(envelope, items, self._keys)]  # type: ignore[union-attr]

    def on_one_core(self, rounds: int, target: str) -> Ratio:
        """CPU against CPU."""
        return compare(
            f"decrypt path, {self._event}, as a share of {self._rate}",
            lambda: cpu_seconds(self._run, 100),
            lambda: cpu_seconds(self._operation, 100),
            rounds=rounds,
            target=target,
            ratio=_share,
        )

    def on_two_cores(self, rounds: int) -> Ratio:
        """Two threads against two threads, by the clock: what waits for the interpreter counts."""
        return compare(
            f"decrypt path on two threads, {self._event}, as a share of {self._rate} on two",
            lambda: seconds_on_threads(self._run, 200, 2),
            lambda: seconds_on_threads(self._operation, 200, 2),
            rounds=rounds,
            target="",
            ratio=_share,
        )


def _share(seconds: float, reference: float) -> float:
    return reference / seconds


def loop_delay() -> Finding:
    """How late the event loop is while a raw message of forty items of the dearest kind is decrypted beside it."""
    pair, count = KeyCertificate.generate(key_size=4096), 40
    to = Addressee(TENANT, STATE, Recipient.of(pair, CERTIFICATE_ID))
    raws = [
        bytes(raw)
        for _ in range(count)
        for raw in parse_collection(collection([change_notification(build(Kind.CALL_STARTED), to)]), STATES).raws
    ]
    [message] = pack(raws[:1], delivery_id="d" * 32, received=datetime.now(UTC), traceparent=TRACE)
    envelope, items = parse_envelope(message.body), parse_each(raws)

    async def delays() -> list[float]:
        found = []
        for _ in range(5):
            opening = asyncio.ensure_future(
                asyncio.to_thread(open_items, envelope, items, {CERTIFICATE_ID: pair.private_key})
            )
            while not opening.done():
                started = time.perf_counter()
                await asyncio.sleep(_TICK)
                found.append(time.perf_counter() - started - _TICK)
        return found

    found = asyncio.run(delays())
    return Finding(
        f"the event loop's delay while {count} items are decrypted with RSA-4096",
        f"median {statistics.median(found) * 1000:.1f} ms, longest {max(found) * 1000:.1f} ms (aim 100 ms)",
    )


class _Sink:
    """Storage that takes every message at once: what is measured is our own work."""

    async def put(self, queue: str, _body: bytes, _encoding: Encoding, _delay: timedelta) -> Receipt:
        return Receipt(queue, "", "")


class Posts:
    """POSTs of `count` items: parse, tokens, clientState, pack; and storage that takes everything."""

    def __init__(self, count: int, kind: Kind) -> None:
        self.pair, self._key = KeyCertificate.generate(), SigningKey.generate()
        to = Addressee(TENANT, STATE, Recipient.of(self.pair, CERTIFICATE_ID))
        token = self._key.sign(validation_claims(app_id=APP, tenant_id=TENANT, now=datetime.now(UTC)))
        # A thousand rich ones of this size are just less than the 4 MiB that are taken.
        items = [change_notification(build(kind, Options(participants=_PARTICIPANTS)), to) for _ in range(count)]
        rich = "encryptedContent" in items[0]
        self.body = collection(items, [token] if rich else [])
        self._operation = rsa_operation(self.pair.private_key)
        self._name = f"{count} {'rich' if rich else 'basic'} items ({len(self.body) / 1000:.0f} KB)"
        self._times = 50 if count < 1000 else 5

    def receive(self, rounds: int, *, warm: bool, target: str = "") -> Ratio:
        """One POST of them, whose token is known from the POST before where it is `warm`."""
        shared = self.receiver()

        async def posts() -> float:
            receivers = [shared if warm else self.receiver() for _ in range(self._times)]
            started = time.process_time()
            for receiver in receivers:
                answer = await receiver.receive(self.body, None)
                assert answer.status == 202, answer
            return (time.process_time() - started) / self._times

        return compare(
            f"receive a POST of {self._name}{'' if warm else ', its token not seen before'}, in RSA operations",
            lambda: asyncio.run(posts()),
            lambda: cpu_seconds(self._operation, 200),
            rounds=rounds,
            target=target,
        )

    def receiver(self) -> Receiver:
        """One that has seen nothing yet."""
        return receiver_of(raw_messages_over(_Sink(), _Sink()), self._key)


def raw_messages_over(queues: Any, blobs: Any) -> RawMessages:
    """Raw messages over some storage."""

    def now() -> datetime:
        return datetime.now(UTC)

    return RawMessages(queues, blobs, Quarantine(blobs, now), now)


def receiver_of(raw_messages: RawMessages, key: SigningKey) -> Receiver:
    """One that takes what is signed with this key."""
    return Receiver(
        raw_messages=raw_messages,
        signing_keys=SigningKeysModel(published(key)),
        client_states=STATES,
        app_ids={APP},
        tenant_ids={TENANT},
        issuers=PUBLIC_CLOUD,
        max_body_bytes=4 * 1024 * 1024,
        now=lambda: datetime.now(UTC),
        log=PacedLog(logging.getLogger("bench"), lambda: datetime.now(UTC)),
    )
