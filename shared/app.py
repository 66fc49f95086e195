"""The one composition root: each part of Switchboard, made when it is first needed.

Triggers, commands and tests all use it. Nothing is imported before it is needed: a worker that has just started answers
the validation handshake with what is imported here, and a trigger pays for its own parts alone.
"""

import logging
import os
from contextlib import AsyncExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from shared.clock import SystemClock

if TYPE_CHECKING:
    from datetime import timedelta

    from shared.call_records.audit import RecordAudit
    from shared.call_records.backfill import Backfill
    from shared.call_records.deliveries import Deliveries
    from shared.call_records.listing import CallRecords
    from shared.graph.client import GraphClient
    from shared.graph.identity import GraphCredentials
    from shared.graph.sign_in import SignIns
    from shared.http_client import HttpClient
    from shared.key_vault import KeyVaultCertificates
    from shared.notifications.decrypt import Decryptor
    from shared.notifications.paced_log import PacedLog
    from shared.notifications.poison import PoisonDrain, PoisonStates
    from shared.notifications.quarantine import Quarantine
    from shared.notifications.raw_messages import RawMessages
    from shared.notifications.receive import Receiver
    from shared.operations.activity import Activity
    from shared.operations.checks import AppChecks
    from shared.operations.function_runs import FunctionRuns
    from shared.operations.health import Health
    from shared.operations.queue_watch import QueueWatch
    from shared.operations.self_test import SelfTest
    from shared.operations.status import StatusReader
    from shared.settings import Settings, StorageSettings
    from shared.storage.account import StorageAccount
    from shared.storage.blobs import AzureBlobs
    from shared.storage.queues import AzureQueues
    from shared.subscriptions.desired_source import DesiredStateSource
    from shared.subscriptions.lifecycle import LifecycleMessages
    from shared.subscriptions.renewal_state import FinishedRuns, RenewalStates
    from shared.subscriptions.run import Renewal
    from shared.subscriptions.state import KnownSubscriptions
    from shared.telemetry import Telemetry
    from shared.values.endpoint import Endpoint

# ruff: noqa: PLC0415 - imports are late on purpose: at the top they would cost a process's first POST its answer


