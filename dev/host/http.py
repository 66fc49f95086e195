"""HTTP triggers and the admin endpoint, on aiohttp.

Sources: "Azure Functions HTTP trigger", "Manually run a non HTTP-triggered function", and, for what a request becomes
on its way to the worker, `GrpcMessageConversionExtensions.ToRpcHttp` of the host (Azure/azure-functions-host).
"""

import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import msgspec
from aiohttp import web

from dev.host.errors import FunctionFailedError, LoadError
from dev.host.logs import log_failure
from dev.host.messages import Message, TypedData
from dev.host.worker import Function, Invocation, Worker

# "host.json reference": requests of up to 100 MB, unless the setting says otherwise.
_MAX_BODY_BYTES = 104_857_600
_BODY_LIMIT = "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"

_ESCAPES = re.compile("(?:%[0-9A-Fa-f]{2})+")
_SLASH = re.compile("(%2[Ff])")
_PARAMETER = re.compile(r"\{([A-Za-z_]\w*)\}")

# Starts an invocation with the admin request's `input`, and does not wait for its end.
type Fire = Callable[[str], None]


@dataclass(frozen=True)
class Route:
    """Where an HTTP function answers."""

    function: Function
    template: str
    pattern: re.Pattern[str]
    methods: frozenset[str]
    is_anonymous: bool

    @classmethod
    def of(cls, function: Function, prefix: str) -> "Route":
        """Read a function's httpTrigger binding.

        Raises:
            LoadError: the route has constraints, optional or catch-all parameters, which this host does not know.
        """
        route = function.trigger.get("route") or function.name
        template = "/" + f"{prefix.strip('/')}/{route.strip('/')}".strip("/")
        literals = _PARAMETER.split(template)
        if any("{" in literal or "}" in literal for literal in literals[::2]):
            raise LoadError(f"function {function.name}: only simple route parameters {{name}} are supported: {route}")
        pattern = "".join(f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(literals))
        methods = frozenset(str(method).upper() for method in function.trigger.get("methods") or ())
        is_anonymous = str(function.trigger.get("authLevel") or "function").lower() == "anonymous"
        # Routes of ASP.NET Core, which the real host uses, ignore case and a slash at the end.
        return cls(function, template, re.compile(f"{pattern}/?", re.IGNORECASE), methods, is_anonymous)


def application(
    worker: Worker, routes: Iterable[Route], fire: Mapping[str, Fire], *, key: str, max_body: int
) -> web.Application:
    """The web application of a function app.

    Args:
        worker: calls the functions.
        routes: its HTTP functions.
        fire: for each function that `POST /admin/functions/{name}` may start, what to do with the request's `input`.
        key: what callers of `/admin` and of routes that are not anonymous have to show.
        max_body: see `body_limit`.
    """
    handler = _Handler(worker, tuple(routes), fire, key=key, max_body=max_body)
    app = web.Application(client_max_size=max_body)
    app.router.add_post("/admin/functions/{name}", handler.start_function)
    app.router.add_route("*", "/{path:.*}", handler.call_function)
    return app


def body_limit(settings: Mapping[str, str]) -> int:
    """How many bytes a body may have.

    Raises:
        LoadError: the setting that says so is no number.
    """
    text = settings.get(_BODY_LIMIT) or str(_MAX_BODY_BYTES)
    if not text.isdecimal():
        raise LoadError(f"{_BODY_LIMIT} must be a number of bytes, not {text!r}")
    return int(text)


class _AdminRequest(msgspec.Struct):
    input: str = ""


