"""Where the time goes: one rich notification's stages from socket to socket, each timed by itself, beside its limit.

Storage is that of `bench.pipeline`: the managed identity's tokens, TLS, and a server that takes everything at once.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from bench.clients import bare_put
from bench.figures import STATES, TRACE, Posts, rsa_operation
from bench.loops import run_in_worker
from bench.measure import Stage
from bench.pipeline import ITEMS, Connect, production
from dev.simulator import Kind
from shared.notifications.collection import parse_collection
from shared.notifications.decrypt import parse_each
from shared.notifications.encryption import Sealed
from shared.notifications.events import Event, event_of
from shared.storage.account import StorageAccount
from shared.storage.queues import AzureQueues
from shared.values.envelope import pack, parse_envelope
from shared.values.items import parse_item
from shared.values.message_text import Batch, encode, join

_ROUNDS = 40
_QUEUE = "call-events"
_PARSER = "to find the ends of its parts"
_HTTP = "a bare Protocol on the same loop"


def stages() -> Iterator[Stage]:
    """All stages of a notification that came with 39 others, in the order of its way."""
    with production() as connect:
        yield from run_in_worker(_measure(connect))


async def _measure(connect: Connect) -> list[Stage]:
    return await _Stages(connect()).measure()


def _joined(events: Iterable[bytes]) -> Iterator[bytes]:
    """Events in as few messages as they fit into, as the two raw messages of a POST share them."""
    batch = Batch("base64")
    for event in events:
        if not batch.add(event):
            yield join(batch.bodies)
            batch = Batch("base64")
            batch.add(event)
    yield join(batch.bodies)


class _Stages:
    def __init__(self, account: StorageAccount) -> None:
        self._account, self._queues = account, AzureQueues(account)
        self._bare = bare_put(account.queues.url, os.environ.get("SSL_CERT_FILE"))
        self._posts = Posts(ITEMS, Kind.CALL_STARTED)
        self._key = self._posts.pair.private_key
        self._operation = rsa_operation(self._key)
        self._received = datetime.now(UTC)
        raws = [bytes(raw) for raw in parse_collection(self._posts.body, STATES).raws]
        packed = pack(raws, delivery_id="d" * 32, received=self._received, traceparent=TRACE)
        self._messages = [message.body for message in packed]
        self._items = [parse_item(raw) for raw in raws]
        self._encrypted = [item.notification.encrypted_content for item in self._items]
        self._sealed = list(map(Sealed.of, self._encrypted))
        self._data_keys = [sealed.unlock(self._key) for sealed in self._sealed]
        self._plaintexts = self._opened()

    async def measure(self) -> list[Stage]:
        receiver = self._posts.receiver()
        scan = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        singles = [event.to_json() for event in self._events()]
        parts = list(_joined(singles))
        await self._queues.put(_QUEUE, b"{}", "base64")  # fetches the token, and opens a connection
        found = [
            Stage(
                "parse the POST, compare `clientState`, look its token up, pack",
                await self._share(lambda: receiver.receive(self._posts.body, None)),
                await self._share(lambda: scan(self._posts.body)),
                _PARSER,
            ),
            await self._put(f"its share of the raw puts ({len(self._messages)} for {ITEMS})", [self._messages]),
            Stage(
                "parse the raw message and the item",
                await self._share(
                    lambda: [parse_each(parse_envelope(message).notifications) for message in self._messages]
                ),
                await self._share(lambda: [scan(one) for one in self._messages]),
                _PARSER,
            ),
            Stage(
                f"to a thread and back, with {ITEMS // len(self._messages) - 1} others",
                await self._share(lambda: asyncio.to_thread(int), times=len(self._messages)),
            ),
            Stage(
                "RSA-OAEP",
                await self._share(lambda: [sealed.unlock(self._key) for sealed in self._sealed]),
                await self._share(lambda: [self._operation() for _ in self._sealed]),
                "the private-key operation",
            ),
            Stage("base64, HMAC, AES", await self._share(self._opened)),
            Stage(
                "type it, and assemble the CloudEvent around the verbatim plaintext",
                await self._share(lambda: [event.to_json() for event in self._events()]),
                await self._share(lambda: [scan(plaintext) for plaintext in self._plaintexts]),
                "to look for the type",
            ),
            await self._put("its own put, `EVENT_FORMAT=single`", [singles]),
            await self._put("its share of a put, `EVENT_FORMAT=batch`", [[part] for part in parts]),
        ]
        self._account.http.close()
        await self._bare.close()
        return found

    def _opened(self) -> list[bytes]:
        return [Sealed.of(content).open(key) for content, key in zip(self._encrypted, self._data_keys, strict=True)]

    def _events(self) -> list[Event]:
        return [
            event_of(item, plaintext, fallback_id="d-0", received=self._received, traceparent=TRACE)
            for item, plaintext in zip(self._items, self._plaintexts, strict=True)
        ]

    async def _put(self, name: str, groups: Sequence[Sequence[bytes]]) -> Stage:
        """Puts of which those in a group go at once, by ourselves and by a bare Protocol."""

        def bare(body: bytes) -> Awaitable[object]:
            text = encode(body, "base64")
            return self._bare.put(f"<QueueMessage><MessageText>{text}</MessageText></QueueMessage>".encode())

        def together(
            group: Sequence[bytes], put: Callable[[bytes], Awaitable[object]]
        ) -> Callable[[], Awaitable[object]]:
            return lambda: asyncio.gather(*map(put, group))

        return Stage(
            name,
            sum(
                [
                    await self._share(together(group, lambda body: self._queues.put(_QUEUE, body, "base64")))
                    for group in groups
                ]
            ),
            sum([await self._share(together(group, bare)) for group in groups]),
            _HTTP,
        )

    async def _share(self, work: Callable[[], object], times: int = 1) -> float:
        """One notification's share of the CPU of work that is done `times` for a POST.

        As on its way, where decrypting has filled the caches with other things before each stage.
        """
        found = []
        for _ in range(_ROUNDS):
            for _ in range(ITEMS // 2):
                self._operation()
            started = time.process_time()
            done = work()
            if isinstance(done, Awaitable):
                await done
            found.append(time.process_time() - started)
        return statistics.median(found) * times / ITEMS
