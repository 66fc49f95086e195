"""docs/deploy.md followed word for word, as far as that goes without a subscription."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dev.package import FOLDER
from infra import graph_permissions, operator_settings
from tests.integration import azure_cli
from tests.integration.azure_cli import TENANT, Azure

ROOT = Path(__file__).parents[2]
CHECKOUT = (
    *(
        "run.py",
        "pyproject.toml",
        "function_app.py",
        "host.json",
        "requirements.lock",
        "azure.yaml",
        "subscriptions.sample.toml",
    ),
    *("dev/__init__.py", "dev/package.py", "infra/hooks/provision.py", "infra/hooks/certificate-policy.json", "shared"),
)
OUTPUTS = {
    "AZURE_TENANT_ID": TENANT,
    "AZURE_RESOURCE_GROUP": "rg-production",
    "AZURE_FUNCTION_NAME": "func-1",
    "AZURE_FUNCTION_ID": "/subscriptions/s/resourceGroups/rg-production/providers/Microsoft.Web/sites/func-1",
    "AZURE_IDENTITY_PRINCIPAL_ID": "principal-1",
    "AZURE_KEY_VAULT_NAME": "kv-1",
    "AZURE_STORAGE_ACCOUNT": "st1",
    "CERTIFICATE_NAME": "graph-notifications",
}
# In the place of python3: the grant is made elsewhere (test_infra_permissions), everything else runs.
PYTHON = """\
#!/bin/sh
case "$1 $2" in
"run.py grant") echo "$*" >>"{home}/calls"; exit 0 ;;
*) exec "{python}" -S "$@" ;;
esac
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-ins for azd and the Azure CLI are POSIX scripts")


@dataclass
class Operator:
    """Somebody with a fresh checkout, azd and the Azure CLI."""

    checkout: Path
    home: Path
    azure: Azure

    def follow(self, section: str) -> subprocess.CompletedProcess[str]:
        """Run the code blocks of a section of the guide, one after the other, until one fails."""
        text = (ROOT / "docs" / "deploy.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        script = "set -e\n" + "\n".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        env = {"PATH": f"{self.home / 'bin'}{os.pathsep}{self.azure.path}", "HOME": str(self.home)}
        command = ["sh", "-c", script]
        return subprocess.run(
            command, cwd=self.checkout, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    def steps(self) -> list[str]:
        return (self.home / "calls").read_text().splitlines()


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    for name in CHECKOUT:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, checkout / name)
    (home / "bin").mkdir(parents=True)
    (home / "outputs.json").write_text(json.dumps(OUTPUTS))
    azd = Path(__file__).with_name("azd_program.py")
    for name, text in {
        "azd": f'#!/bin/sh\nexec "{sys.executable}" "{azd}" "{home}" "$@"\n',
        "python3": PYTHON.format(home=home, python=sys.executable),
    }.items():
        (home / "bin" / name).write_text(text)
        (home / "bin" / name).chmod(0o755)
    return Operator(checkout, home, azure_cli.install(tmp_path / "azure"))


class TestDeploy:
    def test_leads_from_a_clone_to_a_deployed_app_with_its_permissions_before_its_code(
        self, operator: Operator
    ) -> None:
        done = operator.follow("Deploy")

        assert done.returncode == 0, done.stderr
        assert "westeurope" in done.stdout  # among the regions that it lists
        azure = operator.azure.read()
        assert set(azure["certificates"]) == {"graph-notifications"}
        assert set(azure["secrets"]) == {"client-state", "client-state-previous"}
        assert azure["blobs"]["subscriptions.toml"] == (ROOT / "subscriptions.sample.toml").read_text()
        assert (operator.checkout / FOLDER / "function_app.py").exists()
        steps = [step for step in operator.steps() if step in {"azd provision", "azd deploy"} or "grant" in step]
        assert steps == ["azd provision", f"run.py grant --identity principal-1 --tenant {TENANT}", "azd deploy"]

    def test_stops_before_anything_is_made_in_a_region_without_the_plan(self, operator: Operator) -> None:
        operator.azure.change(regions=["northeurope"])

        done = operator.follow("Deploy")

        assert done.returncode != 0
        assert "westeurope has no Flex Consumption plan" in done.stderr
        assert operator.azure.changes() == []
        assert not any("grant" in step for step in operator.steps())

    def test_stops_where_the_two_tools_are_in_two_tenants(self, operator: Operator) -> None:
        operator.azure.change(tenant="88888888-8888-8888-8888-888888888888")

        done = operator.follow("Deploy")

        assert done.returncode != 0
        assert f"az login --tenant {TENANT}" in done.stderr
        assert operator.azure.read()["secrets"] == {}


# In the place of whatever a page calls: it notes the call, makes the file that it is told to write, and answers a word.
RECORDER = """\
#!/bin/sh
echo "${{0##*/}} $*" >>"{home}/calls"
for argument; do
    [ "$before" = --file ] && : >"$argument"
    before=$argument
done
echo word
"""


class TestRunbook:
    """The blocks of docs/operations.md, as a shell reads them. What `az` says of its own, `run.py lint --az` asks."""

    @pytest.fixture
    def calls(self, tmp_path: Path) -> list[list[str]]:
        home, checkout = tmp_path / "home", tmp_path / "checkout"
        for folder in (home / "bin", checkout / ".venv" / "bin", checkout / "dist", checkout / "backup"):
            folder.mkdir(parents=True)
        (checkout / "dist" / "switchboard.zip").touch()
        programs = [home / "bin" / name for name in ("az", "azd", "curl", "openssl", "python", "python3")]
        for program in (*programs, checkout / ".venv" / "bin" / "python"):
            program.write_text(RECORDER.format(home=home))
            program.chmod(0o755)
        text = (ROOT / "docs" / "operations.md").read_text()
        env = {"PATH": f"{home / 'bin'}{os.pathsep}/usr/bin:/bin", "HOME": str(home), "version": "v1"}
        for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            command = ["sh", "-eu", "-c", block]
            done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (block, done.stderr)
        return [line.split() for line in (home / "calls").read_text().splitlines()]

    def test_every_block_runs(self, calls: list[list[str]]) -> None:
        assert {"az", "azd", "curl", "openssl", "python", "python3"} == {call[0] for call in calls}

    def test_what_is_ours_knows_the_options_that_it_is_given(self, calls: list[list[str]]) -> None:
        commands = {"infra.operator_settings": operator_settings.main, "grant": graph_permissions.main}
        seen = set()
        for _, *arguments in (call for call in calls if call[0].startswith("python")):
            name, *options = arguments[1:]
            seen.add(name)
            if name in commands:
                app = typer.Typer()
                app.command()(commands[name])
                assert CliRunner().invoke(app, [*options, "--help"]).exit_code == 0, arguments
        assert seen - {"subscriptions"} == {*commands, "package"}  # what manage.py makes of its own: test_manage
