"""Whether all that Switchboard needs is there, and whether data flows."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from shared.domain.errors import UnavailableError
from shared.domain.graph import SIGN_IN_REQUIRED
from shared.domain.resources import CALL_RECORDS_QUEUE, EMERGENCY_QUEUE, LIFECYCLE_QUEUE, RAW_QUEUE
from shared.services.renewal_state import RenewalState

_CHECK_SECONDS: Final = 10.0
# A raw message waits for seconds; one that is older than this is not being handled.
OLDEST: Final = {
    RAW_QUEUE: timedelta(minutes=5),
    EMERGENCY_QUEUE: timedelta(minutes=1),
    LIFECYCLE_QUEUE: timedelta(minutes=5),
    CALL_RECORDS_QUEUE: timedelta(hours=1),  # a gap may hold thousands of them, and fetching takes its time
}
RENEWAL_OVERDUE: Final = timedelta(hours=1)


class RawQueues(Protocol):
    async def oldest(self, queue: str) -> datetime | None: ...


class Certificates(Protocol):
    async def current(self) -> Any: ...


class RenewalStates(Protocol):
    async def latest(self) -> RenewalState | None: ...


@dataclass(frozen=True, slots=True)
class Health:
    """Runs the checks. `now` is the clock, aware."""

    queues: RawQueues
    certificates: Certificates
    renewals: RenewalStates
    now: Callable[[], datetime]

    async def check(self) -> tuple[bool, dict[str, Any]]:
        """Run every check at once.

        Returns:
            Whether all is well, and a JSON object: `status` ("ok" or "failing") and `checks`, one member for each, with
            `ok` and what was found or what is wrong.
        """
        names = ("storage", "keyVault", "subscriptions")
        results = await asyncio.gather(
            _guard(self._storage()), _guard(self._key_vault()), _guard(self._subscriptions())
        )
        well = all(result["ok"] for result in results)
        return well, {"status": "ok" if well else "failing", "checks": dict(zip(names, results, strict=True))}

    async def _storage(self) -> dict[str, Any]:
        queues = list(OLDEST)
        fronts = await asyncio.gather(*(self.queues.oldest(queue) for queue in queues))
        now = self.now()
        ages = {queue: now - front for queue, front in zip(queues, fronts, strict=True) if front is not None}
        late = [queue for queue, age in ages.items() if age > OLDEST[queue]]
        return {
            "ok": not late,
            "oldestRawMessageSeconds": {queue: round(age.total_seconds()) for queue, age in ages.items()},
            **({"problem": f"messages are not being handled: {', '.join(late)}"} if late else {}),
        }

    async def _key_vault(self) -> dict[str, Any]:
        await self.certificates.current()
        return {"ok": True}

    async def _subscriptions(self) -> dict[str, Any]:
        state = await self.renewals.latest()
        if state is None:
            return {"ok": False, "problem": "no renewal run has finished yet"}
        now = self.now()
        found: dict[str, Any] = {
            "desired": state.desired,
            "live": state.live,
            "lastRunSecondsAgo": round((now - state.finished).total_seconds()),
        }
        if state.nearest_expiry is not None:
            found["nearestExpirySeconds"] = round((state.nearest_expiry - now).total_seconds())
        if now - state.finished > RENEWAL_OVERDUE:
            problem = "the renewal timer does not run"
        elif state.nearest_expiry is not None and state.nearest_expiry <= now:
            problem = "a subscription has lapsed"
        elif state.failures:
            problem = "; ".join(state.failures)
            if any(SIGN_IN_REQUIRED in failure for failure in state.failures):
                problem += " (run manage.py login)"
        else:
            return {"ok": True, **found}
        return {"ok": False, **found, "problem": problem}


async def _guard(check: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """A check's result, or why it could not be made."""
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check
    except UnavailableError as error:
        return {"ok": False, "problem": str(error), "reason": error.reason}
    except TimeoutError:
        return {"ok": False, "problem": "no answer in time", "reason": "out-of-time"}
