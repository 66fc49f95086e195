"""The messages between the Functions host and a Python worker, as plain bags of attributes.

In Azure they are protobuf messages over gRPC. `azure_functions_runtime`, the library that runs the functions there,
reads their attributes and never asks for their types. That contract is the library's own affair: its version is pinned,
and a contract test notices when it changes.
"""

from types import SimpleNamespace
from typing import Any


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
        if name not in self.__slots__ and name == self._kind:
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
