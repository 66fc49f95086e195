"""The deployment hook, run for real against an Azure CLI that keeps a vault and a container in files."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "infra" / "hooks"

# Refuses for as long as `refusals` says, and then answers.
AZ = """
left=$(cat "{home}/refusals")
if [ "$left" -gt 0 ]; then
    echo $((left - 1)) >"{home}/refusals"
    cat "{home}/refusal" >&2
    exit 1
fi
exec "{python}" "{home}/bin/azure.py" "$@"
"""

# Knows just enough: lists and sets of a vault, and an upload.
AZURE_CLI = """
import json, pathlib, sys

home = pathlib.Path(__file__).parents[1]
args = sys.argv[1:]
with (home / "calls").open("a") as calls:
    calls.write(json.dumps(args) + "\\n")
options = {name: value for name, value in zip(args, args[1:]) if name.startswith("--")}

vault = home / "vault"
words = tuple(word for word in args[:3] if not word.startswith("--"))
if words in {("keyvault", "certificate", "list"), ("keyvault", "secret", "list")}:
    name = options["--query"].split("'")[1]
    if (vault / f"{words[1]}-{name}").exists():
        print(name)
elif words == ("keyvault", "certificate", "create"):
    policy = options["--policy"]
    assert policy.startswith("@")
    (vault / f"certificate-{options['--name']}").write_text(pathlib.Path(policy[1:]).read_text())
elif words == ("keyvault", "secret", "set"):
    (vault / f"secret-{options['--name']}").write_text(pathlib.Path(options["--file"]).read_text())
elif words == ("storage", "blob", "upload"):
    assert "--overwrite" in args
    container = home / options["--container-name"]
    container.mkdir(exist_ok=True)
    (container / options["--name"]).write_text(pathlib.Path(options["--file"]).read_text())
elif words[0] != "rest":
    sys.exit(f"not known: {words}")
