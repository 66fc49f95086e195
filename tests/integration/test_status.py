"""The status page, over real storage and in a real browser."""

import json
import os
import re
import runpy
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import azure.functions as func
import pytest

from dev.simulator import Kind, Options, build
from shared import triggers
from shared.notifications.poison import POISON_QUEUES
from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.operations.checks import Check
from shared.operations.limits import Level, consumer_limits
from shared.operations.status import (
    Checks,
    Events,
    KeptRow,
    Quarantine,
    QueueRow,
    Queues,
    Renewal,
    Status,
    SubscriptionRow,
    Subscriptions,
    Unwanted,
    UnwantedRow,
)
from shared.operations.status_page import page
from shared.values.consumers import Consumer, Consumers
from shared.values.resources import RAW_QUEUES
from tests.integration.app import App

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<script>document.title='taken'</script>\"'&<img src=x onerror=document.title='taken'>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


async def status(app: App, accept: str = "text/html") -> func.HttpResponse:
    return await triggers.status(
        app.parts,
        func.HttpRequest(
            method="GET", url="http://localhost/api/status", headers={"accept": accept}, params={}, body=b""
        ),
    )


async def test_everything_that_lies_in_storage_is_shown(app: App, desire: Callable[[str], None]) -> None:
    desire(f'[[callRecords]]\ntenant = "{app.sim.tenants[0]}"\n')
    await triggers.renew(app.parts)
    altered = app.item(build(Kind.CALL_STARTED, Options()))
    altered["encryptedContent"] = altered["encryptedContent"] | {"dataSignature": "AAAA"}
    await app.post(app.collection(app.item(build(Kind.CALL_STARTED, Options())), altered))
    await app.handle()
    await app.parts.activity.flush()
    await app.post(app.collection(app.item(build(Kind.CALL_STARTED, Options()))))
    found = json.loads((await status(app, "application/json")).get_body())
    assert found["subscriptions"]["live"] == len(found["subscriptions"]["nearest"]) == 1
    assert {row["level"] for row in found["subscriptions"]["nearest"]} == {"well"}
    depths = {row["name"]: (row["depth"], row["oldestSeconds"] is not None) for row in found["queues"]["queues"]}
    assert depths["raw-notifications"] == (1, True)
    assert depths["call-events"] == (1, True)
    assert depths["presence-events"] == (0, False)
    assert sum(found["quarantine"]["byReason"].values()) == found["quarantine"]["total"] == 1
    assert found["renewal"]["outcomes"] == {"created": 1}


def test_it_takes_a_key() -> None:
    """Graph calls the other functions and has none."""
    app = runpy.run_path(str(ROOT / "function_app.py"))["app"]  # of its own: an app lists its functions once
    levels = {
        function.get_function_name(): function.get_trigger().get_dict_repr()["authLevel"]
        for function in app.get_functions()
        if function.is_http_function()
    }
    assert {name for name, level in levels.items() if level == func.AuthLevel.FUNCTION} == {"status"}


async def test_html_is_what_a_browser_gets(app: App) -> None:
    answer = await status(app, "text/html,application/xhtml+xml,*/*;q=0.8")
    assert answer.mimetype == "text/html"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.get_body().startswith(b"<!doctype html>")


