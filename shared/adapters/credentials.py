"""Who Switchboard is towards Microsoft Graph."""

from azure.core.credentials import TokenCredential
from azure.identity import DefaultAzureCredential

from shared.domain.graph import CredentialError


class GraphCredentials:
    """The app's own identity: a managed identity on the platform, whatever azure-identity finds elsewhere."""

    def __init__(self) -> None:
        self._application = DefaultAzureCredential()

    def __call__(self, tenant_id: str, *, delegated: bool) -> TokenCredential:
        """The credential for calls about a tenant.

        Raises:
            CredentialError: a signed-in user is needed (presence is given to nobody else), and there is none.
        """
        if delegated:
            raise CredentialError("a signed-in user, which presence needs,")
        return self._application
