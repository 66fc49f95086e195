"""`python3 run.py audit`: known vulnerabilities, licences, and a bill of materials of what is shipped.

The vulnerability check asks the advisory service of the Python package index; the other two need no network.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from cyclonedx.contrib.hash.factories import HashTypeFactory
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT: Final = Path(__file__).parents[1]
LOCK: Final = ROOT / "requirements.lock"
SBOM: Final = ROOT / "sbom.json"

# Each alternative of a licence expression must consist of these: they let a closed product ship the package unchanged.
ALLOWED: Final = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "MIT",
        "MIT-0",
        "MPL-2.0",
        "PSF-2.0",
        "Unlicense",
        "Zlib",
    }
)
# What packages wrote before there were licence expressions, by the start of the text or by classifier.
_OLDER_WORDS: Final = {
    "apache": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "isc": "ISC",
    "mozilla public license 2.0": "MPL-2.0",
    "mpl-2.0": "MPL-2.0",
    "python software foundation": "PSF-2.0",
    "psf": "PSF-2.0",
}
_PINNED: Final = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?P<marker>[^\\\n]*)")
_HASH: Final = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_WORD: Final = re.compile(r"[A-Za-z0-9.+-]+")


@dataclass(frozen=True)
class Package:
    """A locked package. `licence` is an SPDX expression, or what it says of itself, or None if it is not installed."""

    name: str
    version: str
    hashes: tuple[str, ...]
    licence: str | None


def locked(text: str) -> list[Package]:
    """The packages of a lock file."""
    found = []
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        match = _PINNED.match(block)
        if match:
            hashes = tuple(_HASH.findall(block))
            found.append(Package(match["name"], match["version"], hashes, licence_of(match["name"])))
    return found


def licence_of(name: str) -> str | None:
    """The licence that an installed package states; None for one that is for other platforms."""
    try:
        metadata = distribution(name).metadata
    except PackageNotFoundError:
        return None
    expression = metadata.get("License-Expression")
    if expression:
        return expression
    classifiers = (
        value.rpartition(" :: ")[2] for value in metadata.get_all("Classifier") or () if "License ::" in value
    )
    stated = [metadata.get("License") or "", *classifiers]
    for text in stated:
        for words, identifier in _OLDER_WORDS.items():
            if text.strip().lower().startswith(words):
                return identifier
    return next((text for text in stated if text), "not stated")


def is_allowed(licence: str) -> bool:
    """Whether every licence that an expression names is allowed, or for ``OR``, those of one side."""
    sides = licence.replace("(", " ").replace(")", " ").split(" OR ")
    return any(all(word in ALLOWED for word in _WORD.findall(side) if word not in {"AND", "WITH"}) for side in sides)


def bill_of_materials(packages: list[Package]) -> str:
    """CycloneDX 1.6, JSON."""
    hashes, licences = HashTypeFactory(), LicenseFactory()
    app = Component(name="switchboard", type=ComponentType.APPLICATION)
    bom = Bom()
    bom.metadata.component = app
    libraries = []
    for package in packages:
        purl = PackageURL("pypi", name=package.name, version=package.version)
        libraries.append(
            Component(
                name=package.name,
                version=package.version,
                type=ComponentType.LIBRARY,
                bom_ref=str(purl),
                purl=purl,
                hashes=[hashes.from_composite_str(value) for value in package.hashes[:1]],
                licenses=[] if package.licence is None else [licences.make_from_string(package.licence)],
            )
        )
    bom.components.update(libraries)
    bom.register_dependency(app, libraries)
    return JsonV1Dot6(bom).output_as_string(indent=2)


def vulnerabilities(lock: Path) -> int:
    """Ask for known vulnerabilities of everything in a lock file; returns pip-audit's exit code."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--strict",
        "--require-hashes",
        "--disable-pip",
        "--progress-spinner",
        "off",
    ]
    return subprocess.run([*command, "--requirement", str(lock)], cwd=ROOT, check=False).returncode


def main() -> int:
    """Run all three, and return 1 where one of them finds something."""
    parser = argparse.ArgumentParser(prog="run.py audit", description=__doc__)
    parser.add_argument("--offline", action="store_true", help="leave the vulnerabilities out")
    arguments = parser.parse_args()
    packages = locked(LOCK.read_text(encoding="utf-8"))
    SBOM.write_text(bill_of_materials(packages) + "\n", encoding="utf-8")
    print(f"{len(packages)} packages are shipped; {SBOM.name} lists them")
    problems = [
        f"{package.name} {package.version}: {package.licence}"
        for package in packages
        if package.licence is not None and not is_allowed(package.licence)
    ]
    print("their licences are all allowed" if not problems else "licences that are not on the list:")
    for problem in problems:
        print(f"  {problem}")
    code = 0 if arguments.offline else vulnerabilities(LOCK)
    return int(bool(problems) or code != 0)


if __name__ == "__main__":
    sys.exit(main())
