"""Drives `azure_functions_runtime`, the library that runs Python functions in Azure from Python 3.13 on."""

import asyncio
import json
import os
import secrets
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import azure_functions_runtime as runtime  # type: ignore[import-untyped]

from dev.host.errors import FunctionFailedError, LoadError
from dev.host.event_loop import InvocationTask
from dev.host.messages import PROTOS, Message, ParameterBinding, StatusResult, TypedData
from dev.host.worker import TRIGGERS, IndexedFunction, Invocation, RetryPolicy

_HOST_ROOT = Path(__file__).resolve().parents[2]
_running: dict[str, str] = {}


class LibraryWorker:
    """The functions of one app, ready to be called in this process. The library holds one app per process."""

    def __init__(self, functions: Sequence[Message]) -> None:
        self._ids = {function.name: function.function_id for function in functions}
        self.functions = tuple(_indexed(function) for function in functions)
        self._parameters = {
            function.name: binding["name"]
            for function in self.functions
            for binding in function.bindings
            if binding["type"] in TRIGGERS
        }

    @classmethod
    async def load(cls, app: Path) -> "LibraryWorker":
        """Import APP/function_app.py and index its functions, as a worker of the Functions host does at its start.

        Raises:
            LoadError: the app cannot be imported or indexed, or has no functions.
        """
        # As in Azure, the app finds installed packages and then its own modules, nothing of where the host is run from.
        sys.path[:] = [*(entry for entry in sys.path if entry not in {"", str(app), str(_HOST_ROOT)}), str(app)]
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
        # Only now: what the app opens by a relative name while it is imported is not there in Azure either.
        os.chdir(app)
        for function in response.function_metadata_results:
            loaded = await runtime.function_load_request(
                Message(request=Message(function_load_request=Message(function_id=function.function_id)))
            )
            _raise_unless_loaded(loaded.result)
        return cls(response.function_metadata_results)

    async def invoke(self, invocation: Invocation) -> TypedData | None:
        """See `Worker`."""
        function = invocation.function
        invocation_id = str(uuid.uuid4())
        request = Message(
            invocation_id=invocation_id,
            function_id=self._ids[function.name],
            input_data=[ParameterBinding(name=self._parameters[function.name], data=invocation.data)],
            trigger_metadata=invocation.metadata,
            trace_context=Message(
                # A function that is not called over HTTP is told of no trace.
                trace_parent=_child_of(invocation.trace_parent) if function.kind == "httpTrigger" else "",
                trace_state="",
                attributes={},
            ),
            retry_context=Message(
                retry_count=invocation.retry_count,
                max_retry_count=0 if function.retry is None else function.retry.times,
                exception=None,
            ),
        )
        _running[invocation_id] = function.name
        task = asyncio.current_task()
        if isinstance(task, InvocationTask):
            task.begin_invocation(invocation_id)
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


def current_function() -> str | None:
    """The name of the function in whose invocation the caller runs, on the event loop or on a worker thread."""
    return _running.get(runtime.invocation_id_cv.get() or "")


def _child_of(trace_parent: str | None) -> str:
    """A W3C traceparent for an invocation: of the caller's trace, or of a new one."""
    parts = (trace_parent or "").split("-")
    trace_id = parts[1] if len(parts) == 4 and len(parts[1]) == 32 else secrets.token_hex(16)
    flags = parts[3] if len(parts) == 4 else "00"
    return f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"


def _raise_unless_loaded(result: StatusResult) -> None:
    if result.status != StatusResult.Success:
        raise LoadError(f"{result.exception.message}\n\n{result.exception.stack_trace}".rstrip())


def _indexed(metadata: Message) -> IndexedFunction:
    return IndexedFunction(
        name=metadata.name,
        bindings=tuple(json.loads(raw) for raw in metadata.raw_bindings),
        retry=None if metadata.retry_options is None else _retry_policy(metadata.retry_options),
    )


def _retry_policy(declared: Message) -> RetryPolicy:
    fixed = declared.retry_strategy == "fixed_delay"
    return RetryPolicy(times=declared.max_retry_count, pause=declared.delay_interval if fixed else None)
