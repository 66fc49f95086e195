"""`subscriptions.toml` -> what should exist.

The file is checked as a whole: every problem is reported at once, with its line. `subscriptions.sample.toml` shows
each form.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shared.values import resources
from shared.values.errors import SwitchboardError
from shared.values.resource_row import Gather, PathForm, ResourceKind, Rich, Value

READ_MEMBERS: Final = "GroupMember.Read.All"
"""The permission to read who is in a group."""


class DesiredStateError(SwitchboardError):
    """The desired state is wrong; the message names every problem and its line.

    The message may be logged. `problems`, and what is `told`, also repeat what stands there, which may be personal.
    """

    permanent = False  # the next edit of the file mends it

    def __init__(self, source: str, problems: Collection[str], told: Collection[str] | None = None) -> None:
        """`told` are the same problems for whoever wrote the file, where those differ."""
        super().__init__(_listed(source, problems), reason="desired-state")
        self._source = source
        self.problems = tuple(problems if told is None else told)

    @property
    def told(self) -> str:
        return _listed(self._source, self.problems)


def _listed(source: str, problems: Iterable[str]) -> str:
    return f"{source} needs attention:\n" + "\n".join(f"  - {problem}" for problem in problems)


@dataclass(frozen=True, slots=True)
class Desired:
    """A subscription that should exist. Two of them are the same if tenant and resource are, to the letter."""

    tenant_id: str
    kind: ResourceKind = field(hash=False, repr=False)
    resource: str
    rich: bool

    @property
    def key(self) -> tuple[str, str]:
        return self.tenant_id, self.resource

    @property
    def form(self) -> PathForm:
        return self.kind.form(self.resource)


@dataclass(frozen=True, slots=True)
class Group:
    """A group whose members' subscriptions are wanted; who they are only Graph can tell."""

    tenant_id: str
    group_id: str
    kind: ResourceKind = resources.CALL_EVENTS

    @property
    def form(self) -> PathForm:
        """The form that takes the members."""
        return next(form for form in self.kind.forms if form.group_key is not None)


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What the file asks for. `groups` have to be resolved to users before planning.

    `refusal` names what Graph would not allow beside the rest; the rest goes on being planned.
    """

    subscriptions: tuple[Desired, ...]
    groups: tuple[Group, ...]
    refusal: DesiredStateError | None = None


def parse_desired(text: str, *, tenant_ids: Collection[str], source: str = "subscriptions.toml") -> DesiredState:
    """Read the desired state.

    Args:
        text: TOML.
        tenant_ids: the tenants that are served. If it is only one, an entry need not name it.
        source: what to call the text in messages.

    Raises:
        DesiredStateError: nothing, unknown or missing keys, malformed values, duplicates: all of them, by line.
    """
    text = text.removeprefix("\ufeff")
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise DesiredStateError(source, ["brackets are nested too deeply"]) from None
    except ValueError as error:  # not always TOMLDecodeError: a number of many digits is refused by int()
        raise DesiredStateError(source, [str(error)]) from error
    if not document:
        raise DesiredStateError(source, ["it asks for nothing; subscriptions.sample.toml shows what it may say"])
    reader = _Reader(frozenset(tenant_ids), _Lines(text))
    reader.read(document)
    if reader.problems:
        raise _error(source, reader.problems)
    refusal = _error(source, reader.refused) if reader.refused else None
    return DesiredState(tuple(reader.subscriptions), tuple(reader.groups), refusal)


@dataclass(frozen=True, slots=True, order=True)
class _Problem:
    """What is wrong in a line; `message` may be logged, `told` may also repeat what stands there."""

    line: int
    message: str
    told: str


def _error(source: str, problems: Iterable[_Problem]) -> DesiredStateError:
    ordered = sorted(problems)
    return DesiredStateError(
        source,
        [f"line {problem.line}: {problem.message}" for problem in ordered],
        [f"line {problem.line}: {problem.told}" for problem in ordered],
    )


def wanted_of_members(group: Group, user_ids: Iterable[str]) -> tuple[Desired, ...]:
    """The subscriptions that a group stands for."""
    rich = group.kind.rich is not Rich.NEVER
    return tuple(Desired(group.tenant_id, group.kind, group.form.path(user_id.lower()), rich) for user_id in user_ids)


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where an entry stands among those of its kind, and what all that it asks for has in common."""

    kind: ResourceKind
    place: int
    tenant: str
    rich: bool


@dataclass(slots=True)
class _Gathered:
    """The values of several entries that one subscription is for; `entry` is the first of them."""

    entry: _Entry
    form: PathForm
    values: list[str] = field(default_factory=list)


