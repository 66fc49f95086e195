"""What a file of settings may hold, written as it looks: nested like the file, and nothing else is allowed."""

import re
from typing import Any


def misfits(value: Any, shape: Any, place: str = "") -> list[str]:
    """The places at which a value is not as its shape says.

    A text in a shape is a pattern, a type or a range what the value has to be of. A dict allows its own keys alone;
    one that ends in `!` has to be there, and `*` stands for any.
    """
    if not isinstance(shape, dict):
        fits = re.fullmatch(shape, str(value)) if isinstance(shape, str) else _is_of(value, shape)
        return [] if fits else [place]
    if not isinstance(value, dict):
        return [place]
    shapes = {key.removesuffix("!"): each for key, each in shape.items()}
    found = [f"{place}/{key[:-1]}" for key in shape if key.endswith("!") and key[:-1] not in value]
    for key, each in value.items():
        allowed = shapes.get(key, shapes.get("*"))
        found += [f"{place}/{key}"] if allowed is None else misfits(each, allowed, f"{place}/{key}")
    return found


def _is_of(value: Any, shape: type | range) -> bool:
    return value in shape if isinstance(shape, range) else type(value) is shape
