"""The XML in which storage lists messages and blobs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def elements(document: bytes, tag: str) -> "list[Element]":
    """All elements of a name, wherever they stand.

    Raises:
        ValueError: it is not XML; a message with a character that XML does not have is such a case.
    """
    from xml.etree import ElementTree as ET  # noqa: PLC0415 - a put needs none

    try:
        return list(ET.fromstring(document).iter(tag))  # noqa: S314 - from our own storage account
    except ET.ParseError as error:
        raise ValueError("not XML") from error
