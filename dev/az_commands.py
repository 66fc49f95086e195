"""`run.py lint --az`: every `az` command of documents and hooks, read by the Azure CLI's own parser.

The parser knows every command and option of its version, and refuses others before it asks for a login; nothing is
run. The Azure CLI is installed from PyPI into an environment of its own (.switchboard/az), 700 MB, when first needed.
"""

import argparse
import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
LOCK: Final = ROOT / "dev" / "az" / "requirements.lock"
PARSER: Final = ROOT / "dev" / "az" / "parse.py"
ENVIRONMENT: Final = ROOT / ".switchboard" / "az"

PAGES: Final = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "docs/*.md")
# The functions that run the Azure CLI in infra/, by what they add to the arguments that they are given.
_HOOK: Final = ("--subscription", "x", "--output", "json")
RUNNERS: Final = {"azure": ("--output", "json"), "az": _HOOK, "patiently": _HOOK}
_ANYTHING: Final = "x"


@dataclass(frozen=True)
class Command:
    """A command with its place. `arguments` is without `az`; what is only known when it runs is an `x`."""

    place: str
    arguments: tuple[str, ...]


def in_page(text: str, name: str) -> Iterator[Command]:
    """The commands in the code blocks of a Markdown page, those inside `$(…)` too."""
    for block in re.finditer(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, block.start(1)) + 1
        code = block[1]
        for start in re.finditer(r"(?:^|\$\(|[|;&] )\s*az (?=\w)", code, re.MULTILINE):
            place = f"{name}:{line + code.count(chr(10), 0, start.end())}"
            yield Command(place, tuple(shlex.split(_one_command(code[start.end() :]))))


def _one_command(code: str) -> str:
    """Shell code up to the end of its first command, with what is substituted replaced."""
    found, quote, at = "", "", 0
    while at < len(code):
        char = code[at]
        if code.startswith("\\\n", at):
            found, at = found + " ", at + 2
        elif code.startswith("$(", at):
            found, at = found + _ANYTHING, _after_parenthesis(code, at + 2)
        elif char == "$" and quote != "'" and (name := re.match(r"\$\{?\w+\}?", code[at:])):
            found, at = found + _ANYTHING, at + name.end()
        elif not quote and char in "\n|;&>)":
            break
        else:
            if char in "'\"" and quote in ("", char):
                quote = "" if quote else char
            found, at = found + char, at + 1
    return found


def _after_parenthesis(code: str, at: int) -> int:
    depth = 1
    while depth:
        depth += {"(": 1, ")": -1}.get(code[at], 0)
        at += 1
    return at


def in_script(text: str, name: str) -> Iterator[Command]:
    """The commands that a Python script hands to one of `RUNNERS`; `*options` is what the tuple of that name holds."""
    tree = ast.parse(text)
    tuples = {
        node.targets[0].id: node.value.elts
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Tuple)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        function = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if function in RUNNERS:
            spread = [tuples[ast.unparse(a.value)] if isinstance(a, ast.Starred) else [a] for a in node.args]
            values = [str(a.value) if isinstance(a, ast.Constant) else _ANYTHING for part in spread for a in part]
            yield Command(f"{name}:{node.lineno}", (*values, *RUNNERS[function]))


def commands(root: Path) -> list[Command]:
    """Every command of the documents and of the scripts below infra/."""
    found: list[Command] = []
    for page in sorted(path for pattern in PAGES for path in root.glob(pattern)):
        found += in_page(page.read_text(encoding="utf-8"), page.relative_to(root).as_posix())
    for script in sorted((root / "infra").rglob("*.py")):
        found += in_script(script.read_text(encoding="utf-8"), script.relative_to(root).as_posix())
    return found


def verdicts(python: Path, found: list[Command]) -> list[str]:
    """What the Azure CLI's parser says of each command, empty where it accepts it."""
    with tempfile.TemporaryDirectory() as home:
        env = os.environ | {"AZURE_CONFIG_DIR": home, "AZURE_CORE_COLLECT_TELEMETRY": "false"}
        done = subprocess.run(
            [python, PARSER],
            input=json.dumps([command.arguments for command in found]),
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=env,
            check=True,
        )
    return list(json.loads(done.stdout))


def install() -> Path:
    """The Python of an environment that has the locked Azure CLI; nothing happens if it is there already."""
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    record = ENVIRONMENT / "installed.lock"
    if not record.exists() or record.read_bytes() != LOCK.read_bytes():
        print("Installing the Azure CLI ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        options = ["--quiet", "--require-hashes", "--no-deps", "--no-input"]
        subprocess.run([python, "-m", "pip", "install", *options, "-r", LOCK], check=True)
        record.write_bytes(LOCK.read_bytes())
    return python


def main() -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="run.py lint", description="Lint code, templates and documents.")
    parser.add_argument("--az", action="store_true", help="let the Azure CLI read what documents and hooks tell it")
    if not parser.parse_args().az:
        return 0
    found = commands(ROOT)
    try:
        said = verdicts(install(), found)
    except subprocess.CalledProcessError as error:
        sys.exit(f"az: {error}")
    refused = [(command, words) for command, words in zip(found, said, strict=True) if words]
    for command, words in refused:
        print(f"{command.place}: az {shlex.join(command.arguments)}\n{words}", file=sys.stderr)
    print(f"az: {len(found)} commands, {len(refused)} refused")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
