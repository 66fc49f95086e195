"""The timer listener against what the real one was seen to do, in virtual time."""

import asyncio
import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.host.schedule import NEVER
from dev.host.timer_status import NEVER_YET, DamagedStatusError, TimerStatus
from dev.simulation.virtual_time import VirtualLoop
from tests.replay.timer_scenarios import Entry, Replay

SCENARIOS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors/timers.json").read_bytes())
# Without an end in virtual time: see `TestAlwaysDue`.
ENDLESS = {"zero_interval", "negative_interval"}
# What chance was there, where the number of invocations hangs on it.
CHANCE = {
    "status_read_reset": [1.15] * 5,
    "status_write_reset": [1.105] * 5 + [0.917] * 5,
}
# Seconds; the real hosts were slow to start and to write.
SLOW = {
    "status_write_500": 1.5,
    "singleton_stop": 1.5,
    "longer_than_interval": 5.0,
    "down_while_running_functions": 5.0,
}
LONG_AGO = -1e9  # seconds: anything earlier is "never"


def play(scenario: Mapping[str, Any]) -> Replay:
    replay = Replay(scenario, CHANCE.get(scenario["name"], ()))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(replay.run())
    return replay


@pytest.mark.parametrize(
    "scenario",
    [each for each in SCENARIOS if each["name"] not in ENDLESS],
    ids=lambda each: each["name"],
)
def test_a_timer_does_what_the_real_one_did(scenario: dict[str, Any]) -> None:
    replay = play(scenario)
    comparison = Comparison(replay, scenario)

    comparison.invocations()
    comparison.storage()
    comparison.failures()
    comparison.retries()
    comparison.requests()


class TestAlwaysDue:
    @pytest.mark.parametrize("name", sorted(ENDLESS))
    def test_fires_without_a_pause(self, name: str) -> None:
        (scenario,) = (each for each in SCENARIOS if each["name"] == name)
        # In no time at all there would be no end to it.
        replay = play(scenario | {"seconds": [0.0075]})

        played = [entry for entry in replay.entries if entry.event == "invoked"]
        assert len(played) == pytest.approx(400, rel=0.25)
        assert all(entry.data == {"isPastDue": False, "status": {}} for entry in played)


class TestStatus:
    @given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
    def test_of_any_bytes_is_read_or_damaged(self, content: bytes) -> None:
        with contextlib.suppress(DamagedStatusError):
            TimerStatus.decode(content, UTC)

    @given(st.lists(st.just(NEVER_YET) | st.datetimes(datetime(1900, 1, 1), timezones=st.just(UTC)), min_size=3))  # noqa: DTZ001
    def test_is_read_as_it_was_written(self, times: list[datetime]) -> None:
        last, due, updated = (NEVER if time.year == NEVER.year else time for time in times[:3])
        status = TimerStatus(last=last, next=due, last_updated=updated)
        zone = ZoneInfo("Europe/Berlin")

        assert TimerStatus.decode(json.dumps(status.as_json(zone)).encode(), zone) == status


