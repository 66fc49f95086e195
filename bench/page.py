"""Figures on a page of docs/: each command writes its own, so that nobody copies them by hand."""

from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[1] / "docs"
_END: Final = "<!-- end of figures -->\n"


def write(page: Path, command: str, figures: str) -> None:
    """Put a command's figures, as Markdown, in place of those that stand between its marks.

    Raises:
        ValueError: the page has no such marks.
    """
    begin = f"<!-- figures: written by {command} -->\n"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, end, after = rest.partition(_END)
    if not (found and end):
        raise ValueError(f"{page} has no place for the figures of {command}")
    page.write_text(before + begin + figures + _END + after, encoding="utf-8")
