"""Output where the terminal, or a pipe, does not speak UTF-8."""

import io
import sys

import pytest
from rich.console import Console
from rich.table import Table

from commands.plain_text import print_anywhere

pytestmark = pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])


def speaking(encoding: str, monkeypatch: pytest.MonkeyPatch) -> io.TextIOWrapper:
    """Standard output that speaks so."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_anywhere()
    return stream


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


def test_signs_are_written_as_letters_where_there_is_nothing_better(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = speaking(encoding, monkeypatch)
    print("✓ well ✗ bad → do: \U0001f600")
    expected = "✓ well ✗ bad → do: \U0001f600" if encoding == "utf-8" else "ok well NO bad -> do: ?"
    assert written(output).rstrip() == expected


def test_tables_bars_and_ellipses_are_printed_everywhere(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = speaking(encoding, monkeypatch)
    table = Table("left", "…")
    table.add_row("█░", "───")
    Console().print(table)
    assert "left" in written(output)