class Comparison:
    """A replay beside what was observed."""

    def __init__(self, replay: Replay, scenario: Mapping[str, Any]) -> None:
        self._replay = replay
        self._observed: list[dict[str, Any]] = scenario["observed"]
        self._tolerance = SLOW.get(scenario["name"], 0.6)

    def invocations(self) -> None:
        listed = [step for step in self._observed if step["event"] == "invoked"]
        for host, function in {(step.get("host", ""), step.get("function", "plain")) for step in listed}:
            expected = [
                step for step in listed if (step.get("host", ""), step.get("function", "plain")) == (host, function)
            ]
            played = [
                entry
                for entry in self._replay.entries
                if (entry.event, entry.host, entry.function) == ("invoked", host, function)
            ]
            # The middle of a long row was left out of the recording.
            if len(expected) < 3:
                assert len(played) == len(expected), played
            else:
                expected, played = [*expected[:2], *expected[-2:]], [*played[:2], *played[-2:]]
            for step, entry in zip(expected, played, strict=True):
                self._same_invocation(step, entry)
        assert {entry.host for entry in self._replay.entries if entry.event == "invoked"} == {
            step.get("host", "") for step in listed
        }

    def _same_invocation(self, step: Mapping[str, Any], entry: Entry) -> None:
        # The real hosts took a while to start, and to come to what was due by then.
        assert entry.at == pytest.approx(step["at"], abs=self._tolerance + 0.9), (step, entry)
        assert entry.data["isPastDue"] == step["isPastDue"], (step, entry)
        if step["status"] == "none":
            # What null becomes in the library that reads it for the function.
            assert entry.data["status"] == {}, (step, entry)
        else:
            self._same_status(step["status"], entry.data["status"])

    def storage(self) -> None:
        for entry in self._replay.entries:
            step = entry.data.get("step", {})
            match entry.event:
                case "status blob" if "text" in step:
                    assert entry.data["status"] == step["text"]
                case "status blob" if step["status"] == "absent":
                    assert entry.data["status"] is None
                case "status blob":
                    status = json.loads(entry.data["status"])
                    played = {name[:1].lower() + name[1:]: self._replay.seconds(status[name]) for name in status}
                    self._same_status(step["status"], played)
                case "raw status blob":
                    assert _shape(entry.data["status"]) == _shape(step["text"])
                case "lock blob":
                    assert entry.data["lock"] == step["state"]
                case "blobs":
                    assert entry.data["names"] == [
                        name.replace("Functions+Plain.", "Host.Functions.") for name in step["names"]
                    ]

    def _same_status(self, expected: Mapping[str, Any], played: Mapping[str, float]) -> None:
        for name, value in expected.items():
            if value == "never":
                assert played[name] < LONG_AGO, (name, expected, played)
            else:
                # A date was written down without its fraction of a second.
                seconds, tolerance = (self._replay.seconds(value), 1.1) if isinstance(value, str) else (value, 0)
                assert played[name] == pytest.approx(seconds, abs=self._tolerance + tolerance), (name, expected, played)

    def failures(self) -> None:
        for event in ("function disabled", "listener failed", "status write failed", "unhandled exception handler"):
            assert self._played(event) == self._listed(event), event
        # A lease that is no longer its own counts as released.
        self._same_requests("lock acquired", "lease acquire -> 201")
        self._same_requests("lock released", "lease release -> (200|409)")

    def _same_requests(self, event: str, request: str) -> None:
        # Where there is one host, the recording leaves some out.
        if any("host" in step for step in self._observed if step["event"] == event):
            sent = [each for each in self._replay.entries if re.search(request, each.data.get("what", ""))]
            assert Counter(each.host for each in sent) == self._listed(event), event

    def retries(self) -> None:
        for function in ("plain", "second"):
            failed = [
                step["at"]
                for step in self._observed
                if step["event"] == "listener failed" and step.get("function", "plain") == function
            ]
            played = [
                each.at for each in self._replay.entries if (each.event, each.function) == ("listener failed", function)
            ]
            for expected, pause in zip(_pauses(failed), _pauses(played), strict=True):
                assert pause == pytest.approx(expected, rel=0.25, abs=self._tolerance)

    def _played(self, event: str) -> Counter[str]:
        return Counter(entry.host for entry in self._replay.entries if entry.event == event)

    def _listed(self, event: str) -> Counter[str]:
        return Counter(step.get("host", "") for step in self._observed if step["event"] == event)

    def requests(self) -> None:
        for step in self._observed:
            if step["event"] == "requests":
                played = [
                    entry.data["what"]
                    for entry in self._replay.entries
                    if entry.event == "request" and entry.host == step.get("host", "")
                ]
                expected = [each.partition(" ")[2].replace(" 60 s", "") for each in step["list"]]
                if not any("STATUS" in each for each in expected):  # it was the lock's that were recorded there
                    played = [each for each in played if "LOCK" in each]
                assert played == expected


def _shape(text: str) -> str:
    """A status without its digits, and without fractions of a second, which may be zero."""
    return re.sub(r"\d", "0", re.sub(r"\.\d+", "", text))


def _pauses(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]
