"""Receiving: from the body of a POST to raw messages on queues, or to nothing at all."""

import asyncio
import logging
import re
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from shared.domain.errors import MalformedInputError, TokenRejected, UnavailableError
from shared.domain.notifications import Item, client_state_matches, parse_collection
from shared.domain.resources import CALL_RECORDS, EMERGENCY_QUEUE, RAW_QUEUE
from shared.domain.validation_tokens import Claims, Issuers, key_id, validate
from shared.services.express import WAIT_SECONDS, Express
from shared.services.http_answer import ACCEPTED, Answer, refused, try_again
from shared.services.raw_queues import RawQueues
from shared.services.telemetry import NO_TELEMETRY, Telemetry

logger = logging.getLogger(__name__)

# Graph counts an answer after 3 seconds as a failure and slows down an endpoint that has too many of them.
_ANSWER_SECONDS: Final = 2.5
# What is durable is not kept waiting for longer than this by an emergency that is opened meanwhile.
_DURABLE_SECONDS: Final = 2.0
# One token comes for each pair of application and tenant; a body with more than this is not Graph's.
_MAX_TOKENS: Final = 200
_MAX_LOG_LINES: Final = 20
# Bodies under way at once; a worker's memory holds several times as much while it handles them.
_MAX_LOAD_BYTES: Final = 32 * 1024 * 1024
_MAX_VERIFIED: Final = 1000
_BELIEVED_FOR: Final = timedelta(hours=1)
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LOGGABLE_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")


class SigningKeySource(Protocol):
    async def get(self, wanted: Collection[str]) -> Mapping[str, RSAPublicKey]: ...


@dataclass(slots=True)
class Load:
    """What a worker has accepted to handle and has not answered yet."""

    body_bytes: int = 0

    @contextmanager
    def of(self, count: int) -> Iterator[bool]:
        """Count a body for as long as it is handled; says whether there is room for it. One alone always has room."""
        admitted = not self.body_bytes or self.body_bytes + count <= _MAX_LOAD_BYTES
        taken = count if admitted else 0
        self.body_bytes += taken
        try:
            yield admitted
        finally:
            self.body_bytes -= taken


