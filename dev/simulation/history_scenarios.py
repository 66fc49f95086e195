"""What comes in one POST, what is away meanwhile, and what goes wrong with a call: the scenarios of `histories`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from dev.simulation.keys import PAIR
from dev.simulator.crypto import Recipient, encrypt
from shared.values.resources import emergency_path

TENANT: Final = "f69f5191-20ae-4093-8dae-3ec09edeb253"
CLIENT_STATE: Final = "a-client-state"
CERTIFICATE_ID: Final = "switchboard/0123456789abcdef0123456789abcdef"
UNKNOWN: Final = "switchboard/ffffffffffffffffffffffffffffffff"


@dataclass(frozen=True)
class Item:
    """A notification: its name is in the data of its event. `body` is its JSON, once and for all."""

    name: str
    body: str
    has_id: bool = True  # else each delivery of it has an event of its own
    deliverable: bool = True
    lifecycle: bool = False


@dataclass(frozen=True)
class Scenario:
    """The items of one POST, and what is away meanwhile, for how long."""

    items: tuple[Item, ...]
    batched: bool = False
    vault_seconds: float = 0.0
    records_seconds: float = 0.0
    put_back_seconds: float = 0.0  # storage takes nothing that is put back
    claims_seconds: float = 0.0
    text: str | None = None  # that somebody puts on a raw queue


def _item(name: str, fields: Mapping[str, Any], **about: Any) -> Item:
    found = {"subscriptionId": "s", "tenantId": TENANT, "clientState": CLIENT_STATE, "changeType": "created", **fields}
    return Item(name, json.dumps(found), **about)


def rich(name: str, size: int = 0, *, emergency: bool = False, known: bool = True) -> Item:
    plain = json.dumps({"id": name, "callEventType": "emergencyCallStarted", "x": "x" * size}).encode()
    content = encrypt(plain, Recipient.of(PAIR, CERTIFICATE_ID if known else UNKNOWN))
    resource = emergency_path("P") if emergency else "users/u/communications/callEvents"
    return _item(name, {"resource": resource, "encryptedContent": content}, deliverable=known)


def basic(name: str, size: int = 0, *, has_id: bool = True) -> Item:
    presence = {"@odata.type": "#microsoft.graph.presence", "id": name}
    fields = {"resource": f"communications/presences/{name}", "resourceData": presence, "pad": "x" * size}
    return _item(name, fields | ({"id": f"id of {name}"} if has_id else {}), has_id=has_id)


def record(name: str) -> Item:
    data = {"@odata.type": "#microsoft.graph.callRecord", "id": name}
    return _item(name, {"resource": f"communications/callRecords/{name}", "resourceData": data})


def lifecycle(name: str) -> Item:
    return _item(name, {"subscriptionId": name, "lifecycleEvent": "missed", "changeType": None}, lifecycle=True)


def scenarios() -> list[Scenario]:
    """All of them; the content is encrypted anew at each call."""
    large = 60_000
    plain = [
        (rich("a"), basic("b"), basic("c", has_id=False), rich("d")),
        (rich("a", large), rich("b")),
        (rich("a", large), basic("b", large)),
        (basic("a", large, has_id=False),),
        (rich("a", emergency=True), rich("b")),
        (rich("a", emergency=True), rich("b", emergency=True), rich("c", emergency=True, known=False)),
        (rich("a", large, emergency=True),),
        (rich("a"), rich("bad", known=False), basic("c")),
        (rich("bad", large, known=False),),
        (record("a"), record("b"), rich("c")),
        (lifecycle("a"), lifecycle("b"), basic("c")),
    ]
    found = [Scenario(items, batched) for items in plain for batched in (False, True)]
    found += [
        Scenario((rich("a"), basic("b"), rich("c")), vault_seconds=20),
        Scenario((rich("a", large),), vault_seconds=20),
        Scenario((rich("a"), basic("b")), vault_seconds=400, put_back_seconds=300),  # by way of the poison queue
        Scenario((rich("a", large), rich("b")), vault_seconds=400, put_back_seconds=300),
        Scenario((rich("a"), basic("b")), vault_seconds=3 * 3600),  # by way of quarantine
        Scenario((rich("a", large),), vault_seconds=3 * 3600),
        Scenario((rich("a", large),), claims_seconds=3 * 3600),
        Scenario((rich("a", large),), claims_seconds=60 * 3600),  # the sweep is first
        Scenario((rich("a", emergency=True),), vault_seconds=60),
        Scenario((record("a"), record("b")), records_seconds=200),
        Scenario((basic("a"),), text='{"hello": "without base64"}'),
    ]
    return found


class Mode(StrEnum):
    """What goes wrong with a call."""

    FAILS = "fails"
    ANSWER_LOST = "is made, and its answer is lost"
    TWICE = "is made twice"  # the answer to the first was lost, and the client made it again
    DIES_BEFORE = "is not made: the process dies"
    DIES_AFTER = "is made, and the process dies"


@dataclass(frozen=True)
class Fault:
    """The `at`th call goes wrong so."""

    at: int
    mode: Mode
