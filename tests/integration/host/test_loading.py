"""What the host refuses to serve: an app with an end and its reason, a function by leaving it out."""

import asyncio
import json
from collections.abc import Callable

import pytest
import requests

from dev.host import HostProcess, HostStartError
from dev.host.errors import LoadError
from dev.host.worker_process import WorkerProcess
from tests.integration.host.apps import App

type Serve = Callable[..., HostProcess]

HTTP_FUNCTION = """
@app.route("x")
async def x(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(os.environ.get("FROM_FILE", "") + "," + os.environ.get("FROM_BOTH", ""))
"""
NOT_SERVED = """
@app.queue_output("out", queue_name="items", connection="C")
@app.route("y")
async def of_another_type(req: func.HttpRequest, out: func.Out[str]) -> str: ...


@app.queue_trigger("msg", queue_name="%NO_SUCH_SETTING%", connection="C")
async def without_a_setting(msg: func.QueueMessage) -> None: ...


@app.queue_trigger("msg", queue_name="items", connection="MyStorage")
async def without_storage(msg: func.QueueMessage) -> None: ...


@app.retry(strategy="fixed_delay", max_retry_count="2", delay_interval="00:00:01")
@app.queue_trigger("msg", queue_name="items", connection="C")
async def with_a_retry_policy(msg: func.QueueMessage) -> None: ...


@app.queue_trigger("msg", queue_name="items", connection="Missing")
async def disabled(msg: func.QueueMessage) -> None: ...
"""


def refusal(app: App, **settings: str) -> str:
    """Why a host ends that is to serve an app."""
    host = HostProcess(app.folder, app.environment | settings)
    with pytest.raises(HostStartError, match="exit code 1:") as caught:
        host.start()
    said = str(caught.value)
    assert said.count("The function app cannot be served: ") == 1
    return said


def worker_refusal(app: App) -> str:
    """The same of a worker process alone, whose reason becomes the host's."""
    with pytest.raises(LoadError) as caught:
        asyncio.run(WorkerProcess.start(app.folder, app.environment))
    return str(caught.value)


@pytest.fixture(scope="module")
def partly_served(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What the one function that can be served answers, and what the host says of the others."""
    app = App(tmp_path_factory.mktemp("partly-served"))
    app.write(NOT_SERVED + HTTP_FUNCTION)
    values = {"FROM_FILE": "file", "FROM_BOTH": "file"}
    (app.folder / "local.settings.json").write_text(json.dumps({"IsEncrypted": False, "Values": values}))
    settings = {
        "MyStorage": "AccountKey=c2VjcmV0",
        "AzureWebJobs.disabled.Disabled": "true",
        "FROM_BOTH": "environment",
    }
    with HostProcess(app.folder, app.environment | settings) as host:
        return requests.get(f"{host.url}/api/x", timeout=90).text, host.logs


class TestApp:
    @pytest.mark.own_host("it asks a worker process, without a host")
    def test_that_cannot_be_imported(self, app: App) -> None:
        app.write("import not_installed_anywhere")

        said = worker_refusal(app)

        assert "No module named 'not_installed_anywhere'" in said
        assert "function_app.py" in said

    @pytest.mark.own_host("test_refusal.py says what the real one does")
    def test_that_fails_while_it_is_imported_in_one_of_several_workers(self, app: App) -> None:
        app.write("def prepare():\n    1 / 0\n\nprepare()")

        said = refusal(app, FUNCTIONS_WORKER_PROCESS_COUNT="3")

        assert "ZeroDivisionError" in said
        assert "in prepare" in said

    @pytest.mark.own_host("it asks a worker process, without a host")
    def test_that_ends_the_process(self, app: App) -> None:
        app.write("raise SystemExit(0)")

        assert "ended the process while it was imported" in worker_refusal(app)

    @pytest.mark.own_host("it asks a worker process, without a host")
    def test_that_finds_a_module_of_the_hosts_own_folder(self, app: App) -> None:
        app.write("import shared.settings")

        assert "No module named 'shared'" in worker_refusal(app)

    @pytest.mark.own_host("the worker that the real host is tried with is no worker of Azure's")
    def test_is_on_the_path_behind_what_is_installed_and_its_folder_is_the_current_one_after_the_import(
        self, app: App, serve: Serve
    ) -> None:
        (app.folder / "msgspec.py").write_text("shadow = True")
        (app.folder / "own.py").write_text("")
        app.write(
            """
            import msgspec, own

            note(shadow=hasattr(msgspec, "shadow"), folder=os.getcwd())

            @app.route("x")
            async def x(req: func.HttpRequest) -> str:
                return os.getcwd()
            """
        )
        host = serve()

        assert not app.notes[0]["shadow"]
        assert app.notes[0]["folder"] != str(app.folder)
        assert requests.get(f"{host.url}/api/x", timeout=90).text == str(app.folder)

    @pytest.mark.own_host("it asks a worker process, without a host")
    def test_without_functions(self, app: App) -> None:
        app.write("")

        assert "function_app.py declares no functions" in worker_refusal(app)

    @pytest.mark.own_host("it asks a worker process, without a host")
    def test_without_function_app(self, app: App) -> None:
        app.write("")
        (app.folder / "function_app.py").unlink()

        assert "there is no function_app.py in" in worker_refusal(app)

    @pytest.mark.own_host("it asks a worker process, without a host")
    def test_with_a_parameter_that_is_not_bound(self, app: App) -> None:
        app.write('@app.route("x")\nasync def x(req: func.HttpRequest, extra: str) -> str: ...')

        assert "{'extra'}" in worker_refusal(app)


class TestFunction:
    """Those of one app that are left out, each with its reason."""

    @pytest.mark.own_host("the real one serves more, and says what it refuses in words of its own")
    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            ("of_another_type", "binding type queue is not supported by the local host"),
            ("without_a_setting", "'%NO_SUCH_SETTING%' does not resolve to a value"),
            ("without_storage", "setting MyStorage is not a storage connection string"),
            ("with_a_retry_policy", "the local host supports no retry policy but the fixed delay of a timer"),
        ],
    )
    def test_that_cannot_be_served_is_left_out(
        self, partly_served: tuple[str, str], function: str, reason: str
    ) -> None:
        assert f"function {function} does not run: {reason}" in partly_served[1]

    def test_whose_connection_string_is_none_does_not_show_it(self, partly_served: tuple[str, str]) -> None:
        assert "c2VjcmV0" not in partly_served[1]

    @pytest.mark.own_host("the real one names what is wrong with them, too")
    def test_that_a_setting_disables(self, partly_served: tuple[str, str]) -> None:
        assert "function disabled is disabled" in partly_served[1]
        assert "Missing" not in partly_served[1]


class TestHostJson:
    @pytest.mark.own_host("the real one goes by its defaults")
    def test_missing(self, app: App) -> None:
        app.write(HTTP_FUNCTION)
        (app.folder / "host.json").unlink()

        assert "there is no host.json in" in refusal(app)


class TestSettings:
    @pytest.mark.own_host("the real one reads no local.settings.json: Core Tools do that for it")
    def test_of_the_file_do_not_override_the_environment(self, partly_served: tuple[str, str]) -> None:
        assert partly_served[0] == "file,environment"
