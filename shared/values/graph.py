"""What is said to Microsoft Graph about subscriptions, and what it answers: values and bodies, no I/O.

Sources: the Graph pages "subscription resource type" (https://learn.microsoft.com/graph/api/resources/subscription),
"Create subscription" (https://learn.microsoft.com/graph/api/subscription-post-subscriptions), "Update subscription"
(https://learn.microsoft.com/graph/api/subscription-update), "Combine multiple HTTP requests using JSON batching"
(https://learn.microsoft.com/graph/json-batching).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

from shared.values import resources
from shared.values.errors import MalformedInputError, SwitchboardError
from shared.values.resource_row import ApiVersion, ResourceKind

API_VERSIONS: Final[tuple[ApiVersion, ...]] = ("v1.0", "beta")
BATCH_SIZE: Final = 20  # requests in a $batch, at most
_LONGEST_WAIT: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as Graph describes it, or, where it is `remembered`, by what we sent to make and renew it.

    `certificate_id` is None where Graph does not say: for a basic subscription, or where an answer leaves it out.
    `life` is what Graph granted at the last renewal, None where that is not known. `kept_certificate` is the id of a
    certificate that Graph did not take in a renewal. `sent` says that the resource is, to the letter, what we asked for
    when we made it. `spelling` is the resource as Graph spells it. `expires_told` is False where Graph left the
    expiration out, and `expires` is an assumption.
    """

    id: str
    tenant_id: str
    api_version: ApiVersion
    resource: str
    change_type: str
    notification_url: str = field(repr=False)  # may carry a function key
    expires: datetime
    certificate_id: str | None = None
    life: timedelta | None = field(default=None, compare=False)
    kept_certificate: str | None = field(default=None, compare=False)
    spelling: str | None = field(default=None, compare=False)
    remembered: bool = field(default=False, compare=False)
    sent: bool = field(default=False, compare=False)
    expires_told: bool = field(default=True, compare=False)

    @property
    def kind(self) -> ResourceKind | None:
        """The row of the catalogue, or None where no row knows the resource."""
        return resources.match(self.resource)


@dataclass(frozen=True, slots=True)
class Call:
    """One request about subscriptions: a part of a batch.

    `subscription_id` is None for the collection itself (POST). `delegated` asks for a signed-in user's token. `expires`
    is the end of the subscription that it is about: how long the call may be put off depends on it.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    tenant_id: str
    api_version: ApiVersion
    delegated: bool
    subscription_id: str | None = None
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    expires: datetime | None = field(default=None, compare=False)

    @property
    def channel(self) -> tuple[str, ApiVersion, bool]:
        """Calls of one channel can share a batch."""
        return self.tenant_id, self.api_version, self.delegated

    @property
    def path(self) -> str:
        """The URL of the batch part, relative to the API version."""
        return "/subscriptions" if self.subscription_id is None else f"/subscriptions/{self.subscription_id}"


type Reply = Subscription | SwitchboardError | None
"""What comes of a call: the subscription (GET, POST, PATCH), None (DELETE), or why not."""


def parse_subscription(
    value: object, tenant_id: str, listed_in: ApiVersion, *, assumed: datetime | None = None
) -> Subscription:
    """Read a subscription as Graph returns it.

    Args:
        value: the decoded JSON.
        tenant_id: the tenant of the token that it was read with; Graph does not say it.
        listed_in: the API version that it was read from. A resource of the catalogue is spoken of in its own version.
        assumed: the expiration to go by where Graph tells none that can be read.

    Raises:
        MalformedInputError: it lacks an id, a resource, or a readable expiration in place of which none is assumed.
    """
    fields = value if isinstance(value, Mapping) else {}
    identity, resource = fields.get("id"), fields.get("resource")
    certificate_id = fields.get("encryptionCertificateId")
    told = _expiration(fields.get("expirationDateTime"), needed=assumed is None)
    expires = told or assumed
    if not (isinstance(identity, str) and identity and isinstance(resource, str) and expires is not None):
        raise MalformedInputError("not a subscription", reason="subscription-malformed")
    kind = resources.match(resource)
    return Subscription(
        id=identity,
        tenant_id=tenant_id,
        api_version=listed_in if kind is None else kind.form(resource).version_near(listed_in),
        resource=resource,
        change_type=str(fields.get("changeType") or ""),
        notification_url=str(fields.get("notificationUrl") or ""),
        expires=expires,
        certificate_id=certificate_id if isinstance(certificate_id, str) and certificate_id else None,
        expires_told=told is not None,
    )


def _expiration(value: object, *, needed: bool) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = parse_time(value)
    except MalformedInputError:
        if needed:
            raise
        return None
    # "0001-01-01T00:00:00Z" is how .NET writes no time; "permission resource type" shows Graph do so
    # (https://learn.microsoft.com/graph/api/resources/permission).
    return None if moment.year == 1 else moment


def parse_time(text: str) -> datetime:
    """Read Graph's ISO 8601, with any number of decimals; without an offset it is UTC.

    Raises:
        MalformedInputError: it is not a time.
    """
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the first hours of the year 1, east of Greenwich, are before it
        raise MalformedInputError("not a time", reason="time-malformed") from error


def format_time(moment: datetime) -> str:
    """Write a time as Graph takes it, in whole seconds of UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_retry_after(value: object, now: datetime) -> float | None:
    """Read a Retry-After header, in seconds or as a date; None where there is none that can be read."""
    if not isinstance(value, str | int | float):
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(str(value)) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None  # noqa: PLR0124 - NaN