async def test_storage_down_is_shown_in_time(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    down = "http://127.0.0.1:9/devstoreaccount1"  # the discard port: nothing listens
    key = app.queues.credential.account_key
    monkeypatch.setenv(
        "AzureWebJobsStorage",
        f"AccountName=devstoreaccount1;AccountKey={key};BlobEndpoint={down};QueueEndpoint={down};",
    )
    answer = await status(app)
    assert answer.status_code == 200
    assert answer.get_body().decode().count("storage does not answer") == 5


async def test_settings_that_are_missing_are_named(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEY_VAULT_URL")
    answer = await status(app)
    assert answer.status_code == 503
    assert b"KEY_VAULT_URL" in answer.get_body()


@pytest.fixture
def serve() -> Iterator[Callable[[func.HttpResponse], str]]:
    """Serves one answer as it is, headers included; a browser enforces a policy only over HTTP."""
    answers: list[func.HttpResponse] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers[-1].get_body()
            self.send_response(200 if self.path == "/" else 404)
            for name, value in answers[-1].headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def begin(answer: func.HttpResponse) -> str:
        answers.append(answer)
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield begin
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
async def test_a_browser_shows_hostile_strings_as_text_and_applies_the_style(
    app: App, serve: Callable[[func.HttpResponse], str], tmp_path: Path
) -> None:
    await app.parts.blobs.put(QUARANTINE_CONTAINER, "x.json", b"{}", {"reason": "%s"})
    answer = await status(app)
    hostile = answer.get_body().decode().replace("%s", HOSTILE.replace("&", "&amp;").replace("<", "&lt;"))
    url = serve(func.HttpResponse(hostile, headers=dict(answer.headers)))
    log = browse("--dump-dom", url, tmp_path)
    assert "<title>Switchboard: not well</title>" in log.stdout
    assert "Content Security Policy" not in log.stderr  # Chromium says so where a policy stops something
    plain = browse("--dump-dom", serve(func.HttpResponse(unstyled(hostile), headers=dict(answer.headers))), tmp_path)
    assert "Content Security Policy" in plain.stderr


MEASURED = """<!doctype html><title>?</title><iframe style="width:320px;height:4000px;border:0"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument;
  const wide = [...page.body.querySelectorAll("*")].filter(
    (each) => each.getBoundingClientRect().right > 320.5 || each.scrollWidth > each.clientWidth + 1 && each.clientWidth
  );
  document.title = `${page.querySelectorAll("td").length} cells; too wide: ` +
    wide.map((each) => each.tagName + " " + each.textContent.slice(0, 40)).join(" | ");
};
frame.srcdoc = PAGE;
</script>"""


def busy() -> Status:
    """A status with something in each section, the longest names among it."""
    ends = datetime(2026, 5, 4, 12, tzinfo=UTC)
    ids = [str(uuid4()) for _ in range(2)]
    queues = [*RAW_QUEUES, *POISON_QUEUES, *consumer_limits(Consumers((Consumer("a" * 34, ("emergencyCallEvents",)),)))]
    return Status(
        at=ends,
        level=Level.BAD,
        health=Checks(
            level=Level.BAD,
            checks={
                "functions": Check(level=Level.BAD, finding="drain_poison has not run for 3 h", remedy="see the log"),
                "rawMessages": Check(level=Level.WELL, finding="none"),
            },
        ),
        subscriptions=Subscriptions(
            level=Level.BAD,
            desired=2,
            live=2,
            previous_client_state=1,
            lists_whole=False,
            by_kind={"emergencyCallEvents": 2},
            nearest=[
                SubscriptionRow(
                    id=name,
                    kind="emergencyCallEvents",
                    expires=ends,
                    remaining_seconds=left,
                    life_left=0.2,
                    level=Level.ATTENTION,
                )
                for name, left in zip(ids, (-1.0, 85_000.0), strict=True)
            ],
        ),
        renewal=Renewal(
            level=Level.BAD,
            trouble="a run (by operator) began at 11:00 UTC, and none has come to its end since",
            finished=ends,
            seconds_ago=4000,
            by="operator",
            outcomes={"unchanged": 12_345, "replaced": 1},
            failures=["emergencyCallEvents: sign-in-required x 12345"],
            kept=[
                KeptRow(id=ids[0], kind="emergencyCallEvents", reason="unchanged", replaced_from=ends, expires=ends),
            ],
            unwanted=Unwanted(
                count=12,
                waiting=12,
                listed=[UnwantedRow(id=ids[1], kind="emergencyCallEvents", since=ends, waits="last-of-its-kind")],
            ),
        ),
        queues=Queues(
            level=Level.BAD,
            queues=[QueueRow(name=name, depth=1_234_567, oldest_seconds=9e5, level=Level.ATTENTION) for name in queues],
        ),
        quarantine=Quarantine(
            level=Level.BAD,
            total=5000,
            complete=False,
            by_reason={"data-key-not-for-this-certificate": 4999, "plaintext-not-json": 1},
        ),
        events=Events(
            level=Level.ATTENTION,
            minutes=15,
            by_minute={"Microsoft.Graph.EmergencyCallStarted": [12_345] * 15},
            received=12_345,
            refused={"not-covered-by-a-validation-token": 12_345},
            emergencies={"unwritten": 12_345, "no-key": 12_345},
        ),
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_nothing_is_clipped_at_320_pixels(serve: Callable[[func.HttpResponse], str], tmp_path: Path) -> None:
    measured = MEASURED.replace("PAGE", json.dumps(page(busy())).replace("</", "<\\/"))
    title = browse("--dump-dom", serve(func.HttpResponse(measured)), tmp_path).stdout.partition("</title>")[0]
    assert re.search(r"[1-9]\d+ cells; too wide: $", title), title


def unstyled(text: str) -> str:
    """The page with a script and another style, which its policy does not allow."""
    return text.replace("</body>", "<script>document.title='taken'</script><style>p{}</style></body>")


def browse(option: str, url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        option,
        url,
    ]
    environment = os.environ | {"HOME": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
