"""The signature of an account key. Source: "Authorize with Shared Key" (Azure Storage REST)."""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import unquote

_SIGNED = ("content-encoding", "content-language", "content-length", "content-md5", "content-type", "date",
           "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range")  # fmt: skip


class SharedKey:
    """Signs the requests to one account."""

    def __init__(self, account: str, key: str) -> None:
        """`key` in base64; raises ValueError where it is not."""
        self._account = account
        self._key = b64decode(key, validate=True)

    def authorization(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> str:
        """The header `Authorization` of a request.

        Args:
            method: in upper case.
            path: as it goes over the wire.
            query: the same, without its question mark.
            headers: by lower-case names, `x-ms-date` and `x-ms-version` among them.
        """
        fields = [headers.get(name, "") for name in _SIGNED]
        if fields[2] == "0":
            fields[2] = ""
        own = [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("x-ms-")]
        parameters = [part.partition("=") for part in query.split("&")] if query else []
        named = sorted((name.lower(), unquote(value)) for name, _, value in parameters)
        lines = [method, *fields, *own, f"/{self._account}{path}", *(f"{name}:{value}" for name, value in named)]
        digest = hmac.digest(self._key, "\n".join(lines).encode(), sha256)
        return f"SharedKey {self._account}:{b64encode(digest).decode()}"
