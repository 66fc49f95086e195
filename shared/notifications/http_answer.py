"""HTTP answers, and the validation handshake.

This module imports the standard library alone, so that a worker that has just started answers the handshake at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_VALIDATION_TOKEN_CHARS: Final = 2048


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/plain"


ACCEPTED: Final = Answer(202)


def refused(status: int, reason: str) -> Answer:
    """An answer that says in plain text what is wrong."""
    return Answer(status, reason, {"X-Content-Type-Options": "nosniff"})


def try_again(reason: str, after: float | None = None) -> Answer:
    """503; `after` is in seconds."""
    return Answer(503, reason, {"X-Content-Type-Options": "nosniff", "Retry-After": str(max(1, round(after or 5)))})


def handshake(validation_token: str) -> Answer:
    """Answer a validation request by echoing its token.

    Graph's tokens hold no markup ("Receive change notifications through webhooks",
    https://learn.microsoft.com/graph/change-notifications-delivery-webhooks). A token with some is refused, because
    whoever sent it wants a browser to show this answer as a page.

    Args:
        validation_token: decoded, as the query string's parser gives it.
    """
    if not validation_token or len(validation_token) > MAX_VALIDATION_TOKEN_CHARS or set(validation_token) & set("<>"):
        return refused(400, "the validation token is empty, too long or not one of Microsoft Graph's")
    return Answer(200, validation_token, {"X-Content-Type-Options": "nosniff"})
