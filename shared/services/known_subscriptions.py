"""The ids of the subscriptions that are there, kept where every worker can read them.

Graph's list alone does not say what exists: for days it has shown nothing, or page after page of nothing, while each
subscription was alive and could be read by its id (microsoftgraph/microsoft-graph-docs, issues 5681, 15648 and 17354).
"""

from typing import Final

import msgspec

from shared.services.renewal_state import STATE_CONTAINER, StateBlobs

_NAME: Final = "subscriptions-{}.json"


class KnownSubscriptions:
    """A blob for each tenant: a JSON array of ids."""

    def __init__(self, blobs: StateBlobs) -> None:
        self._blobs = blobs

    async def load(self, tenant_id: str) -> frozenset[str]:
        """The ids that the last run left; none where there was no run.

        Raises:
            UnavailableError: storage did not answer.
        """
        data = await self._blobs.get(STATE_CONTAINER, _NAME.format(tenant_id))
        return frozenset() if data is None else msgspec.json.decode(data, type=frozenset[str])

    async def save(self, tenant_id: str, ids: frozenset[str]) -> None:
        """Keep these ids.

        Raises:
            UnavailableError: storage did not take them.
        """
        await self._blobs.put(STATE_CONTAINER, _NAME.format(tenant_id), msgspec.json.encode(sorted(ids)))
