"""Consumers: who gets which kinds of events, each on queues of its own.

The queues of the catalogue belong to the consumer `default`, which gets every kind. Each consumer that the setting
`CONSUMERS` names gets the same events, under the same ids, on `{queue of the kind}-{name}`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from shared.values.resources import CATALOGUE, UNRECOGNIZED_QUEUE

DEFAULT: Final = "default"
"""The consumer whose queues are those of the catalogue."""

KIND_QUEUES: Final[Mapping[str, str]] = {
    **{key: kind.events_queue for key, kind in CATALOGUE.items()},
    "unrecognized": UNRECOGNIZED_QUEUE,
}
"""The default consumer's queue of each kind: the keys of the catalogue, and `unrecognized`."""

POISON_SUFFIX: Final = "-poison"

# A queue's name has up to 63 characters ("Naming queues and metadata",
# https://learn.microsoft.com/rest/api/storageservices/naming-queues-and-metadata).
# The longest poison queue of a kind leaves 34 of them.
_MAX_NAME: Final = 34
_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_FORM: Final = 'a JSON array of objects like {"name": "billing", "kinds": ["callRecords"]}'


class Consumer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One consumer: its name, and the kinds of events that it gets."""

    name: str
    kinds: tuple[str, ...]

    @property
    def queues(self) -> tuple[str, ...]:
        """Its queues."""
        return tuple(f"{KIND_QUEUES[kind]}-{self.name}" for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Consumers:
    """Who gets events. `default` says whether the catalogue's queues get what another consumer gets, too."""

    named: tuple[Consumer, ...] = ()
    default: bool = True

    def targets(self, queue: str) -> tuple[str, ...]:
        """Every queue that an event for the catalogue's `queue` is put on: one at least, so that none is lost.

        What no consumer gets stays on the catalogue's queue, even where the default consumer is switched off.
        """
        named = tuple(
            f"{queue}-{consumer.name}"
            for consumer in self.named
            if any(KIND_QUEUES[kind] == queue for kind in consumer.kinds)
        )
        return named if named and not self.default else (queue, *named)

    @property
    def unclaimed(self) -> tuple[str, ...]:
        """Kinds that no consumer gets because the default one is switched off; they stay on the catalogue's queues."""
        if self.default:
            return ()
        claimed = {kind for consumer in self.named for kind in consumer.kinds}
        return tuple(kind for kind in KIND_QUEUES if kind not in claimed)

    @property
    def queues(self) -> tuple[str, ...]:
        """All queues that get events."""
        return tuple(target for queue in KIND_QUEUES.values() for target in self.targets(queue))

    def leftovers(self, existing: Iterable[str]) -> list[str]:
        """Which queues of an account were a consumer's and get no events any more, poison queues included."""
        live = frozenset(self.queues)
        own = {queue: queue.removesuffix(POISON_SUFFIX) for queue in existing}
        return sorted(queue for queue, of in own.items() if of not in live and _is_for_events(of))


NO_OTHERS: Final = Consumers()
"""The default consumer alone."""


def parse_consumers(text: str) -> Consumers:
    """Read the setting `CONSUMERS`.

    Raises:
        ValueError: it is not JSON of the form, or holds a name or kind that cannot be; the message says which.
    """
    try:
        consumers = msgspec.json.decode(text, type=tuple[Consumer, ...])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"{error}; it must be {_FORM}") from None
    names = [consumer.name for consumer in consumers]
    for consumer in consumers:
        _check(consumer)
        if names.count(consumer.name) > 1:
            raise ValueError(f"the name {consumer.name!r} stands there twice")
    named = tuple(consumer for consumer in consumers if consumer.name != DEFAULT)
    return Consumers(named, default=DEFAULT not in names)


def _check(consumer: Consumer) -> None:
    name, kinds = consumer.name, consumer.kinds
    if name == DEFAULT:
        if kinds:
            raise ValueError(f"{DEFAULT!r} gets every kind, or with an empty list of kinds what nobody else gets")
        return
    if not is_name(name):
        raise ValueError(
            f"the name {name!r} must be lower-case letters and digits, in parts joined by single hyphens,"
            f" at most {_MAX_NAME} characters, and no part 'poison'"
        )
    if not kinds:
        raise ValueError(f"{name!r} has no kinds: name some, or leave it out")
    for kind in kinds:
        if kind not in KIND_QUEUES:
            raise ValueError(f"{name!r} wants the kind {kind!r}, which is not one of {', '.join(KIND_QUEUES)}")
        if kinds.count(kind) > 1:
            raise ValueError(f"{name!r} names the kind {kind!r} twice")


def is_name(text: str) -> bool:
    """Whether a consumer may be called so; `default` is not one that can be given."""
    return (
        len(text) <= _MAX_NAME
        and _NAME.fullmatch(text) is not None
        and "poison" not in text.split("-")
        and text != DEFAULT
    )


def _is_for_events(queue: str) -> bool:
    """Whether a queue is called as that of a consumer."""
    return any(
        queue == kinds or (queue.startswith(f"{kinds}-") and is_name(queue.removeprefix(f"{kinds}-")))
        for kinds in KIND_QUEUES.values()
    )
