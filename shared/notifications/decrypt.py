"""Decrypting: from a raw message to typed events on queues."""

import asyncio
import itertools
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from shared.notifications.encryption import decrypt
from shared.notifications.events import Event, event_of
from shared.notifications.raw_messages import RawMessages, Unpacked, unexpected
from shared.storage.ports import Blobs, Queues
from shared.telemetry import NO_TELEMETRY, ActivityLog, ExpressOutcome, Telemetry
from shared.values.envelope import Envelope
from shared.values.errors import (
    MalformedContentError,
    MalformedInputError,
    SwitchboardError,
    UnavailableError,
    UnknownCertificateError,
)
from shared.values.items import Item, parse_item
from shared.values.message_text import Encoding, batches, fits, join

DATA_CONTAINER: Final = "event-data"

type Keys = Mapping[str, RSAPrivateKey | SwitchboardError]
type Failures = dict[int, UnavailableError]  # by index


class PrivateKeys(Protocol):
    async def private_key(self, certificate_id: str) -> RSAPrivateKey: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """An item of a raw message: its place, and its event or why it has none."""

    index: int
    result: Event | SwitchboardError


class DeliveryNotes(Protocol):
    """Who notes what was delivered; see `shared.call_records.deliveries.Deliveries`."""

    def add(self, event: Event, received: datetime) -> None: ...


class Enrichment(Protocol):
    """What adds to events what Graph's notifications only name; see `shared.call_records.fetch`."""

    async def enrich(self, opened: Sequence[Opened]) -> list[Opened]: ...


@dataclass(frozen=True, slots=True)
class Decryptor:
    """Turns raw messages into events; `batched` puts several events into one message."""

    raw_messages: RawMessages
    queues: Queues
    blobs: Blobs
    private_keys: PrivateKeys
    encoding: Encoding
    batched: bool
    enrichment: Enrichment | None = None
    activity: ActivityLog | None = None
    deliveries: DeliveryNotes | None = None
    telemetry: Telemetry = NO_TELEMETRY

    async def handle(self, text: str, *, queue: str, attempts: int) -> None:
        """Handle one raw message.

        Args:
            text: the message, decoded.
            queue: the raw queue it came from.
            attempts: how often it has been delivered, this time included.

        What fails for now is put back on its queue by itself, so that what succeeded is not repeated.

        Raises:
            UnavailableError: storage did not even take that; trying again can help, and does no harm: the events keep
                their ids.
        """
        unpacked = await self.raw_messages.open(text, queue=queue, attempts=attempts)
        if unpacked is None:
            return
        envelope = unpacked.envelope
        count = len(envelope.notifications)
        with self.telemetry.processing(queue, envelope.id, count, envelope.traceparent) as traceparent:
            await self._handle(unpacked, msgspec.structs.replace(envelope, traceparent=traceparent))

    async def write_now(self, envelope: Envelope, *, queue: str, key_seconds: float) -> ExpressOutcome:
        """Write all events of a raw message that lies on its queue, or leave all of it to `handle`.

        Nothing is parked, fetched or put back, and the message stays where it is.

        Args:
            envelope: with its notifications.
            queue: the raw queue on which it lies.
            key_seconds: how long to wait for a private key; its fetch goes on after that, for whoever needs it next.
        """
        count = len(envelope.notifications)
        with self.telemetry.processing(queue, envelope.id, count, envelope.traceparent) as traceparent:
            envelope = msgspec.structs.replace(envelope, traceparent=traceparent)
            items = [parse_sealed(bytes(raw)) for raw in envelope.notifications]
            try:
                async with asyncio.timeout(key_seconds):
                    keys = await self._keys({item.certificate_id for item in items if isinstance(item, Sealed)})
            except TimeoutError:
                return ExpressOutcome.NO_KEY
            if any(isinstance(key, UnavailableError) for key in keys.values()):
                return ExpressOutcome.NO_KEY
            opened = open_items(envelope, items, keys)  # a few at most: less than a thread and back would cost
            if not all(isinstance(one.result, Event) for one in opened):
                return ExpressOutcome.UNOPENED
            if await self._write(envelope, opened):
                return ExpressOutcome.UNWRITTEN
            self._report(queue, envelope, items, opened)
        return ExpressOutcome.DONE

    async def fetch_key(self, certificate_id: str) -> None:
        """Get a private key, if it can be had, so that it is there when it is needed."""
        await self._keys((certificate_id,))

    async def _handle(self, unpacked: Unpacked, envelope: Envelope) -> None:
        items = [parse_sealed(bytes(raw)) for raw in envelope.notifications]
        keys = await self._keys({item.certificate_id for item in items if isinstance(item, Sealed)})
        opened = await asyncio.to_thread(open_items, envelope, items, keys)
        if self.enrichment is not None:
            opened = await self.enrichment.enrich(opened)
        failures = await self._write(envelope, opened)
        self._report(unpacked.queue, envelope, items, [one for one in opened if one.index not in failures])
        await self.raw_messages.finish(unpacked, failures)

    def _report(
        self,
        queue: str,
        envelope: Envelope,
        items: Sequence["Sealed | SwitchboardError"],
        written: Iterable[Opened],
    ) -> None:
        """Tell what has become of a message."""
        now, received, decrypted = self.raw_messages.now(), envelope.received, 0
        for opened in written:
            event, item = opened.result, items[opened.index]
            if not isinstance(event, Event):
                continue
            decrypted += isinstance(item, Sealed) and item.content is not None
            happened = datetime.fromisoformat(event.attributes["time"])
            self.telemetry.written(
                event.type,
                queue,
                # Where Graph gives no time, the event has that of its receipt; what was missed has been late since.
                since_event=None if happened == received or envelope.backfilled else (now - happened).total_seconds(),
                since_receipt=(now - received).total_seconds(),
            )
            if self.activity is not None:
                self.activity.add(event.type)
            if self.deliveries is not None:
                self.deliveries.add(event, received)
        if decrypted:
            self.telemetry.decrypted(queue, decrypted)

    async def _keys(self, certificate_ids: Iterable[str | None]) -> Keys:
        async def key(certificate_id: str) -> RSAPrivateKey | SwitchboardError:
            try:
                return await self.private_keys.private_key(certificate_id)
            except (UnknownCertificateError, UnavailableError) as error:
                return error

        ids = [each for each in certificate_ids if each is not None]
        return dict(zip(ids, await asyncio.gather(*map(key, ids)), strict=True))

    async def _write(self, envelope: Envelope, opened: Sequence[Opened]) -> dict[int, SwitchboardError]:
        """Put the events; return what failed, by index."""
        failures: dict[int, SwitchboardError] = {}
        by_queue: dict[str, list[tuple[int, Event]]] = {}
        for item in opened:
            if isinstance(item.result, Event):
                by_queue.setdefault(item.result.queue, []).append((item.index, item.result))
            else:
                failures[item.index] = item.result
        sends = [self._send(queue, events, envelope) for queue, events in by_queue.items()]
        for failed in await asyncio.gather(*sends):
            failures.update(failed)
        return failures

    async def _send(self, queue: str, events: Sequence[tuple[int, Event]], envelope: Envelope) -> Failures:
        put = self._put_batched if self.batched else self._put_single
        with self.telemetry.sending(queue, len(events), envelope.traceparent):
            return await put(queue, events, envelope)

    async def _put_single(self, queue: str, events: Sequence[tuple[int, Event]], envelope: Envelope) -> Failures:
        async def put(index: int, event: Event) -> None:
            body = event.to_json()
            if not fits(body, self.encoding):
                body = await self._check_in(event, index, envelope)
            await self.queues.put(queue, body, self.encoding)

        return await _failures(((index,), put(index, event)) for index, event in events)

    async def _put_batched(self, queue: str, events: Sequence[tuple[int, Event]], envelope: Envelope) -> Failures:
        bodies = {index: event.to_json() for index, event in events}
        large = {index for index, body in bodies.items() if not fits(join([body]), self.encoding)}

        async def check_in(index: int, event: Event) -> None:
            bodies[index] = await self._check_in(event, index, envelope)

        failures = await _failures(((index,), check_in(index, event)) for index, event in events if index in large)
        for index in failures:
            del bodies[index]
        ready = iter(bodies)
        messages = [
            (tuple(itertools.islice(ready, len(batch))), self.queues.put(queue, join(batch), self.encoding))
            for batch in batches(bodies.values(), self.encoding)
        ]
        return {**failures, **await _failures(messages)}

    async def _check_in(self, event: Event, index: int, envelope: Envelope) -> bytes:
        """Put an event's data into a blob, the same one at every try, and return the event with its address."""
        name = f"{event.queue}/{envelope.received:%Y/%m/%d}/{envelope.item_id(index)}.json"
        return event.to_json_with_ref(await self.blobs.put(DATA_CONTAINER, name, event.data))


