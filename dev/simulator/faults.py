"""Faults on demand: status, delay, a hang-up before or after the work is done."""

import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from aiohttp import web

from dev.simulator.clock import Clock

Service = Literal["graph", "login", "vault", "identity"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the requests that match.

    `method` and `path` are regular expressions for the whole method and for any part of the path with its query.
    `delay` passes (on the simulator's clock) before anything else. Then either `status` is answered with `message`
    without doing the work, with `retry_after` seconds if given; or, with `hang_up`, the connection is cut: `before` the
    work or `after` it, so that the client never learns that it was done. With neither, the fault is mere latency.
    """

    service: Service
    method: str = ".*"
    path: str = ""
    status: int | None = None
    retry_after: int | None = None
    delay: float = 0.0
    hang_up: Literal["before", "after"] | None = None
    message: str = "Answered on demand."

    def matches(self, service: Service, method: str, path: str) -> bool:
        """Whether this fault befalls the request."""
        return (
            service == self.service
            and re.fullmatch(self.method, method) is not None
            and re.search(self.path, path) is not None
        )


@dataclass(frozen=True)
class RequestRecord:
    """One request as it was answered; `status` is 0 where the connection was cut. Parts of a $batch count singly."""

    service: Service
    method: str
    path: str
    status: int
    at: datetime
    in_batch: bool = False


@dataclass(eq=False)
class _Planned:
    fault: Fault
    left: int | None


@dataclass
class Faults:
    """The faults in force, and a record of every request. Thread-safe."""

    clock: Clock
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _planned: list[_Planned] = field(default_factory=list)
    _records: list[RequestRecord] = field(default_factory=list)

    def add(self, fault: Fault, *, times: int | None = 1) -> None:
        """Let `fault` befall the next `times` matching requests, or all until `end` or `clear` if None."""
        with self._lock:
            self._planned.append(_Planned(fault, times))

    def end(self, fault: Fault) -> None:
        """End this one fault: the very object that was added, for there may be others like it.

        Raises:
            ValueError: it is not in force.
        """
        with self._lock:
            found = next((planned for planned in self._planned if planned.fault is fault), None)
            if found is None:
                raise ValueError("no such fault is in force")
            self._planned.remove(found)

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._planned.clear()

    def take(self, service: Service, method: str, path: str) -> Fault | None:
        """The fault that befalls this request, counted down; None if it goes well."""
        with self._lock:
            for planned in self._planned:
                if not planned.fault.matches(service, method, path):
                    continue
                if planned.left is not None:
                    planned.left -= 1
                    if not planned.left:
                        self._planned.remove(planned)
                return planned.fault
        return None

    def record(self, service: Service, method: str, path: str, status: int, *, in_batch: bool = False) -> None:
        """Note how a request was answered."""
        entry = RequestRecord(service, method, path, status, self.clock.now(), in_batch)
        with self._lock:
            self._records.append(entry)

    @property
    def requests(self) -> tuple[RequestRecord, ...]:
        """Every request answered so far, in order."""
        with self._lock:
            return tuple(self._records)

    def forget_requests(self) -> None:
        """Start the record anew."""
        with self._lock:
            self._records.clear()


ErrorBody = Callable[[int], web.Response]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def middleware(faults: Faults, service: Service, error_body: ErrorBody) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Faults and the record for a service whose handlers are plain aiohttp ones; `error_body` writes its errors."""

    @web.middleware
    async def apply(request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = faults.take(service, request.method, request.path_qs)
        if fault is not None and fault.delay:
            await faults.clock.sleep(fault.delay)
        response: web.StreamResponse
        if fault is not None and fault.hang_up == "before":
            return _cut(faults, service, request)
        if fault is not None and fault.status is not None:
            response = error_body(fault.status)
            if fault.retry_after is not None:
                response.headers["Retry-After"] = str(fault.retry_after)
        else:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = error_body(error.status)
        if fault is not None and fault.hang_up == "after":
            return _cut(faults, service, request)
        faults.record(service, request.method, request.path_qs, response.status)
        return response

    return apply


def _cut(faults: Faults, service: Service, request: web.Request) -> web.Response:
    faults.record(service, request.method, request.path_qs, 0)
    cut(request)
    return web.Response()


def cut(request: web.Request) -> None:
    """Cut the connection of `request`, so that no answer reaches the client."""
    if request.transport is not None:
        request.transport.abort()
