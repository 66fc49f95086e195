"""The app's parts, put together for one command."""

import os
from functools import cached_property

from azure.identity import DefaultAzureCredential

from commands.environment import environment
from commands.log_analytics import ENDPOINT, LogAnalytics
from shared.app import App
from shared.settings import Settings, StorageSettings, load, storage_settings
from shared.telemetry import NO_TELEMETRY, Telemetry
from shared.values.errors import SettingsError


class CommandContext(App):
    """The app with an operator's settings, and without telemetry of its own. It is closed when the command ends."""

    @cached_property
    def settings(self) -> Settings:
        # The SDKs look for their own settings (identity, certificates) in the environment.
        os.environ.update(environment())
        return load(os.environ)

    @cached_property
    def storage_settings(self) -> StorageSettings:
        """Read alone: what lies in quarantine is reached even where another setting is wrong."""
        os.environ.update(environment())
        settings = storage_settings(os.environ)
        if settings is None:
            raise SettingsError(["AzureWebJobsStorage is missing: the settings name no storage"])
        return settings

    @cached_property
    def telemetry(self) -> Telemetry:
        return NO_TELEMETRY

    @cached_property
    def logs(self) -> LogAnalytics | None:
        """Where the deployment sends its telemetry; None where the settings do not say, as on a developer's machine."""
        if not (workspace := os.environ.get("LOG_WORKSPACE_ID")):
            return None
        credential = DefaultAzureCredential()
        self._closing.callback(credential.close)
        return LogAnalytics(workspace, credential, os.environ.get("LOG_ANALYTICS_ENDPOINT", ENDPOINT))