class _Reader:
    def __init__(self, tenant_ids: frozenset[str], lines: "_Lines") -> None:
        self._tenant_ids = tenant_ids
        self._lines = lines
        self._seen: dict[tuple[object, ...], int] = {}
        self._gathered: dict[tuple[str, str, str], _Gathered] = {}
        self.problems: list[_Problem] = []
        self.refused: list[_Problem] = []
        self.subscriptions: list[Desired] = []
        self.groups: list[Group] = []

    def read(self, document: Mapping[str, Any]) -> None:
        for name, entries in document.items():
            kind = resources.CATALOGUE.get(name)
            if kind is None:
                known = ", ".join(sorted(resources.CATALOGUE))
                self._problem(self._lines.of(name), f"{name!r} is not known; there are {known}")
            elif not (isinstance(entries, list) and all(isinstance(entry, Mapping) for entry in entries)):
                self._problem(self._lines.of(name), f"write each entry of {name!r} under a header [[{name}]]")
            else:
                for place, entry in enumerate(entries):
                    self._entry(kind, place, entry)
        for gathered in self._gathered.values():
            if gathered.values:
                path = gathered.form.path(*sorted(gathered.values))
                self._want(gathered.entry, path)

    def _entry(self, kind: ResourceKind, place: int, fields: Mapping[str, Any]) -> None:
        keys = {key: (form, value) for form in kind.forms for key, value in form.keys.items()}
        allowed = {*keys, "tenant", *(("includeResourceData",) if kind.rich_is_choice else ())}
        for key in fields:
            if key not in allowed:
                line = self._lines.of(kind.key, place, key)
                self._problem(line, f"{key!r} is not known in [[{kind.key}]]; there are {', '.join(sorted(allowed))}")
        entry = _Entry(kind, place, self._tenant(kind, place, fields), self._rich(kind, place, fields))
        for key, (form, value) in keys.items():
            if key not in fields:
                continue
            if value is None:
                self._switch(entry, form, fields[key])
            else:
                self._want_all(entry, form, key, self._strings(entry, form, key, value, fields[key]))
        if all(fields.get(key, False) is False for key in keys):
            self._want_without_keys(entry, keys)

    def _want_all(self, entry: _Entry, form: PathForm, key: str, given: list[str]) -> None:
        """What an entry asks for under a key."""
        if key == form.group_key:
            self.groups += (Group(entry.tenant, group_id, entry.kind) for group_id in given)
        elif form.gather is Gather.TENANT:
            self._gather(entry, form, given)
        elif form.gather is Gather.ENTRY:
            self._want_together(entry, form, given)
        else:
            for value in given:
                self._want(entry, form.path(value))

    def _switch(self, entry: _Entry, form: PathForm, given: object) -> None:
        """What an entry asks for under a key that is true or false."""
        line = self._lines.of(entry.kind.key, entry.place, form.key)
        if not isinstance(given, bool):
            self._problem(line, f"{form.key!r} must be true or false")
        elif given:
            self._once(line, repr(form.key), (entry.kind.key, entry.tenant, form.key))
            self._want(entry, form.path())

    def _want_without_keys(self, entry: _Entry, keys: Iterable[str]) -> None:
        line = self._lines.of(entry.kind.key, entry.place)
        for form in entry.kind.forms:
            if not form.key:
                self._once(line, "entry", (entry.kind.key, entry.tenant))
                self._want(entry, form.path())
                return
        self._problem(line, f"[[{entry.kind.key}]] needs {' or '.join(sorted(keys))}")

    def _want_together(self, entry: _Entry, form: PathForm, given: list[str]) -> None:
        """What an entry asks for with all of its values together."""
        values = tuple(sorted(given))
        if form.most is not None and len(values) > form.most:
            line = self._lines.of(entry.kind.key, entry.place, form.key)
            self._problem(line, f"at most {form.most} {form.key} fit one filter: make another entry")
        if values:
            line = self._lines.of(entry.kind.key, entry.place)
            self._once(line, "entry", (entry.kind.key, entry.tenant, form.key, values))
        self._want(entry, form.path(*values))

    def _gather(self, entry: _Entry, form: PathForm, given: list[str]) -> None:
        """Take as many values as a tenant's one subscription has room for."""
        kind, place = entry.kind, entry.place
        gathered = self._gathered.setdefault((kind.key, form.key, entry.tenant), _Gathered(entry, form))
        if entry.rich is not gathered.entry.rich:
            message = "refused: the entries of a tenant must agree on 'includeResourceData', and an earlier one differs"
            self.refused.append(_Problem(self._lines.of(kind.key, place), message, message))
            return
        most = form.most or len(gathered.values) + len(given)
        room = most - len(gathered.values)
        gathered.values += given[:room]
        if len(given) > room:
            line = self._lines.of(kind.key, place, form.key, room)
            count = len(given) - room
            message = f"refused: {count} of the entry's {form.key} from here on, for a signed-in user can follow {most}"
            self.refused.append(_Problem(line, message, message))

    def _tenant(self, kind: ResourceKind, place: int, fields: Mapping[str, Any]) -> str:
        value = fields.get("tenant")
        if value is None and len(self._tenant_ids) == 1:
            return next(iter(self._tenant_ids))
        line = self._lines.of(kind.key, place, "tenant")
        if value is None:
            self._problem(line, f"[[{kind.key}]] needs 'tenant': GRAPH_TENANT_IDS names several")
        elif not (isinstance(value, str) and value.lower() in self._tenant_ids):
            self._problem(line, f"tenant {value!r} is not one of GRAPH_TENANT_IDS")
        return str(value).lower()

    def _rich(self, kind: ResourceKind, place: int, fields: Mapping[str, Any]) -> bool:
        if not kind.rich_is_choice:
            return kind.rich is not Rich.NEVER
        value = fields.get("includeResourceData", True)
        if not isinstance(value, bool):
            line = self._lines.of(kind.key, place, "includeResourceData")
            must = "'includeResourceData' must be true or false"
            self._problem(line, must, f"{must}, and not {value!r}")
        return value is True

    def _strings(self, entry: _Entry, form: PathForm, key: str, rule: Value, given: object) -> list[str]:
        """The elements of an array, in their normal form."""
        kind, place = entry.kind, entry.place
        if not (isinstance(given, list) and given):
            must = f"{key!r} must be an array, each {rule.what}"
            self._problem(self._lines.of(kind.key, place, key), must, f"{must}, and not {given!r}")
            return []
        values = []
        for number, item in enumerate(given):
            line = self._lines.of(kind.key, place, key, number)
            shown = f"{item!r} in {key!r}"
            if not (isinstance(item, str) and rule.valid(item)):
                told = f"{shown} is not {rule.what}{rule.hint(item) if isinstance(item, str) else ''}"
                # It may be a name or an address, which no log may hold.
                self._problem(line, f"an element of {key!r} is not {rule.what}", told)
                continue
            normal = rule.normal(item)
            within = place if form.gather is Gather.ENTRY else None  # filters may share participants
            self._once(line, f"an element of {key!r}", (kind.key, entry.tenant, key, within, normal), shown)
            values.append(normal)
        return values

    def _once(self, line: int, what: str, identity: tuple[object, ...], shown: str | None = None) -> None:
        if identity in self._seen:
            duplicate = f"is a duplicate of line {self._seen[identity]}"
            self._problem(line, f"{what} {duplicate}", f"{shown or what} {duplicate}")
        else:
            self._seen[identity] = line

    def _want(self, entry: _Entry, resource: str) -> None:
        self.subscriptions.append(Desired(entry.tenant, entry.kind, resource, entry.rich))

    def _problem(self, line: int, message: str, told: str | None = None) -> None:
        self.problems.append(_Problem(line, message, told or message))


