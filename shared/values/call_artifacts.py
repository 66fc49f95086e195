"""The rows of what is made of a call: transcripts and recordings, which Graph announces alike.

Sources: "Get change notifications for transcripts and recordings using Microsoft Graph"
(https://learn.microsoft.com/graph/teams-changenotifications-callrecording-and-calltranscript); and for the limits
"Change notifications overview" (https://learn.microsoft.com/graph/change-notifications-overview).
"""

from datetime import timedelta

from shared.values.resource_row import KEY, MEETING, USER, ApiVersion, EventType, PathForm, ResourceKind, Rich, Value


def artifact_row(
    key: str, function: str, event: EventType, of_meetings: str, of_calls: str, *, raw_queue: str
) -> ResourceKind:
    """The row of one of the two.

    The page has spelled the paths of notifications in several ways over time, of which the patterns know all: they are
    a user's or of all communications, with keys in parentheses, without quotes or in segments, and a segment twice.

    Args:
        key: the header in `subscriptions.toml`, which is the segment of Graph's paths.
        function: Graph's function for all of them.
        event: what their creation becomes.
        of_meetings: the permission for those of meetings.
        of_calls: the permission for those of ad hoc calls.
        raw_queue: where their notifications wait.
    """
    artifact, everything = key.removesuffix("s"), function.lower()
    made = rf"(?:{everything}|{key}(?![a-z]))"

    def form(key: str, value: Value | None, pattern: str, path: str, *versions: ApiVersion) -> PathForm:
        return PathForm(
            key=key,
            value=value,
            pattern=pattern,
            path=path.format,
            api_versions=versions or ("v1.0",),
            permission=of_calls if "adhocCalls" in path else of_meetings,
            only_one=True,
            most_of_all=10 if key == "organizers" else None,
        )

    meetings, calls = "communications/+onlinemeetings", "communications/+adhoccalls"
    of_user, by_user = rf"users{KEY}/+onlinemeetings", rf"users{KEY}/+adhoccalls"
    return ResourceKind(
        key=key,
        sentence=f"New {key} of meetings and of ad hoc calls, all of a tenant or those of single users and meetings.",
        forms=(
            form("allMeetings", None, f"{meetings}/+{everything}", f"communications/onlineMeetings/{function}"),
            form("organizers", USER, f"{of_user}.*/{made}", f"users/{{}}/onlineMeetings/{function}"),
            form("meetings", MEETING, f"{meetings}.*/{made}", f"communications/onlineMeetings/{{}}/{key}"),
            form("allAdHocCalls", None, f"{calls}.*/{made}", f"communications/adhocCalls/{function}", "beta"),
            # "What's new in Microsoft Graph" has this one in v1.0 since March 2026; the page's samples are of beta.
            form("adHocUsers", USER, f"{by_user}.*/{made}", f"users/{{}}/adhocCalls/{function}", "v1.0", "beta"),
        ),
        rich=Rich.OPTIONAL,
        max_lifetime=timedelta(minutes=4230),  # 4,320 in Graph's table; what else has three days there gets this
        change_type="created",
        events_queue=f"{artifact}-events",
        raw_queue=raw_queue,
        odata_types=frozenset({f"microsoft.graph.call{artifact}"}),
        id_pattern=rf"{key}(?:/|\('?)([^'()/]{{1,300}})(?:'?\))?$",
        typed_by_change=True,
        time_fields=("endDateTime", "createdDateTime"),
        event_types={"created": event},
    )
