"""The main job, end to end, on this machine: notifications go in over HTTP, typed events come out on queues.

Storage is Azurite, Microsoft's side is played by the simulator, and the app is served by the local host. The books must
balance at the end: every authentic notification is an event, under one id, and nothing forged is.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dev import installed_clients, traffic
from dev.azurite import AzuriteError
from dev.consumer import Arrival, Consumer
from dev.host import HostStartError
from dev.host.process import add_host_options, use_host
from dev.simulator import Kind
from dev.simulator.collection import collection
from dev.simulator.delivery import Notification
from dev.simulator.subscriptions import Subscription
from dev.simulator.tokens import Forgery, forge
from dev.stack import Stack
from shared.values.events.event_data import MeetingCallEventData

_BUSY: Final = 170
_PATIENCE: Final = 300.0  # seconds; a busy machine is slow, and that is no fault of the app's
_SHOWN: Final = 14


@dataclass
class Books:
    """What was sent, and what has arrived. Thread-safe."""

    sent: dict[str, Notification] = field(default_factory=dict)  # by the data that the event must carry
    forged: set[str] = field(default_factory=set)
    arrivals: list[Arrival] = field(default_factory=list)
    copies: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, notifications: tuple[Notification, ...], *, copies: int = 1) -> None:
        """Enter what Graph is about to send."""
        with self.lock:
            for notification in notifications:
                self.sent[fingerprint(notification.plaintext or notification.item["resourceData"])] = notification
            self.copies += (copies - 1) * len(notifications)

    def arrive(self, arrival: Arrival) -> None:
        """Enter an event."""
        with self.lock:
            self.arrivals.append(arrival)

    @property
    def redelivered(self) -> int:
        """How many events came again under an id that had come before: delivery is at least once."""
        return len(self.arrivals) - sum(map(len, self.by_data().values()))

    def problems(self) -> dict[str, int]:
        """What breaks a promise, and how many times; empty if the books balance."""
        found = self.by_data()
        counts = {
            "lost": sum(data not in found for data in self.sent),
            "more than one event for": sum(len(found.get(data, ())) > 1 for data in self.sent),
            "forged and accepted": sum(data in found for data in self.forged),
            "not explained by anything sent": len(found.keys() - self.sent.keys() - self.forged),
        }
        return {name: count for name, count in counts.items() if count}

    def by_data(self) -> dict[str, dict[tuple[str, str], Arrival]]:
        """The events by what they carry; a redelivery has the same key and counts once."""
        found: dict[str, dict[tuple[str, str], Arrival]] = {}
        with self.lock:
            for arrival in self.arrivals:
                found.setdefault(_carried(arrival), {}).setdefault(arrival.event.key, arrival)
        return found


def fingerprint(data: Mapping[str, Any]) -> str:
    """Data in one form, whatever its spaces and order."""
    return json.dumps(data, sort_keys=True)


def _carried(arrival: Arrival) -> str:
    return fingerprint(json.loads(arrival.data))


class Demo:
    """The scenes, one after the other, on a running stack."""

    def __init__(self, stack: Stack, books: Books) -> None:
        self.stack = stack
        self.sim = stack.sim
        self.books = books
        self.day = traffic.a_day()

    def scenes(self) -> Iterator[tuple[str, Callable[[], str | None]]]:
        """What happens, and how to make it happen; what that returns is worth a word as well."""
        yield "somebody signs in for presence, and the renewal timer creates the subscriptions", self.subscribe
        yield "everything that Graph notifies of, in turn", self.everything
        yield "Graph delivers one notification twice", self.duplicate
        yield "somebody posts forged notifications", self.forge
        yield "a roster of 400, too large for a queue message", self.large_roster
        yield "Graph asks for a renewal, and removes another subscription", self.lifecycle
        yield "the certificate is rotated, and notifications for the old one are still on their way", self.rotate
        yield f"a busy hour: {_BUSY} notifications", self.busy

    def subscribe(self) -> str:
        self.stack.sign_in()
        self._fire_timer()
        _wait(lambda: len(self.sim.graph.subscriptions) == traffic.WITH_PRESENCE_COUNT, "the subscriptions")
        return f"{len(self.sim.graph.subscriptions)} subscriptions"

    def everything(self) -> None:
        for resource, kind in traffic.EVERYTHING:
            self._send(resource, kind)
            time.sleep(0.15)  # for whoever watches

    def duplicate(self) -> None:
        self.sim.graph.delivery.copies = 2
        self._send(traffic.CALL, Kind.CALL_STARTED, copies=2)
        self.sim.graph.delivery.copies = 1

    def forge(self) -> None:
        url = self.stack.settings["NOTIFICATION_URL"]
        for forgery in (None, Forgery.ALG_NONE, Forgery.OTHER_TENANT, Forgery.ISSUER_LOOKALIKE):
            options = traffic.unique(traffic.EMERGENCY)
            (prepared,) = self.sim.graph.prepare(traffic.EMERGENCY, Kind.EMERGENCY_NESTED, options)
            item = dict(prepared.item)
            if forgery is None:
                item["clientState"] = "a guess"
                tokens = [self.sim.entra.validation_token(self.sim.app_id, self.sim.tenants[0])]
            else:
                key, now = self.sim.entra.signing_key, self.sim.clock.now()
                tokens = [forge(forgery, key, app_id=self.sim.app_id, tenant_id=self.sim.tenants[0], now=now)]
            assert prepared.plaintext is not None
            self.books.forged.add(fingerprint(prepared.plaintext))
            self._post_forged(url, collection([item], tokens))

    def _post_forged(self, url: str, body: bytes) -> None:
        """Post until there is an answer: an app that is too busy for one asks Graph for another try, and a forger."""
        deadline = time.monotonic() + _PATIENCE
        while (status := self.sim.graph.post(url, body).status) != 202:  # a forger is to learn nothing
            if status not in {None, 503} or time.monotonic() > deadline:
                raise SystemExit(f"a forged notification was answered with {status}")

    def large_roster(self) -> None:
        options = traffic.unique(traffic.MEETING, participants=400)
        notifications = self.sim.graph.prepare(traffic.MEETING, Kind.ROSTER_JOINED, options)
        self.books.send(notifications)
        self.sim.graph.send(notifications)

    def lifecycle(self) -> str:
        renewed, removed = self._subscription(traffic.EMERGENCY), self._subscription(traffic.RECORDS)
        self.sim.graph.notify_lifecycle(renewed.id, "reauthorizationRequired")
        _wait(lambda: self._subscription(traffic.EMERGENCY).expires > renewed.expires, "the renewal")
        self.sim.graph.notify_lifecycle(removed.id, "subscriptionRemoved")
        self.sim.graph.remove(removed.id)
        _wait(lambda: self._subscription(traffic.RECORDS, removed).id != removed.id, "the new subscription")
        until = self._subscription(traffic.EMERGENCY).expires
        return f"emergency calls renewed until {until:%d %B %H:%M:%S}, call records subscribed to anew"

    def rotate(self) -> str:
        before = self.sim.graph.prepare(traffic.CALL, Kind.CALL_STARTED, traffic.unique(traffic.CALL))
        version = self.sim.vault.rotate_certificate().version
        self._fire_timer()
        _wait(lambda: self._moved_to(version), "the subscriptions' move to the new certificate")
        after = self.sim.graph.prepare(traffic.CALL, Kind.CALL_ENDED, traffic.unique(traffic.CALL))
        self.books.send(before + after)
        self.sim.graph.send(before + after)
        return f"all subscriptions have moved to version {version[:8]}…"

    def busy(self) -> None:
        prepared: list[Notification] = []
        for _ in range(_BUSY):
            resource, kind, options = next(self.day)
            prepared += self.sim.graph.prepare(resource, kind, options)
        self.books.send(tuple(prepared))
        for start in range(0, len(prepared), 10):
            self.sim.graph.send(prepared[start : start + 10])
            time.sleep(0.1)

    def _subscription(self, resource: str, otherwise: Subscription | None = None) -> Subscription:
        """The app's subscription to a resource; `otherwise` while there is none."""
        found = [one for one in self.sim.graph.subscriptions if one.resource.strip("/") == resource]
        return found[-1] if found or otherwise is None else otherwise

    def _send(self, resource: str, kind: Kind, *, copies: int = 1) -> None:
        notifications = self.sim.graph.prepare(resource, kind, traffic.unique(resource))
        self.books.send(notifications, copies=copies)
        self.sim.graph.send(notifications)

    def _fire_timer(self) -> None:
        self.stack.host.start_function("renew_subscriptions")

    def _moved_to(self, version: str) -> bool:
        """Whether every rich subscription is encrypted for a version of the certificate."""
        recipients = [found.addressee.recipient for found in self.sim.graph.subscriptions]
        return all(found.certificate_id.endswith(version) for found in recipients if found is not None)


