"""Output where the terminal, or the pipe, does not speak UTF-8: signs that it lacks are written as letters."""

import codecs
import io
import sys
from typing import Final

_LETTERS: Final = str.maketrans(
    {"✓": "ok", "✗": "NO", "→": "->", "…": "...", "─": "-", "█": "#", "░": ".", "·": ",", "µ": "u"}
)
_HANDLER: Final = "switchboard.letters"


def print_anywhere() -> None:
    """Let standard output and error take any text: what their encoding lacks becomes letters, or a question mark."""
    codecs.register_error(_HANDLER, _in_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors=_HANDLER)


def _in_letters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end].translate(_LETTERS)
    return missing.encode("ascii", "replace").decode("ascii"), error.end
