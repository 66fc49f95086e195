"""The express way over the real SDKs: an emergency's event is there when its POST is answered."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import azure.keyvault.secrets.aio  # noqa: F401 - slow to import, in time that the express way has for other things
import pytest

from dev.simulator import Fault, Kind, build
from shared.values.resources import EMERGENCY_QUEUE
from tests.integration.app import App

ROOT = Path(__file__).parents[2]


async def count(app: App) -> int:
    """Raw emergencies on their queue, the hidden ones too."""
    properties = await app.queues.get_queue_client(EMERGENCY_QUEUE).get_queue_properties()
    return properties.approximate_message_count or 0


async def test_the_event_is_written_and_the_raw_message_gone(app: App) -> None:
    await app.post(app.collection(app.item(build(Kind.EMERGENCY_NESTED)), app.item(build(Kind.CALL_STARTED))))
    assert [event.type for event in await app.on("emergency-call-events")] == ["Microsoft.Graph.EmergencyCallStarted"]
    assert list(await app.raw()) == ["raw-notifications"]
    assert await count(app) == 0


async def test_what_it_gives_up_is_shown_to_the_usual_way_at_once(app: App) -> None:
    app.sim.faults.add(Fault("vault", status=503), times=None)
    await app.post(app.collection(app.item(build(Kind.EMERGENCY_NESTED))))
    async with asyncio.timeout(90):
        while EMERGENCY_QUEUE not in await app.raw():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    app.sim.faults.clear()
    await app.handle()
    assert len(await app.on("emergency-call-events")) == 1


async def test_a_process_that_is_gone_leaves_it_to_the_usual_way(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message is there, invisible, and shows by itself."""
    monkeypatch.setattr("shared.notifications.express.HIDDEN", timedelta(minutes=10))
    monkeypatch.setattr("shared.notifications.express.Express.begin", lambda *_: asyncio.create_task(asyncio.sleep(0)))
    await app.post(app.collection(app.item(build(Kind.EMERGENCY_NESTED))))
    assert (await app.raw(), await count(app)) == ({}, 1)
    monkeypatch.setattr("shared.notifications.express.HIDDEN", timedelta(seconds=1))
    await app.post(app.collection(app.item(build(Kind.EMERGENCY_NESTED))))
    async with asyncio.timeout(90):
        while EMERGENCY_QUEUE not in await app.raw():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await app.handle()
    assert len(await app.on("emergency-call-events")) == 1


async def test_switched_off_every_emergency_takes_the_usual_way(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMERGENCY_EXPRESS", "off")
    await app.post(app.collection(app.item(build(Kind.EMERGENCY_NESTED)), app.item(build(Kind.CALL_STARTED))))
    raw = await app.raw()
    assert {queue: len(messages[0]["notifications"]) for queue, messages in raw.items()} == {
        "raw-emergency": 1,
        "raw-notifications": 1,
    }
    assert not [record for record in app.sim.faults.requests if record.service == "vault"]


_POST = """
import asyncio, json, sys
import azure.functions as func
import function_app
# What a slow machine is late with is waited for; a POST needs these three in any case.
from shared import http_client
from shared.notifications import receive, signing_keys
http_client.CONNECT_SECONDS = http_client.SILENT_SECONDS = 90
receive._ANSWER_SECONDS = signing_keys._FETCH_SECONDS = 90
body = sys.stdin.buffer.read()
request = func.HttpRequest(method="POST", url="http://localhost/api/notifications", params={}, body=body)
answer = asyncio.run(function_app.receive_notifications.build().get_user_function()(request))
print(json.dumps([answer.status_code, sorted(sys.modules)]))
"""


def post_to_a_new_process(app: App, kind: Kind, **settings: str) -> tuple[int, set[str]]:
    """The status, and what the process has imported by then."""
    body = app.collection(app.item(build(kind)))
    done = subprocess.run(
        [sys.executable, "-c", _POST],
        cwd=ROOT,
        env={**os.environ, **settings},
        input=body,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    status, modules = json.loads(done.stdout)
    return status, set(modules)


async def test_nothing_of_it_is_imported_before_the_raw_message_is_durable(app: App) -> None:
    def post(**settings: str) -> Any:
        return asyncio.to_thread(post_to_a_new_process, app, Kind.EMERGENCY_NESTED, **settings)

    nobody = "AccountName=a;AccountKey=eA==;QueueEndpoint=http://127.0.0.1:9/a;BlobEndpoint=http://127.0.0.1:9/a"
    status, modules = await post(AzureWebJobsStorage=nobody)
    assert status == 503
    assert not modules & {"shared.notifications.decrypt", "shared.key_vault", "azure.keyvault.secrets.aio"}
    status, modules = await post()
    assert status == 202
    assert {"shared.notifications.decrypt", "shared.key_vault"} <= modules
    assert not modules & {"shared.graph.client", "shared.graph.sign_in", "shared.subscriptions.run"}


async def test_a_post_imports_no_client_of_azures_and_no_general_one(app: App) -> None:
    """By the time it is answered; they take longer to import than all the rest, and Graph waits."""
    identity = app.sim.environment()
    status, modules = await asyncio.to_thread(post_to_a_new_process, app, Kind.CALL_STARTED, **identity)
    assert status == 202
    slow = {"azure.core", "azure.identity", "azure.storage", "azure.keyvault", "aiohttp", "msal", "requests", "urllib3"}
    assert modules & slow == set()
