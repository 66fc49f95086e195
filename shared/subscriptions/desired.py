"""`subscriptions.toml` -> what should exist.

The file is checked as a whole: every problem is reported at once, with its line. `subscriptions.sample.toml` shows
each form.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from shared.subscriptions.planned import Desired
from shared.values import resources
from shared.values.errors import SwitchboardError
from shared.values.resources import ResourceKind, Rich

_GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_MAX_PARTICIPANTS: Final = 50  # keeps the resource within what fits a URL everywhere
_POLICY_LENGTH: Final = 200
_URL_LENGTH: Final = 2048


class DesiredStateError(SwitchboardError):
    """The desired state is wrong; the message names every problem and its line."""

    permanent = False  # the next edit of the file mends it

    def __init__(self, source: str, problems: Collection[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            f"{source} needs attention:\n" + "\n".join(f"  - {problem}" for problem in problems), reason="desired-state"
        )


@dataclass(frozen=True, slots=True)
class Group:
    """A group whose members' call events are wanted; who they are only Graph can tell."""

    tenant_id: str
    group_id: str


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
        DesiredStateError: unknown or missing keys, malformed values, duplicates: all of them, by line.
    """
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise DesiredStateError(source, ["brackets are nested too deeply"]) from None
    except ValueError as error:  # not always TOMLDecodeError: a number of many digits is refused by int()
        raise DesiredStateError(source, [str(error)]) from error
    reader = _Reader(frozenset(tenant_ids), _Lines(text))
    reader.read(document)
    if reader.problems:
        raise DesiredStateError(source, _by_line(reader.problems))
    refusal = DesiredStateError(source, _by_line(reader.refused)) if reader.refused else None
    return DesiredState(tuple(reader.subscriptions), tuple(reader.groups), refusal)


def _by_line(problems: Iterable[tuple[int, str]]) -> list[str]:
    return [f"line {line}: {message}" for line, message in sorted(problems)]


def call_events_of(group: Group, user_ids: Iterable[str]) -> tuple[Desired, ...]:
    """The subscriptions that a group stands for."""
    kind = resources.CALL_EVENTS
    return tuple(
        Desired(group.tenant_id, kind, resources.call_events_path(user_id.lower()), rich=True) for user_id in user_ids
    )


def _call_records_path(participants: tuple[str, ...]) -> str:
    """All call records, or those with one of the participants (Graph's filter on a callRecords subscription)."""
    if not participants:
        return "communications/callRecords"
    if len(participants) == 1:
        condition = f"p/id eq '{participants[0]}'"
    else:
        condition = f"p/id in ({','.join(f"'{participant}'" for participant in participants)})"
    return f"communications/callRecords?$filter=participants/any(p:{condition})"


def _is_guid(value: str) -> bool:
    return _GUID.fullmatch(value) is not None


def _is_policy(value: str) -> bool:
    return bool(value.strip()) and len(value) <= _POLICY_LENGTH and value.isprintable()


def _is_join_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return (
        parts.scheme == "https"
        and bool(parts.hostname)
        and len(value) <= _URL_LENGTH
        and value.isprintable()
        and not set(value) & set(" '\"<>")
    )


@dataclass(frozen=True, slots=True)
class _Strings:
    """A key that holds an array of strings."""

    what: str
    valid: Callable[[str], bool]
    normal: Callable[[str], str] = field(default=str)


_USERS: Final = _Strings("a user's object id (a GUID)", _is_guid, str.lower)
_GROUPS: Final = _Strings("a group's object id (a GUID)", _is_guid, str.lower)
_POLICIES: Final = _Strings("the name of an emergency calling policy", _is_policy)
_JOIN_URLS: Final = _Strings("a meeting's joinWebUrl (https, as Graph gives it)", _is_join_url)

# What each kind of entry may hold besides `tenant` and, where the resource leaves the choice, `includeResourceData`.
_KEYS: Final[Mapping[str, Mapping[str, _Strings]]] = {
    resources.CALL_RECORDS.key: {"participants": _USERS},
    resources.CALL_EVENTS.key: {"users": _USERS, "groups": _GROUPS},
    resources.EMERGENCY_CALL_EVENTS.key: {"policies": _POLICIES},
    resources.MEETING_CALL_EVENTS.key: {"joinWebUrls": _JOIN_URLS},
    resources.ONLINE_MEETING.key: {"joinWebUrls": _JOIN_URLS},
    resources.PRESENCE.key: {"users": _USERS},
}
_CHOICE: Final = frozenset({resources.ONLINE_MEETING.key, resources.PRESENCE.key})


@dataclass(slots=True)
class _PresenceOfTenant:
    rich: bool
    users: list[str] = field(default_factory=list)


class _Reader:
    def __init__(self, tenant_ids: frozenset[str], lines: "_Lines") -> None:
        self._tenant_ids = tenant_ids
        self._lines = lines
        self._seen: dict[tuple[object, ...], int] = {}
        self._presence: dict[str, _PresenceOfTenant] = {}
        self.problems: list[tuple[int, str]] = []
        self.refused: list[tuple[int, str]] = []
        self.subscriptions: list[Desired] = []
        self.groups: list[Group] = []

    def read(self, document: Mapping[str, Any]) -> None:
        for name, entries in document.items():
            if name not in _KEYS:
                self._problem(self._lines.of(name), f"{name!r} is not known; there are {', '.join(sorted(_KEYS))}")
            elif not (isinstance(entries, list) and all(isinstance(entry, Mapping) for entry in entries)):
                self._problem(self._lines.of(name), f"write each entry of {name!r} under a header [[{name}]]")
            else:
                for place, entry in enumerate(entries):
                    self._entry(resources.CATALOGUE[name], place, entry)
        for tenant, presence in self._presence.items():
            if presence.users:
                path = resources.presence_path(tuple(sorted(presence.users)))
                self._want(resources.PRESENCE, tenant, path, rich=presence.rich)

    def _entry(self, kind: ResourceKind, place: int, entry: Mapping[str, Any]) -> None:
        lists = _KEYS[kind.key]
        allowed = {*lists, "tenant", *(("includeResourceData",) if kind.key in _CHOICE else ())}
        for key in entry:
            if key not in allowed:
                line = self._lines.of(kind.key, place, key)
                self._problem(line, f"{key!r} is not known in [[{kind.key}]]; there are {', '.join(sorted(allowed))}")
        tenant = self._tenant(kind, place, entry)
        rich = self._rich(kind, place, entry)
        values = {key: self._strings(kind, place, key, entry[key], tenant) for key in lists if key in entry}
        if kind is resources.CALL_RECORDS:
            participants = tuple(sorted(values.get("participants", ())))
            if len(participants) > _MAX_PARTICIPANTS:
                line = self._lines.of(kind.key, place, "participants")
                self._problem(line, f"at most {_MAX_PARTICIPANTS} participants fit one filter: make another entry")
            if participants or "participants" not in entry:
                self._once(self._lines.of(kind.key, place), "entry", (kind.key, tenant, participants))
            self._want(kind, tenant, _call_records_path(participants), rich=False)
            return
        if not values:
            self._problem(self._lines.of(kind.key, place), f"[[{kind.key}]] needs {' or '.join(sorted(lists))}")
        if kind is resources.PRESENCE:
            self._add_presence(place, tenant, rich, values.get("users", []))
            return
        for key, found in values.items():
            for value in found:
                if key == "groups":
                    self.groups.append(Group(tenant, value))
                else:
                    self._want(kind, tenant, _PATHS[kind.key](value), rich=rich)

    def _add_presence(self, place: int, tenant: str, rich: bool, users: list[str]) -> None:
        """Take as many users as one subscription has room for.

        Graph allows an application one presence subscription for each signed-in user, of 650 users ("Change
        notifications for Microsoft Teams resources", https://learn.microsoft.com/graph/changenotifications-for-presence).
        """
        presence = self._presence.setdefault(tenant, _PresenceOfTenant(rich))
        if rich is not presence.rich:
            message = "refused: the entries of a tenant must agree on 'includeResourceData', and an earlier one differs"
            self.refused.append((self._lines.of(resources.PRESENCE.key, place), message))
            return
        room = resources.MAX_PRESENCE_IDS - len(presence.users)
        presence.users += users[:room]
        if len(users) > room:
            line = self._lines.of(resources.PRESENCE.key, place, "users", room)
            count, most = len(users) - room, resources.MAX_PRESENCE_IDS
            message = f"refused: {count} of the entry's users from here on, for a signed-in user can follow {most}"
            self.refused.append((line, message))

    def _tenant(self, kind: ResourceKind, place: int, entry: Mapping[str, Any]) -> str:
        value = entry.get("tenant")
        if value is None and len(self._tenant_ids) == 1:
            return next(iter(self._tenant_ids))
        line = self._lines.of(kind.key, place, "tenant")
        if value is None:
            self._problem(line, f"[[{kind.key}]] needs 'tenant': GRAPH_TENANT_IDS names several")
        elif not (isinstance(value, str) and value.lower() in self._tenant_ids):
            self._problem(line, f"tenant {value!r} is not one of GRAPH_TENANT_IDS")
        return str(value).lower()

    def _rich(self, kind: ResourceKind, place: int, entry: Mapping[str, Any]) -> bool:
        if kind.key not in _CHOICE:
            return kind.rich is not Rich.NEVER
        value = entry.get("includeResourceData", True)
        if not isinstance(value, bool):
            line = self._lines.of(kind.key, place, "includeResourceData")
            self._problem(line, "'includeResourceData' must be true or false")
        return value is True

    def _strings(self, kind: ResourceKind, place: int, key: str, value: object, tenant: str) -> list[str]:
        rule = _KEYS[kind.key][key]
        if not (isinstance(value, list) and value):
            self._problem(self._lines.of(kind.key, place, key), f"{key!r} must be an array, each {rule.what}")
            return []
        found = []
        for number, item in enumerate(value):
            line = self._lines.of(kind.key, place, key, number)
            if not (isinstance(item, str) and rule.valid(item)):
                # Not repeated here: it may be a name or an address, and this message is logged.
                self._problem(line, f"an element of {key!r} is not {rule.what}")
                continue
            normal = rule.normal(item)
            within = place if kind is resources.CALL_RECORDS else None  # filters may share participants
            self._once(line, f"an element of {key!r}", (kind.key, tenant, key, within, normal))
            found.append(normal)
        return found

    def _once(self, line: int, what: str, identity: tuple[object, ...]) -> None:
        if identity in self._seen:
            self._problem(line, f"{what} is a duplicate of line {self._seen[identity]}")
        else:
            self._seen[identity] = line

    def _want(self, kind: ResourceKind, tenant: str, resource: str, *, rich: bool) -> None:
        self.subscriptions.append(Desired(tenant, kind, resource, rich))

    def _problem(self, line: int, message: str) -> None:
        self.problems.append((line, message))


_PATHS: Final[Mapping[str, Callable[[str], str]]] = {
    resources.CALL_EVENTS.key: resources.call_events_path,
    resources.EMERGENCY_CALL_EVENTS.key: resources.emergency_path,
    resources.MEETING_CALL_EVENTS.key: resources.meeting_call_events_path,
    resources.ONLINE_MEETING.key: resources.online_meeting_path,
}


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
        self._found: dict[tuple[str | int, ...], int] = {}
        self._scan(text)

    def of(self, *path: str | int) -> int:
        """The line of a header, of a key under it or of an element; else of the nearest thing around it; else 1."""
        while path and path not in self._found:
            path = path[:-1]
        return self._found.get(path, 1)

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
                self._found.setdefault((name,), line)
                self._found.setdefault(header, line)
                continue
            key = (*header, _unquoted(word))
            self._found.setdefault(key, line)
            depth = number = 0
            for kind, _, at in rest[1:]:
                depth += (kind == "open") - (kind == "close")
                if kind in {"string", "bare"} and depth == 1:
                    self._found.setdefault((*key, number), at)
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
