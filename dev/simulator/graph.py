"""Graph, as whoever drives the simulator sees it: make something happen, look what was delivered."""

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dev.simulator.collection import change_notification, collection, lifecycle_notification
from dev.simulator.delivery import Attempt, Courier, Delivery, DeliverySettings, Notification
from dev.simulator.directory import Directory
from dev.simulator.entra import Entra
from dev.simulator.graph_api import GraphApi, GraphSettings
from dev.simulator.payloads import Kind, Options, Payload, build
from dev.simulator.subscriptions import Subscription
from dev.simulator.throttle import Throttle


class Graph:
    """Methods may be called from any thread; none but `drain` and `post` waits for the network."""

    def __init__(
        self, api: GraphApi, courier: Courier, entra: Entra, directory: Directory, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._api, self._courier, self._entra, self._directory, self._loop = api, courier, entra, directory, loop

    @property
    def settings(self) -> GraphSettings:
        """Switches of the subscriptions API."""
        return self._api.settings

    @property
    def delivery(self) -> DeliverySettings:
        """Switches of delivery."""
        return self._courier.settings

    @property
    def throttle(self) -> Throttle:
        """Throttling, off at first."""
        return self._api.throttle

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Every subscription in force, oldest first."""
        return self._api.store.all()

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """The ledger of all collections sent, in order."""
        return self._courier.deliveries

    def drain(self, timeout: float = 90.0) -> None:
        """Wait until every delivery is settled.

        Raises:
            TimeoutError: one is not after `timeout` seconds of real time.
        """
        self._courier.drain(timeout)

    def forget_deliveries(self) -> None:
        """Strike the settled deliveries from the ledger: a long run's bodies take memory."""
        self._courier.forget_settled()

    def remove(self, subscription_id: str) -> None:
        """Lose a subscription, without a word to the subscriber.

        Raises:
            LookupError: no such subscription.
        """
        if self._api.store.remove(subscription_id) is None:
            raise LookupError(subscription_id)

    def notify(
        self, target: str, what: Kind | Payload | Mapping[str, Any], options: Options | None = None
    ) -> tuple[Notification, ...]:
        """Let something happen and send it to the subscribers.

        Args:
            target: a subscription's id, or a resource: then all subscriptions to it.
            what: a kind of happening, varied by `options`; a payload; or the resource that a rich item shall hold.

        Returns:
            What was sent: one for each subscription whose `changeType` wants to know.

        Raises:
            LookupError: nobody subscribes to `target`.
        """
        notifications = self.prepare(target, what, options)
        self.send(notifications)
        return notifications

    def prepare(
        self, target: str, what: Kind | Payload | Mapping[str, Any], options: Options | None = None
    ) -> tuple[Notification, ...]:
        """As `notify`, but send nothing: collect several of these for one `send`, or for `collection`."""
        prepared = (self._notification(found, what, options) for found in self._subscribers(target))
        return tuple(entry for entry in prepared if entry is not None)

    def notify_lifecycle(self, target: str, event: str) -> tuple[Notification, ...]:
        """Send a lifecycle notification; `event` is one of Graph's, or one that it may invent.

        Raises:
            LookupError: nobody subscribes to `target`.
        """
        named = self.settings.lifecycle_names_resource
        notifications = tuple(
            _entry(found, lifecycle_notification(event, found.addressee, resource=found.resource if named else None))
            for found in self._subscribers(target)
        )
        self.send(notifications)
        return notifications

    def send(self, notifications: Sequence[Notification]) -> None:
        """Send what `prepare` made: grouped by URL, in collections of at most `delivery.batch_size`."""
        by_url: dict[str, list[Notification]] = {}
        for notification in self._courier.arrange(notifications):
            by_url.setdefault(notification.url, []).append(notification)
        size = self._courier.settings.batch_size
        for url, group in by_url.items():
            for start in range(0, len(group), size):
                chunk = group[start : start + size]
                for entry in self._courier.enter(url, self.collection(chunk), chunk):
                    self._loop.call_soon_threadsafe(self._courier.start, entry)

    def collection(self, notifications: Iterable[Notification]) -> bytes:
        """The body that `send` would post for these, with one validation token per app and tenant of the rich ones."""
        chosen = list(notifications)
        audiences = {(entry.app_id, entry.tenant_id): None for entry in chosen if entry.rich}
        if not audiences:
            return collection(entry.item for entry in chosen)
        tokens = [
            self._entra.validation_token(app_id, tenant_id)
            for app_id, tenant_id in audiences
            if self._directory.change_tracking_may_call(app_id)
        ]
        return collection((entry.item for entry in chosen), tokens or None, rich=True)

    def post(self, url: str, body: bytes, headers: Mapping[str, str] | None = None, timeout: float = 60.0) -> Attempt:
        """POST whatever to wherever, once, and wait for the answer. Not to be called on the subscriber's own loop."""
        chosen = headers if headers is not None else {"Content-Type": "application/json; charset=utf-8"}
        work = self._courier.post(url, body, chosen, timeout=timeout)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _subscribers(self, target: str) -> list[Subscription]:
        wanted = target.strip("/").casefold()
        found = [
            known
            for known in self.subscriptions
            if target == known.id or wanted == known.resource.strip("/").casefold()
        ]
        if not found:
            raise LookupError(f"nobody subscribes to {target}")
        return found

    def _notification(
        self, subscription: Subscription, what: Kind | Payload | Mapping[str, Any], options: Options | None
    ) -> Notification | None:
        payload = _payload(subscription, what, options)
        changes = {word.strip() for word in subscription.change_type.split(",")}
        if payload.change_type not in changes:
            if "updated" not in changes:
                return None
            # Whoever asks for updates alone is told of the first version too, as an update.
            payload = replace(payload, change_type="updated")
        name = str(uuid.uuid4()) if self.settings.notification_ids else None
        item = change_notification(payload, subscription.addressee, notification_id=name)
        if self.settings.odd_echoes and (content := item.get(payload.content_name)) is not None:
            content["encryptionCertificateId"] = content["encryptionCertificateId"].upper()
        return _entry(subscription, item, payload.content)


def _payload(subscription: Subscription, what: Kind | Payload | Mapping[str, Any], options: Options | None) -> Payload:
    if isinstance(what, Payload):
        return what
    if isinstance(what, Kind):
        chosen = options or Options(tenant_id=subscription.tenant_id)
        return build(what, chosen if chosen.resource else replace(chosen, resource=subscription.resource))
    outer = {name: what[name] for name in ("@odata.type", "@odata.id", "id") if name in what}
    return Payload(subscription.resource, "updated", outer, dict(what))


def _entry(
    subscription: Subscription, item: Mapping[str, Any], content: Mapping[str, Any] | None = None
) -> Notification:
    lifecycle = "lifecycleEvent" in item
    rich = any(item.get(name) is not None for name in ("encryptedContent", "EncryptedContent"))
    url = subscription.lifecycle_notification_url if lifecycle else None
    return Notification(
        key=str(uuid.uuid4()),
        url=url or subscription.notification_url,
        subscription_id=subscription.id,
        tenant_id=subscription.tenant_id,
        app_id=subscription.notification_url_app_id or subscription.app_id,
        rich=rich,
        item=item,
        plaintext=content if rich else None,
    )
