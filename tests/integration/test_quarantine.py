"""`manage.py quarantine`, on real storage."""

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dev.simulator import Kind, Options, build
from manage import app as manage
from shared.http_client import HttpClient
from shared.notifications.quarantine import QUARANTINE_CONTAINER, Quarantine
from shared.notifications.raw_messages import RawMessages
from shared.notifications.replay import Done, Replay, Selection
from shared.settings import StorageSettings
from shared.storage.account import StorageAccount
from shared.storage.blobs import AzureBlobs
from shared.storage.ports import Receipt
from shared.storage.queues import AzureQueues
from shared.values.envelope import parse_envelope
from shared.values.errors import MalformedContentError, MalformedInputError, UnavailableError
from shared.values.message_text import Encoding
from tests.integration.app import CLIENT_STATE, App

UNKNOWN = f"switchboard/{'0123456789abcdef' * 2}"


async def command(*args: str) -> Result:
    result = await asyncio.to_thread(CliRunner().invoke, manage, ["quarantine", *args], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


async def listed(*args: str) -> list[dict[str, Any]]:
    return json.loads((await command("list", "--json", *args)).stdout)


def undecryptable(app: App, kind: Kind, participants: int = 2, **content: Any) -> dict[str, Any]:
    item = app.item(build(kind, Options(participants=participants)))
    return item | {"encryptedContent": item["encryptedContent"] | content}


@pytest.fixture
async def parked(app: App) -> App:
    """Three entries: of an unknown certificate, of altered content, and of a lifecycle notification."""
    await app.post(
        app.collection(
            undecryptable(app, Kind.CALL_STARTED, encryptionCertificateId=UNKNOWN),
            undecryptable(app, Kind.MEETING_STARTED, dataSignature="AAAA"),
        )
    )
    await app.handle()
    quarantine = Quarantine(_Put(app), lambda: datetime.now(UTC) - timedelta(hours=3))
    envelope = parse_envelope(
        '{"v":1,"id":"l","received":"2026-01-01T00:00:00Z","traceparent":"t","notifications":[{"lifecycleEvent":"x"}]}'
    )
    await quarantine.park(
        envelope, queue="lifecycle-notifications", error=UnavailableError("x", reason="y"), attempts=9
    )
    return app


@dataclass
class _Put:
    """Quarantine's blobs, through the SDK that the test has open."""

    app: App

    async def put(self, container: str, name: str, data: bytes, metadata: Any) -> str:
        await self.app.blobs.get_container_client(container).upload_blob(name, data, metadata=metadata, overwrite=True)
        return ""


def replay_over(queues: Any, blobs: AzureBlobs) -> Replay:
    def now() -> datetime:
        return datetime.now(UTC)

    return Replay(RawMessages(queues, blobs, Quarantine(blobs, now), now))


async def test_an_empty_quarantine(app: App) -> None:
    assert await listed() == []
    assert "empty" in (await command("list")).stdout
    assert (await command("replay", "--all")).exit_code == 0


async def test_the_list_tells_reason_kind_queue_and_age(parked: App) -> None:
    found = {entry["reason"]: entry for entry in await listed()}
    assert {reason: (entry["kind"], entry["queue"]) for reason, entry in found.items()} == {
        "unknown-certificate": ("callEvents", "raw-notifications"),
        "data-signature-mismatch": ("meetingCallEvents", "raw-notifications"),
        "y": ("lifecycle", "lifecycle-notifications"),
    }
    text = (await command("list")).stdout
    assert "3 in quarantine" in text
    assert "3 h" in text
    assert all(entry["name"] in text for entry in found.values())


@pytest.mark.parametrize(
    ("choice", "reasons"),
    [
        (["--reason", "y"], {"y"}),
        (["--reason", "y", "--reason", "unknown-certificate"], {"y", "unknown-certificate"}),
        (["--kind", "callEvents"], {"unknown-certificate"}),
        (["--kind", "callEvents", "--reason", "y"], set()),
        (["--older-than", "2h"], {"y"}),
        (["--older-than", "4h"], set()),
        (["--younger-than", "90m"], {"unknown-certificate", "data-signature-mismatch"}),
    ],
)
async def test_choices(parked: App, choice: list[str], reasons: set[str]) -> None:
    assert {entry["reason"] for entry in await listed(*choice)} == reasons
    outcome = json.loads((await command("discard", "--yes", "--json", *choice)).stdout)
    assert outcome == {"outcomes": {"discarded": len(reasons)} if reasons else {}, "problems": {}}
    assert len(await listed()) == 3 - len(reasons)


async def test_discarding_asks_and_a_prefix_of_a_name_is_enough(parked: App) -> None:
    assert (await command("discard", "--all")).exit_code == 2  # there is nobody to ask
    (entry,) = await listed("--reason", "y")
    prefix = entry["name"].partition("/")[2][:6]
    shown = await command("show", prefix, "--json")
    assert json.loads(shown.stdout)["reason"] == "y"
    assert (await command("show", "raw-notifications/", "--json")).exit_code == 2  # two begin so
    assert (await command("discard", prefix, "--yes")).exit_code == 0
    assert {entry["reason"] for entry in await listed()} == {"unknown-certificate", "data-signature-mismatch"}


async def test_show_tells_all_but_the_secret(parked: App) -> None:
    (entry,) = await listed("--reason", "unknown-certificate")
    for args in ([], ["--json"]):
        text = (await command("show", entry["name"], *args)).stdout
        assert "UnknownCertificateError" in text
        assert UNKNOWN in text
        assert "traceparent" in text
        assert CLIENT_STATE not in text
    assert (await command("show", "raw-notifications/none.json")).exit_code == 1


async def test_replay_puts_back_and_what_now_succeeds_is_delivered(app: App) -> None:
    version = app.sim.vault.certificate().version
    await app.post(app.collection(undecryptable(app, Kind.CALL_STARTED, encryptionCertificateId=UNKNOWN)))
    await app.post(app.collection(app.item(build(Kind.CALL_ENDED))))
    (message, _) = (await app.raw())["raw-notifications"]
    await app.handle()
    (entry,) = await listed()
    # The operator has restored the certificate: here the item is made to name one that is there.
    blob = app.blobs.get_blob_client(QUARANTINE_CONTAINER, entry["name"])
    data = await (await blob.download_blob()).readall()
    await blob.upload_blob(data.replace(UNKNOWN.encode(), f"switchboard/{version}".encode()), overwrite=True)
    result = await command("replay", "--all")
    assert (result.exit_code, result.stdout.strip()) == (0, "1 replayed")
    assert await app.quarantined() == []
    (again,) = (await app.raw())["raw-notifications"]
    assert (again["id"], "attempts" in again) == (message["id"], False)
    await app.handle()
    assert sorted(event.type for event in await app.on("call-events")) == [
        "Microsoft.Graph.CallEnded",
        "Microsoft.Graph.CallStarted",
    ]


async def test_replay_of_an_item_too_large_for_a_message_is_a_claim_check_again(app: App) -> None:
    large = undecryptable(app, Kind.ROSTER_JOINED, participants=400, encryptionCertificateId=UNKNOWN)
    await app.post(app.collection(large))
    await app.handle()
    assert await app.claims() == {}
    assert (await command("replay", "--reason", "unknown-certificate")).exit_code == 0
    assert await app.quarantined() == []
    (claim,) = (await app.claims()).values()
    assert json.loads(claim)["notifications"] == [large]
    await app.handle()
    assert [found["reason"] for found in await app.quarantined()] == ["unknown-certificate"]
    assert await app.claims() == {}


async def test_discard_takes_the_claim_check_along(app: App) -> None:
    await app.post(app.collection(app.item(build(Kind.ROSTER_JOINED, Options(participants=400)))))
    ((message,),) = (await app.raw()).values()
    quarantine = Quarantine(_Put(app), lambda: datetime.now(UTC))
    await app.blobs.create_container(QUARANTINE_CONTAINER)
    await quarantine.park(
        json.dumps(message), queue="raw-notifications", error=UnavailableError("x", reason="y"), attempts=1
    )
    assert len(await app.claims()) == 1
    assert (await command("discard", "--all", "--yes")).exit_code == 0
    assert (await app.claims(), await app.quarantined()) == ({}, [])


@pytest.mark.parametrize("repair", [False, True])
async def test_an_unreadable_text_goes_back_verbatim_or_repaired(app: App, repair: bool) -> None:
    await app.post(app.collection(app.item(build(Kind.CALL_STARTED))))
    ((message,),) = (await app.raw()).values()
    await app.queues.get_queue_client("raw-notifications").clear_messages()
    text = base64.urlsafe_b64encode(json.dumps(message).encode()).decode().rstrip("=") + " "
    await app.blobs.create_container(QUARANTINE_CONTAINER)
    quarantine = Quarantine(_Put(app), lambda: datetime.now(UTC))
    unreadable = MalformedInputError("x", reason="message-unreadable")
    await quarantine.park(text, queue="raw-notifications", error=unreadable, attempts=5, unreadable=True)
    (entry,) = await listed()
    shown = (await command("show", entry["name"])).stdout
    assert "resource" in shown
    assert CLIENT_STATE not in shown
    assert (await command("replay", "--all", *(["--repair"] if repair else []))).exit_code == 0
    if repair:
        assert (await app.raw()) == {"raw-notifications": [message]}
    else:
        (again,) = await app.queues.get_queue_client("raw-notifications").peek_messages()
        assert again.content == text


async def test_two_replays_at_once_say_what_happened(parked: App, empty_storage: str) -> None:
    with closing(HttpClient()) as http:
        account = StorageAccount(StorageSettings(empty_storage, None, None, None), http)
        blobs = AzureBlobs(account)
        (entry,) = await listed("--reason", "unknown-certificate")
        plain = replay_over(AzureQueues(account), blobs)
        outcomes = []

        async def other() -> None:
            outcomes.append(await plain.replay(entry["name"]))

        late = replay_over(_During(AzureQueues(account), other), blobs)
        outcomes.append(await late.replay(entry["name"]))
        assert outcomes == [Done.REPLAYED, Done.REPLAYED_GONE]
        assert await plain.replay(entry["name"]) is Done.GONE


async def test_what_is_no_raw_message_goes_back_as_it_is(app: App) -> None:
    await app.blobs.create_container(QUARANTINE_CONTAINER)
    quarantine = Quarantine(_Put(app), lambda: datetime.now(UTC))
    error = UnavailableError("x", reason="y")
    await quarantine.park('{"odd": 1}', queue="raw-emergency", error=error, attempts=1)
    assert (await command("replay", "--all")).exit_code == 0
    assert await app.raw() == {"raw-emergency": [{"odd": 1}]}


@pytest.mark.parametrize(
    "args",
    [
        ["replay"],
        ["replay", "--all", "--reason", "y"],
        ["discard", "--yes"],
        ["list", "--older-than", "soon"],
    ],
)
async def test_usage(app: App, args: list[str]) -> None:
    assert (await command(*args)).exit_code == 2


async def test_names_that_are_not_there_and_blobs_that_are_not_ours(app: App) -> None:
    await app.blobs.create_container(QUARANTINE_CONTAINER)
    await app.blobs.get_container_client(QUARANTINE_CONTAINER).upload_blob("odd", b"{}")
    assert (await command("replay", "none")).exit_code == 1
    result = await command("replay", "odd", "--json")
    assert (result.exit_code, json.loads(result.stdout)["problems"]) == (1, {"odd": "quarantine-malformed"})
    assert [entry["reason"] for entry in await listed()] == ["unknown"]


async def test_storage_that_is_away_is_a_problem_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AzureWebJobsStorage",
        "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=YQ==;"
        "QueueEndpoint=http://127.0.0.1:1/a;BlobEndpoint=http://127.0.0.1:1/a",
    )
    result = await command("list")
    assert result.exit_code == 1
    assert "storage-no-answer" in result.stderr


