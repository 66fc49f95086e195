"""The Python example with a handler that fails for ever at one record, and ends the process once at another."""

import asyncio
import json
import os
import sys
from pathlib import Path

import consume
from switchboard_events import CloudEvent


def ends_here() -> bool:
    ended = Path("ended")
    try:
        ended.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


async def handle(event: CloudEvent, data: bytes) -> None:
    record = json.loads(data)["id"]
    if record == "fails":
        raise ConnectionError
    if record == "ends" and ends_here():
        os._exit(7)
    print(record, flush=True)


timing = {"lease_seconds": 2, "retry_seconds": 0, "poll_seconds": 0.1}
asyncio.run(consume.consume([sys.argv[1]], Path("handled.sqlite"), handle, **timing))
