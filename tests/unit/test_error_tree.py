"""The tree of errors, as `shared.values.errors` draws it."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from shared.values import errors

SHARED = Path(errors.__file__).parents[1]
DRAWN = re.compile(r"^( +)(~ )?([A-Z]\w+)(?:  .*)?$", re.MULTILINE)


def drawn() -> set[tuple[str, str, bool]]:
    """Name, parent and whether it is permanent, of each error in the drawing but the root."""
    above: dict[int, str] = {}
    tree = set()
    for indent, transient, name in DRAWN.findall((errors.__doc__ or "").partition("::")[2]):
        above[len(indent)] = name
        parent = above.get(len(indent) - 4)
        if parent is not None:
            tree.add((name, parent, not transient))
    return tree


def defined() -> Iterator[tuple[str, str, bool]]:
    """The same of what is defined anywhere in `shared`; modules that define no exception are not imported."""
    for path in SHARED.rglob("*.py"):
        if re.search(r"^class \w+\((?:\w+\.)?\w*(?:Error|Rejected)\)", path.read_text(), re.MULTILINE):
            importlib.import_module(".".join(path.relative_to(SHARED.parent).with_suffix("").parts))
    waiting = [errors.SwitchboardError]
    for parent in waiting:
        for error in parent.__subclasses__():
            waiting.append(error)
            if error.__module__.startswith("shared."):
                yield error.__name__, parent.__name__, error.permanent


def test_the_drawn_tree_is_the_one_that_is_defined() -> None:
    assert drawn() == set(defined())
