"""host.json, local.settings.json, and how bindings refer to settings.

Sources: "host.json reference for Azure Functions 2.x and later", "Azure Queue storage trigger and bindings",
"Code and test Azure Functions locally", "Azure Functions bindings expressions patterns".
"""

import getpass
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, timedelta, tzinfo
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from dev.host.errors import LoadError
from dev.host.time_span import parse_time_span

_SETTING = re.compile(r"%([^%\s]+)%")
_OVERRIDE: Final = "AzureFunctionsJobHost__"


class QueueOptions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`extensions.queues` of host.json, with the real host's defaults."""

    batch_size: int = 16
    new_batch_threshold: int | None = None
    visibility_timeout: str = "00:00:00"
    max_polling_interval: str = "00:01:00"
    max_dequeue_count: int = 5
    message_encoding: str = "base64"

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= 32:
            raise ValueError("batchSize must be from 1 to 32")
        if self.new_batch_threshold is not None and self.new_batch_threshold < 0:
            raise ValueError("newBatchThreshold must not be negative")
        if self.max_dequeue_count < 1:
            raise ValueError("maxDequeueCount must be at least 1")
        if self.longest_pause < timedelta(milliseconds=100):
            raise ValueError("maxPollingInterval must be at least 00:00:00.100")
        parse_time_span(self.visibility_timeout)
        if self.message_encoding.lower() not in {"base64", "none"}:
            raise ValueError("messageEncoding must be base64 or none")

    @property
    def threshold(self) -> int:
        """A new batch is fetched when no more messages than this are being processed.

        By default half of batchSize for each core of the machine.
        """
        if self.new_batch_threshold is not None:
            return self.new_batch_threshold
        return self.batch_size // 2 * (os.cpu_count() or 1)

    @property
    def retry_delay(self) -> timedelta:
        """How long a message stays invisible after a failed invocation."""
        return parse_time_span(self.visibility_timeout)

    @property
    def longest_pause(self) -> timedelta:
        """The longest pause between two looks at an empty queue."""
        return parse_time_span(self.max_polling_interval)

    @property
    def is_base64(self) -> bool:
        """Whether message texts are Base64."""
        return self.message_encoding.lower() == "base64"


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`extensions.http` of host.json."""

    route_prefix: str = "api"


class SingletonOptions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`singleton` of host.json, as far as it is about the locks of listeners, with the real host's defaults."""

    listener_lock_period: str = "00:01:00"
    listener_lock_recovery_polling_interval: str = "00:01:00"

    def __post_init__(self) -> None:
        if not timedelta(seconds=15) <= self.lock_period <= timedelta(seconds=60):
            raise ValueError("listenerLockPeriod must be from 00:00:15 to 00:01:00")
        if self.standby_pause < timedelta(seconds=15):
            raise ValueError("listenerLockRecoveryPollingInterval must be at least 00:00:15")

    @property
    def lock_period(self) -> timedelta:
        """How long a lock outlives the host that held it; it is renewed at half of that."""
        return parse_time_span(self.listener_lock_period)

    @property
    def standby_pause(self) -> timedelta:
        """The pause between two looks at a lock that another host has."""
        return parse_time_span(self.listener_lock_recovery_polling_interval)


class Extensions(msgspec.Struct, frozen=True, kw_only=True):
    """`extensions` of host.json."""

    http: HttpOptions = HttpOptions()
    queues: QueueOptions = QueueOptions()


class HostJson(msgspec.Struct, frozen=True, kw_only=True):
    """What the local host reads of host.json; everything else there is for the cloud."""

    version: str
    extensions: Extensions = Extensions()
    singleton: SingletonOptions = SingletonOptions()
    function_timeout: str = msgspec.field(name="functionTimeout", default="00:30:00")

    def __post_init__(self) -> None:
        if self.function_timeout != "-1":
            parse_time_span(self.function_timeout)

    @property
    def timeout_seconds(self) -> float | None:
        """How long a function may take; None for any time."""
        return None if self.function_timeout == "-1" else parse_time_span(self.function_timeout).total_seconds()


