"""Each test of the local host alone is a row of docs/local-host.md, which says what the real one does instead."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = re.compile(r"^\| ((?:`test_\w+(?:\.py)?`(?:, )?)+) \|[^|]*\|[^|]*\|[^|]*\|$", re.MULTILINE)


def marked(path: Path) -> Iterator[tuple[str, str]]:
    """The test functions and modules that are marked, with their reasons."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)) if "mark.own_host" in text else ():
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                name, marks = node.name, node.decorator_list
            case ast.Assign(targets=[ast.Name("pytestmark")]):
                name, marks = path.name, [node.value]
            case _:
                continue
        for mark in marks:
            if ast.unparse(mark).startswith("pytest.mark.own_host"):
                assert isinstance(mark, ast.Call), f"{name} has no reason"
                yield name, ast.literal_eval(mark.args[0])


def test_those_that_are_marked_are_the_rows() -> None:
    document = (ROOT / "docs/local-host.md").read_text()
    rows = {name for row in ROWS.findall(document) for name in re.findall(r"`(\w+(?:\.py)?)`", row)}

    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "own_host" in path.read_text()]
    marks = dict(found for path in files for found in marked(path))

    assert marks.keys() == rows
    assert all(marks.values())
