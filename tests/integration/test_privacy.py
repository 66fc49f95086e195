"""What is secret or personal reaches no log and no telemetry: all that comes out of a run is searched for it."""

import base64
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
import requests
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dev import traffic
from dev.azurite import ACCOUNT_KEY, Azurite
from dev.host import HostProcess
from dev.simulator import Fault, Options, Simulator, build
from dev.simulator.tokens import Forgery, forge
from dev.stack import APP, Stack
from shared import triggers
from tests.integration.app import CLIENT_STATE, PREVIOUS_CLIENT_STATE, App, Message
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
        found |= opening(json.loads(delivery.body))
    return found


def opening(body: dict[str, Any]) -> set[str]:
    """What a POST holds that opens something, or could be opened."""
    found = set(body.get("validationTokens") or ())
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
        stack.host.start_function("renew_subscriptions")
        graph.send(graph.prepare(traffic.EMERGENCY, personal(4)))
        requests.get(f"{stack.url}/api/health", timeout=90)
        until(lambda: stack.host.logs.count("quarantined: ") >= 2, "quarantine")
        until(lambda: "put back: " in stack.host.logs or "renewal" in stack.host.logs, "a failure")
        for refusal in ("notifications refused: reason=client-state", "validation token refused: reason=signature"):
            stack.host.wait_for_log(refusal)  # the run has come as far as it was to
        printed = stack.host.logs + stack.host.output
        found = secrets_of(stack)

    assert_holds_none(printed, found | tokens | set(PLANTED))


def assert_holds_none(text: str, planted: set[str]) -> None:
    for secret in planted:
        assert secret not in text, secret[:20]
        assert base64.b64encode(secret.encode()).decode() not in text, secret[:20]
    assert not re.search(r"eyJ[A-Za-z0-9_-]{20,}", text), "a token"
    assert "PRIVATE KEY" not in text


FAILING_APP = f"""
import importlib.util, os, sys
from functools import cached_property
from pathlib import Path

sys.path.insert(0, {str(APP)!r})
from shared.app import App
from shared.values.errors import UnavailableError


def fail(app):
    kind = Path(os.environ["FAILURE"]).read_text()
    try:
        raise KeyError({PLANTED[0]!r})
    except KeyError as error:
        if kind == "caused":
            raise ValueError({PLANTED[1]!r}) from error
        if kind == "ours":
            raise UnavailableError({PLANTED[2]!r}, reason="planted-reason")
        raise ExceptionGroup({PLANTED[3]!r}, [ValueError({PLANTED[4]!r})])


for name, part in list(vars(App).items()):
    if isinstance(part, cached_property) and name != "telemetry":
        setattr(App, name, property(fail))
spec = importlib.util.spec_from_file_location("the_app", {str(APP / "function_app.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
app = module.app
"""
"""The app, with parts that fail in three ways, each with planted text in the error and in what it came from."""


def test_an_exception_that_leaves_a_function_holds_nothing(azurite: Azurite, tmp_path: Path) -> None:
    """The host logs what the worker's library makes of an exception, which is what Azure Monitor would get."""
    (tmp_path / "function_app.py").write_text(FAILING_APP)
    (tmp_path / "host.json").write_text((APP / "host.json").read_text())
    failure = tmp_path / "failure"
    source = (APP / "function_app.py").read_text()
    functions = set(re.findall(r'@app.function_name\("(\w+)"\)', source))
    routes = dict(re.findall(r'@app.function_name\("(\w+)"\)\s+@app.route\("(\w+)"', source))
    settings = {
        "AzureWebJobsStorage": azurite.connection_string,
        "SELFTEST_SCHEDULE": "0 0 3 1 1 *",
        "FAILURE": str(failure),
    }

    with HostProcess(tmp_path, settings) as host:
        for kind, reason in {"caused": "ValueError", "ours": "planted-reason", "grouped": "ExceptionGroup"}.items():
            failure.write_text(kind)
            for function in functions:
                if function in routes:
                    method = "GET" if function in {"health", "status"} else "POST"
                    url = f"{host.url}/api/{routes[function]}"
                    answer = requests.request(method, url, headers=host.key_header, timeout=90)
                    assert answer.status_code == 500, function
                else:
                    host.start_function(function)
                left = f"{function} failed: InvocationError: {function} failed: {reason}"
                until(lambda left=left: left in host.logs, left)
                assert f"function failed: function={function} reason={reason} at=fail:" in host.logs
        logs = host.logs

    assert len(functions) >= 8
    assert_holds_none(logs, set(PLANTED))
    assert "During handling of" not in logs
    assert "direct cause" not in logs


