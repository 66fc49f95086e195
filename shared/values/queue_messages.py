"""What a queue says of a message."""

from datetime import datetime
from typing import NamedTuple


class Receipt(NamedTuple):
    """What shows or deletes a message, for as long as nobody else has taken it ("Put Message", "Get Messages").

    Both ids are empty where storage named none: then it can be neither shown nor deleted.
    """

    queue: str
    message_id: str
    pop_receipt: str


class LeasedMessage(NamedTuple):
    """A message that nobody else sees until its lease is over: its text as it lies there, and since when it does."""

    receipt: Receipt
    text: str
    inserted: datetime
