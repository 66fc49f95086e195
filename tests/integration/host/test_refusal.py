"""What the real host does with a host.json that cannot be served, where the local host ends and says why."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import pytest
import requests

from dev.azurite import Azurite
from dev.host import HostProcess, HostStartError
from dev.host.process import FUNCTIONS_HOST
from dev.ports import HOST
from tests.integration.host.apps import App, eventually

pytestmark = pytest.mark.skipif(not os.environ.get(FUNCTIONS_HOST), reason="of another host than the local one")

FUNCTION = """
@app.route("x")
async def x(req: func.HttpRequest) -> str:
    return "served"
"""


def test_an_invalid_value_of_host_json_is_answered_503_but_for_the_status_that_tells_of_it(
    app: App, azurite: Azurite
) -> None:
    app.write(FUNCTION, queues={"batchSize": 0})
    host = HostProcess(app.folder, app.environment | {"AzureWebJobsStorage": azurite.connection_string})

    def get(path: str) -> requests.Response:
        return requests.get(f"http://{HOST}:{host.port}{path}", headers=host.key_header, timeout=90)

    def has_given_up() -> bool:
        try:
            return get("/admin/host/status").json()["state"] == "Error"
        except requests.RequestException:  # it does not listen yet
            return False

    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(host.start)
        eventually(has_given_up)
        assert {get(path).status_code for path in ("/api/x", "/")} == {HTTPStatus.SERVICE_UNAVAILABLE}
        os.kill(host.pid, signal.SIGKILL)  # it never says that it listens
        with pytest.raises(HostStartError):
            starting.result()
