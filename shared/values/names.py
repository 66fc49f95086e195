"""Where what outlives a worker is kept: small blobs that every worker can read."""

from typing import Final

STATE_CONTAINER: Final = "state"
