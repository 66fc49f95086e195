"""Switchboard's events, and what a consumer needs to read them.

`parse` reads a message, `CloudEvent.typed` an event's data as one of the types in `event_data`, and `Deduplicator`
tells what was handled before. `storage` reads queues and blobs; it needs the extra of that name.
"""

from .deduplicator import Deduplicator, MemoryStore, Store
from .event_types import CloudEvent, EventError, parse

__all__ = ["CloudEvent", "Deduplicator", "EventError", "MemoryStore", "Store", "parse"]
