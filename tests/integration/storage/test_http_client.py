"""The client against a server that does what servers do to connections."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import pytest

from dev.host.event_loop import InvocationTask
from dev.ports import held_port
from dev.simulator.tls import CertificateAuthority
from shared import http_client
from shared.http_client import HttpClient, detached, split_url
from tests.integration.storage.server import (
    OK,
    Behaviour,
    Server,
    answers,
    closes,
    is_silent,
    resets,
    says,
    serving,
)

LARGE = b"x" * 30_000_000  # more than the buffers of two sockets hold
_here: ContextVar[str] = ContextVar("_here", default="")


@pytest.fixture
def http() -> Iterator[HttpClient]:
    with closing(HttpClient()) as client:
        yield client


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    soon(monkeypatch)


def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits for next to nothing; what it is to wait for comes before this."""
    monkeypatch.setattr(http_client, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(http_client, "SILENT_SECONDS", 0.2)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("tls"))


async def post(http: HttpClient, server: Server, body: bytes = b"a", url: str = "http://127.0.0.1") -> Any:
    origin, _ = split_url(f"{url}:{server.port}")
    return await http.send(origin, f"POST /q HTTP/1.1\r\nhost: {origin.authority}\r\ncontent-length: {len(body)}", body)


async def test_one_after_the_other_they_share_a_connection_and_at_once_they_do_not(http: HttpClient) -> None:
    async with serving() as server:
        for body in (b"1", b"2", b"3"):
            assert (await post(http, server, body)).body == b"ok"
        assert server.connections == 1
        await asyncio.gather(*(post(http, server, b"4") for _ in range(3)))
    assert (server.connections, server.bodies) == (3, [b"1", b"2", b"3", b"4", b"4", b"4"])
    assert server.heads[0] == f"POST /q HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\ncontent-length: 1\r\n\r\n".encode()


async def test_a_connection_that_was_closed_while_idle_is_not_used(http: HttpClient) -> None:
    async with serving(says(OK, then=closes)) as server:
        await post(http, server, b"1")
        await server.closed.acquire()
        await asyncio.sleep(0.01)  # its end has come here by then
        await post(http, server, b"2")
    assert server.bodies == [b"1", b"2"]


@pytest.mark.parametrize("ends", [closes, resets])
async def test_one_that_is_closed_as_it_is_used_again_is_replaced_at_once(http: HttpClient, ends: Behaviour) -> None:
    async with serving(says(OK), ends) as server:
        await post(http, server, b"1")
        assert (await post(http, server, b"2")).status == 201
    assert server.bodies == [b"1", b"2", b"2"]
    assert server.connections == 2


@pytest.mark.parametrize("ends", [closes, resets])
async def test_a_new_connection_without_an_answer_is_not(http: HttpClient, ends: Behaviour) -> None:
    async with serving(ends) as server:
        with pytest.raises(ConnectionError):
            await post(http, server)
    assert server.bodies == [b"a"]


