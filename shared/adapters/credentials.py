"""Who Switchboard is towards Microsoft Graph."""

from azure.core.credentials import TokenCredential
from azure.identity import DefaultAzureCredential

from shared.adapters.sign_in import SignIns


class GraphCredentials:
    """The app's own identity, or the person who has signed in for it.

    The former is a managed identity on the platform, and whatever azure-identity finds elsewhere.
    """

    def __init__(self, sign_ins: SignIns) -> None:
        self._application = DefaultAzureCredential()
        self._sign_ins = sign_ins

    def close(self) -> None:
        """Close the connections."""
        self._application.close()
        self._sign_ins.close()

    def __call__(self, tenant_id: str, *, delegated: bool) -> TokenCredential:
        """The credential for calls about a tenant.

        Raises:
            SignInRequiredError: a signed-in user is needed, and there is no application to sign in to.
        """
        return self._sign_ins.user(tenant_id) if delegated else self._application
