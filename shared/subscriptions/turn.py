"""What a run remembers of a tenant, and whether it is its turn to make and delete subscriptions there."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shared.clock import Clock
from shared.subscriptions.desired_source import Stage
from shared.subscriptions.listing import TenantRecord
from shared.subscriptions.state import KnownSubscriptions, Memory, Recollection, TurnLease
from shared.values.errors import NoTurnError, SettingsError, UnavailableError

_STORAGE_SECONDS: Final = 10.0  # before the list; renewal of what is remembered does not wait for it
_SAVE_SECONDS: Final = 30.0
_TURN_WAIT: Final = timedelta(seconds=90)  # an owner that has died keeps its turn for a minute
_TURN_POLL: Final = 5.0
_TURN_KEPT_EVERY: Final = 20.0


@dataclass(slots=True)
class TenantTurn:
    """A run's memory and turn in one tenant.

    `remembered` is what this process remembers of the tenant, and after each load what storage does. `concerns` are
    settings that nothing is made with. While the turn `is_mine`, this run alone makes and deletes.
    """

    known: KnownSubscriptions
    record: TenantRecord
    clock: Clock
    deadline: datetime
    concerns: Mapping[str, str]
    remembered: Memory | None
    is_mine: bool = False
    saved: bool = False
    _turn: TurnLease = field(init=False)
    _taken: bool = False
    _refusal: NoTurnError | SettingsError | None = None

    def __post_init__(self) -> None:
        self._turn = self.known.turn(self.record.tenant_id)
        self.record.take_memory(self.remembered or Memory())

    @property
    def refusal(self) -> NoTurnError | SettingsError:
        """Why nothing may be made or deleted."""
        return self._refusal or NoTurnError("another run is at work in this tenant")

    async def begin(self) -> Memory:
        """Take the turn if it is free, and what is remembered; without storage, what this process remembers."""
        try:
            async with asyncio.timeout(_STORAGE_SECONDS):
                await self._take()
                return await self.load()
        except TimeoutError:
            self._go_without(UnavailableError("what is remembered", reason="storage-no-answer"))
            return self.remembered or Memory()

    async def load(self) -> Memory:
        """What is remembered, with what this process could not save; without storage, what this process remembers."""
        try:
            recollection = await self.known.load(self.record.tenant_id)
        except UnavailableError as error:
            self._go_without(error)
            return self.remembered or Memory()
        for problem in recollection.problems:
            self.record.add_trouble(Stage.KNOWN, problem)
        changes = self.record.changes
        self.record.restart_review(changes.review)  # it could not be saved, and another run may have looked since
        applied = changes.applied(recollection.memory, self.clock.now())
        self.remembered = msgspec.structs.replace(recollection.memory, known=applied.known, review=applied.review)
        self.record.take_memory(self.remembered)
        self._hold_back(recollection)
        return self.remembered

    async def wait(self) -> bool:
        """Wait a while for another run to end; not for storage."""
        end = min(self.clock.now() + _TURN_WAIT, self.deadline)
        while not self.is_mine and self._refusal is not None and self._refusal.reason == "turn":
            if self.clock.now() >= end:
                break
            await self.clock.sleep(_TURN_POLL)
            await self._take()
        return self.is_mine

    async def keep(self) -> None:
        """Keep the turn until cancelled."""
        while True:
            await asyncio.sleep(_TURN_KEPT_EVERY)
            if self.is_mine:
                with suppress(UnavailableError):  # `guard` asks again before anything is made or deleted
                    await self._turn.keep()

    async def guard(self) -> None:
        """See that the turn is still this run's.

        Raises:
            UnavailableError: it is not, or that cannot be found out.
        """
        if not self.is_mine:
            raise self.refusal
        await self._turn.keep()

    async def save(self) -> None:
        """Save what was learned so far.

        Raises:
            UnavailableError: storage did not take it.
        """
        try:
            async with asyncio.timeout(_SAVE_SECONDS):
                changes, now = self.record.changes, self.clock.now()
                self.remembered = await self.known.save(self.record.tenant_id, changes, now)
        except TimeoutError:
            raise UnavailableError("what is remembered", reason="storage-no-answer") from None

    async def end(self) -> None:
        """Save what was learned, and give the turn back."""
        self.record.forget_refusals(self.remembered or Memory())
        self.remembered = self.record.changes.applied(self.remembered or Memory(), self.clock.now())
        try:
            await self.save()
            self.saved = True
        except UnavailableError as error:
            if all(trouble.stage is not Stage.KNOWN for trouble in self.record.troubles):
                self.record.add_trouble(Stage.KNOWN, error)
        self.record.review = self.remembered.review
        if self._taken:
            with suppress(UnavailableError, TimeoutError):  # the lease ends by itself
                async with asyncio.timeout(_STORAGE_SECONDS):
                    await self._turn.release()

    async def _take(self) -> None:
        try:
            await self._turn.take()
        except NoTurnError as error:
            self._refusal = error
        except UnavailableError as error:
            self._refusal = _waiting_for_storage(error)
        else:
            self._taken, self.is_mine, self._refusal = True, True, None

    def _hold_back(self, recollection: Recollection) -> None:
        """Make and delete nothing with a URL that Graph would change, nor with a weak secret in a first run."""
        decisive = {name for name in self.concerns if name != "CLIENT_STATE" or recollection.is_first}
        if decisive:
            problems = [f"nothing is made or deleted: {name} {self.concerns[name]}" for name in sorted(decisive)]
            self.is_mine, self._refusal = False, SettingsError(problems)

    def _go_without(self, error: UnavailableError) -> None:
        """Make and delete nothing, because what was made before is not known."""
        self.record.add_trouble(Stage.KNOWN, error)
        self.is_mine, self._refusal = False, _waiting_for_storage(error)


def _waiting_for_storage(error: UnavailableError) -> NoTurnError:
    return NoTurnError(f"nothing is made or deleted while storage is away: {error}", reason=error.reason)
