"""What `run.py lint` does with the Bicep templates, and how their snapshots are written anew.

    python -m dev.templates            compile and lint infra/main.bicep, and compare it with its snapshots
    python -m dev.templates --write    write the snapshots and the record anew: after every change below infra/

Compiler: `BICEP`, else `bicep` on PATH, else the Azure CLI's own (`az bicep install`). It is no part of the project:
tests read the snapshots, which say what each set of parameters in tests/infra deploys, and a digest over the sources
tells them when somebody forgot to write these anew. Source: "Bicep CLI commands" (`lint`, `build`, `snapshot`).
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

ROOT: Final = Path(__file__).resolve().parents[1]
INFRA: Final = ROOT / "infra"
MAIN: Final = INFRA / "main.bicep"
SNAPSHOTS: Final = ROOT / "tests" / "infra"
RECORD: Final = SNAPSHOTS / "record.json"
SUFFIXES: Final = (".bicep", ".json", ".kql")

# A version turns two years old by itself, which must stop nobody's deployment.
TOLERATED: Final = "use-recent-api-versions"
_NOWHERE: Final = (
    *("--subscription-id", "11111111-1111-1111-1111-111111111111"),
    *("--tenant-id", "99999999-9999-9999-9999-999999999999"),
    *("--location", "westeurope"),
)


class TemplateError(Exception):
    """The templates do not compile, or the compiler cannot be run; the message says where."""


@dataclass(frozen=True)
class Diagnostic:
    """What the compiler says of one place."""

    rule: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def find_compiler() -> Path | None:
    """The Bicep compiler of this machine, if it has one."""
    if named := os.environ.get("BICEP"):
        return Path(named)
    if found := shutil.which("bicep"):
        return Path(found)
    own = Path.home() / ".azure" / "bin" / ("bicep.exe" if os.name == "nt" else "bicep")
    return own if own.exists() else None


def sources_digest() -> str:
    """A digest over everything that the snapshots follow from, whatever ends its lines on this machine."""
    digest = hashlib.sha256()
    for path in sorted([*INFRA.rglob("*"), *SNAPSHOTS.glob("*.bicepparam")]):
        if path.suffix in (*SUFFIXES, ".bicepparam") and path.is_file():
            content = path.read_bytes().replace(b"\r\n", b"\n")
            digest.update(f"{path.relative_to(ROOT).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def parameter_sets() -> list[Path]:
    """The parameter files that there is a snapshot of."""
    return sorted(SNAPSHOTS.glob("*.bicepparam"))


class Compiler:
    """The Bicep compiler. It fetches nothing."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def version(self) -> str:
        """Like `0.49.2`.

        Raises:
            TemplateError: it cannot be run.
        """
        found = re.search(r"\d+\.\d+\.\d+", self._run("--version").stdout)
        if found is None:
            raise TemplateError(f"{self._program} does not say its version")
        return found[0]

    def lint(self, file: Path) -> list[Diagnostic]:
        """Everything that it says about a file and the modules that it uses.

        Raises:
            TemplateError: it cannot be run, or says nothing that can be read.
        """
        done = self._run("lint", "--no-restore", "--diagnostics-format", "sarif", str(file))
        try:
            results = json.loads(done.stdout)["runs"][0]["results"]
        except (ValueError, LookupError) as error:
            raise TemplateError(f"{self._program} lint: {done.stderr or done.stdout}") from error
        return sorted({_diagnostic(result) for result in results}, key=str)

    def dependencies(self, file: Path) -> dict[str, list[str]]:
        """For each module of a file, by its symbol, the modules that it waits for. All wait for the resource group.

        Raises:
            TemplateError: it does not compile.
        """
        done = self._run("build", "--no-restore", "--stdout", str(file))
        if done.returncode:
            raise TemplateError(done.stderr)
        resources = json.loads(done.stdout)["resources"]
        modules = {symbol for symbol, found in resources.items() if found["type"].endswith("/deployments")}
        return {symbol: sorted(modules & set(resources[symbol]["dependsOn"])) for symbol in sorted(modules)}

    def snapshot(self, parameters: Path, mode: str) -> bool:
        """Write the snapshot beside a parameter file (`overwrite`), or say whether it is current (`validate`).

        Raises:
            TemplateError: the parameters do not fit, or the templates do not compile.
        """
        done = self._run("snapshot", str(parameters), "--mode", mode, *_NOWHERE)
        if done.returncode and mode == "overwrite":
            raise TemplateError(done.stderr or done.stdout)
        return done.returncode == 0

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [self._program, *arguments], capture_output=True, encoding="utf-8", timeout=300, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TemplateError(f"{self._program} cannot be run: {error}") from error


def _diagnostic(result: dict[str, Any]) -> Diagnostic:
    location = result["locations"][0]["physicalLocation"]
    path = unquote(urlsplit(location["artifactLocation"]["uri"]).path)
    place = f"{path.rpartition('/infra/')[2]}:{location['region']['startLine']}"
    return Diagnostic(result["ruleId"], place, result["message"]["text"])


def write(compiler: Compiler) -> None:
    """Write every snapshot and the record anew.

    Raises:
        TemplateError: the templates do not compile, or a set of parameters does not fit.
    """
    for parameters in parameter_sets():
        compiler.snapshot(parameters, "overwrite")
        file = parameters.with_suffix(".snapshot.json")
        content = json.loads(file.read_text(encoding="utf-8"))
        content["outputs"] = dict(sorted(content["outputs"].items()))  # each run has them in another order
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    record = {
        "compiler": compiler.version(),
        "sources": sources_digest(),
        "dependsOn": compiler.dependencies(MAIN),
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check(compiler: Compiler) -> list[str]:
    """What is wrong with the templates or their snapshots, in lines; printed is what may stay.

    Raises:
        TemplateError: the compiler cannot be run.
    """
    found = compiler.lint(MAIN)
    for diagnostic in found:
        if diagnostic.rule == TOLERATED:
            print(f"infra: {diagnostic}")
    problems = [str(diagnostic) for diagnostic in found if diagnostic.rule != TOLERATED]
    recorded, version = json.loads(RECORD.read_text(encoding="utf-8"))["compiler"], compiler.version()
    if version != recorded:
        print(f"infra: Bicep {version} is here; the snapshots are by {recorded} and were not compared")
        return problems
    stale = [parameters.stem for parameters in parameter_sets() if not compiler.snapshot(parameters, "validate")]
    return problems + [f"the snapshot {name} is stale: python -m dev.templates --write" for name in stale]


def main() -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="dev.templates", description="Compile and lint the Bicep templates.")
    parser.add_argument("--write", action="store_true", help="write the snapshots anew")
    arguments = parser.parse_args()
    program = find_compiler()
    if program is None:
        print("infra: not compiled, there is no Bicep compiler here (BICEP, PATH, or az bicep install)")
        return 1 if arguments.write else 0
    try:
        if arguments.write:
            write(Compiler(program))
            return 0
        problems = check(Compiler(program))
    except TemplateError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"infra: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
