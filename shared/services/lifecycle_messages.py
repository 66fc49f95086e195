"""Lifecycle notifications as they come off their queue."""

import logging
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from shared.domain.errors import MalformedInputError, SwitchboardError
from shared.domain.notifications import Envelope
from shared.services.lifecycle import Handled
from shared.services.quarantine import Quarantine
from shared.services.raw_messages import RawMessages

logger = logging.getLogger(__name__)


class LifecycleHandler(Protocol):
    async def handle(self, item: dict[str, Any]) -> Handled: ...


@dataclass(frozen=True, slots=True)
class LifecycleMessages:
    """Hands the items of a raw message to the handler, one by one; one that fails does not hold up the others."""

    raw_messages: RawMessages
    handler: LifecycleHandler
    quarantine: Quarantine

    async def handle(self, text: str, *, queue: str, attempts: int) -> None:
        """Handle one raw message.

        Args:
            text: the message, decoded.
            queue: the queue it came from.
            attempts: how often it has been delivered, this time included.

        Raises:
            SwitchboardError: a transient one, once every item has had its turn; trying again does no harm.
        """
        unpacked = await self.raw_messages.open(text, queue=queue, attempts=attempts)
        if unpacked is None:
            return
        transient: SwitchboardError | None = None
        for index, raw in enumerate(unpacked.envelope.notifications):
            try:
                await self._handle_item(raw)
            except SwitchboardError as error:
                if error.permanent:
                    await self._park(unpacked.envelope, index, error, queue, attempts)
                else:
                    transient = error
        if transient is not None:
            raise transient
        await self.raw_messages.close(unpacked)

    async def _handle_item(self, raw: msgspec.Raw) -> None:
        try:
            item = msgspec.json.decode(raw, type=dict[str, Any])
        except (ValueError, RecursionError):
            raise MalformedInputError("not a lifecycle notification", reason="item-malformed") from None
        if await self.handler.handle(item) is Handled.UNKNOWN:
            # Kept, not dropped: Graph says that more kinds may come, and somebody will want to know what this one said.
            raise MalformedInputError("a lifecycle event of an unknown kind", reason="unknown-lifecycle-event")

    async def _park(self, envelope: Envelope, index: int, error: SwitchboardError, queue: str, attempts: int) -> None:
        await self.quarantine.park_item(
            envelope, index, queue=queue, error=error, reason=error.reason, attempts=attempts
        )
