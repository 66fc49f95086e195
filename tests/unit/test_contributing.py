"""The walk through the house in CONTRIBUTING leads through rooms that are there."""

import re
from pathlib import Path
from pkgutil import resolve_name

WALK = re.compile(r"^\d+\. .*$", re.MULTILINE)
STEP = re.compile(r"`(shared\.[\w.]+)`")


def test_each_step_of_the_walk_is_a_function_that_there_is() -> None:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    steps = [step for line in WALK.findall(text) for step in STEP.findall(line)]
    assert len(steps) >= 10
    assert all(callable(resolve_name(step)) for step in steps)
