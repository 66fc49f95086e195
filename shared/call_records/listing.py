"""Call records, read from Graph.

Sources: "List callRecords" (https://learn.microsoft.com/graph/api/callrecords-cloudcommunications-list-callrecords),
"Get callRecord" (https://learn.microsoft.com/graph/api/callrecords-callrecord-get: one relationship can be expanded),
"List participants_v2" (https://learn.microsoft.com/graph/api/callrecords-callrecord-list-participants_v2), and
"Microsoft Graph service-specific throttling limits", Call records (https://learn.microsoft.com/graph/throttling-limits).
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

import msgspec

from shared.call_records.coverage import ListedRecord, RecordPage, Step, parse_record
from shared.clock import Clock
from shared.graph.client import GraphClient
from shared.graph.throttling import RateLimiter
from shared.values import graph_errors
from shared.values.errors import MalformedInputError, UnavailableError

logger = logging.getLogger(__name__)

_READS: Final = (1500, 15_000)  # per 20 s: of the application in a tenant, and in all
_LISTS: Final = (40, 15_000)


class CallRecords:
    """One reader for all tenants of a process; it keeps within the limits by itself."""

    def __init__(self, client: GraphClient, endpoint: str, clock: Clock) -> None:
        """Take what it needs.

        Args:
            client: what speaks to Graph.
            endpoint: Graph's address without a slash at the end.
            clock: for pauses.
        """
        self._client = client
        self._url = f"{endpoint}/v1.0/communications/callRecords"
        self._reads = RateLimiter(*_READS, clock)
        self._lists = RateLimiter(*_LISTS, clock)

    async def page(self, tenant_id: str, step: Step, link: str | None) -> RecordPage:
        """A page of a step's records: the one that `link` leads to, or the first.

        Raises:
            UnavailableError: Graph or Entra ID did not answer.
            GraphError: Graph refuses.
        """
        url = link or f"{self._url}?$filter={quote(step.condition)}"
        page = await self._client.get(url, tenant_id, limiter=self._lists)
        values, following = page.get("value"), page.get("@odata.nextLink")
        if not isinstance(values, list):
            raise UnavailableError("Graph's list", reason="paging")
        return RecordPage(tuple(_records(values)), following if isinstance(following, str) and following else None)

    async def record(self, tenant_id: str, record_id: str) -> bytes:
        """A whole call record, in JSON: with all its sessions, their segments, and its participants.

        Raises:
            UnavailableError: Graph or Entra ID did not answer, or the record cannot be read yet.
            GraphError: Graph refuses.
        """
        url = f"{self._url}/{quote(record_id, safe='')}"
        try:
            record = dict(
                await self._client.get(f"{url}?$expand=sessions($expand=segments)", tenant_id, limiter=self._reads)
            )
            sessions = record.get("sessions")
            link = record.pop("sessions@odata.nextLink", None)
            record["sessions"] = [*(sessions if isinstance(sessions, list) else ()), *await self._all(link, tenant_id)]
            record["participants_v2"] = await self._all(f"{url}/participants_v2", tenant_id)
        except graph_errors.NotFoundError as error:
            raise UnavailableError("the call record", reason="call-record-not-found") from error
        return msgspec.json.encode(record)

    async def _all(self, url: object, tenant_id: str) -> list[Any]:
        if not isinstance(url, str) or not url:
            return []
        return [value async for page in self._client.pages(url, tenant_id, limiter=self._reads) for value in page]


def _records(values: Iterable[Any]) -> Iterator[ListedRecord]:
    """The records of a page; one without an id is left out, so that it does not hold up the others."""
    for value in values:
        try:
            yield parse_record(value)
        except MalformedInputError as error:
            logger.warning("a call record of Graph's list is left out: reason=%s", error.reason)
