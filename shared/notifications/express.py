"""The express way of an emergency: it is opened where it was received, while its raw message lies hidden on its queue.

The raw message is put first, so that nothing can be lost here. It is invisible for `HIDDEN`. Once all its events are
written it is deleted. Where one cannot be written the message is shown at once, and `decrypt_emergency` handles it like
any other. If the process ends in between, the message becomes visible when `HIDDEN` is over.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from shared.notifications.raw_messages import RawMessages
from shared.storage.ports import Receipt
from shared.telemetry import NO_TELEMETRY, ExpressOutcome, Telemetry
from shared.values.envelope import Envelope, RawMessage, pack
from shared.values.errors import UnavailableError
from shared.values.resources import EMERGENCY_QUEUE

if TYPE_CHECKING:
    from shared.notifications.decrypt import Decryptor

HIDDEN: Final = timedelta(seconds=15)
"""How long nobody else sees the raw message: what a killed process costs an emergency."""

WAIT_SECONDS: Final = 0.5
"""How long the private key, and Graph's answer, are waited for."""

_MOST_ITEMS: Final = 4
_AFTER_SECONDS: Final = 1.0  # by when the POST has been answered
_NO_KEY_FOR: Final = timedelta(seconds=20)

_log = logging.getLogger(__name__)


class Hidden(NamedTuple):
    """A raw message that lies invisible on its queue."""

    envelope: Envelope
    receipt: Receipt


@dataclass(slots=True, kw_only=True)
class Express:
    """Takes emergencies the express way. Belongs to one event loop.

    Attributes:
        raw_messages: puts the raw message; its queues show or delete it.
        decryptor: gives the decryptor, which is made late: it is not needed before the raw message is durable.
        expected: whether an emergency subscription is alive; raises UnavailableError.
        telemetry: is told what became of each attempt.
    """

    raw_messages: RawMessages
    decryptor: Callable[[], "Decryptor"]
    expected: Callable[[], Awaitable[bool]]
    telemetry: Telemetry = NO_TELEMETRY
    _no_key_until: datetime | None = field(default=None, init=False)
    _ahead: asyncio.TimerHandle | None = field(default=None, init=False)
    _under_way: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    async def send(self, raws: Sequence[bytes], *, received: datetime, traceparent: str) -> Hidden | None:
        """Put authentic emergency notifications on their raw queue.

        Returns:
            The message that `begin` is to open; None where all is left to the usual way.

        Raises:
            UnavailableError: storage did not take all of them.
        """
        packed = pack(raws, delivery_id=secrets.token_hex(16), received=received, traceparent=traceparent)
        if (refusal := self._refusal(packed, len(raws))) is not None:
            self.telemetry.express(refusal)
            await self.raw_messages.put_all(EMERGENCY_QUEUE, packed)
            return None
        (message,) = packed
        return Hidden(message.envelope, await self.raw_messages.put(EMERGENCY_QUEUE, message, HIDDEN))

    def begin(self, hidden: Hidden) -> asyncio.Task[None]:
        """Open it in a task of its own, because a put that has begun must not be cancelled with the answer to Graph."""
        return self._start(self._handle(hidden))

    def fetch_ahead(self, certificate_id: str) -> None:
        """Get the private key soon after the first authentic rich notification, before an emergency has to wait for it.

        Args:
            certificate_id: the version that the notification names.
        """
        if self._ahead is None:
            begin = asyncio.get_running_loop().call_later
            self._ahead = begin(_AFTER_SECONDS, lambda: self._start(self._fetch_ahead(certificate_id)))

    async def _fetch_ahead(self, certificate_id: str) -> None:
        try:
            if await self.expected():
                await self.decryptor().fetch_key(certificate_id)
        except UnavailableError as error:
            _log.info("express: no key fetched ahead: reason=%s", error.reason)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    def _refusal(self, packed: Sequence[RawMessage], count: int) -> ExpressOutcome | None:
        if count > _MOST_ITEMS:
            return ExpressOutcome.MANY
        if any(message.needs_claim_check for message in packed) or len(packed) > 1:
            return ExpressOutcome.LARGE
        if self._no_key_until is not None and self.raw_messages.now() < self._no_key_until:
            return ExpressOutcome.NO_KEY
        return None

    async def _handle(self, hidden: Hidden) -> None:
        envelope = hidden.envelope
        outcome = ExpressOutcome.FAILED
        try:
            outcome = await self.decryptor().write_now(envelope, queue=EMERGENCY_QUEUE, key_seconds=WAIT_SECONDS)
        except Exception as error:  # noqa: BLE001 - the usual way meets it again and quarantines what it cannot handle
            # The message of an exception that nobody foresaw may hold data.
            _log.error("express: unexpected error: type=%s id=%s", type(error).__name__, envelope.id)
        self.telemetry.express(outcome)
        if outcome is ExpressOutcome.NO_KEY:
            self._no_key_until = self.raw_messages.now() + _NO_KEY_FOR
        try:
            if outcome is ExpressOutcome.DONE:
                await self.raw_messages.queues.delete(hidden.receipt)
            else:
                _log.warning("express: left to the usual way: reason=%s id=%s", outcome, envelope.id)
                await self.raw_messages.queues.show(hidden.receipt)
        except UnavailableError as error:  # it becomes visible by itself; at worst events come twice, under one id
            _log.warning("express: the raw message stays: reason=%s id=%s", error.reason, envelope.id)
