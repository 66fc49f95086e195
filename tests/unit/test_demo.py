"""The demo's books: what breaks a promise, and what does not."""

import sys
from datetime import UTC, datetime
from typing import Any, Never

import msgspec
import pytest

from dev import demo
from dev.azurite import AzuriteError
from dev.consumer import Arrival
from dev.demo import Books, fingerprint
from dev.simulator.delivery import Notification
from dev.stack import Stack
from shared.values.events.event_types import CloudEvent

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def notification(name: str) -> Notification:
    return Notification(
        key=name,
        url="https://calls.example.com",
        subscription_id="s",
        tenant_id="t",
        app_id="a",
        rich=True,
        item={},
        plaintext={"id": name},
    )


def arrival(name: str, *, event_id: str = "1", **data: Any) -> Arrival:
    content = msgspec.json.encode({"id": name} | data)
    event = CloudEvent(
        specversion="1.0", id=event_id, source="https://graph.microsoft.com/v1.0/subscriptions/s", type="x", time=NOW
    )
    return Arrival("call-events", event, content, NOW)


@pytest.fixture
def books() -> Books:
    """Of two notifications that have arrived, and a forged one that has not."""
    books = Books(forged={fingerprint({"id": "forged"})})
    books.send((notification("a"), notification("b")))
    books.arrive(arrival("a", event_id="a"))
    books.arrive(arrival("b", event_id="b"))
    return books


def test_they_balance_when_each_is_one_event(books: Books) -> None:
    assert (books.problems(), books.redelivered) == ({}, 0)


def test_redeliveries_are_told_by_their_id_and_are_no_fault(books: Books) -> None:
    for _ in range(50):
        books.arrive(arrival("a", event_id="a"))
    assert (books.problems(), books.redelivered) == ({}, 50)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (arrival("a", event_id="another"), "more than one event for"),
        (arrival("forged"), "forged and accepted"),
        (arrival("a", changed="on the way"), "not explained by anything sent"),
    ],
)
def test_they_do_not_balance_with(more: Arrival, problem: str, books: Books) -> None:
    books.arrive(more)
    assert books.problems() == {problem: 1}


def test_they_do_not_balance_while_one_is_missing(books: Books) -> None:
    books.send((notification("c"),))
    assert books.problems() == {"lost": 1}


def test_what_cannot_be_started_is_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(*_: object, **__: object) -> Never:
        raise AzuriteError("storage is damaged: do this")

    monkeypatch.setattr(sys, "argv", ["run.py demo"])
    monkeypatch.setattr(Stack, "start", start)
    assert demo.main() == 1
    assert capsys.readouterr().err == "run.py demo: storage is damaged: do this\n"


def test_the_longest_line_of_an_event_fits_a_terminal_of_80_columns() -> None:
    longest = CloudEvent(
        specversion="1.0",
        id="6f1c" * 16,
        source="s",
        type="Microsoft.Graph.MeetingTranscriptionStateUpdated",
        time=NOW,
        dataref="https://storage.example/event-data/1.json",
    )
    line = Arrival("online-meeting-events", longest, b" " * 99_000, NOW).line().plain
    assert len(line) <= 80
    assert line.split() == [
        "00:00:00",
        "MeetingTranscriptionStateUpdated",
        "online-meeting-events",
        "6f1c6f1c…",
        "99",
        "KB",
    ]
