"""What a row of the catalogue says of a resource, and what an entry of `subscriptions.toml` may list for it."""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

type ApiVersion = Literal["v1.0", "beta"]

KEY: Final = r"(?:\((?:[^'()]++|'[^']*+')*+\)|/+[^/?()]++)"
"""The pattern of an entity's key, in parentheses or in a segment of its own.

The quantifiers are possessive, so that a path that does not fit is given up on in one pass.
"""

_GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# What may stand in a command that somebody copies into a shell.
_PRINCIPAL_NAME: Final = re.compile(r"[\w.'+-]+@[\w.-]+")
_GROUP_NAME: Final = re.compile(r"\w[\w .&'-]*")
_MEETING: Final = re.compile(r"[0-9A-Za-z+_=*-]{1,300}")
_POLICY_LENGTH: Final = 200
_URL_LENGTH: Final = 2048


class Rich(StrEnum):
    """Whether notifications of a resource carry (encrypted) resource data."""

    NEVER = "never"
    OPTIONAL = "optional"
    ALWAYS = "always"


class Gather(StrEnum):
    """For which of the values that the desired state lists there is one subscription."""

    EACH = "each"  # for each value
    ENTRY = "entry"  # for all values of an entry
    TENANT = "tenant"  # for all values of all entries of a tenant


class Value(msgspec.Struct, frozen=True):
    """What an element of an array of `subscriptions.toml` is: for people, by its check, and in its normal form.

    `hint` says of one that is not valid how to come by one that is.
    """

    what: str
    valid: Callable[[str], bool]
    normal: Callable[[str], str] = str
    hint: Callable[[str], str] = lambda _value: ""


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


def _is_meeting(value: str) -> bool:
    return _MEETING.fullmatch(value) is not None


def _user_hint(value: str) -> str:
    if _PRINCIPAL_NAME.fullmatch(value) is None:
        return ""
    return f'; it looks like a user principal name: az ad user show --id "{value}" --query id --output tsv gives the id'


def _group_hint(value: str) -> str:
    if _GROUP_NAME.fullmatch(value) is None:
        return ""
    return f'; az ad group show --group "{value}" --query id --output tsv gives the id of a group by its name'


USER: Final = Value("a user's object id (a GUID)", _is_guid, str.lower, _user_hint)
GROUP: Final = Value("a group's object id (a GUID)", _is_guid, str.lower, _group_hint)
POLICY: Final = Value("the name of an emergency calling policy", _is_policy)
MEETING: Final = Value("an online meeting's id, as Graph gives it", _is_meeting)
JOIN_URL: Final = Value("a meeting's joinWebUrl (https, as Graph gives it)", _is_join_url)


class PathForm(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One form of a row's resource: how it is desired, and how Graph spells it.

    `pattern` is a regular expression for the beginning of the path of a subscription and of its notifications, in lower
    case and without a slash before it. `path` makes the path of a subscription from its values.

    `key` is the key of `subscriptions.toml` under which the values stand, each a `value`; "" is what an entry without
    any key asks for; a key without a `value` is true or false. `group_key` is the key for groups whose members are
    the values. `most` values fit one subscription, at the most.

    `api_versions` are those that Graph knows the form in, the preferred one first. `permission` is the application's,
    or, in a row that is `delegated_only`, the signed-in user's. `only_one` forms are those of which an application may
    have one subscription to a path; a second is refused as a limit that has been reached, with 403, and so is one that
    is more than the `most_of_all` that all applications may have together.
    """

    pattern: str
    path: Callable[..., str]
    api_versions: tuple[ApiVersion, ...]
    permission: str
    key: str = ""
    value: Value | None = None
    group_key: str | None = None
    gather: Gather = Gather.EACH
    most: int | None = None
    only_one: bool = False
    most_of_all: int | None = None

    @property
    def api_version(self) -> ApiVersion:
        """The preferred version."""
        return self.api_versions[0]

    def version_near(self, version: str | None) -> ApiVersion:
        """The version to speak in of what one version shows: that one, if the form is known there."""
        return next((known for known in self.api_versions if known == version), self.api_version)

    def matches(self, path: str) -> bool:
        """Whether a path, in lower case and without a slash before it, is of this form."""
        return re.match(self.pattern, path, re.DOTALL) is not None

    @property
    def keys(self) -> Mapping[str, Value | None]:
        """What an entry may say of this form: by its key what is listed there, or None where that is true or false."""
        keys = {self.key: self.value} if self.key else {}
        return keys if self.group_key is None else keys | {self.group_key: GROUP}


class EventType(msgspec.Struct, frozen=True):
    """The CloudEvents `type` of an event, the name of its data's type in `event_types`, and for people when it is."""

    name: str
    data: str
    when: str


class ResourceKind(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One row of the catalogue.

    `sentence` says for people what is subscribed to. `event_types` are by the normalized word of Graph's (see
    `events.event_word`) that stands in the payload, or in `changeType` where the row is `typed_by_change`; the key
    ``""`` is for a payload that carries no such word. `max_lifetime` is Graph's documented limit. `id_pattern` finds
    the resource's id in the path of a notification. `time_fields` of a payload say when it happened, by preference.
    `rich_is_choice` leaves it to the desired state whether notifications carry data. `is_fetchable` says that what a
    notification names can be listed and read, so that what was missed can be found. `delegated_only` resources are
    subscribed to for a signed-in user.
    """

    key: str
    sentence: str
    forms: tuple[PathForm, ...]
    rich: Rich
    max_lifetime: timedelta
    change_type: str
    events_queue: str
    raw_queue: str
    event_types: Mapping[str, EventType]
    odata_types: frozenset[str] = frozenset()
    id_pattern: str | None = None
    typed_by_change: bool = False
    rich_is_choice: bool = False
    is_fetchable: bool = False
    delegated_only: bool = False
    time_fields: tuple[str, ...] = ("eventDateTime",)

    def matches(self, path: str) -> bool:
        """Whether a path, in lower case and without a slash before it, is of this row."""
        return any(form.matches(path) for form in self.forms)

    def form(self, resource: object) -> PathForm:
        """The form of a path, as Graph or we spell it; the first one for a path of none."""
        path = normal_path(resource) if isinstance(resource, str) and len(self.forms) > 1 else ""
        return next((form for form in self.forms if form.matches(path)), self.forms[0])

    def id_of(self, resource: object) -> str | None:
        """The resource's id in the path of a notification; None where it names none."""
        if self.id_pattern is None or not isinstance(resource, str):
            return None
        match = re.search(self.id_pattern, resource, re.ASCII | re.IGNORECASE)
        return None if match is None else match[1]

    @property
    def permissions(self) -> tuple[str, ...]:
        """Those of all forms."""
        return tuple(dict.fromkeys(form.permission for form in self.forms))

    @property
    def one_per_tenant(self) -> bool:
        """Whether all that is desired of it in a tenant is one subscription, so that another is outdated."""
        return any(form.gather is Gather.TENANT for form in self.forms)


UNKNOWN: Final = ResourceKind(
    key="unknown",
    sentence="What a later version has subscribed to, before it was rolled back.",
    forms=(PathForm(pattern="", path=str, api_versions=("v1.0", "beta"), permission="its resource's permission"),),
    rich=Rich.OPTIONAL,
    max_lifetime=timedelta(hours=1),  # no resource is allowed less
    change_type="",
    events_queue="",
    raw_queue="",
    event_types={},
)
"""The row of what no row knows: nothing is made of it, and nobody receives it by this row; it is only kept alive."""


def normal_path(resource: str) -> str:
    """A path as patterns are matched with it."""
    return resource.strip().lstrip("/").lower()
