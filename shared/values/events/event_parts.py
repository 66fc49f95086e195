"""What the data of events is made of: the complex types of Graph's that several of them share.

Every field may be absent or null, and unknown fields are ignored. Times are text in RFC 3339, as Graph has sent them.
What Graph takes from an enumeration is text, too: it may be a member that its metadata does not name yet.

Imports msgspec alone, since consumers get this very file.

Source: Graph's metadata, https://graph.microsoft.com/beta/$metadata, and the pages of the resource types.
"""

from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    type Array[Member] = tuple[Member, ...]
else:  # what is read: `WithArrays` makes of it what type checkers see
    Member = TypeVar("Member")
    Array = tuple[Member | None, ...] | None


def doc(text: str, *known: str) -> Meta:
    """What a field holds.

    Args:
        text: the sentence for people.
        known: the values that Graph's metadata names. Others may come.
    """
    return Meta(description=text, examples=list(known) or None)


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An object of Graph's."""


class WithArrays(Part, frozen=True, kw_only=True):
    """An object with arrays. One that is null reads as an empty one; a member that is null is left out."""

    def __post_init__(self) -> None:
        for name, default in zip(self.__struct_fields__, self.__struct_defaults__, strict=True):
            if default == ():
                members = (member for member in getattr(self, name) or () if member is not None)
                msgspec.structs.force_setattr(self, name, tuple(members))


_ENDPOINT: Final = doc(
    "What the participant takes part with.",
    "default",
    "voicemail",
    "skypeForBusiness",
    "skypeForBusinessVoipPhone",
    "unknownFutureValue",
)


class Identity(Part, frozen=True, kw_only=True):
    """One identity of a set."""

    id: Annotated[str | None, doc("Id of the user, guest, application or phone.")] = None
    display_name: Annotated[str | None, doc("Name as Teams shows it.")] = None
    tenant_id: Annotated[str | None, doc("Id of the identity's Entra ID tenant.")] = None
    user_identity_type: Annotated[
        str | None,
        doc(
            "What kind of user it is.",
            "aadUser",
            "onPremiseAadUser",
            "anonymousGuest",
            "federatedUser",
            "personalMicrosoftAccountUser",
            "skypeUser",
            "phoneUser",
            "unknownFutureValue",
            "emailUser",
            "azureCommunicationServicesUser",
        ),
    ] = None


class IdentitySet(Part, frozen=True, kw_only=True):
    """Who somebody is: an identity for each key that applies."""

    user: Annotated[Identity | None, doc("A user.")] = None
    application: Annotated[Identity | None, doc("An application, such as a bot.")] = None
    device: Annotated[Identity | None, doc("A device.")] = None
    phone: Annotated[Identity | None, doc("A telephone number.")] = None
    guest: Annotated[Identity | None, doc("Somebody without an account.")] = None
    encrypted: Annotated[Identity | None, doc("Somebody whose identity is encrypted.")] = None
    on_premises: Annotated[Identity | None, doc("A user of Skype for Business on premises.")] = None
    application_instance: Annotated[Identity | None, doc("A resource account of an application.")] = None
    azure_communication_services_user: Annotated[Identity | None, doc("A user of Azure Communication Services.")] = None
    asserted_identity: Annotated[Identity | None, doc("Who a caller over a trunk is said to be.")] = None
    endpoint_type: Annotated[str | None, _ENDPOINT] = None


# --- who takes part -------------------------------------------------------------------------------------------------


class ParticipantInfo(Part, frozen=True, kw_only=True):
    """Who a participant is."""

    identity: Annotated[IdentitySet | None, doc("Who it is.")] = None
    non_anonymized_identity: Annotated[IdentitySet | None, doc("Who it is, where others see no name.")] = None
    participant_id: Annotated[str | None, doc("Id of the participant.")] = None
    country_code: Annotated[str | None, doc("Country, by ISO 3166-1 alpha-2, where it is known early.")] = None
    region: Annotated[str | None, doc("Home region, where it is known early.")] = None
    language_id: Annotated[str | None, doc("Language of the client.")] = None
    platform_id: Annotated[str | None, doc("Platform of the client.")] = None
    endpoint_type: Annotated[str | None, _ENDPOINT] = None


