"""Lifecycle notifications: what Graph says about a subscription itself.

Their clientState was checked where they were received. Source: "Reduce missing subscriptions and change notifications"
(https://learn.microsoft.com/graph/change-notifications-lifecycle-events).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from shared.notifications.raw_messages import RawMessages, unexpected
from shared.subscriptions.actions import Outcome
from shared.subscriptions.renewal_state import CallRecordCoverage, FinishedRuns, Runner
from shared.subscriptions.run import Renewal
from shared.subscriptions.run_report import RenewalReport
from shared.values.errors import MalformedInputError, SwitchboardError
from shared.values.items import is_plain_id

_log = logging.getLogger(__name__)


class Handled(StrEnum):
    """What became of a lifecycle notification."""

    RENEWED = "renewed"
    RECREATED = "recreated"
    RESYNCED = "resynced"
    LEFT = "left"  # it is about a subscription that is not ours
    UNKNOWN = "unknown"  # a kind that is not known: to be kept by the caller


class Lifecycle:
    """Acts on lifecycle notifications. Acting twice on the same one does no harm."""

    def __init__(
        self, renewal: Renewal, runs: FinishedRuns | None = None, call_records: CallRecordCoverage | None = None
    ) -> None:
        """Take what it needs; without `runs` and `call_records`, nothing is written down of runs and of gaps."""
        self._renewal = renewal
        self._runs = runs
        self._call_records = call_records

    async def handle(self, item: Mapping[str, Any]) -> Handled:
        """Do what one notification asks for.

        Args:
            item: the notification as Graph sent it, already found to be authentic.

        Raises:
            MalformedInputError: it names no subscription, or no tenant of ours.
            UnavailableError: Graph, Entra ID or Key Vault is down: try again.
            GraphError: Graph refuses the renewal, for instance because an administrator withdrew the permission.
        """
        tenant_id, subscription_id = _text(item, "tenantId", "organizationId").lower(), _text(item, "subscriptionId")
        if not is_plain_id(subscription_id):  # it becomes part of a URL and of log lines
            raise MalformedInputError("a lifecycle notification of no subscription", reason="lifecycle-malformed")
        event = item.get("lifecycleEvent")
        match event.lower() if isinstance(event, str) else None:
            case "reauthorizationrequired":
                handled = await self._reauthorize(tenant_id, subscription_id)
            case "subscriptionremoved":
                await self._resync(tenant_id, subscription_id)
                handled = Handled.RECREATED
            case "missed":
                report = await self._resync(tenant_id)
                for subscription in report.call_records:
                    if self._call_records is not None and subscription.id == subscription_id:
                        await self._call_records.missed(subscription)
                handled = Handled.RESYNCED
            case _:
                handled = Handled.UNKNOWN
        _log.info("lifecycle notification for subscription %s: %s", subscription_id, handled)
        return handled

    async def _reauthorize(self, tenant_id: str, subscription_id: str) -> Handled:
        match await self._renewal.reauthorize(tenant_id, subscription_id):
            case Outcome.RENEWED:
                return Handled.RENEWED
            case Outcome.GONE:
                await self._resync(tenant_id, subscription_id)
                return Handled.RECREATED
            case _:
                return Handled.LEFT

    async def _resync(self, tenant_id: str, gone: str | None = None) -> RenewalReport:
        run = self._renewal.resync(tenant_id, gone=gone)
        return await (run if self._runs is None else self._runs.see(run, Runner.LIFECYCLE))


def _text(item: Mapping[str, Any], *names: str) -> str:
    for name in names:
        value = item.get(name)
        if isinstance(value, str) and value:
            return value
    raise MalformedInputError(f"a lifecycle notification without {names[0]}", reason="lifecycle-malformed")


@dataclass(frozen=True, slots=True)
class LifecycleMessages:
    """Hands the items of a raw message to the handler, one by one; one that fails does not hold up the others."""

    raw_messages: RawMessages
    handler: Lifecycle

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
