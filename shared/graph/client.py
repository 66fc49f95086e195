"""Microsoft Graph over HTTPS: subscriptions in batches, lists, members of groups.

Sources: "Combine multiple HTTP requests using JSON batching" (https://learn.microsoft.com/graph/json-batching),
"List subscriptions" (https://learn.microsoft.com/graph/api/subscription-list) and "Paging Microsoft Graph data in your
app" (https://learn.microsoft.com/graph/paging).
"""

import asyncio
import contextvars
import logging
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, Protocol

import msgspec
import requests
from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError
from requests.adapters import HTTPAdapter

from shared.clock import Clock
from shared.graph.answers import batch_parts, decoded_json, readable_subscriptions, reply_to, same_origin
from shared.graph.throttling import (
    LONGEST_PAUSE,
    SUBSCRIPTIONS,
    RateLimiter,
    RequestedPauses,
    Service,
    backoff,
    service_of,
)
from shared.values import graph, graph_errors, resources
from shared.values.errors import MalformedInputError, SwitchboardError, UnavailableError
from shared.values.graph import Call, Reply, Subscription
from shared.values.graph_errors import CredentialError, OutcomeUnknownError
from shared.values.resource_row import ApiVersion

_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 60.0  # of a batch; each POST in it waits for our own endpoint's handshake, up to 10 s
_CONNECTIONS: Final = 32
_THREADS: Final = 6  # for a tenant and service of Graph: four batches, and its lists
_WRITES: Final = (500, 2000)  # per period, in a tenant and in all: POST, PATCH, DELETE, each part of a batch counted
_READS: Final = (500, 2000)  # per period, in a tenant and in all: GET by id, each part of a batch counted
_LISTS: Final = (25, 40)  # per period, in a tenant and in all
_TRIES: Final = 4
_MAX_PAGES: Final = 2000
_CHANGE_TRACKING: Final = "Microsoft Graph Change Tracking"
_CONTEXT: Final = "/$metadata#"

_log = logging.getLogger(__name__)


class Credentials(Protocol):
    """The credential for a tenant."""

    def __call__(self, tenant_id: str, *, delegated: bool) -> TokenCredential:
        """The application's own, or, `delegated`, that of the user who signed in for it.

        Raises:
            CredentialError: there is none.
        """


