"""What there is in a tenant: what Graph lists, what it leaves out of the list, and what of it is believed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from shared.clock import Clock
from shared.subscriptions.actions import Outcome
from shared.subscriptions.memory import SKEW, Memory, believed, recalled
from shared.subscriptions.scheduler import BatchScheduler
from shared.values import graph
from shared.values.errors import OutOfTimeError, SwitchboardError, UnavailableError
from shared.values.graph import GraphError, Subscription

_HIDDEN: Final = 1000  # read by id in a run: two windows of Graph's limit of 500 in 20 seconds
_FACELESS: Final = 100  # each takes up to three requests
_AT_ONCE: Final = 8
_ROTATION: Final = timedelta(minutes=5)

logger = logging.getLogger(__name__)


class Lists(Protocol):
    """Where subscriptions are listed and read; see `shared.subscriptions.graph.GraphClient`."""

    def subscription_pages(self, tenant_id: str) -> AsyncIterator[Sequence[Subscription]]: ...

    async def subscription(self, tenant_id: str, subscription_id: str) -> Subscription: ...


@dataclass(slots=True)
class Picture:
    """What is believed to be there, by id.

    `confirmed` are those that Graph has shown in this run, `lost` the ids that it does not know any more, with what was
    remembered of them. With an `error`, the list was not read to its end, and there may be others; `without_signed_in`
    says why this is so of presence alone. `unread` says why some could not be read by id. `shows_all` is whether the
    list is to be trusted: it shows something, and leaves out nothing that is known to be there.
    """

    there: dict[str, Subscription] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    lost: dict[str, Subscription | None] = field(default_factory=dict)
    shows_all: bool = False
    error: SwitchboardError | None = None
    without_signed_in: graph.SignedInListError | None = None
    unread: list[SwitchboardError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Listing:
    """Takes stock of a tenant."""

    lists: Lists
    scheduler: BatchScheduler
    clock: Clock
    deadline: datetime

    async def take(
        self,
        tenant_id: str,
        memory: Memory,
        *,
        leave_out: Collection[str] = (),
        see: Callable[[Iterable[Subscription]], None] = lambda _: None,
        being_renewed: Callable[[], Collection[str]] = tuple,
    ) -> Picture:
        """List, and read by id what is remembered and not listed.

        Whatever cannot be read counts as there, by what is remembered of it, until its last known end.

        Args:
            tenant_id: whose.
            memory: what is remembered.
            leave_out: ids that count as gone.
            see: shown each page at once, as it is believed.
            being_renewed: ids that need not be read, since a renewal tells.
        """
        picture = Picture()
        now = self.clock.now()
        for identity, known in memory.known.items():
            one = recalled(identity, tenant_id, known)
            if one is not None and identity not in leave_out and one.expires > now - SKEW:
                picture.there[identity] = one
        hidden = set(picture.there)
        try:
            async for page in self._pages(tenant_id):
                shown = [believed(one, memory.known.get(one.id)) for one in page if one.id not in leave_out]
                picture.there.update((one.id, one) for one in shown)
                picture.confirmed.update(one.id for one in shown)
                see(shown)
        except graph.SignedInListError as error:
            logger.warning("the signed-in user's subscriptions cannot be listed: reason=%s", error.reason)
            picture.without_signed_in = error
        except (UnavailableError, GraphError) as error:
            picture.error = error
            return picture
        picture.shows_all = picture.without_signed_in is None
        await self.read(picture, hidden - picture.confirmed - set(being_renewed()))
        strangers = set(memory.faceless).difference(picture.there, leave_out)
        await self._read_faceless(tenant_id, picture, strangers, see)
        return picture

    async def _pages(self, tenant_id: str) -> AsyncIterator[Sequence[Subscription]]:
        pages = self.lists.subscription_pages(tenant_id)
        while True:
            left = (self.deadline - self.clock.now()).total_seconds()
            if left <= 0:
                raise OutOfTimeError
            try:
                async with asyncio.timeout(left):
                    page = await anext(pages, None)
            except TimeoutError:
                raise OutOfTimeError from None
            if page is None:
                return
            yield page

    async def read(self, picture: Picture, hidden: set[str]) -> None:
        """Read by id some of what is there by all that is known, and is not listed."""
        found = 0
        for result in await self.scheduler.look(picture.there[one] for one in self._share(hidden, _HIDDEN)):
            one = result.subscription
            if result.outcome is Outcome.GONE and result.removed is not None:
                picture.lost[result.removed] = picture.there.pop(result.removed)
            elif result.outcome is Outcome.LEFT and one is not None:
                known = picture.there[one.id]
                expires = one.expires if one.expires_told else known.expires
                picture.there[one.id] = _until(known, expires)
                picture.confirmed.add(one.id)
                found += 1
            elif result.error is not None:
                picture.unread.append(result.error)
        picture.shows_all = picture.shows_all and bool(picture.confirmed) and not found and not picture.unread
        if found:
            logger.warning("Graph's list leaves out %d subscriptions that exist", found)

    async def _read_faceless(
        self, tenant_id: str, picture: Picture, strangers: set[str], see: Callable[[Iterable[Subscription]], None]
    ) -> None:
        """Read what only an id is known of, from the version before this one."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def read(identity: str) -> None:
            async with slots:
                if self.clock.now() >= self.deadline:
                    return
                try:
                    one = await self.lists.subscription(tenant_id, identity)
                except graph.NotFoundError:
                    picture.lost[identity] = None
                except (UnavailableError, GraphError) as error:
                    picture.unread.append(error)
                else:
                    picture.there[one.id] = one
                    picture.confirmed.add(one.id)
                    see((one,))

        await asyncio.gather(*(read(identity) for identity in self._share(strangers, _FACELESS)))

    def _share(self, ids: set[str], most: int) -> Iterator[str]:
        """So many of them; in another run, others."""
        ordered = sorted(ids)
        if len(ordered) <= most:
            yield from ordered
            return
        start = int(self.clock.now().timestamp() // _ROTATION.total_seconds()) * most
        yield from (ordered[(start + place) % len(ordered)] for place in range(most))


def _until(one: Subscription, expires: datetime) -> Subscription:
    return one if one.expires == expires else replace(one, expires=expires)
