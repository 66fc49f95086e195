"""What `azure_functions_runtime` expects of the host's messages: its internal contract, version by version.

The other tests of this folder use it; these say, when a new version of the library breaks them, where to look.
"""

import importlib.metadata
import re
from pathlib import Path

import azure_functions_runtime
import pytest

from dev.host.messages import PROTOS, ParameterBinding, TypedData

pytestmark = pytest.mark.own_host("the code of this host, which starts none")

LIBRARY = Path(azure_functions_runtime.__file__).parent
# `native_invocation` is another worker's entrance.
SOURCE = "\n".join(path.read_text() for path in sorted(LIBRARY.rglob("*.py")) if path.name != "native_invocation.py")


def attributes_of(name: str) -> set[str]:
    return set(re.findall(rf"(?<![\w.]){name}\.(\w+)", SOURCE))


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("azure-functions-runtime") == "1.3.0"


def test_all_message_types_that_it_makes_are_there() -> None:
    # An environment is reloaded only where a placeholder of the Linux Consumption plan becomes an app.
    used = attributes_of("protos") - {"FunctionEnvironmentReloadResponse"}
    asked_for = set(re.findall(r'getattr\(protos, "(\w+)"', SOURCE))

    assert used | asked_for == set(vars(PROTOS))


def test_it_reads_of_an_invocation_what_the_host_sends() -> None:
    assert attributes_of("invoc_request") == {
        "invocation_id", "function_id", "input_data", "trigger_metadata", "trace_context", "retry_context",
    }  # fmt: skip


def test_it_reads_of_a_start_what_the_host_sends() -> None:
    assert attributes_of("init_request") == {"capabilities", "function_app_directory"}


def test_it_knows_the_kinds_of_data_that_the_host_sends() -> None:
    kinds = set(re.findall(r"tt == '(\w+)'", SOURCE))

    assert {"http", "string", "json", "bytes"} <= kinds


class TestTypedData:
    def test_has_the_one_field_that_is_set(self) -> None:
        data = TypedData(string="x")

        assert data.WhichOneof("data") == "string"
        assert data.string == "x"
        with pytest.raises(AttributeError):
            _ = data.json

    def test_is_what_a_parameter_carries(self) -> None:
        parameter = ParameterBinding(name="msg", data=TypedData(json="1"))

        assert parameter.WhichOneof("rpc_data") == "data"
        assert parameter.data.json == "1"
