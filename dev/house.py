"""How much there is to hold in the head: `python -m dev.house [FOLDER]` counts the modules and lines of `shared`.

Lines of code are those that hold a token of the language: neither blank lines, nor comments, nor docstrings. To compare
with another state of the project, give the folder of its checkout (`git worktree add`).
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(source: str) -> int:
    """How many lines of a module hold code."""
    tree = ast.parse(source)
    docstrings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | _Function) and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - docstrings)


def main(root: Path) -> None:
    """Print the figures of a checkout."""
    sources = {path.relative_to(root): path.read_text("utf-8") for path in sorted(root.glob("shared/**/*.py"))}
    modules = {path: source for path, source in sources.items() if path.name != "__init__.py"}
    nodes = [(path, node) for path, source in modules.items() for node in ast.walk(ast.parse(source))]
    protocols = [
        node
        for _, node in nodes
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
    ]
    functions = [
        ((node.end_lineno or 0) - node.lineno + 1, path, node.name)
        for path, node in nodes
        if isinstance(node, _Function)
    ]
    rooms = Counter(path.parent for path in modules)
    longest = max((len(source.splitlines()), path) for path, source in modules.items())
    tests = sum(len(path.read_text("utf-8").splitlines()) for path in root.glob("tests/**/*.py"))
    print(f"modules of shared      {len(modules)}")
    print(f"lines of code          {sum(code_lines(source) for source in modules.values()):,}")
    print(f"protocols              {len(protocols)}")
    print(f"longest module         {longest[0]} lines, {longest[1]}")
    print("longest function       {} lines, {}: {}".format(*max(functions)))
    print("modules of a room      " + ", ".join(f"{room.name} {count}" for room, count in rooms.most_common()))
    print(f"lines of tests         {tests:,}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
