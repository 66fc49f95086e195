"""What Graph is given: where to deliver, with the marks by which our subscriptions are known, and a certificate."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, urlsplit

_MARK: Final = "mark"
_MARKED: Final = re.compile(rf"[?&]{_MARK}=[0-9a-f]*$")
CACHED_URLS: Final = 256  # thousands of subscriptions share a handful of notification URLs
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_UNPLAIN: Final = re.compile(r"[^!-~]|[#\\\"<>^`{|}]")


@dataclass(frozen=True, slots=True)
class EncryptionCertificate:
    """The public certificate that Graph encrypts resource data for.

    `id` is ``{name}/{version}`` in Key Vault; `der_base64` is the X.509 certificate, DER, base64, on one line.
    """

    id: str
    der_base64: str = field(repr=False)

    @property
    def fields(self) -> Mapping[str, str]:
        """The two fields by which Graph learns it, in POST and in PATCH."""
        return {"encryptionCertificate": self.der_base64, "encryptionCertificateId": self.id}


def is_same_id(told: str | None, wanted: str) -> bool:
    """Whether a certificate id that Graph tells may be the wanted one: it has been seen in capitals, and left out."""
    return told is None or told.casefold() == wanted.casefold()


def is_plain(url: str) -> bool:
    """Whether a URL comes back from Graph as it was sent: no fragment, no user, nothing that would be encoded."""
    return _UNPLAIN.search(url) is None and "@" not in urlsplit(url).netloc


class ClientStateVersion(StrEnum):
    """Which secret a subscription of ours carries."""

    CURRENT = "current"
    PREVIOUS = "previous"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where Graph is to deliver, and the secrets by which a delivery is known: the current one first."""

    notification_url: str
    lifecycle_url: str
    client_states: tuple[str, ...] = field(repr=False)

    def url(self, *, rich: bool) -> str:
        """The notification URL of a new subscription, mark included."""
        separator = "&" if urlsplit(self.notification_url).query else "?"
        return f"{self.notification_url}{separator}{_MARK}={self._mark(self.client_states[0], rich=rich)}"

    def owns(self, url: str) -> bool:
        """Whether a subscription with this notification URL is ours."""
        address = _address(url)
        return address is not None and address == _address(self.notification_url)

    @lru_cache(maxsize=CACHED_URLS)  # noqa: B019 - there is one endpoint
    def read_mark(self, url: str) -> tuple[ClientStateVersion, bool]:
        """Which secret the mark in a notification URL stands for, and whether the subscription is a rich one."""
        mark = dict(parse_qsl(urlsplit(url).query)).get(_MARK, "")
        for version, secret in zip(
            (ClientStateVersion.CURRENT, ClientStateVersion.PREVIOUS), self.client_states, strict=False
        ):
            for rich in (True, False):
                if hmac.compare_digest(mark.encode(), self._mark(secret, rich=rich).encode()):
                    return version, rich
        return ClientStateVersion.UNKNOWN, False

    @lru_cache(maxsize=CACHED_URLS)  # noqa: B019 - there is one endpoint
    def was_ours(self, url: str) -> bool:
        """Whether a subscription with this notification URL is of our making, from when we had another address."""
        if _address(url) is None:
            return False
        address, own = urlsplit(url), urlsplit(self.lifecycle_url)
        lifecycle_urls = (
            own._replace(scheme=address.scheme, netloc=address.netloc).geturl(),
            _MARKED.sub("", url),  # where the notification URL serves for both
        )
        formers = (replace(self, lifecycle_url=lifecycle_url) for lifecycle_url in lifecycle_urls)
        return any(former.read_mark(url)[0] is not ClientStateVersion.UNKNOWN for former in formers)

    @property
    def addresses(self) -> str:
        """What Graph calls, without the queries: they may carry a function key."""
        return " and ".join(dict.fromkeys(url.partition("?")[0] for url in (self.notification_url, self.lifecycle_url)))

    @property
    def is_plain(self) -> bool:
        """Whether Graph gives our URLs back unchanged; if not, comparing them says nothing, and nothing is moved."""
        return is_plain(self.notification_url) and is_plain(self.lifecycle_url)

    def up_to_date(self, url: str) -> bool:
        """Whether all of a notification URL's query but the mark is what it would be today (a function key, say)."""
        return not self.is_plain or _query(url) == _query(self.notification_url)

    def _mark(self, secret: str, *, rich: bool) -> str:
        text = f"switchboard\n{self.lifecycle_url}\n{'rich' if rich else 'basic'}"
        return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:12]


@lru_cache(maxsize=CACHED_URLS)
def _address(url: str) -> tuple[str, str | None, int | None, str] | None:
    """Scheme, host, port and path; None where that cannot be read."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/").casefold()  # as the Functions host compares it


@lru_cache(maxsize=CACHED_URLS)
def _query(url: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(pair for pair in parse_qsl(urlsplit(url).query, keep_blank_values=True) if pair[0] != _MARK))
