"""App settings as the app finds them: the environment, else `Values` of local.settings.json."""

import os
from pathlib import Path

import msgspec

_FILE = Path(__file__).parents[1] / "local.settings.json"


class _LocalSettings(msgspec.Struct, frozen=True):
    values: dict[str, str] = msgspec.field(name="Values", default_factory=dict)


def environment() -> dict[str, str]:
    """The settings; like Core Tools, the file never overrides the environment.

    Raises:
        msgspec.DecodeError: local.settings.json is not valid.
    """
    try:
        local = msgspec.json.decode(_FILE.read_bytes().removeprefix(b"\xef\xbb\xbf"), type=_LocalSettings)
    except FileNotFoundError:
        return dict(os.environ)
    return local.values | os.environ
