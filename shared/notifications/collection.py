"""The body of a POST: how much of it is read, which of its items know the secret, and those items.

Its form is that of "changeNotificationCollection resource type"
(https://learn.microsoft.com/graph/api/resources/changenotificationcollection) and "changeNotification resource type"
(https://learn.microsoft.com/graph/api/resources/changenotification).

Anybody who knows the address can send a body, so cheap checks come first, and each decides whether the next is made.
First a sample tells about how long the parser would take. Then the parser passes over the body once and reads the
`clientState` of each item. Items are read only if one of those is right.
"""

import itertools
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import msgspec

from shared.values.errors import MalformedInputError, OversizedBodyError
from shared.values.events.unusual_json import replace_lone_surrogates
from shared.values.items import BYTE_ORDER_MARK, parse_item

MAX_NON_OBJECTS: Final = 100
"""How many elements of `value` may be no JSON objects; they are left out."""

# The parser takes longer for some characters than for others, so each has a weight, and a body may not weigh too much.
# 4 MiB of the smallest notifications that Graph sends (presence, basic) hold 90,102 separators (a comma, or what opens
# an array or an object); the densest that are known hold 99,001.
_SEPARATOR_WEIGHT: Final = 24
_WEIGHTS: Final = ((b",[{", _SEPARATOR_WEIGHT), (b"\\", 2), (b" \t\r\n", 1))
_FREE_WEIGHT: Final = 32_768 * _SEPARATOR_WEIGHT
_BYTES_PER_SEPARATOR: Final = 60
# An organization's Teams resources have 10,000 subscriptions at most ("Overview of change notifications",
# https://learn.microsoft.com/graph/change-notifications-overview).
_FREE_ITEMS: Final = 8_192
_BYTES_PER_ITEM: Final = 1_024
_MAX_MIXED_BYTES: Final = 1024 * 1024  # of a body that does not hold objects alone, since it is read several times

_WEIGHTLESS: Final = bytes(set(range(256)) - set(b"".join(letters for letters, _ in _WEIGHTS)))
_WINDOW: Final = 65_536
_STRIDE: Final = 29  # a prime, so that the sample meets items of one length at different places
# All of a body is weighed where the sample exceeds the bound by more than a 32nd: it is often wrong by less, and the
# weighing costs a third of reading the body.
_TOLERANCE: Final = 32
_MAX_WRONG_ESCAPED: Final = 1_000  # reading one takes as long as several items


class _Head(msgspec.Struct, gc=False, rename="camel"):
    client_state: msgspec.Raw = msgspec.Raw(b"null")


class _Heads(msgspec.Struct, gc=False, rename="camel"):
    value: list[_Head]
    validation_tokens: msgspec.Raw = msgspec.Raw(b"null")


class _Elements(msgspec.Struct, gc=False, rename="camel"):
    value: list[msgspec.Raw]
    validation_tokens: msgspec.Raw = msgspec.Raw(b"null")


_read_heads = msgspec.json.Decoder(_Heads).decode
_read_elements = msgspec.json.Decoder(_Elements).decode
_read_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_text = msgspec.json.Decoder(str).decode


