"""What of a scenario's steps must be equal: brought into one form, for what was recorded and for what was played."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from tests.replay.queue_play import Scenario, Step, messages

# What the proxy did to the host's HTTP stack; a client that never sends again by itself sees less of it.
_UNSEEN = "upstream ECONNREFUSED"

type Event = tuple[Any, ...]


def by_message(scenario: Scenario, steps: Iterable[Step]) -> dict[str, list[Event]]:
    """For each message, what happened to it, in order."""
    ids = {message["text"]: message["id"] for message in messages(scenario)}
    ids |= {step["text"]: step["id"] for step in scenario["observed"] if step.get("given") == "message"}
    events: defaultdict[str, list[Event]] = defaultdict(list)
    put = ""
    for step in steps:
        if step.get("injected") == _UNSEEN:
            continue
        if step.get("call") in {"put", "create"}:
            put = ids.get(step.get("text", ""), step.get("text", put))
            _add(events[put], _event(step, "queue"))
        elif step.get("call") in {"update", "delete"}:
            for name in _listed(step["message"]):
                _add(events[name], _event(step, "seconds", "receipt"))
        elif step.get("call") == "get":
            for name, count in step.get("got", ()):
                events[name].append(("got", count, _injected(step)))
        elif "invoke" in step:
            for name in _listed(step["invoke"]):
                events[name].append(("invoke", step["dequeueCount"]))
        elif "return" in step:
            for name in _listed(step["return"]):
                events[name].append(("return", step["outcome"]))
    return {name: [_without_any_tries(event) for event in seen] for name, seen in events.items()}


def polls(steps: Iterable[Step], queue: str) -> list[Event]:
    """The calls that look for messages, without those that found none; a row of the same is one."""
    events: list[Event] = []
    for step in steps:
        if step.get("queue") != queue or step.get("call") not in {"exists", "get"} or step.get("injected") == _UNSEEN:
            continue
        if step["call"] == "get" and step.get("status") == 200 and not step["got"]:
            continue
        _add(events, _event(step | {"found": tuple(name for name, _ in step.get("got", ()))}, "found"))
    shown: list[Event] = []
    for event in map(_without_any_tries, events):
        shown.append(event)
        if shown[-1:] == shown[-2:-1]:
            shown.pop()
        if len(shown) >= 4 and shown[-2:] == shown[-4:-2]:
            del shown[-2:]
    return shown


def moments(steps: Iterable[Step]) -> list[tuple[str, float]]:
    """When messages were found, functions called, and the host given up."""
    seen: list[tuple[str, float]] = []
    for step in steps:
        if step.get("call") == "get" and step.get("got"):
            seen.append(("get", step["t"]))
        if "fatal" in step:
            seen.append(("fatal", step["t"]))
    return seen


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _event(step: Step, *keys: str) -> Event:
    """What a call was, what came of it, and with how many tries."""
    tries = len(step.get("tries", "1"))
    return (step["call"], step.get("status"), step.get("code"), _injected(step), *map(step.get, keys), tries)


def _injected(step: Step) -> str:
    kind: str = step.get("injected") or ""
    return "" if kind.startswith("delay") else kind


def _add(events: list[Event], event: Event) -> None:
    """Append a call, or count it as one more try of the one before."""
    *call, tries = event
    if event[3] in {"answer", "reset"} and events and list(events[-1][:-1]) == call:
        events[-1] = (*call, events[-1][-1] + tries)
    else:
        events.append(event)


def _without_any_tries(event: Event) -> Event:
    """Without the number of tries where the host's HTTP stack had sent each several times at once."""
    return event[:-1] if "reset" in event else event
