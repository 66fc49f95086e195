"""The runbook explains every reason with which something can lie in quarantine."""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

# What never meets a queue's item: the reasons for refusing a POST, for stopping a command or a run, and those that
# consumers meet.
ELSEWHERE = {
    "shared.notifications.receive",
    "shared.notifications.collection",
    "shared.call_records.deliveries",
    "shared.notifications.replay",
    "shared.operations.self_test",
    "shared.operations.post",
    "shared.notifications.signing_keys",
}
NEVER_PARKED = {"data", "data-elsewhere", "not-a-cloudevent", "not-ours", "not-whole", "settings", "undecryptable"}


def reasons() -> Iterator[tuple[str, str]]:
    """Module and reason, of every error that the code makes; what is put into a reason is "…"."""
    for path in sorted((ROOT / "shared").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for value in values_of(node):
                if (found := text_of(value, module)) is not None:
                    yield module, found


def values_of(node: ast.AST) -> Iterator[ast.expr]:
    """What says a reason: an argument of an error, its default, or the class's own."""
    match node:
        case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name)) if name.endswith(("Error", "__init__")):
            yield from (keyword.value for keyword in node.keywords if keyword.arg == "reason")
        case ast.FunctionDef(name="__init__", args=args):
            defaults = zip(args.kwonlyargs, args.kw_defaults, strict=True)
            yield from (value for arg, value in defaults if arg.arg == "reason" and value is not None)
        case ast.Assign(targets=[ast.Name("reason_of_class")], value=value):
            yield value
        case ast.AnnAssign(target=ast.Name("reason_of_class"), value=ast.expr() as value):
            yield value


def text_of(value: ast.expr, module: str) -> str | None:
    match value:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(parts):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.Name(name) if isinstance(constant := getattr(importlib.import_module(module), name, None), str):
            return constant
    return None  # handed on from another error


def explained() -> set[str]:
    """The reasons in the first column of the table."""
    section = RUNBOOK.partition("## Quarantine not empty")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE)
    return {reason for row in rows for reason in re.findall(r"`([^`]+)`", row)}


@cache
def parked() -> set[str]:
    return {reason for module, reason in reasons() if module not in ELSEWHERE and reason not in NEVER_PARKED}


def test_every_reason_is_explained() -> None:
    assert len(parked()) > 30
    assert sorted(parked() - explained()) == []


def test_nothing_is_explained_that_cannot_be() -> None:
    assert sorted(explained() - parked()) == ["CALL_RECORDS=fetch"]
