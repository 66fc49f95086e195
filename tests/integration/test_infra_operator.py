"""Settings for an operator, fetched through an Azure CLI that keeps an Azure in a file."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from commands.environment import environment
from shared.settings import load
from shared.values.errors import SettingsError
from tests.integration import azure_cli
from tests.integration.azure_cli import Azure

ROOT = Path(__file__).parents[2]
GUID = "11111111-1111-1111-1111-111111111111"
APP_SETTINGS = {
    "AzureWebJobsStorage__blobServiceUri": "https://st1.blob.core.windows.net/",
    "AzureWebJobsStorage__queueServiceUri": "https://st1.queue.core.windows.net/",
    "AzureWebJobsStorage__credential": "managedidentity",
    "AzureWebJobsStorage__clientId": GUID,
    "AZURE_CLIENT_ID": GUID,
    "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
    "CLIENT_STATE": "@Microsoft.KeyVault(SecretUri=https://kv-1.vault.azure.net/secrets/client-state)",
    "GRAPH_TENANT_IDS": GUID,
    "GRAPH_APP_IDS": GUID,
    "KEY_VAULT_URL": "https://kv-1.vault.azure.net/",
    "CERTIFICATE_NAME": "graph-notifications",
    "NOTIFICATION_URL": "https://func-1.azurewebsites.net/api/notifications",
}
FILE = "deployed.settings.json"

type Run = Callable[[str], subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-in for the Azure CLI is a POSIX script")


@pytest.fixture
def azure(tmp_path: Path) -> Azure:
    found = azure_cli.install(tmp_path / "azure")
    found.change(appsettings={"func-1": APP_SETTINGS}, secrets={"client-state": "the secret itself"})
    return found


@pytest.fixture
def run(tmp_path: Path, azure: Azure) -> Run:
    def start(app: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "infra.operator_settings", "--resource-group", "rg", "--app", app]
        env = os.environ | {"PATH": azure.path, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)

    return start


class TestOperatorSettings:
    def test_are_what_the_code_takes_for_their_owner_alone(self, run: Run, tmp_path: Path) -> None:
        result = run("func-1")

        assert result.returncode == 0
        assert "the secret itself" not in result.stdout + result.stderr
        values = json.loads((tmp_path / FILE).read_text())["Values"]
        settings = load(values)
        assert settings.client_states == ("the secret itself",)
        assert settings.storage.queue_service_uri == "https://st1.queue.core.windows.net"
        assert set(APP_SETTINGS) - set(values) == {  # no identity but the operator's own
            "AZURE_CLIENT_ID",
            "AZURE_TOKEN_CREDENTIALS",
            "AzureWebJobsStorage__clientId",
            "AzureWebJobsStorage__credential",
        }
        assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
        # Core Tools and the local host read this one: the deployment's queues would be worked off here.
        assert not (tmp_path / "local.settings.json").exists()

    def test_overwrite_nothing(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / FILE).write_text("{}")

        result = run("func-1")

        assert result.returncode == 1
        assert f"{FILE} is there already" in result.stderr
        assert (tmp_path / FILE).read_text() == "{}"

    def test_are_not_written_when_azure_says_no(self, run: Run, azure: Azure, tmp_path: Path) -> None:
        azure.refuse("functionapp config appsettings list", "ERROR: (ResourceNotFound) no such app")

        result = run("func-2")

        assert result.returncode == 1
        assert "ResourceNotFound" in result.stderr
        assert not (tmp_path / FILE).exists()

    def test_are_kept_out_of_the_repository(self) -> None:
        assert FILE in (ROOT / ".gitignore").read_text().splitlines()


class TestSettingsFile:
    """The file that manage.py takes settings from."""

    def test_is_the_one_that_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        values = {"KEY_VAULT_URL": "https://named", "EVENT_FORMAT": "batch"}
        (tmp_path / FILE).write_text(json.dumps({"Values": values}))
        monkeypatch.setenv("SWITCHBOARD_SETTINGS", str(tmp_path / FILE))
        monkeypatch.setenv("EVENT_FORMAT", "single")

        found = environment()

        assert found["KEY_VAULT_URL"] == "https://named"
        assert found["EVENT_FORMAT"] == "single"  # the environment wins

    def test_that_is_named_has_to_be_there(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("SWITCHBOARD_SETTINGS", str(tmp_path / FILE))

        with pytest.raises(SettingsError, match="is not there"):
            environment()

    def test_that_cannot_be_read_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / FILE).write_text("{")
        monkeypatch.setenv("SWITCHBOARD_SETTINGS", str(tmp_path / FILE))

        with pytest.raises(SettingsError, match=FILE):
            environment()