class _Handler:
    def __init__(
        self, worker: Worker, routes: tuple[Route, ...], fire: Mapping[str, Fire], *, key: str, max_body: int
    ) -> None:
        self._worker = worker
        self._key = key
        self._max_body = max_body
        # The first function by name whose route fits is taken, even if another has a literal where it has a parameter.
        self._routes = sorted(routes, key=lambda route: route.function.name.lower())
        self._fire = {name.lower(): start for name, start in fire.items()}

    async def call_function(self, request: web.Request) -> web.StreamResponse:
        path = path_of(request.raw_path.partition("?")[0])
        for route in self._routes:
            match = route.pattern.fullmatch(path)
            if match is not None and (not route.methods or request.method in route.methods):
                if not route.is_anonymous and not self._shows_key(request):
                    return web.Response(status=401)
                return await self._call(route.function, request, match.groupdict())
        # The real host has no 405 for a known route: "Function app should return 405 …", azure-functions-host#10098.
        return web.Response(status=404)

    async def start_function(self, request: web.Request) -> web.StreamResponse:
        if not self._shows_key(request):
            return web.Response(status=401)
        start = self._fire.get(request.match_info["name"].lower())
        if start is None:
            return web.Response(status=404)
        if request.content_type != "application/json":
            return web.Response(status=415)
        try:
            admin_request = msgspec.json.decode(await request.read(), type=_AdminRequest)
        except msgspec.DecodeError as error:
            return web.Response(status=400, text=str(error))
        start(admin_request.input)
        return web.Response(status=202)

    def _shows_key(self, request: web.Request) -> bool:
        shown = request.headers.get("x-functions-key") or request.query.get("code") or ""
        return hmac.compare_digest(shown.encode(), self._key.encode())

    async def _call(self, function: Function, request: web.Request, params: Mapping[str, str]) -> web.StreamResponse:
        try:
            body = await self._body(request)
        except web.HTTPRequestEntityTooLarge:
            return web.Response(status=500, headers={"Connection": "close"})
        http = Message(
            method=request.method,
            url=str(request.url),
            headers={name.lower(): ",".join(request.headers.getall(name)) for name in request.headers},
            query=query_of(request.raw_path.partition("?")[2]),
            params=params,
            body=TypedData(bytes=body),
        )
        try:
            trace_parent = request.headers.get("traceparent")
            result = await self._worker.invoke(
                Invocation(function=function, data=TypedData(http=http), trace_parent=trace_parent)
            )
        except FunctionFailedError as error:
            log_failure(function.name, error)
            return web.Response(status=500)
        return _response(result)

    async def _body(self, request: web.Request) -> bytes:
        # The real host hands over nothing of a chunked body: azure-functions-host#7930.
        if "chunked" in request.headers.get("Transfer-Encoding", "").lower():
            return b""
        if (request.content_length or 0) > self._max_body:  # aiohttp would read up to the limit first
            raise web.HTTPRequestEntityTooLarge(self._max_body)
        return await request.read()


def unescape(text: str) -> str:
    """Percent-decode as .NET does: what is not UTF-8 stays text."""

    def decoded(match: re.Match[str]) -> str:
        escapes = [match[0][start : start + 3] for start in range(0, len(match[0]), 3)]
        found = ""
        while escapes:
            for count in range(min(4, len(escapes)), 0, -1):
                characters = bytes.fromhex("".join(escapes[:count]).replace("%", "")).decode(errors="ignore")
                if len(characters) == 1 and len(characters.encode()) == count:
                    found += characters
                    break
            else:
                count = 1
                found += escapes[0]
            del escapes[:count]
        return found

    return _ESCAPES.sub(decoded, text)


def path_of(text: str) -> str:
    """A path as routes see it; an escaped slash stays one."""
    return "".join(part if part.lower() == "%2f" else unescape(part) for part in _SLASH.split(text))


def query_of(text: str) -> dict[str, str]:
    """A query as the function sees it: values of one name, in whatever case, are joined under its last spelling."""
    names: dict[str, str] = {}
    values: dict[str, list[str]] = {}
    for part in filter(None, text.split("&")):
        name, _, value = (unescape(piece.replace("+", " ")) for piece in part.partition("="))
        names[name.lower()] = name
        values.setdefault(name.lower(), []).append(value)
    joined = {names[name]: ",".join(each) for name, each in values.items()}
    return {name: value for name, value in joined.items() if value}


def _response(result: TypedData | None) -> web.Response:
    if result is None:
        return web.Response(status=204)
    if result.WhichOneof("data") == "string":
        return web.Response(text=result.string)
    http = result.http
    response = web.Response(status=int(http.status_code), headers=http.headers, body=http.body.bytes)
    for cookie in http.cookies or ():
        _set_cookie(response, cookie)
    return response


def _set_cookie(response: web.Response, cookie: Message) -> None:
    def value(nullable: Message | None) -> Any:
        return None if nullable is None else nullable.value

    expires = value(cookie.expires)
    max_age = value(cookie.max_age)
    response.set_cookie(
        cookie.name,
        cookie.value,
        domain=value(cookie.domain),
        path=value(cookie.path),
        expires=None if expires is None else formatdate(expires.seconds, usegmt=True),
        max_age=None if max_age is None else int(max_age),
        secure=value(cookie.secure),
        httponly=value(cookie.http_only),
        samesite=cookie.same_site,
    )
