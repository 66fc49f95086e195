"""What happens in a tenant on a busy day: notifications of every kind, for the demo and for `run.py start`."""

import itertools
import uuid
from collections.abc import Iterator
from typing import Final

from dev.simulator import Kind, Options, Spelling
from dev.simulator.payloads import JOIN_WEB_URL, meeting_resource

POLICY: Final = "Headquarters"
USERS: Final = ("11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222")

SUBSCRIPTIONS: Final = f"""\
[[callRecords]]

[[callEvents]]
users = ["{USERS[0]}", "{USERS[1]}"]

[[emergencyCallEvents]]
policies = ["{POLICY}"]

[[meetingCallEvents]]
joinWebUrls = ["{JOIN_WEB_URL}"]

[[onlineMeeting]]
joinWebUrls = ["{JOIN_WEB_URL}"]
"""
"""All that an application may subscribe to by itself; presence is for a signed-in user."""
SUBSCRIPTION_COUNT: Final = 6

WITH_PRESENCE: Final = f"""\
{SUBSCRIPTIONS}
[[presence]]
users = ["{USERS[0]}"]
"""
"""The same and presence, for which somebody has to sign in (`Stack.sign_in`)."""
WITH_PRESENCE_COUNT: Final = SUBSCRIPTION_COUNT + 1

CALL: Final = f"users/{USERS[0]}/communications/callEvents"
MEETING: Final = meeting_resource(JOIN_WEB_URL)
ONLINE_MEETING: Final = f"communications/onlineMeetings/?$filter=JoinWebUrl eq '{JOIN_WEB_URL}'"
EMERGENCY: Final = f"communications/calls/getEmergencyEventsByPolicy(policyName='{POLICY}')"
RECORDS: Final = "communications/callRecords"
PRESENCE: Final = f"communications/presences/{USERS[0]}"

EVERYTHING: Final[tuple[tuple[str, Kind], ...]] = (
    (CALL, Kind.CALL_STARTED),
    (MEETING, Kind.MEETING_STARTED),
    (MEETING, Kind.ROSTER_LOBBY),
    (MEETING, Kind.ROSTER_JOINED),
    (PRESENCE, Kind.PRESENCE),
    (ONLINE_MEETING, Kind.ONLINE_MEETING_UPDATED),
    (EMERGENCY, Kind.EMERGENCY_NESTED),
    (EMERGENCY, Kind.EMERGENCY_FLAT),
    (MEETING, Kind.ROSTER_INACTIVE),
    (MEETING, Kind.ROSTER_EXITED),
    (MEETING, Kind.MEETING_ENDED),
    (ONLINE_MEETING, Kind.LEGACY_MEETING_STARTED),
    (ONLINE_MEETING, Kind.LEGACY_ROSTER),
    (ONLINE_MEETING, Kind.LEGACY_MEETING_ENDED),
    (CALL, Kind.CALL_ENDED),
    (RECORDS, Kind.CALL_RECORD_CREATED),
    (RECORDS, Kind.CALL_RECORD_UPDATED),
)
"""Every kind of happening, with the resource that it happens to."""


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
