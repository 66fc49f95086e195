"""`python3 run.py start`: the app and all that it talks to, until Ctrl-C, and what happens there as it happens."""

import argparse
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from azure.core.exceptions import AzureError
from azure.storage.queue import QueueClient, QueueMessage
from rich.console import Console
from rich.text import Text

from dev import traffic
from dev.azurite import AzuriteError
from dev.consumer import Arrival, Consumer
from dev.host import HostStartError
from dev.host.process import KEY, add_host_options, use_host
from dev.log_tail import LogTail
from dev.ports import HOST, is_taken
from dev.running import Running
from dev.simulator import Simulator
from dev.stack import FREE, WELL_KNOWN, Stack, StackPorts
from shared.values.consumers import KIND_QUEUES, parse_consumers
from shared.values.resources import EVENT_QUEUES

KEPT: Final = timedelta(minutes=10)
"""How long an event that nobody reads is kept under `--traffic`; without end it would fill the machine."""

CLIENT_STATE: Final = "the-secret-that-run-py-start-shares-with-its-graph"
"""The same each time, so that the README can show a notification that is accepted. It guards nothing."""

# Whatever is shown here is taken from queues of its own; the others keep what nobody has read.
_WATCH: Final = "watch"
CONSUMERS: Final = json.dumps([{"name": _WATCH, "kinds": list(KIND_QUEUES)}])
_SIMULATORS_PORTS: Final = 5
_LEVELS: Final = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}
_CLEARED_EVERY: Final = 30.0  # seconds
_LOOKED_EVERY: Final = 0.5
_LEASE_SECONDS: Final = 10
_PAGE: Final = 32


def main() -> int:
    """Run until Ctrl-C or SIGTERM; returns the exit code: 0, or 1 where it cannot be started."""
    parser = argparse.ArgumentParser(prog="run.py start", description="The app and all that it talks to, until Ctrl-C.")
    parser.add_argument("--traffic", type=_rate, default=0.0, metavar="N", help="send N notifications a second")
    parser.add_argument("--port", type=_port, metavar="N", help="where the app listens (7071; 0: where it is free)")
    parser.add_argument("--free-ports", action="store_true", help="storage and simulator listen where it is free, too")
    add_host_options(parser)
    arguments = parser.parse_args()
    use_host(arguments)
    ports = ports_of(arguments.port, free=arguments.free_ports)
    if (problem := conflict(ports)) is not None:
        print(f"run.py start: {problem}", file=sys.stderr)
        return 1
    console = Console(highlight=False, soft_wrap=True)
    with (
        tempfile.TemporaryDirectory(prefix="switchboard-", ignore_cleanup_errors=True) as folder,
        ExitStack() as running,
    ):
        try:
            with console.status("starting storage, the simulator of Microsoft's side, and the app …"):
                stack = running.enter_context(_started(Path(folder), ports))
        except (AzuriteError, HostStartError, OSError) as error:
            print(f"run.py start: {error}", file=sys.stderr)
            return 1
        _introduce(console, stack)
        try:
            with shown(console, stack):
                _go_on(stack, arguments.traffic)
        except KeyboardInterrupt:
            console.print("stopping …")
    return 0


def ports_of(port: int | None, *, free: bool) -> StackPorts:
    """Where all of it listens: at the well-known ports, or where it is `free`; the app at `port`, if that is given."""
    ports = FREE if free else WELL_KNOWN
    return ports if port is None else ports._replace(host=port)


def conflict(ports: StackPorts) -> str | None:
    """The first of the ports that somebody listens on already, and what to do; None where there is none."""
    simulator = range(ports.simulator, ports.simulator + _SIMULATORS_PORTS) if ports.simulator else ()
    wanted = {ports.host: "the app", **dict.fromkeys(simulator, "the simulator")}
    wanted |= dict.fromkeys(ports.storage, "storage (as any Azurite)")
    for port, whose in wanted.items():
        if port and is_taken(port):
            return f"{HOST}:{port} is taken, where {whose} would listen: end what does, or give --free-ports"
    return None


@contextmanager
def _started(folder: Path, ports: StackPorts) -> Iterator[Stack]:
    """The stack, found by `run.py manage` and `run.py trigger`; somebody has signed in, and the app subscribes."""
    settings = {"CLIENT_STATE": CLIENT_STATE, "CONSUMERS": CONSUMERS}
    with Stack.start(folder, subscriptions=traffic.WITH_PRESENCE, settings=settings, ports=ports) as stack:
        stack.sign_in()
        stack.host.start_function("renew_subscriptions")
        found = Running(settings=dict(stack.settings), control_url=stack.sim.control_url, process=os.getpid())
        with found.recorded():
            yield stack


