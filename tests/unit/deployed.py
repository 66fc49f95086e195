"""What the templates deploy: the snapshots of tests/infra, which `python -m dev.templates --write` makes.

Everything in them is evaluated but what only Azure knows, like the id of a new identity: that stays an expression.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from dev.templates import SNAPSHOTS, parameter_sets

SETS = tuple(path.stem for path in parameter_sets())
_SUBSCRIPTION = "/subscriptions/11111111-1111-1111-1111-111111111111"


@dataclass(frozen=True)
class Deployed:
    """The resources that one set of parameters makes."""

    resources: tuple[dict[str, Any], ...]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """The resources of a type, like `Microsoft.Web/sites`."""
        return [found for found in self.resources if found["type"] == kind]

    def only(self, kind: str) -> dict[str, Any]:
        """The one resource of a type."""
        (found,) = self.of_type(kind)
        return found

    def properties(self, kind: str) -> dict[str, Any]:
        """The properties of the one resource of a type."""
        return dict(self.only(kind)["properties"])

    def settings(self) -> dict[str, str]:
        """The app settings."""
        return {name: str(value) for name, value in self.properties("Microsoft.Web/sites/config").items()}

    def identities(self) -> set[tuple[str, str]]:
        """Type and id of each resource, which together say its scope and its name. Identities' ids have no spelling."""
        return {(found["type"], without_references(found["id"])) for found in self.resources}


@cache
def deployed(parameters: str = "default") -> Deployed:
    """What a set of parameters of tests/infra deploys."""
    content = json.loads((SNAPSHOTS / f"{parameters}.snapshot.json").read_text(encoding="utf-8"))
    return Deployed(tuple(content["predictedResources"]))


def last(name: str) -> str:
    """`raw-notifications` from `st1/default/raw-notifications`."""
    return name.rpartition("/")[2]


def without_references(expression: str) -> str:
    """An expression with `PRINCIPAL` for what Azure alone knows of the identity, however the template asks for it.

    Two templates that give a role assignment the same name write it in different ways; this makes them equal.
    """
    text = expression.replace(_SUBSCRIPTION, "")
    while (start := text.find("reference(")) >= 0:
        end = start + len("reference(")
        depth = 1
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        tail = re.match(r"(?:\.\w+)+", text[end:])
        text = text[:start] + "PRINCIPAL" + text[end + (tail.end() if tail else 0) :]
    return text
