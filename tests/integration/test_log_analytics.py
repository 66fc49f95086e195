"""Asking Log Analytics what is billed, over a real socket."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from commands.log_analytics import BILLED, ENDPOINT, LogAnalytics
from shared.values.errors import UnavailableError

ANSWER = {
    "tables": [
        {
            "name": "PrimaryResult",
            "columns": [{"name": "DataType", "type": "string"}, {"name": "Megabytes", "type": "real"}],
            "rows": [["AppMetrics", 12.5], ["AppRequests", 3]],
        }
    ]
}


class Server(HTTPServer):
    status = 200
    body: Any = ANSWER
    seen: tuple[str, str | None, Any] | None = None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen = (self.path, self.headers["Authorization"], asked)
        body = json.dumps(self.server.body).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Credential:
    def get_token(self, *scopes: str) -> Any:
        return SimpleNamespace(token=f"for {scopes[0]}")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def logs(server: Server) -> LogAnalytics:
    return LogAnalytics("the-workspace", Credential(), f"http://127.0.0.1:{server.server_port}")


async def test_what_is_billed_by_table(logs: LogAnalytics, server: Server) -> None:
    assert await logs.billed() == {"AppMetrics": 12.5, "AppRequests": 3.0}
    assert server.seen is not None
    path, authorization, asked = server.seen
    assert path == "/v1/workspaces/the-workspace/query"
    assert authorization == f"Bearer for {ENDPOINT}/.default"
    assert asked == {"query": BILLED}


@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_a_refusal_is_no_amount(logs: LogAnalytics, server: Server, status: int) -> None:
    server.status = status
    with pytest.raises(UnavailableError) as refused:
        await logs.billed()
    assert refused.value.reason == f"log-analytics-{status}"


async def test_no_answer_is_no_amount(logs: LogAnalytics, server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UnavailableError) as silent:
        await logs.billed()
    assert silent.value.reason == "log-analytics-no-answer"