class _LocalSettings(msgspec.Struct, frozen=True, kw_only=True):
    is_encrypted: bool = msgspec.field(name="IsEncrypted", default=False)
    values: dict[str, str] = msgspec.field(name="Values", default_factory=dict)


def read_host_json(app: Path, settings: Mapping[str, str]) -> HostJson:
    """Read and check APP/host.json, and what settings override of it: AzureFunctionsJobHost__PATH__TO__NAME.

    Raises:
        LoadError: it is missing, or says something that the real host would refuse too.
    """
    path = app / "host.json"

    def decode(text: bytes) -> HostJson:
        values = msgspec.json.decode(text, type=dict[str, Any])
        for name, value in settings.items():
            if name.startswith(_OVERRIDE):
                _override(values, name.removeprefix(_OVERRIDE).split("__"), value)
        return msgspec.convert(values, HostJson)

    try:
        host_json = _decode(path, decode)
    except FileNotFoundError:
        raise LoadError(f"there is no host.json in {app}") from None
    if host_json.version != "2.0":
        raise LoadError(f'{path}: "version" must be "2.0"')
    return host_json


def _override(values: dict[str, Any], path: list[str], value: str) -> None:
    *parents, name = path
    for parent in parents:
        inner = values.get(parent)
        if not isinstance(inner, dict):
            inner = values[parent] = {}
        values = inner
    try:
        values[name] = msgspec.json.decode(value)  # a number or a truth value
    except msgspec.DecodeError:
        values[name] = value


def merge_local_settings(app: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The values of APP/local.settings.json that the environment lacks; like Core Tools, it never overrides.

    Raises:
        LoadError: the file is not valid, or is encrypted.
    """
    path = app / "local.settings.json"
    try:
        local = _decode(path, lambda text: msgspec.json.decode(text, type=_LocalSettings))
    except FileNotFoundError:
        return {}
    if local.is_encrypted:
        raise LoadError(f"{path} is encrypted: run `func settings decrypt`")
    return {name: value for name, value in local.values.items() if not environment.get(name)}


def worker_count(settings: Mapping[str, str]) -> int:
    """The setting FUNCTIONS_WORKER_PROCESS_COUNT, 1 by default.

    Raises:
        LoadError: it is not a number from 1 to 10.
    """
    text = settings.get("FUNCTIONS_WORKER_PROCESS_COUNT") or "1"
    if not text.isdecimal() or not 1 <= int(text) <= 10:
        raise LoadError(f"FUNCTIONS_WORKER_PROCESS_COUNT must be from 1 to 10, not {text!r}")
    return int(text)


def time_zone(settings: Mapping[str, str]) -> tzinfo:
    """The zone in which schedules are meant: the setting WEBSITE_TIME_ZONE or TZ, UTC by default.

    Raises:
        LoadError: there is no zone of that name.
    """
    name = settings.get("WEBSITE_TIME_ZONE") or settings.get("TZ") or "UTC"
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ValueError, KeyError, OSError) as error:
        raise LoadError(f"{name!r} (setting WEBSITE_TIME_ZONE or TZ) is not the name of a time zone") from error


def host_id(app: Path, settings: Mapping[str, str]) -> str:
    """The setting AzureFunctionsWebHost__hostId, or one for this user and folder."""
    folder = hashlib.sha256(f"{getpass.getuser()}:{app}".encode()).hexdigest()[:16]
    return settings.get("AzureFunctionsWebHost__hostId") or f"local-{folder}"


def resolve(text: str, settings: Mapping[str, str]) -> str:
    """Replace each `%NAME%` with the setting of that name, in whatever case the setting is written.

    Raises:
        LoadError: there is no such setting.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name.lower() not in values:
            raise LoadError(f"'%{name}%' does not resolve to a value: there is no setting {name}")
        return values[name.lower()]

    values = {name.lower(): value for name, value in settings.items()}
    return _SETTING.sub(value, text)


def _decode[T](path: Path, decode: Callable[[bytes], T]) -> T:
    # Editors on Windows write a byte order mark, which .NET skips.
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        return decode(text)
    except msgspec.DecodeError as error:
        raise LoadError(f"{path}: {error}") from error
