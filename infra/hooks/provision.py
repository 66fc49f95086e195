"""What azd runs around `azd provision`, from whichever shell: `python3 infra/hooks/provision.py before`, and `after`.

before: looks for what would stop the deployment half-way: a region without Flex Consumption, a provider that is not
registered, a deleted Key Vault that still holds the name. after: makes what a template cannot (certificate, client
state), uploads the desired state, and offers to grant the Graph permissions. Running either again changes nothing.

Standard library only, Python 3.9 or newer. Needs the Azure CLI, logged in; it acts in azd's subscription alone.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DESIRED_STATE = ROOT / "subscriptions.toml"

# The first that can list the regions ("Create and manage function apps in the Flex Consumption plan").
LEAST_AZ = (2, 60, 0)
WAIT_SECONDS = 15
WAITS = 39  # ten minutes: a new role is known everywhere after five, usually
CONFIG_REFERENCES = "config/configreferences/appsettings"

# Words of Azure's refusals. Storage says AuthorizationFailure for its firewall and AuthorizationPermissionMismatch for
# a role that is missing; the Azure CLI puts sentences of its own in their place.
_BY_NETWORK = re.compile(
    r"ForbiddenByFirewall|ForbiddenByConnection|Public network access is disabled|Client address is not authorized"
    r"|blocked by network rules|AuthorizationFailure|PublicAccessNotPermitted",
    re.IGNORECASE,
)
_BY_TENANT = re.compile(r"AKV10032|InvalidAuthenticationTokenTenant|wrong issuer", re.IGNORECASE)
_BY_ROLE = re.compile(
    r"ForbiddenByRbac|Caller is not authorized|AuthorizationPermissionMismatch|required permissions"
    r"|AuthorizationFailed",
    re.IGNORECASE,
)


Ask = Callable[[str], bool]


class HookError(Exception):
    """The deployment cannot go on; the message says why and what to do."""


class RefusedError(Exception):
    """The Azure CLI failed; the message is its own."""


class AzureCli:
    """The Azure CLI in one subscription, whichever is its default."""

    def __init__(self, program: str, subscription: str, pause: Callable[[float], None]) -> None:
        self._program = program
        self._subscription = subscription
        self._pause = pause

    def az(self, *arguments: str) -> Any:
        """Run a command and return what it answers, from JSON; None if that is nothing.

        Raises:
            RefusedError: it failed.
        """
        command = [self._program, *arguments, "--subscription", self._subscription, "--output", "json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)  # noqa: S603
        if done.returncode:
            raise RefusedError(done.stderr.strip())
        return json.loads(done.stdout) if done.stdout.strip() else None

    def patiently(self, *arguments: str) -> Any:
        """The same, again and again for ten minutes while a role is missing: a new one takes time to be known.

        Raises:
            HookError: the network or the tenant refuses, which no waiting changes.
            RefusedError: it failed in another way, or the role is still missing.
        """
        for wait in range(WAITS + 1):
            try:
                return self.az(*arguments)
            except RefusedError as error:
                _raise_what_waiting_cannot_change(str(error))
                if wait == WAITS or not _BY_ROLE.search(str(error)):
                    raise
                if wait == 0:
                    say("Waiting until the new roles are in effect ...")
                self._pause(WAIT_SECONDS)
        raise AssertionError("the last wait returns or raises")


def _raise_what_waiting_cannot_change(message: str) -> None:
    if _BY_NETWORK.search(message):
        raise HookError(
            "the network of Key Vault or storage does not let this machine in: set DEPLOYER_IP_ADDRESS to its public"
            f" address and provision again, or run `azd hooks run postprovision` inside the network.\n{message}"
        )
    if _BY_TENANT.search(message):
        raise HookError(f"the Azure CLI is logged in to another tenant: az login --tenant …\n{message}")


def connect(environment: Mapping[str, str], pause: Callable[[float], None]) -> AzureCli:
    """The Azure CLI, once it is known to be new enough and logged in where azd deploys.

    Raises:
        HookError: it is not.
    """
    program = shutil.which("az", path=environment.get("PATH"))
    if program is None:
        raise HookError("the Azure CLI (az) is not installed: https://learn.microsoft.com/cli/azure/install-azure-cli")
    subscription, tenant = environment["AZURE_SUBSCRIPTION_ID"], environment.get("AZURE_TENANT_ID", "")
    cli = AzureCli(program, subscription, pause)
    version = str(cli.az("version")["azure-cli"])
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < LEAST_AZ:
        raise HookError(f"az {version} is too old, {'.'.join(map(str, LEAST_AZ))} or newer is needed: az upgrade")
    login = f"az login --tenant {tenant}" if tenant else "az login"
    try:
        account = cli.az("account", "show")
    except RefusedError as error:
        raise HookError(f"az cannot use subscription {subscription}, which azd deploys to: {login}\n{error}") from error
    if tenant and account["tenantId"] != tenant:
        raise HookError(f"az is logged in to tenant {account['tenantId']}, azd deploys to {tenant}: {login}")
    return cli


# Before


def before(environment: Mapping[str, str], ask: Ask | None, pause: Callable[[float], None]) -> None:
    """Look for what would stop the deployment half-way. `ask` is None where there is nobody to ask.

    Raises:
        HookError: something does, or the Azure CLI cannot be used.
        RefusedError: the Azure CLI failed.
    """
    missing = [name for name in ("AZURE_SUBSCRIPTION_ID", "AZURE_LOCATION") if not environment.get(name)]
    if missing:
        say(f"{' and '.join(missing)}: not set yet, so the region was not looked at (azd env set, or azd asks next)")
        return
    cli = connect(environment, pause)
    if environment.get("VNET_ENABLED", "").lower() == "true":
        register_network(cli)
    refuse_region(cli, environment["AZURE_LOCATION"])
    recover_vault(cli, environment["AZURE_ENV_NAME"], environment["AZURE_LOCATION"], ask)


def register_network(cli: AzureCli) -> None:
    """Flex Consumption joins a network through the provider Microsoft.App, which a subscription has to have registered.

    Raises:
        HookError: whoever deploys may not register it.
    """
    if cli.az("provider", "show", "--namespace", "Microsoft.App")["registrationState"] == "Registered":
        return
    say("Registering Microsoft.App, which the private network needs; this takes some minutes ...")
    try:
        cli.az("provider", "register", "--namespace", "Microsoft.App", "--wait")
    except RefusedError as error:
        raise HookError(f"Microsoft.App has to be registered by an owner of the subscription:\n{error}") from error


def refuse_region(cli: AzureCli, location: str) -> None:
    """Refuse a region that has no Flex Consumption.

    Raises:
        HookError: it has none.
    """
    offered = sorted(region["name"] for region in cli.az("functionapp", "list-flexconsumption-locations"))
    if location.lower().replace(" ", "") not in offered:
        raise HookError(f"{location} has no Flex Consumption plan; azd env set AZURE_LOCATION to: {', '.join(offered)}")


def recover_vault(cli: AzureCli, name: str, location: str, ask: Ask | None) -> None:
    """Offer to recover the Key Vault of a deployment of the same name that was deleted: it still holds the name.

    Raises:
        HookError: there is one, and nobody wants it recovered.
    """
    try:
        deleted = cli.az("keyvault", "list-deleted", "--resource-type", "vault")
    except RefusedError as error:
        say(f"Deleted Key Vaults could not be looked for: {error}")
        return
    group = f"rg-{name}"
    for vault in deleted:
        about = vault["properties"]
        if f"/resourcegroups/{group}/".lower() not in about["vaultId"].lower() or about["location"] != location:
            continue
        kept = (
            f"Key Vault {vault['name']} of this environment was deleted and is kept until {about['scheduledPurgeDate']}"
        )
        if ask is None or not ask(f"{kept}. Recover it, with its certificate and its secrets?"):
            purge = f"az keyvault purge --name {vault['name']} --location {location}"
            final = "it cannot be purged before" if about.get("purgeProtectionEnabled") else f"or purge it: {purge}"
            recover = f"az keyvault recover --name {vault['name']} --location {location} --resource-group {group}"
            raise HookError(f"{kept}, and the deployment needs its name. Recover it ({recover}), {final}")
        if not cli.az("group", "exists", "--name", group):
            tag = f"azd-env-name={name}"
            cli.az("group", "create", "--name", group, "--location", location, "--tags", tag)
        cli.az("keyvault", "recover", "--name", vault["name"], "--location", location, "--resource-group", group)
        say(f"Recovered {vault['name']}")


# After

_OUTPUTS = (
    "AZURE_SUBSCRIPTION_ID",
    "AZURE_KEY_VAULT_NAME",
    "AZURE_STORAGE_ACCOUNT",
    "AZURE_FUNCTION_ID",
    "AZURE_IDENTITY_PRINCIPAL_ID",
    "CERTIFICATE_NAME",
)


def after(environment: Mapping[str, str], ask: Ask | None, pause: Callable[[float], None]) -> None:
    """Make what the template cannot. `ask` is None where there is nobody to ask.

    Raises:
        HookError: it cannot be made.
        RefusedError: the Azure CLI failed.
    """
    missing = [name for name in _OUTPUTS if not environment.get(name)]
    if missing:
        raise HookError(f"{', '.join(missing)} not set: run this through azd (azd hooks run postprovision)")
    cli = connect(environment, pause)
    make_certificate(cli, environment["AZURE_KEY_VAULT_NAME"], environment["CERTIFICATE_NAME"])
    made = make_client_state(cli, environment["AZURE_KEY_VAULT_NAME"])
    look_references_up(cli, environment["AZURE_FUNCTION_ID"], made=made)
    if DESIRED_STATE.exists():
        upload_desired_state(cli, environment["AZURE_STORAGE_ACCOUNT"])
        offer_grant(environment["AZURE_IDENTITY_PRINCIPAL_ID"], environment.get("AZURE_TENANT_ID", ""), ask)
    else:
        say("There is no subscriptions.toml yet: copy subscriptions.sample.toml, then azd hooks run postprovision")
    if not environment.get("ALERT_EMAIL"):
        say("ALERT_EMAIL is not set: alerts show in the portal and reach nobody")


def make_certificate(cli: AzureCli, vault: str, name: str) -> None:
    """Make the encryption certificate, unless there is one of that name."""
    if name in names(cli.patiently("keyvault", "certificate", "list", "--vault-name", vault), "certificates"):
        return
    say(f"Creating the certificate {name}")
    policy = ("--policy", "@infra/hooks/certificate-policy.json")
    cli.patiently("keyvault", "certificate", "create", "--vault-name", vault, "--name", name, *policy)


def make_client_state(cli: AzureCli, vault: str) -> bool:
    """Make the client state, unless there is one; returns whether it was made."""
    if "client-state" in names(cli.patiently("keyvault", "secret", "list", "--vault-name", vault), "secrets"):
        return False
    say("Creating the client state")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "client-state"  # not an argument: those are seen by whoever lists processes
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as secret:
            secret.write(secrets.token_hex(32))
        # The current one comes last: as long as it is missing, the next run makes both.
        for name in ("client-state-previous", "client-state"):
            options = ("--file", str(file), "--encoding", "utf-8")
            cli.patiently("keyvault", "secret", "set", "--vault-name", vault, "--name", name, *options)
    return True


def look_references_up(cli: AzureCli, app: str, *, made: bool) -> None:
    """Let the platform look references to Key Vault up that it could not resolve; by itself it does so once a day."""
    url = f"{app}/{CONFIG_REFERENCES}?api-version=2025-03-01"
    references = cli.az("rest", "--method", "get", "--url", url)["value"]
    if made or any(reference["properties"]["status"] != "Resolved" for reference in references):
        refresh = f"{app}/{CONFIG_REFERENCES}/refresh?api-version=2022-03-01"
        cli.az("rest", "--method", "post", "--url", refresh)


def upload_desired_state(cli: AzureCli, account: str) -> None:
    """Upload subscriptions.toml where it differs from what the app reads."""
    place = ("--account-name", account, "--container-name", "config", "--name", "subscriptions.toml")
    if cli.patiently("storage", "blob", "exists", "--auth-mode", "login", *place)["exists"]:
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "subscriptions.toml"
            cli.patiently("storage", "blob", "download", "--auth-mode", "login", "--file", str(file), *place)
            if file.read_bytes() == DESIRED_STATE.read_bytes():
                return
    say("Uploading subscriptions.toml")
    source = ("--file", str(DESIRED_STATE), "--overwrite")
    cli.patiently("storage", "blob", "upload", "--auth-mode", "login", *place, *source)


def offer_grant(identity: str, tenant: str, ask: Ask | None) -> None:
    """Offer to grant the Graph permissions; where that is not wanted or fails, say how to do it later."""
    command = ["run.py", "grant", "--identity", identity, *(["--tenant", tenant] if tenant else [])]
    if ask is not None and ask("Show the Graph permissions that subscriptions.toml needs, and grant what is missing?"):
        if subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode == 0:  # noqa: S603
            return
        say("Not all of it is granted.")
    say(
        "To grant the Graph permissions that subscriptions.toml needs, as an administrator of the tenant:\n"
        f"  python3 {' '.join(command)}\n"
        "Before `azd deploy`: a token that the app has fetched without them is kept for up to 24 hours."
    )


def names(objects: list[dict[str, Any]], collection: str) -> set[str]:
    """The names in a list of Key Vault's objects, of which each id is `https://…/{collection}/{name}`."""
    return {each["id"].partition(f"/{collection}/")[2].partition("/")[0] for each in objects}


# The command line


def say(text: str) -> None:
    print(text, flush=True)


def confirm(question: str) -> bool:
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def main(
    arguments: list[str],
    environment: Mapping[str, str],
    *,
    ask: Ask | None,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Run one of the two and return its exit code. `ask` is None where there is nobody to ask."""
    if arguments not in (["before"], ["after"]):
        print("usage: provision.py before|after", file=sys.stderr)
        return 2
    run = before if arguments == ["before"] else after
    try:
        run(environment, ask, pause)
    except (HookError, RefusedError) as error:
        print(f"{arguments[0]} provisioning: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ, ask=confirm if sys.stdin.isatty() else None))
