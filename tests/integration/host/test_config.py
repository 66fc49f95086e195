"""host.json, local.settings.json, settings in bindings, connections and routes."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dev.host.config import (
    QueueOptions,
    merge_local_settings,
    read_host_json,
    resolve,
    worker_count,
)
from dev.host.errors import LoadError
from dev.host.http import Route
from dev.host.storage import queue_service
from dev.host.surroundings import Surroundings
from dev.host.time_span import parse_time_span
from dev.host.worker import Function

pytestmark = pytest.mark.own_host("the code of this host, which starts none")


def function(**trigger: Any) -> Function:
    return Function(name="work", trigger=trigger)


class TestHostJson:
    def test_has_the_real_hosts_defaults(self, tmp_path: Path) -> None:
        (tmp_path / "host.json").write_text('{"version": "2.0", "logging": {"anything": []}}')

        extensions = read_host_json(tmp_path, {}).extensions

        assert extensions.http.route_prefix == "api"
        queues = extensions.queues
        assert (queues.batch_size, queues.new_batch_threshold, queues.max_dequeue_count) == (16, None, 5)
        assert (queues.retry_delay, queues.longest_pause) == (timedelta(0), timedelta(minutes=1))
        assert queues.is_base64

    def test_may_begin_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        (tmp_path / "host.json").write_bytes(b'\xef\xbb\xbf{"version": "2.0"}')

        assert read_host_json(tmp_path, {}).extensions.queues == QueueOptions()

    def test_settings_override_it(self, tmp_path: Path) -> None:
        queues = {"visibilityTimeout": "00:00:30", "maxDequeueCount": 3}
        (tmp_path / "host.json").write_text(json.dumps({"version": "2.0", "extensions": {"queues": queues}}))

        extensions = read_host_json(
            tmp_path,
            {
                "AzureFunctionsJobHost__extensions__queues__visibilityTimeout": "00:00:02",
                "AzureFunctionsJobHost__extensions__queues__batchSize": "4",
                "AzureFunctionsJobHost__extensions__http__routePrefix": "v1",
                "AzureFunctionsJobHost__logging__logLevel__default": "Debug",
                "extensions__queues__maxDequeueCount": "9",
            },
        ).extensions

        assert extensions.queues.retry_delay == timedelta(seconds=2)
        assert (extensions.queues.batch_size, extensions.queues.max_dequeue_count) == (4, 3)
        assert extensions.http.route_prefix == "v1"

    def test_refuses_a_wrong_value_of_a_setting_too(self, tmp_path: Path) -> None:
        (tmp_path / "host.json").write_text('{"version": "2.0"}')

        with pytest.raises(LoadError, match="batchSize must be from 1 to 32"):
            read_host_json(tmp_path, {"AzureFunctionsJobHost__extensions__queues__batchSize": "33"})

    def test_threshold_is_half_a_batch_for_each_core_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.cpu_count", lambda: 2)

        assert QueueOptions(batch_size=5).threshold == 4
        assert QueueOptions(batch_size=5, new_batch_threshold=0).threshold == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batchSize": 33}, "batchSize must be from 1 to 32"),
            ({"batchSize": 0}, "batchSize must be from 1 to 32"),
            ({"batchSize": "16"}, "Expected `int`, got `str`"),
            ({"newBatchThreshold": -1}, "newBatchThreshold must not be negative"),
            ({"maxDequeueCount": 0}, "maxDequeueCount must be at least 1"),
            ({"visibilityTimeout": "30s"}, "'30s' is not a time span"),
            ({"maxPollingInterval": "00:00:00.05"}, "maxPollingInterval must be at least"),
            ({"messageEncoding": "utf-8"}, "messageEncoding must be base64 or none"),
        ],
    )
    def test_refuses_a_wrong_value(self, tmp_path: Path, options: dict[str, object], message: str) -> None:
        (tmp_path / "host.json").write_text(json.dumps({"version": "2.0", "extensions": {"queues": options}}))

        with pytest.raises(LoadError, match=message):
            read_host_json(tmp_path, {})

    @pytest.mark.parametrize("text", ["{", '{"version": "1.0"}', "{}"])
    def test_refuses_another_form(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "host.json").write_text(text)

        with pytest.raises(LoadError, match=r"host\.json"):
            read_host_json(tmp_path, {})


class TestTimeSpan:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("00:00:30", timedelta(seconds=30)),
            ("1.02:03:04.5", timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
            ("00:30 ", timedelta(minutes=30)),
            ("-00:00:30", timedelta(seconds=-30)),
            # Hours end at 23: this is read as days, hours and minutes.
            ("30:00:00", timedelta(days=30)),
            ("30", timedelta(days=30)),
        ],
    )
    def test_is_read(self, text: str, expected: timedelta) -> None:
        assert parse_time_span(text) == expected

    @pytest.mark.parametrize("text", ["", "30s", "00:60", "0.5", "24:00:00.5", "00:00:30.", "10675200"])
    def test_of_another_form_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a time span"):
            parse_time_span(text)


class TestLocalSettings:
    def test_fill_what_is_missing_or_empty(self, tmp_path: Path) -> None:
        values = {"ABSENT": "file", "EMPTY": "file", "PRESENT": "file"}
        (tmp_path / "local.settings.json").write_text(json.dumps({"Values": values}))

        merged = merge_local_settings(tmp_path, {"EMPTY": "", "PRESENT": "environment"})

        assert merged == {"ABSENT": "file", "EMPTY": "file"}

    def test_need_not_be_there(self, tmp_path: Path) -> None:
        assert merge_local_settings(tmp_path, {}) == {}

    @pytest.mark.parametrize(
        ("content", "message"),
        [({"IsEncrypted": True, "Values": {}}, "is encrypted"), ({"Values": {"A": 1}}, "Expected `str`")],
    )
    def test_that_cannot_be_read_are_refused(self, tmp_path: Path, content: dict[str, object], message: str) -> None:
        (tmp_path / "local.settings.json").write_text(json.dumps(content))

        with pytest.raises(LoadError, match=message):
            merge_local_settings(tmp_path, {})


class TestSettings:
    def test_replace_their_names_between_percent_signs(self) -> None:
        assert resolve("a-%X%-%Y%-100%", {"X": "1", "Y": "2"}) == "a-1-2-100%"

    def test_must_be_there(self) -> None:
        with pytest.raises(LoadError, match="'%X%' does not resolve to a value"):
            resolve("%X%", {})

    @pytest.mark.parametrize(("text", "expected"), [("", 1), ("1", 1), ("10", 10)])
    def test_give_the_number_of_workers(self, text: str, expected: int) -> None:
        assert worker_count({"FUNCTIONS_WORKER_PROCESS_COUNT": text}) == expected

    @pytest.mark.parametrize("text", ["0", "11", "-1", "many"])
    def test_give_no_other_number_of_workers(self, text: str) -> None:
        with pytest.raises(LoadError, match="must be from 1 to 10"):
            worker_count({"FUNCTIONS_WORKER_PROCESS_COUNT": text})


class TestConnection:
    @pytest.mark.parametrize(
        ("settings", "url"),
        [
            ({"Store": "UseDevelopmentStorage=true"}, "http://127.0.0.1:10001/devstoreaccount1"),
            (
                {"Store": "AccountName=second;AccountKey=a2V5", "AzureWebJobsStore": "AccountName=one;AccountKey=a2V5"},
                "https://one.queue.core.windows.net",
            ),
            (
                {"Store": "AccountName=plain;AccountKey=a2V5", "Store__accountName": "identity"},
                "https://plain.queue.core.windows.net",
            ),
            ({"Store__accountName": "one"}, "https://one.queue.core.windows.net"),
            ({"Store__serviceUri": "https://one.example"}, "https://one.example"),
            ({"Store__queueServiceUri": "https://one.example", "Store__accountName": "two"}, "https://one.example"),
        ],
    )
    async def test_is_found_in_the_settings(self, settings: dict[str, str], url: str) -> None:
        async with queue_service("Store", settings, Surroundings()) as service:
            assert service.url.rstrip("/") == url

    async def test_must_be_there(self) -> None:
        with pytest.raises(LoadError, match="there is no storage connection 'Store'"):
            async with queue_service("Store", {"AzureWebJobsStorage": "UseDevelopmentStorage=true"}, Surroundings()):
                pass


class TestRoute:
    @pytest.mark.parametrize(
        ("prefix", "route", "template"),
        [
            ("api", "x", "/api/x"),
            ("", "x", "/x"),
            ("a/b", "/x/", "/a/b/x"),
            ("api", None, "/api/work"),
            ("", "", "/work"),
        ],
    )
    def test_stands_under_the_prefix(self, prefix: str, route: str | None, template: str) -> None:
        assert Route.of(function(type="httpTrigger", route=route), prefix).template == template

    @pytest.mark.parametrize("route", ["{id:int}", "{id?}", "{*rest}", "x/{id", "id}"])
    def test_that_is_not_simple_is_refused(self, route: str) -> None:
        with pytest.raises(LoadError, match="only simple route parameters"):
            Route.of(function(type="httpTrigger", route=route), "api")
