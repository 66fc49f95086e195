"""What else of Graph the app reads: members of groups, call records, its own service principal.

Sources: Graph API reference, "List group members", "List callRecords", "Get callRecord", "Get servicePrincipal", "List
appRoleAssignments granted for a service principal".
"""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final
from urllib.parse import quote

from dev.simulator.clock import Clock, graph_time, parse_time
from dev.simulator.entra import APP_ROLES, Caller
from dev.simulator.graph_api import GraphApi, GraphRequest, GraphResponse, Route
from dev.simulator.rules import GraphError, bad_request
from dev.simulator.tokens import CHANGE_TRACKING_APP_ID, GRAPH_APP_ID

JSON = dict[str, Any]

_RECORD_KEPT: Final = timedelta(days=30)
_COMPARE: Final[dict[str, Callable[[datetime, datetime], bool]]] = {
    "lt": datetime.__lt__,
    "le": datetime.__le__,
    "gt": datetime.__gt__,
    "ge": datetime.__ge__,
}
_CLAUSE: Final = re.compile(r"startDateTime (lt|le|gt|ge) (\S+)")
_PARTICIPANT: Final = re.compile(r"participants_v2/any\(p:p/id eq '([^']+)'\)")


@dataclass(frozen=True)
class CallRecord:
    """One call record; `started` is the start of the call. Sessions have one segment each."""

    id: str
    started: datetime
    version: int = 1
    participants: int = 2
    sessions: int = 1
    modified: datetime | None = None  # two minutes after the call's end, and later with each version, unless given

    @cached_property
    def user_ids(self) -> tuple[str, ...]:
        """The participants' object ids."""
        return tuple(_principal_id(f"{self.id}/user/{number}") for number in range(self.participants))

    def entity(self) -> JSON:
        """The `callRecord` without what must be expanded."""
        end = self.started + timedelta(minutes=10)
        return {
            "id": self.id,
            "version": self.version,
            "type": "groupCall" if self.participants > 2 else "peerToPeer",
            "modalities": ["audio"],
            "startDateTime": graph_time(self.started),
            "endDateTime": graph_time(end),
            "lastModifiedDateTime": graph_time(self.modified or end + timedelta(minutes=1 + self.version)),
            "joinWebUrl": None,
        }


@dataclass
class Directory:
    """Groups, records and principals, to be changed at any time.

    `groups` maps a group's id to its members' ids. An app in `assignment_required` demands an assignment of whoever
    asks for a token for it; unless it is in `change_tracking_assigned`, Graph then obtains no validation tokens.
    `granted` are the application permissions of Graph that every application holds.
    """

    clock: Clock
    groups: dict[str, list[str]] = field(default_factory=dict)
    call_records: dict[str, CallRecord] = field(default_factory=dict)
    assignment_required: set[str] = field(default_factory=set)
    change_tracking_assigned: set[str] = field(default_factory=set)
    granted: set[str] = field(default_factory=lambda: set(APP_ROLES))
    group_page: int = 100
    record_page: int = 60
    participant_page: int = 130
    session_page: int = 60

    def mount(self, api: GraphApi) -> None:
        """Serve all this."""
        members = r"/groups/(?P<id>[^/]+)/(members|transitiveMembers)(/microsoft\.graph\.user)?"
        principal = r"/servicePrincipals"
        record = r"/communications/callRecords/(?P<id>[^/]+)"
        for path, handler in (
            (members, self._members),
            (r"/communications/callRecords", self._records),
            (record, self._record),
            (rf"{record}/(?P<part>sessions|participants_v2)", self._record_part),
            (rf"{principal}\(appId='(?P<app>[^']+)'\)", self._principal),
            (rf"{principal}/(?P<id>[^/]+)/appRoleAssignedTo", self._assigned),
            (rf"{principal}\(appId='(?P<app>[^']+)'\)/appRoleAssignedTo", self._assigned),
            (rf"{principal}\(appId='(?P<app>[^']+)'\)/appRoleAssignments", self._assignments),
        ):
            api.mount(Route("GET", re.compile(path), handler))

    def change_tracking_may_call(self, app_id: str) -> bool:
        """Whether Graph can obtain validation tokens for `app_id`."""
        return app_id not in self.assignment_required - self.change_tracking_assigned

    async def _members(self, request: GraphRequest, caller: Caller, match: re.Match[str]) -> GraphResponse:
        _demand(caller, "GroupMember.Read.All")
        if match["id"] not in self.groups:
            raise _missing(match["id"])
        members = [{"@odata.type": "#microsoft.graph.user", "id": member} for member in self.groups[match["id"]]]
        return GraphResponse(200, _page(request, members, min(int(request.query.get("$top", 999)), self.group_page)))

    async def _records(self, request: GraphRequest, caller: Caller, _match: re.Match[str]) -> GraphResponse:
        _demand(caller, "CallRecords.Read.All")
        wanted = _wanted(request.query.get("$filter", ""))
        known = sorted(self.call_records.values(), key=lambda record: record.started)
        found = [record.entity() for record in known if not self._is_old(record) and wanted(record)]
        return GraphResponse(200, _page(request, found, self.record_page))

    async def _record(self, request: GraphRequest, caller: Caller, match: re.Match[str]) -> GraphResponse:
        _demand(caller, "CallRecords.Read.All")
        record = self._find(match["id"])
        body = record.entity()
        expand = request.query.get("$expand", "")
        if "sessions" in expand and "participants_v2" in expand:
            raise bad_request("Only a single relationship can be expanded.")
        for part in ("sessions", "participants_v2"):
            if part in expand:
                page = self._part(request, record, part, with_segments="segments" in expand)
                body[part] = page["value"]
                if "@odata.nextLink" in page:
                    # The example in "Get callRecord" prints such links in the form of a context URL.
                    link = page["@odata.nextLink"].replace(f"/{request.version}/", f"/{request.version}/$metadata#", 1)
                    body[f"{part}@odata.nextLink"] = link
        return GraphResponse(200, body)

    async def _record_part(self, request: GraphRequest, caller: Caller, match: re.Match[str]) -> GraphResponse:
        _demand(caller, "CallRecords.Read.All")
        record = self._find(match["id"])
        with_segments = "segments" in request.query.get("$expand", "")
        return GraphResponse(200, self._part(request, record, match["part"], with_segments=with_segments))

    def _part(self, request: GraphRequest, record: CallRecord, part: str, *, with_segments: bool) -> JSON:
        base = f"{request.base}/{request.version}/communications/callRecords/{record.id}/{part}"
        skip = int(request.query.get("$skiptoken", 0))
        if part == "participants_v2":
            people = [_participant(record, number) for number in range(record.participants)]
            return _slice(people, skip, self.participant_page, f"{base}?")
        sessions = [_session(record, number, with_segments=with_segments) for number in range(record.sessions)]
        return _slice(sessions, skip, self.session_page, f"{base}?{'$expand=segments&' if with_segments else ''}")

    def _find(self, record_id: str) -> CallRecord:
        record = self.call_records.get(record_id)
        if record is None or self._is_old(record):
            raise _missing(record_id)
        return record

    def _is_old(self, record: CallRecord) -> bool:
        return record.started < self.clock.now() - _RECORD_KEPT

    async def _principal(self, _request: GraphRequest, caller: Caller, match: re.Match[str]) -> GraphResponse:
        _demand(caller, "Application.Read.All")
        app = match["app"]
        body = {
            "id": _principal_id(app),
            "appId": app,
            "servicePrincipalType": "Application",
            "appRoleAssignmentRequired": app in self.assignment_required,
            "appRoles": [
                {"value": name, "id": _principal_id(name), "allowedMemberTypes": ["Application"]}
                for name in (APP_ROLES if app == GRAPH_APP_ID else ())
            ],
        }
        return GraphResponse(200, body)

    async def _assigned(self, request: GraphRequest, caller: Caller, match: re.Match[str]) -> GraphResponse:
        _demand(caller, "Application.Read.All")
        wanted = _principal_id(match["app"]) if "app" in match.groupdict() else match["id"]
        assignments = [
            {
                "id": _principal_id(f"{app}/assignment"),
                "appRoleId": "00000000-0000-0000-0000-000000000000",
                "principalId": _principal_id(CHANGE_TRACKING_APP_ID),
                "principalDisplayName": "Microsoft Graph Change Tracking",
                "principalType": "ServicePrincipal",
                "resourceId": _principal_id(app),
            }
            for app in sorted(self.change_tracking_assigned)
            if _principal_id(app) == wanted
        ]
        return GraphResponse(200, _page(request, assignments, 100))

    async def _assignments(self, request: GraphRequest, caller: Caller, match: re.Match[str]) -> GraphResponse:
        _demand(caller, "Application.Read.All")
        assignments = [
            {
                "id": _principal_id(f"{match['app']}/{name}"),
                "appRoleId": _principal_id(name),
                "principalId": _principal_id(match["app"]),
                "resourceId": _principal_id(GRAPH_APP_ID),
            }
            for name in sorted(self.granted)
        ]
        return GraphResponse(200, _page(request, assignments, 2))


