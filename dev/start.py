"""`python3 run.py start`: the app and all that it talks to, on the well-known ports, until Ctrl-C."""

import argparse
import signal
import tempfile
import threading
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dev import traffic
from dev.host.process import KEY, add_host_options, use_host
from dev.simulator import Simulator
from dev.stack import WELL_KNOWN, Stack
from shared.values.resources import EVENT_QUEUES


def main() -> int:
    """Run until Ctrl-C or SIGTERM; 0."""
    parser = argparse.ArgumentParser(prog="run.py start", description="The app and all that it talks to, until Ctrl-C.")
    parser.add_argument("--traffic", type=float, default=0.0, metavar="N", help="send N notifications a second")
    add_host_options(parser)
    arguments = parser.parse_args()
    use_host(arguments)
    console = Console()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with (
        tempfile.TemporaryDirectory(prefix="switchboard-", ignore_cleanup_errors=True) as folder,
        Stack.start(Path(folder), subscriptions=traffic.WITH_PRESENCE, ports=WELL_KNOWN) as stack,
    ):
        stack.sign_in()
        stack.host.start_function("renew_subscriptions")
        _introduce(console, stack)
        if arguments.traffic > 0:
            _send(stack, arguments.traffic, stopping)
        stopping.wait()
        console.print("stopping …")
    return 0


def _introduce(console: Console, stack: Stack) -> None:
    table = Table("what", "where", show_header=False, box=None)
    table.add_row("notifications", stack.settings["NOTIFICATION_URL"])
    table.add_row("health", f"{stack.url}/api/health (ok or failing; the status page says why)")
    table.add_row("status page", f"{stack.url}/api/status?code={KEY}")
    table.add_row("the host's key, for /admin and /api/status", f"{KEY} (header x-functions-key)")
    table.add_row(
        "queues (Azurite)", f"{stack.azurite.queue_url} (account devstoreaccount1): {', '.join(EVENT_QUEUES)}"
    )
    table.add_row("simulator, by hand", f"{stack.sim.control_url}/_control/state (docs/simulator.md has the rest)")
    table.add_row("desired subscriptions", stack.settings["SUBSCRIPTIONS"])
    console.print(table)
    console.print("\nTry, in another terminal:")
    console.print(
        f"  curl '{stack.settings['NOTIFICATION_URL']}?validationToken=hello'", highlight=False, soft_wrap=True
    )
    body = '{"target": "communications/callRecords", "kind": "call-record-created"}'
    console.print(f"  curl -d '{body}' {stack.sim.control_url}/_control/notify", highlight=False, soft_wrap=True)
    console.print(
        f"  curl -H 'Accept: application/json' '{stack.url}/api/status?code={KEY}'", highlight=False, soft_wrap=True
    )
    console.print("\nCtrl-C ends everything.")


def _send(stack: Stack, rate: float, stopping: threading.Event) -> None:
    """Send happenings of every kind at a steady rate until it is time to stop."""
    wanted = traffic.WITH_PRESENCE_COUNT
    while len(stack.sim.graph.subscriptions) < wanted:
        if stopping.wait(0.1):
            return
    for resource, kind, options in traffic.a_day():
        stack.sim.graph.notify(resource, kind, options)
        _forget(stack.sim)
        if stopping.wait(1 / rate):
            return


def _forget(sim: Simulator) -> None:
    """Keep the simulator's ledger from growing for ever."""
    if len(sim.graph.deliveries) > 1000:
        sim.graph.forget_deliveries()
        sim.faults.forget_requests()


if __name__ == "__main__":
    raise SystemExit(main())