def _introduce(console: Console, stack: Stack) -> None:
    for what, where in (
        ("notifications", stack.settings["NOTIFICATION_URL"]),
        ("status page", f"{stack.url}/api/status?code={KEY}"),
        ("health", f"{stack.url}/api/health (ok or failing; the status page says why)"),
        ("the host's key", f"{KEY} (header x-functions-key; for /admin and /api/status)"),
        ("queues (Azurite)", f"{stack.azurite.queue_url}: {', '.join(EVENT_QUEUES)}"),
        ("simulator", f"{stack.sim.control_url}/_control/state (docs/simulator.md has the rest)"),
        ("subscriptions", stack.settings["SUBSCRIPTIONS"]),
    ):
        console.print(f"{what:18}{where}")
    console.print("\nTry, in another terminal:")
    console.print("  python3 run.py trigger call-started")
    console.print("  python3 run.py manage doctor")
    console.print(f"  curl -d '{notification()}' {stack.settings['NOTIFICATION_URL']}", markup=False)
    console.print("\nCtrl-C ends everything. What happens:")


def notification() -> str:
    """The body of a POST that is accepted: of a call record, which needs neither a key nor a token of Graph's."""
    record = "communications/callRecords/e523d2ed-2966-4b6b-925b-754a88034cc5"
    item = {
        "subscriptionId": "by-hand",
        "clientState": CLIENT_STATE,
        "changeType": "created",
        "resource": record,
        "resourceData": {"id": record.rpartition("/")[2]},
    }
    return json.dumps({"value": [item]})


@contextmanager
def shown(console: Console, stack: Stack) -> Iterator[None]:
    """Show events, and what the app warns of, for the length of a `with` block."""

    def arrived(arrival: Arrival) -> None:
        console.print(replace(arrival, queue=arrival.queue.removesuffix(f"-{_WATCH}")).line())

    tail = LogTail()

    def warned() -> None:
        for told in tail.news(stack.host.log_files):
            console.print(Text.assemble(f"{told.time:8} ", (told.level.lower(), _LEVELS[told.level]), f" {told.text}"))

    watched = [queue for consumer in parse_consumers(CONSUMERS).named for queue in consumer.queues]
    connection = stack.azurite.connection_string
    with (
        Consumer(connection, arrived, queues=watched, idle_seconds=_LOOKED_EVERY),
        _repeated(warned, _LOOKED_EVERY),
    ):
        yield


def _go_on(stack: Stack, rate: float) -> None:
    """Let things happen at a steady rate, or nothing, until somebody interrupts."""
    pause = threading.Event()
    while not rate:
        pause.wait(1)  # on Windows, nothing interrupts a wait without end
    connection = stack.azurite.connection_string
    queues = [QueueClient.from_connection_string(connection, name, retry_total=0) for name in EVENT_QUEUES]

    def clear() -> None:
        for queue in queues:
            with suppress(AzureError):  # it is not there yet, or storage is away
                clear_old(queue, datetime.now(UTC) - KEPT)

    with _repeated(clear, _CLEARED_EVERY):
        while len(stack.sim.graph.subscriptions) < traffic.WITH_PRESENCE_COUNT:
            pause.wait(0.1)
        for resource, kind, options in traffic.a_day():
            stack.sim.graph.notify(resource, kind, options)
            _forget(stack.sim)
            pause.wait(1 / rate)


def clear_old(queue: QueueClient, before: datetime) -> int:
    """Delete what was put on a queue before a time; returns how many messages that was."""
    cleared = 0
    while any(_is_older(front, before) for front in queue.peek_messages(1)):
        for message in queue.receive_messages(max_messages=_PAGE, visibility_timeout=_LEASE_SECONDS):
            if _is_older(message, before):
                queue.delete_message(message)
                cleared += 1
            else:
                queue.update_message(message, visibility_timeout=0)
    return cleared


def _is_older(message: QueueMessage, before: datetime) -> bool:
    return message.inserted_on is not None and message.inserted_on < before


@contextmanager
def _repeated(work: Callable[[], None], seconds: float) -> Iterator[None]:
    """Do something over and over, in a thread, for the length of a `with` block."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _forget(sim: Simulator) -> None:
    """Keep the simulator's ledger from growing for ever."""
    if len(sim.graph.deliveries) > 1000:
        sim.graph.forget_deliveries()
        sim.faults.forget_requests()


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1000:
        raise argparse.ArgumentTypeError("must be a number from 0 to 1000")
    return rate


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) < 65_536):
        raise argparse.ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
