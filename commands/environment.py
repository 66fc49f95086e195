"""App settings as the app finds them: the environment, else `Values` of a settings file."""

import os
from pathlib import Path

import msgspec

from shared.values.errors import SettingsError

_FILE = Path(__file__).parents[1] / "local.settings.json"
_NAMED = "SWITCHBOARD_SETTINGS"


class _LocalSettings(msgspec.Struct, frozen=True):
    values: dict[str, str] = msgspec.field(name="Values", default_factory=dict)


def environment() -> dict[str, str]:
    """The settings: the environment's, and what that lacks from the file that `SWITCHBOARD_SETTINGS` names.

    Without a name it is local.settings.json, if there is one. Like Core Tools, a file never overrides the environment.

    Raises:
        SettingsError: the file is not valid, or one that is named cannot be read.
    """
    named = os.environ.get(_NAMED)
    file = Path(named) if named else _FILE
    try:
        local = msgspec.json.decode(file.read_bytes().removeprefix(b"\xef\xbb\xbf"), type=_LocalSettings)
    except FileNotFoundError:
        if named:
            raise SettingsError([f"{named}, which {_NAMED} names, is not there"]) from None
        return dict(os.environ)
    except OSError as error:
        raise SettingsError([f"{file.name} cannot be read: {error.strerror}"]) from error
    except msgspec.ValidationError as error:
        raise SettingsError([f"{file.name}: {error}"]) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise SettingsError([f"{file.name} is not JSON: {error}"]) from error
    if wrong := [name for name, value in local.values.items() if "\0" in name + value or "=" in name or not name]:
        raise SettingsError([f"{file.name}: {name!r} cannot be a setting" for name in wrong])
    return local.values | os.environ
