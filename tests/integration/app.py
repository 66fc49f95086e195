"""The app without a host: its own parts, as they are, on the storage emulator and the simulator."""

import contextlib
import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import azure.functions as func
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue.aio import QueueServiceClient

from dev.simulator import Payload, Simulator
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import Recipient
from dev.simulator.tokens import validation_claims
from shared import triggers
from shared.app import App as Parts
from shared.notifications.event_writer import DATA_CONTAINER
from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.notifications.raw_messages import CLAIM_CHECKS_CONTAINER
from shared.values.events.event_types import CloudEvent, parse
from shared.values.resources import EVENT_QUEUES, RAW_QUEUES

CLIENT_STATE = "the-current-client-state-of-this-app"
PREVIOUS_CLIENT_STATE = "the-previous-client-state"


class Message(func.QueueMessage):
    """A queue message as the worker hands it over."""

    def __init__(self, text: str, attempts: int) -> None:
        super().__init__(body=text.encode())
        self._attempts = attempts

    @property
    def dequeue_count(self) -> int:
        return self._attempts


@dataclass
class App:
    """Posts to the receiving function, runs the queue functions by hand, and reads what came out."""

    sim: Simulator
    queues: QueueServiceClient
    blobs: BlobServiceClient
    parts: Parts

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> func.HttpResponse:
        return await triggers.receive(
            self.parts,
            func.HttpRequest(
                method="POST", url="http://localhost/api/notifications", headers=headers or {}, params={}, body=body
            ),
        )

    def look_anew(self) -> None:
        """Forget what the health check found, which it keeps for half a minute."""
        for name in ("health", "status"):
            vars(self.parts).pop(name, None)

    def item(self, payload: Payload, **changes: Any) -> dict[str, Any]:
        """A notification as Graph makes it, encrypted for the current certificate where the payload has content."""
        current = self.sim.vault.certificate()
        assert current.certificate is not None
        certificate_id = f"{self.sim.vault.certificate_name}/{current.version}"
        to = Addressee(self.sim.tenants[0], CLIENT_STATE, Recipient.of(current.certificate, certificate_id))
        changed = change_notification(payload, to) | changes
        return {name: value for name, value in changed.items() if value is not ...}

    def token(self, tenant_id: str | None = None, **changes: Any) -> str:
        tenant = tenant_id or self.sim.tenants[0]
        claims = validation_claims(app_id=self.sim.app_id, tenant_id=tenant, now=self.sim.clock.now())
        return self.sim.entra.signing_key.sign(claims | changes)

    def collection(self, *items: Mapping[str, Any], tokens: list[str] | None = None) -> bytes:
        return collection(items, [self.token()] if tokens is None else tokens)

    async def raw(self) -> dict[str, list[dict[str, Any]]]:
        """The raw messages that wait, by queue, without taking them."""
        found = {}
        for queue in RAW_QUEUES:
            messages = [json.loads(text) for text in await self._peek(queue)]
            if messages:
                found[queue] = messages
        return found

    async def handle(self, attempts: int = 1) -> None:
        """Run the decrypting functions on all that waits, as the host would; a failure leaves the message there."""
        for queue in RAW_QUEUES[:2]:
            client = self.queues.get_queue_client(queue)
            with contextlib.suppress(ResourceNotFoundError):
                async for message in client.receive_messages(visibility_timeout=1):
                    await triggers.decrypt(self.parts, Message(_decoded(message.content), attempts), queue)
                    await client.delete_message(message)

    async def events(self) -> list[CloudEvent]:
        """All events, from all queues; each must lie on the queue that it belongs on."""
        found = []
        for queue in EVENT_QUEUES:
            for text in await self._peek(queue):
                found += parse(text)
        return found

    async def on(self, queue: str) -> list[CloudEvent]:
        return [event for text in await self._peek(queue) for event in parse(text)]

    async def quarantined(self) -> list[dict[str, Any]]:
        return [json.loads(data) for data in (await self.blobs_in(QUARANTINE_CONTAINER)).values()]

    async def claims(self) -> dict[str, bytes]:
        return await self.blobs_in(CLAIM_CHECKS_CONTAINER)

    async def data(self) -> dict[str, bytes]:
        return await self.blobs_in(DATA_CONTAINER)

    async def blobs_in(self, container: str) -> dict[str, bytes]:
        client = self.blobs.get_container_client(container)
        with contextlib.suppress(ResourceNotFoundError):
            return {name: await (await client.download_blob(name)).readall() async for name in client.list_blob_names()}
        return {}

    async def _peek(self, queue: str) -> list[str]:
        with contextlib.suppress(ResourceNotFoundError):
            return [
                _decoded(message.content) for message in await self.queues.get_queue_client(queue).peek_messages(32)
            ]
        return []


def _decoded(text: str) -> str:
    return text if text.startswith(("{", "[")) else b64decode(text).decode()
