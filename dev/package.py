"""The deployment package: what .funcignore leaves of this checkout, as a zip file.

    python -m dev.package dist/switchboard.zip

`azd deploy` and `func azure functionapp publish` make the same for themselves; this is for pipelines that deploy a
file. Packages of requirements.txt are not in it: the platform installs them (a remote build).
"""

import os
import sys
import zipfile
from pathlib import Path

import pathspec

ROOT = Path(__file__).resolve().parents[1]


def files(root: Path) -> list[str]:
    """Paths, relative to the checkout and with slashes, of the files that a deployment takes from it."""
    ignored = pathspec.GitIgnoreSpec.from_lines((root / ".funcignore").read_text(encoding="utf-8").splitlines())
    found = []
    for folder, names, leaves in os.walk(root):
        relative = Path(folder).relative_to(root)
        names[:] = [name for name in names if not ignored.match_file(f"{(relative / name).as_posix()}/")]
        found += [(relative / leaf).as_posix() for leaf in leaves]
    return sorted(path for path in found if not ignored.match_file(path))


def write(root: Path, target: Path) -> int:
    """Write the package and return how many files are in it. The same files always make the same bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    paths = files(root)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as package:
        for path in paths:
            package.writestr(zipfile.ZipInfo(path), (root / path).read_bytes(), zipfile.ZIP_DEFLATED)
    return len(paths)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].endswith(".zip"):
        sys.exit("usage: python -m dev.package FILE.zip")
    print(f"{sys.argv[1]}: {write(ROOT, Path(sys.argv[1]))} files")
