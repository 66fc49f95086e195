"""What is sent to Graph and what it answers, as JSON and as what that says."""

import codecs
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec

from shared.values import graph, graph_errors
from shared.values.errors import MalformedInputError
from shared.values.events.unusual_json import read_leniently
from shared.values.graph import Call, Reply, Subscription
from shared.values.graph_errors import OutcomeUnknownError
from shared.values.lifetimes import LEAST_GRANTED
from shared.values.resource_row import ApiVersion

_log = logging.getLogger(__name__)


def readable_subscriptions(
    page: Sequence[Mapping[str, Any]], tenant_id: str, version: ApiVersion, now: datetime
) -> Iterator[Subscription]:
    """Those of a page that can be read: one that cannot must not keep the others from being renewed.

    One whose expiration is not told may end at any time.
    """
    for value in page:
        try:
            yield graph.parse_subscription(value, tenant_id, version, assumed=now)
        except MalformedInputError as error:
            _log.warning("a subscription in the list of tenant %s cannot be read: %s", tenant_id, error.reason)


def batch_parts(calls: Sequence[Call]) -> list[dict[str, Any]]:
    parts = []
    for place, call in enumerate(calls):
        part: dict[str, Any] = {"id": str(place), "method": call.method, "url": call.path}
        if call.body is not None:
            part |= {"headers": {"Content-Type": "application/json"}, "body": call.body}
        parts.append(part)
    return parts


def decoded_json(content: bytes) -> Any:
    """The JSON of an answer, or None: an error page of a proxy is not JSON, and its status says enough."""
    try:
        # Some workloads of Graph's send a byte order mark, and names can be cut inside an emoji.
        return read_leniently(msgspec.json.decode, content.removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError):
        return None


def same_origin(url: str, endpoint: str) -> bool:
    left, right = urlsplit(url), urlsplit(endpoint)
    return (left.scheme, left.netloc.lower()) == (right.scheme, right.netloc.lower())


def reply_to(call: Call, part: Mapping[str, Any] | None, now: datetime) -> Reply:
    """The reply to a call, from its part of a batch's answer; without one, its outcome is unknown."""
    if part is None or not isinstance(part.get("status"), int):
        return OutcomeUnknownError()
    status, body = part["status"], part.get("body")
    if status >= 300:
        headers = part.get("headers")
        lower = {str(name).lower(): value for name, value in headers.items()} if isinstance(headers, Mapping) else {}
        retry_after = graph.parse_retry_after(lower.get("retry-after"), now)
        return graph_errors.error_of(status, body, retry_after)
    if call.method == "DELETE":
        return None
    try:
        assumed = now + (timedelta(0) if call.method == "GET" else LEAST_GRANTED)
        return graph.parse_subscription(body, call.tenant_id, call.api_version, assumed=assumed)
    except MalformedInputError:
        return OutcomeUnknownError()