class RemovedState(Part, frozen=True, kw_only=True):
    """Why a participant left."""

    reason: Annotated[str | None, doc("A sentence of Graph's: left the call, or became inactive.")] = None


class MediaStream(Part, frozen=True, kw_only=True):
    """One of a participant's streams."""

    source_id: Annotated[str | None, doc("Id of the stream.")] = None
    label: Annotated[str | None, doc("Label of the stream.")] = None
    media_type: Annotated[
        str | None,
        doc("What is streamed.", "unknown", "audio", "video", "videoBasedScreenSharing", "data", "unknownFutureValue"),
    ] = None
    direction: Annotated[
        str | None, doc("Which way, for the participant.", "inactive", "sendOnly", "receiveOnly", "sendReceive")
    ] = None
    server_muted: Annotated[bool | None, doc("Whether the server has muted it.")] = None


class RecordingInfo(Part, frozen=True, kw_only=True):
    """Whether a participant records."""

    recording_status: Annotated[
        str | None,
        doc("How far the recording is.", "unknown", "notRecording", "recording", "failed", "unknownFutureValue"),
    ] = None
    initiator: Annotated[IdentitySet | None, doc("Who began it.")] = None
    initiated_by: Annotated[ParticipantInfo | None, doc("The participant who began it.")] = None


class RestrictedExperience(WithArrays, frozen=True, kw_only=True):
    """Why a participant cannot use part of a meeting."""

    content_sharing_disabled: Annotated[
        Array[str], doc("Why content cannot be shared.", "watermarkProtection", "unknownFutureValue")
    ] = ()
    video_disabled: Annotated[
        Array[str], doc("Why there is no video.", "watermarkProtection", "unknownFutureValue")
    ] = ()


class SyntheticMediaDetection(Part, frozen=True, kw_only=True):
    """Whether a participant's picture or voice is taken for a synthetic one."""

    detection_id: Annotated[str | None, doc("Id of the detection.")] = None
    detector_bot: Annotated[str | None, doc("What has detected it.")] = None
    is_participant_trusted: Annotated[bool | None, doc("Whether the participant is trusted all the same.")] = None
    synthetic_confidence: Annotated[float | None, doc("How sure the detector is.")] = None


class Participant(WithArrays, frozen=True, kw_only=True):
    """One change of a roster."""

    id: Annotated[str | None, doc("Id of the participant in this call.")] = None
    info: Annotated[ParticipantInfo | None, doc("Who it is.")] = None
    is_in_lobby: Annotated[bool | None, doc("Whether the participant waits to be let in.")] = None
    is_muted: Annotated[bool | None, doc("Whether the participant is muted.")] = None
    is_identity_anonymized: Annotated[bool | None, doc("Whether others see no name.")] = None
    preferred_display_name: Annotated[str | None, doc("Name that the participant has chosen for this call.")] = None
    removed_state: Annotated[
        RemovedState | None, doc("There only when the participant has left or become inactive.")
    ] = None
    roster_sequence_number: Annotated[int | None, doc("Rises with each change of the roster: the highest counts.")] = (
        None
    )
    media_streams: Annotated[Array[MediaStream], doc("The participant's streams.")] = ()
    recording_info: Annotated[RecordingInfo | None, doc("Whether the participant records.")] = None
    restricted_experience: Annotated[RestrictedExperience | None, doc("What the participant cannot use.")] = None
    synthetic_media_detection: Annotated[
        SyntheticMediaDetection | None, doc("Whether picture or voice are taken for synthetic ones.")
    ] = None
    metadata: Annotated[str | None, doc("What the application that brought the participant in has said of it.")] = None


class MediaState(Part, frozen=True, kw_only=True):
    """Whether a call is recorded, or transcribed."""

    state: Annotated[str | None, doc("Whether it is.", "active", "inactive", "unknownFutureValue")] = None
    sequence_number: Annotated[int | None, doc("Rises with each change: the highest counts.")] = None


# --- where an emergency is ------------------------------------------------------------------------------------------