def _wanted(condition: str) -> Callable[[CallRecord], bool]:
    """What a $filter of the list lets through."""
    checks: list[Callable[[CallRecord], bool]] = []
    for clause in condition.split(" and ") if condition else []:
        if found := _CLAUSE.fullmatch(clause.strip()):
            compare, bound = _COMPARE[found[1]], parse_time(found[2])
            checks.append(lambda record, compare=compare, bound=bound: compare(record.started, bound))  # type: ignore[misc]
        elif found := _PARTICIPANT.fullmatch(clause.strip()):
            checks.append(lambda record, user=found[1]: user in record.user_ids)  # type: ignore[misc]
        else:
            raise bad_request(f"The filter '{condition}' is not supported.")
    return lambda record: all(check(record) for check in checks)


def _participant(record: CallRecord, number: int) -> JSON:
    user = {"id": record.user_ids[number], "displayName": f"Participant {number}"}
    return {"id": user["id"], "identity": {"user": user}, "administrativeUnitInfos": []}


def _session(record: CallRecord, number: int, *, with_segments: bool) -> JSON:
    times = {name: record.entity()[name] for name in ("startDateTime", "endDateTime")}
    session: JSON = {"id": _principal_id(f"{record.id}/session/{number}"), "modalities": ["audio"], **times}
    if with_segments:
        session["segments"] = [{"id": _principal_id(f"{record.id}/segment/{number}"), **times, "media": []}]
    return session


def _principal_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def _page(request: GraphRequest, items: list[JSON], size: int) -> JSON:
    kept = "".join(f"{name}={quote(value)}&" for name, value in request.query.items() if name != "$skiptoken")
    link = f"{request.base}/{request.version}{request.path}?{kept}"
    return _slice(items, int(request.query.get("$skiptoken", 0)), size, link)


def _slice(items: list[JSON], skip: int, size: int, link: str) -> JSON:
    page: JSON = {"value": items[skip : skip + size]}
    if skip + size < len(items):
        page["@odata.nextLink"] = f"{link}$skiptoken={skip + size}"
    return page


def _demand(caller: Caller, role: str) -> None:
    if role not in caller.roles | caller.scopes:
        raise GraphError(403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")


def _missing(name: str) -> GraphError:
    return GraphError(404, "Request_ResourceNotFound", f"Resource '{name}' does not exist.")
