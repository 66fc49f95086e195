"""Storage that takes everything at once, in a process of its own: what is measured against it is our own CPU."""

import asyncio
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from bench.stub_process import stub_process

_MESSAGE = b"""<?xml version="1.0" encoding="utf-8"?><QueueMessagesList><QueueMessage>\
<MessageId>00000000-0000-0000-0000-000000000000</MessageId><InsertionTime>Fri, 09 Oct 2026 21:04:30 GMT</InsertionTime>\
<ExpirationTime>Fri, 31 Dec 9999 23:59:59 GMT</ExpirationTime><PopReceipt>AAAAAAAAAAAAAAAA</PopReceipt>\
<TimeNextVisible>Fri, 09 Oct 2026 21:04:30 GMT</TimeNextVisible></QueueMessage></QueueMessagesList>"""


@contextmanager
def stub(certificate: Path | None = None) -> Iterator[str]:
    """Run it for the length of a `with` block, over TLS where it has a key and certificate (PEM); yields its URL."""
    scheme, arguments = ("http", ()) if certificate is None else ("https", (str(certificate),))
    with stub_process("bench.storage_stub", *arguments) as port:
        yield f"{scheme}://127.0.0.1:{port}/bench"


def connection_string(url: str) -> str:
    """What authenticates with an account key."""
    return f"AccountName=bench;AccountKey=YmVuY2g=;QueueEndpoint={url};BlobEndpoint={url}"


async def _answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=201, body=_MESSAGE, content_type="application/xml")


async def _main(certificate: Sequence[str]) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if certificate else None
    if context is not None:
        context.load_cert_chain(*certificate)
    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
