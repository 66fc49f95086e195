"""Claim checks that a crash has left without a message."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from shared.services.claims import sweep
from tests.unit.test_retries import World, rich

NOW = datetime(2026, 3, 10, 3, 20, tzinfo=UTC)
EMERGENCY = "communications/calls/getEmergencyEventsByPolicy(policyName='x')"


@dataclass
class Account:
    """Blobs in the order of their names, and queues."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    vanishing: frozenset[str] = frozenset()

    async def list(self, _container: str) -> AsyncIterator[Any]:
        for name in sorted(self.blobs):
            yield SimpleNamespace(name=name)

    async def get(self, _container: str, name: str) -> bytes | None:
        return None if name in self.vanishing else self.blobs[name]

    async def put(self, queue: str, body: bytes, _encoding: Any) -> None:
        self.messages.append((queue, json.loads(body)))


def claim(name: str, **item: Any) -> bytes:
    body = {"v": 1, "id": name, "first": 7, "received": "2026-03-01T00:00:00Z", "traceparent": "t"}
    return json.dumps(body | {"notifications": [{"resource": "x", "changeType": "created", **item}]}).encode()


async def test_only_the_old_ones_get_a_message_each_on_its_own_lane() -> None:
    account = Account(
        {
            "2026/03/01/a-7.json": claim("a"),
            "2026/03/07/b-7.json": claim("b", resource=EMERGENCY),
            "2026/03/08/c-7.json": claim("c"),
            "2026/03/10/d-7.json": claim("d"),
        }
    )
    assert await sweep(account, account, NOW) == 2
    assert [(queue, found["id"], found["claim"]) for queue, found in account.messages] == [
        ("raw-notifications", "a", "2026/03/01/a-7.json"),
        ("raw-emergency", "b", "2026/03/07/b-7.json"),
    ]
    assert all("notifications" not in found and found["first"] == 7 for _, found in account.messages)
    assert min(account.blobs) == "2026/03/01/a-7.json"  # deleted by whoever handles the message


async def test_what_is_no_claim_check_or_just_gone_is_left() -> None:
    blobs = {"2026/01/01/x": b"x", "2026/01/01/y": claim("y").replace(b'[{"', b'[]}{"'), "2026/01/01/z": claim("z")}
    account = Account(blobs, vanishing=frozenset({"2026/01/01/z"}))
    assert await sweep(account, account, NOW) == 0
    assert account.messages == []


async def test_a_message_that_comes_too_late_finds_that_all_is_done() -> None:
    world = World()
    body = json.loads(claim("a")) | {"first": 0, "notifications": [rich("a", size=100_000)]}
    name = "2026/01/01/a-0.json"
    account = Account({name: json.dumps(body).encode()})
    await sweep(account, account, NOW + timedelta(days=1))
    ((_, ticket),) = account.messages
    await world.decryptor().handle(json.dumps(ticket), queue="raw-notifications", attempts=1)
    assert world.parked() == []
    world.blobs["raw-claims", name] = account.blobs[name]
    await world.decryptor().handle(json.dumps(ticket), queue="raw-notifications", attempts=1)
    assert set(world.events()) == {"a"}
    assert world.claims() == []
