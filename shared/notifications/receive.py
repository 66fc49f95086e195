"""Receiving: the authentic items of a POST's body are put on the raw queues, and the others left out."""

import asyncio
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from shared.notifications.collection import ClientStates, Collection, parse_collection
from shared.notifications.express import WAIT_SECONDS, Express
from shared.notifications.http_answer import ACCEPTED, Answer, refused, try_again
from shared.notifications.paced_log import MAX_IDS, PacedLog
from shared.notifications.raw_messages import RawMessages, all_of
from shared.notifications.signing_keys import SigningKeys
from shared.notifications.tokens import Claims, Issuers, key_id, tenant_hint, validate
from shared.telemetry import NO_TELEMETRY, Telemetry
from shared.values.errors import MalformedInputError, OversizedBodyError, TokenRejected, UnavailableError
from shared.values.items import Item, parse_item, with_tenant
from shared.values.resources import EMERGENCY_QUEUE, RAW_QUEUE

# Graph counts an answer after 3 seconds as a failure, and slows down an endpoint that has too many of them ("Receive
# change notifications through webhooks", https://learn.microsoft.com/graph/change-notifications-delivery-webhooks).
_ANSWER_SECONDS: Final = 2.5
# The answer waits no longer than this, counted from the beginning, for an emergency that is being opened.
_EXPRESS_SECONDS: Final = 2.0
# Graph sends a token for each pair of application and tenant. A body with more than this is not Graph's.
_MAX_TOKENS: Final = 200
_ITEMS_AT_A_TIME: Final = 200  # between two turns of the event loop
# Of all authentic bodies under way. Handling one takes several times its size in memory.
_MAX_IN_FLIGHT_BYTES: Final = 32 * 1024 * 1024
_MAX_VERIFIED: Final = 1000
_BELIEVED_FOR: Final = timedelta(hours=1)
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class InFlightBytes:
    """The size of the authentic bodies that a worker has not answered yet."""

    total: int = 0

    @contextmanager
    def of(self, count: int) -> Iterator[None]:
        """Count a body while it is handled. There is always room for one, whatever its size.

        Raises:
            UnavailableError: there is no room for it.
        """
        if self.total and self.total + count > _MAX_IN_FLIGHT_BYTES:
            raise UnavailableError("room for another body", reason="too-much-under-way")
        self.total += count
        try:
            yield
        finally:
            self.total -= count


