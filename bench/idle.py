"""What an app with nothing to do asks of storage, counted on the local host by a proxy before the emulator."""

import asyncio
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
from aiohttp import ClientSession, web
from azure.storage.queue import QueueServiceClient
from multidict import CIMultiDict
from yarl import URL

from bench.measure import Finding
from dev.azurite import ACCOUNT, ACCOUNT_KEY, Azurite
from dev.host import HostProcess
from dev.simulator import Simulator
from dev.stack import APP
from shared.values.resources import EVENT_QUEUES, RAW_QUEUES

_DAY: Final = 86_400
_MONTH_DAYS: Final = 30
_OPERATION: Final = 0.004 / 10_000  # USD, Queue Storage (GPv2, LRS), list price
_SETTLE_SECONDS: Final = 15.0  # a host that has just started polls more often
_FIFTH_MINUTES: Final = 288  # a day, in which runs are noted and queues measured
_FREE_SECONDS: Final = 30  # what the runs take, before the minute is over and a timer comes by itself
RUNS: Final = {"drain_poison": 1440, "renew_subscriptions": 288, "sweep_claim_checks": 1}
"""The timers of `function_app`, and how often a day they run."""

_HOP_BY_HOP: Final = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})


def idle(*, quick: bool) -> Iterator[Finding]:
    """Operations a day by function, and the CPU of the host and its worker."""
    if (second := time.time() % 60) > 60 - _FREE_SECONDS:
        time.sleep(60 - second)
    with _app() as (host, counted):
        runs = {name: (_run(host, counted, name), _run(host, counted, name)) for name in RUNS}
        time.sleep(_SETTLE_SECONDS)
        seconds = 10 if quick else 60
        counted.clear()
        family = [psutil.Process(host.pid), *psutil.Process(host.pid).children(recursive=True)]
        used = sum(sum(process.cpu_times()[:2]) for process in family)
        time.sleep(seconds)
        found, used = dict(counted), sum(sum(process.cpu_times()[:2]) for process in family) - used
    total = 0.0
    for name, count in sorted(found.items()):
        total += (daily := count / seconds * _DAY)
        yield Finding(f"idle, a day: {name}", _operations(daily))
    for name, (first, again) in runs.items():
        total += (daily := RUNS[name] * again + min(RUNS[name], _FIFTH_MINUTES) * max(first - again, 0))
        yield Finding(f"idle, a day: {name}", f"{_operations(daily)} ({again} a run, {first} each fifth minute)")
    month = total * _MONTH_DAYS
    yield Finding("idle, a month: all operations", f"{month:,.0f}, {month * _OPERATION:.2f} USD")
    yield Finding("idle, a day: CPU of the local host and a worker", f"{used / seconds * _DAY:,.0f} s")


def _operations(count: float) -> str:
    return f"{count:,.0f} operations"


def _run(host: HostProcess, counted: "Counter[str]", name: str) -> int:
    """How many requests of its own a function makes in a run."""
    before = counted[_OURS]
    host.start_function(name)
    while True:
        seen = counted[_OURS]
        time.sleep(1.5)  # what it still has to ask, it asks within that
        if counted[_OURS] == seen:
            return seen - before


_OURS: Final = "the app itself"


def _name(request: web.Request) -> str:
    """Who asks for what: a poll by its queue, the host's own books, or the app."""
    _, _, first, *rest = request.path.split("/")
    if "azsdk" not in request.headers.get("User-Agent", ""):
        return _OURS
    if rest == ["messages"] and request.method == "GET":
        return f"polls of {first}"
    return f"the host: {'/'.join([first, *rest[:1]])}" if first.startswith("azure-webjobs") else f"the host: {first}"


@contextmanager
def _app() -> "Iterator[tuple[HostProcess, Counter[str]]]":
    with (
        tempfile.TemporaryDirectory(prefix="switchboard-bench-", ignore_cleanup_errors=True) as folder,
        Azurite.start(Path(folder)) as azurite,
        Simulator.start() as sim,
        _counting(azurite.queue_url) as (queues, asked),
        _counting(azurite.blob_url, asked) as (blobs, _),
    ):
        with QueueServiceClient.from_connection_string(azurite.connection_string) as service:
            for name in (*RAW_QUEUES, *EVENT_QUEUES):  # the host makes no queue that it listens on
                service.create_queue(name)
        storage = f"AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};QueueEndpoint={queues};BlobEndpoint={blobs}"
        desired = Path(folder) / "subscriptions.toml"
        desired.write_text("[[callRecords]]\n", encoding="utf-8")
        settings = {
            **sim.environment(),
            "AzureWebJobsStorage": f"DefaultEndpointsProtocol=http;{storage}",
            "CLIENT_STATE": "a-client-state-of-thirty-two-characters",
            "NOTIFICATION_URL": "https://switchboard.example/api/notifications",
            "SUBSCRIPTIONS": str(desired),
            "RENEWAL_SCHEDULE": "0 0 0 29 2 *",  # not by itself: it is run by hand
        }
        with HostProcess(APP, settings) as host:
            yield host, asked


@contextmanager
def _counting(target: str, asked: "Counter[str] | None" = None) -> "Iterator[tuple[str, Counter[str]]]":
    """A proxy before one of the emulator's services; yields its URL, account included, and what was asked."""
    asked = Counter() if asked is None else asked
    ready, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    url = ""

    async def serve() -> None:
        nonlocal url
        async with ClientSession(auto_decompress=False, skip_auto_headers=("Content-Type",)) as session:

            async def pass_on(request: web.Request) -> web.Response:
                asked[_name(request)] += 1
                headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP)
                to = URL(target).origin().join(URL(request.raw_path, encoded=True))
                body = await request.read()
                async with session.request(request.method, to, headers=headers, data=body or None) as answer:
                    kept = CIMultiDict((k, v) for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP)
                    return web.Response(status=answer.status, headers=kept, body=await answer.read())

            app = web.Application()
            app.router.add_route("*", "/{path:.*}", pass_on)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/{ACCOUNT}"
            ready.set()
            await over.wait()
            await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield url, asked
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
