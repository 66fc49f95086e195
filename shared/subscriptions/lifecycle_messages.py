"""Lifecycle notifications as they come off their queue."""

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from shared.notifications.raw_messages import RawMessages, unexpected
from shared.subscriptions.lifecycle import Handled
from shared.values.errors import MalformedInputError, SwitchboardError


class LifecycleHandler(Protocol):
    async def handle(self, item: dict[str, Any]) -> Handled: ...


@dataclass(frozen=True, slots=True)
class LifecycleMessages:
    """Hands the items of a raw message to the handler, one by one; one that fails does not hold up the others."""

    raw_messages: RawMessages
    handler: LifecycleHandler

    async def handle(self, text: str, *, queue: str, attempts: int) -> None:
        """Handle one raw message.

        Args:
            text: the message, decoded.
            queue: the queue it came from.
            attempts: how often it has been delivered, this time included.

        Raises:
            UnavailableError: storage did not answer; trying again does no harm.
        """
        unpacked = await self.raw_messages.open(text, queue=queue, attempts=attempts)
        if unpacked is None:
            return
        failures: dict[int, SwitchboardError] = {}
        for index, raw in enumerate(unpacked.envelope.notifications):
            try:
                await self._handle_item(raw)
            except SwitchboardError as error:
                failures[index] = error
            except Exception as error:  # noqa: BLE001 - no neighbour has to pay for a fault of ours
                failures[index] = unexpected(error, unpacked.envelope.item_id(index))
        await self.raw_messages.finish(unpacked, failures)

    async def _handle_item(self, raw: msgspec.Raw) -> None:
        try:
            item = msgspec.json.decode(raw, type=dict[str, Any])
        except (ValueError, RecursionError):
            raise MalformedInputError("not a lifecycle notification", reason="item-malformed") from None
        if await self.handler.handle(item) is Handled.UNKNOWN:
            # Kept, not dropped: Graph says that more kinds may come, and somebody will want to know what this one said.
            raise MalformedInputError("a lifecycle event of an unknown kind", reason="unknown-lifecycle-event")
