"""Where services meet adapters, and nowhere else.

Nothing is imported or built before it is needed: a worker that has just started answers the validation handshake with
what is imported here, and a trigger pays for its own parts alone. Everything built is kept for the worker's life and
belongs to its one event loop.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

import azure.functions as func

from shared.notifications.http_answer import Answer, handshake, refused, try_again

if TYPE_CHECKING:
    from shared.call_records.audit import RecordAudit
    from shared.call_records.backfill import Backfill
    from shared.call_records.deliveries import Deliveries
    from shared.call_records.listing import CallRecords
    from shared.key_vault import KeyVaultCertificates
    from shared.notifications.decrypt import Decryptor
    from shared.notifications.paced_log import PacedLog
    from shared.notifications.poison import PoisonDrain, PoisonStates
    from shared.notifications.quarantine import Quarantine
    from shared.notifications.raw_messages import RawMessages
    from shared.notifications.raw_queues import RawQueues
    from shared.notifications.receive import Receiver
    from shared.operations.activity import Activity
    from shared.operations.function_runs import FunctionRuns
    from shared.operations.health import Checks, Health
    from shared.operations.self_test import SelfTest
    from shared.operations.status import StatusReader
    from shared.settings import Settings
    from shared.storage.account import StorageAccount
    from shared.storage.blobs import Blobs
    from shared.storage.queues import Queues
    from shared.subscriptions.finished_run import FinishedRuns
    from shared.subscriptions.graph import GraphClient
    from shared.subscriptions.lifecycle import LifecycleMessages
    from shared.subscriptions.renewal_state import RenewalStates
    from shared.subscriptions.run import Renewal
    from shared.telemetry_export import OpenTelemetry
    from shared.values.errors import InvocationError

# ruff: noqa: PLC0415 - that imports are late is this module's purpose

logger = logging.getLogger(__name__)

# At INFO, Azure's libraries log each request that they make, the exporter of telemetry its own as well.
logging.getLogger("azure").setLevel(logging.WARNING)
# What the worker's exporter sends, the host would send a second time.
_ours = logging.getLogger("shared")
_ours.propagate = not _ours.handlers

_DRAIN_TIME = timedelta(minutes=5)  # of the twelve that host.json gives a function
_BACKFILL_TIME = timedelta(minutes=5)  # since the start of a run, of the twelve that host.json gives a function
_AUDIT_TIME = timedelta(minutes=2)  # since the start of a run: the next one is not kept waiting


# --- around every function ------------------------------------------------------------------------------------------


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


def noted[**P, T](function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A function whose runs are noted, so that one shows which the host has disabled."""

    @wraps(function)
    async def noting(*args: P.args, **kwargs: P.kwargs) -> T:
        async with _function_runs().noted(function.__name__):
            return await function(*args, **kwargs)

    return noting


def _failure(function: str, error: Exception) -> "InvocationError":
    import traceback

    from shared.values.errors import InvocationError, SettingsError, SwitchboardError

    if isinstance(error, SettingsError):
        logger.critical("%s", error)
    reason = error.reason if isinstance(error, SwitchboardError) else type(error).__name__
    where = traceback.extract_tb(error.__traceback__)[-1]
    logger.error("function failed: function=%s reason=%s at=%s:%s", function, reason, where.name, where.lineno)
    return InvocationError(function, reason)


def _flushed(run: Callable[[], Awaitable[None]]) -> Callable[[], Coroutine[Any, Any, None]]:
    """A timer's run whose figures are sent before it ends: its instance may be gone right after."""

    @wraps(run)
    async def flushing() -> None:
        try:
            await run()
        finally:
            await _telemetry().flush()

    return flushing


# --- one function for each trigger ----------------------------------------------------------------------------------


