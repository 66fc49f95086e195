"""The hooks around provisioning, against an Azure CLI that keeps an Azure in a file."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.integration import azure_cli
from tests.integration.azure_cli import (
    NO_LOGIN,
    STORAGE_NETWORK,
    STORAGE_ROLE,
    SUBSCRIPTION,
    TENANT,
    VAULT_FIREWALL,
    VAULT_NETWORK,
    VAULT_ROLE,
    Azure,
)

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "infra" / "hooks"
FUNCTION = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-production/providers/Microsoft.Web/sites/func-1"

# What azd hands to hooks: the values of its environment.
AZD = {
    "AZURE_ENV_NAME": "production",
    "AZURE_LOCATION": "westeurope",
    "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
    "AZURE_TENANT_ID": TENANT,
}
OUTPUTS = {
    "AZURE_KEY_VAULT_NAME": "kv-1",
    "AZURE_STORAGE_ACCOUNT": "st1",
    "AZURE_FUNCTION_ID": FUNCTION,
    "AZURE_IDENTITY_PRINCIPAL_ID": "principal-1",
    "CERTIFICATE_NAME": "graph-notifications",
    "ALERT_EMAIL": "operators@contoso.com",
}
# Stands for the checkout's own: says what it was asked, and ends as it is told.
RUN = "import pathlib, sys\npathlib.Path('grants').open('a').write(' '.join(sys.argv[1:]) + '\\n')\nsys.exit({code})\n"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-in for the Azure CLI is a POSIX script")


@dataclass
class Checkout:
    """A checkout with the hook in it. `answers` are given to its questions; none: there is nobody to ask."""

    folder: Path
    azure: Azure
    hook: ModuleType
    pauses: list[float] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def run(self, when: str, *, answers: list[bool] | None = None, **environment: str) -> int:
        found = {"PATH": self.azure.path, **AZD, **(OUTPUTS if when == "after" else {}), **environment}
        ask: Callable[[str], bool] | None = None
        if answers is not None:
            waiting = iter(answers)

            def ask(question: str) -> bool:
                self.questions.append(question)
                return next(waiting)

        given = {name: value for name, value in found.items() if value}
        return int(self.hook.main([when], given, ask=ask, pause=self.pauses.append))

    def desire(self, text: str = "[[callRecords]]\n") -> None:
        (self.folder / "subscriptions.toml").write_text(text)

    def grants(self) -> list[str]:
        file = self.folder / "grants"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def checkout(tmp_path: Path, request: pytest.FixtureRequest) -> Checkout:
    folder = tmp_path / "check out"
    shutil.copytree(HOOKS, folder / "infra" / "hooks", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "run.py").write_text(RUN.format(code=0))
    spec = importlib.util.spec_from_file_location(
        "provision_of_a_checkout", folder / "infra" / "hooks" / "provision.py"
    )
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    azure = azure_cli.install(tmp_path / "azure")
    if "real_program" not in request.keywords:
        vars(hook)["subprocess"] = SimpleNamespace(run=azure.run)
    return Checkout(folder, azure, hook)


@pytest.fixture
def azure(checkout: Checkout) -> Azure:
    return checkout.azure


def deleted_vault(**properties: Any) -> dict[str, Any]:
    """As `az keyvault list-deleted` shows one."""
    group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-production"
    return {
        "name": "kv-1",
        "properties": {
            "vaultId": f"{group}/providers/Microsoft.KeyVault/vaults/kv-1",
            "location": "westeurope",
            "deletionDate": "2026-11-01T00:00:00+00:00",
            "scheduledPurgeDate": "2027-01-30T00:00:00+00:00",
            "tags": {"azd-env-name": "production"},
            "purgeProtectionEnabled": None,
            **properties,
        },
    }


class TestConnecting:
    @pytest.mark.real_program
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_acts_in_the_subscription_of_azd_alone(self, checkout: Checkout, azure: Azure, when: str) -> None:
        assert checkout.run(when) == 0

        assert azure.calls()
        for call in azure.calls():
            assert call[call.index("--subscription") + 1] == SUBSCRIPTION

    def test_says_where_to_log_in_when_az_is_in_another_tenant(
        self, checkout: Checkout, azure: Azure, capsys: pytest.CaptureFixture[str]
    ) -> None:
        azure.change(tenant="88888888-8888-8888-8888-888888888888")

        assert checkout.run("after") == 1

        assert f"az login --tenant {TENANT}" in capsys.readouterr().err
        assert azure.changes() == []

    def test_says_where_to_log_in_when_az_is_not(
        self, checkout: Checkout, azure: Azure, capsys: pytest.CaptureFixture[str]
    ) -> None:
        azure.refuse("account show", NO_LOGIN)

        assert checkout.run("before") == 1

        assert f"az login --tenant {TENANT}" in capsys.readouterr().err

    def test_refuses_an_az_that_is_too_old(
        self, checkout: Checkout, azure: Azure, capsys: pytest.CaptureFixture[str]
    ) -> None:
        azure.change(version="2.59.0")

        assert checkout.run("before") == 1

        assert "2.60.0 or newer" in capsys.readouterr().err

    def test_says_that_az_is_missing(self, checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
        assert checkout.run("before", PATH="/nowhere") == 1

        assert "az) is not installed" in capsys.readouterr().err


class TestBefore:
    def test_changes_nothing_where_nothing_is_in_the_way(self, checkout: Checkout, azure: Azure) -> None:
        assert checkout.run("before") == 0

        assert azure.changes() == []

    @pytest.mark.parametrize("location", ["westeurope", "West Europe"])
    def test_takes_a_region_by_both_of_its_names(self, checkout: Checkout, location: str) -> None:
        assert checkout.run("before", AZURE_LOCATION=location) == 0

    def test_refuses_a_region_without_flex_consumption(
        self, checkout: Checkout, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert checkout.run("before", AZURE_LOCATION="westindia") == 1

        assert "westindia has no Flex Consumption plan" in capsys.readouterr().err

    def test_looks_at_no_region_before_azd_knows_one(
        self, checkout: Checkout, azure: Azure, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """At the first `azd up` azd asks for subscription and region after this hook."""
        assert checkout.run("before", AZURE_LOCATION="") == 0

        assert "AZURE_LOCATION: not set yet" in capsys.readouterr().out
        assert azure.calls() == []

    def test_registers_what_a_private_network_needs(self, checkout: Checkout, azure: Azure) -> None:
        assert checkout.run("before", VNET_ENABLED="true") == 0
        assert checkout.run("before", VNET_ENABLED="true") == 0

        assert azure.changes() == ["provider register"]
        assert "--wait" in next(call for call in azure.calls() if call[:2] == ["provider", "register"])

    def test_says_who_can_register_it(
        self, checkout: Checkout, azure: Azure, capsys: pytest.CaptureFixture[str]
    ) -> None:
        azure.refuse("provider register", "(AuthorizationFailed) The client does not have authorization")

        assert checkout.run("before", VNET_ENABLED="true") == 1

        assert "registered by an owner" in capsys.readouterr().err

    def test_recovers_a_deleted_vault_of_this_environment(self, checkout: Checkout, azure: Azure) -> None:
        azure.change(deleted=[deleted_vault()])

        assert checkout.run("before", answers=[True]) == 0

        assert azure.changes() == ["group create", "keyvault recover"]
        assert azure.read()["deleted"] == []

    def test_leaves_a_deleted_vault_that_nobody_wants_back(
        self, checkout: Checkout, azure: Azure, capsys: pytest.CaptureFixture[str]
    ) -> None:
        azure.change(deleted=[deleted_vault()])

        assert checkout.run("before", answers=[False]) == 1

        said = capsys.readouterr().err
        assert "az keyvault purge --name kv-1 --location westeurope" in said
        assert azure.changes() == []

    def test_recovers_nothing_where_there_is_nobody_to_ask(
        self, checkout: Checkout, azure: Azure, capsys: pytest.CaptureFixture[str]
    ) -> None:
        azure.change(deleted=[deleted_vault(purgeProtectionEnabled=True)])

        assert checkout.run("before") == 1

        said = capsys.readouterr().err
        assert "az keyvault recover --name kv-1" in said
        assert "purge --name" not in said
        assert azure.changes() == []

    @pytest.mark.parametrize(
        "properties",
        [
            {"location": "northeurope"},
            {"vaultId": "/subscriptions/s/resourceGroups/rg-test/providers/Microsoft.KeyVault/vaults/kv-1"},
        ],
    )
    def test_leaves_the_deleted_vaults_of_others_alone(
        self, checkout: Checkout, azure: Azure, properties: dict[str, str]
    ) -> None:
        azure.change(deleted=[deleted_vault(**properties)])

        assert checkout.run("before", answers=[]) == 0

    def test_goes_on_where_deleted_vaults_may_not_be_listed(self, checkout: Checkout, azure: Azure) -> None:
        azure.refuse("keyvault list-deleted", "(AuthorizationFailed) The client does not have authorization")

        assert checkout.run("before") == 0


class TestAfter:
    def test_makes_what_the_app_needs(self, checkout: Checkout, azure: Azure) -> None:
        checkout.desire()

        assert checkout.run("after") == 0

        found = azure.read()
        assert set(found["certificates"]) == {"graph-notifications"}
        assert re.fullmatch("[0-9a-f]{64}", found["secrets"]["client-state"])
        assert found["secrets"]["client-state-previous"] == found["secrets"]["client-state"]
        assert found["blobs"] == {"subscriptions.toml": "[[callRecords]]\n"}

    def test_changes_nothing_when_run_again(self, checkout: Checkout, azure: Azure) -> None:
        checkout.desire()
        checkout.run("after")
        before, changes = azure.read(), azure.changes()

        assert checkout.run("after") == 0

        assert azure.read() == before
        assert azure.changes() == changes

    def test_uploads_a_desired_state_that_changed(self, checkout: Checkout, azure: Azure) -> None:
        checkout.desire()
        checkout.run("after")
        checkout.desire("[[callRecords]]\n# changed\n")

        checkout.run("after")

        assert azure.read()["blobs"] == {"subscriptions.toml": "[[callRecords]]\n# changed\n"}

    def test_finishes_what_an_interrupted_run_has_begun(self, checkout: Checkout, azure: Azure) -> None:
        azure.change(secrets={"client-state-previous": "left over"})

        checkout.run("after")

        made = azure.read()["secrets"]
        assert made["client-state-previous"] == made["client-state"] != "left over"

    def test_shows_the_secret_to_nobody(
        self, checkout: Checkout, azure: Azure, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkout.run("after")

        secret, said = azure.read()["secrets"]["client-state"], capsys.readouterr()
        assert secret not in said.out + said.err
        assert secret not in (azure.home / "calls").read_text()  # nor to those who list processes

    def test_asks_the_platform_to_look_the_references_up(self, checkout: Checkout, azure: Azure) -> None:
        checkout.run("after")

        changes = azure.changes()
        refresh = next(change for change in changes if change.startswith("post "))
        assert refresh.startswith(f"post {FUNCTION}/config/configreferences/appsettings/refresh")
        assert changes.index(refresh) > max(n for n, found in enumerate(changes) if found == "keyvault secret set")

    def test_asks_again_where_an_earlier_run_could_not(self, checkout: Checkout, azure: Azure) -> None:
        checkout.run("after")
        azure.change(references="SecretNotFound")

        checkout.run("after")

        assert azure.read()["references"] == "Resolved"

    def test_says_what_is_missing_outside_azd(
        self, checkout: Checkout, azure: Azure, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert checkout.run("after", AZURE_FUNCTION_ID="") == 1

        assert "AZURE_FUNCTION_ID not set: run this through azd" in capsys.readouterr().err
        assert azure.calls() == []

    def test_says_what_to_do_without_a_desired_state(
        self, checkout: Checkout, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkout.run("after", answers=[])

        assert "subscriptions.sample.toml" in capsys.readouterr().out

    def test_says_that_alerts_reach_nobody(self, checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
        checkout.run("after", ALERT_EMAIL="")

        assert "ALERT_EMAIL is not set" in capsys.readouterr().out


class TestRefusals:
    @pytest.mark.parametrize(
        ("command", "message"), [("keyvault certificate list", VAULT_ROLE), ("storage blob exists", STORAGE_ROLE)]
    )
    def test_waits_for_roles_to_take_effect(
        self, checkout: Checkout, azure: Azure, command: str, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkout.desire()
        azure.refuse(command, message, times=3)

        assert checkout.run("after") == 0

        assert checkout.pauses == [15, 15, 15]
        assert capsys.readouterr().out.count("Waiting") == 1

    def test_does_not_wait_for_roles_for_ever(
        self, checkout: Checkout, azure: Azure, capsys: pytest.CaptureFixture[str]
    ) -> None:
        azure.refuse("keyvault certificate list", VAULT_ROLE)
        checkout.hook.WAITS = 3  # of 39, which are ten minutes

        assert checkout.run("after") == 1

        assert "Caller is not authorized" in capsys.readouterr().err
        assert len(checkout.pauses) == 3

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("keyvault certificate list", VAULT_NETWORK),
            ("keyvault secret list", VAULT_FIREWALL),
            ("storage blob exists", STORAGE_NETWORK),
        ],
    )
    def test_does_not_take_the_network_for_a_role(
        self, checkout: Checkout, azure: Azure, command: str, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkout.desire()
        azure.refuse(command, message)

        assert checkout.run("after") == 1

        assert checkout.pauses == []
        assert "DEPLOYER_IP_ADDRESS" in capsys.readouterr().err

    def test_says_at_once_what_else_is_wrong(
        self, checkout: Checkout, azure: Azure, capsys: pytest.CaptureFixture[str]
    ) -> None:
        azure.refuse(
            "keyvault certificate create", "(Conflict) Certificate is currently in a deleted but recoverable state"
        )

        assert checkout.run("after") == 1

        assert checkout.pauses == []
        assert "deleted but recoverable" in capsys.readouterr().err


class TestGrant:
    COMMAND = f"grant --identity principal-1 --tenant {TENANT}"

    def test_is_made_where_it_is_wanted(self, checkout: Checkout) -> None:
        checkout.desire()

        assert checkout.run("after", answers=[True]) == 0

        assert checkout.grants() == [self.COMMAND]

    @pytest.mark.parametrize("answers", [None, [False]], ids=["no terminal", "declined"])
    def test_is_left_for_later(
        self, checkout: Checkout, answers: list[bool] | None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkout.desire()

        assert checkout.run("after", answers=answers) == 0

        assert checkout.grants() == []
        said = capsys.readouterr().out
        assert f"python3 run.py {self.COMMAND}" in said
        assert "up to 24 hours" in said

    def test_may_fail_without_stopping_the_deployment(
        self, checkout: Checkout, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkout.desire()
        (checkout.folder / "run.py").write_text(RUN.format(code=1))

        assert checkout.run("after", answers=[True]) == 0

        assert f"python3 run.py {self.COMMAND}" in capsys.readouterr().out


class TestAzureYaml:
    HOOKS = yaml.safe_load((ROOT / "azure.yaml").read_text())["hooks"]

    @pytest.mark.parametrize(("hook", "argument"), [("preprovision", "before"), ("postprovision", "after")])
    def test_runs_the_same_script_in_both_shells(self, hook: str, argument: str) -> None:
        runs = {self.HOOKS[hook][system]["run"] for system in ("posix", "windows")}

        assert runs == {f"{python} infra/hooks/provision.py {argument}" for python in ("python3", "python")}

    @pytest.mark.parametrize("hook", HOOKS)
    def test_may_ask(self, hook: str) -> None:
        assert all(found["interactive"] for found in self.HOOKS[hook].values())

    @pytest.mark.parametrize("arguments", [[], ["during"]])
    def test_the_script_says_how_it_is_used(self, arguments: list[str]) -> None:
        command = [sys.executable, "-S", str(HOOKS / "provision.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

        assert (done.returncode, done.stderr) == (2, "usage: provision.py before|after\n")

    def test_the_script_uses_what_the_template_puts_out(self) -> None:
        outputs = set(re.findall(r"^output (\w+) ", (ROOT / "infra" / "main.bicep").read_text(), re.MULTILINE))

        assert set(OUTPUTS) - {"ALERT_EMAIL"} <= outputs


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
