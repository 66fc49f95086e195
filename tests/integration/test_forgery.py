"""Attacks on receiving that go beyond a single bad field; each names what stops it by what it tries."""

import gzip
import json
from typing import Any

import azure.functions as func
import pytest

from dev.simulator import Kind, build
from dev.simulator.tokens import TokenVersion, validation_claims
from shared import triggers
from shared.app import App as Parts
from tests.integration.app import CLIENT_STATE, App
from tests.integration.conftest import OTHER_TENANT
from tests.integration.test_bad_input import BAD, GOOD, outcome


async def test_whoever_sends_what_cannot_be_decrypted_learns_nothing_from_the_answers(app: App) -> None:
    """A padding oracle needs answers that differ: these are all the same, and given before anything is decrypted."""
    answers = set()
    for make, _ in BAD.values():
        response = await app.post(app.collection(make(app)))
        answers.add((response.status_code, response.get_body(), tuple(sorted(response.headers.items()))))
    good = await app.post(app.collection(app.item(build(GOOD))))
    answers.add((good.status_code, good.get_body(), tuple(sorted(good.headers.items()))))
    assert len(answers) == 1


async def test_whoever_is_refused_learns_nothing_either(app: App) -> None:
    item = app.item(build(GOOD))
    bodies = [
        app.collection(item),
        app.collection(item | {"clientState": "x"}),
        app.collection(item, tokens=[]),
        app.collection(item, tokens=[app.token(OTHER_TENANT)]),
        app.collection({name: value for name, value in item.items() if name != "clientState"}),
    ]
    answers = {(found.status_code, found.get_body()) for found in [await app.post(body) for body in bodies]}
    assert answers == {(202, b"")}


@pytest.mark.parametrize(
    ("pair", "accepted"),
    [
        (f'"tenantId":"{OTHER_TENANT}","tenantId":"OURS"', 1),
        (f'"tenantId":"OURS","tenantId":"{OTHER_TENANT}"', 0),
        (f'"clientState":"x","clientState":"{CLIENT_STATE}"', 1),
        (f'"clientState":"{CLIENT_STATE}","clientState":"x"', 0),
    ],
)
async def test_of_duplicate_keys_the_last_counts_here_and_later(app: App, pair: str, accepted: int) -> None:
    item = app.item(build(GOOD))
    name = pair.partition(":")[0].strip('"')
    del item[name]
    text = json.dumps(item)[:-1] + "," + pair.replace("OURS", app.sim.tenants[0]) + "}"
    body = f'{{"value":[{text}],"validationTokens":["{app.token()}"]}}'.encode()
    assert await outcome(app, body) == (202, accepted)
    await app.handle()
    assert [event.tenantid for event in await app.on("call-events")] == [app.sim.tenants[0]] * accepted


@pytest.mark.parametrize(
    "alter",
    [
        gzip.compress,
        lambda body: body.decode().encode("utf-16"),
        lambda body: body.replace(b'"value"', b'"\xff"', 1),
        lambda body: body + b"\x00",
        lambda body: body[:-1],
        lambda body: body + body,
    ],
    ids=["gzip", "utf-16", "not utf-8", "nul after it", "cut short", "twice"],
)
async def test_bodies_that_somebody_else_might_read_otherwise(app: App, alter: Any) -> None:
    assert await outcome(app, alter(app.collection(app.item(build(GOOD))))) == (400, 0)


@pytest.mark.parametrize(
    "odd",
    [
        '"x":' + "9" * 100_000,
        '"x":1e999999',
        '"x":-0',
        '"x":"\\u0000"',
        '"x":"\\ud800"',
        '"x":' + "[" * 900 + "]" * 900,
    ],
    ids=["long", "infinite", "minus nought", "nul", "lone surrogate", "deep"],
)
async def test_odd_values_beside_good_ones_change_nothing(app: App, odd: str) -> None:
    text = json.dumps(app.item(build(GOOD)))[:-1] + "," + odd + "}"
    body = f'{{"value":[{text}],"validationTokens":["{app.token()}"]}}'.encode()
    assert await outcome(app, body) == (202, 1)
    await app.handle()
    assert [event.type for event in await app.on("call-events")] == ["Microsoft.Graph.CallStarted"]


async def test_client_state_followed_by_nul_is_another(app: App) -> None:
    assert await outcome(app, app.collection(app.item(build(GOOD), clientState=CLIENT_STATE + "\0"))) == (202, 0)


async def test_a_flood_of_tokens_is_not_checked_to_its_end(app: App) -> None:
    flood = [f"{number}.b.c" for number in range(200)]
    item = app.item(build(GOOD))
    assert await outcome(app, app.collection(item, tokens=[*flood, app.token()])) == (503, 0)
    assert await outcome(app, app.collection(item, tokens=[*flood[1:], app.token()])) == (202, 1)


async def test_one_good_token_does_not_vouch_for_an_item_that_says_another_tenant_in_either_place(app: App) -> None:
    ours = app.sim.tenants[0]
    items = [
        app.item(build(GOOD), tenantId=OTHER_TENANT, organizationId=ours),
        app.item(build(GOOD), tenantId=..., organizationId=OTHER_TENANT),
        app.item(build(GOOD), tenantId=[ours], organizationId=OTHER_TENANT),
        app.item(build(GOOD), tenantId=f" {ours}"),
        app.item(build(GOOD), tenantId=ours.upper()),
    ]
    assert await outcome(app, app.collection(*items)) == (202, 1)


@pytest.mark.parametrize("version", [1, 2])
async def test_a_token_signed_with_the_published_key_of_personal_accounts(app: App, version: TokenVersion) -> None:
    claims = validation_claims(
        app_id=app.sim.app_id, tenant_id=app.sim.tenants[0], now=app.sim.clock.now(), version=version
    )
    item = app.item(build(GOOD))
    assert await outcome(app, app.collection(item, tokens=[app.sim.entra.personal_key.sign(claims)])) == (202, 0)
    assert await outcome(app, app.collection(item, tokens=[app.sim.entra.signing_key.sign(claims)])) == (202, 1)


# --- the handshake --------------------------------------------------------------------------------------------------


async def test_a_handshake_accepts_no_notifications_on_the_way(app: App) -> None:
    response = await triggers.receive(
        app.parts,
        func.HttpRequest(
            method="POST",
            url="http://localhost/api/notifications",
            params={"validationToken": "x"},
            body=app.collection(app.item(build(Kind.CALL_RECORD_CREATED)), tokens=[]),
        ),
    )
    assert (response.status_code, response.get_body()) == (200, b"x")
    assert await app.raw() == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "text/html", "Content-Type": "text/html"},
        {"validationToken": "from-a-header", "X-HTTP-Method-Override": "GET"},
        {"X-Original-URL": "/admin", "Host": "attacker.example", "Origin": "https://attacker.example"},
    ],
)
async def test_headers_change_nothing_about_the_handshake(headers: dict[str, str]) -> None:
    response = await triggers.receive(
        Parts(),
        func.HttpRequest(
            method="POST",
            url="http://localhost/api/notifications",
            headers=headers,
            params={"validationToken": "a\r\nSet-Cookie: b=c"},
            body=b"",
        ),
    )
    assert (response.status_code, response.mimetype) == (200, "text/plain")
    assert response.get_body() == b"a\r\nSet-Cookie: b=c"
    assert dict(response.headers) == {"X-Content-Type-Options": "nosniff"}
