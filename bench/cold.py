"""What a new worker process costs before it is warm: imports, its first handshake, its first POST."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.measure import Finding, Ratio, compare
from bench.storage_stub import stub
from dev.simulator import Kind, Options, Simulator, build
from dev.simulator.collection import Addressee, change_notification, collection
from dev.simulator.crypto import KeyCertificate, Recipient

_ROOT: Final = Path(__file__).resolve().parent.parent
_STATE: Final = "a-client-state"
_ITEMS: Final = 40

_IMPORT: Final = "import {} as module"
_REQUEST: Final = """
import asyncio, sys
import azure.functions as func
{before}
import function_app
def post(**parts):
    request = func.HttpRequest(method="POST", url="http://localhost/api/notifications", **parts)
    return asyncio.run(function_app.receive_notifications.build().get_user_function()(request))
{work}
"""
_HANDSHAKE: Final = _REQUEST.format(
    before="", work='assert post(params={"validationToken": "t"}, body=b"").status_code == 200'
)
_MODULES: Final = _REQUEST.format(
    before="before = set(sys.modules)",
    work='post(params={"validationToken": "t"}, body=b"")\n'
    "found = sorted(set(sys.modules) - before)\n"
    "import json\n"
    "print(json.dumps(found))",
)
_FIRST_POST: Final = _REQUEST.format(
    before="",
    work="import time\n"
    "body, started = sys.stdin.buffer.read(), time.process_time()\n"
    "answer = post(body=body)\n"
    "print(time.process_time() - started, flush=True)\n"
    "import os\n"
    "os._exit(answer.status_code != 202)",  # at once, as a worker is ended
)
_FIRST_IMPORT: Final = "import time; started = time.process_time(); import {}; print(time.process_time() - started)"


def cold_ratios(*, quick: bool) -> Iterator[Ratio]:
    """CPU of imports, of a process up to its first handshake, and of the first POST, over `import azure.functions`."""
    rounds = 3 if quick else 21
    yield compare(
        "import function_app, over import azure.functions",
        lambda: _timed(_FIRST_IMPORT.format("function_app")),
        lambda: _timed(_FIRST_IMPORT.format("azure.functions")),
        rounds=rounds,
        target="<= 1.5",
    )
    yield compare(
        "a new process until its first handshake is answered, over one that imports azure.functions alone",
        lambda: _run(_HANDSHAKE).cpu,
        lambda: _run(_IMPORT.format("azure.functions")).cpu,
        rounds=rounds,
        target="",
    )
    with _first_post() as post:
        yield compare(
            f"the first POST of a new process, {_ITEMS} rich items, over import azure.functions",
            post,
            lambda: _timed(_FIRST_IMPORT.format("azure.functions")),
            rounds=max(3, rounds // 3),
            target="<= 2.2",
        )


def cold_findings(*, quick: bool) -> Iterator[Finding]:
    """The same by the clock, and what the handshake has imported."""
    rounds = 3 if quick else 11
    runs = [[_run(code).seconds for code in ("", _IMPORT.format("azure.functions"), _HANDSHAKE)] for _ in range(rounds)]
    bare, imported, answered = (statistics.median(column) * 1000 for column in zip(*runs, strict=True))
    yield Finding(
        "a new process until its first handshake is answered",
        f"{answered:.0f} ms; until azure.functions is imported {imported:.0f} ms, Python alone {bare:.0f} ms",
    )
    modules: list[str] = json.loads(_run(_MODULES).output)
    origins = Counter(_origin(module) for module in modules)
    yield Finding(
        "imported for the first handshake, on top of azure.functions",
        f"{len(modules)} modules: {origins['own']} of ours ({', '.join(filter(_is_own, modules))}), "
        f"{origins['standard']} of the standard library, {origins['other']} others",
    )


def _origin(module: str) -> str:
    if _is_own(module):
        return "own"
    return "standard" if module.partition(".")[0] in sys.stdlib_module_names else "other"


def _is_own(module: str) -> bool:
    return module.partition(".")[0] in {"function_app", "shared"}


@contextmanager
def _first_post() -> Iterator[Callable[[], float]]:
    """The CPU of the first POST after `import function_app`: with all that it imports and fetches."""
    with Simulator.start() as sim, stub(sim.server_certificate) as url:
        to = Addressee(sim.tenants[0], _STATE, Recipient.of(KeyCertificate.generate(), f"switchboard/{'0' * 32}"))
        token = sim.entra.validation_token(sim.app_id, sim.tenants[0])
        body = collection(
            [change_notification(build(Kind.CALL_STARTED, Options()), to) for _ in range(_ITEMS)], [token]
        )
        settings = sim.environment() | {
            "AzureWebJobsStorage__queueServiceUri": url,
            "AzureWebJobsStorage__blobServiceUri": url,
            "CLIENT_STATE": _STATE,
            "NOTIFICATION_URL": "https://localhost/api/notifications",
        }
        yield lambda: float(_run(_FIRST_POST, stdin=body, settings=settings).output)


def _timed(code: str) -> float:
    return float(_run(code).output)


@dataclass(frozen=True, slots=True)
class _Run:
    output: str
    seconds: float
    cpu: float


def _run(code: str, *, stdin: bytes = b"", settings: dict[str, str] | None = None) -> _Run:
    """Run code in a new interpreter, to its end."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=stdin,
        cwd=_ROOT,
        env={**os.environ, **(settings or {})},
        stdout=subprocess.PIPE,
        check=True,
    )
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _Run(done.stdout.decode(), seconds, cpu)