@pytest.mark.parametrize("ends", [closes, resets])
@pytest.mark.parametrize("part", [OK[:9], OK[:-1], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"])
async def test_an_answer_that_breaks_off_is_none(http: HttpClient, part: bytes, ends: Behaviour) -> None:
    async with serving(says(OK), says(part, then=ends)) as server:
        await post(http, server)
        with pytest.raises(ConnectionError):
            await post(http, server, b"b")
        assert (await post(http, server, b"c")).status == 201
    assert server.bodies == [b"a", b"b", b"c"]


@pytest.mark.parametrize("ends", [closes, resets])
async def test_what_happens_after_an_answer_does_not_matter(http: HttpClient, ends: Behaviour) -> None:
    async with serving(says(OK, then=ends)) as server:
        assert (await post(http, server)).body == b"ok"
        await server.closed.acquire()
        assert (await post(http, server, b"b")).body == b"ok"
    assert server.bodies == [b"a", b"b"]


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        ((OK[:3], OK[3:20], OK[20:]), b"ok"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r", b"\no\r\n1\r\nk\r\n0\r\n", b"\r\n"), b"ok"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", OK), b"ok"),
    ],
)
async def test_answers_in_all_forms(http: HttpClient, answer: tuple[bytes, ...], body: bytes) -> None:
    async with serving(says(*answer)) as server:
        assert (await post(http, server)).body == body
        await post(http, server)
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        says(b"HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
        says(b"HTTP/1.1 201 Created\r\n\r\no", b"k", then=closes),
        says(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_after_these_answers_the_connection_is_closed(http: HttpClient, answer: Behaviour) -> None:
    async with serving(answer) as server:
        assert (await post(http, server)).body == b"ok"
        await post(http, server)
    assert server.connections == 2


async def test_bytes_that_nobody_asked_for_end_a_connection(http: HttpClient) -> None:
    async with serving(says(OK, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as server:
        await post(http, server)
        await server.closed.acquire()
        assert (await post(http, server)).body == b"ok"
    assert server.connections == 2


async def test_a_redirect_is_an_answer_like_any_other(http: HttpClient) -> None:
    async with serving(answers(307, "Location: http://127.0.0.1:1/")) as server:
        assert (await post(http, server)).status == 307
    assert len(server.bodies) == 1


@pytest.mark.parametrize("junk", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
async def test_what_is_no_answer_is_an_error(http: HttpClient, junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def goes_on(writer: asyncio.StreamWriter) -> None:
        for _ in range(20):
            writer.write(junk)

    async with serving(goes_on) as server:
        with pytest.raises(ConnectionError):
            await post(http, server)
        await server.closed.acquire()
    assert caplog.records == []


class TestTimeOuts:
    @pytest.mark.usefixtures("_soon")
    async def test_an_answer_that_does_not_come(self, http: HttpClient) -> None:
        async with serving(is_silent) as server:
            with pytest.raises(ConnectionError):
                await post(http, server)
            await server.closed.acquire()

    @pytest.mark.usefixtures("_soon")
    async def test_an_answer_that_stops(self, http: HttpClient) -> None:
        answer = [OK]

        async def says_it(writer: asyncio.StreamWriter) -> None:
            writer.write(answer[0])

        async with serving(*[says_it] * 1000) as server:
            while True:  # until this machine is quick enough for so little patience
                with suppress(ConnectionError):
                    await post(http, server)
                    break
            answer[0] = OK[:-1]
            with pytest.raises(ConnectionError):
                await post(http, server)
            await server.closed.acquire()

    async def test_a_slow_answer_that_goes_on(self, http: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
        soon(monkeypatch)
        time, times = asyncio.get_running_loop().time, [0.0]

        async def drips(writer: asyncio.StreamWriter) -> None:
            for piece in (OK[:-8], *(bytes([byte]) for byte in OK[-8:])):
                times.append(time())
                writer.write(piece)
                await asyncio.sleep(0.05)

        async with serving(*[drips] * 1000) as server:
            while True:
                times[:] = [time()]
                try:
                    assert (await post(http, server)).body == b"ok"
                except ConnectionError:
                    times.append(time())
                    # Only a machine that has kept one of them waiting is given another try.
                    assert max(later - sooner for sooner, later in pairwise(times)) > 0.15
                else:
                    break

    @pytest.mark.usefixtures("_soon")
    async def test_a_request_that_is_not_taken(self, http: HttpClient) -> None:
        never = asyncio.Event()

        async def ignore(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await never.wait()
            writer.close()

        listening = await asyncio.start_server(ignore, "127.0.0.1", 0)
        server = Server(iter(()), port=listening.sockets[0].getsockname()[1])
        with pytest.raises(ConnectionError):
            await post(http, server, LARGE)
        never.set()
        listening.close()

    @pytest.mark.usefixtures("_soon")
    async def test_a_connection_that_does_not_come_about(self) -> None:
        async with serving() as server:  # it speaks no TLS, and waits for a request
            with closing(HttpClient(ssl.create_default_context)) as http, pytest.raises(ConnectionError):
                await post(http, server, url="https://127.0.0.1")


async def test_nobody_is_there(http: HttpClient) -> None:
    with held_port() as nobody, pytest.raises(ConnectionError):
        await post(http, Server(iter(()), port=nobody))


@pytest.mark.usefixtures("_soon")
async def test_a_name_that_leads_nowhere(http: HttpClient) -> None:
    with pytest.raises(ConnectionError):
        await post(http, Server(iter(()), port=80), url="http://does-not-exist.invalid")


async def test_the_environment_says_which_authority_is_trusted(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tls=authority.server_context()) as server:
        with closing(HttpClient()) as http, pytest.raises(ConnectionError):
            await post(http, server, url="https://127.0.0.1")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle()))
        with closing(HttpClient()) as http:
            for _ in range(2):
                assert (await post(http, server, LARGE[:300_000], url="https://127.0.0.1")).body == b"ok"
        assert server.connections == 1


async def test_a_certificate_of_another_host_is_wrong(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch, http: HttpClient
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle()))
    lead(monkeypatch, "127.0.0.1")
    async with serving(tls=authority.server_context()) as server:
        with pytest.raises(ConnectionError):
            await post(http, server, url="https://storage.example")
    assert server.bodies == []


async def test_a_proxy_of_the_environment_is_not_asked(http: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with held_port() as nobody:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{nobody}")
        async with serving() as server:
            assert (await post(http, server)).status == 201


async def test_ipv6(http: HttpClient) -> None:
    async with serving(host="::1") as server:
        assert (await post(http, server, url="http://[::1]")).status == 201


async def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead(monkeypatch, "127.0.0.2", "127.0.0.1")
    async with serving() as server:
        assert (await post(http, server, url="http://storage.example")).status == 201


@pytest.mark.parametrize("limit", ["AGE_SECONDS", "IDLE_SECONDS"])
async def test_old_and_idle_connections_are_not_used(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """So a name that comes to lead elsewhere is noticed."""
    async with serving() as server:
        await asyncio.gather(*(post(http, server) for _ in range(3)))
        await asyncio.sleep(0.3)
        monkeypatch.setattr(http_client, limit, 0.1)
        await post(http, server)
        for _ in range(3):
            await server.closed.acquire()
    assert server.connections > 3


async def test_who_is_cancelled_closes_its_own_connection_alone(http: HttpClient) -> None:
    go = asyncio.Event()

    async def waits(writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(OK)

    async with serving(waits, waits) as server:
        others = asyncio.create_task(post(http, server))
        given_up = asyncio.create_task(post(http, server))
        await server.asked_times(2)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        go.set()
        await server.closed.acquire()
        assert (await others).body == b"ok"
        assert server.connections == 2


async def test_a_connection_that_was_opened_ahead_serves_the_first_request(http: HttpClient) -> None:
    async with serving() as server:
        origin, _ = split_url(f"http://127.0.0.1:{server.port}")
        await http.open(origin)
        await post(http, server)
    assert server.connections == 1


async def test_connections_belong_to_no_invocation(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[str, object]] = []

    def trust() -> ssl.SSLContext:
        task = asyncio.current_task()
        found.append((_here.get(), getattr(task, "__azure_function_invocation_id__", None)))
        return ssl.create_default_context()

    async def invocation() -> None:
        _here.set("an invocation")
        task = asyncio.current_task()
        if isinstance(task, InvocationTask):
            task.begin_invocation("1")
        with closing(HttpClient(trust)) as http, pytest.raises(ConnectionError):
            await post(http, Server(iter(()), port=1), url="https://127.0.0.1")

    await asyncio.create_task(invocation())
    assert found == [("", None)]


async def test_detached_work_gives_its_result_or_error_and_is_cancelled_with_who_waits() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        raise ValueError("no")

    async def lasts() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def gives() -> int:
        return 1

    assert await detached(gives()) == 1
    with pytest.raises(ValueError, match="no"):
        await detached(fails())
    waiting = asyncio.ensure_future(detached(lasts()))
    await begun.wait()
    waiting.cancel()
    await cancelled.wait()


def lead(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name lead to these addresses."""

    async def found(_host: str, port: int, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
