"""Graph's REST interface: subscriptions, $batch, and their errors.

Sources: Graph API reference, "Create subscription", "Get subscription", "List subscriptions", "Update subscription",
"Delete subscription", "subscription: reauthorize"; Graph, "Combine multiple HTTP requests using JSON batching".
"""

import asyncio
import codecs
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from aiohttp import web

from dev.simulator.clock import Clock, graph_time, parse_time
from dev.simulator.crypto import Recipient
from dev.simulator.delivery import Courier
from dev.simulator.entra import Caller, Entra
from dev.simulator.faults import Fault, Faults, cut
from dev.simulator.rules import GraphError, ResourceRule, bad_request, check_body, check_required, rule_for
from dev.simulator.subscriptions import Store, Subscription
from dev.simulator.throttle import Operation, Throttle
from dev.simulator.tokens import GRAPH_APP_ID

SHORTEST: Final = timedelta(minutes=45)
_BATCH_LIMIT: Final = 20
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_FAULT_CODES: Final = {429: "TooManyRequests", 503: "ServiceUnavailable", 504: "GatewayTimeout"}


@dataclass
class GraphSettings:
    """Switches of the subscriptions API, to be set at any time.

    `quotas` are subscriptions per tenant: of call records, and of all Teams resources together. `certificate_patch` is
    whether PATCH takes the certificate's fields (two pages of Graph's disagree). `lifetime_margin` is how much the
    enforced lifetimes fall short of the documented ones. `duplicates` can be allowed, as they at times are.
    `empty_page_first` starts every LIST with an empty page and a nextLink. `blind_lists` have nothing on any page, as
    has happened for days (microsoftgraph/microsoft-graph-docs, issues 15648 and 17354). `separate_versions` lists under
    v1.0 and beta only what was made there. `notification_ids` gives each item the optional `id`. `byte_order_mark`
    opens every answer with one, as answers of some workloads do. `odd_echoes` spell resources otherwise, put
    certificates' ids in capitals, and leave out queries and change types, `untold_expirations` are null in lists, and
    `stuck_renewals` are answered without prolonging anything (microsoft-graph-docs, issue 9421). `longest_grant` is
    granted at most. `bad_entries` are in lists what is no subscription, and `patchy_lists` leave out every third,
    another each time. `lifecycle_names_resource` gives lifecycle notifications a change notification's fields, as have
    been received (msgraph-sdk-java, issue 1551). `transcript_access` is the Teams administrator's switch, without which
    nothing about transcripts is answered ("Manage access to transcripts with Microsoft Graph").
    """

    page_size: int = 100
    empty_page_first: bool = False
    blind_lists: bool = False
    separate_versions: bool = False
    certificate_patch: Literal["honour", "ignore"] = "honour"
    lifecycle_url_everywhere: bool = False
    lifetime_margin: timedelta = timedelta(0)
    duplicates: Literal["refuse", "allow"] = "refuse"
    handshake: bool = True
    notification_ids: bool = True
    byte_order_mark: bool = False
    odd_echoes: bool = False
    untold_expirations: bool = False
    bad_entries: bool = False
    patchy_lists: bool = False
    stuck_renewals: bool = False
    longest_grant: timedelta | None = None
    lifecycle_names_resource: bool = False
    transcript_access: bool = True
    quotas: dict[str, int] = field(default_factory=lambda: {"callRecords": 100, "teams": 10_000})


@dataclass(frozen=True)
class GraphRequest:
    """One request, whether it came by itself or in a $batch. `path` has neither version nor query."""

    method: str
    version: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    base: str
    in_batch: bool = False

    @property
    def target(self) -> str:
        """Version, path and query."""
        return f"/{self.version}{self.path}" + (f"?{urlencode(self.query, safe='$')}" if self.query else "")


