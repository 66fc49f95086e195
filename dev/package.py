"""`python3 run.py package`: what is deployed, as the folder dist/app and as dist/switchboard.zip.

azd packs the folder (azure.yaml: `dist`), a pipeline may deploy the file; both hold the same bytes. Standard library
only, Python 3.9 or newer: azd runs this on whatever machine deploys, before anything is set up.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "dist/app"
ARCHIVE = "dist/switchboard.zip"

SINGLE_FILES = ("function_app.py", "host.json")
APP_FOLDER = "shared"
APP_SUFFIXES = (".py", ".css", ".html")
LOCK = "requirements.lock"  # becomes requirements.txt, the name that a remote build installs

_MODE = 0o644
_REGULAR_FILE = 0o100000


class PackageError(Exception):
    """The package cannot be made, or is not what it has to be; the message says why, in one line."""


def contents(root: Path) -> dict[str, bytes]:
    """Every file of the package by its path in it (with slashes), in order.

    Raises:
        PackageError: the app's folder holds a file of a kind that the app does not use.
    """
    found = {name: (root / name).read_bytes() for name in SINGLE_FILES}
    found["requirements.txt"] = (root / LOCK).read_bytes()
    for path in (root / APP_FOLDER).rglob("*"):
        if path.is_dir() or "__pycache__" in path.parts:
            continue
        name = path.relative_to(root).as_posix()
        if path.suffix not in APP_SUFFIXES:
            raise PackageError(f"{name} is no part of the app: take it away, or name its suffix in dev/package.py")
        found[name] = path.read_bytes()
    return dict(sorted(found.items()))


def write(root: Path, target: Path) -> int:
    """Write the folder and the zip file of it under `target`; return how many files are in each.

    The same checkout always makes the same bytes: dates are left out, and every file may be read by everybody and
    run by nobody.

    Raises:
        PackageError: see `contents`.
    """
    files = contents(root)
    folder, archive = target / FOLDER, target / ARCHIVE
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(_MODE)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as package:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (_REGULAR_FILE | _MODE) << 16
            package.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return len(files)
