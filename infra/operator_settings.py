"""The deployed app's settings for `manage.py` on an operator's machine.

    python -m infra.operator_settings --resource-group rg-production --app func-abc123

Writes deployed.settings.json, readable by its owner alone, and never over a file that is there. The local host and
`func start` do not read it, so nothing that is tried on this machine reaches the deployment; `manage.py` does, told by
SWITCHBOARD_SETTINGS. References to Key Vault are replaced by the secrets, which takes *Key Vault Secrets User*. Whoever
is logged in to the Azure CLI acts, here and in `manage.py`.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

TARGET = Path("deployed.settings.json")

_REFERENCE = re.compile(r"@Microsoft\.KeyVault\(SecretUri=(?P<uri>https://[^)]+)\)")
# For the app's own identity, which is not the operator's.
_IDENTITY = (
    "AZURE_CLIENT_ID",
    "AZURE_TOKEN_CREDENTIALS",
    "AzureWebJobsStorage__credential",
    "AzureWebJobsStorage__clientId",
)


class AzureCliError(Exception):
    """The Azure CLI is not there, or said no; the message is its own."""


def azure(*arguments: str) -> Any:
    """Run the Azure CLI and return what it answers.

    Raises:
        AzureCliError: it is not installed, or failed.
    """
    program = shutil.which("az")
    if program is None:
        raise AzureCliError("the Azure CLI (az) is not installed")
    result = subprocess.run(  # noqa: S603 - no shell, and the arguments are ours
        [program, *arguments, "--output", "json"], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise AzureCliError(result.stderr.strip())
    return json.loads(result.stdout)


def settings_of(resource_group: str, app: str) -> dict[str, str]:
    """The settings of a function app, as `manage.py` can use them.

    Raises:
        AzureCliError: the Azure CLI is not installed, or failed.
    """
    listed = azure("functionapp", "config", "appsettings", "list", "--resource-group", resource_group, "--name", app)
    settings = {setting["name"]: setting["value"] for setting in listed if setting["name"] not in _IDENTITY}
    for name, value in settings.items():
        if reference := _REFERENCE.fullmatch(value):
            settings[name] = azure("keyvault", "secret", "show", "--id", reference["uri"])["value"]
    return settings


def write(settings: dict[str, str], target: Path) -> None:
    """Write a settings file, for its owner alone.

    Raises:
        FileExistsError: it is there already.
    """
    text = json.dumps({"IsEncrypted": False, "Values": settings}, indent=2) + "\n"
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def main(
    resource_group: Annotated[str, typer.Option(help="azd env get-value AZURE_RESOURCE_GROUP")],
    app: Annotated[str, typer.Option(help="azd env get-value AZURE_FUNCTION_NAME")],
    target: Annotated[Path, typer.Option(help="The file to write.")] = TARGET,
) -> None:
    """Write the deployed app's settings to deployed.settings.json."""
    try:
        settings = settings_of(resource_group, app)
        write(settings, target)
    except AzureCliError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    except FileExistsError as error:
        typer.echo(f"{target} is there already: move or delete it first", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{target}: {len(settings)} settings. For manage.py: SWITCHBOARD_SETTINGS={target}")


if __name__ == "__main__":
    typer.run(main)
