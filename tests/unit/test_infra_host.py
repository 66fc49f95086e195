"""host.json against the part of its published schema that it uses, and against what code and template expect."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shared.call_records import backfill
from shared.notifications import poison
from shared.subscriptions import run, scheduler
from tests.unit.deployed import deployed

ROOT = Path(__file__).parents[2]
HOST = json.loads((ROOT / "host.json").read_text())
SETTINGS = deployed().settings()

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
            "properties": {
                "logLevel": {"type": "object", "additionalProperties": _LEVEL},
                "applicationInsights": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "samplingSettings": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "isEnabled": {"type": "boolean"},
                                "excludedTypes": {"type": "string"},
                                "maxTelemetryItemsPerSecond": {"type": "number"},
                            },
                        },
                    },
                },
            },
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

    def test_a_renewal_run_ends_before_the_host_ends_its_worker(self) -> None:
        """What has begun at the deadline may end, then a backfill gets its least time; a minute is for saving."""
        hours, minutes, seconds = map(int, HOST["functionTimeout"].split(":"))
        longest = run.TIME_BUDGET + scheduler.GRACE + backfill.LEAST_TIME

        assert timedelta(hours=hours, minutes=minutes, seconds=seconds) >= longest + timedelta(minutes=1)

    def test_routes_lie_where_the_template_says(self) -> None:
        assert HOST["extensions"]["http"]["routePrefix"] == "api"


class TestTelemetry:
    """docs/telemetry.md says what was measured; each of these lines is worth gigabytes or a view of the portal."""

    def test_the_host_sends_a_request_for_every_invocation(self) -> None:
        # In OpenTelemetry mode it sends none for queue and timer functions, and two records for each poll of a queue.
        assert HOST.get("telemetryMode", "ApplicationInsights") == "ApplicationInsights"
        assert HOST["logging"]["logLevel"]["Host.Results"] == "Information"

    def test_what_the_worker_logs_is_sent_once(self) -> None:
        # By the worker's own exporter; the host would send it again under `Function.NAME.User`.
        assert HOST["logging"]["logLevel"]["Function"] == "Error"
        assert SETTINGS["PYTHON_APPLICATIONINSIGHTS_LOGGER_NAME"] == "shared"

    def test_an_idle_host_has_little_to_say(self) -> None:
        assert HOST["logging"]["logLevel"]["default"] == "Warning"
        assert HOST["logging"]["logLevel"]["Azure.Core"] == "Warning"

    def test_requests_and_failures_are_never_sampled_away(self) -> None:
        sampling = HOST["logging"]["applicationInsights"]["samplingSettings"]

        assert set(sampling["excludedTypes"].split(";")) == {"Request", "Exception"}

    def test_the_worker_s_sampling_is_a_choice(self) -> None:
        assert SETTINGS["OTEL_TRACES_SAMPLER"] == "microsoft.rate_limited"
        assert float(SETTINGS["OTEL_TRACES_SAMPLER_ARG"]) == 1
