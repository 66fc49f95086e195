"""Decrypting: from a raw message to typed events on queues."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from shared.notifications.encryption import Sealed
from shared.notifications.event_writer import EventWriter
from shared.notifications.events import Event, event_of
from shared.notifications.raw_messages import RawMessages, all_of, unexpected
from shared.telemetry import NO_TELEMETRY, ExpressOutcome, Telemetry
from shared.values.envelope import Envelope
from shared.values.errors import (
    MalformedContentError,
    MalformedInputError,
    SwitchboardError,
    UnavailableError,
    UnknownCertificateError,
)
from shared.values.items import Item, parse_item
from shared.values.resources import EMERGENCY_QUEUE

if TYPE_CHECKING:
    from shared.key_vault import KeyVaultCertificates

type Parsed = Item | MalformedInputError
type Keys = Mapping[str, RSAPrivateKey | SwitchboardError]
"""Private keys by the id of their certificate, or why there is none."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An item of a raw message: its place, and its event or why it has none."""

    index: int
    result: Event | SwitchboardError
    had_content: bool = False


class DeliveryNotes(Protocol):
    """Who notes what was delivered; see `shared.call_records.deliveries.Deliveries`."""

    def add(self, event: Event, received: datetime) -> None: ...


class Enrichment(Protocol):
    """What adds to events what Graph's notifications only name; see `shared.call_records.fetch`."""

    async def enrich(self, opened: Sequence[Opened]) -> list[Opened]: ...


@dataclass(frozen=True, slots=True)
class Decryptor:
    """Turns raw messages into events."""

    raw_messages: RawMessages
    writer: EventWriter
    private_keys: "KeyVaultCertificates"
    enrichment: Enrichment | None = None
    deliveries: DeliveryNotes | None = None
    telemetry: Telemetry = NO_TELEMETRY

    async def handle(self, text: str, *, queue: str, attempts: int) -> None:
        """Handle one raw message.

        Args:
            text: the message, decoded.
            queue: the raw queue it came from.
            attempts: how often it has been delivered, this time included.

        Items that fail for now are put back on the queue without the others, so that no event is repeated.

        Raises:
            UnavailableError: storage did not take those. Trying the whole message again does no harm, because events
                keep their ids.
        """
        unpacked = await self.raw_messages.open(text, queue=queue, attempts=attempts)
        if unpacked is None:
            return
        with self._processing(queue, unpacked.envelope) as envelope:
            items = parse_each(envelope.notifications)
            opened = await self._open(envelope, items, await self._keys(items))
            if self.enrichment is not None:
                opened = await self.enrichment.enrich(opened)
            failures = await self._write(envelope, opened, urgent=queue == EMERGENCY_QUEUE)
            self._report(queue, envelope, [item for item in opened if item.index not in failures])
            await self.raw_messages.finish(unpacked, failures)

    async def write_now(self, envelope: Envelope, *, queue: str, key_seconds: float) -> ExpressOutcome:
        """Write all events of a raw message that lies on its queue, or leave all of it to `handle`.

        Nothing is parked, fetched or put back, and the message stays where it is.

        Args:
            envelope: with its notifications.
            queue: the raw queue on which it lies.
            key_seconds: how long to wait for a private key; its fetch goes on after that, for whoever needs it next.
        """
        items = parse_each(envelope.notifications)
        with self._processing(queue, envelope) as traced:
            try:
                async with asyncio.timeout(key_seconds):
                    keys = await self._keys(items)
            except TimeoutError:
                return ExpressOutcome.NO_KEY
            if any(isinstance(key, UnavailableError) for key in keys.values()):
                return ExpressOutcome.NO_KEY
            opened = await self._open(traced, items, keys)
            if not all(isinstance(item.result, Event) for item in opened):
                return ExpressOutcome.UNOPENED
            if await self._write(traced, opened, urgent=True):
                return ExpressOutcome.UNWRITTEN
            self._report(queue, traced, opened)
        return ExpressOutcome.DONE

    async def fetch_key(self, certificate_id: str) -> None:
        """Get a private key, if it can be had, so that it is there when it is needed."""
        await self._key(certificate_id)

    @contextmanager
    def _processing(self, queue: str, envelope: Envelope) -> Iterator[Envelope]:
        """Around the handling of a raw message; gives it with the traceparent that its events carry."""
        count = len(envelope.notifications)
        with (
            self.writer.expecting(),
            self.telemetry.processing(queue, envelope.id, count, envelope.traceparent) as traceparent,
        ):
            yield msgspec.structs.replace(envelope, traceparent=traceparent)

    async def _open(self, envelope: Envelope, items: Sequence[Parsed], keys: Keys) -> list[Opened]:
        """Open the items, all in one thread; an item that is alone is opened at once.

        A thread and back costs nearly as much as an RSA-2048 operation. Beside other raw messages it is worth that:
        threads decrypt on every core, and the event loop stays free.
        """
        if len(items) == 1 and self.writer.under_way == 1:
            return open_items(envelope, items, keys)
        return await asyncio.to_thread(open_items, envelope, items, keys)

    async def _keys(self, items: Iterable[Parsed]) -> Keys:
        named = {item.notification.certificate_id for item in items if isinstance(item, Item)}
        ids = [each for each in named if each is not None]
        return dict(zip(ids, await all_of(map(self._key, ids)), strict=True))

    async def _key(self, certificate_id: str) -> RSAPrivateKey | SwitchboardError:
        try:
            return await self.private_keys.private_key(certificate_id)
        except (UnknownCertificateError, UnavailableError) as error:
            return error

    async def _write(
        self, envelope: Envelope, opened: Iterable[Opened], *, urgent: bool
    ) -> dict[int, SwitchboardError]:
        """Put the events; return what failed, by index."""
        failures: dict[int, SwitchboardError] = {}
        by_queue: dict[str, dict[int, Event]] = {}
        for item in opened:
            if isinstance(item.result, Event):
                by_queue.setdefault(item.result.queue, {})[item.index] = item.result
            else:
                failures[item.index] = item.result

        async def send(queue: str, events: Mapping[int, Event]) -> dict[int, UnavailableError]:
            with self.telemetry.sending(queue, len(events), envelope.traceparent):
                return await self.writer.write(queue, events, envelope, urgent=urgent)

        for failed in await all_of(send(queue, events) for queue, events in by_queue.items()):
            failures |= failed
        return failures

    def _report(self, queue: str, envelope: Envelope, written: Iterable[Opened]) -> None:
        """Tell which events of a message have been written."""
        now, received, decrypted = self.raw_messages.now(), envelope.received, 0
        for item in written:
            event = item.result
            if not isinstance(event, Event):
                continue
            decrypted += item.had_content
            happened = datetime.fromisoformat(event.attributes["time"])
            self.telemetry.written(
                event.type,
                queue,
                # Where Graph gives no time, the event has that of its receipt; what was missed has been late since.
                since_event=None if happened == received or envelope.backfilled else (now - happened).total_seconds(),
                since_receipt=(now - received).total_seconds(),
            )
            if self.deliveries is not None:
                self.deliveries.add(event, received)
        if decrypted:
            self.telemetry.decrypted(queue, decrypted)


