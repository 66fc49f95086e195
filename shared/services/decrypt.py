"""Decrypting: from a raw message to typed events on queues."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from shared.domain.encryption import decrypt
from shared.domain.errors import (
    MalformedContentError,
    MalformedInputError,
    SwitchboardError,
    UnknownCertificateError,
)
from shared.domain.events import Event, event_of
from shared.domain.notifications import Envelope, Item, parse_item
from shared.domain.queue_text import Encoding, batches, fits
from shared.services.quarantine import Quarantine
from shared.services.raw_messages import RawMessages

DATA_CONTAINER: Final = "event-data"

type Keys = Mapping[str, RSAPrivateKey | UnknownCertificateError]


class EventQueues(Protocol):
    async def put(self, queue: str, body: bytes, encoding: Encoding) -> None: ...


class DataBlobs(Protocol):
    async def put(self, container: str, name: str, data: bytes) -> str: ...


class PrivateKeys(Protocol):
    async def private_key(self, certificate_id: str) -> RSAPrivateKey: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """An item of a raw message: its place, and its event or why it has none."""

    index: int
    result: Event | SwitchboardError


@dataclass(frozen=True, slots=True)
class Decryptor:
    """Turns raw messages into events; `batched` puts several events into one message."""

    raw_messages: RawMessages
    queues: EventQueues
    blobs: DataBlobs
    private_keys: PrivateKeys
    quarantine: Quarantine
    encoding: Encoding
    batched: bool

    async def handle(self, text: str, *, queue: str, attempts: int) -> None:
        """Handle one raw message.

        Args:
            text: the message, decoded.
            queue: the raw queue it came from.
            attempts: how often it has been delivered, this time included.

        Raises:
            UnavailableError: something needed did not answer; trying again can help, and does no harm: the events
                keep their ids.
        """
        unpacked = await self.raw_messages.open(text, queue=queue, attempts=attempts)
        if unpacked is None:
            return
        envelope = unpacked.envelope
        items = [seal_of(bytes(raw)) for raw in envelope.notifications]
        keys = await self._keys({item.certificate_id for item in items if isinstance(item, Sealed)})
        opened = await asyncio.to_thread(open_items, envelope, items, keys)
        await self._write(envelope, opened, queue, attempts)
        await self.raw_messages.close(unpacked)

    async def _keys(self, certificate_ids: Iterable[str | None]) -> Keys:
        async def key(certificate_id: str) -> RSAPrivateKey | UnknownCertificateError:
            try:
                return await self.private_keys.private_key(certificate_id)
            except UnknownCertificateError as error:
                return error

        ids = [found for found in certificate_ids if found is not None]
        return dict(zip(ids, await asyncio.gather(*map(key, ids)), strict=True))

    async def _write(self, envelope: Envelope, opened: Sequence[Opened], queue: str, attempts: int) -> None:
        puts = [
            self.quarantine.park_item(
                envelope, index=one.index, queue=queue, error=one.result, reason=one.result.reason, attempts=attempts
            )
            for one in opened
            if isinstance(one.result, SwitchboardError)
        ]
        lanes: dict[str, list[tuple[int, Event]]] = {}
        for one in opened:
            if isinstance(one.result, Event):
                lanes.setdefault(one.result.queue, []).append((one.index, one.result))
        for lane, events in lanes.items():
            if self.batched:
                puts.append(self._put_batched(lane, events, envelope))
            else:
                puts.extend(self._put_single(lane, index, event, envelope) for index, event in events)
        results = await asyncio.gather(*puts, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _put_single(self, queue: str, index: int, event: Event, envelope: Envelope) -> None:
        body = event.to_json()
        if not fits(body, self.encoding):
            body = await self._check_in(event, index, envelope)
        await self.queues.put(queue, body, self.encoding)

    async def _put_batched(self, queue: str, events: Sequence[tuple[int, Event]], envelope: Envelope) -> None:
        bodies = []
        for index, event in events:
            body = event.to_json()
            bodies.append(body if fits(b"[%b]" % body, self.encoding) else await self._check_in(event, index, envelope))
        messages = batches(bodies, self.encoding)
        await asyncio.gather(*(self.queues.put(queue, message, self.encoding) for message in messages))

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
        found = None if self.content is None else self.content.get("encryptionCertificateId")
        return found if isinstance(found, str) else None


def seal_of(raw: bytes) -> Sealed | SwitchboardError:
    """Parse one item of an envelope; what is wrong with it comes back as a value, as it concerns this item alone."""
    try:
        item = parse_item(raw)
    except MalformedInputError as error:
        return error
    if not item.notification.has_content:
        return Sealed(item, None)
    try:
        return Sealed(item, msgspec.json.decode(item.notification.encrypted_content, type=dict[str, Any]))
    except (ValueError, RecursionError):
        return MalformedContentError()


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
        )
    except SwitchboardError as error:
        return error


def _plaintext(sealed: Sealed, keys: Keys) -> bytes | None:
    if sealed.content is None:
        return None
    key = keys.get(sealed.certificate_id or "", UnknownCertificateError())
    if isinstance(key, UnknownCertificateError):
        raise key
    return decrypt(sealed.content, key)
