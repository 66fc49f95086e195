"""An azd that keeps its environment in a file and runs the hooks of azure.yaml in its order, as the real one does.

Source: azd's documentation of hooks and its sources of August 2026. A hook that is no file runs inline in its shell,
with the environment's values, in the project's folder; `azd deploy` packages first, and packs the folder that `dist`
names.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

HOME = Path(sys.argv[1])
ENVIRONMENT = HOME / "environment.json"
OUTPUTS = json.loads((HOME / "outputs.json").read_text())


def values() -> dict[str, str]:
    return dict(json.loads(ENVIRONMENT.read_text()))


def keep(**changes: str) -> None:
    ENVIRONMENT.write_text(json.dumps(values() | changes))


def hook(hooks: dict[str, dict], name: str) -> None:
    run = hooks[name]["posix"]
    assert run["shell"] == "sh"
    done = subprocess.run(["sh", "-c", run["run"]], env=os.environ | values(), check=False)
    if done.returncode:
        sys.exit(f"ERROR: '{name}' hook failed with exit code: '{done.returncode}'")


def main(arguments: list[str]) -> None:
    with (HOME / "calls").open("a") as calls:
        calls.write(f"azd {' '.join(arguments[:2])}\n")
    project = yaml.safe_load(Path("azure.yaml").read_text())
    match arguments:
        case ["auth", "login"]:
            return
        case ["env", "new", name, "--subscription", subscription, "--location", location]:
            found = {"AZURE_ENV_NAME": name, "AZURE_SUBSCRIPTION_ID": subscription, "AZURE_LOCATION": location}
            ENVIRONMENT.write_text(json.dumps(found))
        case ["env", "set", name, value]:
            keep(**{name: value})
        case ["env", "get-value", name]:
            if name not in values():
                sys.exit(f"ERROR: key '{name}' not found in the environment values")
            print(values()[name])
        case ["provision"]:
            hook(project["hooks"], "preprovision")
            keep(**OUTPUTS)
            hook(project["hooks"], "postprovision")
        case ["deploy"]:
            service = project["services"]["app"]
            hook(service["hooks"], "prepackage")
            folder = Path(service["project"]) / service["dist"]
            if not folder.is_dir() or not any(folder.iterdir()):
                sys.exit(f"ERROR: package source '{folder}' is empty or does not exist")
        case _:
            sys.exit(f"ERROR: unknown command {' '.join(arguments)!r} for 'azd'")


main(sys.argv[2:])
