"""Settings for an operator, fetched through an Azure CLI that answers from a file."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import load

ROOT = Path(__file__).parents[2]
GUID = "11111111-1111-1111-1111-111111111111"
APP_SETTINGS = {
    "AzureWebJobsStorage__blobServiceUri": "https://st1.blob.core.windows.net/",
    "AzureWebJobsStorage__queueServiceUri": "https://st1.queue.core.windows.net/",
    "AzureWebJobsStorage__credential": "managedidentity",
    "AzureWebJobsStorage__clientId": GUID,
    "AZURE_CLIENT_ID": GUID,
    "CLIENT_STATE": "@Microsoft.KeyVault(SecretUri=https://kv-1.vault.azure.net/secrets/client-state)",
    "GRAPH_TENANT_IDS": GUID,
    "GRAPH_APP_IDS": GUID,
    "KEY_VAULT_URL": "https://kv-1.vault.azure.net/",
    "CERTIFICATE_NAME": "graph-notifications",
    "NOTIFICATION_URL": "https://func-1.azurewebsites.net/api/notifications",
}
AZURE_CLI = f"""
import json, sys
args = sys.argv[1:]
if args[:4] == ["functionapp", "config", "appsettings", "list"] and "func-1" in args:
    print(json.dumps([dict(name=n, value=v, slotSetting=False) for n, v in {APP_SETTINGS!r}.items()]))
elif args[:3] == ["keyvault", "secret", "show"]:
    print(json.dumps(dict(id=args[args.index("--id") + 1], value="the secret of " + args[4].rpartition("/")[2])))
else:
    sys.exit("ERROR: (ResourceNotFound) no such app")
"""


@pytest.fixture
def run(tmp_path: Path):
    if os.name != "posix":
        pytest.skip("the stand-in for the Azure CLI is a POSIX script")
    cli = tmp_path / "az"
    (tmp_path / "azure.py").write_text(AZURE_CLI)
    cli.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "azure.py"}" "$@"\n')
    cli.chmod(0o755)

    def start(app: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "infra.operator_settings", "--resource-group", "rg", "--app", app]
        env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)

    return start


class TestOperatorSettings:
    def test_are_settings_that_the_code_takes(self, run, tmp_path: Path) -> None:
        assert run("func-1").returncode == 0

        settings = load(json.loads((tmp_path / "local.settings.json").read_text())["Values"])
        assert settings.client_states == ("the secret of client-state",)
        assert settings.storage.queue_service_uri == "https://st1.queue.core.windows.net"

    def test_name_no_identity_but_the_operators_own(self, run, tmp_path: Path) -> None:
        run("func-1")

        text = (tmp_path / "local.settings.json").read_text()
        assert "clientId" not in text
        assert "AZURE_CLIENT_ID" not in text

    def test_are_for_their_owner_alone_and_are_not_shown(self, run, tmp_path: Path) -> None:
        (tmp_path / "local.settings.json").write_text("{}")  # one that everybody may read

        result = run("func-1")

        assert stat.S_IMODE((tmp_path / "local.settings.json").stat().st_mode) == 0o600
        assert "the secret of" not in result.stdout + result.stderr

    def test_leave_the_old_ones_when_azure_says_no(self, run, tmp_path: Path) -> None:
        (tmp_path / "local.settings.json").write_text("{}")

        result = run("func-2")

        assert result.returncode == 1
        assert "ResourceNotFound" in result.stderr
        assert (tmp_path / "local.settings.json").read_text() == "{}"
