"""The queue listener against what the real one was seen to do: `tests/vectors/queue-listener.json`, in virtual time.

Recorded from the queue extension of the real host (Storage.Queues 5.3.10), with a proxy between it and Azurite.
"""

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dev.host.config import QueueOptions
from dev.host.errors import LoadError
from dev.host.library import LibraryWorker
from dev.simulation.virtual_time import VirtualLoop
from tests.replay import stage
from tests.replay.queue_play import Play, Scenario, in_base64, options
from tests.replay.queue_steps import by_message, moments, polls

ROOT = Path(__file__).parents[2]
SCENARIOS: dict[str, Scenario] = {
    scenario["name"]: scenario
    for scenario in json.loads((ROOT / "tests" / "vectors" / "queue-listener.json").read_text())
}
# Steps in the vectors' form; the others are tables, each with a test of its own below.
STEPS = [
    name
    for name, scenario in SCENARIOS.items()
    if (scenario["observed"][0].get("t") == 0 and "queue" in scenario["observed"][0] and "end" in scenario)
    or name.startswith("start-")
]
# What is not compared with the recording, and why: docs/local-host.md has a row for each.
OTHERWISE = {
    "poll-403-default-handler", "poll-403-other-queue-goes-on", "singleton", "binding-type",  # the WebJobs SDK's own
    "stop-sigterm", "stop-short-timeout", "stop-default-timeout-long", "stop-jobhost", "drain",  # see TestStop
    "stop-during-get", "bodies-base64-B1", "scale",
}  # fmt: skip
TABLES = {
    "get-batch16-staggered", "backoff-1s", "backoff-10s", "backoff-default-1min", "latency", "bodies-base64-S1",
    "bodies-none-S1", "two-queues", "two-hosts", "two-hosts-batch1", "options-limits", "visibility-whole-seconds",
    "queue-names",
}  # fmt: skip


@pytest.fixture(scope="module")
def worker() -> LibraryWorker:
    return asyncio.run(stage.load())


