"""Routes under `/_control`, with which a person drives the simulator by hand. Plain HTTP on loopback.

And the page on which somebody who signs in by device code enters it, as on https://microsoft.com/devicelogin.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from dev.simulator.clock import graph_time
from dev.simulator.entra import User
from dev.simulator.faults import Fault
from dev.simulator.payloads import Kind, Options

if TYPE_CHECKING:
    from dev.simulator.server import Simulator


DEVICE_LOGIN: Final = "/devicelogin"
_DEVICE_LOGIN_PAGE: Final = """\
<!doctype html><title>Sign in</title>
<form method="post"><label>Code <input name="code" autofocus></label> <button>Sign in</button></form>
"""


@dataclass(frozen=True)
class NotifyRequest:
    """`notify`: a kind of happening for a subscription or resource; `options` vary it."""

    target: str
    kind: Kind
    options: Options | None = None


@dataclass(frozen=True)
class LifecycleRequest:
    """`lifecycle`: an event of a subscription's own life."""

    target: str
    event: str = "reauthorizationRequired"


@dataclass(frozen=True)
class RemoveRequest:
    """`remove`: a subscription to lose."""

    id: str


@dataclass(frozen=True)
class FaultRequest:
    """`fault`: what shall go wrong, and how often (null: until `clear-faults`)."""

    fault: Fault
    times: int | None = 1


@dataclass(frozen=True)
class ApproveRequest:
    """`approve`: a device code that somebody signs in with."""

    user_code: str


@dataclass(frozen=True)
class Nothing:
    """A command without particulars."""


def application(simulator: "Simulator") -> web.Application:
    """The control routes of `simulator`."""

    def notify(body: NotifyRequest) -> Any:
        return [entry.key for entry in simulator.graph.notify(body.target, body.kind, body.options)]

    def lifecycle(body: LifecycleRequest) -> Any:
        return [entry.key for entry in simulator.graph.notify_lifecycle(body.target, body.event)]

    def rotate_certificate(_body: Nothing) -> Any:
        return simulator.vault.rotate_certificate().version

    def rotate_keys(_body: Nothing) -> Any:
        return simulator.entra.rotate_keys().kid

    def remove(body: RemoveRequest) -> Any:
        simulator.graph.remove(body.id)

    def fault(body: FaultRequest) -> Any:
        simulator.faults.add(body.fault, times=body.times)

    def clear_faults(_body: Nothing) -> Any:
        simulator.faults.clear()

    def approve(body: ApproveRequest) -> Any:
        simulator.entra.approve(body.user_code, User())

    async def device_login(request: web.Request) -> web.Response:
        code = str((await request.post()).get("code", "")).strip().upper()
        try:
            simulator.entra.approve(code)
        except KeyError:
            return web.Response(text="There is no such code.\n", status=404)
        return web.Response(text="You are signed in.\n")

    async def device_login_page(_request: web.Request) -> web.Response:
        return web.Response(text=_DEVICE_LOGIN_PAGE, content_type="text/html")

    async def state(_request: web.Request) -> web.Response:
        return web.json_response(_state(simulator))

    application = web.Application()
    application.router.add_get("/_control/state", state)
    application.router.add_get(DEVICE_LOGIN, device_login_page)
    application.router.add_post(DEVICE_LOGIN, device_login)
    commands: tuple[tuple[str, type, Callable[[Any], Any]], ...] = (
        ("notify", NotifyRequest, notify),
        ("lifecycle", LifecycleRequest, lifecycle),
        ("rotate-certificate", Nothing, rotate_certificate),
        ("rotate-keys", Nothing, rotate_keys),
        ("remove", RemoveRequest, remove),
        ("fault", FaultRequest, fault),
        ("clear-faults", Nothing, clear_faults),
        ("approve", ApproveRequest, approve),
    )
    for name, shape, command in commands:
        application.router.add_post(f"/_control/{name}", _handler(shape, command))
    return application


def _handler(shape: type, command: Callable[[Any], Any]) -> Callable[[web.Request], Any]:
    async def handle(request: web.Request) -> web.Response:
        raw = await request.read() or b"{}"
        try:
            result = command(msgspec.json.decode(raw, type=shape))
        except msgspec.DecodeError as problem:
            return web.json_response({"error": str(problem)}, status=400)
        except LookupError as problem:
            return web.json_response({"error": f"unknown: {problem}"}, status=404)
        return web.json_response({"done": request.path.rpartition("/")[2], "result": result})

    return handle


def _state(simulator: "Simulator") -> dict[str, Any]:
    return {
        "time": graph_time(simulator.clock.now()),
        "settings": simulator.environment() | {"IDENTITY_HEADER": "(hidden)"},
        # A subscription's shared secret and certificate have no business in what is only looked at.
        "subscriptions": [
            entry.entity() | {"clientState": None, "encryptionCertificate": None}
            for entry in simulator.graph.subscriptions
        ],
        "certificateVersions": [entry.version for entry in simulator.vault.versions(simulator.vault.certificate_name)],
        "signingKeys": [key.kid for key in simulator.entra.signing_keys],
        "deliveries": [
            {
                "url": entry.url,
                "state": entry.state,
                "notifications": len(entry.notifications),
                "attempts": [
                    {"at": graph_time(attempt.at), "status": attempt.status, "error": attempt.error}
                    for attempt in entry.attempts
                ],
            }
            for entry in simulator.graph.deliveries
        ],
        "requests": len(simulator.faults.requests),
    }
