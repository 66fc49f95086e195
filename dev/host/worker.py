"""What the host knows of an app's functions, and the port through which it calls them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from dev.host.config import resolve
from dev.host.errors import LoadError
from dev.host.messages import TypedData

TRIGGERS = frozenset({"httpTrigger", "queueTrigger", "timerTrigger"})
_OUTPUTS = frozenset({"http"})


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often a function that fails is called again for the same event.

    Attributes:
        times: at most so often.
        pause: before each of them; None where the pauses grow.
    """

    times: int
    pause: timedelta | None


@dataclass(frozen=True, kw_only=True)
class IndexedFunction:
    """A function as its app declares it.

    Attributes:
        bindings: as in function.json, `%SETTING%` expressions as they stand.
        retry: as it is declared.
    """

    name: str
    bindings: Sequence[Mapping[str, Any]]
    retry: RetryPolicy | None = None


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function that the host can serve.

    Attributes:
        trigger: its trigger binding as in function.json, `%SETTING%` expressions resolved.
        retry: a timer's alone, with a pause.
    """

    name: str
    trigger: Mapping[str, Any]
    retry: RetryPolicy | None = None

    @classmethod
    def of(cls, indexed: IndexedFunction, settings: Mapping[str, str]) -> "Function":
        """Resolve a function's settings.

        Raises:
            LoadError: a setting is missing, or the function needs what this host has not.
        """
        for binding in indexed.bindings:
            if binding["type"] not in TRIGGERS | _OUTPUTS:
                raise LoadError(f"binding type {binding['type']} is not supported by the local host")
        triggers = [binding for binding in indexed.bindings if binding["type"] in TRIGGERS]
        if len(triggers) != 1:
            raise LoadError(f"it must have one trigger and has {len(triggers)}")
        retry = indexed.retry
        if retry is not None and (retry.pause is None or triggers[0]["type"] != "timerTrigger"):
            raise LoadError("the local host supports no retry policy but the fixed delay of a timer")
        trigger = {
            key: resolve(value, settings) if isinstance(value, str) else value for key, value in triggers[0].items()
        }
        return cls(name=indexed.name, trigger=trigger, retry=retry)

    @property
    def kind(self) -> str:
        """`httpTrigger`, `queueTrigger` or `timerTrigger`."""
        return str(self.trigger["type"])


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """A call of a function.

    Attributes:
        function: one of the app's.
        data: the trigger's value.
        metadata: the trigger's metadata.
        trace_parent: the W3C traceparent of the invocation; queue and timer functions have none.
        retry_count: how often it was called for the same event before.
    """

    function: Function
    data: TypedData
    metadata: Mapping[str, TypedData] | None = None
    trace_parent: str | None = None
    retry_count: int = 0


class Worker(Protocol):
    """Calls the functions of one app: in this process (`LibraryWorker`), or in others (`WorkerPool`)."""

    async def invoke(self, invocation: Invocation) -> TypedData | None:
        """Call a function and return what it returned, converted by its `$return` binding (None if it has none).

        Raises:
            FunctionFailedError: it raised an exception, or its process ended.
        """
        ...
