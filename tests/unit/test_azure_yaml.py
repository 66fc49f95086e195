"""azure.yaml against the part of azd's published schema that it uses, and against what it names."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = yaml.safe_load((ROOT / "azure.yaml").read_text())

_HOOK: dict[str, Any] = {
    "type": "object",
    "required": ["shell", "run"],
    "additionalProperties": False,
    "properties": {
        "shell": {"enum": ["sh", "pwsh"]},
        "run": {"type": "string", "minLength": 1},
        "interactive": {"type": "boolean"},
        "continueOnError": {"type": "boolean"},
    },
}
_BOTH_SYSTEMS: dict[str, Any] = {
    "type": "object",
    "required": ["posix", "windows"],
    "additionalProperties": False,
    "properties": {"posix": _HOOK, "windows": _HOOK},
}

# After azd's schema (Azure/azure-dev, schemas/v1.0/azure.yaml.json). What is not listed here is not used here: a
# misspelled name fails, where azd would pass it over.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 2, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
        "metadata": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"template": {"type": "string"}},
        },
        "services": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": ["host", "project", "language"],
                "additionalProperties": False,
                "properties": {
                    "project": {"type": "string"},
                    "host": {"enum": ["function"]},
                    "language": {"enum": ["python"]},
                    "dist": {"type": "string"},
                    "hooks": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {"prepackage": _BOTH_SYSTEMS},
                    },
                },
            },
        },
        "hooks": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"preprovision": _BOTH_SYSTEMS, "postprovision": _BOTH_SYSTEMS},
        },
    },
}


def test_follows_its_schema() -> None:
    jsonschema.validate(PROJECT, SCHEMA)


@pytest.mark.parametrize("name", ["dist", "prepackage", "preprovision", "interactive", "posix"])
def test_the_schema_refuses_a_name_that_is_misspelled(name: str) -> None:
    wrong = json.loads(json.dumps(PROJECT).replace(f'"{name}"', f'"{name}s"'))

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


def test_no_hook_is_a_python_file() -> None:
    """azd would take the project that it finds above such a file for the hook's own, and install it."""
    runs = [hook["run"] for hooks in PROJECT["hooks"].values() for hook in hooks.values()]

    assert not any(run.endswith(".py") for run in runs)
