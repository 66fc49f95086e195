"""What becomes of an emergency where it is received."""

from enum import StrEnum


class ExpressOutcome(StrEnum):
    """How an attempt ended to write an emergency's events where it was received; metrics carry these words.

    All but the first leave the message to the usual way, at once.
    """

    DONE = "done"
    MANY = "many"  # more items than can be opened while Graph waits
    LARGE = "large"  # an item needs a claim check
    NO_KEY = "no-key"  # the private key was not to be had in time, now or a moment ago
    UNOPENED = "unopened"  # an item could not be opened: the usual way judges it
    UNWRITTEN = "unwritten"  # storage did not confirm every event
    FAILED = "failed"  # a fault of ours
