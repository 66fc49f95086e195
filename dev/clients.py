"""`python3 run.py package --clients`: what consumers install, in dist/: a wheel for Python and a package for npm.

    python -m dev.clients TARGET

The wheel holds the app's own module of the types; those of TypeScript are made from the bundle of the schemas.
"""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from dev.azurite import node

ROOT: Final = Path(__file__).parents[1]
PYTHON: Final = ROOT / "clients" / "python"
TYPESCRIPT: Final = ROOT / "clients" / "typescript"
BUNDLE: Final = ROOT / "docs" / "schemas" / "bundle.json"
NODE_MODULES: Final = ROOT / "dev" / "node" / "node_modules"
_JSON2TS: Final = NODE_MODULES / "json-schema-to-typescript" / "dist" / "src" / "cli.js"
TSC: Final = NODE_MODULES / "typescript" / "bin" / "tsc"


class BuildError(Exception):
    """A client cannot be built; the message is what the tool said."""


def build_wheel(target: Path) -> Path:
    """Build the Python client into a folder; returns the wheel.

    Raises:
        BuildError: see there.
    """
    _run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", target, cwd=PYTHON)
    (wheel,) = target.glob("switchboard_events-*.whl")
    return wheel


def build_npm_package(target: Path) -> Path:
    """Build the TypeScript client into a folder; returns the package.

    Raises:
        BuildError: see there.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "package"
        shutil.copytree(TYPESCRIPT, work)
        shutil.copy(ROOT / "LICENSE", work)
        # Unknown properties are allowed, but an index signature for them would hide typing errors.
        options = ("--no-additionalProperties", "--unreachableDefinitions")
        _run(node(), _JSON2TS, "--input", BUNDLE, "--output", work / "src" / "events.ts", *options)
        _run(node(), TSC, "--project", work)
        manifest = json.loads((work / "package.json").read_text("utf-8"))
        package = target / f"{manifest['name']}-{manifest['version']}.tgz"
        with tarfile.open(package, "w:gz") as archive:
            for path in (
                *map(work.joinpath, ("package.json", "README.md", "LICENSE")),
                *sorted((work / "dist").iterdir()),
            ):
                _add(archive, path.relative_to(work.parent).as_posix(), path.read_bytes())
    return package


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Without date and owner: the same checkout makes the same content."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _run(*command: str | Path, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{Path(command[1]).name} failed: {done.stdout.strip() or done.stderr.strip()}")


def main(target: Path) -> int:
    """Build both; 0 if they could be built."""
    target.mkdir(exist_ok=True)
    for old in (*target.glob("switchboard_events-*.whl"), *target.glob("switchboard-events-*.tgz")):
        old.unlink()
    try:
        print(build_wheel(target))
        print(build_npm_package(target))
    except BuildError as error:
        print(f"run.py package: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
