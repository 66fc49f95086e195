"""Whether a notification that is sent now becomes an event: "deployed, healthy, no data" has an answer."""

import asyncio
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import requests

from shared.clock import Clock
from shared.notifications.raw_messages import RawMessages
from shared.operations.self_test_notification import SelfTestNotification
from shared.storage.ports import Queues
from shared.values.errors import SwitchboardError, UnavailableError
from shared.values.events.event_types import CloudEvent, EventError, parse
from shared.values.resources import RAW_QUEUE, SELF_TEST

if TYPE_CHECKING:
    from shared.key_vault import KeyVaultCertificates

PATIENCE: Final = timedelta(seconds=60)

_POLL_SECONDS: Final = 0.1
_STALE: Final = timedelta(minutes=10)
_ACCEPTED: Final = 202
_AT_A_TIME: Final = 32


type Post = Callable[[str, bytes], Awaitable[int]]
"""Posts JSON to a URL and returns the status; raises UnavailableError where there is no answer."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of the way: `seconds` it took, or the `problem` that it met."""

    name: str
    seconds: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Sends the two notifications and waits for their events.

    Attributes:
        url: the notification URL.
        tenant_id: one of the tenants served.
        client_state: the current one.
    """

    raw_messages: RawMessages
    queues: Queues
    certificates: "KeyVaultCertificates"
    post: Post
    clock: Clock
    url: str
    tenant_id: str
    client_state: str
    patience: timedelta = PATIENCE

    async def run(self) -> tuple[Leg, ...]:
        """Go all the way, twice.

        Returns:
            Four legs: acceptance by the endpoint, its event, the encrypted raw message, its event.

        Raises:
            UnavailableError: the events queue cannot be read.
        """
        basic, rich = self._notification(), self._notification()
        started: dict[str, float] = {}
        accepted = await self._leg("endpoint", self._post(basic), basic, started)
        queued = await self._leg("raw queue", self._put(rich), rich, started)
        arrived = await self._await(started)
        return (
            accepted,
            self._arrival("event by way of the endpoint", basic, started, arrived),
            queued,
            self._arrival("event of encrypted content", rich, started, arrived),
        )

    def _notification(self) -> SelfTestNotification:
        return SelfTestNotification(str(uuid.uuid4()), self.tenant_id, self.client_state)

    async def _leg(
        self, name: str, work: Awaitable[None], sent: SelfTestNotification, started: dict[str, float]
    ) -> Leg:
        begun = time.monotonic()
        try:
            await work
        except SwitchboardError as error:
            return Leg(name, problem=f"{error} ({error.reason})")
        started[sent.id] = begun
        return Leg(name, time.monotonic() - begun)

    async def _post(self, sent: SelfTestNotification) -> None:
        status = await self.post(self.url, b'{"value":[%b]}' % sent.basic())
        if status != _ACCEPTED:
            raise UnavailableError(f"the endpoint, which answered {status},", reason=f"status-{status}")

    async def _put(self, sent: SelfTestNotification) -> None:
        raw = sent.rich(await self.certificates.current())
        trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        await self.raw_messages.send(RAW_QUEUE, [raw], received=self.clock.now(), traceparent=trace)

    async def _await(self, started: dict[str, float]) -> dict[str, float]:
        """When the events of what was sent were seen, by id."""
        arrived: dict[str, float] = {}
        deadline = time.monotonic() + self.patience.total_seconds()
        see = partial(self._see, started, arrived)
        while started.keys() - arrived.keys() and time.monotonic() < deadline:
            await self.queues.take(SELF_TEST.events_queue, see, at_most=_AT_A_TIME)
            if started.keys() - arrived.keys():
                await self.clock.sleep(_POLL_SECONDS)
        return arrived

    def _see(self, started: dict[str, float], arrived: dict[str, float], text: str) -> bool:
        """Whether a message is done with: our own, or one that a test before us has left behind."""
        events = _events(text)
        for event in events:
            event_id = _id(event)
            if event_id in started:
                arrived.setdefault(event_id, time.monotonic())
        return all(_id(event) in started or self.clock.now() - event.time > _STALE for event in events)

    @staticmethod
    def _arrival(name: str, sent: SelfTestNotification, started: dict[str, float], arrived: dict[str, float]) -> Leg:
        if sent.id not in started:
            return Leg(name, problem="not sent")
        if sent.id not in arrived:
            return Leg(name, problem="did not come in time: see the log of decrypt_notifications, and quarantine")
        return Leg(name, arrived[sent.id] - started[sent.id])


def _events(text: str) -> list[CloudEvent]:
    try:
        return parse(text)
    except EventError:
        return []


def _id(event: CloudEvent) -> str:
    """The id that the event's data carries."""
    try:
        data = event.typed()
    except EventError:
        return ""
    return str(data.get("id")) if isinstance(data, dict) else ""


_TIMEOUT: Final = (5.0, 15.0)  # to connect, to read, in seconds: an instance may have to start


async def post_json(url: str, body: bytes) -> int:
    """Post JSON and return the status.

    Raises:
        UnavailableError: there is no answer.
    """
    return await asyncio.to_thread(_post, url, body)


def _post(url: str, body: bytes) -> int:
    headers = {"Content-Type": "application/json"}
    try:
        return requests.post(url, data=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False).status_code
    except requests.RequestException as error:
        raise UnavailableError("the endpoint", reason="endpoint-no-answer") from error
