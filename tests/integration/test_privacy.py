"""What is secret or personal reaches no log: all that the processes of the host print is searched for it."""

import base64
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests

from dev import traffic
from dev.azurite import ACCOUNT_KEY
from dev.simulator import Fault, Simulator
from dev.simulator.tokens import Forgery, forge
from dev.stack import Stack
from tests.integration.test_stack import PATIENCE, renew

PLANTED = (
    "Zaphod Planted",
    "zaphod@planted.example",
    "+4989555000111",
    "48.137154",
    "11.576124",
    "Planted Street 42",
    "19:meeting_planted@thread.v2",
)


def personal(number: int) -> dict[str, Any]:
    """The resource of an emergency call, full of what must not be seen; each is another one."""
    return {
        "@odata.type": "#microsoft.graph.emergencyCallEvent",
        "id": f"planted-{number}",
        "callEventType": "emergencyCallStarted",
        "caller": {"displayName": PLANTED[0], "userPrincipalName": PLANTED[1], "phoneNumber": PLANTED[2]},
        "location": {"latitude": PLANTED[3], "longitude": PLANTED[4], "street": PLANTED[5]},
        "threadId": PLANTED[6],
    }


def secrets_of(stack: Stack) -> set[str]:
    """Everything that opens something."""
    certificate = stack.sim.vault.certificate()
    bundle = str(certificate.value)
    found = {stack.settings["CLIENT_STATE"], ACCOUNT_KEY, bundle, stack.sim.environment()["IDENTITY_HEADER"]}
    found |= {bundle[at : at + 40] for at in range(0, len(bundle) - 40, 200)}
    for delivery in stack.sim.graph.deliveries:
        body = json.loads(delivery.body)
        found |= set(body.get("validationTokens") or ())
        for item in body["value"]:
            content = item.get("encryptedContent", {})
            found |= {content[name] for name in ("data", "dataKey", "dataSignature") if name in content}
    return found


def until(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, f"waited for {what}, in vain"
        time.sleep(0.05)


def forged(sim: Simulator, body: bytes, forgery: Forgery) -> bytes:
    token = forge(forgery, sim.entra.signing_key, app_id=sim.app_id, tenant_id=sim.tenants[0], now=sim.clock.now())
    return json.dumps(json.loads(body) | {"validationTokens": [token]}).encode()


def test_all_that_is_printed_in_a_run_with_failures_holds_ids_alone(tmp_path: Path) -> None:
    with Stack.start(tmp_path, subscriptions=traffic.SUBSCRIPTIONS, lease_seconds=2) as stack:
        renew(stack)
        graph = stack.sim.graph
        graph.delivery.first_retry = 0.3
        good = [*graph.prepare(traffic.EMERGENCY, personal(1)), *graph.prepare(traffic.CALL, personal(2))]
        graph.send(good)
        # What cannot be decrypted, what is no JSON inside, what nobody knows, and what is forged.
        (one,) = graph.prepare(traffic.CALL, personal(3))
        content = dict(one.item["encryptedContent"])
        graph.send([replace(one, item={**one.item, "encryptedContent": content | {"dataSignature": "AAAA"}})])
        graph.send([replace(one, item={**one.item, "encryptedContent": PLANTED[0]})])
        graph.send([replace(one, item={**one.item, "subscriptionId": PLANTED[0], "clientState": PLANTED[2]})])
        graph.send([replace(one, item={**one.item, "lifecycleEvent": PLANTED[1], "changeType": None})])
        graph.send([replace(one, item={**one.item, "resource": PLANTED[5], "resourceData": {"id": PLANTED[2]}})])
        body = graph.collection(good)
        tokens = set()
        for forgery in Forgery:
            attempt = forged(stack.sim, body, forgery)
            tokens |= set(json.loads(attempt)["validationTokens"])
            graph.post(good[0].url, attempt)
        graph.post(good[0].url, b'{"value": "' + PLANTED[0].encode() + b'"}')
        graph.post(good[0].url, PLANTED[0].encode())
        # Key Vault, Entra ID and Graph say no, each with a new certificate or key to be fetched.
        stack.sim.vault.rotate_certificate()
        stack.sim.faults.add(Fault("vault", status=403), times=4)
        stack.sim.faults.add(Fault("graph", status=403), times=2)
        stack.sim.faults.add(Fault("login", hang_up="before"), times=2)
        stack.sim.entra.rotate_keys()
        requests.post(f"{stack.url}/admin/functions/renew_subscriptions", json={}, timeout=10).raise_for_status()
        graph.send(graph.prepare(traffic.EMERGENCY, personal(4)))
        requests.get(f"{stack.url}/api/health", timeout=10)
        until(lambda: stack.host.logs.count("quarantined: ") >= 2, "quarantine")
        until(lambda: "put back: " in stack.host.logs or "renewal" in stack.host.logs, "a failure")
        printed = stack.host.logs + stack.host.output
        found = secrets_of(stack)

    assert "notifications refused: reason=client-state" in printed  # the run has come as far as it was to
    assert "validation token refused: reason=signature" in printed
    for secret in found | tokens | set(PLANTED):
        assert secret not in printed, secret[:20]
        assert base64.b64encode(secret.encode()).decode() not in printed, secret[:20]
    assert not re.search(r"eyJ[A-Za-z0-9_-]{20,}", printed), "a token"
    assert "PRIVATE KEY" not in printed
