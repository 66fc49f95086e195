"""One function for each trigger: what came in, which part handles it, what is answered."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any

import azure.functions as func

from shared.app import App
from shared.notifications.http_answer import Answer, handshake, refused, try_again

if TYPE_CHECKING:
    from shared.values.errors import InvocationError

# ruff: noqa: PLC0415 - imports are late, so that each trigger pays for its own parts alone

logger = logging.getLogger(__name__)

# At INFO, Azure's libraries log each request that they make, the exporter of telemetry its own as well.
logging.getLogger("azure").setLevel(logging.WARNING)
# What the worker's exporter sends, the host would send a second time.
_ours = logging.getLogger("shared")
_ours.propagate = not _ours.handlers

_DRAIN_TIME = timedelta(minutes=5)  # of the twelve that host.json gives a function
_BACKFILL_TIME = timedelta(minutes=5)  # since the start of a run, of the twelve that host.json gives a function
_AUDIT_TIME = timedelta(minutes=2)  # since the start of a run: the next one is not kept waiting


def reported[**P, T](function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A function whose failure is logged by its reason, and leaves it as an error that knows nothing else.

    Azure Monitor gets an exception that leaves a function with its text, and with the texts of all that it came from
    (`serialize_exception` of azure-functions-runtime); any of them may hold data.
    """

    @wraps(function)
    async def reporting(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - it is raised again, without what it says
            failure = _failure(function.__name__, error)
        raise failure  # outside the handler, so that nothing is its cause or context

    return reporting


def noted[**P, T](app: App) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """A decorator for a function whose runs are noted, so that one shows which the host has disabled."""

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @wraps(function)
        async def noting(*args: P.args, **kwargs: P.kwargs) -> T:
            async with app.function_runs.noted(function.__name__):
                return await function(*args, **kwargs)

        return noting

    return decorate


def _failure(function: str, error: Exception) -> "InvocationError":
    import traceback

    from shared.values.errors import InvocationError, SettingsError, SwitchboardError

    if isinstance(error, SettingsError):
        logger.critical("%s", error)
    reason = error.reason if isinstance(error, SwitchboardError) else type(error).__name__
    where = traceback.extract_tb(error.__traceback__)[-1]
    logger.error("function failed: function=%s reason=%s at=%s:%s", function, reason, where.name, where.lineno)
    return InvocationError(function, reason)


async def receive(app: App, req: func.HttpRequest) -> func.HttpResponse:
    """The validation handshake, or a POST of notifications."""
    token = req.params.get("validationToken")
    if token is not None:
        return _response(handshake(token))
    if req.method != "POST":
        return _response(refused(400, "a validationToken, or a POST of a change notification collection, is expected"))
    body = req.get_body()
    if not body and req.headers.get("content-length", "").strip() != "0":
        # The host hands over a chunked body, or one of HTTP/2 without its length, as an empty one.
        app.receive_log.say("cannot accept notifications now", "no-body")
        return _response(try_again("the body did not arrive, please send it again with its Content-Length"))
    from shared.values.errors import SettingsError

    try:
        receiver = app.receiver
    except SettingsError as error:
        app.receive_log.say("cannot accept notifications", str(error), level=logging.CRITICAL)
        return _response(try_again("not configured yet"))
    return _response(await receiver.receive(body, req.headers.get("traceparent")))


async def decrypt(app: App, msg: func.QueueMessage, queue: str) -> None:
    """One raw message."""
    await app.decryptor.handle(msg.get_body().decode(), queue=queue, attempts=msg.dequeue_count or 1)


async def handle_lifecycle(app: App, msg: func.QueueMessage, queue: str) -> None:
    """One raw message of lifecycle notifications."""
    await app.lifecycle_messages.handle(msg.get_body().decode(), queue=queue, attempts=msg.dequeue_count or 1)


async def renew(app: App) -> None:
    """One renewal run, and in the time that is left, the search for call records that were missed, and their audit."""
    from shared.call_records.backfill import LEAST_TIME
    from shared.subscriptions.renewal_state import Runner

    started = app.clock.now()
    async with _flushing(app):
        report = await app.finished_runs.see(app.renewal.run(review=True), Runner.TIMER)
        whole = await app.backfill.run(report.call_records, max(started + _BACKFILL_TIME, app.clock.now() + LEAST_TIME))
        await app.record_audit.run(whole, started + _AUDIT_TIME)


async def self_test(app: App) -> None:
    """One self-test."""
    passed = False
    async with _flushing(app):
        try:
            legs = await app.self_test().run()
            passed = all(leg.problem is None for leg in legs)
        finally:
            app.telemetry.self_tested(passed=passed)
    for leg in legs:
        if leg.problem is None:
            logger.info("self-test: leg=%r seconds=%.3f", leg.name, leg.seconds)
        else:
            logger.error("self-test: leg=%r failed: %s", leg.name, leg.problem)


async def drain_poison(app: App) -> None:
    """What the Functions host has given up; and how far consumers are behind."""
    await app.poison_drain.run(app.clock.now() + _DRAIN_TIME)
    await app.queue_watch.run()


async def sweep_claim_checks(app: App) -> None:
    """Claim checks that a crash has left without a message."""
    await app.raw_messages.sweep()


async def health(app: App, _req: func.HttpRequest) -> func.HttpResponse:
    """Whether all is well, and nothing else: anybody may ask."""
    well = (await app.health.report()).well
    return func.HttpResponse(
        "ok" if well else "failing",
        status_code=200 if well else 503,
        mimetype="text/plain",
        headers={"Cache-Control": "no-store"},
    )


async def status(app: App, req: func.HttpRequest) -> func.HttpResponse:
    """How things are, as a page; as JSON for whoever asks for it."""
    import msgspec

    from shared.operations.status_page import HEADERS, page
    from shared.values.errors import SettingsError

    try:
        shown = await app.status.read()
    except SettingsError as error:
        return _response(try_again("\n".join(error.problems)))
    headers = dict(HEADERS)
    if "application/json" in req.headers.get("accept", ""):
        return func.HttpResponse(msgspec.json.encode(shown), headers=headers, mimetype="application/json")
    return func.HttpResponse(page(shown), headers=headers, mimetype="text/html", charset="utf-8")


def _response(answer: Answer) -> func.HttpResponse:
    return func.HttpResponse(
        answer.body, status_code=answer.status, headers=dict(answer.headers), mimetype=answer.content_type
    )


@asynccontextmanager
async def _flushing(app: App) -> AsyncIterator[None]:
    """A timer's run whose figures are sent before it ends: its instance may be gone right after."""
    try:
        yield
    finally:
        await app.telemetry.flush()
