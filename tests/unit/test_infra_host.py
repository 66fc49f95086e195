"""host.json against the part of its published schema that it uses, and against what code and template expect."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.call_records import backfill
from shared.notifications import poison
from shared.subscriptions import run, scheduler
from tests.unit.deployed import deployed
from tests.unit.shapes import misfits

ROOT = Path(__file__).parents[2]
HOST = json.loads((ROOT / "host.json").read_text())
SETTINGS = deployed().settings()

SPAN = r"[0-9][0-9]:[0-9][0-9]:[0-9][0-9](\.[0-9]+)?"

# After "JSON schema for Azure Functions host.json files" (schemastore.org/host.json) and the page "host.json reference
# for Azure Functions 2.x and later". What is not listed here is not used here: a misspelled name fails.
SHAPE: dict[str, Any] = {
    "version!": r"2\.0",
    "functionTimeout": r"-1|([01]\d|2[0-3]):[0-5]\d:[0-5]\d",
    "telemetryMode": "ApplicationInsights|OpenTelemetry",
    "extensionBundle": {
        "id!": r"Microsoft\.Azure\.Functions\.ExtensionBundle",
        "version!": r"\[\d+\.(\*|\d+\.\d+), \d+\.\d+\.\d+\)",
    },
    "extensions": {
        "http": {"routePrefix!": ".*"},
        "queues": {
            "maxPollingInterval": SPAN,
            "visibilityTimeout": SPAN,
            "batchSize": range(1, 33),
            "maxDequeueCount": range(1, 1000),
            "newBatchThreshold": range(1000),
            "messageEncoding": "base64|none",
        },
    },
    "logging": {
        "logLevel": {"*": "Trace|Debug|Information|Warning|Error|Critical|None"},
        "applicationInsights": {"samplingSettings": {"isEnabled": bool, "excludedTypes": ".*"}},
    },
}


class TestHostJson:
    def test_follows_its_schema(self) -> None:
        assert misfits(HOST, SHAPE) == []

    @pytest.mark.parametrize("name", ["batchSize", "visibilityTimeout", "messageEncoding"])
    def test_the_schema_refuses_a_name_that_is_misspelled(self, name: str) -> None:
        wrong = json.loads(json.dumps(HOST).replace(f'"{name}"', f'"{name}s"'))

        assert misfits(wrong, SHAPE) == [f"/extensions/queues/{name}s"]

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("extensions/queues/messageEncoding", "base64"),  # as raw messages are encoded
            ("extensions/queues/maxDequeueCount", poison.TRIES),
            ("extensions/http/routePrefix", "api"),  # where the template says that routes lie
            # docs/telemetry.md says what was measured; each of these is worth gigabytes or a view of the portal.
            ("logging/logLevel/Host.Results", "Information"),  # a request for every invocation
            # The worker's own exporter sends what it logs; the host would send it again under `Function.NAME.User`.
            ("logging/logLevel/Function", "Error"),
            ("logging/logLevel/default", "Warning"),
            ("logging/logLevel/Azure.Core", "Warning"),
        ],
    )
    def test_says_what_others_rely_on(self, path: str, value: object) -> None:
        found: Any = HOST
        for name in path.split("/"):
            found = found[name]
        assert found == value

    def test_a_failed_message_is_not_tried_again_at_once(self) -> None:
        assert HOST["extensions"]["queues"]["visibilityTimeout"] > "00:00:00"

    def test_the_host_sends_requests_itself_and_none_is_sampled_away(self) -> None:
        # In OpenTelemetry mode it sends none for queue and timer functions, and two records for each poll of a queue.
        assert HOST.get("telemetryMode", "ApplicationInsights") == "ApplicationInsights"
        sampling = HOST["logging"]["applicationInsights"]["samplingSettings"]
        assert set(sampling["excludedTypes"].split(";")) == {"Request", "Exception"}

    def test_a_renewal_run_ends_before_the_host_ends_its_worker(self) -> None:
        """What has begun at the deadline may end, then a backfill gets its least time; a minute is for saving."""
        hours, minutes, seconds = map(int, HOST["functionTimeout"].split(":"))
        longest = run.TIME_BUDGET + scheduler.GRACE + backfill.LEAST_TIME

        assert timedelta(hours=hours, minutes=minutes, seconds=seconds) >= longest + timedelta(minutes=1)

    def test_the_worker_s_exporter_and_its_sampling_are_a_choice(self) -> None:
        assert SETTINGS["PYTHON_APPLICATIONINSIGHTS_LOGGER_NAME"] == "shared"
        assert SETTINGS["OTEL_TRACES_SAMPLER"] == "microsoft.rate_limited"
        assert float(SETTINGS["OTEL_TRACES_SAMPLER_ARG"]) == 1
