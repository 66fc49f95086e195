"""Drives `azure_functions_runtime`, the library that runs Python functions in Azure from Python 3.13 on.

In Azure a gRPC proxy hands the library the host's protobuf messages. It reads their attributes and never asks for their
types, so here they are plain bags of attributes with the same names. That contract is the library's own affair: its
version is pinned, and a contract test notices when it changes.
"""

import json
import os
import secrets
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import azure_functions_runtime as runtime  # type: ignore[import-untyped]

from dev.host.config import resolve
from dev.host.errors import FunctionFailedError, LoadError

TRIGGERS = frozenset({"httpTrigger", "queueTrigger", "timerTrigger"})
_OUTPUTS = frozenset({"http"})


class Message(SimpleNamespace):
    """Any protobuf message: attributes as given to the constructor."""


class StatusResult(Message):
    """How a request ended: `status`, and `exception` when it failed."""

    Failure = 0
    Success = 1

    def __init__(self, **fields: Any) -> None:
        super().__init__(**{"exception": None} | fields)


class BindingInfo(Message):
    """One binding of a function."""

    # The values of BindingInfo.Direction and BindingInfo.DataType in FunctionRpc.proto.
    out = 1
    inout = 2
    undefined = 0


class TypedData:
    """FunctionRpc.proto's TypedData: exactly one field of `string`, `bytes`, `json`, `http`, … is set."""

    __slots__ = ("_kind", "_value")

    def __init__(self, **field: Any) -> None:
        ((self._kind, self._value),) = field.items()

    def WhichOneof(self, _group: str) -> str:  # noqa: N802
        """The name of the field that is set."""
        return self._kind

    def __getattr__(self, name: str) -> Any:
        if name == self._kind:
            return self._value
        raise AttributeError(name)


class ParameterBinding(Message):
    """The value of one parameter of a function: `name` and `data`."""

    def WhichOneof(self, _group: str) -> str:  # noqa: N802
        """Always `data`: shared memory is not used here."""
        return "data"


class RpcHttpCookie(Message):
    """One cookie of an HTTP response."""

    SameSite = SimpleNamespace(**{"None": None, "Lax": "Lax", "Strict": "Strict", "ExplicitNone": "None"})


PROTOS = SimpleNamespace(
    BindingInfo=BindingInfo,
    FunctionLoadResponse=Message,
    FunctionMetadataResponse=Message,
    InvocationResponse=Message,
    NullableBool=Message,
    NullableDouble=Message,
    NullableString=Message,
    NullableTimestamp=Message,
    ParameterBinding=ParameterBinding,
    RpcException=Message,
    RpcFunctionMetadata=Message,
    RpcHttp=Message,
    RpcHttpCookie=RpcHttpCookie,
    RpcRetryOptions=Message,
    StatusResult=StatusResult,
    Timestamp=Message,
    TypedData=TypedData,
    WorkerInitResponse=Message,
    WorkerMetadata=Message,
)


@dataclass(frozen=True, kw_only=True)
class Function:
    """One function of the app.

    Attributes:
        trigger: its trigger binding as in function.json, `%SETTING%` expressions resolved.
    """

    name: str
    id: str
    trigger: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """`httpTrigger`, `queueTrigger` or `timerTrigger`."""
        return str(self.trigger["type"])


