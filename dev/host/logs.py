"""The host's log: standard error, one line for each record, with the level and the function that wrote it."""

import logging
import sys
import time
from collections.abc import Callable

from dev.host.errors import FunctionFailedError


class _Formatter(logging.Formatter):
    def __init__(self, current_function: Callable[[], str | None]) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(source)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        self._current_function = current_function

    def format(self, record: logging.LogRecord) -> str:
        record.source = self._current_function() or record.name
        return super().format(record)


def log_failure(function: str, error: FunctionFailedError) -> None:
    """Log that an invocation failed, with the function's own traceback."""
    logging.getLogger("host").error("%s failed: %s\n%s", function, error, error.stack_trace.rstrip())


def configure(current_function: Callable[[], str | None] = lambda: None) -> None:
    """Send all records from INFO on to standard error, as a worker in Azure sends them to its host.

    Args:
        current_function: the name of the function in whose invocation the caller runs, if it runs in one.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(current_function))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