class VerifiedTokens:
    """Tokens that have been found valid, so that the one that Graph sends with every POST is checked once.

    They are believed until they expire, and for an hour at the most: a signing key may be withdrawn.
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

    queues: RawQueues
    signing_keys: SigningKeySource
    client_states: Sequence[str]
    app_ids: Collection[str]
    tenant_ids: Collection[str]
    issuers: Issuers
    max_body_bytes: int
    now: Callable[[], datetime]
    call_records_queue: str = RAW_QUEUE
    express: Express | None = None
    verified: VerifiedTokens = field(default_factory=VerifiedTokens)
    telemetry: Telemetry = NO_TELEMETRY
    load: Load = field(default_factory=Load)

    async def receive(self, body: bytes, traceparent: str | None) -> Answer:
        """Check a posted collection and put what is authentic on the raw queues.

        Returns:
            202 once all of it is durably queued or found not to be authentic; 400 or 413 for what is no collection;
            503 where a check or a put could not be made, or too much is under way, so that Graph sends it all again.
        """
        if len(body) > self.max_body_bytes:
            self.telemetry.refused("body-too-large", 1)
            return refused(413, f"the body is over {self.max_body_bytes} bytes")
        with self.load.of(len(body)) as admitted:
            if not admitted:
                logger.warning("cannot accept notifications now: reason=too-much-under-way")
                return try_again("too much is under way, please send it again")
            return await self._answer(body, traceparent)

    async def _answer(self, body: bytes, traceparent: str | None) -> Answer:
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                begun = await self._accept(body, traceparent)
        except MalformedInputError as error:
            self.telemetry.refused(error.reason, 1)
            return refused(400, str(error))
        except UnavailableError as error:
            logger.warning("cannot accept notifications now: reason=%s", error.reason)
            return try_again("not accepted now, please send it again", error.retry_after)
        except TimeoutError:
            logger.warning("cannot accept notifications now: reason=out-of-time")
            return try_again("not accepted in time, please send it again")
        if begun:
            left = _DURABLE_SECONDS - (asyncio.get_running_loop().time() - started)
            await asyncio.wait(begun, timeout=max(min(left, WAIT_SECONDS), 0.0))
        return ACCEPTED

    async def _accept(self, body: bytes, traceparent: str | None) -> Collection[asyncio.Task[None]]:
        """Queue what is authentic; returns what has begun to be opened here."""
        received = self.now()
        collection = parse_collection(body)
        refusals: Counter[tuple[str, str]] = Counter()
        if collection.malformed:
            refusals["malformed", "?"] += collection.malformed

        known: list[Item] = []
        for item in collection.items:
            if client_state_matches(item.notification, self.client_states):
                known.append(item)
            else:
                refusals["client-state", _loggable(item)] += 1

        wanted = {item.notification.tenant for item in known if item.notification.needs_token}
        covered = await self._covered_tenants(collection.validation_tokens, wanted, received) if wanted else frozenset()
        lanes: dict[str, list[bytes]] = {}
        for item in known:
            if item.notification.needs_token and item.notification.tenant not in covered:
                refusals["not-covered-by-a-validation-token", _loggable(item)] += 1
                continue
            for queue in item.notification.queues:
                lanes.setdefault(self._lane(queue, item), []).append(item.raw)
        _log_refusals(refusals)
        for (reason, _), count in refusals.items():
            self.telemetry.refused(reason, count)
        return await self._enqueue(lanes, received, traceparent)

    def _lane(self, queue: str, item: Item) -> str:
        return self.call_records_queue if queue == RAW_QUEUE and item.notification.kind is CALL_RECORDS else queue

    async def _covered_tenants(
        self, tokens: Sequence[str], wanted: Collection[str | None], now: datetime
    ) -> frozenset[str]:
        """The tenants that valid tokens vouch for.

        Raises:
            UnavailableError: a tenant is not covered, and a token that might cover it cannot be checked now.
        """
        covered: set[str] = set()
        key_ids: dict[str, str] = {}
        for token in tokens[:_MAX_TOKENS]:
            if (tenant := self.verified.tenant(token, now)) is not None:
                covered.add(tenant)
                continue
            try:
                key_ids[token] = key_id(token)
            except TokenRejected as error:
                logger.warning("validation token refused: reason=%s", error.reason)
        if not key_ids:
            return frozenset(covered)
        unavailable: UnavailableError | None = None
        keys: Mapping[str, RSAPublicKey] = {}
        try:
            keys = await self.signing_keys.get(set(key_ids.values()))
        except UnavailableError as error:
            unavailable = error
            keys = await self._known_keys()
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
                logger.warning("validation token refused: reason=%s", error.reason)
        if unavailable is not None and not covered >= set(wanted):
            raise unavailable
        return frozenset(covered)

    async def _known_keys(self) -> Mapping[str, RSAPublicKey]:
        try:
            return await self.signing_keys.get(())
        except UnavailableError:
            return {}

    async def _enqueue(
        self, lanes: Mapping[str, list[bytes]], received: datetime, traceparent: str | None
    ) -> Collection[asyncio.Task[None]]:
        trace = _trace(traceparent)
        puts = [self._send(queue, raws, received, trace) for queue, raws in lanes.items()]
        begun = []
        for result in await asyncio.gather(*puts, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            if result is not None:
                begun.append(result)
        return begun

    async def _send(
        self, queue: str, raws: Sequence[bytes], received: datetime, traceparent: str
    ) -> asyncio.Task[None] | None:
        hidden = None
        with self.telemetry.sending(queue, len(raws), traceparent) as trace:
            if queue == EMERGENCY_QUEUE and self.express is not None:
                hidden = await self.express.send(raws, received=received, traceparent=trace)
            else:
                await self.queues.send(queue, raws, received=received, traceparent=trace)
        self.telemetry.received(queue, len(raws))
        return None if self.express is None or hidden is None else self.express.begin(hidden)


def _trace(traceparent: str | None) -> str:
    """The caller's W3C trace context, or a new one where it sent none that is valid."""
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent):
        return traceparent
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def _loggable(item: Item) -> str:
    """The subscription id, unless somebody put something else there to have it logged."""
    subscription_id = item.notification.subscription_id
    return subscription_id if isinstance(subscription_id, str) and _LOGGABLE_ID.fullmatch(subscription_id) else "?"


def _log_refusals(refusals: Counter[tuple[str, str]]) -> None:
    for (reason, subscription_id), count in refusals.most_common(_MAX_LOG_LINES):
        logger.warning("notifications refused: reason=%s subscription=%s count=%d", reason, subscription_id, count)
    if len(refusals) > _MAX_LOG_LINES:
        logger.warning("notifications refused: %d more reasons and subscriptions", len(refusals) - _MAX_LOG_LINES)
