"""The figures: the decrypt path, receiving, and the cold start."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from bench.measure import Ratio, compare, cpu_seconds
from dev.simulator import Kind, Options, Payload, build
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import KeyCertificate, Recipient
from dev.simulator.tokens import SigningKey, validation_claims
from shared.domain.notifications import pack, parse_envelope
from shared.domain.queue_text import Encoding
from shared.domain.validation_tokens import PUBLIC_CLOUD
from shared.services.decrypt import Sealed, open_items, seal_of
from shared.services.receive import Receiver

ROOT = Path(__file__).resolve().parent.parent
CERTIFICATE_ID = f"switchboard/{'0' * 32}"
TENANT = "f69f5191-20ae-4093-8dae-3ec09edeb253"
APP = "7f4f3c3a-6a1e-4d0e-9a53-0d4f7a3c9b11"
STATE = "a-client-state"
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
            payload = build(kind, Options(participants=participants))
            yield decrypt_path(pair, payload, rounds, target if bits == 2048 else "")
    for count in (40,) if quick else (1, 10, 40, 500):
        yield receive(count, Kind.ROSTER_JOINED, rounds, "<= 1 ms of CPU" if count == 40 else "")
        if not quick:
            yield receive(count, Kind.CALL_RECORD_CREATED, rounds, "")
    yield cold_import("function_app", rounds, "<= 1.5")
    yield first_handshake(rounds)


def rsa_operation(key: RSAPrivateKey) -> Callable[[], object]:
    """The bare private-key operation: a signature over a ready-made digest does next to nothing else."""
    digest = bytes(32)
    padding, algorithm = PKCS1v15(), Prehashed(hashes.SHA256())
    return lambda: key.sign(digest, padding, algorithm)


def decrypt_path(pair: KeyCertificate, payload: Payload, rounds: int, target: str) -> Ratio:
    """Raw message in, CloudEvent bytes out, for one item."""
    to = Addressee(TENANT, STATE, Recipient.of(pair, CERTIFICATE_ID))
    raws = [collection([change_notification(payload, to)])[len('{"value":[') : -len("]}")] for _ in range(20)]
    messages = [
        message.body
        for raw in raws
        for message in pack([raw], delivery_id="d" * 32, received=datetime.now(UTC), traceparent=TRACE)
    ]
    keys = {CERTIFICATE_ID: pair.private_key}
    turn = cycle(messages)

    def path() -> list[bytes]:
        envelope = parse_envelope(next(turn))
        items = [seal_of(bytes(raw)) for raw in envelope.notifications]
        assert all(isinstance(item, Sealed) for item in items)
        return [one.result.to_json() for one in open_items(envelope, items, keys)]  # type: ignore[union-attr]

    size = len(path()[0])
    count = 100
    return compare(
        f"decrypt path, an event of {size / 1000:.1f} KB, as a share of the RSA-{pair.private_key.key_size} rate",
        lambda: cpu_seconds(path, count),
        lambda: cpu_seconds(rsa_operation(pair.private_key), count),
        rounds=rounds,
        target=target,
        ratio=lambda seconds, reference: reference / seconds,
    )


class _Sink:
    """Storage that takes everything at once: what is measured is our own work."""

    async def put(self, queue: str, body: bytes, encoding: Encoding) -> None:
        return


class _NoBlobs:
    async def put(self, container: str, name: str, data: bytes) -> str:
        raise AssertionError("nothing measured here is large")

    async def delete(self, container: str, name: str) -> None:
        raise AssertionError("nothing measured here is large")


class FixedKeys:
    """Entra ID's keys, at hand."""

    def __init__(self, keys: Mapping[str, RSAPublicKey]) -> None:
        self._keys = keys

    async def get(self, _wanted: object) -> Mapping[str, RSAPublicKey]:
        return self._keys


def receive(count: int, kind: Kind, rounds: int, target: str) -> Ratio:
    """One POST: parse, tokens, clientState, pack."""
    pair, key = KeyCertificate.generate(), SigningKey.generate()
    to = Addressee(TENANT, STATE, Recipient.of(pair, CERTIFICATE_ID))
    now = datetime.now(UTC)
    token = key.sign(validation_claims(app_id=APP, tenant_id=TENANT, now=now))
    items = [change_notification(build(kind, Options(participants=12)), to) for _ in range(count)]
    rich = "encryptedContent" in items[0]
    body = collection(items, [token] if rich else [])
    receiver = Receiver(
        queues=_Sink(),
        blobs=_NoBlobs(),
        signing_keys=FixedKeys({key.kid: key.private_key.public_key()}),
        client_states=(STATE,),
        app_ids={APP},
        tenant_ids={TENANT},
        issuers=PUBLIC_CLOUD,
        max_body_bytes=4 * 1024 * 1024,
        now=lambda: datetime.now(UTC),
    )

    async def posts(times: int) -> float:
        started = time.process_time()
        for _ in range(times):
            answer = await receiver.receive(body, None)
            assert answer.status == 202, answer
        return (time.process_time() - started) / times

    return compare(
        f"receive a POST of {count} {'rich' if rich else 'basic'} items ({len(body) / 1000:.0f} KB), in RSA operations",
        lambda: asyncio.run(posts(50)),
        lambda: cpu_seconds(rsa_operation(pair.private_key), 200),
        rounds=rounds,
        target=target,
    )


def cold_import(module: str, rounds: int, target: str) -> Ratio:
    """The import of a module in a new interpreter, over that of azure.functions."""

    def timed(name: str) -> float:
        code = f"import time; t = time.process_time(); import {name}; print(time.process_time() - t)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return float(done.stdout)

    return compare(
        f"import {module}, over import azure.functions",
        lambda: timed(module),
        lambda: timed("azure.functions"),
        rounds=rounds,
        target=target,
    )


def first_handshake(rounds: int) -> Ratio:
    """A new interpreter until it has answered a handshake, over one that only imports azure.functions."""
    answer = """
import asyncio, azure.functions as func, function_app
request = func.HttpRequest(method="POST", url="http://x/api/notifications", params={"validationToken": "t"}, body=b"")
asyncio.run(function_app.receive_notifications.build().get_user_function()(request))
"""

    def timed(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
        return time.perf_counter() - started

    return compare(
        "a new process until its first handshake is answered, over import azure.functions alone",
        lambda: timed(answer),
        lambda: timed("import azure.functions"),
        rounds=rounds,
        target="",
    )
