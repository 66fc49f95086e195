"""What renewal remembers, and whose turn it is, in memory: `shared.subscriptions.state` without storage."""

from dataclasses import dataclass, field
from datetime import datetime

from shared.subscriptions.state import Changes, Memory, Recollection
from shared.values.errors import NoTurnError, SwitchboardError


@dataclass
class Known:
    """What is remembered, and whose turn it is, in memory; `error` is why storage does not answer."""

    memories: dict[str, Memory] = field(default_factory=dict)
    saves: int = 0
    error: SwitchboardError | None = None
    holders: dict[str, object] = field(default_factory=dict)

    @property
    def ids(self) -> dict[str, frozenset[str]]:
        return {tenant_id: frozenset(memory.known) for tenant_id, memory in self.memories.items()}

    async def load(self, tenant_id: str) -> Recollection:
        if self.error is not None:
            raise self.error
        memory = self.memories.get(tenant_id, Memory())
        return Recollection(memory, is_first=memory.has_made_nothing)

    async def save(self, tenant_id: str, changes: Changes, now: datetime) -> Memory:
        if self.error is not None:
            raise self.error
        before = self.memories.get(tenant_id, Memory())
        after = self.memories[tenant_id] = changes.applied(before, now)
        self.saves += after != before
        return after

    def turn(self, tenant_id: str) -> "Turn":
        return Turn(self, tenant_id)


@dataclass(eq=False)
class Turn:
    """One run's turn, until it gives it back."""

    known: Known
    tenant_id: str

    async def take(self) -> None:
        if self.known.error is not None:
            raise self.known.error
        if self.known.holders.setdefault(self.tenant_id, self) is not self:
            raise NoTurnError("another has it")

    async def keep(self) -> None:
        await self.take()

    async def release(self) -> None:
        if self.known.holders.get(self.tenant_id) is self:
            del self.known.holders[self.tenant_id]
