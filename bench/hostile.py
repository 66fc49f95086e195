"""What strangers may send, and what it costs beside a POST of 40 rich items."""

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

import azure.functions as func

from bench.figures import STATE, TENANT, Posts
from bench.measure import Ratio, of_pairs
from dev.simulator import Kind
from shared import triggers
from shared.app import App

SIZES: Final = (1_000, 12_000, 180_000, 4 * 1024 * 1024)
"""Bytes of the bodies."""


def bodies(size: int) -> Mapping[str, Callable[[], bytes]]:
    """What makes one body of each kind, of about so many bytes; none knows the secret."""
    room = size - 80

    def repeated(element: bytes) -> bytes:
        return b",".join([element] * max(1, room // (len(element) + 1)))

    def items(inside: bytes) -> bytes:
        return b'{"value":[' + inside + b"]}"

    def in_an_item(inside: bytes) -> bytes:
        return items(b'{"a":' + inside + b"}")

    text = b"x" * room
    return {
        "numbers": lambda: items(repeated(b"1")),
        "numbers in an item": lambda: in_an_item(b"[" + repeated(b"1") + b"]"),
        "sparse numbers": lambda: in_an_item(b"[" + repeated(b'1,"' + b"x" * 78 + b'"') + b"]"),
        "sparse numbers in white space": lambda: in_an_item(
            b"[" + repeated(b"1" + b" " * 20 + b',"' + b"x" * 95 + b'"') + b"]"
        ),
        "empty items": lambda: items(repeated(b"{}")),
        "small items": lambda: items(repeated(b'{"clientState":"x"}')),
        "items of 256 bytes": lambda: items(
            repeated(b'{"clientState":"' + b"x" * 43 + b'","a":"' + b"y" * 188 + b'"}')
        ),
        "items of 341 bytes": lambda: items(
            repeated(b'{"clientState":"' + b"x" * len(STATE) + b'","a":"' + b"y" * (316 - len(STATE)) + b'"}')
        ),
        "items of escaped keys": lambda: items(repeated(b'{"' + b"\\u0041" * 55 + b'":"x"}')),
        "client states of escapes": lambda: items(
            repeated(b'{"clientState":"' + b"\\n" * 30 + b'","a":"' + b"y" * 256 + b'"}')
        ),
        "client states, one in 15 of escapes": lambda: items(
            repeated(
                b",".join(
                    b'{"clientState":"' + state * 30 + b'","a":"' + b"y" * 256 + b'"}'
                    for state in (b"\\n", *[b"xx"] * 14)
                )
            )
        ),
        "presence items": lambda: items(b",".join(presence_items(size, "x" * len(STATE)))),
        "an element that is no object, last": lambda: items(repeated(b'{"a":"' + b"y" * 500 + b'"}') + b",1"),
        "tokens": lambda: b'{"value":[],"validationTokens":[' + repeated(b'"' + b"x" * 60 + b'"') + b"]}",
        "small tokens": lambda: b'{"value":[],"validationTokens":[' + repeated(b'"x"') + b"]}",
        "nesting": lambda: in_an_item(b"[" + repeated(b"[" * 400 + b"]" * 400) + b"]"),
        "endless nesting": lambda: items(b"[" * room),
        "sparse nesting": lambda: in_an_item(b"[" + repeated(b"[" * 17 + b'"' + b"x" * 725 + b'"' + b"]" * 17) + b"]"),
        "a long string": lambda: in_an_item(b'"' + text + b'"'),
        "a long string of four alphabets": lambda: in_an_item(b'"' + "aéה😀".encode() * (room // 9) + b'"'),
        "bytes that are no text": lambda: in_an_item(b'"' + b"\xff" * room + b'"'),
        "escapes": lambda: in_an_item(b'"' + b"\\n" * (room // 2) + b'"'),
        "escaped letters": lambda: in_an_item(b'"' + b"\\u0041" * (room // 6) + b'"'),
        "escaped surrogates": lambda: in_an_item(b'"' + b"\\ud83d\\ude00" * (room // 12) + b'"'),
        "halves of surrogates": lambda: in_an_item(b'"' + b"\\ud83d" * (room // 6) + b'"'),
        "a hundred halves, far apart": lambda: items(repeated(b'{"a":"' + b"x" * (size // 100) + b'\\ud83d"}')),
        "a client state of escapes": lambda: items(b'{"clientState":"' + b"\\n" * (room // 2) + b'"}'),
        "white space in it": lambda: items(b" " * room),
        "white space alone": lambda: b" " * size,
        "client states, one item": lambda: items(b"{" + repeated(b'"clientState":"x"') + b"}"),
        "collections in one body": lambda: b"{" + repeated(b'"value":[{}]') + b"}",
        "sparse collections in one body": lambda: (
            b"{" + repeated(b'"value":[{"clientState":1,"a":"' + b"x" * 140 + b'"}]') + b"}"
        ),
        "large collections in one body": lambda: (
            b"{" + repeated(b'"value":[' + b"{}," * 2000 + b'{"a":"' + b"x" * 165_000 + b'"}]') + b"}"
        ),
        "a huge number": lambda: in_an_item(b"9" * room),
        "a huge number as client state": lambda: items(b'{"clientState":' + b"9" * room + b"}"),
        "long numbers": lambda: in_an_item(b"[" + repeated(b"9007199254740993.00000000001000000000000000000") + b"]"),
        "cut short": lambda: in_an_item(b'"' + text + b'"')[:-2],
        "no JSON": lambda: b"x" * size,
    }


def presence_items(size: int, state: str) -> list[bytes]:
    """As many basic notifications of presence, the smallest that Graph sends, as a body of `size` bytes holds."""
    item = {
        "subscriptionId": "11111111-20ae-4093-8dae-3ec09edeb253",
        "changeType": "updated",
        "clientState": state,
        "subscriptionExpirationDateTime": "2026-01-01T00:00:00.0000000Z",
        "resource": "communications/presences('22222222-20ae-4093-8dae-3ec09edeb253')",
        "resourceData": {
            "@odata.type": "#Microsoft.Graph.presence",
            "@odata.id": "communications/presences('22222222-20ae-4093-8dae-3ec09edeb253')",
            "id": "22222222-20ae-4093-8dae-3ec09edeb253",
        },
        "tenantId": TENANT,
    }
    raw = json.dumps(item, separators=(",", ":")).encode()
    return [raw] * max(1, (size - 12) // (len(raw) + 1))


def health(rounds: int) -> Ratio:
    """`GET /api/health`, asked again and again, over a handshake."""

    def request(name: str, **params: str) -> func.HttpRequest:
        return func.HttpRequest(method="GET", url=f"http://localhost/api/{name}", params=params, body=b"")

    def cpu(function: Callable[[App, func.HttpRequest], Awaitable[object]], asked: func.HttpRequest) -> float:
        async def answers() -> float:
            app = App()
            await function(app, asked)
            started = time.process_time()
            for _ in range(1000):
                await function(app, asked)
            return (time.process_time() - started) / 1000

        return asyncio.run(answers())

    pairs = [
        (cpu(triggers.health, request("health")), cpu(triggers.receive, request("notifications", validationToken="x")))
        for _ in range(rounds)
    ]
    return of_pairs("GET /api/health over a handshake", pairs, target="<= 3")


def hostile(*, quick: bool) -> Iterator[Ratio]:
    """Each kind and size, in turns with a POST of 40 rich items; medians."""
    normal = Posts(40, Kind.ROSTER_JOINED)
    receiver = normal.receiver()
    rounds = 3 if quick else 9

    def cpu(body: bytes, times: int) -> tuple[float, int]:
        async def posts() -> tuple[float, int]:
            answer = await receiver.receive(body, None)
            started = time.process_time()
            for _ in range(times):
                await receiver.receive(body, None)
            return (time.process_time() - started) / times, answer.status

        return asyncio.run(posts())

    yield health(rounds)
    for size in SIZES[2:] if quick else SIZES:
        for name, make in bodies(size).items():
            body = make()
            _, status = cpu(body, 1)
            aim = "<= 12" if status == 202 else "<= 20"
            gc.collect()
            pairs = [(cpu(body, 1 if size > 10**6 else 10)[0], cpu(normal.body, 10)[0]) for _ in range(rounds)]
            yield of_pairs(f"{len(body) / 1000:,.0f} KB, {name}: {status}", pairs, target=aim)

    def share(body: bytes, count: int) -> float:
        return cpu(body, 1 if count > 1000 else 10)[0] / count

    few, many = (presence_items(size, STATE) for size in (21_000, SIZES[-1]))
    posts = [(b'{"value":[' + b",".join(items) + b"]}", len(items)) for items in (many, few)]
    yield of_pairs(
        f"an item of {len(many):,} accepted ones, over one of {len(few)}",
        [(share(*posts[0]), share(*posts[1])) for _ in range(rounds)],
        target="<= 1",
    )
