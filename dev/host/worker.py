"""What the host knows of an app's functions, and the port through which it calls them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dev.host.config import resolve
from dev.host.errors import LoadError
from dev.host.messages import TypedData

TRIGGERS = frozenset({"httpTrigger", "queueTrigger", "timerTrigger"})
_OUTPUTS = frozenset({"http"})


@dataclass(frozen=True, kw_only=True)
class IndexedFunction:
    """A function as its app declares it.

    Attributes:
        bindings: as in function.json, `%SETTING%` expressions as they stand.
        has_retry_policy: whether a retry policy is declared.
    """

    name: str
    bindings: Sequence[Mapping[str, Any]]
    has_retry_policy: bool


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function that the host can serve.

    Attributes:
        trigger: its trigger binding as in function.json, `%SETTING%` expressions resolved.
    """

    name: str
    trigger: Mapping[str, Any]

    @classmethod
    def of(cls, indexed: IndexedFunction, settings: Mapping[str, str]) -> "Function":
        """Resolve a function's settings.

        Raises:
            LoadError: a setting is missing, or the function needs what this host has not.
        """
        for binding in indexed.bindings:
            if binding["type"] not in TRIGGERS | _OUTPUTS:
                raise LoadError(f"binding type {binding['type']} is not supported by the local host")
        if indexed.has_retry_policy:
            raise LoadError("retry policies are not supported by the local host")
        triggers = [binding for binding in indexed.bindings if binding["type"] in TRIGGERS]
        if len(triggers) != 1:
            raise LoadError(f"it must have one trigger and has {len(triggers)}")
        trigger = {
            key: resolve(value, settings) if isinstance(value, str) else value for key, value in triggers[0].items()
        }
        return cls(name=indexed.name, trigger=trigger)

    @property
    def kind(self) -> str:
        """`httpTrigger`, `queueTrigger` or `timerTrigger`."""
        return str(self.trigger["type"])


class Worker(Protocol):
    """Calls the functions of one app: in this process (`LibraryWorker`), or in others (`WorkerPool`)."""

    async def invoke(
        self,
        function: Function,
        data: TypedData,
        *,
        metadata: Mapping[str, TypedData] | None = None,
        trace_parent: str | None = None,
    ) -> TypedData | None:
        """Call a function and return what it returned, converted by its `$return` binding (None if it has none).

        Args:
            function: one of the app's.
            data: the trigger's value.
            metadata: the trigger's metadata.
            trace_parent: the W3C traceparent of the invocation; queue and timer functions have none.

        Raises:
            FunctionFailedError: it raised an exception, or its process ended.
        """
        ...
