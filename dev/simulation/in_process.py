"""The Graph client without a wire: its requests go to the simulator's rules by a function call.

What the client does about paging, pacing, embargoes, retries, batches and errors is the real thing. Left out are
requests, TLS, HTTP and JSON, and azure-identity: `tests/integration/test_graph_adapter.py` has those.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from zlib import crc32

from azure.core.credentials import AccessToken
from azure.core.exceptions import AzureError, ClientAuthenticationError

from dev.simulator.entra import Caller, Entra, TokenError, User
from dev.simulator.faults import Fault
from dev.simulator.graph_api import GraphApi, GraphRequest
from shared.clock import Clock
from shared.graph.client import GraphClient
from shared.graph.throttling import service_of
from shared.values import graph, graph_errors
from shared.values.errors import SwitchboardError
from shared.values.graph_errors import CredentialError, OutcomeUnknownError, SignInRequiredError

GRAPH = "https://graph.microsoft.com"
SIGN_IN_APP = "2f1f9f6e-8b1c-4b58-9d7e-3f3f7a1f6f52"
_REFRESH_BEFORE = timedelta(minutes=5)


class RememberingEntra(Entra):
    """Entra ID that verifies the signature of each access token once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._seen: dict[str, tuple[Caller, datetime]] = {}
        self.outages = 0

    def verify(self, authorization: str | None, audiences: Sequence[str]) -> Caller | None:
        known = self._seen.get(authorization or "")
        if known is not None and self.clock.now() < known[1]:
            return known[0]
        caller = super().verify(authorization, audiences)
        if caller is not None:
            lifetime = self.access_token_lifetime if caller.user_id is None else self.delegated_token_lifetime
            # It has been issued just now: nobody keeps a token back before its first use here.
            self._seen[authorization or ""] = caller, self.clock.now() + lifetime
        return caller


@dataclass
class SignIn:
    """What Key Vault keeps of whoever has signed in: the newest refresh token, for all processes."""

    refresh_token: str

    @classmethod
    def by_device_code(cls, entra: RememberingEntra, tenant_id: str) -> "SignIn":
        """Somebody signs in."""
        entra.auto_approve = User()
        form = {"client_id": SIGN_IN_APP, "scope": f"{GRAPH}/Presence.Read.All offline_access"}
        code = entra.start_device_code(tenant_id, form)["device_code"]
        granted = entra.grant(tenant_id, {"grant_type": "device_code", "device_code": code})
        return cls(granted["refresh_token"])


@dataclass
class Identity:
    """A token credential as azure-identity has it: keeps its token, and asks for the next one shortly before its end.

    With a `sign_in` it is that of a signed-in user.
    """

    entra: RememberingEntra
    tenant_id: str
    app_id: str
    sign_in: SignIn | None = None
    _token: AccessToken | None = None

    @property
    def refresh_at(self) -> datetime | None:
        """When the next call will ask Entra ID; None at once."""
        if self._token is None:
            return None
        return datetime.fromtimestamp(self._token.expires_on, UTC) - _REFRESH_BEFORE

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        now = self.entra.clock.now()
        if self.refresh_at is None or self.refresh_at <= now:
            try:
                self._token = self._fetch()
            except AzureError:
                if self._token is None or self._token.expires_on <= now.timestamp():
                    raise
        assert self._token is not None
        return self._token

    def _fetch(self) -> AccessToken:
        if self.entra.outages:
            raise AzureError("Entra ID does not answer")
        if self.sign_in is None:
            token, expires = self.entra.app_token(audience=GRAPH, client_id=self.app_id, tenant_id=self.tenant_id)
            return AccessToken(token, int(expires.timestamp()))
        try:
            form = {"grant_type": "refresh_token", "refresh_token": self.sign_in.refresh_token}
            granted = self.entra.grant(self.tenant_id, form)
        except TokenError as error:
            raise ClientAuthenticationError(str(error)) from error
        self.sign_in.refresh_token = granted["refresh_token"]
        return AccessToken(
            granted["access_token"], int(self.entra.clock.now().timestamp()) + int(granted["expires_in"])
        )


