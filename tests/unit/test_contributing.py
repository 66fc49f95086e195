"""The pages lead through rooms that are there."""

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
MODULE = re.compile(r"`([\w.]+/[\w./]+\.py)`")
WALK = re.compile(r"^\d+\. .*$", re.MULTILINE)
STEP = re.compile(r"`(shared\.[\w.]+)`")


def test_each_step_of_the_walk_is_a_function_that_there_is() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    steps = [step for line in WALK.findall(text) for step in STEP.findall(line)]
    assert len(steps) >= 10
    assert all(callable(resolve_name(step)) for step in steps)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_module_that_a_page_names_is_there(page: Path) -> None:
    named = set(MODULE.findall((ROOT / page).read_text(encoding="utf-8")))
    assert {name for name in named if not any((room / name).is_file() for room in (ROOT, ROOT / "shared"))} == set()