class App:
    """The parts, each made once and kept.

    An App belongs to one event loop, and is touched on that loop's thread alone: its parts hold semaphores and
    connections of their loop, and `cached_property` has no lock. The Functions worker never closes it; commands and
    tests do, as an asynchronous context manager. Every property may raise SettingsError.
    """

    def __init__(self) -> None:
        self.clock = SystemClock()
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._closing.__aexit__(*error)

    @cached_property
    def settings(self) -> "Settings":
        from shared.settings import load

        return load(os.environ)

    @cached_property
    def storage_settings(self) -> "StorageSettings":
        return self.settings.storage

    @cached_property
    def storage(self) -> "StorageAccount":
        from shared.storage.account import StorageAccount

        return StorageAccount(self.storage_settings, self.http)

    @cached_property
    def http(self) -> "HttpClient":
        from shared.http_client import HttpClient

        http = HttpClient()
        self._closing.callback(http.close)
        return http

    @cached_property
    def queues(self) -> "AzureQueues":
        from shared.storage.queues import AzureQueues

        return AzureQueues(self.storage)

    @cached_property
    def blobs(self) -> "AzureBlobs":
        from shared.storage.blobs import AzureBlobs

        return AzureBlobs(self.storage)

    @cached_property
    def certificates(self) -> "KeyVaultCertificates":
        from shared.key_vault import KeyVaultCertificates

        certificates = KeyVaultCertificates(self.settings.key_vault_url, self.settings.certificate_name)
        self._closing.push_async_callback(certificates.close)
        return certificates

    @cached_property
    def quarantine(self) -> "Quarantine":
        from shared.notifications.quarantine import Quarantine

        return Quarantine(self.blobs, self.clock.now, self.telemetry)

    @cached_property
    def raw_messages(self) -> "RawMessages":
        from shared.notifications.raw_messages import RawMessages

        return RawMessages(self.queues, self.blobs, self.quarantine, self.clock.now)

    @cached_property
    def poison_drain(self) -> "PoisonDrain":
        from shared.notifications.poison import PoisonDrain

        return PoisonDrain(self.raw_messages, self.poison_states)

    @cached_property
    def poison_states(self) -> "PoisonStates":
        from shared.notifications.poison import PoisonStates

        return PoisonStates(self.blobs)

    @cached_property
    def receive_log(self) -> "PacedLog":
        from shared.notifications.paced_log import PacedLog

        return PacedLog(logging.getLogger("shared.notifications.receive"), self.clock.now)

    @cached_property
    def receiver(self) -> "Receiver":
        from shared.notifications.collection import ClientStates
        from shared.notifications.express import Express
        from shared.notifications.receive import Receiver
        from shared.notifications.signing_keys import SigningKeys
        from shared.notifications.tokens import issuers_of
        from shared.values.resources import CALL_RECORDS_QUEUE, EMERGENCY_QUEUE, RAW_QUEUE

        settings = self.settings
        self.storage.warm_up()  # while Entra ID's keys are fetched
        express = (
            Express(
                raw_messages=self.raw_messages,
                decryptor=lambda: self.express_decryptor,
                expected=lambda: self.renewal_states.has_live(EMERGENCY_QUEUE),
                telemetry=self.telemetry,
            )
            if settings.emergency_express
            else None
        )
        return Receiver(
            raw_messages=self.raw_messages,
            signing_keys=SigningKeys(settings.login_endpoint, self.http),
            client_states=ClientStates(settings.client_states),
            app_ids=settings.app_ids,
            tenant_ids=settings.tenant_ids,
            issuers=issuers_of(settings.login_endpoint),
            max_body_bytes=settings.max_body_bytes,
            now=self.clock.now,
            log=self.receive_log,
            telemetry=self.telemetry,
            call_records_queue=CALL_RECORDS_QUEUE if settings.call_records == "fetch" else RAW_QUEUE,
            express=express,
        )

    @cached_property
    def decryptor(self) -> "Decryptor":
        from dataclasses import replace

        from shared.call_records.fetch import CallRecordFetch

        settings = self.settings
        if settings.call_records != "fetch":
            return self.express_decryptor
        return replace(self.express_decryptor, enrichment=CallRecordFetch(self.call_records, settings.tenant_ids))

    @cached_property
    def express_decryptor(self) -> "Decryptor":
        """Without what an emergency never needs: the process that receives must not have to import Graph's client."""
        from shared.notifications.decrypt import Decryptor
        from shared.notifications.event_writer import EventWriter

        settings = self.settings
        return Decryptor(
            raw_messages=self.raw_messages,
            writer=EventWriter(
                self.queues,
                self.blobs,
                settings.event_encoding,
                batched=settings.event_format == "batch",
                consumers=settings.consumers,
            ),
            private_keys=self.certificates,
            deliveries=self.deliveries,
            telemetry=self.telemetry,
        )

    @cached_property
    def telemetry(self) -> "Telemetry":
        from shared.telemetry_export import OpenTelemetry

        return OpenTelemetry(counted=self.activity.add)

    @cached_property
    def function_runs(self) -> "FunctionRuns":
        from shared.operations.function_runs import FunctionRuns

        return FunctionRuns(self.blobs, self.clock.now)

    @cached_property
    def activity(self) -> "Activity":
        import secrets

        from shared.operations.activity import Activity

        return Activity(self.blobs, secrets.token_hex(8), self.clock.now)

    @cached_property
    def status(self) -> "StatusReader":
        from shared.operations.status import StatusReader

        return StatusReader(self.checks, self.health)

    @cached_property
    def health(self) -> "Health":
        from shared.operations.health import Health

        return Health(lambda: self.checks.of_health, self.clock.now)

    @cached_property
    def checks(self) -> "AppChecks":
        from shared.operations.checks import AppChecks
        from shared.operations.limits import consumer_limits

        return AppChecks(
            queues=self.queues,
            blobs=self.blobs,
            certificates=self.certificates,
            renewals=self.renewal_states,
            runs=self.function_runs,
            poison_ages=self.poison_states,
            consumer_limits=consumer_limits(self.settings.consumers),
            now=self.clock.now,
        )

    @cached_property
    def queue_watch(self) -> "QueueWatch":
        from shared.operations.limits import consumer_limits
        from shared.operations.queue_watch import QueueWatch

        limits = consumer_limits(self.settings.consumers)
        return QueueWatch(limits, self.queues, self.blobs, self.telemetry, self.clock.now)

    @cached_property
    def renewal_states(self) -> "RenewalStates":
        from shared.subscriptions.renewal_state import RenewalStates

        return RenewalStates(self.blobs, self.clock.now)

    @cached_property
    def finished_runs(self) -> "FinishedRuns":
        from shared.subscriptions.renewal_state import FinishedRuns

        return FinishedRuns(self.renewal_states, self.telemetry, self.backfill)

    @cached_property
    def lifecycle_messages(self) -> "LifecycleMessages":
        from shared.subscriptions.lifecycle import Lifecycle, LifecycleMessages

        return LifecycleMessages(self.raw_messages, Lifecycle(self.renewal, self.finished_runs, self.backfill))

    @cached_property
    def backfill(self) -> "Backfill":
        from shared.call_records.backfill import Backfill

        return Backfill(self.blobs, self.raw_messages, self.call_records, self.clock)

    @cached_property
    def deliveries(self) -> "Deliveries":
        from shared.call_records.deliveries import Deliveries

        return Deliveries(self.blobs, self.clock.now)

    @cached_property
    def record_audit(self) -> "RecordAudit":
        from shared.call_records.audit import RecordAudit

        return RecordAudit(
            self.blobs, self.deliveries, self.raw_messages, self.call_records, self.clock, self.telemetry
        )

    @cached_property
    def call_records(self) -> "CallRecords":
        from shared.call_records.listing import CallRecords

        return CallRecords(self.graph, self.settings.graph_endpoint, self.clock)

    @cached_property
    def sign_ins(self) -> "SignIns":
        from shared.graph.sign_in import SignIns

        settings = self.settings
        sign_ins = SignIns(
            vault_url=settings.key_vault_url,
            login_endpoint=settings.login_endpoint,
            graph_endpoint=settings.graph_endpoint,
            app_id=settings.sign_in_app_id,
        )
        self._closing.callback(sign_ins.close)
        return sign_ins

    @cached_property
    def credentials(self) -> "GraphCredentials":
        from shared.graph.identity import GraphCredentials

        settings = self.settings
        credentials = GraphCredentials(
            self.sign_ins, federated_app_id=settings.federated_app_id, login_endpoint=settings.login_endpoint
        )
        self._closing.callback(credentials.close)
        return credentials

    @cached_property
    def graph(self) -> "GraphClient":
        from shared.graph.client import GraphClient

        graph = GraphClient(self.settings.graph_endpoint, self.credentials, self.clock)
        self._closing.callback(graph.close)
        return graph

    def self_test(self, patience: "timedelta | None" = None) -> "SelfTest":
        """One that waits so long for its events; as long as is usual without `patience`."""
        from shared.operations.self_test import PATIENCE, SelfTest, post_json

        settings = self.settings
        return SelfTest(
            raw_messages=self.raw_messages,
            queues=self.queues,
            certificates=self.certificates,
            post=post_json,
            clock=self.clock,
            url=settings.notification_url,
            tenant_id=min(settings.tenant_ids),
            client_state=settings.client_states[0],
            patience=patience or PATIENCE,
        )

    @cached_property
    def desired(self) -> "DesiredStateSource":
        from shared.subscriptions.desired_source import DesiredStateSource

        return DesiredStateSource(self.settings.subscriptions, self.blobs, self.settings.tenant_ids)

    @cached_property
    def endpoint(self) -> "Endpoint":
        from shared.values.endpoint import Endpoint

        settings = self.settings
        return Endpoint(settings.notification_url, settings.lifecycle_notification_url, settings.client_states)

    @cached_property
    def known(self) -> "KnownSubscriptions":
        from shared.subscriptions.state import KnownSubscriptions

        return KnownSubscriptions(self.blobs)

    @cached_property
    def renewal(self) -> "Renewal":
        from shared.subscriptions.run import Renewal
        from shared.subscriptions.unwanted import Confirmations

        return Renewal(
            graph=self.graph,
            certificates=self.certificates,
            desired=self.desired,
            known=self.known,
            endpoint=self.endpoint,
            tenant_ids=self.settings.tenant_ids,
            concerns=self.settings.concerns,
            clock=self.clock,
            confirmations=Confirmations(self.blobs, self.clock.now),
            unsubscribes=self.settings.unsubscribes,
        )
