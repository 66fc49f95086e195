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


@pytest.mark.parametrize("path", ["/api/x", "/", "/admin/host/status"])
def test_an_invalid_value_of_host_json_is_answered_503_everywhere(app: App, azurite: Azurite, path: str) -> None:
    app.write(FUNCTION, queues={"batchSize": 0})
    host = HostProcess(app.folder, app.environment | {"AzureWebJobsStorage": azurite.connection_string})

    def status() -> int | None:
        try:
            return requests.get(f"http://{HOST}:{host.port}{path}", headers=host.key_header, timeout=90).status_code
        except requests.ConnectionError:
            return None

    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(host.start)
        eventually(lambda: status() == HTTPStatus.SERVICE_UNAVAILABLE)
        os.kill(host.pid, signal.SIGKILL)  # it never says that it listens
        with pytest.raises(HostStartError):
            starting.result()
