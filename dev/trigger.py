"""`python3 run.py trigger [KIND]`: let something happen to what `run.py start` has up."""

import argparse
import sys
from typing import Final

import msgspec
import requests

from dev import traffic
from dev.running import NotRunningError, Running
from dev.simulator.control import NotifyRequest
from dev.simulator.payloads import Kind
from shared.values.resources import ResourceKind, match

_RESOURCES: Final = {kind: resource for resource, kind in traffic.EVERYTHING}
_ROSTERS: Final = [kind for kind in Kind if "roster" in kind]
_SECONDS: Final = 60


def main() -> int:
    """Send one notification, or say which kinds there are; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="run.py trigger", description="Let something happen to what run.py start has up; without KIND: what can."
    )
    kinds = [kind.value for kind in Kind]
    parser.add_argument("kind", nargs="?", choices=kinds, metavar="KIND", help="what shall happen")
    parser.add_argument("--participants", type=_count, metavar="N", help="how many are in the roster (2)")
    arguments = parser.parse_args()
    if arguments.kind is None:
        for each in Kind:
            print(f"{each:<{max(map(len, Kind))}}  {_row(each).events_queue}")
        return 0
    kind = Kind(arguments.kind)
    if arguments.participants is not None and kind not in _ROSTERS:
        parser.error(f"only a roster has participants: {', '.join(_ROSTERS)}")
    try:
        print(send(Running.find(), kind, arguments.participants or 2))
    except (NotRunningError, requests.RequestException) as error:
        print(f"run.py trigger: {error}", file=sys.stderr)
        return 1
    return 0


def send(running: Running, kind: Kind, participants: int) -> str:
    """Let Graph send a notification; says what it was.

    Raises:
        NotRunningError: nothing is subscribed yet.
        requests.RequestException: the simulator did not answer.
    """
    resource = _RESOURCES[kind]
    wanted = NotifyRequest(resource, kind, traffic.unique(resource, participants=participants))
    url = f"{running.control_url}/_control/notify"
    answer = requests.post(url, data=msgspec.json.encode(wanted), timeout=_SECONDS)
    if answer.status_code == requests.codes.not_found:
        raise NotRunningError("nobody is subscribed to it yet: it takes the app some seconds after its start")
    answer.raise_for_status()
    return f"{kind}, of {resource}: its event comes to {_row(kind).events_queue}"


def _row(kind: Kind) -> ResourceKind:
    found = match(_RESOURCES[kind])
    assert found is not None
    return found


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 10_000):
        raise argparse.ArgumentTypeError("must be a number from 1 to 10000")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