def parse_each(raws: Iterable[bytes | msgspec.Raw]) -> list[Parsed]:
    """Parse items; what is wrong with one comes back in its place, as it concerns that item alone."""
    return [_parse(bytes(raw)) for raw in raws]


def _parse(raw: bytes) -> Parsed:
    try:
        return parse_item(raw)
    except MalformedInputError as error:
        return error


def open_items(envelope: Envelope, items: Iterable[Parsed], keys: Keys) -> list[Opened]:
    """Decrypt and type the items of an envelope; one that fails does not touch the others.

    The private-key operations come one right after another: each leaves cold caches, in which the rest of an item's
    work takes several times as long.
    """
    known = list(items)
    closed = _each(envelope, lambda _, item: _closed(item, keys), known)
    unlocked = _each(envelope, _unlocked, closed)
    events = _each(envelope, lambda index, parts: _event(parts, envelope, index), unlocked)
    return [
        Opened(index, event, isinstance(item, Item) and item.notification.has_content)
        for index, (item, event) in enumerate(zip(known, events, strict=True))
    ]


def _each[S, T](
    envelope: Envelope, work: Callable[[int, S], T], items: Iterable[S | SwitchboardError]
) -> list[T | SwitchboardError]:
    """Do a part of the work for all items of an envelope; an error, which is one item's alone, stands in its place."""
    results: list[T | SwitchboardError] = []
    for index, item in enumerate(items):
        try:
            results.append(item if isinstance(item, SwitchboardError) else work(index, item))
        except SwitchboardError as error:
            results.append(error)
        except Exception as error:  # noqa: BLE001 - kept in quarantine, and no neighbour has to pay for a fault of ours
            results.append(unexpected(error, envelope.item_id(index)))
    return results


type _Closed = tuple[Item, Sealed | None, RSAPrivateKey | None]
"""An item, its content and the private key for it: None of a basic notification."""
type _Unlocked = tuple[Item, Sealed | None, bytes]
"""The same with the data key, which is empty where there is no content."""


def _closed(item: Item, keys: Keys) -> _Closed:
    content = item.notification.encrypted_content
    if content is None:
        return item, None, None
    if not isinstance(content, dict):
        raise MalformedContentError
    key = keys.get(item.notification.certificate_id or "")
    if key is None:
        raise UnknownCertificateError
    if isinstance(key, SwitchboardError):
        raise key
    return item, Sealed.of(content), key


def _unlocked(_index: int, closed: _Closed) -> _Unlocked:
    item, sealed, private_key = closed
    return item, sealed, b"" if sealed is None or private_key is None else sealed.unlock(private_key)


def _event(unlocked: _Unlocked, envelope: Envelope, index: int) -> Event:
    item, sealed, data_key = unlocked
    return event_of(
        item,
        None if sealed is None else sealed.open(data_key),
        fallback_id=envelope.item_id(index),
        received=envelope.received,
        traceparent=envelope.traceparent,
        backfilled=envelope.backfilled,
    )
