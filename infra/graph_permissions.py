"""Grant the app's identity the Graph permissions that the desired state needs, and no other.

A managed identity gets application permissions by app role assignments ("Grant an appRoleAssignment to a service
principal"), which takes an administrator: Privileged Role Administrator, or Global Administrator. Whoever is logged in
to the Azure CLI acts. What would be granted is shown first; what is granted already stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import jwt
import requests
import typer
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import AzureCliCredential
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared.subscriptions.desired import READ_MEMBERS, DesiredState, DesiredStateError, parse_desired

_GRAPH_APP_ID = "00000003-0000-0000-c000-000000000000"  # Microsoft Graph's own, the same in every tenant
_TIMEOUT = 30.0  # seconds

console = Console(highlight=False)


class DirectoryError(Exception):
    """Graph refused, or did not answer."""


@dataclass(frozen=True, slots=True)
class Directory:
    """The part of Graph that knows who may do what. `token` is an access token of an administrator."""

    endpoint: str
    token: str

    def graph(self) -> tuple[str, dict[str, str]]:
        """The id of Microsoft Graph's service principal here, and of each application permission by its name.

        Raises:
            DirectoryError: Graph refused, or did not answer.
        """
        principal = self._call("GET", f"servicePrincipals(appId='{_GRAPH_APP_ID}')?$select=id,appRoles")
        roles = {
            role["value"]: role["id"] for role in principal["appRoles"] if "Application" in role["allowedMemberTypes"]
        }
        return principal["id"], roles

    def granted(self, identity: str, graph: str) -> frozenset[str]:
        """Ids of the app roles of Graph that an identity has.

        Raises:
            DirectoryError: Graph refused, or did not answer.
        """
        assignments = self._pages(f"servicePrincipals/{identity}/appRoleAssignments")
        return frozenset(each["appRoleId"] for each in assignments if each["resourceId"] == graph)

    def grant(self, identity: str, graph: str, role: str) -> None:
        """Give an identity an app role of Graph.

        Raises:
            DirectoryError: Graph refused, or did not answer.
        """
        body = {"principalId": identity, "resourceId": graph, "appRoleId": role}
        self._call("POST", f"servicePrincipals/{identity}/appRoleAssignments", body)

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        page = self._call("GET", path)
        yield from page["value"]
        while next_link := page.get("@odata.nextLink"):
            if not next_link.startswith(f"{self.endpoint}/"):
                raise DirectoryError("Graph's list goes on at another host")
            page = self._call("GET", next_link.removeprefix(f"{self.endpoint}/v1.0/"))
            yield from page["value"]

    def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = requests.request(
                method,
                f"{self.endpoint}/v1.0/{path}",
                json=body,
                headers={"Authorization": f"Bearer {self.token}"},
                timeout=_TIMEOUT,
                allow_redirects=False,
            )
            content: dict[str, Any] = answer.json()
        except requests.RequestException as error:
            raise DirectoryError(f"Graph did not answer: {type(error).__name__}") from error
        if not answer.ok:
            refusal = content.get("error", {})
            code, message = refusal.get("code"), refusal.get("message")
            raise DirectoryError(f"Graph refused ({answer.status_code} {code}): {message}")
        return content


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


def grant_needed(directory: Directory, state: DesiredState, identity: str, *, agreed: bool) -> bool:
    """Show what the identity has and lacks, ask unless `agreed`, and grant what it lacks.

    Returns:
        Whether it has all of it now.

    Raises:
        DirectoryError: Graph refused, or did not answer, or knows no such permission.
    """
    graph, roles = directory.graph()
    wanted = needed(state)
    unknown = sorted(set(wanted) - set(roles))
    if unknown:
        raise DirectoryError(f"Graph offers no application permission {', '.join(unknown)} in this tenant")
    granted = directory.granted(identity, graph)
    missing = sorted(permission for permission in wanted if roles[permission] not in granted)
    others = sorted(name for name, role in roles.items() if role in granted and name not in wanted)

    table = Table("permission", "needed for", "state")
    for permission in sorted(wanted):
        state_now = "to be granted" if permission in missing else "granted"
        table.add_row(permission, ", ".join(sorted(wanted[permission])), state_now)
    for permission in others:
        table.add_row(permission, "-", "granted, but not needed")
    console.print(table)
    if any(want.kind.delegated_only for want in state.subscriptions):
        console.print("Presence takes a person's sign-in instead: manage.py login")
    if not missing:
        console.print("Nothing to grant.")
        return True
    if not agreed and not typer.confirm(f"Grant {', '.join(missing)} to {identity}?"):
        return False
    for permission in missing:
        directory.grant(identity, graph, roles[permission])
        console.print(f"granted: {permission}")
    console.print("A token that the app has fetched already stays without them for up to 24 hours; no restart helps.")
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
        token = AzureCliCredential(tenant_id=tenant).get_token(f"{endpoint}/.default").token
        signed_in_to = jwt.decode(token, options={"verify_signature": False})["tid"]  # our own token: only read
        state = parse_desired(
            subscriptions.read_text(encoding="utf-8"), tenant_ids=frozenset({signed_in_to}), source=subscriptions.name
        )
        done = grant_needed(Directory(endpoint, token), state, str(identity), agreed=yes)
    except (ClientAuthenticationError, DesiredStateError, DirectoryError, OSError) as error:
        console.print(escape(str(error)), style="red")
        raise typer.Exit(1) from error
    raise typer.Exit(0 if done else 1)


if __name__ == "__main__":
    typer.run(main)
