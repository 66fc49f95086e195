"""The parts of documents that are written by a program: what stands between `generated` and `end` in a page."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

type Parts = Mapping[str, Callable[[], str]]


def filled(root: Path, page: Path, parts: Parts) -> str:
    """A page with its generated parts anew; `parts` makes the text of each by its name.

    Raises:
        ValueError: the page has no place for one of them.
    """
    text = (root / page).read_text("utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->\n"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{page} has no place for {name!r}: {begin}{end}")
        text = f"{before}{begin}\n{part()}\n{end}{after}"
    return text


def write(root: Path, files: Mapping[Path, str]) -> None:
    """Write generated files, by their paths under `root`."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def codes(names: Iterable[str]) -> str:
    """Names as code, with commas between."""
    return ", ".join(f"`{name}`" for name in names)