class ClientStates:
    """The values of `clientState` that are accepted."""

    def __init__(self, accepted: Sequence[str]) -> None:
        self._accepted = frozenset(msgspec.json.encode(value) for value in accepted if value)
        self._lengths = frozenset(map(len, self._accepted))
        # In UTF-8 and in quotes. Escapes make a value longer, up to six times where each character is escaped.
        lengths = [len(value.encode()) + 2 for value in accepted if value]
        self._shortest, self._longest_escaped = min(lengths, default=0), 6 * max(lengths, default=0)

    def places(self, spelled: Sequence[msgspec.Raw]) -> tuple[int, ...]:
        """Which of some values, as JSON, are accepted.

        They are looked up by a hash with a key that only this process knows, so the time that it takes tells nothing of
        the secrets but their length.

        Raises:
            OversizedBodyError: too many are spelled with escapes and wrong.
        """
        # JSON holds no NUL. So joining the values and splitting them again makes bytes of all of them in two calls.
        lengths = self._lengths
        alike = b"\0".join([value if len(value) in lengths else b"" for value in spelled]).split(b"\0")
        places = set(self._with_escapes(spelled))
        if not self._accepted.isdisjoint(alike):
            places.update(place for place, value in enumerate(alike) if value in self._accepted)
        return tuple(sorted(places))

    def _with_escapes(self, spelled: Sequence[msgspec.Raw]) -> Iterator[int]:
        least, most = self._shortest, self._longest_escaped
        places = [place for place, value in enumerate(spelled) if least < len(value) <= most]
        together = b"\0".join([spelled[place] for place in places])
        # Only values that hold an escape are copied out, because a copy costs more than all else done for an item.
        index = end = wrong = 0
        while (escape := together.find(b"\\", end)) >= 0:
            index += together.count(b"\0", end, escape)
            start = together.rfind(b"\0", end, escape) + 1 or end
            end = together.find(b"\0", escape)
            end = len(together) if end < 0 else end
            if _plainly(together[start:end]) in self._accepted:
                yield places[index]
            elif (wrong := wrong + 1) > _MAX_WRONG_ESCAPED:
                raise OversizedBodyError("too many client states hold escapes", reason="escaped-client-states")


def _plainly(value: bytes) -> bytes:
    """A JSON string without the escapes that it does not need."""
    try:
        return msgspec.json.encode(_read_text(value))
    except (msgspec.MsgspecError, UnicodeError):
        return b""


@dataclass(frozen=True)
class Collection:
    """What one POST carried.

    Attributes:
        count: items, whoever sent them.
        malformed: elements that are no JSON objects, and were left out.
        authentic: the places of the items with a right `clientState`.
    """

    body: bytes
    count: int
    malformed: int
    authentic: tuple[int, ...]
    tokens: msgspec.Raw

    @property
    def foreign(self) -> int:
        """How many items have another `clientState`, or none."""
        return self.count - len(self.authentic)

    @cached_property
    def raws(self) -> Sequence[msgspec.Raw]:
        """All items as they came.

        Raises:
            MalformedInputError: the body nests too deep for what is left of the stack.
        """
        try:
            return _read_elements(self.body).value
        except RecursionError:
            raise _not_json() from None

    def validation_tokens(self, limit: int) -> tuple[str, ...] | None:
        """The tokens, each once and in their order; None where there are more than `limit`."""
        if _first(self.tokens) != b"[":
            return ()
        tokens: dict[str, None] = {}
        for raw in _read_list(self.tokens):
            if _first(raw) == b'"':
                tokens[_read_text(raw)] = None
                if len(tokens) > limit:
                    return None
        return tuple(tokens)

    def foreign_ids(self, limit: int) -> list[str]:
        """What some of the items that do not know the secret call their subscription, as they came."""
        known = set(self.authentic)
        places = itertools.islice((place for place in range(self.count) if place not in known), limit)
        ids: list[str] = []
        for place in places:
            with suppress(MalformedInputError):
                ids.append(parse_item(bytes(self.raws[place])).notification.subscription_id)
        return ids