@pytest.fixture
def _desired(app: App, desire: Callable[[str], None]) -> None:
    desire(f'[[callRecords]]\ntenant = "{app.sim.tenants[0]}"\n')
    app.sim.graph.settings.handshake = True  # which fails, and is told


@pytest.mark.usefixtures("telemetry", "_desired")
async def test_telemetry_and_every_record_of_every_logger_hold_ids_alone(
    app: App,
    metrics: InMemoryMetricReader,
    spans: InMemorySpanExporter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMERGENCY_EXPRESS", "off")  # the first key that is fetched is for the usual way, and refused
    caplog.set_level(logging.INFO)  # what the platform keeps if nothing else is said
    caplog.set_level(logging.DEBUG, "shared")
    number = iter(range(100))

    def item(resource: str = traffic.CALL, **changes: Any) -> dict[str, Any]:
        payload = build(traffic.EVERYTHING[0][1], Options(resource=resource))
        return app.item(replace(payload, content=personal(next(number))), **changes)

    body = app.collection(
        item(),
        item(traffic.EMERGENCY),
        item(encryptedContent={**item()["encryptedContent"], "dataSignature": "AAAA"}),
        item(encryptedContent=PLANTED[0]),
        item(subscriptionId=PLANTED[0], clientState=PLANTED[2]),
        item(lifecycleEvent=PLANTED[1], changeType=...),
        item(resource=PLANTED[5], resourceData={"id": PLANTED[2]}),
        item(tenantId=PLANTED[6]),
    )
    # What the key was for, ahead of an emergency and then for a message that is put back for later.
    app.sim.faults.add(Fault("vault", status=403), times=2)
    sent = [body, *(forged(app.sim, body, forgery) for forgery in Forgery)]
    for one in sent:
        await app.post(one, {"traceparent": PLANTED[2]})
    await app.post(PLANTED[0].encode())
    waiting = [(queue, message) for queue, found in (await app.raw()).items() for message in found]
    await app.handle()
    await app.post(body)
    await app.handle()
    for queue, message in waiting:
        if queue == "lifecycle-notifications":
            await triggers.handle_lifecycle(app.parts, Message(json.dumps(message), 1), queue)
    app.sim.faults.add(Fault("graph", status=403), times=2)
    await triggers.renew(app.parts)
    await triggers.renew(app.parts)
    assert (
        await triggers.health(app.parts, func.HttpRequest(method="GET", url="/api/health", params={}, body=b""))
    ).get_body()

    data = metrics.get_metrics_data()
    assert data is not None
    logged = "\n".join(map(logging.Formatter().format, caplog.records))
    measured = data.to_json()
    traced = "\n".join(span.to_json() for span in spans.get_finished_spans())
    assert "reason=client-state" in logged  # all three have come as far as they were to
    assert "put back: " in logged
    assert "quarantined: " in logged
    assert "Microsoft.Graph" in measured
    assert "process raw-emergency" in traced
    bundle = str(app.sim.vault.certificate().value)
    planted = {*PLANTED, CLIENT_STATE, PREVIOUS_CLIENT_STATE, ACCOUNT_KEY, bundle[100:140]}
    planted.add(app.sim.environment()["IDENTITY_HEADER"])
    for one in sent:
        planted |= opening(json.loads(one))
    assert_holds_none(logged + measured + traced, planted)