@dataclass
class _During:
    """Queues where something happens right after a message has been put."""

    queues: AzureQueues
    then: Callable[[], Any]

    async def put(self, queue: str, body: bytes, encoding: Encoding, delay: timedelta) -> Receipt:
        receipt = await self.queues.put(queue, body, encoding, delay)
        await self.then()
        return receipt


async def test_an_item_that_fails_again_before_its_replay_is_over_stays_in_quarantine(
    parked: App, empty_storage: str
) -> None:
    with closing(HttpClient()) as http:
        account = StorageAccount(StorageSettings(empty_storage, None, None, None), http)
        blobs = AzureBlobs(account)
        (before,) = await listed("--reason", "unknown-certificate")
        found = await replay_over(AzureQueues(account), blobs).show(before["name"])
        assert found is not None
        assert found.envelope is not None
        envelope = found.envelope
        quarantine = Quarantine(blobs, lambda: datetime.now(UTC))

        async def fail() -> None:
            await quarantine.park(envelope, queue="raw-notifications", error=MalformedContentError(), attempts=1)

        replay = replay_over(_During(AzureQueues(account), fail), blobs)
        assert await replay.replay(before["name"]) is Done.CHANGED
        selection = Selection(reasons=frozenset({"encrypted-content-malformed"}))
        assert [entry.name async for entry in replay.entries(selection, datetime.now(UTC))] == [before["name"]]
        assert await replay.replay("raw-notifications/none.json") is Done.GONE