def parse_collection(body: bytes, accepted: ClientStates) -> Collection:
    """Find the items of a POST that know the secret.

    Raises:
        OversizedBodyError: it holds more than any body of Graph's could.
        MalformedInputError: it is not JSON, or no changeNotificationCollection; or not UTF-8, where an item is ours.
    """
    body = body.removeprefix(BYTE_ORDER_MARK)
    if _is_too_dense(body):
        raise OversizedBodyError("the body holds too many elements", reason="body-too-dense")
    malformed = 0
    try:
        heads = _read_heads(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        body, malformed = _reread(body, error)
        heads = _read_heads(body)
    count = len(heads.value)
    _check_count(count, len(body))
    if _first(heads.validation_tokens) not in b"[n":
        raise _no_collection()
    authentic = accepted.places([head.client_state for head in heads.value])
    if authentic:
        _check_utf_8(body)
    return Collection(body, count, malformed, authentic, heads.validation_tokens)


def _reread(body: bytes, refusal: Exception) -> tuple[bytes, int]:
    """What can be read of a body that the parser has refused, and how many elements are left out of it.

    Raises:
        OversizedBodyError: too many would have to be left out, or the body is too large to be read again.
        MalformedInputError: it is no collection.
    """
    if isinstance(refusal, msgspec.ValidationError):
        if len(body) > _MAX_MIXED_BYTES:
            raise OversizedBodyError("the body is large and does not hold objects alone", reason="non-objects")
        with suppress(msgspec.DecodeError, RecursionError):
            return _objects_alone(body)
    mended = replace_lone_surrogates(body)
    if mended is body:
        if not body or body.isspace():
            raise MalformedInputError("the body is empty", reason="empty-body")
        raise _not_json()
    return _objects_alone(mended)


def _objects_alone(body: bytes) -> tuple[bytes, int]:
    try:
        elements = _read_elements(body)
    except msgspec.ValidationError:
        raise _no_collection() from None
    _check_count(len(elements.value), len(body))
    objects, others = [], 0
    for raw in elements.value:
        if _first(raw) == b"{":
            objects.append(raw)
        elif (others := others + 1) > MAX_NON_OBJECTS:
            raise OversizedBodyError("the body holds too many elements that are no objects", reason="non-objects")
    # The body is assembled anew even if `others` is 0, as the parser may have refused another "value" before this one.
    return b'{"value":[%b],"validationTokens":%b}' % (b",".join(objects), elements.validation_tokens), others


def _first(raw: msgspec.Raw) -> bytes:
    return bytes(memoryview(raw)[:1])


def _check_count(count: int, size: int) -> None:
    if count > _FREE_ITEMS + size // _BYTES_PER_ITEM:
        raise OversizedBodyError("the body holds too many elements", reason="too-many-items")


def _check_utf_8(body: bytes) -> None:
    try:
        body.decode()  # the JSON parser does not check what it passes over
    except UnicodeDecodeError:
        raise MalformedInputError("the body is not UTF-8", reason="not-utf-8") from None


def _not_json() -> MalformedInputError:
    return MalformedInputError("the body is not JSON in UTF-8", reason="not-json")


def _no_collection() -> MalformedInputError:
    return MalformedInputError(
        "the body is not a change notification collection: an object with an array named value", reason="shape"
    )


def _is_too_dense(body: bytes) -> bool:
    """Whether it weighs more than any body of Graph's.

    One byte in `_STRIDE` is looked at, from a place in each window that a sender cannot know. Where the sample exceeds
    the bound, all of the body is weighed, so that none is refused by chance.
    """
    allowed = _FREE_WEIGHT + len(body) * _SEPARATOR_WEIGHT // _BYTES_PER_SEPARATOR
    if len(body) * _SEPARATOR_WEIGHT <= allowed:
        return False
    seen = 0
    for start, offset in zip(range(0, len(body), _WINDOW), secrets.token_bytes(len(body) // _WINDOW + 1), strict=False):
        seen += _weight(body[start + offset % _STRIDE : start + _WINDOW : _STRIDE])
        if seen * _STRIDE > allowed + allowed // _TOLERANCE:
            return _weighs_more(body, allowed)
    return False


def _weighs_more(body: bytes, allowed: int) -> bool:
    weights = (_weight(body[start : start + _WINDOW]) for start in range(0, len(body), _WINDOW))
    return any(total > allowed for total in itertools.accumulate(weights))


def _weight(text: bytes) -> int:
    left = text.translate(None, _WEIGHTLESS)
    return sum([weight * (len(left) - len(left.translate(None, letters))) for letters, weight in _WEIGHTS])