def main() -> int:
    """Run all scenes; 0 if the books balance, 1 if they do not, or nothing can be started."""
    parser = argparse.ArgumentParser(prog="run.py demo", description="The whole app, end to end, on this machine.")
    parser.add_argument("--clients", type=Path, metavar="FOLDER", help="let what is installed there read, too")
    add_host_options(parser)
    options = parser.parse_args()
    use_host(options)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    started = time.monotonic()
    books = Books()
    with tempfile.TemporaryDirectory(prefix="switchboard-demo-", ignore_cleanup_errors=True) as folder:
        with (
            console.status("starting storage, the simulator of Microsoft's side, and the app …"),
            ExitStack() as starting,
        ):
            try:
                stack = starting.enter_context(Stack.start(Path(folder), subscriptions=traffic.WITH_PRESENCE))
            except (AzuriteError, HostStartError) as error:
                print(f"run.py demo: {error}", file=sys.stderr)
                return 1
            running = starting.pop_all()
        with running:
            with Consumer(stack.azurite.connection_string, books.arrive), _view(console, books) as say:
                for title, scene in Demo(stack, books).scenes():
                    say(title)
                    if outcome := scene():
                        say(f"… {outcome}")
                say("waiting for the last events")
                stack.sim.graph.drain(_PATIENCE)
                _settle(books)
            unbalanced = _summary(console, stack, books, time.monotonic() - started)
            return unbalanced or (installed_clients.check(stack, options.clients) if options.clients else 0)


