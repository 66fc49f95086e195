"""What the host refuses to serve: an app with an end and its reason, a function by leaving it out."""

import json
from collections.abc import Callable
from http import HTTPStatus

import pytest
import requests

from dev.host import HostProcess, HostStartError
from tests.integration.host.apps import App

type Serve = Callable[..., HostProcess]

# The real host stays alive with 503 or without functions, and says so in its own words.
pytestmark = pytest.mark.own_host

HTTP_FUNCTION = """
@app.route("x")
async def x(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(os.environ.get("FROM_FILE", "") + "," + os.environ.get("FROM_BOTH", ""))
"""
QUEUE_FUNCTION = """
@app.queue_trigger("msg", queue_name="{name}", connection="{connection}")
async def work(msg: func.QueueMessage) -> None: ...
"""
TIMER_FUNCTION = """
@app.timer_trigger("timer", schedule="{schedule}")
async def tick(timer: func.TimerRequest) -> None: ...
"""


def refusal(app: App, **settings: str) -> str:
    host = HostProcess(app.folder, app.environment | settings)
    with pytest.raises(HostStartError, match="exit code 1:") as caught:
        host.start()
    said = str(caught.value)
    assert said.count("The function app cannot be served: ") == 1
    return said


def left_out(app: App, **settings: str) -> str:
    """What the host says of the functions that it leaves out; another one is served beside them."""
    path = app.folder / "function_app.py"
    path.write_text(path.read_text() + HTTP_FUNCTION.replace("x", "beside"))
    with HostProcess(app.folder, app.environment | settings) as host:
        assert requests.get(f"{host.url}/api/beside", timeout=90).status_code == HTTPStatus.OK
        return host.logs


class TestApp:
    def test_that_cannot_be_imported(self, app: App) -> None:
        app.write("import not_installed_anywhere")

        said = refusal(app)

        assert "No module named 'not_installed_anywhere'" in said
        assert "function_app.py" in said

    def test_that_fails_while_it_is_imported_in_one_of_several_workers(self, app: App) -> None:
        app.write("def prepare():\n    1 / 0\n\nprepare()")

        said = refusal(app, FUNCTIONS_WORKER_PROCESS_COUNT="3")

        assert "ZeroDivisionError" in said
        assert "in prepare" in said

    def test_that_ends_the_process(self, app: App) -> None:
        app.write("raise SystemExit(0)")

        assert "ended the process while it was imported" in refusal(app)

    def test_that_finds_a_module_of_the_hosts_own_folder(self, app: App) -> None:
        app.write("import shared.settings")

        assert "No module named 'shared'" in refusal(app)

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
        assert requests.get(f"{host.url}/api/x", timeout=10).text == str(app.folder)

    def test_without_functions(self, app: App) -> None:
        app.write("")

        assert "function_app.py declares no functions" in refusal(app)

    def test_without_function_app(self, app: App) -> None:
        app.write("")
        (app.folder / "function_app.py").unlink()

        assert "there is no function_app.py in" in refusal(app)

    def test_with_a_parameter_that_is_not_bound(self, app: App) -> None:
        app.write('@app.route("x")\nasync def x(req: func.HttpRequest, extra: str) -> str: ...')

        assert "{'extra'}" in refusal(app)


class TestBinding:
    def test_of_another_type(self, app: App) -> None:
        app.write(
            HTTP_FUNCTION.replace("@app", '@app.queue_output("out", queue_name="q", connection="C")\n@app', 1).replace(
                "HttpRequest)", "HttpRequest, out: func.Out[str])"
            )
        )

        assert "function x does not run: binding type queue is not supported by the local host" in left_out(app)

    def test_with_a_setting_that_is_missing(self, app: App) -> None:
        app.write(QUEUE_FUNCTION.format(name="%NO_SUCH_SETTING%", connection="C"))

        assert "function work does not run: '%NO_SUCH_SETTING%' does not resolve to a value" in left_out(app)

    def test_with_a_connection_string_that_is_none_and_is_not_shown(self, app: App) -> None:
        app.write(QUEUE_FUNCTION.format(name="q", connection="MyStorage"))

        said = left_out(app, MyStorage="AccountKey=c2VjcmV0")

        assert "setting MyStorage is not a storage connection string" in said
        assert "c2VjcmV0" not in said

    def test_with_a_retry_policy_that_is_no_timers(self, app: App) -> None:
        policy = '@app.retry(strategy="fixed_delay", max_retry_count="2", delay_interval="00:00:01")'
        app.write(policy + QUEUE_FUNCTION.format(name="q", connection="C"))

        assert "work does not run: the local host supports no retry policy but the fixed delay of a timer" in left_out(
            app
        )

    def test_of_a_function_that_a_setting_disables(self, app: App) -> None:
        app.write(QUEUE_FUNCTION.format(name="q", connection="Missing"))

        said = left_out(app, **{"AzureWebJobs.work.Disabled": "true"})

        assert "function work is disabled" in said
        assert "Missing" not in said


class TestHostJson:
    def test_missing(self, app: App) -> None:
        app.write(HTTP_FUNCTION)
        (app.folder / "host.json").unlink()

        assert "there is no host.json in" in refusal(app)


class TestSettings:
    def test_of_the_file_do_not_override_the_environment(self, app: App) -> None:
        app.write(HTTP_FUNCTION)
        values = {"FROM_FILE": "file", "FROM_BOTH": "file"}
        (app.folder / "local.settings.json").write_text(json.dumps({"IsEncrypted": False, "Values": values}))

        with HostProcess(app.folder, app.environment | {"FROM_BOTH": "environment"}) as host:
            assert requests.get(f"{host.url}/api/x", timeout=90).text == "file,environment"
