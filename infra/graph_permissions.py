"""Grant the app's identity the Graph permissions that the desired state needs, and no other.

A managed identity gets application permissions by app role assignments ("Grant an appRoleAssignment to a service
principal", https://learn.microsoft.com/graph/api/serviceprincipal-post-approleassignments), which takes an
administrator: Privileged Role Administrator, or Global Administrator. Whoever is logged in to the Azure CLI acts. What
would be granted is shown first; what is granted already stays.
"""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Annotated
from uuid import UUID

import jwt
import typer
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import AzureCliCredential

from commands.directory import Directory
from commands.terminal import console, print_table
from shared.clock import SystemClock
from shared.graph.client import GraphClient
from shared.subscriptions.desired import READ_MEMBERS, DesiredState, parse_desired
from shared.values.errors import SwitchboardError
from shared.values.graph_errors import NotFoundError


def needed(state: DesiredState) -> dict[str, frozenset[str]]:
    """The application permissions that the desired state needs, each with the kinds that need it."""
    kinds_by_permission: dict[str, set[str]] = {}
    for want in state.subscriptions:
        if not want.kind.delegated_only:
            kinds_by_permission.setdefault(want.form.permission, set()).add(want.kind.key)
    for group in state.groups:
        kinds_by_permission.setdefault(group.form.permission, set()).add(group.kind.key)
        kinds_by_permission.setdefault(READ_MEMBERS, set()).add(f"groups of {group.kind.key}")
    return {permission: frozenset(kinds) for permission, kinds in kinds_by_permission.items()}


async def grant_needed(directory: Directory, state: DesiredState, identity: str, *, agreed: bool) -> bool:
    """Show what the identity has and lacks, ask unless `agreed`, and grant what it lacks.

    Returns:
        Whether it has all of it now.

    Raises:
        GraphError: Graph refused, or knows no such permission.
        UnavailableError: Graph did not answer.
    """
    roles = await directory.graph_roles()
    wanted = needed(state)
    unknown = sorted(set(wanted) - set(roles.ids))
    if unknown:
        raise NotFoundError(f"Graph offers no application permission {', '.join(unknown)} in this tenant")
    granted = await directory.permissions_of(f"/{identity}", roles)
    missing = sorted(set(wanted) - granted)

    rows = [
        (permission, ", ".join(sorted(wanted[permission])), "to be granted" if permission in missing else "granted")
        for permission in sorted(wanted)
    ]
    others = sorted(granted & set(roles.ids) - set(wanted))
    print_table(
        ("permission", "needed for", "state"),
        [*rows, *((permission, "-", "granted, but not needed") for permission in others)],
    )
    if any(want.kind.delegated_only for want in state.subscriptions):
        console().print("Presence takes a person's sign-in instead: python manage.py login")
    if not missing:
        console().print("Nothing to grant.")
        return True
    if not agreed and not typer.confirm(f"Grant {', '.join(missing)} to {identity}?"):
        return False
    for permission in missing:
        await directory.grant(identity, roles, permission)
        console().print(f"granted: {permission}")
    console().print("A token that the app has fetched already stays without them for up to 24 hours; no restart helps.")
    return True


def main(
    identity: Annotated[
        UUID, typer.Option(help="Object id of the managed identity: azd env get-value AZURE_IDENTITY_PRINCIPAL_ID")
    ],
    tenant: Annotated[
        str,
        typer.Option(envvar="AZURE_TENANT_ID", help="The tenant to grant in: azd env get-value AZURE_TENANT_ID"),
    ] = "",
    subscriptions: Annotated[Path, typer.Option(help="The desired state.")] = Path("subscriptions.toml"),
    graph_endpoint: Annotated[
        str, typer.Option(envvar="GRAPH_ENDPOINT", help="For national clouds.")
    ] = "https://graph.microsoft.com",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Grant the app's identity the Graph permissions that the desired state needs."""
    endpoint = graph_endpoint.rstrip("/")
    try:
        credential = AzureCliCredential(tenant_id=tenant)
        token = credential.get_token(f"{endpoint}/.default").token
        signed_in_to = jwt.decode(token, options={"verify_signature": False})["tid"]  # our own token: only read
        text = subscriptions.read_text(encoding="utf-8")
        state = parse_desired(text, tenant_ids=frozenset({signed_in_to}), source=subscriptions.name)
        client = GraphClient(endpoint, lambda _tenant_id, *, delegated: credential, SystemClock())
        with closing(client) as graph:
            directory = Directory(graph, endpoint, signed_in_to)
            done = asyncio.run(grant_needed(directory, state, str(identity), agreed=yes))
    except (ClientAuthenticationError, SwitchboardError, OSError) as error:
        message = error.told if isinstance(error, SwitchboardError) else str(error)
        console(stderr=True).print(message, style="red", soft_wrap=True)
        raise typer.Exit(1) from error
    raise typer.Exit(0 if done else 1)


if __name__ == "__main__":
    typer.run(main)
