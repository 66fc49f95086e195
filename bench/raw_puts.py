"""A POST's items on their raw queue: in raw messages, as they are put, against one claim check for all of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime

import msgspec

from bench.figures import STATES, TRACE, Posts
from bench.loops import run_in_worker
from bench.measure import Ratio, of_pairs
from bench.pipeline import Connect, production
from dev.simulator import Kind
from shared.notifications.collection import parse_collection
from shared.storage.blobs import AzureBlobs
from shared.storage.queues import AzureQueues
from shared.values.envelope import pack

_TIMES = {1: 40, 10: 40, 40: 20, 1_000: 2}  # in a round, by items
_QUEUE = "raw-notifications"


def raw_puts(*, quick: bool) -> Iterator[Ratio]:
    """For each size of POST, what is written of it once; what reads and deletes a claim check comes on top."""
    with production() as connect:
        for items in _TIMES:
            yield run_in_worker(_compare(connect, items, rounds=5 if quick else 15))


async def _compare(connect: Connect, items: int, rounds: int) -> Ratio:
    account = connect()
    queues, blobs = AzureQueues(account), AzureBlobs(account)
    raws = [bytes(raw) for raw in parse_collection(Posts(items, Kind.CALL_STARTED).body, STATES).raws]
    packed = pack(raws, delivery_id="d" * 32, received=datetime.now(UTC), traceparent=TRACE)
    whole = b"[%b]" % b",".join(raws)
    ticket = packed[0].envelope.ticket("2026/01/01/raw-notifications/" + "0" * 32 + ".json")

    async def as_messages() -> None:
        await asyncio.gather(*(queues.put(_QUEUE, message.body, "base64") for message in packed))

    async def as_claim_check() -> None:
        await blobs.put("raw-claims", "x.json", whole)
        await queues.put(_QUEUE, msgspec.json.encode(ticket), "base64")
        await blobs.put("handled-claims", "x.json", b"{}")

    async def cpu(put: Callable[[], Awaitable[None]]) -> float:
        started = time.process_time()
        for _ in range(_TIMES[items]):
            await put()
        return (time.process_time() - started) / _TIMES[items]

    pairs = [(await cpu(as_claim_check), await cpu(as_messages)) for _ in range(rounds + 1)]
    account.http.close()
    name = f"a POST of {items} rich items ({len(whole) / 1000:.0f} KB) put as one claim check, over its raw messages"
    return of_pairs(f"{name} ({len(packed)})", pairs[1:], target="")
