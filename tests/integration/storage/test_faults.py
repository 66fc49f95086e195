"""Faults on the way to storage are met as the storage SDK meets them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest
from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.blob.aio import LinearRetry
from azure.storage.queue.aio import QueueServiceClient

from shared import http_client
from shared.http_client import HttpClient
from shared.settings import IdentityEndpoint, StorageSettings
from shared.storage.account import StorageAccount
from shared.storage.blobs import AzureBlobs
from shared.storage.queues import AzureQueues
from shared.values.errors import SettingsError, UnavailableError
from tests.integration.storage.server import Behaviour, Server, answers, closes, is_silent, resets, says, serving

LIST = (
    b"<QueueMessagesList><QueueMessage><MessageId>00000000-0000-0000-0000-000000000000</MessageId>"
    b"<InsertionTime>Fri, 09 Oct 2026 21:04:30 GMT</InsertionTime>"
    b"<ExpirationTime>Fri, 31 Dec 9999 23:59:59 GMT</ExpirationTime><PopReceipt>AAAAAAAAAAAAAAAA</PopReceipt>"
    b"<TimeNextVisible>Fri, 09 Oct 2026 21:04:30 GMT</TimeNextVisible></QueueMessage></QueueMessagesList>"
)
TAKEN = says(b"HTTP/1.1 201 Created\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % len(LIST) + LIST)


GIVEN = b'{"access_token":"%d","expires_on":"32503680000"}'


def refuses(status: int, code: str) -> Behaviour:
    return answers(status, f"x-ms-error-code: {code}", "Content-Type: application/xml")


FAULTS: dict[str, list[Behaviour]] = {
    "408": [refuses(408, "RequestTimeout")],
    "429": [refuses(429, "TooManyRequests")],
    "500 twice": [refuses(500, "InternalError")] * 2,
    "501": [refuses(501, "NotImplemented")],
    "503 for good": [refuses(503, "ServerBusy")] * 3,
    "505": [refuses(505, "Version")],
    "503, then 403": [refuses(503, "ServerBusy"), refuses(403, "AuthorizationFailure")],
    "400": [refuses(400, "InvalidXmlDocument")],
    "401": [answers(401, "x-ms-error-code: NoAuthenticationInformation", "WWW-Authenticate: Bearer x=y")],
    "403": [refuses(403, "AuthorizationFailure")],
    "409": [refuses(409, "QueueBeingDeleted")],
    "closed": [closes],
    "reset twice": [resets, resets],
    "reset for good": [resets, resets, resets],
    "closed, then 503 for good": [closes, refuses(503, "ServerBusy"), refuses(503, "ServerBusy")],
    "half an answer": [says(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nx", then=closes)],
    "no answer": [is_silent],
    "redirected": [answers(307, "Location: http://127.0.0.1:1/")],
}


def connection_string(server: Server) -> str:
    url = f"http://127.0.0.1:{server.port}/account"
    return f"AccountName=account;AccountKey=a2V5;QueueEndpoint={url};BlobEndpoint={url}"


@asynccontextmanager
async def account_on(server: Server) -> AsyncIterator[StorageAccount]:
    with closing(HttpClient()) as http:
        yield StorageAccount(StorageSettings(connection_string(server), None, None, None), http)


@pytest.mark.parametrize("name", FAULTS)
async def test_a_put_meets_a_fault_as_the_sdk_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where an answer comes, it is waited for, however slow this machine is.
    seconds = 1.0 if name == "no answer" else 60.0
    monkeypatch.setattr(http_client, "SILENT_SECONDS", seconds)
    async with serving(*FAULTS[name], *[TAKEN] * 3) as server, account_on(server) as account:
        try:
            await AzureQueues(account).put("call-events", b"{}", "base64")
            ours = "taken"
        except UnavailableError as error:
            ours = error.reason
        tries = len(server.bodies)
    async with serving(*FAULTS[name], *[TAKEN] * 3) as server:
        retries = LinearRetry(backoff=0, retry_total=2, random_jitter_range=0)
        async with QueueServiceClient.from_connection_string(
            connection_string(server), retry_policy=retries, read_timeout=seconds, permit_redirects=False
        ) as service:
            try:
                await service.get_queue_client("call-events").send_message("e30=", time_to_live=-1)
                theirs = "taken"
            except HttpResponseError as error:
                theirs = f"storage-{error.response.headers.get('x-ms-error-code') or error.status_code}"
            except AzureError:
                theirs = "storage-no-answer"
    assert (ours, tries) == (theirs, len(server.bodies))


async def test_one_puts_time_out_leaves_the_others_alone() -> None:
    go = asyncio.Event()

    async def waits(writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await TAKEN(writer)

    async with serving(*[waits] * 5) as server, account_on(server) as account:
        queues = AzureQueues(account)
        others = [asyncio.create_task(queues.put("call-events", b"%d" % n, "none")) for n in range(4)]
        late = asyncio.create_task(queues.put("call-events", b"late", "none"))
        await server.asked_times(5)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        go.set()
        await server.closed.acquire()  # that of the one that was given up
        assert [receipt.pop_receipt for receipt in await asyncio.gather(*others)] == ["AAAAAAAAAAAAAAAA"] * 4


async def test_a_header_of_two_lines_is_not_sent() -> None:
    async with serving() as server, account_on(server) as account:
        with pytest.raises(ValueError, match="more than one line"):
            await AzureBlobs(account).put("c", "b", b"{}", {"reason": "a\r\nx-ms-b: c"})
    assert server.heads == []


async def test_a_token_that_is_refused_is_not_sent_again() -> None:
    tokens = [says(b"HTTP/1.1 200 OK\r\nContent-Length: 47\r\n\r\n" + GIVEN % n) for n in (1, 2)]
    async with serving(tokens[0], refuses(401, "InvalidAuthenticationInfo"), tokens[1], TAKEN) as server:
        url = f"http://127.0.0.1:{server.port}"
        with closing(HttpClient()) as http:
            settings = StorageSettings(None, url, url, None, IdentityEndpoint(f"{url}/token", "s"))
            queues = AzureQueues(StorageAccount(settings, http))
            with pytest.raises(UnavailableError) as caught:
                await queues.put("call-events", b"{}", "base64")
            assert caught.value.reason == "storage-InvalidAuthenticationInfo"
            await queues.put("call-events", b"{}", "base64")
    sent = [line for head in server.heads for line in head.split(b"\r\n") if line.startswith(b"authorization")]
    assert sent == [b"authorization: Bearer 1", b"authorization: Bearer 2"]


def test_no_token_goes_where_there_is_no_tls() -> None:
    settings = StorageSettings(None, "http://st1.example", "https://st1.example", None)
    with pytest.raises(SettingsError, match="not https"):
        StorageAccount(settings, HttpClient())
