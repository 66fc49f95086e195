"""What follows from the catalogue and is no code: the names that the templates load, and tables of the documents.

python -m dev.catalogue
"""

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Final

from dev import pages
from shared.subscriptions.desired import READ_MEMBERS
from shared.values.consumers import KIND_QUEUES
from shared.values.lifetimes import Lifetimes
from shared.values.resource_row import PathForm, ResourceKind
from shared.values.resources import CATALOGUE, RAW_QUEUES, UNRECOGNIZED, UNRECOGNIZED_QUEUE

ROOT: Final = Path(__file__).resolve().parent.parent
NAMES: Final = Path("infra", "catalogue.json")

_PREFIX: Final = "Microsoft.Graph"


def generated(root: Path) -> dict[Path, str]:
    """The text of every generated file by its path under `root`, where the pages' hand-written parts are read."""
    return {NAMES: _names()} | {page: pages.filled(root, page, parts) for page, parts in _PAGES.items()}


def _names() -> str:
    return json.dumps({"rawQueues": RAW_QUEUES, "kindQueues": KIND_QUEUES}, indent=2) + "\n"


def _events() -> str:
    rows = [(f"`{kind.events_queue}`", _types(kind)) for kind in CATALOGUE.values()]
    unknown = f"`{UNRECOGNIZED}`: authentic, and of a resource that Switchboard does not know"
    return pages.table(("queue", "events (`type`)"), [*rows, (f"`{UNRECOGNIZED_QUEUE}`", unknown)])


def _types(kind: ResourceKind) -> str:
    first, *others = dict.fromkeys(each.name for each in kind.event_types.values())
    return pages.codes([first, *(name.removeprefix(_PREFIX) for name in others)])


def _subscriptions() -> str:
    rows = [
        (
            f"`{kind.key}`",
            kind.sentence,
            pages.codes(key for form in kind.forms for key in form.keys) or "-",
            ", ".join(dict.fromkeys(form.api_version for form in kind.forms)),
            _hours(kind.max_lifetime),
            _hours(Lifetimes().ask("", kind, "") / 2),
        )
        for kind in CATALOGUE.values()
    ]
    head = ("header", "what", "keys", "API", "Graph's longest life", "an outage that costs nothing")
    return pages.table(head, rows)


def _permissions() -> str:
    rows = [
        (f"`{permission}`", ", ".join(uses), "signed-in user" if delegated else "application")
        for (permission, delegated), uses in _uses().items()
    ]
    return pages.table(("permission", "for", "given to the"), rows)


def _uses() -> dict[tuple[str, bool], list[str]]:
    uses: dict[tuple[str, bool], list[str]] = {}
    for kind in CATALOGUE.values():
        for permission in kind.permissions:
            of_permission = [form for form in kind.forms if form.permission == permission]
            uses.setdefault((permission, kind.delegated_only), []).append(_use(kind, of_permission))
        for form in kind.forms:
            if form.group_key is not None:
                uses.setdefault((READ_MEMBERS, False), []).append(f"`{form.group_key}` of `{kind.key}`")
    return uses


def _use(kind: ResourceKind, forms: list[PathForm]) -> str:
    if len(forms) == len(kind.forms):
        return f"`{kind.key}`"
    return f"{pages.codes(form.key for form in forms)} of `{kind.key}`"


def _lives() -> str:
    ordered = sorted(CATALOGUE.values(), key=lambda kind: kind.max_lifetime, reverse=True)
    rows = [
        (f"{_hours(life)} ({', '.join(kind.key for kind in kinds)})", _hours(life / 4))
        for life, kinds in groupby(ordered, key=lambda kind: kind.max_lifetime)
    ]
    return pages.table(("granted at the most", "a quarter is"), rows)


def _hours(time: timedelta) -> str:
    """A time as people say it: hours with a decimal, or minutes, rounded down."""
    hours, minutes = time / timedelta(hours=1), time // timedelta(minutes=1)
    return f"{int(hours * 10) / 10:g} h" if hours >= 1.5 else f"{minutes} min"


_PAGES: Final[Mapping[Path, Mapping[str, Callable[[], str]]]] = {
    Path("README.md"): {"events": _events},
    Path("docs", "subscriptions.md"): {"subscriptions": _subscriptions},
    Path("docs", "deploy.md"): {"permissions": _permissions},
    Path("docs", "telemetry.md"): {"lives": _lives},
}

if __name__ == "__main__":
    pages.write(ROOT, generated(ROOT))
