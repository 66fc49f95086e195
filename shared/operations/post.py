"""HTTP to the app's own endpoint, for the self-test."""

import asyncio
from typing import Final

import requests

from shared.values.errors import UnavailableError

_TIMEOUT: Final = (5.0, 15.0)  # to connect, to read, in seconds: an instance may have to start


async def post_json(url: str, body: bytes) -> int:
    """Post JSON and return the status.

    Raises:
        UnavailableError: there is no answer.
    """
    return await asyncio.to_thread(_post, url, body)


def _post(url: str, body: bytes) -> int:
    headers = {"Content-Type": "application/json"}
    try:
        return requests.post(url, data=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False).status_code
    except requests.RequestException as error:
        raise UnavailableError("the endpoint", reason="endpoint-no-answer") from error
