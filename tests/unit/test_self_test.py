"""The notifications that Switchboard sends itself, and what it makes of their way."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dev.simulation.storage_model import StorageModel
from shared.notifications.collection import ClientStates, parse_collection
from shared.notifications.decrypt import open_items, parse_each
from shared.notifications.encryption import Sealed
from shared.notifications.events import event_of
from shared.operations.self_test import Leg, SelfTest
from shared.operations.self_test_notification import SelfTestNotification
from shared.storage.ports import Receipt
from shared.values.endpoint import EncryptionCertificate
from shared.values.envelope import parse_envelope
from shared.values.errors import SwitchboardError, UnavailableError, UnknownCertificateError
from shared.values.items import parse_item
from shared.values.message_text import Encoding
from shared.values.resources import EVENT_QUEUES, RAW_QUEUE, SELF_TEST
from tests.keys import PAIR

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = "f69f5191-20ae-4093-8dae-3ec09edeb253"
NOTIFICATION = SelfTestNotification("11111111-1111-1111-1111-111111111111", TENANT, "secret")
CERTIFICATE = EncryptionCertificate("switchboard/1", PAIR.der_base64)


class TestNotification:
    def test_is_accepted_for_its_client_state_alone(self) -> None:
        collection = parse_collection(b'{"value":[%b]}' % NOTIFICATION.basic(), ClientStates(["secret"]))
        assert collection.authentic == (0,)
        item = parse_item(bytes(collection.raws[0]))
        assert not item.notification.needs_token
        assert item.notification.queues == (RAW_QUEUE,)

    def test_becomes_an_event_on_a_queue_that_no_consumer_reads(self) -> None:
        event = event_of(parse_item(NOTIFICATION.basic()), None, fallback_id="x", received=NOW, traceparent="t")
        assert (event.queue, event.type) == (SELF_TEST.events_queue, "Switchboard.SelfTest")
        assert event.queue not in EVENT_QUEUES

    def test_looks_like_graphs(self) -> None:
        assert json.loads(NOTIFICATION.basic()) == {
            "id": NOTIFICATION.id,
            "subscriptionId": NOTIFICATION.id,
            "tenantId": TENANT,
            "clientState": "secret",
            "changeType": "created",
            "resource": f"switchboard/selfTest/{NOTIFICATION.id}",
            "resourceData": {"@odata.type": "#switchboard.selfTest", "id": NOTIFICATION.id},
        }

    def test_is_encrypted_as_graph_encrypts(self) -> None:
        item = parse_item(NOTIFICATION.rich(CERTIFICATE))
        content = item.notification.encrypted_content
        assert item.notification.needs_token  # which is why it cannot go through the endpoint
        assert content["encryptionCertificateId"] == "switchboard/1"
        sealed = Sealed.of(content)
        plaintext = sealed.open(sealed.unlock(PAIR.private_key))
        assert json.loads(plaintext) == json.loads(NOTIFICATION.basic())["resourceData"]
        assert b"resourceData" not in item.raw

    def test_has_a_key_of_its_own(self) -> None:
        assert NOTIFICATION.rich(CERTIFICATE) != NOTIFICATION.rich(CERTIFICATE)

    def test_needs_an_rsa_certificate(self, elliptic: EncryptionCertificate) -> None:
        with pytest.raises(UnknownCertificateError):
            NOTIFICATION.rich(elliptic)


@pytest.fixture
def elliptic() -> EncryptionCertificate:
    from base64 import b64encode

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding as Form

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    return EncryptionCertificate(
        "switchboard/2", b64encode(made.sign(key, hashes.SHA256()).public_bytes(Form.DER)).decode()
    )


class Clock:
    """Stands still; whoever sleeps does not."""

    def now(self) -> datetime:
        return NOW

    async def sleep(self, seconds: float) -> None:
        """Return at once."""


class App:
    """Endpoint, queues and functions in one: what is sent lies on the events queue at once."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.status = 202
        self.working = True

    async def post(self, url: str, body: bytes) -> int:
        if self.status == 202 and self.working:
            item = parse_item(bytes(parse_collection(body, ClientStates(["secret"])).raws[0]))
            self.deliver(item.raw, None)
        return self.status

    async def put(self, queue: str, body: bytes, encoding: Encoding, delay: timedelta) -> Receipt:
        assert (queue, encoding, delay) == (RAW_QUEUE, "base64", timedelta(0))
        envelope = parse_envelope(body.decode())
        items = parse_each(envelope.notifications)
        for opened in open_items(envelope, items, {"switchboard/1": PAIR.private_key}):
            assert not isinstance(opened.result, SwitchboardError)
            self.messages.append(opened.result.to_json().decode())
        return Receipt(queue, "", "")

    async def take(self, queue: str, see: Callable[[str], bool], *, at_most: int) -> int:
        assert queue == SELF_TEST.events_queue
        before = len(self.messages)
        self.messages = [text for text in self.messages if not see(text)]
        return before - len(self.messages)

    async def current(self) -> EncryptionCertificate:
        return CERTIFICATE

    def deliver(self, raw: bytes, plaintext: bytes | None, received: datetime = NOW) -> None:
        event = event_of(parse_item(raw), plaintext, fallback_id="x", received=received, traceparent="t")
        self.messages.append(event.to_json().decode())


def run(app: App, **changes: object) -> Awaitable[tuple[Leg, ...]]:
    parts = {
        "raw_messages": replace(StorageModel().raw_messages, queues=app),
        "queues": app,
        "certificates": app,
        "post": app.post,
        "clock": Clock(),
        "url": "https://switchboard.example/api/notifications",
        "tenant_id": TENANT,
        "client_state": "secret",
        "patience": timedelta(seconds=0.1),
    }
    return SelfTest(**(parts | changes)).run()  # type: ignore[arg-type]


class TestSelfTest:
    async def test_times_each_leg(self) -> None:
        legs = await run(App())
        assert [leg.problem for leg in legs] == [None] * 4
        assert all(leg.seconds is not None and leg.seconds >= 0 for leg in legs)

    async def test_leaves_other_tests_alone_and_clears_away_what_old_ones_left(self) -> None:
        app = App()
        other = SelfTestNotification("22222222-2222-2222-2222-222222222222", TENANT, "secret")
        app.deliver(other.basic(), None, NOW - timedelta(minutes=9))
        app.deliver(other.basic(), None, NOW - timedelta(minutes=11))
        app.messages.append("nonsense")
        await run(app)
        (left,) = app.messages
        assert json.loads(left)["time"].startswith("2025-12-31T23:51")

    async def test_names_an_endpoint_that_refuses(self) -> None:
        app = App()
        app.status = 503
        endpoint, by_endpoint, *others = await run(app)
        assert "503" in str(endpoint.problem)
        assert by_endpoint.problem == "not sent"
        assert [leg.problem for leg in others] == [None, None]

    async def test_names_what_does_not_come(self) -> None:
        app = App()
        app.working = False
        _, by_endpoint, _, encrypted = await run(app)
        assert "decrypt_notifications" in str(by_endpoint.problem)
        assert encrypted.problem is None

    async def test_names_key_vault_when_it_is_away(self) -> None:
        class Away:
            async def current(self) -> EncryptionCertificate:
                raise UnavailableError("Key Vault", reason="key-vault-403")

        *_, queued, encrypted = await run(App(), certificates=Away())
        assert "key-vault-403" in str(queued.problem)
        assert encrypted.problem == "not sent"