class CallerAddress(Part, frozen=True, kw_only=True):
    """A civic address."""

    type: Annotated[str | None, doc("What the address is.", "unknown", "home", "business", "other")] = None
    street: Annotated[str | None, doc("Street.")] = None
    post_office_box: Annotated[str | None, doc("Number of a post office box.")] = None
    city: Annotated[str | None, doc("City.")] = None
    state: Annotated[str | None, doc("State or province.")] = None
    country_or_region: Annotated[str | None, doc("Country or region.")] = None
    postal_code: Annotated[str | None, doc("Postal code.")] = None
    additional_data: Annotated[dict[str, Any] | None, doc("The rest as Graph sends it: companyName, houseNumber…")] = (
        None
    )


class Coordinates(Part, frozen=True, kw_only=True):
    """A place on the map. Graph's sample of a notification has strings, its entity page numbers."""

    latitude: Annotated[str | float | None, doc("Degrees.")] = None
    longitude: Annotated[str | float | None, doc("Degrees.")] = None
    accuracy: Annotated[str | float | None, doc("How far off the place may be, in metres.")] = None
    altitude: Annotated[str | float | None, doc("Metres above the sea.")] = None
    altitude_accuracy: Annotated[str | float | None, doc("How far off the altitude may be, in metres.")] = None


class CallerLocation(Part, frozen=True, kw_only=True):
    """A place."""

    display_name: Annotated[str | None, doc("Name of the place.")] = None
    location_type: Annotated[
        str | None,
        doc(
            "What kind of place it is.",
            "default",
            "conferenceRoom",
            "homeAddress",
            "businessAddress",
            "geoCoordinates",
            "streetAddress",
            "hotel",
            "restaurant",
            "localBusiness",
            "postalAddress",
        ),
    ] = None
    address: Annotated[CallerAddress | None, doc("Civic address.")] = None
    coordinates: Annotated[Coordinates | None, doc("Place on the map.")] = None
    location_uri: Annotated[str | None, doc("URI of the place.")] = None
    location_email_address: Annotated[str | None, doc("E-mail address of the place.")] = None
    unique_id: Annotated[str | None, doc("Id of the place.")] = None
    unique_id_type: Annotated[
        str | None, doc("Whose id that is.", "unknown", "locationStore", "directory", "private", "bing")
    ] = None


class CallerInfo(Part, frozen=True, kw_only=True):
    """Who made an emergency call."""

    display_name: Annotated[str | None, doc("Name of the caller.")] = None
    upn: Annotated[str | None, doc("User principal name.")] = None
    phone_number: Annotated[str | None, doc("Number of the caller.")] = None
    tenant_id: Annotated[str | None, doc("Id of the caller's Entra ID tenant.")] = None
    location: Annotated[CallerLocation | None, doc("Where the call came from.")] = None


# --- what a presence says -------------------------------------------------------------------------------------------


class Body(Part, frozen=True, kw_only=True):
    """A text."""

    content: Annotated[str | None, doc("The text.")] = None
    content_type: Annotated[str | None, doc("What it is written in.", "text", "html")] = None


class ZonedTime(Part, frozen=True, kw_only=True):
    """A time by the clock of a zone."""

    date_time: Annotated[str | None, doc("Date and time without an offset: `2026-01-15T17:00:00`.")] = None
    time_zone: Annotated[str | None, doc("Name of the zone.")] = None


class StatusMessage(Part, frozen=True, kw_only=True):
    """What a user has written beside the presence."""

    message: Annotated[Body | None, doc("The message.")] = None
    published_date_time: Annotated[str | None, doc("When it was written, in RFC 3339.")] = None
    expiry_date_time: Annotated[ZonedTime | None, doc("Until when it is shown.")] = None


class OutOfOffice(Part, frozen=True, kw_only=True):
    """Whether a user is out of office."""

    is_out_of_office: Annotated[bool | None, doc("Whether the user is.")] = None
    message: Annotated[str | None, doc("What Teams says of it.")] = None


class WorkLocation(Part, frozen=True, kw_only=True):
    """Where a user works."""

    work_location_type: Annotated[
        str | None, doc("What kind of place.", "unspecified", "office", "remote", "timeOff", "unknownFutureValue")
    ] = None
    place_id: Annotated[str | None, doc("Id of the place.")] = None
    source: Annotated[
        str | None, doc("Who has said so.", "none", "manual", "scheduled", "automatic", "unknownFutureValue")
    ] = None
