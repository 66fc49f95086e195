"""The XML in which storage lists messages, queues and blobs."""

from typing import TYPE_CHECKING

from shared.values.errors import UnavailableError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def page(document: bytes, tag: str, what: str) -> "tuple[list[Element], str]":
    """What a page of a list holds, and the marker of the next page; empty where there is none.

    Args:
        document: the answer's body.
        tag: of what is listed.
        what: for the error.

    Raises:
        UnavailableError: it is not XML. A message with a character that XML does not have makes it so.
    """
    from xml.etree import ElementTree as ET  # noqa: PLC0415 - a put needs none

    try:
        listing = ET.fromstring(document)  # noqa: S314 - from our own storage account
    except ET.ParseError as error:
        raise UnavailableError(what, reason="storage-unreadable") from error
    return list(listing.iter(tag)), listing.findtext("NextMarker", "")
