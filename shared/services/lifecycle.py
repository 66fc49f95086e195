"""Lifecycle notifications: what Graph says about a subscription itself.

Source: "Reduce missing subscriptions and change notifications". Their clientState was checked where they were received.
"""

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from shared.domain.errors import MalformedInputError
from shared.domain.execution import Outcome
from shared.services.renew import Renewal

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

    def __init__(self, renewal: Renewal) -> None:
        self._renewal = renewal

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
        event = item.get("lifecycleEvent")
        match event.lower() if isinstance(event, str) else None:
            case "reauthorizationrequired":
                handled = await self._reauthorize(tenant_id, subscription_id)
            case "subscriptionremoved":
                await self._resync(tenant_id, subscription_id)
                handled = Handled.RECREATED
            case "missed":
                await self._resync(tenant_id)
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

    async def _resync(self, tenant_id: str, gone: str | None = None) -> None:
        report = await self._renewal.resync(tenant_id, gone=gone)
        for failure in report.failures:
            _log.error("resync of tenant %s: %s, %d times: %s", tenant_id, failure.reason, failure.count, failure.kind)


def _text(item: Mapping[str, Any], *names: str) -> str:
    for name in names:
        value = item.get(name)
        if isinstance(value, str) and value:
            return value
    raise MalformedInputError(f"a lifecycle notification without {names[0]}", reason="lifecycle-malformed")