@dataclass
class Identities:
    """The credentials of one process: the app's own in each tenant, and that of whoever has signed in to the first."""

    applications: Mapping[str, Identity]
    user: Identity

    def __call__(self, tenant_id: str, *, delegated: bool) -> Identity:
        if not delegated:
            return self.applications[tenant_id]
        if tenant_id != self.user.tenant_id:
            raise SignInRequiredError("nobody has signed in")
        return self.user

    @property
    def refresh_at(self) -> datetime | None:
        """When the first of them will ask for a token; None at once."""
        moments = [identity.refresh_at for identity in (*self.applications.values(), self.user)]
        known = [moment for moment in moments if moment is not None]
        return min(known) if len(known) == len(moments) else None

    def refresh(self) -> None:
        """Do what the next requests would begin with."""
        for identity in (*self.applications.values(), self.user):
            identity.get_token()

    @classmethod
    def of_a_new_process(
        cls, entra: RememberingEntra, tenant_ids: Sequence[str], app_id: str, sign_in: SignIn
    ) -> "Identities":
        applications = {tenant_id: Identity(entra, tenant_id, app_id) for tenant_id in tenant_ids}
        return cls(applications, Identity(entra, tenant_ids[0], SIGN_IN_APP, sign_in))


@dataclass
class Troubles:
    """What befalls the requests of one tenant alone: a delay, no answer at all, or another than Graph's."""

    in_force: list[tuple[str, Fault]] = field(default_factory=list)

    async def befall(self, tenant_id: str, method: str, target: str) -> None:
        for of_tenant, fault in tuple(self.in_force):
            if of_tenant != tenant_id or not fault.matches(fault.service, method, target):
                continue
            if fault.service == "login":
                raise CredentialError("Entra ID's token")
            await asyncio.sleep(fault.delay)
            if fault.hang_up is not None:
                raise OutcomeUnknownError
            if fault.status is not None:
                raise graph_errors.error_of(fault.status, {"error": {"code": "x", "message": fault.message}}, None)


@dataclass
class Latency:
    """How long requests take: as good as random, so that those of two processes overtake one another.

    Each depends on its own time and address alone, so what went before does not change it.
    """

    seed: int
    requests: int = 0

    async def there(self, url: str) -> None:
        self.requests += 1
        await asyncio.sleep(self._seconds("there", url))

    async def back(self, url: str) -> None:
        await asyncio.sleep(self._seconds("back", url))

    def _seconds(self, way: str, url: str) -> float:
        now = asyncio.get_running_loop().time()
        return 0.05 + 0.5 * crc32(f"{self.seed} {now:.3f} {way} {url}".encode()) / 2**32


class InProcessClient(GraphClient):
    """The real client up to the point where it would open a connection."""

    def __init__(
        self, api: GraphApi, credentials: Identities, clock: Clock, latency: Latency, troubles: Troubles
    ) -> None:
        super().__init__(GRAPH, credentials, clock)
        self._api = api
        self._latency = latency
        self._troubles = troubles

    async def _exchange(
        self, method: str, url: str, tenant_id: str, delegated: bool, body: Any = None
    ) -> Mapping[str, Any]:
        try:
            return await self._dispatch(method, url, tenant_id, delegated, body)
        except SwitchboardError as error:
            self._pauses.note((tenant_id, service_of(url)), error)
            raise

    async def _dispatch(self, method: str, url: str, tenant_id: str, delegated: bool, body: Any) -> Mapping[str, Any]:
        try:
            token = self._credentials(tenant_id, delegated=delegated).get_token(f"{GRAPH}/.default").token
        except AzureError as error:
            raise CredentialError("Entra ID's token") from error
        parts = urlsplit(url)
        version, _, path = parts.path.removeprefix("/").partition("/")
        request = GraphRequest(
            method=method,
            version=version,
            path=f"/{path}",
            query=dict(parse_qsl(parts.query)),
            headers={"authorization": f"Bearer {token}"},
            body=body,
            base=GRAPH,
        )
        await self._latency.there(url)
        if self._troubles.in_force:
            await self._troubles.befall(tenant_id, method, request.target)
        response = await self._api.dispatch(request)
        if method == "POST":  # what happens between a change and the news of it matters
            await self._latency.back(url)
        if response.lost:
            raise OutcomeUnknownError
        if response.status >= 300:
            retry_after = graph.parse_retry_after(response.headers.get("Retry-After"), self._clock.now())
            raise graph_errors.error_of(response.status, response.body, retry_after)
        assert isinstance(response.body, Mapping)
        return response.body
