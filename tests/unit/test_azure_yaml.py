"""azure.yaml against the part of azd's published schema that it uses, and against what it names."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.shapes import misfits

ROOT = Path(__file__).parents[2]
PROJECT = yaml.safe_load((ROOT / "azure.yaml").read_text())

HOOK = {"shell!": "sh|pwsh", "run!": ".+", "interactive": bool, "continueOnError": bool}
BOTH_SYSTEMS = {"posix!": HOOK, "windows!": HOOK}

# After azd's schema (Azure/azure-dev, schemas/v1.0/azure.yaml.json). What is not listed here is not used here: a
# misspelled name fails, where azd would pass it over.
SHAPE: dict[str, Any] = {
    "name!": "[a-z0-9]([-a-z0-9]*[a-z0-9])",
    "metadata": {"template": ".*"},
    "services!": {
        "*": {
            "project!": ".*",
            "host!": "function",
            "language!": "python",
            "dist": ".*",
            "hooks": {"prepackage": BOTH_SYSTEMS},
        },
    },
    "hooks": {"preprovision": BOTH_SYSTEMS, "postprovision": BOTH_SYSTEMS},
}


def test_follows_its_schema() -> None:
    assert misfits(PROJECT, SHAPE) == []


@pytest.mark.parametrize("name", ["dist", "prepackage", "preprovision", "interactive", "posix"])
def test_the_schema_refuses_a_name_that_is_misspelled(name: str) -> None:
    wrong = json.loads(json.dumps(PROJECT).replace(f'"{name}"', f'"{name}s"'))

    assert any(place.endswith(f"/{name}s") for place in misfits(wrong, SHAPE))


def test_no_hook_is_a_python_file() -> None:
    """azd would take the project that it finds above such a file for the hook's own, and install it."""
    runs = [hook["run"] for hooks in PROJECT["hooks"].values() for hook in hooks.values()]

    assert not any(run.endswith(".py") for run in runs)
