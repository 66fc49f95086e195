"""The status: its levels, its page, and the counts behind it."""

import base64
import hashlib
import json
import re
from datetime import datetime, timedelta
from html import escape
from html.parser import HTMLParser

import msgspec
import pytest

from shared.notifications.quarantine import QUARANTINE_CONTAINER
from shared.operations.activity import Activity, recent_activity
from shared.operations.checks import Check
from shared.operations.function_runs import Runs
from shared.operations.limits import Level
from shared.operations.status import Problem, Status
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
from shared.values.errors import UnavailableError
from tests.unit.test_operation_checks import NOW, World, read

HOSTILE = "<script>alert(1)</script>'\"&<img src=x onerror=alert(1)>"
AWAY = UnavailableError("storage", reason="storage-no-answer")


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
def world() -> World:
    return World(renewals=Renewals(state()))


def end_with(world: World, *lives: tuple[str, timedelta], **changes: object) -> None:
    """The last run left that behind."""
    world.renewals = Renewals(msgspec.structs.replace(state(*lives), **changes))


def activity(world: World, *, ago: float = 1, worker: str = "w") -> Activity:
    return Activity(world.storage.blobs, worker, lambda: NOW - timedelta(minutes=ago))


class TestLevels:
    async def test_nothing_wrong_is_well(self, world: World) -> None:
        end_with(world, ("presence", timedelta(minutes=40)), ("callRecords", timedelta(days=2)))
        world.put("raw-notifications", timedelta(seconds=2))
        world.put("call-events", timedelta(minutes=50))
        assert (await read(world)).level is Level.WELL

    @pytest.mark.parametrize(
        ("left", "level"),
        [
            (timedelta(minutes=16), Level.WELL),
            (timedelta(minutes=14), Level.ATTENTION),
            (timedelta(seconds=-1), Level.BAD),
        ],
    )
    async def test_a_subscription_is_near_its_end_under_a_quarter_of_its_life(
        self, world: World, left: timedelta, level: Level
    ) -> None:
        end_with(world, ("presence", left))
        found = await read(world)
        assert found.level is level
        assert found.subscriptions.level is level

    async def test_a_poison_queue_is_listed_where_something_lies_on_it(self, world: World) -> None:
        world.storage.put("call-events-poison", "x", delay=timedelta(minutes=5))
        text = page(await read(world))
        assert "<td>call-events-poison</td>" in text
        assert "<td>call-events</td>" in text
        assert "meeting-events-poison" not in text

    async def test_a_check_of_health_that_fails_is_bad_and_says_why(self, world: World) -> None:
        said = {"finding": f"{HOSTILE} is away", "remedy": f"look at {HOSTILE}", "reason": "key-vault-403"}
        shown = await read(world, keyVault=Check(level=Level.BAD, **said))
        assert shown.level is Level.BAD
        written = json.loads(msgspec.json.encode(shown))["health"]["checks"]["keyVault"]
        assert written == {"level": "bad", **said}
        assert "keyVault: &lt;script&gt;" in page(shown)
        assert "<script" not in page(shown)

    async def test_quarantine_by_reason(self, world: World) -> None:
        for number in range(3):
            reason = {"reason": "a" if number else "b"}
            await world.storage.blobs.put(QUARANTINE_CONTAINER, f"{number}.json", b"", reason)
        found = (await read(world)).quarantine
        assert (found.total, found.by_reason, found.level) == (3, {"a": 2, "b": 1}, Level.BAD)

    @pytest.mark.parametrize(
        ("failed", "begun", "told"),
        [
            (FailedRun(at=NOW, reason=HOSTILE), None, f"could do nothing at all: {HOSTILE}"),
            (None, BegunRun(at=NOW - timedelta(minutes=13)), "none has come to its end since"),
        ],
    )
    async def test_a_run_that_failed_as_a_whole_or_never_ended_is_bad_and_keeps_the_counts(
        self, world: World, failed: FailedRun | None, begun: BegunRun | None, told: str
    ) -> None:
        world.renewals = Renewals(state(("callEvents", timedelta(hours=20))), failed, begun)
        shown = await read(world)
        written = json.loads(msgspec.json.encode(shown))
        assert (shown.level, written["renewal"]["level"]) == ("bad", "bad")
        assert told in written["renewal"]["trouble"]
        assert (written["renewal"]["outcomes"], written["subscriptions"]["live"]) == ({"unchanged": 1}, 1)
        assert escape(told) in page(shown)
        assert "<script" not in page(shown)
        world.renewals = Renewals(None, failed, begun)
        shown = await read(world)
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
        self, world: World, granted: timedelta | None, left: timedelta, share: float, level: Level
    ) -> None:
        life = None if granted is None else granted.total_seconds()
        one = SubscriptionState(id="a", kind="callEvents", expires=NOW + left, life=life)
        end_with(world, desired=1, live=1, subscriptions=(one,))
        [row] = (await read(world)).subscriptions.nearest
        assert (row.life_left, row.level) == (share, level)

    async def test_what_graph_does_not_renew_is_shown_with_what_happens_next(self, world: World) -> None:
        ends = NOW + timedelta(hours=10)
        kept = KeptSubscription(
            id="a", kind="callEvents", reason=HOSTILE, replaced_from=ends - timedelta(hours=6), expires=ends
        )
        unwanted = KeptSubscription(id="b", kind="presence", reason="unchanged", replaced_from=None, expires=ends)
        assert "every run tries again" not in page(await read(world))
        end_with(world, kept=(kept, unwanted))
        shown = await read(world)
        told = {"id": "a", "kind": "callEvents", "reason": HOSTILE, "replacedFrom": "2026-05-04T16:00:30Z"}
        other = {"id": "b", "kind": "presence", "reason": "unchanged", "replacedFrom": None}
        assert json.loads(msgspec.json.encode(shown))["renewal"]["kept"] == [
            each | {"expires": "2026-05-04T22:00:30Z"} for each in (told, other)
        ]
        text = page(shown)
        assert "every run tries again" in text
        assert "05-04 16:00" in text
        assert "<script" not in text
        assert Reader(text).open == []

    async def test_what_nobody_desires_is_shown_and_waits_for_somebody(self, world: World) -> None:
        rows = (
            UnwantedSubscription(id=HOSTILE, kind="callEvents", since=NOW, waits="too-many"),
            UnwantedSubscription(id="b", kind="presence", since=NOW),
        )
        assert "nobody desires" not in page(await read(world))
        end_with(world, unwanted=rows, unwanted_count=1234, waiting=1)
        shown = await read(world)
        written = json.loads(msgspec.json.encode(shown))["renewal"]
        listed = [
            {"id": HOSTILE, "kind": "callEvents", "since": "2026-05-04T12:00:30Z", "waits": "too-many"},
            {"id": "b", "kind": "presence", "since": "2026-05-04T12:00:30Z", "waits": None},
        ]
        expected = {"count": 1234, "waiting": 1, "listed": listed}
        assert (written["level"], written["unwanted"]) == ("attention", expected)
        text = page(shown)
        assert "1,234 that nobody desires any more" in text
        assert "1 of them wait for manage.py subscriptions confirm" in text
        assert "<script" not in text
        assert Reader(text).open == []

    async def test_what_goes_by_itself_asks_for_no_attention(self, world: World) -> None:
        end_with(world, unwanted_count=3)
        assert (await read(world)).renewal.level is Level.WELL

    async def test_the_previous_client_state_is_counted(self, world: World) -> None:
        plain = page(await read(world))
        assert "previous client state" not in plain
        assert "there may be more" not in plain
        end_with(world, previous_client_state=1234, lists_whole=False)
        shown = await read(world)
        written = json.loads(msgspec.json.encode(shown))["subscriptions"]
        assert (written["previousClientState"], written["listsWhole"]) == (1234, False)
        assert "1,234 of them still carry the previous client state" in page(shown)
        assert "there may be more" in page(shown)

    async def test_what_is_down_is_said_beside_what_is_not(self, world: World) -> None:
        world.renewals = AWAY
        world.storage.refused = {"raw-notifications"}
        found = await read(world)
        expected = Problem(problem="storage does not answer (storage-no-answer)")
        assert (found.renewal, found.subscriptions) == (expected, expected)
        assert found.queues == Problem(problem="storage does not answer (storage-503)")
        assert found.quarantine.total == 0
        assert found.level is Level.BAD


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
    async def test_hostile_strings_are_text(self, world: World) -> None:
        end_with(world, (HOSTILE, timedelta(hours=1)), outcomes={HOSTILE: 1}, failures=(HOSTILE,))
        await world.storage.blobs.put(QUARANTINE_CONTAINER, "x.json", b"", {"reason": HOSTILE})
        counting = activity(world)
        counting.add(HOSTILE)
        await counting.flush()
        text = page(await read(world))
        reader = Reader(text)
        assert reader.tags.isdisjoint({"script", "img", "a", "form", "link", "iframe"})
        assert reader.attributes.isdisjoint({"onerror", "onload", "style", "src", "href"})
        assert reader.open == []
        assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 7

    async def test_the_policy_allows_the_style_there_is_and_nothing_else(self, world: World) -> None:
        (style,) = re.findall(r"<style>(.*?)</style>", page(await read(world)), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "style-src": f"'sha256-{digest}'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }

    async def test_storage_down_is_a_page_too(self, world: World) -> None:
        world.renewals = AWAY
        world.storage.refused = {"raw-notifications", "state", QUARANTINE_CONTAINER}
        text = page(await read(world))
        assert text.count("storage does not answer") == 5
        assert "not well" in text
        assert "partly" not in text

    async def test_it_refreshes_itself_without_a_script(self, world: World) -> None:
        assert '<meta http-equiv="refresh" content="30">' in page(await read(world))

    async def test_who_ran_the_last_run_is_told_where_it_was_not_the_timer(self, world: World) -> None:
        assert "by timer" not in page(await read(world))
        end_with(world, by="operator")
        assert "by operator)" in page(await read(world))


class TestWhatComesIn:
    @staticmethod
    async def counted(world: World, *counts: tuple[str, Happening, int]) -> Status:
        counting = activity(world)
        for word, happening, count in counts:
            counting.add(word, happening, count)
        await counting.flush()
        return await read(world)

    @pytest.mark.parametrize(("received", "refused", "level"), [(0, 1, Level.ATTENTION), (1, 900, Level.WELL)])
    async def test_refusals_want_attention_while_nothing_is_accepted(
        self, world: World, received: int, refused: int, level: Level
    ) -> None:
        accepted = [("raw-notifications", Happening.RECEIVED, received)] if received else []
        status = await self.counted(world, ("client-state", Happening.REFUSED, refused), *accepted)
        assert not isinstance(status.events, Problem)
        assert (status.level, status.events.received, status.events.refused) == (
            level,
            received,
            {"client-state": refused},
        )
        assert f"{received} accepted, {refused} refused" in page(status)
        assert "<td>client-state</td>" in page(status)

    @pytest.mark.parametrize(
        ("since", "mean"),
        [(None, "0.4"), (timedelta(days=1), "0.4"), (timedelta(minutes=3), "2.0"), (timedelta(0), "6.0")],
    )
    async def test_a_mean_is_over_the_minutes_that_there_were(
        self, world: World, since: timedelta | None, mean: str
    ) -> None:
        world.runs = None if since is None else Runs(since=NOW - since)
        status = await self.counted(world, ("T", Happening.WRITTEN, 6))
        assert f'<td class="number">{mean}</td>' in page(status)

    async def test_a_minute_in_which_something_was_counted_was_there(self, world: World) -> None:
        world.runs = Runs(since=NOW)
        for ago in (1, 4):
            counting = activity(world, ago=ago, worker=f"w{ago}")
            counting.add("T", Happening.WRITTEN, 6)
            await counting.flush()
        assert '<td class="number">3.0</td>' in page(await read(world))

    @pytest.mark.parametrize("outcome", ExpressOutcome)
    async def test_emergencies_are_told_by_their_way(self, world: World, outcome: ExpressOutcome) -> None:
        status = await self.counted(world, (outcome, Happening.EXPRESS, 2))
        assert f"emergencies where they were received: 2 {outcome}" in page(status)
        assert (status.level == Level.WELL) is (outcome in {"done", "many", "large"})

    async def test_a_worker_of_the_version_before_counts_too(self, world: World) -> None:
        minute = int(NOW.timestamp() // 60) - 1
        data = json.dumps({"minutes": {str(minute): {"T": 3}}}).encode()
        await world.storage.blobs.put("state", "activity/old.json", data, {"written": NOW.isoformat()})
        assert sum((await recent_activity(world.storage.blobs, NOW))[Happening.WRITTEN]["T"]) == 3


class TestActivity:
    async def test_what_is_damaged_counts_nothing(self, world: World) -> None:
        for name, data in (("a", b"{"), ("b", b'{"minutes": 1}'), ("c", b'{"\xff": 1}')):
            await world.storage.blobs.put("state", f"activity/{name}.json", data, {"written": NOW.isoformat()})
        assert (await recent_activity(world.storage.blobs, NOW))[Happening.WRITTEN] == {}

    async def test_workers_add_up_by_minute_and_type(self, world: World) -> None:
        for worker, minutes_ago in (("a", 1), ("b", 1), ("b", 15), ("b", 16)):
            counting = activity(world, ago=minutes_ago, worker=f"{worker}{minutes_ago}")
            counting.add("T")
            counting.add("U")
            await counting.flush()
        found = (await recent_activity(world.storage.blobs, NOW))[Happening.WRITTEN]
        assert found == {"T": [1, *[0] * 13, 2], "U": [1, *[0] * 13, 2]}

    async def test_the_minute_under_way_is_not_shown(self, world: World) -> None:
        counting = activity(world, ago=0)
        counting.add("T")
        await counting.flush()
        assert (await recent_activity(world.storage.blobs, NOW))[Happening.WRITTEN] == {}

    async def test_an_outage_loses_nothing(self, world: World) -> None:
        counting = activity(world)
        counting.add("T")
        world.storage.refused = {"state"}
        await counting.flush()
        world.storage.refused = set()
        counting.add("T")
        await counting.flush()
        assert sum((await recent_activity(world.storage.blobs, NOW))[Happening.WRITTEN]["T"]) == 2

    async def test_what_old_workers_left_is_deleted(self, world: World) -> None:
        for worker, ago in (("old", 2 * 24 * 60), ("new", 0)):
            counting = activity(world, ago=ago, worker=worker)
            counting.add("T")
            await counting.flush()
        assert world.storage.names("state") == ["activity/new.json"]
