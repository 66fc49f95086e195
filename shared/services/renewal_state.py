"""What the last renewal run found, kept where every worker can read it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol

import msgspec

from shared.services.renew import RenewalReport

STATE_CONTAINER: Final = "state"
_NAME: Final = "renewal.json"


class RenewalState(msgspec.Struct, frozen=True, kw_only=True):
    """A finished run. `nearest_expiry` is when the subscription nearest to its end ends; None where there is none."""

    finished: datetime
    desired: int
    live: int
    nearest_expiry: datetime | None
    outcomes: Mapping[str, int]
    failures: tuple[str, ...]  # "{kind}: {reason} x {count}"; ids and names stay out of it


class StateBlobs(Protocol):
    async def put(self, container: str, name: str, data: bytes) -> str: ...
    async def get(self, container: str, name: str) -> bytes | None: ...


class RenewalStates:
    """Keeps the state of the last run."""

    def __init__(self, blobs: StateBlobs) -> None:
        self._blobs = blobs

    async def save(self, report: RenewalReport) -> None:
        """Keep what a run found.

        Raises:
            UnavailableError: storage did not take it.
        """
        state = RenewalState(
            finished=report.finished,
            desired=report.desired,
            live=report.live,
            nearest_expiry=None if report.nearest is None else report.finished + report.nearest,
            outcomes={str(outcome): count for outcome, count in report.outcomes.items()},
            failures=tuple(f"{found.kind}: {found.reason} x {found.count}" for found in report.failures),
        )
        await self._blobs.put(STATE_CONTAINER, _NAME, msgspec.json.encode(state))

    async def latest(self) -> RenewalState | None:
        """The last run's state; None where no run has finished yet.

        Raises:
            UnavailableError: storage did not answer.
        """
        data = await self._blobs.get(STATE_CONTAINER, _NAME)
        return None if data is None else msgspec.json.decode(data, type=RenewalState)
