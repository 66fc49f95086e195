"""The last step of `python3 run.py package --check`: is what was installed from the package what Azure can run?

Run by the Python of an empty environment, in which nothing is installed but the package's own requirements, and from a
folder that holds no other code than this and the local host.
"""

import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from dev.host import HostProcess

# The image for Python 3.13 is built on Debian 12 (azure-functions-docker, host/4/bookworm/python/python313).
IMAGE_GLIBC = (2, 36)
_OLDER_NAMES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_TOKEN = "Validation: Testing client application reachability"
# Storage that refuses every connection: the app has to load and to answer Graph's handshake without it.
_NO_STORAGE = "DefaultEndpointsProtocol=http;AccountName=none;AccountKey=bm9uZQ==;" + "".join(
    f"{service}Endpoint=http://127.0.0.1:1/none;" for service in ("Blob", "Queue")
)


class CheckError(Exception):
    """What was installed is not what Azure can run; the message says why."""


def unusable(tags: list[str]) -> bool:
    """Whether none of a wheel's tags (`cp313-cp313-manylinux_2_28_x86_64`) is for the image."""
    return not any(_fits(tag.rpartition("-")[2]) for tag in tags)


def _fits(platform: str) -> bool:
    if platform == "any":
        return True
    if not platform.endswith("_x86_64"):
        return False
    name = platform.removesuffix("_x86_64")
    if match := re.fullmatch(r"manylinux_(\d+)_(\d+)", name):
        return (int(match[1]), int(match[2])) <= IMAGE_GLIBC
    return _OLDER_NAMES.get(name, (sys.maxsize,)) <= IMAGE_GLIBC


def wheels(packages: Path) -> Iterator[tuple[str, list[str]]]:
    """Each installed distribution (`msgspec-0.22.0`) with the tags of the wheel that it came from."""
    for path in sorted(packages.glob("*.dist-info/WHEEL")):
        tags = re.findall(r"^Tag: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        yield path.parent.name.removesuffix(".dist-info"), tags


def start(app: Path, packages: Path) -> int:
    """Start the app and ask for Graph's handshake; return how many functions it has.

    Raises:
        CheckError: a function is missing, or the handshake was not answered.
    """
    wanted = set(re.findall(r'function_name\("(\w+)"\)', (app / "function_app.py").read_text(encoding="utf-8")))
    settings = {"AzureWebJobsStorage": _NO_STORAGE, "SELFTEST_SCHEDULE": "0 0 3 * * *"}  # without it, one less
    with HostProcess(app, {"PYTHONPATH": str(packages), **settings}) as host:
        missing = {name for name in wanted if f"{name}: " not in host.output}
        if missing or not wanted:
            raise CheckError(f"not loaded: {', '.join(sorted(missing)) or 'any function'}\n{host.logs}")
        query = urllib.parse.urlencode({"validationToken": _TOKEN})
        request = urllib.request.Request(f"{host.url}/api/notifications?{query}", method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.read().decode() != _TOKEN:
                raise CheckError("the handshake was not answered with its token")
    return len(wanted)


def check(app: Path, packages: Path) -> None:
    """Look at what is installed in `packages` and start the app in `app` on it.

    Raises:
        CheckError: Azure could not run it.
    """
    installed = dict(wheels(packages))
    refused = [f"{name} ({', '.join(tags)})" for name, tags in installed.items() if unusable(tags)]
    if refused or not installed:
        raise CheckError(f"no wheel for the image (glibc {IMAGE_GLIBC[0]}.{IMAGE_GLIBC[1]}): {', '.join(refused)}")
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    functions = start(app, packages)
    print(f"{len(installed)} packages, {size / 1e6:.0f} MB, {functions} functions: the package installs and starts")


if __name__ == "__main__":
    try:
        check(Path(sys.argv[1]), Path(sys.argv[2]))
    except CheckError as error:
        sys.exit(f"run.py package: {error}")
