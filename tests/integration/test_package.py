"""What is deployed: the files that .funcignore leaves, on a host, from an empty directory."""

import ast
import importlib.metadata
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from dev.azurite import Azurite
from dev.host import HostProcess
from dev.package import files, write

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    archive = tmp_path_factory.mktemp("zip") / "switchboard.zip"
    write(ROOT, archive)
    with zipfile.ZipFile(archive) as found:
        found.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def host(package: Path, azurite: Azurite) -> Iterator[HostProcess]:
    env = {"AzureWebJobsStorage": azurite.connection_string, "PATH": os.environ["PATH"]}
    with HostProcess(package, env) as host:
        yield host


class TestFiles:
    def test_are_the_app_and_nothing_else(self) -> None:
        top = {path.partition("/")[0] for path in files(ROOT)}

        assert top - {"subscriptions.toml"} == {"function_app.py", "host.json", "requirements.txt", "shared"}

    def test_are_all_of_the_app(self) -> None:
        wanted = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "shared").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

        assert {path for path in files(ROOT) if path.startswith("shared/")} == wanted

    def test_hold_no_settings_of_this_machine(self, tmp_path: Path) -> None:
        shutil.copyfile(ROOT / ".funcignore", tmp_path / ".funcignore")
        for name in ("local.settings.json", ".azure/production/.env", ".env", ".switchboard/state.json", "host.json"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

        assert files(tmp_path) == ["host.json"]

    def test_make_the_same_package_every_time(self, tmp_path: Path) -> None:
        packages = [tmp_path / "a.zip", tmp_path / "b.zip"]
        for package in packages:
            write(ROOT, package)

        assert packages[0].read_bytes() == packages[1].read_bytes()


class TestImports:
    def test_need_no_package_that_is_not_required(self, package: Path) -> None:
        required = {
            re.split(r"[\[<>=]", line)[0].lower().replace("_", "-")
            for line in (package / "requirements.txt").read_text().splitlines()
            if line and not line.startswith("#")
        }

        assert {name: names for name, names in imports(package) if not names & required} == {}


def imports(package: Path) -> Iterator[tuple[str, set[str]]]:
    """Every module from elsewhere that the package imports, with the distributions that may bring it."""
    distributions = importlib.metadata.packages_distributions()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
                modules = [node.module]
            else:
                continue
            for module in modules:
                top = module.partition(".")[0]
                if top in sys.stdlib_module_names or top == "shared":
                    continue
                names = {name.lower().replace("_", "-") for name in distributions.get(top, ())}
                if top in {
                    "azure",
                    "opentelemetry",
                }:  # shared by many: the name of the distribution follows the module's
                    names = {name for name in names if module.replace(".", "-").startswith(name)}
                    names |= {"azure-functions"} if module.startswith("azure.functions") else set()
                    names |= {"azure-identity"} if module.startswith("azure.core") else set()  # comes with it
                    names |= {"opentelemetry-api"} if module.startswith("opentelemetry") else set()
                yield f"{path.name}: {module}", names


class TestStart:
    def test_lists_its_functions(self, host: HostProcess) -> None:
        for function in ("receive_notifications", "decrypt_notifications", "renew_subscriptions", "health"):
            assert function in host.output

    def test_answers_the_handshake_before_it_is_configured(self, host: HostProcess) -> None:
        answer = requests.post(
            f"{host.url}/api/notifications", params={"validationToken": "Validation: a b"}, timeout=10
        )

        assert (answer.status_code, answer.text) == (200, "Validation: a b")

    def test_says_which_settings_are_missing(self, host: HostProcess) -> None:
        answer = requests.get(f"{host.url}/api/health", timeout=10)

        problems = " ".join(answer.json()["checks"]["settings"]["problems"])
        assert answer.status_code == 503
        assert "KEY_VAULT_URL" in problems
        assert "AzureWebJobsStorage" not in problems
