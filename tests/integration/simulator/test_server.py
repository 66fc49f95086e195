import asyncio
import ssl
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from aiohttp import web

from dev.simulator import Fault, Kind, ManualClock, Simulator
from dev.simulator.collection import collection
from dev.simulator.tokens import Forgery, forge
from tests.integration.simulator.conftest import Body, GraphClient
from tests.integration.simulator.subscriber import Subscriber


def test_several_can_run_at_once_and_leave_nothing_behind() -> None:
    with Simulator.start() as one, Simulator.start(app_id="another", certificate_name="other") as two:
        addresses = {
            url
            for sim in (one, two)
            for url in (sim.graph_url, sim.login_url, sim.vault_url, sim.identity_url, sim.control_url)
        }
        assert len(addresses) == 10
        assert two.environment()["GRAPH_APP_IDS"] == "another"
        assert two.environment()["CERTIFICATE_NAME"] == "other"
        bundle = Path(one.environment()["SSL_CERT_FILE"])
        assert bundle.exists()
    assert not bundle.exists()
    assert not any(thread.name == "simulator" for thread in threading.enumerate())


def test_nobody_else_trusts_its_certificates(sim: Simulator) -> None:
    with Simulator.start() as other, pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{sim.login_url}/common/discovery/v2.0/keys", verify=str(other.ca_bundle), timeout=90)


def test_it_ends_even_if_somebody_still_waits() -> None:
    with Simulator.start(clock=ManualClock()) as sim:
        sim.faults.add(Fault("login", delay=3600), times=None)
        with pytest.raises(requests.ReadTimeout):
            requests.get(f"{sim.login_url}/common/discovery/v2.0/keys", verify=str(sim.ca_bundle), timeout=(90, 0.05))


def test_a_slow_answer_goes_by_the_clock() -> None:
    clock = ManualClock()
    with Simulator.start(clock=clock) as sim:
        sim.faults.add(Fault("login", delay=3600))
        answers: list[int] = []
        url = f"{sim.login_url}/common/discovery/v2.0/keys"
        client = threading.Thread(
            target=lambda: answers.append(requests.get(url, verify=str(sim.ca_bundle), timeout=90).status_code)
        )
        client.start()
        clock.advance_to_next()
        client.join(90)
        assert answers == [200]


async def test_everything_can_share_a_loop_with_the_test(body: Body, sim: Simulator) -> None:
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def handle(request: web.Request) -> web.Response:
        if "validationToken" in request.query:
            return web.Response(text=request.query["validationToken"])
        await received.put(await request.json())
        return web.Response(status=202)

    application = web.Application()
    application.router.add_post("/api", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/api"
    token, _ = sim.entra.app_token(audience=sim.graph_url, client_id=sim.app_id, tenant_id=sim.tenants[0])
    secure = ssl.create_default_context(cafile=str(sim.ca_bundle))
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        async with session.post(
            f"{sim.graph_url}/beta/subscriptions",
            json=body(notificationUrl=url, lifecycleNotificationUrl=url),
            ssl=secure,
        ) as answer:
            created = await answer.json()
        sim.graph.notify(created["id"], Kind.CALL_ENDED)
        collected = await asyncio.wait_for(received.get(), 60)
        await asyncio.to_thread(sim.graph.drain)
    await runner.cleanup()
    assert collected["value"][0]["subscriptionId"] == created["id"]


def test_a_forged_collection_can_be_posted(
    graph: GraphClient, body: Body, sim: Simulator, subscriber: Subscriber
) -> None:
    name = graph.create(body()).json()["id"]
    items = [entry.item for entry in sim.graph.prepare(name, Kind.CALL_STARTED)]
    token = forge(
        Forgery.ALG_NONE, sim.entra.signing_key, app_id=sim.app_id, tenant_id=sim.tenants[0], now=sim.clock.now()
    )
    assert sim.graph.post(subscriber.url, collection(items, [token])).status == 202
    assert subscriber.collections[0]["validationTokens"] == [token]
    assert sim.graph.deliveries == ()
