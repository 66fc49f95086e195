"""Who Switchboard is towards Microsoft Graph.

A managed identity has tokens for its own tenant alone. For several tenants a multi-tenant application speaks, which
trusts the managed identity: a token of the latter, made out to Entra ID's token exchange, stands in for a secret of the
application in every tenant that has consented to it. "Configure an application to trust a managed identity"
(https://learn.microsoft.com/entra/workload-id/workload-identity-federation-config-app-trust-managed-identity) names the
audience for each cloud.
"""

import threading
from typing import Final
from urllib.parse import urlsplit

from azure.core.credentials import TokenCredential
from azure.identity import ClientAssertionCredential, DefaultAzureCredential

from shared.graph.sign_in import SignIns

_TOKEN_EXCHANGE: Final = "api://AzureADTokenExchange"  # noqa: S105 - an audience
_TOKEN_EXCHANGES: Final = {
    "login.microsoftonline.us": "api://AzureADTokenExchangeUSGov",
    "login.partner.microsoftonline.cn": "api://AzureADTokenExchangeChina",
    "login.chinacloudapi.cn": "api://AzureADTokenExchangeChina",
}


class GraphCredentials:
    """The app's own identity, the application that trusts it, or the person who has signed in.

    The first is a managed identity on the platform, and whatever azure-identity finds elsewhere. To be used from any
    thread.
    """

    def __init__(self, sign_ins: SignIns, *, federated_app_id: str | None, login_endpoint: str) -> None:
        """Take what it needs; nothing is connected yet.

        Args:
            sign_ins: the people who have signed in.
            federated_app_id: the application that speaks for the identity, in all tenants; None: the identity itself.
            login_endpoint: Entra ID's address.
        """
        self._identity = DefaultAzureCredential()
        self._sign_ins = sign_ins
        self._app_id = federated_app_id
        self._login_endpoint = login_endpoint
        audience = _TOKEN_EXCHANGES.get(urlsplit(login_endpoint).hostname or "", _TOKEN_EXCHANGE)
        self._exchange_scope = f"{audience}/.default"
        self._applications: dict[str, ClientAssertionCredential] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        for application in self._applications.values():
            application.close()
        self._identity.close()
        self._sign_ins.close()

    def __call__(self, tenant_id: str, *, delegated: bool) -> TokenCredential:
        """The credential for calls about a tenant.

        Raises:
            SignInRequiredError: a signed-in user is needed, and there is no application to sign in to.
        """
        if delegated:
            return self._sign_ins.user(tenant_id)
        return self._identity if self._app_id is None else self._application(tenant_id, self._app_id)

    def _application(self, tenant_id: str, app_id: str) -> TokenCredential:
        with self._lock:
            application = self._applications.get(tenant_id)
            if application is None:
                application = ClientAssertionCredential(
                    tenant_id, app_id, self._assertion, authority=self._login_endpoint
                )
                self._applications[tenant_id] = application
        return application

    def _assertion(self) -> str:
        return self._identity.get_token(self._exchange_scope).token