"""


@dataclass
class Azure:
    """A checkout with the hook in it, and the Azure that it deploys to."""

    home: Path
    checkout: Path

    def run(self, **env: str) -> subprocess.CompletedProcess[str]:
        found = {
            "PATH": f"{self.home / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "AZURE_KEY_VAULT_NAME": "kv-1",
            "AZURE_STORAGE_ACCOUNT": "st1",
            "AZURE_FUNCTION_ID": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Web/sites/func-1",
            "AZURE_IDENTITY_PRINCIPAL_ID": "principal-1",
            "CERTIFICATE_NAME": "graph-notifications",
        } | env
        command = ["sh", str(self.checkout / "infra" / "hooks" / "postprovision.sh")]
        return subprocess.run(
            command, env={k: v for k, v in found.items() if v}, capture_output=True, text=True, timeout=60, check=False
        )

    def vault(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.home / "vault").iterdir()}

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]

    def refuse(self, times: int, message: str) -> None:
        (self.home / "refusals").write_text(str(times))
        (self.home / "refusal").write_text(message)


@pytest.fixture
def azure(tmp_path: Path) -> Azure:
    home, checkout = tmp_path / "azure", tmp_path / "check out"
    for folder in (home / "bin", home / "vault", checkout / "infra"):
        folder.mkdir(parents=True)
    shutil.copytree(HOOKS, checkout / "infra" / "hooks")
    (home / "bin" / "azure.py").write_text(AZURE_CLI)
    script(home / "bin" / "az", AZ.format(home=home, python=sys.executable))
    script(home / "bin" / "sleep", f'echo "$1" >>"{home / "pauses"}"')
    found = Azure(home, checkout)
    found.refuse(0, "")
    return found


def script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="the script is for POSIX shells")
class TestPostprovision:
    def test_makes_what_the_app_needs(self, azure: Azure) -> None:
        (azure.checkout / "subscriptions.toml").write_text("[[callRecords]]\n")

        result = azure.run()

        assert result.returncode == 0, result.stderr
        vault = azure.vault()
        assert set(vault) == {
            "certificate-graph-notifications",
            "secret-client-state",
            "secret-client-state-previous",
        }
        assert re.fullmatch("[0-9a-f]{64}", vault["secret-client-state"])
        assert vault["secret-client-state-previous"] == vault["secret-client-state"]
        assert (azure.home / "config" / "subscriptions.toml").read_text() == "[[callRecords]]\n"

    def test_leaves_what_exists_when_run_again(self, azure: Azure) -> None:
        azure.run()
        before = azure.vault()

        result = azure.run()

        assert result.returncode == 0
        assert azure.vault() == before

    def test_finishes_what_an_interrupted_run_has_begun(self, azure: Azure) -> None:
        (azure.home / "vault" / "secret-client-state-previous").write_text("left over")

        azure.run()

        vault = azure.vault()
        assert vault["secret-client-state-previous"] == vault["secret-client-state"] != "left over"

    def test_shows_the_secret_to_nobody(self, azure: Azure) -> None:
        result = azure.run()

        secret = azure.vault()["secret-client-state"]
        assert secret not in result.stdout + result.stderr
        assert secret not in (azure.home / "calls").read_text()  # nor to those who list processes

    def test_asks_the_platform_to_look_the_references_up(self, azure: Azure) -> None:
        azure.run()

        (call,) = [call for call in azure.calls() if call[0] == "rest"]
        assert call[call.index("--url") + 1].startswith("/subscriptions/s/resourceGroups/g/providers/Microsoft.Web/")
        assert azure.calls().index(call) > max(
            number for number, found in enumerate(azure.calls()) if found[:3] == ["keyvault", "secret", "set"]
        )

    def test_waits_for_roles_to_take_effect(self, azure: Azure) -> None:
        azure.refuse(3, "(Forbidden) Caller is not authorized to perform action on resource.")

        result = azure.run()

        assert result.returncode == 0
        assert "certificate-graph-notifications" in azure.vault()
        assert (azure.home / "pauses").read_text().split() == ["15"] * 3
        assert result.stderr.count("Waiting") == 1

    def test_does_not_wait_for_roles_for_ever(self, azure: Azure) -> None:
        azure.refuse(1000, "(Forbidden) Caller is not authorized to perform action on resource.")

        result = azure.run()

        assert result.returncode == 1
        assert "Caller is not authorized" in result.stderr
        assert len((azure.home / "pauses").read_text().split()) == 39

    def test_says_at_once_what_else_is_wrong(self, azure: Azure) -> None:
        azure.refuse(1, "Please run 'az login' to setup account.")

        result = azure.run()

        assert result.returncode == 1
        assert "az login" in result.stderr
        assert azure.vault() == {}

    def test_says_what_is_missing_outside_azd(self, azure: Azure) -> None:
        result = azure.run(AZURE_FUNCTION_ID="")

        assert result.returncode == 2
        assert "AZURE_FUNCTION_ID" in result.stderr
        assert not (azure.home / "calls").exists()

    def test_says_what_to_do_without_a_desired_state(self, azure: Azure) -> None:
        assert "subscriptions.sample.toml" in azure.run().stdout


class TestBothShells:
    """There may be no PowerShell here; what the two scripts call must still be the same."""

    @staticmethod
    def calls(script: str) -> list[str]:
        return re.findall(r"(?:patiently|Invoke-Patiently) ((?:[a-z]+ )+)", script)

    def test_call_the_same_commands_in_the_same_order(self) -> None:
        posix = (HOOKS / "postprovision.sh").read_text()
        windows = (HOOKS / "postprovision.ps1").read_text()

        assert self.calls(posix) == self.calls(windows) != []

    def test_pass_the_same_options(self) -> None:
        options = [
            sorted(re.findall(r" (--[a-z-]+)", (HOOKS / name).read_text()))
            for name in ("postprovision.sh", "postprovision.ps1")
        ]

        assert options[0] == options[1] != []

    def test_are_the_hooks_of_azure_yaml(self) -> None:
        hook = yaml.safe_load((ROOT / "azure.yaml").read_text())["hooks"]["postprovision"]

        assert (ROOT / hook["posix"]["run"]).samefile(HOOKS / "postprovision.sh")
        assert (ROOT / hook["windows"]["run"]).samefile(HOOKS / "postprovision.ps1")

    def test_use_what_the_template_puts_out(self) -> None:
        outputs = set(re.findall(r"^output (\w+) ", (ROOT / "infra" / "main.bicep").read_text(), re.MULTILINE))
        for name in ("postprovision.sh", "postprovision.ps1"):
            used = set(re.findall(r"\b(?:AZURE_[A-Z_]+|CERTIFICATE_NAME)\b", (HOOKS / name).read_text()))

            assert used - outputs == set()


class TestCertificatePolicy:
    def test_fits_graph(self) -> None:
        """RSA of 2,048 to 4,096 bits, with its key exportable: it is read as a secret."""
        policy = json.loads((HOOKS / "certificate-policy.json").read_text())

        assert policy["keyProperties"]["keyType"] == "RSA"
        assert 2048 <= policy["keyProperties"]["keySize"] <= 4096
        assert policy["keyProperties"]["exportable"] is True
        assert policy["secretProperties"]["contentType"] == "application/x-pkcs12"

    def test_renews_itself_long_before_the_alert(self) -> None:
        """Key Vault warns 30 days before the end."""
        policy = json.loads((HOOKS / "certificate-policy.json").read_text())
        (action,) = policy["lifetimeActions"]

        assert action["action"]["actionType"] == "AutoRenew"
        assert 30 < action["trigger"]["daysBeforeExpiry"] < policy["x509CertificateProperties"]["validityInMonths"] * 28