class GraphClient:
    """One client for all tenants and callers of a process.

    It keeps within Graph's documented limits by itself, so a run over thousands of subscriptions is not throttled in
    the first place; where Graph asks for a pause nevertheless, all callers for that tenant and service of Graph make
    it. Threads are each tenant's and service's own: what hangs in one keeps no other waiting.
    """

    def __init__(
        self, endpoint: str, credentials: Credentials, clock: Clock, *, read_seconds: float = _READ_SECONDS
    ) -> None:
        """Take what it needs; nothing is connected yet.

        Args:
            endpoint: Graph's address without a slash at the end, for instance ``https://graph.microsoft.com``.
            credentials: where tokens come from.
            clock: for pauses and expirations.
            read_seconds: how long to wait for an answer.
        """
        self._endpoint = endpoint
        self._credentials = credentials
        self._clock = clock
        self._timeout = (_CONNECT_SECONDS, read_seconds)
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # threads share the session
        self._session.mount("https://", HTTPAdapter(pool_maxsize=_CONNECTIONS))
        self._writes = RateLimiter(*_WRITES, clock)
        self._reads = RateLimiter(*_READS, clock)
        self._lists = RateLimiter(*_LISTS, clock)
        self._pauses = RequestedPauses(clock)
        self._threads: dict[Service, ThreadPoolExecutor] = {}

    def close(self) -> None:
        """Close the connections."""
        self._session.close()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, calls: Sequence[Call]) -> list[Reply]:
        """Send up to 20 calls of one channel as one batch.

        Nothing is retried here: every call gets its own reply, and the error's class says whether it may be sent again
        (`UnavailableError`: yes, it was not carried out; `OutcomeUnknownError`: only if repeating it does no harm).

        Raises:
            ValueError: too many calls, none, or of different channels.
        """
        channels = {call.channel for call in calls}
        if len(calls) > graph.BATCH_SIZE or len(channels) != 1:
            raise ValueError("a batch holds 1 to 20 calls of one tenant, API version and sort of token")
        (tenant_id, version, delegated), *_ = channels
        writes = sum(call.method != "GET" for call in calls)
        service = (tenant_id, SUBSCRIPTIONS)
        urgent = min((call.expires for call in calls if call.expires is not None), default=None)
        limiters = [(self._writes, writes), (self._reads, len(calls) - writes)]
        try:
            async with self._admission(service, [limiter for limiter in limiters if limiter[1]], urgent):
                answer = await self._exchange(
                    "POST", f"{self._endpoint}/{version}/$batch", tenant_id, delegated, {"requests": batch_parts(calls)}
                )
        except SwitchboardError as error:
            return [error] * len(calls)
        return self._replies(calls, answer)

    async def subscription_pages(self, tenant_id: str) -> AsyncIterator[Sequence[Subscription]]:
        """All of the application's subscriptions in a tenant, each of them once, page by page.

        Both API versions are asked, because whether either lists the other's is not documented.

        Raises:
            SignedInListError: the application's own were all given; this concerns presence alone.
            UnavailableError: Graph or Entra ID did not give the whole list.
            GraphError: Graph refuses the list.
        """
        seen: set[str] = set()
        for version in graph.API_VERSIONS:
            async for page in self.pages(f"{self._endpoint}/{version}/subscriptions", tenant_id, limiter=self._lists):
                subscriptions = list(readable_subscriptions(page, tenant_id, version, self._clock.now()))
                yield [one for one in subscriptions if one.id not in seen]
                seen.update(one.id for one in subscriptions)
        async for others in self._signed_in_pages(tenant_id):
            yield [one for one in others if one.id not in seen]

    async def _signed_in_pages(self, tenant_id: str) -> AsyncIterator[Sequence[Subscription]]:
        """What was subscribed to for a signed-in user, by another application where the app is a managed identity."""
        try:
            credentials = {id(self._credentials(tenant_id, delegated=delegated)) for delegated in (False, True)}
            if len(credentials) == 1:
                return
            for version in resources.DELEGATED_VERSIONS:
                url = f"{self._endpoint}/{version}/subscriptions"
                async for page in self.pages(url, tenant_id, limiter=self._lists, delegated=True):
                    yield list(readable_subscriptions(page, tenant_id, version, self._clock.now()))
        except graph_errors.SignInRequiredError:
            return  # whether presence is wanted at all is not known here
        except (UnavailableError, graph_errors.GraphError) as error:
            raise graph_errors.SignedInListError(error) from error

    async def group_members(self, tenant_id: str, group_id: str) -> tuple[str, ...]:
        """Object ids of the users in a group and in the groups within it.

        Source: "List group transitive members" (https://learn.microsoft.com/graph/api/group-list-transitivemembers).

        Raises:
            UnavailableError: Graph or Entra ID did not give the whole list.
            GraphError: there is no such group, or GroupMember.Read.All is not granted.
        """
        url = f"{self._endpoint}/v1.0/groups/{group_id}/transitiveMembers?$select=id&$top=999"
        users = [
            str(value["id"])
            async for page in self.pages(url, tenant_id)
            for value in page
            if value.get("@odata.type") == "#microsoft.graph.user" and "id" in value
        ]
        return tuple(dict.fromkeys(users))

    async def may_get_validation_tokens(self, tenant_id: str, app_id: str) -> bool:
        """Whether Entra ID gives Graph the tokens that vouch for rich notifications to an application.

        It does not where users have to be assigned to the application and "Microsoft Graph Change Tracking" is not
        ("Set up change notifications that include resource data",
        https://learn.microsoft.com/graph/change-notifications-with-resource-data).

        Raises:
            UnavailableError: Graph or Entra ID did not answer.
            GraphError: there is no such application in the tenant, or Application.Read.All is not granted.
        """
        principal = f"{self._endpoint}/v1.0/servicePrincipals(appId='{app_id}')"
        value = await self.get(f"{principal}?$select=id,appRoleAssignmentRequired", tenant_id)
        if not value.get("appRoleAssignmentRequired"):
            return True
        async for page in self.pages(f"{principal}/appRoleAssignedTo", tenant_id):
            if any(value.get("principalDisplayName") == _CHANGE_TRACKING for value in page):
                return True
        return False

    async def subscription(self, tenant_id: str, subscription_id: str) -> Subscription:
        """One subscription, in whichever API version and by whichever identity it can be read.

        Graph refuses the application's own token for what a signed-in user subscribed to.

        Raises:
            NotFoundError: nobody can see it.
            UnavailableError: Graph or Entra ID did not answer.
            GraphError: Graph refuses.
        """
        refusal: graph_errors.GraphError = graph_errors.NotFoundError(f"no subscription {subscription_id}")
        own = ((version, False) for version in graph.API_VERSIONS)
        ways = [*own, *((version, True) for version in resources.DELEGATED_VERSIONS)]
        for version, delegated in ways:
            url = f"{self._endpoint}/{version}/subscriptions/{subscription_id}"
            try:
                value = await self.get(url, tenant_id, delegated=delegated)
            except graph_errors.NotFoundError:
                continue
            except graph_errors.PermissionDeniedError as error:
                refusal = error
            except graph_errors.SignInRequiredError:  # nobody has signed in, and so nobody can have made it
                if not delegated:
                    raise
            else:
                return self._parsed(value, tenant_id, version)
        raise refusal

    def _parsed(self, value: Mapping[str, Any], tenant_id: str, version: ApiVersion) -> Subscription:
        try:
            return graph.parse_subscription(value, tenant_id, version, assumed=self._clock.now())
        except MalformedInputError as error:
            raise UnavailableError("what Graph says of the subscription", reason=error.reason) from error

    async def pages(
        self, url: str, tenant_id: str, *, limiter: RateLimiter | None = None, delegated: bool = False
    ) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        """A collection, following `@odata.nextLink` after empty pages too; see `get`."""
        asked: set[str] = set()
        while url:
            if url in asked or len(asked) >= _MAX_PAGES:
                raise UnavailableError("Graph's list", reason="paging")
            asked.add(url)
            page = await self.get(url, tenant_id, limiter=limiter, delegated=delegated)
            values = page.get("value")
            if not isinstance(values, list):
                raise UnavailableError("Graph's list", reason="paging")
            yield [value for value in values if isinstance(value, Mapping)]
            url = str(page.get("@odata.nextLink") or "")

    async def get(
        self, url: str, tenant_id: str, *, limiter: RateLimiter | None = None, delegated: bool = False
    ) -> Mapping[str, Any]:
        """GET one answer, tried again where that may help.

        Args:
            url: below the endpoint, or as Graph gave it in a link.
            tenant_id: whose data it is.
            limiter: the limit that it counts against.
            delegated: as the signed-in user.

        Raises:
            UnavailableError: Graph or Entra ID did not answer, or the link leads elsewhere.
            GraphError: Graph refuses.
        """
        # The example in "Get callRecord" (https://learn.microsoft.com/graph/api/callrecords-callrecord-get) prints a
        # link to further sessions in the form of a context URL; what follows "#" would never be sent.
        url = url.replace(_CONTEXT, "/", 1)
        if not same_origin(url, self._endpoint):  # it would be handed the token
            raise UnavailableError("Graph's list", reason="paging")
        tries = 1
        service = (tenant_id, service_of(url))
        while True:
            try:
                async with self._admission(service, [] if limiter is None else [(limiter, 1)]):
                    answer = await self._exchange("GET", url, tenant_id, delegated)
            except CredentialError:
                raise
            except UnavailableError as error:
                wait = _seconds_before_retry(tries, error.retry_after)
                if tries >= _TRIES or wait > LONGEST_PAUSE:
                    raise
            else:
                self._pauses.forget(service)
                return answer
            tries += 1
            await self._clock.sleep(wait)

    async def post(self, url: str, tenant_id: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """POST once, and give what is answered.

        Raises:
            UnavailableError: Graph or Entra ID did not answer; whether it was carried out is not known then.
            GraphError: Graph refuses.
        """
        async with self._admission((tenant_id, service_of(url)), []):
            return await self._exchange("POST", url, tenant_id, False, body)

    @asynccontextmanager
    async def _admission(
        self, service: Service, limiters: Sequence[tuple[RateLimiter, int]], urgent: datetime | None = None
    ) -> AsyncIterator[None]:
        """Wait until a request may be sent: first for a pause that Graph has asked for, then for the limits.

        Raises:
            UnavailableError: the pause is longer than a caller should be kept.
        """
        while True:
            await self._pauses.wait(service, urgent)
            async with AsyncExitStack() as stack:
                entries = [
                    await stack.enter_async_context(limiter.enter(service[0], count)) for limiter, count in limiters
                ]
                if self._pauses.seconds_left(service, urgent) > 0:  # asked for meanwhile
                    for entry in entries:
                        entry.withdraw()
                    continue
                yield
                return

    async def _exchange(
        self, method: str, url: str, tenant_id: str, delegated: bool, body: Any = None
    ) -> Mapping[str, Any]:
        """One request and its JSON, or the typed error."""
        service = (tenant_id, service_of(url))
        threads = self._threads.get(service)
        if threads is None:
            threads = self._threads[service] = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"graph-{service[1]}")
        context = contextvars.copy_context()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                threads, context.run, self._request, method, url, tenant_id, delegated, body
            )
        except SwitchboardError as error:
            self._pauses.note(service, error)
            raise

    def _request(self, method: str, url: str, tenant_id: str, delegated: bool, body: Any) -> Mapping[str, Any]:
        try:
            token = self._credentials(tenant_id, delegated=delegated).get_token(f"{self._endpoint}/.default").token
        except AzureError as error:
            raise CredentialError("Entra ID's token") from error
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        data = None
        if body is not None:
            data = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        try:
            response = self._session.request(
                method, url, data=data, headers=headers, timeout=self._timeout, allow_redirects=False
            )
        except requests.ConnectTimeout as error:
            raise UnavailableError("Graph", reason="unreachable") from error
        except requests.RequestException as error:
            raise OutcomeUnknownError from error
        decoded = decoded_json(response.content)
        if response.status_code >= 300:
            retry_after = graph.parse_retry_after(response.headers.get("Retry-After"), self._clock.now())
            raise graph_errors.error_of(response.status_code, decoded, retry_after)
        if not isinstance(decoded, Mapping):
            raise OutcomeUnknownError
        return decoded

    def _replies(self, calls: Sequence[Call], answer: Mapping[str, Any]) -> list[Reply]:
        """The reply to each call; parts come in any order, and one that is missing has an unknown outcome."""
        responses = answer.get("responses")
        parts = {
            str(part.get("id")): part
            for part in (responses if isinstance(responses, list) else ())
            if isinstance(part, Mapping)
        }
        replies = [reply_to(call, parts.get(str(place)), self._clock.now()) for place, call in enumerate(calls)]
        service = (calls[0].tenant_id, SUBSCRIPTIONS)
        throttled = [reply for reply in replies if isinstance(reply, UnavailableError) and reply.reason == "throttled"]
        for reply in throttled:
            self._pauses.note(service, reply)
        if not throttled:
            self._pauses.forget(service)
        return replies


def _seconds_before_retry(failures: int, retry_after: float | None) -> float:
    """What Graph asked for, else longer each time; spread, so that those who failed together do not meet again."""
    spread = random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
    return retry_after + spread / 2 if retry_after is not None else spread * backoff(failures)