@contextmanager
def _view(console: Console, books: Books) -> Iterator[Callable[[str], None]]:
    """Show events as they arrive: in place on a terminal, line by line elsewhere. Yields what announces a scene."""
    if console.is_terminal:
        scenes: list[str] = []
        with Live(get_renderable=lambda: _screen(books, scenes), console=console, refresh_per_second=8):
            yield scenes.append
        return
    printer = _Printer(console, books)
    thread = threading.Thread(target=printer.run, daemon=True)
    thread.start()
    yield printer.say
    printer.stop()
    thread.join()


class _Printer:
    def __init__(self, console: Console, books: Books) -> None:
        self._console = console
        self._books = books
        self._printed = 0
        self._stopping = threading.Event()

    def say(self, title: str) -> None:
        self._print_new()
        self._console.print(f"\n── {title}", style="bold")

    def run(self) -> None:
        while not self._stopping.wait(0.2):
            self._print_new()

    def stop(self) -> None:
        self._stopping.set()

    def _print_new(self) -> None:
        with self._books.lock:
            fresh = self._books.arrivals[self._printed :]
            self._printed += len(fresh)
        for arrival in fresh[:_SHOWN]:
            self._console.print(arrival.line())
        if len(fresh) > _SHOWN:
            self._console.print(f"     … and {len(fresh) - _SHOWN} more")


