"""The status: its levels, its page, and the counts behind it."""

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from html import escape
from html.parser import HTMLParser
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import pytest

from shared.notifications.poison import PoisonStates
from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.operations.activity import Activity, recent_activity
from shared.operations.checks import AppChecks, Check
from shared.operations.function_runs import Runs
from shared.operations.health import Health
from shared.operations.limits import Level, consumer_limits
from shared.operations.status import Problem, Status, StatusReader
from shared.operations.status_page import HEADERS, page
from shared.subscriptions.renewal_state import (
    BegunRun,
    FailedRun,
    KeptSubscription,
    Renewals,
    RenewalState,
    SubscriptionState,
    UnwantedSubscription,
)
from shared.telemetry import ExpressOutcome, Happening
from shared.values.consumers import Consumers
from shared.values.errors import UnavailableError

NOW = datetime(2026, 5, 4, 12, 0, 30, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>'\"&<img src=x onerror=alert(1)>"


class Blob(NamedTuple):
    name: str
    metadata: Mapping[str, str]


def found(check: Check) -> Callable[[], Awaitable[Check]]:
    async def give() -> Check:
        return check

    return give


class FakeStorage:
    """Queues, blobs and the renewal state; each can be down."""

    def __init__(self) -> None:
        self.depths: dict[str, tuple[int, timedelta | None]] = {}
        self.blobs: dict[tuple[str, str], tuple[bytes, Mapping[str, str]]] = {}
        self.state: RenewalState | None = state()
        self.failed: FailedRun | None = None
        self.begun: BegunRun | None = None
        self.down: set[str] = set()
        self.checks: dict[str, Callable[[], Awaitable[Check]]] = {
            "storage": found(Check(level=Level.WELL, finding="answers"))
        }
        self.runs: Runs | None = None

    @property
    def functions(self) -> "Functions":
        return Functions(self)

    def _check(self, what: str) -> None:
        if what in self.down:
            raise UnavailableError(what, reason="storage-no-answer")

    async def count(self, queue: str) -> int:
        self._check("queues")
        return self.depths.get(queue, (0, None))[0]

    async def oldest(self, queue: str) -> datetime | None:
        self._check("queues")
        age = self.depths.get(queue, (0, None))[1]
        return None if age is None else NOW - age

    async def latest(self) -> Renewals:
        self._check("state")
        return Renewals(self.state, self.failed, self.begun)

    async def put(
        self, container: str, name: str, data: bytes, metadata: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        self._check("blobs")
        self.blobs[container, name] = data, metadata
        return ""

    async def get(self, container: str, name: str) -> bytes | None:
        self._check("blobs")
        found = self.blobs.get((container, name))
        return None if found is None else found[0]

    async def delete(self, container: str, name: str) -> None:
        self.blobs.pop((container, name), None)

    async def list(self, container: str) -> AsyncIterator[Blob]:
        self._check("blobs")
        for (where, name), (_, metadata) in list(self.blobs.items()):
            if where == container:
                yield Blob(name, metadata)


class Functions(NamedTuple):
    """When functions ran."""

    storage: FakeStorage

    async def latest(self) -> Runs | None:
        self.storage._check("blobs")
        return self.storage.runs


def state(*lives: tuple[str, timedelta], finished: datetime = NOW - timedelta(minutes=2)) -> RenewalState:
    return RenewalState(
        finished=finished,
        desired=len(lives),
        live=len(lives),
        nearest_expiry=None,
        outcomes={"unchanged": len(lives)},
        failures=(),
        by_kind={kind: 1 for kind, _ in lives},
        subscriptions=tuple(SubscriptionState(id=f"id-{kind}", kind=kind, expires=NOW + left) for kind, left in lives),
    )


@pytest.fixture
def storage() -> FakeStorage:
    return FakeStorage()


async def read(storage: FakeStorage) -> Status:
    checks = AppChecks(
        queues=storage,
        blobs=storage,
        certificates=None,  # type: ignore[arg-type]
        renewals=storage,
        runs=storage.functions,
        consumer_limits=consumer_limits(Consumers()),
        poison_ages=PoisonStates(storage),
        now=lambda: NOW,
    )
    return await StatusReader(checks, Health(lambda: storage.checks, lambda: NOW)).read()


class TestLevels:
    async def test_nothing_wrong_is_well(self, storage: FakeStorage) -> None:
        storage.state = state(("presence", timedelta(minutes=40)), ("callRecords", timedelta(days=2)))
        storage.depths = {"raw-notifications": (5, timedelta(seconds=2)), "call-events": (900, timedelta(minutes=50))}
        assert (await read(storage)).level is Level.WELL

    @pytest.mark.parametrize(
        ("left", "level"),
        [
            (timedelta(minutes=16), Level.WELL),
            (timedelta(minutes=14), Level.ATTENTION),
            (timedelta(seconds=-1), Level.BAD),
        ],
    )
    async def test_a_subscription_is_near_its_end_under_a_quarter_of_its_life(
        self, storage: FakeStorage, left: timedelta, level: Level
    ) -> None:
        storage.state = state(("presence", left))
        found = await read(storage)
        assert found.level is level
        assert found.subscriptions.level is level

    @pytest.mark.parametrize(
        ("queue", "depth", "age", "level"),
        [
            ("raw-notifications", 9, timedelta(seconds=59), Level.WELL),
            ("raw-notifications", 9, timedelta(seconds=61), Level.ATTENTION),
            ("raw-notifications", 9, timedelta(minutes=6), Level.BAD),
            ("raw-emergency", 1, timedelta(seconds=11), Level.ATTENTION),
            ("raw-emergency", 1, timedelta(seconds=61), Level.BAD),
            ("raw-emergency-poison", 1, timedelta(minutes=14), Level.WELL),
            ("raw-emergency-poison", 1, timedelta(minutes=16), Level.BAD),
            ("meeting-events", 10**6, timedelta(minutes=59), Level.WELL),
            ("meeting-events", 1, timedelta(minutes=61), Level.ATTENTION),
            ("meeting-events", 1, timedelta(days=9), Level.BAD),
            ("meeting-events-poison", 1, timedelta(seconds=1), Level.ATTENTION),
            ("raw-call-records", 900, timedelta(minutes=29), Level.WELL),
        ],
    )
    async def test_a_backlog_is_what_waits_too_long(
        self, storage: FakeStorage, queue: str, depth: int, age: timedelta, level: Level
    ) -> None:
        storage.depths = {queue: (depth, age)}
        assert (await read(storage)).queues.level is level

    async def test_a_poison_message_that_is_leased_is_known_by_what_the_drain_has_left(
        self, storage: FakeStorage
    ) -> None:
        storage.depths = {"raw-emergency-poison": (1, None)}
        await PoisonStates(storage).save({"raw-emergency-poison": NOW - timedelta(hours=1)})
        found = (await read(storage)).queues
        assert found.level is Level.BAD
        assert [row.oldest_seconds for row in found.queues if row.depth] == [3600]

    async def test_a_poison_queue_is_listed_where_something_lies_on_it(self, storage: FakeStorage) -> None:
        storage.depths = {"call-events-poison": (1, None)}
        text = page(await read(storage))
        assert "<td>call-events-poison</td>" in text
        assert "<td>call-events</td>" in text
        assert "meeting-events-poison" not in text

    async def test_a_check_of_health_that_fails_is_bad_and_says_why(self, storage: FakeStorage) -> None:
        storage.checks["keyVault"] = found(
            Check(level=Level.BAD, finding=f"{HOSTILE} is away", remedy=f"look at {HOSTILE}", reason="key-vault-403")
        )
        shown = await read(storage)
        assert shown.level is Level.BAD
        written = json.loads(msgspec.json.encode(shown))["health"]["checks"]["keyVault"]
        assert written == {
            "level": "bad",
            "finding": f"{HOSTILE} is away",
            "remedy": f"look at {HOSTILE}",
            "reason": "key-vault-403",
        }
        assert "keyVault: &lt;script&gt;" in page(shown)
        assert "<script" not in page(shown)

    async def test_quarantine_by_reason(self, storage: FakeStorage) -> None:
        for number in range(3):
            await storage.put(QUARANTINE_CONTAINER, f"{number}.json", b"", {"reason": "a" if number else "b"})
        found = (await read(storage)).quarantine
        assert (found.total, found.by_reason, found.level) == (3, {"a": 2, "b": 1}, Level.BAD)

    @pytest.mark.parametrize(
        ("ago", "level", "healthy"),
        [
            (timedelta(minutes=14), Level.WELL, True),
            (timedelta(minutes=20), Level.ATTENTION, True),
            (timedelta(minutes=61), Level.BAD, False),
        ],
    )
    async def test_a_timer_that_does_not_run_is_bad_where_health_fails(
        self, storage: FakeStorage, ago: timedelta, level: Level, healthy: bool
    ) -> None:
        storage.state = state(finished=NOW - ago)
        shown = (await read(storage)).renewal
        assert (shown.level, shown.level is not Level.BAD) == (level, healthy)

    @pytest.mark.parametrize(
        ("failed", "begun", "told"),
        [
            (FailedRun(at=NOW, reason=HOSTILE), None, f"could do nothing at all: {HOSTILE}"),
            (None, BegunRun(at=NOW - timedelta(minutes=13)), "none has come to its end since"),
        ],
    )
    async def test_a_run_that_failed_as_a_whole_or_never_ended_is_bad_and_keeps_the_counts(
        self, storage: FakeStorage, failed: FailedRun | None, begun: BegunRun | None, told: str
    ) -> None:
        storage.state = state(("callEvents", timedelta(hours=20)))
        storage.failed, storage.begun = failed, begun
        shown = await read(storage)
        written = json.loads(msgspec.json.encode(shown))
        assert (shown.level, written["renewal"]["level"]) == ("bad", "bad")
        assert told in written["renewal"]["trouble"]
        assert (written["renewal"]["outcomes"], written["subscriptions"]["live"]) == ({"unchanged": 1}, 1)
        assert escape(told) in page(shown)
        assert "<script" not in page(shown)
        storage.state = None
        shown = await read(storage)
        assert (shown.renewal.level, told in shown.renewal.problem) == ("bad", True)

    @pytest.mark.parametrize(
        ("granted", "left", "share", "level"),
        [
            (timedelta(minutes=50), timedelta(minutes=30), 0.6, Level.WELL),
            (timedelta(minutes=50), timedelta(minutes=12), 0.24, Level.ATTENTION),
            (timedelta(minutes=50), timedelta(minutes=55), 1.0, Level.WELL),  # a clock that is behind
            (None, timedelta(hours=6), 0.25, Level.WELL),
        ],
    )
    async def test_shares_of_life_are_of_what_graph_granted(
        self, storage: FakeStorage, granted: timedelta | None, left: timedelta, share: float, level: Level
    ) -> None:
        life = None if granted is None else granted.total_seconds()
        one = SubscriptionState(id="a", kind="callEvents", expires=NOW + left, life=life)
        storage.state = msgspec.structs.replace(state(), desired=1, live=1, subscriptions=(one,))
        shown = (await read(storage)).subscriptions
        [row] = shown.nearest
        assert (row.life_left, row.level) == (share, level)

    async def test_what_graph_does_not_renew_is_shown_with_what_happens_next(self, storage: FakeStorage) -> None:
        ends = NOW + timedelta(hours=10)
        kept = KeptSubscription(
            id="a", kind="callEvents", reason=HOSTILE, replaced_from=ends - timedelta(hours=6), expires=ends
        )
        unwanted = KeptSubscription(id="b", kind="presence", reason="unchanged", replaced_from=None, expires=ends)
        storage.state = msgspec.structs.replace(state(), kept=(kept, unwanted))
        shown = await read(storage)
        assert json.loads(msgspec.json.encode(shown))["renewal"]["kept"] == [
            {
                "id": "a",
                "kind": "callEvents",
                "reason": HOSTILE,
                "replacedFrom": "2026-05-04T16:00:30Z",
                "expires": "2026-05-04T22:00:30Z",
            },
            {
                "id": "b",
                "kind": "presence",
                "reason": "unchanged",
                "replacedFrom": None,
                "expires": "2026-05-04T22:00:30Z",
            },
        ]
        text = page(shown)
        assert "every run tries again" in text
        assert "05-04 16:00" in text
        assert "<script" not in text
        assert Reader(text).open == []
        assert "every run tries again" not in page(await read(FakeStorage()))

    async def test_what_nobody_desires_is_shown_and_waits_for_somebody(self, storage: FakeStorage) -> None:
        rows = (
            UnwantedSubscription(id=HOSTILE, kind="callEvents", since=NOW, waits="too-many"),
            UnwantedSubscription(id="b", kind="presence", since=NOW),
        )
        storage.state = msgspec.structs.replace(state(), unwanted=rows, unwanted_count=1234, waiting=1)
        shown = await read(storage)
        written = json.loads(msgspec.json.encode(shown))["renewal"]
        assert (written["level"], written["unwanted"]) == (
            "attention",
            {
                "count": 1234,
                "waiting": 1,
                "listed": [
                    {"id": HOSTILE, "kind": "callEvents", "since": "2026-05-04T12:00:30Z", "waits": "too-many"},
                    {"id": "b", "kind": "presence", "since": "2026-05-04T12:00:30Z", "waits": None},
                ],
            },
        )
        text = page(shown)
        assert "1,234 that nobody desires any more" in text
        assert "1 of them wait for manage.py subscriptions confirm" in text
        assert "<script" not in text
        assert Reader(text).open == []
        assert "nobody desires" not in page(await read(FakeStorage()))

    async def test_what_goes_by_itself_asks_for_no_attention(self, storage: FakeStorage) -> None:
        storage.state = msgspec.structs.replace(state(), unwanted_count=3)
        assert (await read(storage)).renewal.level is Level.WELL

    async def test_the_previous_client_state_is_counted(self, storage: FakeStorage) -> None:
        storage.state = msgspec.structs.replace(state(), previous_client_state=1234, lists_whole=False)
        shown = await read(storage)
        written = json.loads(msgspec.json.encode(shown))["subscriptions"]
        assert (written["previousClientState"], written["listsWhole"]) == (1234, False)
        assert "1,234 of them still carry the previous client state" in page(shown)
        assert "there may be more" in page(shown)
        plain = page(await read(FakeStorage()))
        assert "previous client state" not in plain
        assert "there may be more" not in plain

    async def test_what_is_down_is_said_beside_what_is_not(self, storage: FakeStorage) -> None:
        storage.down = {"queues", "state"}
        found = await read(storage)
        expected = Problem(problem="storage does not answer (storage-no-answer)")
        assert (found.queues, found.renewal, found.subscriptions) == (expected, expected, expected)
        assert found.quarantine.total == 0
        assert found.level is Level.BAD

    async def test_before_the_first_run(self, storage: FakeStorage) -> None:
        storage.state = None
        shown = (await read(storage)).renewal
        assert (shown.problem, shown.level) == ("no renewal run has finished yet", Level.BAD)  # as health has it


class Reader(HTMLParser):
    """The elements and attributes of a page, and whether every element is closed."""

    VOID = frozenset({"meta", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


class TestPage:
    async def test_hostile_strings_are_text(self, storage: FakeStorage) -> None:
        storage.state = RenewalState(
            finished=NOW,
            desired=1,
            live=1,
            nearest_expiry=None,
            outcomes={HOSTILE: 1},
            failures=(HOSTILE,),
            by_kind={HOSTILE: 1},
            subscriptions=(SubscriptionState(id=HOSTILE, kind=HOSTILE, expires=NOW + timedelta(hours=1)),),
        )
        await storage.put(QUARANTINE_CONTAINER, "x.json", b"", {"reason": HOSTILE})
        activity = Activity(storage, "w", lambda: NOW - timedelta(minutes=1))
        activity.add(HOSTILE)
        await activity.flush()
        text = page(await read(storage))
        reader = Reader(text)
        assert reader.tags.isdisjoint({"script", "img", "a", "form", "link", "iframe"})
        assert reader.attributes.isdisjoint({"onerror", "onload", "style", "src", "href"})
        assert reader.open == []
        assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 7

    async def test_the_policy_allows_the_style_there_is_and_nothing_else(self, storage: FakeStorage) -> None:
        (style,) = re.findall(r"<style>(.*?)</style>", page(await read(storage)), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "style-src": f"'sha256-{digest}'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }

    async def test_storage_down_is_a_page_too(self, storage: FakeStorage) -> None:
        storage.down = {"queues", "state", "blobs"}
        text = page(await read(storage))
        assert text.count("storage does not answer") == 5
        assert "not well" in text
        assert "partly" not in text

    async def test_it_refreshes_itself_without_a_script(self, storage: FakeStorage) -> None:
        assert '<meta http-equiv="refresh" content="30">' in page(await read(storage))

    async def test_who_ran_the_last_run_is_told_where_it_was_not_the_timer(self, storage: FakeStorage) -> None:
        assert "by timer" not in page(await read(storage))
        storage.state = msgspec.structs.replace(state(), by="operator")
        assert "by operator)" in page(await read(storage))


class TestWhatComesIn:
    @staticmethod
    async def counted(storage: FakeStorage, *counts: tuple[str, Happening, int]) -> Status:
        counting = Activity(storage, "w", lambda: NOW - timedelta(minutes=1))
        for word, happening, count in counts:
            counting.add(word, happening, count)
        await counting.flush()
        return await read(storage)

    async def test_refusals_while_nothing_is_accepted_want_attention(self, storage: FakeStorage) -> None:
        status = await self.counted(storage, ("client-state", Happening.REFUSED, 1))
        assert not isinstance(status.events, Problem)
        assert (status.level, status.events.received, status.events.refused) == ("attention", 0, {"client-state": 1})
        assert "0 accepted, 1 refused" in page(status)
        assert "<td>client-state</td>" in page(status)

    async def test_refusals_beside_what_is_accepted_are_shown_and_well(self, storage: FakeStorage) -> None:
        status = await self.counted(
            storage, ("client-state", Happening.REFUSED, 900), ("raw-notifications", Happening.RECEIVED, 1)
        )
        assert status.level == Level.WELL
        assert "1 accepted, 900 refused" in page(status)
        assert "<td>client-state</td>" in page(status)

    @pytest.mark.parametrize(
        ("since", "mean"),
        [(None, "0.4"), (timedelta(days=1), "0.4"), (timedelta(minutes=3), "2.0"), (timedelta(0), "6.0")],
    )
    async def test_a_mean_is_over_the_minutes_that_there_were(
        self, storage: FakeStorage, since: timedelta | None, mean: str
    ) -> None:
        storage.runs = None if since is None else Runs(since=NOW - since)
        status = await self.counted(storage, ("T", Happening.WRITTEN, 6))
        assert f'<td class="number">{mean}</td>' in page(status)

    async def test_a_minute_in_which_something_was_counted_was_there(self, storage: FakeStorage) -> None:
        storage.runs = Runs(since=NOW)
        for ago in (1, 4):
            counting = Activity(storage, f"w{ago}", lambda ago=ago: NOW - timedelta(minutes=ago))
            counting.add("T", Happening.WRITTEN, 6)
            await counting.flush()
        assert '<td class="number">3.0</td>' in page(await read(storage))

    @pytest.mark.parametrize("outcome", ExpressOutcome)
    async def test_emergencies_are_told_by_their_way(self, storage: FakeStorage, outcome: ExpressOutcome) -> None:
        status = await self.counted(storage, (outcome, Happening.EXPRESS, 2))
        assert f"emergencies where they were received: 2 {outcome}" in page(status)
        assert (status.level == Level.WELL) is (outcome in {"done", "many", "large"})

    async def test_a_worker_of_the_version_before_counts_too(self, storage: FakeStorage) -> None:
        minute = int(NOW.timestamp() // 60) - 1
        data = json.dumps({"minutes": {str(minute): {"T": 3}}}).encode()
        await storage.put("state", "activity/old.json", data, {"written": NOW.isoformat()})
        assert sum((await recent_activity(storage, NOW))[Happening.WRITTEN]["T"]) == 3


class TestActivity:
    async def test_what_is_damaged_counts_nothing(self, storage: FakeStorage) -> None:
        for name, data in (("a", b"{"), ("b", b'{"minutes": 1}'), ("c", b'{"\xff": 1}')):
            await storage.put("state", f"activity/{name}.json", data, {"written": NOW.isoformat()})
        assert (await recent_activity(storage, NOW))[Happening.WRITTEN] == {}

    async def test_workers_add_up_by_minute_and_type(self, storage: FakeStorage) -> None:
        for worker, minutes_ago in (("a", 1), ("b", 1), ("b", 15), ("b", 16)):
            counting = Activity(storage, f"{worker}{minutes_ago}", lambda ago=minutes_ago: NOW - timedelta(minutes=ago))
            counting.add("T")
            counting.add("U")
            await counting.flush()
        found = (await recent_activity(storage, NOW))[Happening.WRITTEN]
        assert found == {"T": [1, *[0] * 13, 2], "U": [1, *[0] * 13, 2]}

    async def test_the_minute_under_way_is_not_shown(self, storage: FakeStorage) -> None:
        counting = Activity(storage, "a", lambda: NOW)
        counting.add("T")
        await counting.flush()
        assert (await recent_activity(storage, NOW))[Happening.WRITTEN] == {}

    async def test_an_outage_loses_nothing(self, storage: FakeStorage) -> None:
        counting = Activity(storage, "a", lambda: NOW - timedelta(minutes=1))
        counting.add("T")
        storage.down = {"blobs"}
        await counting.flush()
        storage.down = set()
        counting.add("T")
        await counting.flush()
        assert sum((await recent_activity(storage, NOW))[Happening.WRITTEN]["T"]) == 2

    async def test_what_old_workers_left_is_deleted(self, storage: FakeStorage) -> None:
        old = Activity(storage, "old", lambda: NOW - timedelta(days=2))
        old.add("T")
        await old.flush()
        new = Activity(storage, "new", lambda: NOW)
        new.add("T")
        await new.flush()
        assert [name for _, name in storage.blobs] == ["activity/new.json"]
