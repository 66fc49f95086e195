"""Change-notification collections: the bodies that Graph posts. Needs no server.

Sources: Graph, "changeNotification resource type", "changeNotificationCollection resource type", "Reduce missing
subscriptions and change notifications" (lifecycle notifications).
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from dev.simulator.clock import graph_time
from dev.simulator.crypto import Recipient, encrypt
from dev.simulator.payloads import Payload


@dataclass(frozen=True)
class Addressee:
    """What a notification repeats of its subscription. Without `recipient` the subscription is a basic one."""

    tenant_id: str
    client_state: str | None = None
    recipient: Recipient | None = None
    subscription_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    expires: datetime = field(default_factory=lambda: datetime.now(UTC) + timedelta(hours=1))


def change_notification(
    payload: Payload, addressee: Addressee, *, notification_id: str | None = None
) -> dict[str, Any]:
    """One item: rich and freshly encrypted if the addressee has a certificate and the payload a content, else basic.

    `notification_id` becomes the item's optional `id`.
    """
    item: dict[str, Any] = {"id": notification_id} if notification_id is not None else {}
    item |= {
        "subscriptionId": addressee.subscription_id,
        "clientState": addressee.client_state,
        "changeType": payload.change_type,
        "tenantId": addressee.tenant_id,
        "resource": payload.resource,
        "subscriptionExpirationDateTime": graph_time(addressee.expires),
    }
    if payload.organization_id:
        item["organizationId"] = addressee.tenant_id
    if addressee.recipient is None or payload.content is None:
        return item | {"resourceData": payload.resource_data | payload.basic}
    plaintext = json.dumps(payload.content, ensure_ascii=False, separators=(",", ":")).encode()
    return item | {"resourceData": payload.resource_data, payload.content_name: encrypt(plaintext, addressee.recipient)}


def lifecycle_notification(event: str, addressee: Addressee, *, resource: str | None = None) -> dict[str, Any]:
    """One lifecycle item; `event` is `reauthorizationRequired`, `subscriptionRemoved`, `missed`, or one yet to come.

    With the subscription's `resource` it has the form that has been received in place of the documented one: the tenant
    is `organizationId`, and a change notification's fields are there (msgraph-sdk-java, issue 1551). There `resource`
    was empty; a draft of Graph's page fills it (microsoft-graph-docs, pull request 5294).
    """
    item: dict[str, Any] = {
        "subscriptionId": addressee.subscription_id,
        "subscriptionExpirationDateTime": graph_time(addressee.expires),
        "clientState": addressee.client_state,
        "lifecycleEvent": event,
    }
    if resource is None:
        return item | {"tenantId": addressee.tenant_id}
    identity = addressee.subscription_id
    about = {"@odata.type": "#microsoft.graph.subscription", "@odata.id": f"subscriptions/{identity}", "id": identity}
    content = {"resource": resource, "resourceData": about, "sequence": None, "encryptedContent": None}
    return item | {"organizationId": addressee.tenant_id} | content


def collection(
    items: Iterable[Mapping[str, Any]], validation_tokens: Sequence[str] | None = None, *, rich: bool | None = None
) -> bytes:
    """The body of one POST.

    A rich collection carries `validation_tokens`: null if Graph could obtain none. A basic one has no such property. A
    collection is rich if it has tokens, unless `rich` says otherwise.
    """
    body: dict[str, Any] = {"value": list(items)}
    if rich if rich is not None else validation_tokens is not None:
        body["validationTokens"] = validation_tokens if validation_tokens is None else list(validation_tokens)
    return json.dumps(body, separators=(",", ":")).encode()
