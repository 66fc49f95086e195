"""The host's log: standard error, one line for each record, with the level and the function that wrote it."""

import logging
import sys
import time

from dev.host.errors import FunctionFailedError
from dev.host.worker import current_function


class _Formatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(source)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        record.source = current_function() or record.name
        return super().format(record)


def log_failure(function: str, error: FunctionFailedError) -> None:
    """Log that an invocation failed, with the function's own traceback."""
    logging.getLogger("host").error("%s failed: %s\n%s", function, error, error.stack_trace.rstrip())


def configure() -> None:
    """Send all records from INFO on to standard error, the SDKs' own chatter only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("azure").setLevel(logging.WARNING)