@dataclass(frozen=True, slots=True)
class Sealed:
    """An item before it is opened. `content` is its encrypted content, or None for a basic notification."""

    item: Item
    content: Mapping[str, Any] | None

    @property
    def certificate_id(self) -> str | None:
        """The certificate that its content names; None where it has none, or names none."""
        return self.item.notification.certificate_id


def parse_sealed(raw: bytes) -> Sealed | SwitchboardError:
    """Parse one item of an envelope; what is wrong with it comes back as a value, as it concerns this item alone."""
    try:
        item = parse_item(raw)
    except MalformedInputError as error:
        return error
    content = item.notification.encrypted_content
    return Sealed(item, content) if content is None or isinstance(content, dict) else MalformedContentError()


def open_items(envelope: Envelope, items: Sequence[Sealed | SwitchboardError], keys: Keys) -> list[Opened]:
    """Decrypt and type the items of an envelope; one that fails does not touch the others."""
    return [Opened(index, _open(item, keys, envelope, index)) for index, item in enumerate(items)]


def _open(sealed: Sealed | SwitchboardError, keys: Keys, envelope: Envelope, index: int) -> Event | SwitchboardError:
    if isinstance(sealed, SwitchboardError):
        return sealed
    try:
        return event_of(
            sealed.item,
            _plaintext(sealed, keys),
            fallback_id=envelope.item_id(index),
            received=envelope.received,
            traceparent=envelope.traceparent,
            backfilled=envelope.backfilled,
        )
    except SwitchboardError as error:
        return error
    except Exception as error:  # noqa: BLE001 - kept in quarantine, and no neighbour has to pay for a fault of ours
        return unexpected(error, envelope.item_id(index))


def _plaintext(sealed: Sealed, keys: Keys) -> bytes | None:
    if sealed.content is None:
        return None
    key = keys.get(sealed.certificate_id or "", UnknownCertificateError())
    if isinstance(key, SwitchboardError):
        raise key
    return decrypt(sealed.content, key)


async def _failures(attempts: Iterable[tuple[Sequence[int], Awaitable[object]]]) -> Failures:
    """Make all attempts at once, each for the items at some indexes; return what storage did not take, by index."""
    known = list(attempts)
    results = await asyncio.gather(*(attempt for _, attempt in known), return_exceptions=True)
    failures: Failures = {}
    for (concerned, _), result in zip(known, results, strict=True):
        if isinstance(result, UnavailableError):
            failures.update(dict.fromkeys(concerned, result))
        elif isinstance(result, BaseException):
            raise result
    return failures
