"""What a storage connection string says.

Sources: "Configure Azure Storage connection strings" (https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string);
for the emulator's, "Connect to Azurite with SDKs and tools" (https://learn.microsoft.com/azure/storage/common/storage-connect-azurite).
"""

import re
from base64 import b64decode
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from shared.values.errors import SettingsError

_SUFFIX: Final = "core.windows.net"
_EMULATOR: Final = "devstoreaccount1"
_EMULATOR_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_EMULATOR_PORTS: Final = {"queue": 10001, "blob": 10000}
_ADDRESS: Final = re.compile(r"https?://[^\s?#]+", re.IGNORECASE | re.ASCII)


class ConnectionString(NamedTuple):
    """Where queues and blobs are, without a slash at the end, and what opens them: an account key or a SAS."""

    queues: str
    blobs: str
    account: str
    key: str | None  # in base64
    sas: str  # "" where there is a key


def parse_connection_string(text: str) -> ConnectionString:
    """Read a connection string.

    Raises:
        SettingsError: it names no place, or nothing that opens it; what it says is not repeated.
    """
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    values = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if values.get("usedevelopmentstorage", "").lower() == "true":
        return ConnectionString(_emulator("queue"), _emulator("blob"), _EMULATOR, _EMULATOR_KEY, "")
    account, key = values.get("accountname", ""), values.get("accountkey") or None
    sas = "" if account and key else values.get("sharedaccesssignature", "").lstrip("?")
    places = [_place(values, service) for service in ("queue", "blob")]
    if not all(places) or not (sas or (account and key and _is_base64(key))):
        raise SettingsError(["AzureWebJobsStorage: not valid (a storage account's connection string)"])
    return ConnectionString(places[0], places[1], account, None if sas else key, sas)


def is_address(url: str) -> bool:
    """Whether a URL is that of a service: http or https, a host, a port if any, a path if any, and nothing more."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0 and url.isascii() and _ADDRESS.fullmatch(url) is not None
    except ValueError:  # a port or an IPv6 address that is none
        return False


def _is_base64(text: str) -> bool:
    try:
        return bool(b64decode(text, validate=True))
    except ValueError:
        return False


def _emulator(service: str) -> str:
    return f"http://127.0.0.1:{_EMULATOR_PORTS[service]}/{_EMULATOR}"


def _place(values: dict[str, str], service: str) -> str:
    """The address of a service; empty where none is said."""
    address = values.get(f"{service}endpoint", "")
    if not address and (account := values.get("accountname")):
        scheme = values.get("defaultendpointsprotocol") or "https"
        address = f"{scheme}://{account}.{service}.{values.get('endpointsuffix') or _SUFFIX}"
    return address.rstrip("/") if is_address(address) else ""
