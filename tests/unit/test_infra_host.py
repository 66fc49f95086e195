"""host.json against the part of its published schema that it uses, and against what code and template expect."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shared.services import poison

HOST = json.loads((Path(__file__).parents[2] / "host.json").read_text())

_SPAN = {"type": "string", "pattern": r"^[0-9][0-9]:[0-9][0-9]:[0-9][0-9](\.[0-9]+)?$"}
_LEVEL = {"enum": ["Trace", "Debug", "Information", "Warning", "Error", "Critical", "None"]}

# After "JSON schema for Azure Functions host.json files" (schemastore.org/host.json) and the page "host.json reference
# for Azure Functions 2.x and later". What is not listed here is not used here: a misspelled name fails.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["version"],
    "additionalProperties": False,
    "properties": {
        "version": {"const": "2.0"},
        "functionTimeout": {"type": "string", "pattern": r"^(-1|([01]\d|2[0-3]):[0-5]\d:[0-5]\d)$"},
        "telemetryMode": {"enum": ["ApplicationInsights", "OpenTelemetry"]},
        "extensionBundle": {
            "type": "object",
            "required": ["id", "version"],
            "additionalProperties": False,
            "properties": {
                "id": {"const": "Microsoft.Azure.Functions.ExtensionBundle"},
                "version": {"type": "string", "pattern": r"^\[\d+\.(\*|\d+\.\d+), \d+\.\d+\.\d+\)$"},
            },
        },
        "extensions": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "http": {
                    "type": "object",
                    "required": ["routePrefix"],
                    "additionalProperties": False,
                    "properties": {
                        "routePrefix": {"type": "string"},
                        "maxConcurrentRequests": {"type": "integer"},
                        "maxOutstandingRequests": {"type": "integer"},
                        "dynamicThrottlesEnabled": {"type": "boolean"},
                    },
                },
                "queues": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "maxPollingInterval": _SPAN,
                        "visibilityTimeout": _SPAN,
                        "batchSize": {"type": "integer", "minimum": 1, "maximum": 32},
                        "maxDequeueCount": {"type": "integer", "minimum": 1},
                        "newBatchThreshold": {"type": "integer", "minimum": 0},
                        "messageEncoding": {"enum": ["base64", "none"]},
                    },
                },
            },
        },
        "logging": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"logLevel": {"type": "object", "additionalProperties": _LEVEL}},
        },
    },
}


class TestHostJson:
    def test_follows_its_schema(self) -> None:
        jsonschema.validate(HOST, SCHEMA)

    @pytest.mark.parametrize("name", ["batchSize", "visibilityTimeout", "messageEncoding"])
    def test_the_schema_refuses_a_name_that_is_misspelled(self, name: str) -> None:
        wrong = json.loads(json.dumps(HOST).replace(f'"{name}"', f'"{name}s"'))

        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)

    def test_raw_messages_are_decoded_as_they_are_encoded(self) -> None:
        assert HOST["extensions"]["queues"]["messageEncoding"] == "base64"

    def test_a_failed_message_is_not_tried_again_at_once(self) -> None:
        assert HOST["extensions"]["queues"]["visibilityTimeout"] > "00:00:00"

    def test_the_code_knows_how_often_the_host_tries(self) -> None:
        assert HOST["extensions"]["queues"]["maxDequeueCount"] == poison.TRIES

    def test_routes_lie_where_the_template_says(self) -> None:
        assert HOST["extensions"]["http"]["routePrefix"] == "api"