class _Lines:
    """Where in a TOML text, known to be valid, each header, key and array element stands: `tomllib` does not say."""

    _TOKEN: Final = re.compile(
        r'(?P<string>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\')'
        r"|(?P<comment>#[^\n]*)"
        r"|(?P<newline>\n)"
        r"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<equals>=)|(?P<comma>,)"
        r"|(?P<bare>[^\s\"'#\[\]{}=,.]+)",
        re.DOTALL,
    )

    def __init__(self, text: str) -> None:
        self._places: dict[tuple[str | int, ...], int] = {}
        self._scan(text)

    def of(self, *path: str | int) -> int:
        """The line of a header, of a key under it or of an element; else of the nearest thing around it; else 1."""
        while path and path not in self._places:
            path = path[:-1]
        return self._places.get(path, 1)

    def _scan(self, text: str) -> None:
        header: tuple[str | int, ...] = ()
        counts: Counter[str] = Counter()
        for (first, word, line), *rest in self._statements(text):
            if first == "open":
                name = next(_unquoted(word) for kind, word, _ in rest if kind in {"bare", "string"})
                header = (name,)
                if rest[0][0] == "open":
                    header = (name, counts[name])
                    counts[name] += 1
                self._places.setdefault((name,), line)
                self._places.setdefault(header, line)
                continue
            key = (*header, _unquoted(word))
            self._places.setdefault(key, line)
            depth = number = 0
            for kind, _, at in rest[1:]:
                depth += (kind == "open") - (kind == "close")
                if kind in {"string", "bare"} and depth == 1:
                    self._places.setdefault((*key, number), at)
                number += kind == "comma" and depth == 1

    def _statements(self, text: str) -> Iterator[list[tuple[str, str, int]]]:
        statement: list[tuple[str, str, int]] = []
        line, depth = 1, 0
        for token in self._TOKEN.finditer(text):
            kind = str(token.lastgroup)
            if kind == "newline" and depth == 0:
                if statement:
                    yield statement
                statement = []
            elif kind not in {"newline", "comment"}:
                depth += (kind == "open") - (kind == "close")
                statement.append((kind, token[0], line))
            line += token[0].count("\n")
        if statement:
            yield statement


def _unquoted(word: str) -> str:
    return word[1:-1] if word[:1] in {'"', "'"} else word