async def receive(req: func.HttpRequest) -> func.HttpResponse:
    """The validation handshake, or a POST of notifications."""
    token = req.params.get("validationToken")
    if token is not None:
        return _response(handshake(token))
    if req.method != "POST":
        return _response(refused(400, "a validationToken, or a POST of a change notification collection, is expected"))
    body = req.get_body()
    if not body and req.headers.get("content-length", "").strip() != "0":
        # The host hands over a chunked body, or one of HTTP/2 without its length, as an empty one.
        _receive_log().say("cannot accept notifications now", "no-body")
        return _response(try_again("the body did not arrive, please send it again with its Content-Length"))
    from shared.values.errors import SettingsError

    try:
        receiver = _receiver()
    except SettingsError as error:
        _receive_log().say("cannot accept notifications", str(error), level=logging.CRITICAL)
        return _response(try_again("not configured yet"))
    return _response(await receiver.receive(body, req.headers.get("traceparent")))


async def decrypt(msg: func.QueueMessage, queue: str) -> None:
    """One raw message."""
    await _decryptor().handle(msg.get_body().decode(), queue=queue, attempts=msg.dequeue_count or 1)


async def handle_lifecycle(msg: func.QueueMessage, queue: str) -> None:
    """One raw message of lifecycle notifications."""
    await _lifecycle_messages().handle(msg.get_body().decode(), queue=queue, attempts=msg.dequeue_count or 1)


@_flushed
async def renew() -> None:
    """One renewal run, and in the time that is left, the search for call records that were missed, and their audit."""
    from shared.call_records.backfill import LEAST_TIME

    started = _now()
    from shared.subscriptions.finished_run import Runner

    report = await _finished_runs().see(_renewal().run(), Runner.TIMER)
    whole = await _backfill().run(report.call_records, max(started + _BACKFILL_TIME, _now() + LEAST_TIME))
    await _record_audit().run(whole, started + _AUDIT_TIME)


@_flushed
async def self_test() -> None:
    """One self-test."""
    passed = False
    try:
        legs = await _self_test().run()
        passed = all(leg.problem is None for leg in legs)
    finally:
        _telemetry().self_tested(passed=passed)
    for leg in legs:
        if leg.problem is None:
            logger.info("self-test: leg=%r seconds=%.3f", leg.name, leg.seconds)
        else:
            logger.error("self-test: leg=%r failed: %s", leg.name, leg.problem)


async def drain_poison() -> None:
    """What the Functions host has given up."""
    await _poison_drain().run(_now() + _DRAIN_TIME)


async def sweep_claim_checks() -> None:
    """Claim checks that a crash has left without a message."""
    from shared.notifications.claims import ClaimSweep

    await ClaimSweep(_blobs(), _raw_queues()).run(_now())


async def health(_req: func.HttpRequest) -> func.HttpResponse:
    """Whether all is well, and nothing else: anybody may ask."""
    well = (await _health().report()).well
    return func.HttpResponse(
        "ok" if well else "failing",
        status_code=200 if well else 503,
        mimetype="text/plain",
        headers={"Cache-Control": "no-store"},
    )


async def status(req: func.HttpRequest) -> func.HttpResponse:
    """How things are, as a page; as JSON for whoever asks for it."""
    import msgspec

    from shared.operations.status_page import HEADERS, page
    from shared.values.errors import SettingsError

    try:
        found = await _status().read()
    except SettingsError as error:
        return _response(try_again("\n".join(error.problems)))
    headers = dict(HEADERS)
    if "application/json" in req.headers.get("accept", ""):
        return func.HttpResponse(msgspec.json.encode(found), headers=headers, mimetype="application/json")
    return func.HttpResponse(page(found), headers=headers, mimetype="text/html", charset="utf-8")


def _response(answer: Answer) -> func.HttpResponse:
    return func.HttpResponse(
        answer.body, status_code=answer.status, headers=dict(answer.headers), mimetype=answer.content_type
    )


# --- what they are made of ------------------------------------------------------------------------------------------


def _now() -> datetime:
    return datetime.now(UTC)


@cache
def _settings() -> "Settings":
    from shared.settings import load

    return load(os.environ)


@cache
def _storage() -> "StorageAccount":
    from shared.storage.account import StorageAccount

    return StorageAccount(_settings().storage)


@cache
def _queues() -> "Queues":
    from shared.storage.queues import Queues

    return Queues(_storage())


@cache
def _blobs() -> "Blobs":
    from shared.storage.blobs import Blobs

    return Blobs(_storage())


