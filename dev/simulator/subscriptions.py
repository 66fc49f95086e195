"""The subscriptions that Graph holds."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dev.simulator.clock import Clock, graph_time
from dev.simulator.collection import Addressee
from dev.simulator.crypto import Recipient
from dev.simulator.rules import GraphError, ResourceRule, Unique


@dataclass(frozen=True)
class Subscription:
    """One subscription; `user_id` is whose it is if it was made with a delegated token."""

    id: str
    rule: ResourceRule
    version: str
    resource: str
    change_type: str
    notification_url: str
    lifecycle_notification_url: str | None
    client_state: str | None
    expires: datetime
    app_id: str
    tenant_id: str
    user_id: str | None
    creator_id: str
    latest_tls_version: str
    notification_url_app_id: str | None
    encryption_certificate: str | None = None
    encryption_certificate_id: str | None = None
    recipient: Recipient | None = None

    @property
    def addressee(self) -> Addressee:
        """What its notifications repeat of it."""
        return Addressee(
            tenant_id=self.tenant_id,
            client_state=self.client_state,
            recipient=self.recipient,
            subscription_id=self.id,
            expires=self.expires,
        )

    def entity(self) -> dict[str, Any]:
        """The `subscription` resource."""
        return {
            "id": self.id,
            "resource": self.resource,
            "applicationId": self.app_id,
            "changeType": self.change_type,
            "clientState": self.client_state,
            "notificationUrl": self.notification_url,
            "notificationQueryOptions": None,
            "lifecycleNotificationUrl": self.lifecycle_notification_url,
            "expirationDateTime": graph_time(self.expires),
            "creatorId": self.creator_id,
            "includeResourceData": self.recipient is not None,
            "latestSupportedTlsVersion": self.latest_tls_version,
            "encryptionCertificate": self.encryption_certificate,
            "encryptionCertificateId": self.encryption_certificate_id,
            "notificationUrlAppId": self.notification_url_app_id,
        }

    @property
    def path(self) -> str:
        """Its resource, the same for all spellings of a path."""
        return self.resource.strip("/").casefold()

    def unique_key(self) -> tuple[str, ...]:
        """What no second subscription may share."""
        owner = (self.rule.name, self.app_id, self.tenant_id)
        resource = self.path
        match self.rule.unique:
            case Unique.USER:
                return (*owner, self.user_id or "")
            case Unique.RESOURCE:
                return (*owner, resource)
            case Unique.CHANGE_TYPE_AND_RESOURCE:
                changes = ",".join(sorted(word.strip() for word in self.change_type.split(",")))
                return (*owner, resource, changes)


_FOREVER: Final = datetime.max.replace(tzinfo=UTC)


class Store:
    """All subscriptions, by id. Those that have expired are gone. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._by_id: dict[str, Subscription] = {}
        self._by_key: dict[tuple[str, ...], str] = {}
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._earliest = _FOREVER  # no subscription expires before this

    def all(self) -> tuple[Subscription, ...]:
        """Every subscription in force, oldest first."""
        with self._lock:
            self._purge()
            return tuple(self._by_id.values())

    def get(self, subscription_id: str) -> Subscription | None:
        """The subscription in force with this id."""
        with self._lock:
            found = self._by_id.get(subscription_id)
            if found is not None and found.expires <= self._clock.now():
                self._drop(found)
                return None
            return found

    def check(self, candidate: Subscription, *, quota: int | None, refuse_duplicates: bool) -> None:
        """Whether `candidate` may join.

        Raises:
            GraphError: 409 or 403, there is one already; 403, there are as many as may be to its path, or `quota` (per
                tenant) is used up.
        """
        with self._lock:
            self._purge()
            twin = self._by_key.get(candidate.unique_key())
            if refuse_duplicates and twin is not None and candidate.rule.limited:
                raise _limit_reached("application", 1)
            if refuse_duplicates and twin is not None:
                raise GraphError(
                    409, "Conflict", f"Subscription Id {twin} already exists for the requested combination"
                )
            most = candidate.rule.most
            if most is not None and self._counts[_path_key(candidate)] >= most:
                raise _limit_reached("user", most)
            if quota is not None and self._counts[_quota_key(candidate)] >= quota:
                raise GraphError(
                    403, "Forbidden", f"The limit of {quota} subscriptions of this organization has been reached."
                )

    def add(self, subscription: Subscription, *, quota: int | None, refuse_duplicates: bool) -> None:
        """Check once more and keep; raises as `check` does."""
        with self._lock:
            self.check(subscription, quota=quota, refuse_duplicates=refuse_duplicates)
            self._by_id[subscription.id] = subscription
            self._earliest = min(self._earliest, subscription.expires)
            self._by_key[subscription.unique_key()] = subscription.id
            self._counts.update((_quota_key(subscription), _path_key(subscription)))

    def change(self, subscription_id: str, update: Callable[[Subscription], Subscription]) -> Subscription | None:
        """Replace one by what `update` makes of it; None if it is not there."""
        with self._lock:
            found = self.get(subscription_id)
            if found is None:
                return None
            changed = self._by_id[subscription_id] = update(found)
            self._earliest = min(self._earliest, changed.expires)
            return changed

    def remove(self, subscription_id: str) -> Subscription | None:
        """Remove one and return it; None if it is not there."""
        with self._lock:
            found = self.get(subscription_id)
            if found is not None:
                self._drop(found)
            return found

    def _purge(self) -> None:
        now = self._clock.now()
        if now < self._earliest:
            return
        for subscription in [known for known in self._by_id.values() if known.expires <= now]:
            self._drop(subscription)
        self._earliest = min((known.expires for known in self._by_id.values()), default=_FOREVER)

    def _drop(self, subscription: Subscription) -> None:
        del self._by_id[subscription.id]
        self._counts.subtract((_quota_key(subscription), _path_key(subscription)))
        if self._by_key.get(subscription.unique_key()) == subscription.id:
            del self._by_key[subscription.unique_key()]


def _quota_key(subscription: Subscription) -> tuple[str, ...]:
    return subscription.tenant_id, subscription.rule.quota


def _path_key(subscription: Subscription) -> tuple[str, ...]:
    return subscription.tenant_id, subscription.rule.name, subscription.path


def _limit_reached(whose: str, limit: int) -> GraphError:
    """As applications have seen it of an application's limit; how Graph words a user's is in no page."""
    said = f"The {whose} has reached its limit of '{limit}' subscriptions to this resource."
    return GraphError(403, "ExtensionError", f"Operation: Create; Exception: [Status Code: Forbidden; Reason: {said}]")
