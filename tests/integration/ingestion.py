"""An ingestion endpoint of Application Insights on loopback, which keeps what exporters send to it."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One envelope: its type ("MetricData", "MessageData", ...), what it holds, and its size in bytes of JSON."""

    kind: str
    data: dict[str, Any]
    size: int

    @property
    def metric(self) -> str:
        """The name of the metric; empty where it is none."""
        return str(self.data["metrics"][0]["name"]) if self.kind == "MetricData" else ""


class Ingestion:
    """The endpoint, as `start` yields it."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/"
        self._lock = threading.Lock()
        self._records: list[Record] = []

    @classmethod
    @contextmanager
    def start(cls) -> "Iterator[Ingestion]":
        """Listen for the length of a `with` block."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        endpoint = server.RequestHandlerClass.endpoint = cls(server.server_port)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    @property
    def settings(self) -> dict[str, str]:
        """App settings with which a worker exports to here as it does in Azure, and nowhere else."""
        key = "00000000-0000-0000-0000-000000000001"
        return {
            "APPLICATIONINSIGHTS_CONNECTION_STRING": (
                f"InstrumentationKey={key};IngestionEndpoint={self._url};LiveEndpoint={self._url}"
            ),
            "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY": "true",
            "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",  # these two would ask Microsoft
            "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
        }

    @property
    def records(self) -> list[Record]:
        """All that has arrived, in order."""
        with self._lock:
            return list(self._records)

    def take(self, body: bytes) -> int:
        """Keep what a request holds; returns how many envelopes that are."""
        envelopes = json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        with self._lock:
            self._records += [
                Record(one["data"]["baseType"], one["data"]["baseData"], len(json.dumps(one, separators=(",", ":"))))
                for one in envelopes
            ]
        return len(envelopes)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    endpoint: Ingestion

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer: dict[str, Any] = {}
        if "QuickPulse" not in self.path:  # live metrics: nobody watches
            count = self.endpoint.take(body)
            answer = {"itemsReceived": count, "itemsAccepted": count, "errors": []}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
