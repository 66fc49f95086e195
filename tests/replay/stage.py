"""The worker of the replays: the library of production, in this process, with one app whose functions a test plays."""

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import azure.functions as func

from dev.host.library import LibraryWorker

APP = Path(__file__).parent / "app"


async def _nobody(_: func.QueueMessage) -> None:
    raise AssertionError("nobody plays")


_player: Callable[[func.QueueMessage], Awaitable[None]] = _nobody


def let_play(player: Callable[[func.QueueMessage], Awaitable[None]]) -> None:
    """Say what the functions do from now on."""
    global _player  # noqa: PLW0603
    _player = player


async def play(message: func.QueueMessage) -> None:
    """What the app's functions do."""
    await _player(message)


async def load() -> LibraryWorker:
    """Load the app, and leave this process's path, folder and modules as they were."""
    path, folder, other = sys.path[:], Path.cwd(), sys.modules.pop("function_app", None)
    try:
        return await LibraryWorker.load(APP)
    finally:
        sys.path[:] = path
        os.chdir(folder)
        del sys.modules["function_app"]
        if other is not None:
            sys.modules["function_app"] = other
