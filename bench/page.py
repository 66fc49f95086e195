"""Figures on a page of docs/: each command writes its own, so that nobody copies them by hand."""

from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[1] / "docs"


def put(page: str, name: str, command: str, body: str) -> str:
    """A page with `body` (Markdown, with its last newline) in the place of this name that `command` writes.

    Raises:
        ValueError: it has no such place.
    """
    head, begin, rest = page.partition(f"<!-- {name}: written by {command} -->\n")
    _, end, tail = rest.partition(f"<!-- end of {name} -->\n")
    if not end:
        raise ValueError(f"the page has no place for {name} of {command}")
    return head + begin + body + end + tail


def write(page: Path, command: str, figures: str) -> None:
    """Put a command's figures into a file; raises ValueError as `put` does."""
    page.write_text(put(page.read_text(encoding="utf-8"), "figures", command, figures), encoding="utf-8")
