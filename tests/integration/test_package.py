"""What is deployed: the package, on a host, from a directory of its own."""

import ast
import contextlib
import importlib.metadata
import itertools
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from dev.azurite import Azurite
from dev.host import HostProcess
from dev.package import ARCHIVE, FOLDER, PackageError, write

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that azd packs."""
    target = tmp_path_factory.mktemp("package")
    write(ROOT, target)
    return target / FOLDER


@pytest.fixture(scope="module")
def host(package: Path, azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    app = tmp_path_factory.mktemp("host") / "app"  # to be written to: Python keeps what it compiles
    shutil.copytree(package, app)
    env = {"AzureWebJobsStorage": azurite.connection_string, "PATH": os.environ["PATH"]}
    with HostProcess(app, env) as host:
        yield host


class TestFiles:
    def test_are_the_app_and_nothing_else(self, package: Path) -> None:
        assert {path.name for path in package.iterdir()} == {
            "function_app.py",
            "host.json",
            "requirements.txt",
            "shared",
        }

    def test_are_all_of_the_app(self, package: Path) -> None:
        wanted, found = (
            {
                path.relative_to(root).as_posix()
                for path in (root / "shared").rglob("*")
                if path.is_file() and "__pycache__" not in path.parts
            }
            for root in (ROOT, package)
        )

        assert found == wanted

    def test_are_the_same_in_the_zip_file(self, package: Path) -> None:
        with zipfile.ZipFile(package.parents[1] / ARCHIVE) as archive:
            zipped = {name: archive.read(name) for name in archive.namelist()}
            modes = {entry.external_attr >> 16 for entry in archive.infolist()}

        assert zipped == {path.relative_to(package).as_posix(): path.read_bytes() for path in files(package)}
        assert modes == {0o100644}

    @pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")
    def test_may_be_read_by_everybody_and_run_by_nobody(self, package: Path) -> None:
        assert {stat.S_IMODE(path.stat().st_mode) for path in files(package)} == {0o644}

    def test_make_the_same_package_every_time(self, package: Path, tmp_path: Path) -> None:
        write(ROOT, tmp_path)

        assert (tmp_path / ARCHIVE).read_bytes() == (package.parents[1] / ARCHIVE).read_bytes()

    def test_replace_those_of_the_last_package(self, tmp_path: Path) -> None:
        (tmp_path / FOLDER).mkdir(parents=True)
        (tmp_path / FOLDER / "subscriptions.toml").touch()

        write(ROOT, tmp_path)

        assert not (tmp_path / FOLDER / "subscriptions.toml").exists()

    def test_of_a_kind_that_the_app_does_not_use_are_refused(self, tmp_path: Path) -> None:
        for name in ("function_app.py", "host.json", "requirements.lock", "shared/local.settings.json"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()

        with pytest.raises(PackageError, match=r"shared/local\.settings\.json is no part of the app"):
            write(tmp_path, tmp_path)

    def test_need_nothing_but_the_standard_library_to_be_made(self, tmp_path: Path) -> None:
        for name in (
            "run.py",
            "pyproject.toml",
            "function_app.py",
            "host.json",
            "requirements.lock",
            "shared",
            "dev/__init__.py",
            "dev/package.py",
        ):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copy(ROOT / name, tmp_path / name)

        command = [sys.executable, "-E", "-s", "-S", str(tmp_path / "run.py"), "package"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

        assert done.returncode == 0, done.stderr
        assert (tmp_path / FOLDER / "function_app.py").exists()

    def test_are_what_azd_packs(self) -> None:
        service = yaml.safe_load((ROOT / "azure.yaml").read_text())["services"]["app"]

        assert service["project"] == "."
        assert service["dist"] == FOLDER
        assert all("run.py package" in hook["run"] for hook in service["hooks"]["prepackage"].values())


class TestRequirements:
    def test_are_the_lock_with_its_hashes(self, package: Path) -> None:
        assert (package / "requirements.txt").read_bytes() == (ROOT / "requirements.lock").read_bytes()

    def test_leave_out_what_only_operators_need(self, package: Path) -> None:
        assert {"typer", "rich"} & distributions(package) == set()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def distributions(package: Path) -> set[str]:
    """The names of what the package requires."""
    return set(re.findall(r"^([\w.-]+)==", (package / "requirements.txt").read_text(), re.MULTILINE))


class TestImports:
    def test_need_no_package_that_is_not_required(self, package: Path) -> None:
        brought = set(modules_of(distributions(package)))

        assert set(imports(package)) - brought - sys.stdlib_module_names == set()


def imports(package: Path) -> Iterator[str]:
    """Every module from elsewhere that the package imports; of the standard library's, the first name."""
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
                if top != "shared":
                    yield top if top in sys.stdlib_module_names else module


def modules_of(distributions: set[str]) -> Iterator[str]:
    """The modules and packages that distributions bring, those that are not for this system aside."""
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for path in importlib.metadata.files(name) or ():
                if path.suffix in {".py", ".so", ".pyd"}:
                    parts = [*path.parts[:-1], path.name.partition(".")[0]]
                    yield from map(".".join, itertools.accumulate(([part] for part in parts), list.__add__))


class TestStart:
    def test_lists_its_functions(self, host: HostProcess) -> None:
        for function in ("receive_notifications", "decrypt_notifications", "renew_subscriptions", "health"):
            assert function in host.output

    def test_answers_the_handshake_before_it_is_configured(self, host: HostProcess) -> None:
        answer = requests.post(
            f"{host.url}/api/notifications", params={"validationToken": "Validation: a b"}, timeout=90
        )

        assert (answer.status_code, answer.text) == (200, "Validation: a b")

    def test_says_which_settings_are_missing(self, host: HostProcess) -> None:
        told = requests.get(f"{host.url}/api/health", timeout=90)
        assert (told.status_code, told.text) == (503, "failing")

        answer = requests.get(f"{host.url}/api/status", headers=host.key_header, timeout=90)
        assert answer.status_code == 503
        assert "KEY_VAULT_URL" in answer.text
        assert "AzureWebJobsStorage" not in answer.text