class VerifiedTokens:
    """Tokens that have been found valid. Graph sends the same one with many POSTs, and so it is checked once.

    A token is believed until it expires, but for an hour at the most, as a signing key may be withdrawn.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, datetime]] = {}

    def tenant(self, token: str, now: datetime) -> str | None:
        """The tenant that a token vouches for; None where it has to be checked."""
        tenant_id, until = self._known.get(token, (None, now))
        return tenant_id if now < until else None

    def add(self, token: str, claims: Claims, now: datetime) -> None:
        """Remember a valid token."""
        if len(self._known) >= _MAX_VERIFIED:
            self._known.clear()
        self._known[token] = claims.tenant_id, min(claims.expires, now + _BELIEVED_FOR)


@dataclass(frozen=True, slots=True)
class Receiver:
    """Accepts what Graph posts.

    `now` is the clock, aware; `max_body_bytes` the largest body taken; `call_records_queue` the raw queue of call
    records, which is one of their own where the records are fetched.
    """

    raw_messages: RawMessages
    signing_keys: SigningKeys
    client_states: ClientStates
    app_ids: Set[str]
    tenant_ids: Set[str]
    issuers: Issuers
    max_body_bytes: int
    now: Callable[[], datetime]
    log: PacedLog
    call_records_queue: str = RAW_QUEUE
    express: Express | None = None
    verified: VerifiedTokens = field(default_factory=VerifiedTokens)
    telemetry: Telemetry = NO_TELEMETRY
    in_flight: InFlightBytes = field(default_factory=InFlightBytes)
    turns: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def receive(self, body: bytes, traceparent: str | None) -> Answer:
        """Check a posted collection and put what is authentic on the raw queues.

        Returns:
            202 once each item is durably queued or found not to be authentic; 400 for what is no collection; 413 for
            one that is larger than any of Graph's; 503, so that Graph sends all of it again, where a check or a put
            could not be made or too much is under way.
        """
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                begun = await self._accept(body, traceparent)
        except MalformedInputError as error:
            self.telemetry.refused(error.reason, 1)
            return refused(413 if isinstance(error, OversizedBodyError) else 400, str(error))
        except UnavailableError as error:
            self.log.say("cannot accept notifications now", error.reason)
            return try_again("not accepted now, please send it again", error.retry_after)
        except TimeoutError:
            self.log.say("cannot accept notifications now", "out-of-time")
            return try_again("not accepted in time, please send it again")
        if begun:
            left = _EXPRESS_SECONDS - (asyncio.get_running_loop().time() - started)
            await asyncio.wait(begun, timeout=max(min(left, WAIT_SECONDS), 0.0))
        return ACCEPTED

    async def _accept(self, body: bytes, traceparent: str | None) -> list[asyncio.Task[None]]:
        """Queue what is authentic; returns the tasks that open emergencies here."""
        received = self.now()
        collection = await self._read(body)
        if not collection.authentic:
            return []
        with self.in_flight.of(len(body)):
            return await self._sort(collection, received, traceparent)

    async def _read(self, body: bytes) -> Collection:
        """Find out which items of a body are authentic; one body is read at a time.

        Raises:
            MalformedInputError: it is no collection, or an `OversizedBodyError`.
        """
        if len(body) > self.max_body_bytes:
            raise OversizedBodyError(f"the body is over {self.max_body_bytes} bytes", reason="body-too-large")
        async with self.turns:
            collection = parse_collection(body, self.client_states)
            await asyncio.sleep(0)  # what is under way goes on before the next body is read
        if collection.malformed:
            self._refuse("malformed", collection.malformed)
        if collection.foreign:
            self._refuse("client-state", collection.foreign, lambda: collection.foreign_ids(MAX_IDS))
        return collection

    async def _sort(
        self, collection: Collection, received: datetime, traceparent: str | None
    ) -> list[asyncio.Task[None]]:
        by_queue: dict[str, list[bytes]] = {}
        known = await self._items(collection, by_queue)
        wanted = {tenant for item in known if item.notification.needs_token and (tenant := item.notification.tenant)}
        covered = await self._covered_tenants(collection, wanted, received) if wanted else set()
        uncovered: list[Item] = []
        for item in known:
            if item.notification.needs_token and item.notification.tenant not in covered:
                uncovered.append(item)
                continue
            for queue in item.notification.queues:
                by_queue.setdefault(self._raw_queue(queue, item), []).append(item.raw)
        if uncovered:
            subscriptions = [item.notification.subscription_id for item in uncovered]
            self._refuse("not-covered-by-a-validation-token", len(uncovered), lambda: subscriptions)
        begun = await self._enqueue(by_queue, received, traceparent)
        if self.express is not None and covered:
            ids = (item.notification.certificate_id for item in known if item.notification.tenant in covered)
            certificate_id = next((each for each in ids if each is not None), None)
            if certificate_id is not None:
                self.express.fetch_ahead(certificate_id)
        return begun

    async def _items(self, collection: Collection, by_queue: dict[str, list[bytes]]) -> list[Item]:
        """The authentic items; one that cannot be read is put on the usual raw queue, and decrypting parks it."""
        items, raws = [], collection.raws
        for done, place in enumerate(collection.authentic, 1):
            raw = bytes(raws[place])
            try:
                items.append(self._of_a_tenant(parse_item(raw)))
            except MalformedInputError:
                by_queue.setdefault(RAW_QUEUE, []).append(raw)
            if done % _ITEMS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        return items

    def _of_a_tenant(self, item: Item) -> Item:
        """The item; where it names no tenant and only one is served, as an item of that tenant."""
        if item.notification.tenant is not None or len(self.tenant_ids) != 1:
            return item
        (tenant_id,) = self.tenant_ids
        return with_tenant(item, tenant_id)

    def _refuse(self, reason: str, count: int, ids: Callable[[], Iterable[object]] = tuple) -> None:
        self.telemetry.refused(reason, count)
        self.log.say("notifications refused", reason, count, ids)

    def _raw_queue(self, queue: str, item: Item) -> str:
        kind = item.notification.kind
        fetchable = queue == RAW_QUEUE and kind is not None and kind.is_fetchable
        return self.call_records_queue if fetchable else queue

    async def _covered_tenants(self, collection: Collection, wanted: Set[str], now: datetime) -> set[str]:
        """The wanted tenants that valid tokens vouch for.

        Raises:
            UnavailableError: there are too many tokens; or a token that might cover a tenant cannot be checked now.
        """
        tokens = collection.validation_tokens(_MAX_TOKENS)
        if tokens is None:
            raise UnavailableError("a body with so many validation tokens", reason="too-many-validation-tokens")
        covered: set[str] = set()
        key_ids: dict[str, str] = {}
        for token in tokens:
            if (tenant := self.verified.tenant(token, now)) is not None:
                covered.add(tenant)
                continue
            try:
                if tenant_hint(token) in wanted:
                    key_ids[token] = key_id(token)
            except TokenRejected as error:
                self.log.say("validation token refused", error.reason)
        if not key_ids:
            return covered
        keys, unavailable = await self.signing_keys.get(set(key_ids.values()))
        for token in key_ids:
            try:
                claims = validate(
                    token,
                    signing_keys=keys,
                    audiences=self.app_ids,
                    tenants=self.tenant_ids,
                    now=now,
                    issuers=self.issuers,
                )
                covered.add(claims.tenant_id)
                self.verified.add(token, claims, now)
            except TokenRejected as error:
                self.log.say("validation token refused", error.reason)
        if unavailable is not None and not covered >= wanted:
            raise unavailable
        return covered

    async def _enqueue(
        self, by_queue: Mapping[str, list[bytes]], received: datetime, traceparent: str | None
    ) -> list[asyncio.Task[None]]:
        trace = _trace(traceparent)
        puts = [self._send(queue, raws, received, trace) for queue, raws in by_queue.items()]
        return [begun for begun in await all_of(puts) if begun is not None]

    async def _send(
        self, queue: str, raws: Sequence[bytes], received: datetime, traceparent: str
    ) -> asyncio.Task[None] | None:
        hidden = None
        with self.telemetry.sending(queue, len(raws), traceparent) as trace:
            if queue == EMERGENCY_QUEUE and self.express is not None:
                hidden = await self.express.send(raws, received=received, traceparent=trace)
            else:
                await self.raw_messages.send(queue, raws, received=received, traceparent=trace)
        self.telemetry.received(queue, len(raws))
        return None if self.express is None or hidden is None else self.express.begin(hidden)


def _trace(traceparent: str | None) -> str:
    """The caller's W3C trace context, or a new one where it sent none that is valid."""
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent):
        return traceparent
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
