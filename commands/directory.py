"""The part of Graph that knows which application may do what.

Sources: "servicePrincipal resource type" (https://learn.microsoft.com/graph/api/resources/serviceprincipal) and "Grant
an appRoleAssignment to a service principal"
(https://learn.microsoft.com/graph/api/serviceprincipal-post-approleassignments).
"""

from dataclasses import dataclass
from typing import Final

from shared.graph.client import GraphClient

GRAPH_APP_ID: Final = "00000003-0000-0000-c000-000000000000"
"""Microsoft Graph's own application, the same in every tenant."""


@dataclass(frozen=True, slots=True)
class GraphRoles:
    """Microsoft Graph in a tenant: the id of its service principal, and of each application permission by its name."""

    principal: str
    ids: dict[str, str]


@dataclass(frozen=True, slots=True)
class Directory:
    """A tenant's service principals. `endpoint` is Graph's address.

    Each method raises UnavailableError where Graph or Entra ID does not answer, and GraphError where Graph refuses or
    knows no such thing.
    """

    graph: GraphClient
    endpoint: str
    tenant_id: str

    async def graph_roles(self) -> GraphRoles:
        """What Graph offers to applications."""
        principal = await self.graph.get(
            f"{self.endpoint}/v1.0/servicePrincipals(appId='{GRAPH_APP_ID}')?$select=id,appRoles", self.tenant_id
        )
        offered = (role for role in principal["appRoles"] if "Application" in role["allowedMemberTypes"])
        return GraphRoles(principal["id"], {role["value"]: role["id"] for role in offered})

    async def permissions_of(self, principal: str, roles: GraphRoles) -> frozenset[str]:
        """The application permissions of Graph that a service principal holds: one called `/id` or `(appId='…')`."""
        names = {identity: name for name, identity in roles.ids.items()}
        url = f"{self.endpoint}/v1.0/servicePrincipals{principal}/appRoleAssignments"
        held = [
            str(assignment["appRoleId"])
            async for page in self.graph.pages(url, self.tenant_id)
            for assignment in page
            if assignment["resourceId"] == roles.principal
        ]
        return frozenset(names.get(identity, identity) for identity in held)

    async def grant(self, identity: str, roles: GraphRoles, permission: str) -> None:
        """Give a service principal a permission, by its object id."""
        body = {"principalId": identity, "resourceId": roles.principal, "appRoleId": roles.ids[permission]}
        url = f"{self.endpoint}/v1.0/servicePrincipals/{identity}/appRoleAssignments"
        await self.graph.post(url, self.tenant_id, body)