@dataclass(frozen=True)
class GraphResponse:
    """One answer; `lost` means that the client is not to see it."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    lost: bool = False


Handler = Callable[[GraphRequest, Caller, re.Match[str]], Awaitable[GraphResponse]]


@dataclass(frozen=True)
class Route:
    """What answers a method and path; `operation` names the throttle that it falls under."""

    method: str
    path: re.Pattern[str]
    handler: Handler
    operation: Operation | None = None


class GraphApi:
    """The interface, independent of how requests arrive."""

    def __init__(self, clock: Clock, entra: Entra, courier: Courier, faults: Faults) -> None:
        self._clock, self._entra, self._courier, self._faults = clock, entra, courier, faults
        self.settings = GraphSettings()
        self.throttle = Throttle(clock)
        self.store = Store(clock)
        self._lists = 0
        one = r"/subscriptions/(?P<id>[^/]+)"
        self._routes = [
            Route("POST", re.compile(r"/subscriptions"), self._create, "write"),
            Route("GET", re.compile(r"/subscriptions"), self._list, "list"),
            Route("GET", re.compile(one), self._get, "get"),
            Route("PATCH", re.compile(one), self._update, "write"),
            Route("DELETE", re.compile(one), self._delete, "write"),
            Route("POST", re.compile(rf"{one}/reauthorize"), self._reauthorize, "reauthorize"),
            Route("POST", re.compile(r"/\$batch"), self._batch),
        ]

    def mount(self, route: Route) -> None:
        """Serve another resource."""
        self._routes.append(route)

    async def dispatch(self, request: GraphRequest) -> GraphResponse:
        """Answer `request`, faults and record included."""
        fault = self._faults.take("graph", request.method, request.target)
        response = await self._answer_with(fault, request)
        if response.lost and request.in_batch:
            response = _error(request, GraphError(504, "GatewayTimeout", "The answer was lost on demand."), self._clock)
        status = 0 if response.lost else response.status
        self._faults.record("graph", request.method, request.target, status, in_batch=request.in_batch)
        return response

    async def _answer_with(self, fault: Fault | None, request: GraphRequest) -> GraphResponse:
        if fault is None:
            return await self._answer(request)
        if fault.delay:
            await self._clock.sleep(fault.delay)
        if fault.hang_up == "before":
            return GraphResponse(0, lost=True)
        if fault.status is not None:
            code = _FAULT_CODES.get(fault.status, "UnknownError")
            error = GraphError(fault.status, code, fault.message, retry_after=fault.retry_after)
            return _error(request, error, self._clock)
        response = await self._answer(request)
        return replace(response, lost=fault.hang_up == "after")

    async def _answer(self, request: GraphRequest) -> GraphResponse:
        try:
            return await self._route(request)
        except GraphError as error:
            return _error(request, error, self._clock)

    async def _route(self, request: GraphRequest) -> GraphResponse:
        audiences = ("https://graph.microsoft.com", GRAPH_APP_ID, request.base)
        caller = self._entra.verify(request.headers.get("authorization"), audiences)
        if caller is None:
            raise GraphError(401, "InvalidAuthenticationToken", "Access token is empty, invalid or expired.")
        for route in self._routes:
            match = route.path.fullmatch(request.path)
            if route.method == request.method and match is not None:
                if route.operation is not None:
                    self.throttle.admit(route.operation, caller.app_id, caller.tenant_id)
                return await route.handler(request, caller, match)
        raise bad_request("Resource not found for the segment.", "BadRequest")

    # Subscriptions

    async def _create(self, request: GraphRequest, caller: Caller, _match: re.Match[str]) -> GraphResponse:
        body = request.body
        check_required(body)
        rule = rule_for(body["resource"], request.version)
        check_body(body, rule)
        self._permit(rule, caller)
        expires = self._expiration(body["expirationDateTime"], rule)
        for name in ("notificationUrl", "lifecycleNotificationUrl"):
            _check_url(body.get(name))
        long = expires - self._clock.now() > timedelta(hours=1)
        demanded = rule.teams or self.settings.lifecycle_url_everywhere
        if long and demanded and not body.get("lifecycleNotificationUrl"):
            raise bad_request(
                "lifecycleNotificationUrl is required for subscription creation on this resource "
                "when the expirationDateTime value exceeds 1 hour"
            )
        rich = body.get("includeResourceData") is True
        subscription = Subscription(
            id=str(uuid.uuid4()),
            rule=rule,
            version=request.version,
            resource=body["resource"],
            change_type=body["changeType"],
            notification_url=body["notificationUrl"],
            lifecycle_notification_url=body.get("lifecycleNotificationUrl"),
            client_state=body.get("clientState"),
            expires=expires,
            app_id=caller.app_id,
            tenant_id=caller.tenant_id,
            user_id=caller.user_id,
            creator_id=caller.user_id or str(uuid.uuid5(uuid.NAMESPACE_URL, f"{caller.tenant_id}/{caller.app_id}")),
            latest_tls_version=body.get("latestSupportedTlsVersion") or "v1_2",
            notification_url_app_id=body.get("notificationUrlAppId"),
            encryption_certificate=body["encryptionCertificate"] if rich else None,
            encryption_certificate_id=body["encryptionCertificateId"] if rich else None,
            recipient=_recipient(body["encryptionCertificate"], body["encryptionCertificateId"]) if rich else None,
        )
        limits: dict[str, Any] = {
            "quota": self.settings.quotas.get(rule.quota),
            "refuse_duplicates": self.settings.duplicates == "refuse",
        }
        self.store.check(subscription, **limits)
        if self.settings.handshake:
            await self._courier.handshake(subscription.notification_url)
            if subscription.lifecycle_notification_url:
                await self._courier.handshake(subscription.lifecycle_notification_url)
        self.store.add(subscription, **limits)
        return GraphResponse(201, _context(request, "subscriptions/$entity") | self._told(subscription))

    def _told(self, subscription: Subscription) -> dict[str, Any]:
        """The `subscription` resource as it is told."""
        entity = subscription.entity()
        if self.settings.odd_echoes:
            certificate_id = entity["encryptionCertificateId"]
            entity |= {
                "resource": "/" + entity["resource"].replace(" ", "+").replace("?", "/?").replace("users/", "Users/"),
                "changeType": None,
                "notificationUrl": entity["notificationUrl"].partition("?")[0],
                "encryptionCertificateId": None if certificate_id is None else certificate_id.upper(),
            }
        return entity

    async def _get(self, request: GraphRequest, caller: Caller, match: re.Match[str]) -> GraphResponse:
        subscription = self._find(caller, match["id"])
        return GraphResponse(200, _context(request, "subscriptions/$entity") | self._told(subscription))

    async def _list(self, request: GraphRequest, caller: Caller, _match: re.Match[str]) -> GraphResponse:
        known = [
            known
            for known in self.store.all()
            if (known.app_id, known.tenant_id) == (caller.app_id, caller.tenant_id)
            and caller.user_id in {None, known.user_id}
            and (known.version == request.version or not self.settings.separate_versions)
        ]
        token = request.query.get("$skiptoken")
        first = token is None and self.settings.empty_page_first
        start = int(token or 0)
        end = start if first else start + self.settings.page_size
        shown = [] if self.settings.blind_lists else known[start:end]
        if self.settings.patchy_lists:
            self._lists += 1
            shown = [entry for place, entry in enumerate(shown) if (place + self._lists) % 3]
        # The secret is not handed out in lists.
        body = _context(request, "subscriptions") | {
            "value": [self._told(entry) | {"clientState": None} for entry in shown]
        }
        if self.settings.untold_expirations:
            body["value"] = [entry | {"expirationDateTime": None} for entry in body["value"]]
        if self.settings.bad_entries:
            body["value"] += [None, 7, {}, {"id": None, "resource": None}, {"id": str(uuid.UUID(int=7))}]
        if first or end < len(known):
            body["@odata.nextLink"] = f"{request.base}/{request.version}/subscriptions?$skiptoken={end}"
        return GraphResponse(200, body)

    async def _update(self, request: GraphRequest, caller: Caller, match: re.Match[str]) -> GraphResponse:
        found = self._find(caller, match["id"])
        body = request.body
        if not isinstance(body, dict) or not {"expirationDateTime", "notificationUrl"} & body.keys():
            raise bad_request("At least one of expirationDateTime and notificationUrl is required.")
        self._permit(found.rule, caller)
        changes: dict[str, Any] = {}
        if "expirationDateTime" in body:
            wanted = self._expiration(str(body["expirationDateTime"]), found.rule)
            changes["expires"] = found.expires if self.settings.stuck_renewals else wanted
        if "notificationUrl" in body:
            _check_url(str(body["notificationUrl"]))
            changes["notification_url"] = str(body["notificationUrl"])
        certificate, certificate_id = body.get("encryptionCertificate"), body.get("encryptionCertificateId")
        if (certificate is None) != (certificate_id is None):
            raise bad_request("encryptionCertificate and encryptionCertificateId must be given together.")
        if certificate is not None and found.recipient is not None and self.settings.certificate_patch == "honour":
            changes |= {
                "encryption_certificate": str(certificate),
                "encryption_certificate_id": str(certificate_id),
                "recipient": _recipient(str(certificate), str(certificate_id)),
            }
        changed = self.store.change(found.id, lambda known: replace(known, **changes))
        if changed is None:
            raise _not_found()
        return GraphResponse(200, _context(request, "subscriptions/$entity") | self._told(changed))

    async def _delete(self, _request: GraphRequest, caller: Caller, match: re.Match[str]) -> GraphResponse:
        self.store.remove(self._find(caller, match["id"]).id)
        return GraphResponse(204)

    async def _reauthorize(self, _request: GraphRequest, caller: Caller, match: re.Match[str]) -> GraphResponse:
        self._find(caller, match["id"])
        return GraphResponse(204)

    def _find(self, caller: Caller, subscription_id: str) -> Subscription:
        found = self.store.get(subscription_id)
        if found is None or (found.app_id, found.tenant_id) != (caller.app_id, caller.tenant_id):
            raise _not_found()
        if found.user_id is not None and caller.user_id is None:
            raise GraphError(403, "Forbidden", "The application may not access a user's subscription.")
        return found

    def _permit(self, rule: ResourceRule, caller: Caller) -> None:
        held = caller.scopes if rule.delegated else caller.roles
        if rule.permission not in held:
            raise GraphError(403, "Forbidden", f"The caller lacks the permission {rule.permission}.")
        if rule.of_transcripts and not self.settings.transcript_access:
            raise GraphError(
                403,
                "Forbidden",
                "Graph API access to transcripts is disabled for this tenant.",
                inner="GraphAccessToTranscriptsDisabled",
            )

    def _expiration(self, text: str, rule: ResourceRule) -> Any:
        try:
            wanted = parse_time(text)
        except ValueError:
            raise bad_request(f"The value '{text}' of expirationDateTime is not a time.") from None
        now, longest = self._clock.now(), rule.max_lifetime - self.settings.lifetime_margin
        if wanted > now + longest:
            minutes = int(longest.total_seconds() // 60)
            raise bad_request(f"Subscription expiration can only be {minutes} minutes in the future.", "ExtensionError")
        if wanted <= now:
            raise bad_request("Subscription expiration must be in the future.")
        if self.settings.longest_grant is not None:
            wanted = min(wanted, now + self.settings.longest_grant)
        return max(wanted, now + SHORTEST)

    # $batch

    async def _batch(self, request: GraphRequest, _caller: Caller, _match: re.Match[str]) -> GraphResponse:
        parts = request.body.get("requests") if isinstance(request.body, dict) else None
        if request.in_batch or not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise bad_request("The batch request is not well formed.", "BadRequest")
        if not parts:
            raise bad_request("The batch request must have an array of requests.", "BadRequest")
        if len(parts) > _BATCH_LIMIT:
            raise bad_request(f"The number of requests in a batch exceeds the limit of {_BATCH_LIMIT}.", "BadRequest")
        ids = [part.get("id") for part in parts]
        if len(set(ids)) != len(ids) or not all(isinstance(name, str) for name in ids):
            raise bad_request("Every request in a batch needs an id of its own.", "BadRequest")
        running: dict[str, asyncio.Task[GraphResponse]] = {}
        for part in parts:
            earlier = [running[name] for name in part.get("dependsOn") or () if name in running]
            running[part["id"]] = asyncio.create_task(self._batch_part(request, part, earlier))
        answers = []
        # Graph promises no order; the reverse one shows whoever relies on it.
        for name in reversed(ids):
            answer = await running[name]
            entry: dict[str, Any] = {"id": name, "status": answer.status, "headers": dict(answer.headers)}
            if answer.body is not None:
                entry["headers"]["Content-Type"] = "application/json"
                entry["body"] = answer.body
            answers.append(entry)
        return GraphResponse(200, {"responses": answers})

    async def _batch_part(
        self, request: GraphRequest, part: Mapping[str, Any], earlier: list[asyncio.Task[GraphResponse]]
    ) -> GraphResponse:
        url = urlsplit(str(part.get("url", "")))
        headers = {name.lower(): value for name, value in (part.get("headers") or {}).items()}
        inner = GraphRequest(
            method=str(part.get("method", "")).upper(),
            version=request.version,
            path="/" + url.path.strip("/"),
            query=dict(parse_qsl(url.query)),
            headers={"authorization": request.headers.get("authorization", "")} | headers,
            body=part.get("body"),
            base=request.base,
            in_batch=True,
        )
        if any(answer.status >= 400 for answer in await asyncio.gather(*earlier)):
            return _error(inner, GraphError(424, "FailedDependency", "A request depended on has failed."), self._clock)
        if inner.body is not None and "application/json" not in headers.get("content-type", ""):
            return _error(inner, bad_request("A body needs the header Content-Type.", "BadRequest"), self._clock)
        return await self.dispatch(inner)


def _check_url(url: str | None) -> None:
    if url is None:
        return
    parts = urlsplit(url)
    # Plain HTTP is for loopback alone, where no certificate could be had.
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise bad_request("The notification url must be an absolute https url.")


def _recipient(certificate: str, certificate_id: str) -> Recipient:
    try:
        return Recipient.from_der_base64(certificate, certificate_id)
    except ValueError as problem:
        raise bad_request(f"Certificate validation error: {problem}") from None


def _not_found() -> GraphError:
    return GraphError(404, "ResourceNotFound", "The object was not found.")


def _context(request: GraphRequest, what: str) -> dict[str, Any]:
    return {"@odata.context": f"{request.base}/{request.version}/$metadata#{what}"}


def _error(request: GraphRequest, error: GraphError, clock: Clock) -> GraphResponse:
    request_id = str(uuid.uuid4())
    inner = {
        "date": graph_time(clock.now())[:19],
        "request-id": request_id,
        "client-request-id": request.headers.get("client-request-id", request_id),
    }
    if error.inner is not None:
        inner["code"] = error.inner
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="", authorization_uri="https://login.microsoftonline.com/common"'
    body = {"error": {"code": error.code, "message": error.message, "innerError": inner}}
    return GraphResponse(error.status, body, headers)


def application(api: GraphApi) -> web.Application:
    """The interface over HTTP."""

    async def handle(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            return web.json_response({"error": {"code": "BadRequest", "message": "Not JSON."}}, status=400)
        response = await api.dispatch(
            GraphRequest(
                method=request.method,
                version=request.match_info["version"],
                path="/" + request.match_info["path"].strip("/"),
                query=dict(request.query),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=body,
                base=f"{request.scheme}://{request.host}",
            )
        )
        if response.lost:
            cut(request)
            return web.Response()
        headers = {"request-id": str(uuid.uuid4()), **response.headers}
        if response.body is None:
            return web.Response(status=response.status, headers=headers)
        mark = codecs.BOM_UTF8 if api.settings.byte_order_mark else b""
        content = mark + json.dumps(response.body).encode()
        return web.Response(body=content, status=response.status, headers=headers, content_type="application/json")

    application = web.Application(client_max_size=4 * 1024 * 1024)
    application.router.add_route("*", r"/{version:v1\.0|beta}/{path:.*}", handle)
    return application
