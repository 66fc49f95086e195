"""What receiving remembers between POSTs, and what it must not."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from dev.simulator import Kind, build
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import KeyCertificate, Recipient
from dev.simulator.tokens import SigningKey, validation_claims
from shared.domain.resources import RAW_QUEUE
from shared.domain.validation_tokens import PUBLIC_CLOUD
from shared.services.raw_queues import RawQueues
from shared.services.receive import Receiver
from tests.storage_model import StorageModel

TENANT = "f69f5191-20ae-4093-8dae-3ec09edeb253"
APP = "7f4f3c3a-6a1e-4d0e-9a53-0d4f7a3c9b11"
STATE = "a-client-state"
KEY = SigningKey.generate()
PAIR = KeyCertificate.generate()
START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@dataclass
class Keys:
    """Entra ID's key set, and how often it was asked for."""

    known: dict[str, RSAPublicKey] = field(default_factory=lambda: {KEY.kid: KEY.private_key.public_key()})
    asked: int = 0

    async def get(self, wanted: Collection[str]) -> Mapping[str, RSAPublicKey]:
        self.asked += 1
        return self.known


@dataclass
class Clock:
    now: datetime = START

    def __call__(self) -> datetime:
        return self.now


def setup() -> tuple[Receiver, Keys, StorageModel, Clock]:
    keys, storage, clock = Keys(), StorageModel(), Clock()
    receiver = Receiver(
        queues=RawQueues(storage.queues, storage.blobs),
        signing_keys=keys,
        client_states=(STATE,),
        app_ids={APP},
        tenant_ids={TENANT},
        issuers=PUBLIC_CLOUD,
        max_body_bytes=10**6,
        now=clock,
    )
    return receiver, keys, storage, clock


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
    keys.known = {KEY.kid: KEY.private_key.public_key()}
    await receiver.receive(post, None)
    assert len(storage.messages[RAW_QUEUE]) == 1


async def test_what_is_remembered_has_a_bound() -> None:
    receiver, keys, _, _ = setup()
    for _ in range(1100):
        claims = validation_claims(app_id=APP, tenant_id=TENANT, now=START)
        receiver.verified.add(KEY.kid + claims["uti"], _claims(), START)
    assert len(receiver.verified._known) <= 1000
    assert keys.asked == 0


def _claims() -> Any:
    from shared.domain.validation_tokens import Claims

    return Claims(TENANT, APP, START + timedelta(hours=1))