def _screen(books: Books, scenes: list[str]) -> Group:
    with books.lock:
        arrivals, sent = list(books.arrivals), len(books.sent)
    lines = [arrival.line() for arrival in arrivals[-_SHOWN:]]
    title = f" {scenes[-1]} " if scenes else ""
    return Group(
        *(Text(scene, style="dim") for scene in scenes[:-1]),
        Panel(Group(*lines), title=title, title_align="left", height=_SHOWN + 2),
        Text(f"notifications sent {sent}   events read {len(arrivals)}", style="dim"),
    )


def _summary(console: Console, stack: Stack, books: Books, seconds: float) -> int:
    found = books.by_data()
    problems = books.problems()
    refused = len(books.forged) - problems.get("forged and accepted", 0)
    latencies = _latencies(stack, found)
    whole = _largest_roster(books)
    accepted = sum(
        "lifecycleEvent" not in notification.item
        for delivery in stack.sim.graph.deliveries
        if delivery.state == "delivered"
        for notification in delivery.notifications
    )

    kinds = Counter(arrival.event.type for events in found.values() for arrival in events.values())
    table = Table("event", "count", title="events by type", title_justify="left")
    for name, count in sorted(kinds.items()):
        table.add_row(name, str(count))
    books_table = Table("", "", show_header=False, title="the books", title_justify="left")
    for name, value in (
        ("authentic notifications sent", f"{len(books.sent)}, and {books.copies} of them twice"),
        ("accepted (202)", str(accepted)),
        ("forged sent, refused", f"{len(books.forged)}, {refused}"),
        ("events, redeliveries of one aside", str(sum(map(len, found.values())))),
        ("redeliveries, told by their id", str(books.redelivered)),
        ("largest roster", f"{whole} of 400 participants"),
        ("lost", str(problems.get("lost", 0))),
        ("latency, POST to event read", f"p50 {latencies[0] * 1000:.0f} ms, p99 {latencies[1] * 1000:.0f} ms"),
        ("time", f"{seconds:.0f} s"),
    ):
        books_table.add_row(name, value)
    console.print()
    console.print(table)
    console.print(books_table)
    wrong = [f"{name}: {count}" for name, count in problems.items()]
    if whole != 400:
        wrong.append(f"participants of the large roster: {whole} instead of 400")
    if wrong:
        console.print(f"[bold red]The books do not balance:[/] {'; '.join(wrong)}")
        return 1
    console.print("[bold green]The books balance:[/] every authentic notification is one event, nothing forged is.")
    return 0


def _latencies(stack: Stack, found: Mapping[str, Mapping[tuple[str, str], Arrival]]) -> tuple[float, float]:
    """From Graph's first attempt at a delivery to the consumer's reading of the event: median and 99th percentile."""
    seconds = []
    for delivery in stack.sim.graph.deliveries:
        for notification in delivery.notifications:
            data = fingerprint(notification.plaintext or notification.item.get("resourceData", {}))
            seconds += [
                (arrival.at - delivery.attempts[0].at).total_seconds()
                for arrival in found.get(data, {}).values()
                if delivery.attempts
            ]
    return statistics.median(seconds), statistics.quantiles(seconds, n=100)[-1]


def _largest_roster(books: Books) -> int:
    rosters = [
        data.participants_delta
        for arrival in books.arrivals
        if isinstance(data := arrival.event.typed(arrival.data), MeetingCallEventData)
    ]
    return max(map(len, rosters), default=0)


def _settle(books: Books) -> None:
    """Wait for every event; a forged one would have come by then too."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and not books.sent.keys() <= books.by_data().keys():
        time.sleep(0.1)
    time.sleep(1)  # for what must not come


def _wait(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited for {what}, in vain")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