def run[T](main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def play(scenario: Scenario, worker: LibraryWorker) -> tuple[Play, str]:
    async def main() -> tuple[Play, str]:
        playing = Play(scenario, worker)
        return playing, await playing.run()

    return run(main())


def given(
    *,
    end: float = 10,
    observed: Sequence[Mapping[str, Any]] = (),
    queues: Sequence[str] = ("work",),
    hosts: int = 1,
    messages: Sequence[Mapping[str, Any]] = (),
    **changed: Any,
) -> Scenario:
    """A scenario of a test's own, with the options of most recorded ones."""
    usual = {"batchSize": 16, "newBatchThreshold": 8, "visibilityTimeout": 30, "maxPollingInterval": 1}
    functions = [{"queue": queue} for queue in queues]
    return {
        "options": usual | changed,
        "given": {"functions": functions, "messages": list(messages), "hosts": hosts},
        "observed": list(observed),
        "end": end,
    }


def test_every_scenario_is_played_or_stands_in_the_documentation() -> None:
    documentation = (ROOT / "docs" / "local-host.md").read_text()

    assert set(STEPS) | TABLES | OTHERWISE == set(SCENARIOS)
    assert [name for name in sorted(OTHERWISE) if f"`{name}`" not in documentation] == []


class TestScenario:
    @pytest.mark.parametrize("name", sorted(set(STEPS) - TABLES - OTHERWISE))
    def test_goes_as_recorded(self, name: str, worker: LibraryWorker) -> None:
        scenario = SCENARIOS[name]
        recorded = scenario["observed"]

        playing, host = play(scenario, worker)

        is_whole = not any("leftOut" in step for step in recorded)
        seen, expected = by_message(scenario, playing.steps), by_message(scenario, recorded)
        if is_whole:
            assert seen == expected
        assert all(is_part(events, seen[message]) for message, events in expected.items())
        for function in scenario["given"]["functions"]:
            was, is_ = polls(recorded, function["queue"]), polls(playing.steps, function["queue"])
            assert is_ == was if is_whole else is_part(was, is_)
        assert host == scenario["outcome"]["host"]
        assert queues(playing, scenario["outcome"]) == {
            name: left for name, left in scenario["outcome"].items() if name != "host"
        }
        asked = {(step["n"], step["lease"]) for step in playing.steps if step.get("call") == "get" and "n" in step}
        assert asked <= {(options(scenario["options"]).batch_size, 600)}
        # A second, as the recording's machine was busy; and the fifth by which the pauses between tries are random.
        allowed = 1.2 + (5 if makes_tries(recorded) else 0)
        for (what, moment), (was_what, was_moment) in zip(moments(playing.steps), moments(recorded), strict=True):
            assert what == was_what
            assert moment == pytest.approx(was_moment, abs=allowed)


def is_part(part: Sequence[Any], whole: Sequence[Any]) -> bool:
    """Whether the one is the other with some left out."""
    rest = iter(whole)
    return all(event in rest for event in part)


def makes_tries(steps: Sequence[Mapping[str, Any]]) -> bool:
    return any("tries" in step or step.get("given") == "connections refused" for step in steps) or any(
        step.get("fatal") and step["t"] > 20 for step in steps
    )


def queues(playing: Play, as_in: Mapping[str, Any]) -> dict[str, Any]:
    """What is left on the queues, in the form in which the vectors tell it."""
    left: dict[str, Any] = {}
    for name, outcome in as_in.items():
        if name == "host":
            continue
        messages = playing.stub.queues.get(name)
        visible = [message for message in messages or () if message.visible_from <= playing.ended]
        if messages is None:
            left[name] = "no such queue"
        elif isinstance(outcome, list):
            left[name] = [{"text": message.text, "lifetimeSeconds": message.lifetime} for message in visible]
        elif isinstance(outcome, str):
            left[name] = len(messages)
        else:
            left[name] = {"messages": len(messages), "visible": len(visible)}
            left[name] = {key: value for key, value in left[name].items() if key in outcome}
    return left


class TestBody:
    @pytest.mark.parametrize("name", ["bodies-base64-S1", "bodies-none-S1"])
    def test_is_decoded_failed_or_moved_as_recorded(self, name: str, worker: LibraryWorker) -> None:
        recorded = SCENARIOS[name]["observed"]
        texts = {body["body"]: whole(body["text"]) for body in recorded}
        scenario = given(
            end=5,
            messages=[{"id": body, "text": text} for body, text in texts.items()],
            messageEncoding=SCENARIOS[name]["options"]["messageEncoding"],
        )

        playing, _ = play(scenario, worker)

        values = {step["invoke"]: step["value"] for step in playing.steps if "invoke" in step}
        moved = [step["text"] for step in playing.steps if step.get("call") == "put" and step["status"] == 201]
        released = {step["message"]: step["seconds"] for step in playing.steps if step.get("call") == "update"}
        for body in recorded:
            match body["then"]:
                case "invoked":
                    assert (
                        values[body["body"]] == body["string"] or len(values[body["body"]]) == body["string"]["length"]
                    )
                case "binding failed, released":
                    assert released[body["body"]] == body["releasedFor"]
                    assert body["body"] not in values
                case _:
                    assert texts[body["body"]] in moved
                    assert body["body"] not in values


def whole(text: str | Mapping[str, Any]) -> str:
    return text if isinstance(text, str) else text["repeated"] * text["times"]


class TestPolling:
    @pytest.mark.parametrize("name", ["backoff-1s", "backoff-10s", "backoff-default-1min"])
    def test_pauses_grow_as_recorded(self, name: str, worker: LibraryWorker) -> None:
        """Each within the fifth by which they are random, and what the recording's machine took."""
        for row in SCENARIOS[name]["observed"]:
            if "pausesMilliseconds" not in row:
                continue
            recorded = [pause / 1000 for pause in row["pausesMilliseconds"]]
            scenario = given(end=sum(recorded) * 1.3 + 1)
            scenario = {**scenario, "options": SCENARIOS[name]["options"]}

            playing, _ = play(scenario, worker)

            times = [step["t"] for step in playing.steps if step.get("call") == "get"]
            pauses = [later - earlier for earlier, later in pairwise(times)]
            longest = options(SCENARIOS[name]["options"]).longest_pause.total_seconds()
            for pause, was in zip(pauses, recorded, strict=False):
                # Whether the one before the longest still fits hangs on chance.
                both_are_long = min(pause, was) >= 0.7 * longest
                assert both_are_long or pause == pytest.approx(was, rel=0.25, abs=0.03)

    def test_finds_a_message_within_the_longest_pause(self, worker: LibraryWorker) -> None:
        recorded = SCENARIOS["latency"]["observed"][0]["putToInvokeMilliseconds"]
        puts = [
            {"t": 4.5 * number + 0.093 * number, "given": "message", "id": f"m{number}", "text": in_base64("x")}
            for number in range(1, 21)
        ]

        playing, _ = play(given(end=100, observed=puts), worker)

        invoked = {step["invoke"]: step["t"] for step in playing.steps if "invoke" in step}
        waits = [invoked[put["id"]] - put["t"] for put in puts]
        assert max(waits) <= 1.0
        assert sum(waits) / 20 == pytest.approx(sum(recorded) / 20 / 1000, abs=0.2)


class TestConcurrency:
    def test_of_messages_that_take_different_times(self, worker: LibraryWorker) -> None:
        messages = [
            {"id": f"m{number}", "text": in_base64(f"do:sleep={500 + 250 * (number % 16)}")} for number in range(40)
        ]

        playing, _ = play(given(end=15, messages=messages), worker)

        gets = [len(step["got"]) for step in playing.steps if step.get("call") == "get"]
        assert gets[:3] == [row["got"] for row in SCENARIOS["get-batch16-staggered"]["observed"][:3]]
        assert most_at_once(playing) == 24

    def test_of_one_queue_is_not_the_others(self, worker: LibraryWorker) -> None:
        slow = [{"id": f"m{number}", "text": in_base64("do:sleep=4000")} for number in range(1, 33)]
        quick = [
            {"t": 1.3 + 0.7 * n, "given": "message", "id": f"q{n}", "queue": "other", "text": in_base64("do:sleep=100")}
            for n in range(4)
        ]

        playing, _ = play(given(end=12, messages=slow, queues=("work", "other"), observed=quick), worker)

        invoked = {step["invoke"]: step["t"] for step in playing.steps if "invoke" in step}
        assert all(invoked[put["id"]] - put["t"] <= 1.0 for put in quick)
        assert [step["t"] for step in playing.steps if step.get("got") and step["queue"] == "work"] == [0.0, 4.0]

    @pytest.mark.parametrize(("name", "batch", "threshold"), [("two-hosts", 16, 8), ("two-hosts-batch1", 1, 0)])
    def test_of_two_hosts_shares_fairly(self, name: str, batch: int, threshold: int, worker: LibraryWorker) -> None:
        messages = [{"id": f"m{number}", "text": in_base64("do:sleep=300")} for number in range(60)]

        playing, _ = play(
            given(end=20, messages=messages, hosts=2, batchSize=batch, newBatchThreshold=threshold), worker
        )

        invoked = [step["invoke"] for step in playing.steps if "invoke" in step]
        assert sorted(invoked) == sorted(message["id"] for message in messages)
        assert most_at_once(playing) == sum(SCENARIOS[name]["observed"][0]["mostAtOnce"].values())
        assert playing.stub.queues["work"] == []


def most_at_once(playing: Play) -> int:
    running = most = 0
    for step in playing.steps:
        running += ("invoke" in step) - ("return" in step)
        most = max(most, running)
    return most


class TestOptions:
    @pytest.mark.parametrize("row", SCENARIOS["options-limits"]["observed"], ids=json.dumps)
    def test_are_taken_and_refused_as_recorded(self, row: Mapping[str, Any], worker: LibraryWorker) -> None:
        option = {name: value for name, value in row.items() if name != "then"}
        if row["then"] == "refused":
            with pytest.raises(ValueError, match=next(iter(option))):
                options(option)
            return

        assert isinstance(options(option), QueueOptions)
        if row["then"] != "accepted":
            playing, host = play(given(end=5, messages=[{"id": "m1", "text": in_base64("do:fail")}], **option), worker)
            (update,) = (step for step in playing.steps if step.get("call") == "update")
            assert (update["status"], update["code"], host) == (400, "OutOfRangeQueryParameterValue", "stopped itself")

    @pytest.mark.parametrize("row", SCENARIOS["visibility-whole-seconds"]["observed"], ids=json.dumps)
    def test_visibility_timeout_loses_its_fraction(self, row: Mapping[str, Any], worker: LibraryWorker) -> None:
        messages = [{"id": "m1", "text": in_base64("do:fail")}]

        playing, _ = play(given(end=1, messages=messages, visibilityTimeout=row["visibilityTimeout"]), worker)

        assert next(step for step in playing.steps if step.get("call") == "update")["seconds"] == row["update"]


class TestQueueName:
    def test_is_taken_in_small_letters(self, worker: LibraryWorker) -> None:
        scenario = given(end=1, queues=("WORK",))

        playing, _ = play(scenario, worker)

        assert {step["queue"] for step in playing.steps if "call" in step} == {"work"}

    def test_that_storage_would_refuse_is_refused(self, worker: LibraryWorker) -> None:
        with pytest.raises(ExceptionGroup) as caught:
            play(given(queues=("bad_name",)), worker)

        assert caught.group_contains(LoadError, match="bad_name")


class TestStop:
    """SIGTERM as the Functions host with a Python worker takes it: it differs from the recording of the SDK alone."""

    def test_takes_what_comes_while_something_runs_and_writes_each_outcome(self, worker: LibraryWorker) -> None:
        playing, host = play({**SCENARIOS["stop-sigterm"], "end": 20}, worker)

        events = by_message(SCENARIOS["stop-sigterm"], playing.steps)
        assert host == "stopped as asked"
        assert [event[0] for event in events["m1"]] == ["got", "invoke", "return", "delete"]
        assert [event[0] for event in events["m2"]] == ["got", "invoke", "return", "update"]
        assert [event[0] for event in events["m4"]] == ["got", "invoke", "return", "delete"]

    def test_abandons_after_ten_seconds_what_still_runs(self, worker: LibraryWorker) -> None:
        playing, _ = play({**SCENARIOS["stop-default-timeout-long"], "end": 50}, worker)

        events = by_message(SCENARIOS["stop-default-timeout-long"], playing.steps)
        assert [event[0] for event in events["m1"]] == ["got", "invoke"]
        assert [event[0] for event in events["m2"]] == ["got", "invoke", "return", "delete"]
        assert stopped(playing) == pytest.approx(11.71, abs=0.1)
        (left,) = playing.stub.queues["work"]
        assert (left.id, left.visible_from) == ("m1", 600.0)

    def test_waits_for_both_outcomes(self, worker: LibraryWorker) -> None:
        playing, _ = play({**SCENARIOS["stop-short-timeout"], "end": 20}, worker)

        assert [message.id for message in playing.stub.queues["work"]] == ["m2"]
        assert stopped(playing) == pytest.approx(6.0, abs=0.1)

    def test_while_nothing_runs_is_at_once(self, worker: LibraryWorker) -> None:
        playing, _ = play(given(end=20, observed=[{"t": 5.0, "given": "SIGTERM"}]), worker)

        assert stopped(playing) == pytest.approx(5.0, abs=0.1)

    def test_during_a_get_leaves_its_messages_leased(self, worker: LibraryWorker) -> None:
        playing, _ = play(SCENARIOS["stop-during-get"], worker)

        (left,) = playing.stub.queues["work"]
        assert left.visible_from > 600
        assert not [step for step in playing.steps if "invoke" in step]
        assert stopped(playing) < 4


def stopped(playing: Play) -> float:
    """When the host had stopped, in seconds."""
    return next(step["t"] for step in playing.steps if step.get("host") == "stopped")
