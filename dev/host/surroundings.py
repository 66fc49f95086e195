"""What the host takes from outside: a replay in virtual time gives it others than the machine's own.

The event loop's clock, which all pauses go by, is the running loop's and so comes from outside anyway.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from azure.core.pipeline.transport import AsyncHttpTransport


def _now() -> datetime:
    return datetime.now(UTC)


def _transport(url: str) -> "AsyncHttpTransport[Any, Any]":
    # The storage SDK is half of what the host imports, and an app without queues need not wait for it.
    from azure.core.pipeline.transport import AioHttpTransport  # noqa: PLC0415

    # Reading the proxy variables for each request is two fifths of the SDK's work; an emulator needs no proxy.
    transport: AsyncHttpTransport[Any, Any] = AioHttpTransport(use_env_settings=not _is_loopback(url))
    return transport


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the host takes from outside.

    Attributes:
        now: the wall time, UTC.
        random: chance.
        transport: makes that of a storage client for a service's URL.
    """

    now: Callable[[], datetime] = _now
    random: Random = field(default_factory=Random)
    transport: "Callable[[str], AsyncHttpTransport[Any, Any]]" = _transport


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
