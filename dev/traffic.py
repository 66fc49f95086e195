"""What happens in a tenant on a busy day: notifications of every kind, for the demo and for `run.py start`."""

import itertools
import time
import uuid
from collections.abc import Iterator
from typing import Final

import requests

from dev.simulator import Kind, Options, Simulator, Spelling
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


def subscribe_to_presence(sim: Simulator, notification_url: str, client_state: str) -> None:
    """Subscribe to a user's presence as a signed-in user: Graph gives it to nobody else.

    Raises:
        requests.HTTPError: the simulator refuses.
    """
    with requests.Session() as session:
        session.verify = str(sim.ca_bundle)
        session.trust_env = False
        login = f"{sim.login_url}/{sim.tenants[0]}/oauth2/v2.0"
        form = {"client_id": sim.app_id, "scope": f"{sim.graph_url}/Presence.Read.All offline_access"}
        code = _json(session.post(f"{login}/devicecode", data=form))
        sim.entra.approve(code["user_code"])
        grant = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": code["device_code"]}
        token = _json(session.post(f"{login}/token", data={**form, **grant}))["access_token"]
        certificate = sim.vault.certificate()
        assert certificate.certificate is not None
        body = {
            "changeType": "updated",
            "notificationUrl": notification_url,
            "lifecycleNotificationUrl": notification_url,
            "resource": f"/{PRESENCE}",
            "expirationDateTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 58 * 60)),
            "includeResourceData": True,
            "encryptionCertificate": certificate.certificate.der_base64,
            "encryptionCertificateId": f"{sim.vault.certificate_name}/{certificate.version}",
            "clientState": client_state,
        }
        _json(
            session.post(f"{sim.graph_url}/v1.0/subscriptions", json=body, headers={"Authorization": f"Bearer {token}"})
        )


def _json(response: requests.Response) -> dict[str, str]:
    response.raise_for_status()
    found: dict[str, str] = response.json()
    return found