@cache
def _certificates() -> "KeyVaultCertificates":
    from shared.key_vault import KeyVaultCertificates

    return KeyVaultCertificates(_settings().key_vault_url, _settings().certificate_name)


@cache
def _quarantine() -> "Quarantine":
    from shared.notifications.quarantine import Quarantine

    return Quarantine(_blobs(), _now, _telemetry())


@cache
def _raw_queues() -> "RawQueues":
    from shared.notifications.raw_queues import RawQueues

    return RawQueues(_queues(), _blobs())


@cache
def _raw_messages() -> "RawMessages":
    from shared.notifications.raw_messages import RawMessages

    return RawMessages(_raw_queues(), _quarantine(), _now)


@cache
def _poison_drain() -> "PoisonDrain":
    from shared.notifications.poison import PoisonDrain

    return PoisonDrain(_queues(), _raw_messages(), _quarantine(), _poison_states(), _now)


@cache
def _poison_states() -> "PoisonStates":
    from shared.notifications.poison import PoisonStates

    return PoisonStates(_blobs())


@cache
def _receive_log() -> "PacedLog":
    from shared.notifications.paced_log import PacedLog

    return PacedLog(logging.getLogger("shared.notifications.receive"), _now)


@cache
def _receiver() -> "Receiver":
    from shared.notifications.collection import ClientStates
    from shared.notifications.express import Express
    from shared.notifications.receive import Receiver
    from shared.notifications.signing_keys import SigningKeys
    from shared.notifications.tokens import issuers_of
    from shared.values.resources import CALL_RECORDS_QUEUE, RAW_QUEUE

    settings = _settings()
    express = (
        Express(
            queues=_raw_queues(),
            decryptor=_express_decryptor,
            expected=_emergencies_expected,
            now=_now,
            telemetry=_telemetry(),
            activity=_activity(),
        )
        if settings.emergency_express
        else None
    )
    return Receiver(
        queues=_raw_queues(),
        signing_keys=SigningKeys(settings.login_endpoint),
        client_states=ClientStates(settings.client_states),
        app_ids=settings.app_ids,
        tenant_ids=settings.tenant_ids,
        issuers=issuers_of(settings.login_endpoint),
        max_body_bytes=settings.max_body_bytes,
        now=_now,
        log=_receive_log(),
        telemetry=_telemetry(),
        call_records_queue=CALL_RECORDS_QUEUE if settings.call_records == "fetch" else RAW_QUEUE,
        express=express,
        activity=_activity(),
    )


@cache
def _decryptor() -> "Decryptor":
    from dataclasses import replace

    from shared.call_records.fetch import CallRecordFetch

    settings = _settings()
    if settings.call_records != "fetch":
        return _express_decryptor()
    return replace(_express_decryptor(), completion=CallRecordFetch(_call_records(), settings.tenant_ids))


async def _emergencies_expected() -> bool:
    from shared.values.resources import EMERGENCY_CALL_EVENTS

    state = (await _renewal_states().latest()).last
    return state is not None and state.by_kind.get(EMERGENCY_CALL_EVENTS.key, 0) > 0


@cache
def _express_decryptor() -> "Decryptor":
    """Without what an emergency never needs: the process that receives must not have to import Graph's client."""
    from shared.notifications.decrypt import Decryptor

    settings = _settings()
    return Decryptor(
        raw_messages=_raw_messages(),
        queues=_queues(),
        blobs=_blobs(),
        private_keys=_certificates(),
        encoding=settings.event_encoding,
        batched=settings.event_format == "batch",
        activity=_activity(),
        deliveries=_deliveries(),
        telemetry=_telemetry(),
    )


@cache
def _telemetry() -> "OpenTelemetry":
    from shared.telemetry_export import OpenTelemetry

    return OpenTelemetry()


@cache
def _function_runs() -> "FunctionRuns":
    from shared.operations.function_runs import FunctionRuns

    return FunctionRuns(_blobs(), _now)


@cache
def _activity() -> "Activity":
    import secrets

    from shared.operations.activity import Activity

    return Activity(_blobs(), secrets.token_hex(8), _now)


