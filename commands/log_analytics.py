"""What a deployment sends to Log Analytics, asked of Log Analytics itself."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import requests
from azure.core.credentials import TokenCredential
from azure.core.exceptions import ClientAuthenticationError

from shared.values.errors import UnavailableError

ENDPOINT: Final = "https://api.loganalytics.io"
BILLED: Final = """
Usage
| where TimeGenerated > ago(1d) and IsBillable == true
| summarize Megabytes = sum(Quantity) by DataType
| order by Megabytes desc
"""
_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class LogAnalytics:
    """A workspace; `endpoint` is another one in national clouds."""

    workspace_id: str
    credential: TokenCredential
    endpoint: str = ENDPOINT

    async def billed(self) -> Mapping[str, float]:
        """Megabytes of the last day by table, the largest first.

        See "Azure Monitor Log Analytics API: request and response format", and "Usage" in the reference of tables.

        Raises:
            UnavailableError: it did not answer, or refused; `reason` is `log-analytics-403` where a role is missing.
        """
        return await asyncio.to_thread(self._billed)

    def _billed(self) -> Mapping[str, float]:
        url = f"{self.endpoint}/v1/workspaces/{self.workspace_id}/query"
        try:
            token = self.credential.get_token(f"{ENDPOINT}/.default").token
            answer = requests.post(
                url, json={"query": BILLED}, headers={"Authorization": f"Bearer {token}"}, timeout=_SECONDS
            )
            content: dict[str, Any] = answer.json() if answer.ok else {}
        except (requests.RequestException, ClientAuthenticationError) as error:
            raise UnavailableError("Log Analytics", reason="log-analytics-no-answer") from error
        if not answer.ok:
            raise UnavailableError("Log Analytics", reason=f"log-analytics-{answer.status_code}")
        (table,) = (table for table in content["tables"] if table["name"] == "PrimaryResult")
        return {str(name): float(megabytes) for name, megabytes in table["rows"]}
