"""What happens in a tenant on a busy day: notifications of every kind, for the demo and for `run.py start`.

What is subscribed to follows from the catalogue: every form of every row.
"""

import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from dev.simulator import Kind, Options, Spelling
from dev.simulator.payloads import JOIN_WEB_URL, default_resource
from shared.subscriptions.desired import parse_desired
from shared.values.resource_row import JOIN_URL, MEETING, POLICY, USER, Gather, PathForm, ResourceKind, Value
from shared.values.resources import CATALOGUE, match

USERS: Final = ("11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222")
EXAMPLES: Final[Mapping[Value, tuple[str, ...]]] = {
    USER: USERS,
    POLICY: ("Headquarters",),
    JOIN_URL: (JOIN_WEB_URL,),
    MEETING: ("MSo1N2Y5ZGFjYy03MWJmLTQ3NDMtYjQxMy01M2EdFGkdRWHJlQ",),
}


def _entry(kind: ResourceKind, form: PathForm) -> str:
    if form.value is None:
        return f"[[{kind.key}]]\n{f'{form.key} = true\n' if form.key else ''}"
    examples = EXAMPLES[form.value]
    return f"[[{kind.key}]]\n{form.key} = {json.dumps(examples if form.gather is Gather.EACH else examples[:1])}\n"


def _form(resource: str) -> PathForm:
    kind = match(resource)
    if kind is None:
        raise ValueError(f"the catalogue has no row for {resource}")
    return kind.form(resource)


_HAPPENING: Final = {kind: _form(default_resource(kind)) for kind in Kind}


def desired_state(kinds: Iterable[ResourceKind]) -> str:
    """A `subscriptions.toml` that asks for every form of some rows to which anything happens in the simulator."""
    forms = set(_HAPPENING.values())
    return "\n".join(_entry(kind, form) for kind in kinds for form in kind.forms if form in forms)


def _count(text: str) -> int:
    return len(parse_desired(text, tenant_ids=("the only one",)).subscriptions)


SUBSCRIPTIONS: Final = desired_state(kind for kind in CATALOGUE.values() if not kind.delegated_only)
"""All that an application may subscribe to by itself; presence is for a signed-in user."""
SUBSCRIPTION_COUNT: Final = _count(SUBSCRIPTIONS)

WITH_PRESENCE: Final = desired_state(CATALOGUE.values())
"""The same and presence, for which somebody has to sign in (`Stack.sign_in`)."""
WITH_PRESENCE_COUNT: Final = _count(WITH_PRESENCE)

_SUBSCRIBED: Final = {
    want.form: want.resource
    for want in reversed(parse_desired(WITH_PRESENCE, tenant_ids=("the only one",)).subscriptions)
}
EVERYTHING: Final[tuple[tuple[str, Kind], ...]] = tuple((_SUBSCRIBED[form], kind) for kind, form in _HAPPENING.items())
"""Every kind of happening, with the resource that it happens to."""

_HAPPENS_TO: Final = {kind: resource for resource, kind in EVERYTHING}
CALL: Final = _HAPPENS_TO[Kind.CALL_STARTED]
MEETING: Final = _HAPPENS_TO[Kind.MEETING_STARTED]
EMERGENCY: Final = _HAPPENS_TO[Kind.EMERGENCY_NESTED]
RECORDS: Final = _HAPPENS_TO[Kind.CALL_RECORD_CREATED]


def a_day() -> Iterator[tuple[str, Kind, Options]]:
    """Happenings without end, in turn and in every spelling, each of them unique by its id."""
    spellings = itertools.cycle((None, *Spelling))
    for resource, kind in itertools.cycle(EVERYTHING):
        yield resource, kind, unique(resource, next(spellings))


def unique(resource: str, spelling: Spelling | None = None, participants: int = 2) -> Options:
    """Options for a happening that is told from all others by its id, in the data of every kind."""
    name = str(uuid.uuid4())
    return Options(
        resource=resource,
        id=name,
        spelling=spelling,
        participants=participants,
        activity=f"InACall-{name}",  # presence has no id of its own
    )
