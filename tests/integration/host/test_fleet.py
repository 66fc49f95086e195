"""Function groups on a host that has none: several hosts, here the local one as it is started in another's place."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from azure.storage.queue import QueueServiceClient

from dev.azurite import Azurite
from dev.host.fleet import HostFleet
from dev.host.process import FUNCTIONS_HOST
from tests.integration.host.apps import App, encoded, eventually

SOURCE = """
@app.route("pid")
async def http(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(str(os.getppid()))

@app.queue_trigger("msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def queue(msg: func.QueueMessage) -> None:
    note(text=msg.get_body().decode(), host=os.getppid())
"""


@pytest.fixture(autouse=True)
def another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get(FUNCTIONS_HOST):
        script = tmp_path / "functions-host"
        # No shell script, because some shells lose variables with a dot in their names.
        command = "[sys.executable, '-m', 'dev.host', *sys.argv[3:]]"
        script.write_text(f"#!{sys.executable}\nimport os, sys\nos.execv(sys.executable, {command})\n")
        script.chmod(0o700)
        monkeypatch.setenv(FUNCTIONS_HOST, str(script))


@pytest.mark.skipif(sys.platform == "win32", reason="a script is no executable there")
def test_each_group_has_a_host_which_is_started_again_by_itself(
    app: App, azurite: Azurite, queue_service: QueueServiceClient, unique_name: Callable[[str], str]
) -> None:
    app.write(SOURCE)
    messages = queue_service.create_queue(unique_name("fleet"))
    settings = {"AzureWebJobsStorage": azurite.connection_string, "QUEUE": messages.queue_name}
    with HostFleet(app.folder, app.environment | settings) as fleet:
        messages.send_message(encoded("by its queue"))
        first = app.await_notes(1)[0]["host"]
        fleet.start_function("queue", "by hand")
        assert app.await_notes(2)[1] == {"text": "by hand", "host": first}
        http = int(requests.get(f"{fleet.url}/api/pid", timeout=90).text)
        assert http != first
        assert not fleet.start_again_if_ended()

        os.kill(first, signal.SIGKILL)

        eventually(fleet.start_again_if_ended)
        assert fleet.ends == 1
        messages.send_message(encoded("again"))
        assert app.await_notes(3)[2]["host"] not in {first, http}
        assert int(requests.get(f"{fleet.url}/api/pid", timeout=90).text) == http