@cache
def _status() -> "StatusReader":
    from shared.operations.status import StatusReader

    return StatusReader(
        queues=_queues(),
        blobs=_blobs(),
        renewals=_renewal_states(),
        poison=_poison_states(),
        health=_health(),
        now=_now,
    )


@cache
def _health() -> "Health":
    from shared.operations.health import Health

    return Health(_health_checks, _now)


def _health_checks() -> "Checks":
    from shared.operations.health import HealthChecks

    return HealthChecks(
        queues=_queues(),
        certificates=_certificates(),
        renewals=_renewal_states(),
        runs=_function_runs(),
        poison=_poison_states(),
        now=_now,
    ).by_name()


@cache
def _renewal_states() -> "RenewalStates":
    from shared.subscriptions.renewal_state import RenewalStates

    return RenewalStates(_blobs(), _now)


@cache
def _finished_runs() -> "FinishedRuns":
    from shared.subscriptions.finished_run import FinishedRuns

    return FinishedRuns(_renewal_states(), _telemetry(), _backfill())


@cache
def _lifecycle_messages() -> "LifecycleMessages":
    from shared.subscriptions.lifecycle import Lifecycle, LifecycleMessages

    return LifecycleMessages(_raw_messages(), Lifecycle(_renewal(), _finished_runs(), _backfill()))


@cache
def _backfill() -> "Backfill":
    from shared.call_records.backfill import Backfill
    from shared.clock import SystemClock

    return Backfill(_blobs(), _raw_queues(), _call_records(), SystemClock())


@cache
def _deliveries() -> "Deliveries":
    from shared.call_records.deliveries import Deliveries

    return Deliveries(_blobs(), _now)


@cache
def _record_audit() -> "RecordAudit":
    from shared.call_records.audit import RecordAudit
    from shared.clock import SystemClock

    return RecordAudit(_blobs(), _deliveries(), _raw_queues(), _call_records(), SystemClock(), _telemetry())


@cache
def _call_records() -> "CallRecords":
    from shared.call_records.listing import CallRecords
    from shared.clock import SystemClock

    return CallRecords(_graph(), _settings().graph_endpoint, SystemClock())


@cache
def _graph() -> "GraphClient":
    from shared.clock import SystemClock
    from shared.subscriptions.graph import GraphClient
    from shared.subscriptions.identity import GraphCredentials
    from shared.subscriptions.sign_in import SignIns

    settings = _settings()
    sign_ins = SignIns(
        vault_url=settings.key_vault_url,
        login_endpoint=settings.login_endpoint,
        graph_endpoint=settings.graph_endpoint,
        app_id=settings.sign_in_app_id,
    )
    credentials = GraphCredentials(
        sign_ins, federated_app_id=settings.federated_app_id, login_endpoint=settings.login_endpoint
    )
    return GraphClient(settings.graph_endpoint, credentials, SystemClock())


@cache
def _self_test() -> "SelfTest":
    from shared.clock import SystemClock
    from shared.operations.self_test import SelfTest, post_json

    settings = _settings()
    return SelfTest(
        raw_queues=_raw_queues(),
        queues=_queues(),
        certificates=_certificates(),
        post=post_json,
        clock=SystemClock(),
        url=settings.notification_url,
        tenant_id=min(settings.tenant_ids),
        client_state=settings.client_states[0],
    )


@cache
def _renewal() -> "Renewal":
    from shared.clock import SystemClock
    from shared.subscriptions.desired_source import DesiredStateSource
    from shared.subscriptions.endpoint import Endpoint
    from shared.subscriptions.run import Renewal
    from shared.subscriptions.state import KnownSubscriptions

    settings = _settings()
    return Renewal(
        graph=_graph(),
        certificates=_certificates(),
        desired=DesiredStateSource(settings.subscriptions, _blobs(), settings.tenant_ids),
        known=KnownSubscriptions(_blobs()),
        endpoint=Endpoint(settings.notification_url, settings.lifecycle_notification_url, settings.client_states),
        tenant_ids=settings.tenant_ids,
        concerns=settings.concerns,
        clock=SystemClock(),
    )
