"""The app's parts, put together for one command."""

import os
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import cached_property
from types import TracebackType
from typing import Self

from azure.identity import DefaultAzureCredential

from commands.environment import environment
from commands.log_analytics import ENDPOINT, LogAnalytics
from shared.call_records.audit import RecordAudit
from shared.call_records.backfill import Backfill
from shared.call_records.deliveries import Deliveries
from shared.call_records.listing import CallRecords
from shared.clock import SystemClock
from shared.key_vault import KeyVaultCertificates
from shared.notifications.poison import PoisonStates
from shared.notifications.raw_queues import RawQueues
from shared.operations.function_runs import FunctionRuns
from shared.operations.self_test import SelfTest, post_json
from shared.settings import Settings, load
from shared.storage.account import StorageAccount
from shared.storage.blobs import Blobs
from shared.storage.queues import Queues
from shared.subscriptions.desired_source import DesiredStateSource
from shared.subscriptions.endpoint import Endpoint
from shared.subscriptions.finished_run import FinishedRuns
from shared.subscriptions.graph import GraphClient
from shared.subscriptions.identity import GraphCredentials
from shared.subscriptions.renewal_state import RenewalStates
from shared.subscriptions.run import Renewal
from shared.subscriptions.sign_in import SignIns
from shared.subscriptions.state import KnownSubscriptions
from shared.telemetry import NO_TELEMETRY


class Workshop:
    """Parts that are made when they are first needed and closed when the command ends.

    Every property may raise SettingsError.
    """

    def __init__(self) -> None:
        self.clock = SystemClock()
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.__aexit__(kind, error, trace)

    @cached_property
    def settings(self) -> Settings:
        # The SDKs look for their own settings (identity, certificates) in the environment.
        os.environ.update(environment())
        return load(os.environ)

    @cached_property
    def account(self) -> StorageAccount:
        account = StorageAccount(self.settings.storage)
        self._closing.push_async_callback(account.queues.close)
        self._closing.push_async_callback(account.blobs.close)
        return account

    @cached_property
    def queues(self) -> Queues:
        return Queues(self.account)

    @cached_property
    def blobs(self) -> Blobs:
        return Blobs(self.account)

    @cached_property
    def certificates(self) -> KeyVaultCertificates:
        certificates = KeyVaultCertificates(self.settings.key_vault_url, self.settings.certificate_name)
        self._closing.push_async_callback(certificates.close)
        return certificates

    @cached_property
    def sign_ins(self) -> SignIns:
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
    def credentials(self) -> GraphCredentials:
        settings = self.settings
        credentials = GraphCredentials(
            self.sign_ins, federated_app_id=settings.federated_app_id, login_endpoint=settings.login_endpoint
        )
        self._closing.callback(credentials.close)
        return credentials

    @cached_property
    def graph(self) -> GraphClient:
        graph = GraphClient(self.settings.graph_endpoint, self.credentials, self.clock)
        self._closing.callback(graph.close)
        return graph

    @cached_property
    def desired(self) -> DesiredStateSource:
        return DesiredStateSource(self.settings.subscriptions, self.blobs, self.settings.tenant_ids)

    @cached_property
    def endpoint(self) -> Endpoint:
        settings = self.settings
        return Endpoint(settings.notification_url, settings.lifecycle_notification_url, settings.client_states)

    @cached_property
    def known(self) -> KnownSubscriptions:
        return KnownSubscriptions(self.blobs)

    @cached_property
    def renewal(self) -> Renewal:
        return Renewal(
            graph=self.graph,
            certificates=self.certificates,
            desired=self.desired,
            known=self.known,
            endpoint=self.endpoint,
            tenant_ids=self.settings.tenant_ids,
            concerns=self.settings.concerns,
            clock=self.clock,
        )

    def self_test(self, patience: timedelta) -> SelfTest:
        settings = self.settings
        return SelfTest(
            raw_queues=self.raw_queues,
            queues=self.queues,
            certificates=self.certificates,
            post=post_json,
            clock=self.clock,
            url=settings.notification_url,
            tenant_id=min(settings.tenant_ids),
            client_state=settings.client_states[0],
            patience=patience,
        )

    @cached_property
    def logs(self) -> LogAnalytics | None:
        """Where the deployment sends its telemetry; None where the settings do not say, as on a developer's machine."""
        if not (workspace := os.environ.get("LOG_WORKSPACE_ID")):
            return None
        credential = DefaultAzureCredential()
        self._closing.callback(credential.close)
        return LogAnalytics(workspace, credential, os.environ.get("LOG_ANALYTICS_ENDPOINT", ENDPOINT))

    @cached_property
    def poison_states(self) -> PoisonStates:
        return PoisonStates(self.blobs)

    @cached_property
    def function_runs(self) -> FunctionRuns:
        return FunctionRuns(self.blobs, self.clock.now)

    @cached_property
    def renewal_states(self) -> RenewalStates:
        return RenewalStates(self.blobs, self.clock.now)

    @cached_property
    def finished_runs(self) -> FinishedRuns:
        return FinishedRuns(self.renewal_states, NO_TELEMETRY, self.backfill)

    @cached_property
    def raw_queues(self) -> RawQueues:
        return RawQueues(self.queues, self.blobs)

    @cached_property
    def call_records(self) -> CallRecords:
        return CallRecords(self.graph, self.settings.graph_endpoint, self.clock)

    @cached_property
    def backfill(self) -> Backfill:
        return Backfill(self.blobs, self.raw_queues, self.call_records, self.clock)

    @cached_property
    def record_audit(self) -> RecordAudit:
        deliveries = Deliveries(self.blobs, self.clock.now)
        return RecordAudit(self.blobs, deliveries, self.raw_queues, self.call_records, self.clock, NO_TELEMETRY)
