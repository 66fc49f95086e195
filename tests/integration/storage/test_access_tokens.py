"""Tokens for storage, as the platform's identity endpoint gives them."""

import asyncio
from collections.abc import Iterator
from contextlib import closing

import pytest

from dev.simulator import Simulator
from shared.http_client import HttpClient
from shared.settings import IdentityEndpoint
from shared.storage.access_tokens import AccessTokens, Token, tokens_of
from tests.integration.storage.server import Behaviour, answers, resets, says, serving

HOUR = 3600.0


@pytest.fixture
def http() -> Iterator[HttpClient]:
    with closing(HttpClient()) as client:
        yield client


class Endpoint:
    """Gives `lives` seconds to each token, and is slow or fails where it is told to."""

    def __init__(self, lives: float = 24 * HOUR) -> None:
        self.now = 0.0
        self.asked = 0
        self.fails = False
        self.may_go = asyncio.Event()
        self.may_go.set()
        self._lives = lives

    async def fetch(self) -> Token:
        self.asked += 1
        await self.may_go.wait()
        if self.fails:
            raise ConnectionError
        return Token(f"token {self.asked}", self.now + self._lives)

    def tokens(self) -> AccessTokens:
        return AccessTokens(self.fetch, lambda: self.now)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_all_who_wait_share_one_fetch_and_who_gives_up_fails_nobody() -> None:
    endpoint = Endpoint()
    endpoint.may_go.clear()
    tokens = endpoint.tokens()
    waiting = [asyncio.create_task(tokens.get()) for _ in range(3)]
    await settled()
    waiting[0].cancel()
    endpoint.may_go.set()
    assert await asyncio.gather(*waiting[1:]) == ["token 1", "token 1"]
    assert waiting[0].cancelled()
    assert await tokens.get() == "token 1"
    assert endpoint.asked == 1


@pytest.mark.parametrize(("lives", "renewed"), [(24 * HOUR, 12 * HOUR), (HOUR, HOUR - 300)])
async def test_it_is_renewed_in_good_time(lives: float, renewed: float) -> None:
    endpoint = Endpoint(lives)
    tokens = endpoint.tokens()
    await tokens.get()
    endpoint.now = renewed - 1
    assert await tokens.get() == "token 1"
    endpoint.now = renewed + 1
    await tokens.get()
    await settled()
    assert await tokens.get() == "token 2"


async def test_while_it_is_valid_nobody_waits_and_a_failed_renewal_is_tried_again_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint = Endpoint()
    tokens = endpoint.tokens()
    await tokens.get()
    endpoint.now, endpoint.fails = 13 * HOUR, True
    assert await tokens.get() == "token 1"
    await settled()
    assert await tokens.get() == "token 1"
    assert endpoint.asked == 2
    endpoint.now += 31
    assert await tokens.get() == "token 1"
    await settled()
    assert endpoint.asked == 3
    endpoint.now = 24 * HOUR
    with pytest.raises(ConnectionError):
        await tokens.get()
    endpoint.fails = False
    assert await tokens.get() == "token 5"
    assert [record.levelname for record in caplog.records if record.name.startswith("shared.")] == ["WARNING"]


async def test_one_that_was_refused_is_not_used_again() -> None:
    tokens = Endpoint().tokens()
    await tokens.get()
    tokens.forget("token 1")
    assert await tokens.get() == "token 2"
    tokens.forget("token 1")  # the answer to a request of before
    assert await tokens.get() == "token 2"


async def test_a_short_one_is_used_to_its_end_while_there_is_no_other() -> None:
    endpoint = Endpoint(HOUR)
    tokens = endpoint.tokens()
    await tokens.get()
    endpoint.now, endpoint.fails = HOUR - 200, True
    assert await tokens.get() == "token 1"
    await settled()
    assert await tokens.get() == "token 1"
    assert endpoint.asked == 2
    endpoint.now = HOUR - 20
    with pytest.raises(ConnectionError):
        await tokens.get()


async def test_one_that_comes_nearly_over_is_not_asked_for_at_each_use() -> None:
    endpoint = Endpoint(200)
    tokens = endpoint.tokens()
    for _ in range(5):
        assert await tokens.get() == "token 1"
        await settled()
    assert endpoint.asked == 1


async def test_the_platforms_endpoint_is_asked_as_it_wants_to_be(http: HttpClient) -> None:
    given = says(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2F\r\n"
        b'{"access_token":"t","expires_on":"32503680000"}\r\n0\r\n\r\n'
    )
    async with serving(given, given) as server:
        platform = IdentityEndpoint(f"http://127.0.0.1:{server.port}/msi/token", "s")
        assert await tokens_of(http, platform, None).get() == "t"
        assert await tokens_of(http, platform, "b/c").get() == "t"
    asked = [head.decode().split("\r\n") for head in server.heads]
    target = "GET /msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fstorage.azure.com"
    assert [lines[0].removesuffix(" HTTP/1.1") for lines in asked] == [
        target,
        f"{target}&client_id=b%2Fc",
    ]
    assert all("x-identity-header: s" in lines for lines in asked)


@pytest.mark.parametrize(
    "trouble",
    [
        answers(500),
        answers(400),
        resets,
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnone"),
    ],
)
async def test_without_a_token_there_is_no_connection(http: HttpClient, trouble: Behaviour) -> None:
    async with serving(trouble) as server:
        platform = IdentityEndpoint(f"http://127.0.0.1:{server.port}/msi/token", "s")
        with pytest.raises(ConnectionError):
            await tokens_of(http, platform, None).get()


async def test_elsewhere_azure_identity_finds_one(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch, shared_simulator: Simulator
) -> None:
    """It is asked for a managed identity here too, as that is what it can be given."""
    for name, value in shared_simulator.environment().items():
        monkeypatch.setenv(name, value)
    assert (await tokens_of(http, None, None).get()).count(".") == 2