class Worker:
    """The functions of one app, ready to be called. The library holds one app per process."""

    def __init__(self, functions: tuple[Function, ...]) -> None:
        self.functions = functions

    @classmethod
    async def load(cls, app: Path, settings: Mapping[str, str]) -> "Worker":
        """Import APP/function_app.py and index its functions, as a worker of the Functions host does at its start.

        Raises:
            LoadError: the app cannot be imported or indexed, has no functions, or needs what this host has not.
        """
        # As in Azure, the app finds its own modules and installed packages, and nothing of where the host is run from.
        sys.path[:] = [str(app), *(entry for entry in sys.path if entry not in {"", str(_HOST_ROOT)})]
        os.chdir(app)
        runtime.start_threadpool_executor()
        try:
            response = await runtime.worker_init_request(
                Message(
                    request=Message(
                        worker_init_request=Message(capabilities={}, function_app_directory=str(app)),
                    ),
                    properties={"host": "127.0.0.1", "protos": PROTOS},
                )
            )
        except SystemExit as error:
            raise LoadError(
                f"function_app.py ended the process while it was imported (exit code {error.code})"
            ) from error
        _raise_unless_loaded(response.result)
        response = await runtime.functions_metadata_request(None)
        _raise_unless_loaded(response.result)
        if response.function_metadata_results is None and not (app / "function_app.py").exists():
            raise LoadError(f"there is no function_app.py in {app}")
        if not response.function_metadata_results:
            raise LoadError("function_app.py declares no functions")
        functions = tuple(_function(metadata, settings) for metadata in response.function_metadata_results)
        for function in functions:
            response = await runtime.function_load_request(
                Message(request=Message(function_load_request=Message(function_id=function.id)))
            )
            _raise_unless_loaded(response.result)
        return cls(functions)

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
            function: one of `functions`.
            data: the trigger's value.
            metadata: the trigger's metadata.
            trace_parent: the W3C traceparent of the caller, if it sent one.

        Raises:
            FunctionFailedError: it raised an exception.
        """
        invocation_id = str(uuid.uuid4())
        request = Message(
            invocation_id=invocation_id,
            function_id=function.id,
            input_data=[ParameterBinding(name=function.trigger["name"], data=data)],
            trigger_metadata=metadata,
            trace_context=Message(trace_parent=_child_of(trace_parent), trace_state="", attributes={}),
            retry_context=Message(retry_count=0, max_retry_count=0, exception=None),
        )
        _running[invocation_id] = function.name
        token = runtime.invocation_id_cv.set(invocation_id)
        try:
            response = await runtime.invocation_request(Message(request=Message(invocation_request=request)))
        finally:
            runtime.invocation_id_cv.reset(token)
            del _running[invocation_id]
        if response.result.status != StatusResult.Success:
            raise FunctionFailedError(response.result.exception.message, response.result.exception.stack_trace)
        result: TypedData | None = response.return_value
        return result


def running_functions() -> list[str]:
    """The names of the functions that are being called at this moment, one entry for each invocation."""
    return list(_running.values())


def current_function() -> str | None:
    """The name of the function in whose invocation the caller runs, on the event loop or on a worker thread."""
    return _running.get(runtime.invocation_id_cv.get() or "")


_HOST_ROOT = Path(__file__).resolve().parents[2]
_running: dict[str, str] = {}


def _child_of(trace_parent: str | None) -> str:
    """A W3C traceparent for an invocation: of the caller's trace, or of a new one."""
    parts = (trace_parent or "").split("-")
    trace_id = parts[1] if len(parts) == 4 and len(parts[1]) == 32 else secrets.token_hex(16)
    flags = parts[3] if len(parts) == 4 else "00"
    return f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"


def _raise_unless_loaded(result: StatusResult) -> None:
    if result.status != StatusResult.Success:
        raise LoadError(f"{result.exception.message}\n\n{result.exception.stack_trace}".rstrip())


def _function(metadata: Message, settings: Mapping[str, str]) -> Function:
    bindings = [json.loads(raw) for raw in metadata.raw_bindings]
    for binding in bindings:
        if binding["type"] not in TRIGGERS | _OUTPUTS:
            raise LoadError(
                f"function {metadata.name}: binding type {binding['type']} is not supported by the local host"
            )
    if metadata.retry_options is not None:
        raise LoadError(f"function {metadata.name}: retry policies are not supported by the local host")
    triggers = [binding for binding in bindings if binding["type"] in TRIGGERS]
    if len(triggers) != 1:
        raise LoadError(f"function {metadata.name}: it must have one trigger and has {len(triggers)}")
    try:
        trigger = {
            key: resolve(value, settings) if isinstance(value, str) else value for key, value in triggers[0].items()
        }
    except LoadError as error:
        raise LoadError(f"function {metadata.name}: {error}") from error
    return Function(name=metadata.name, id=metadata.function_id, trigger=trigger)
