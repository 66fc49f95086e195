"""Let the Azure CLI's own parser read commands that are never run.

Run by the Python that has the Azure CLI: a JSON list of argument lists comes on standard input, and a JSON list of what
the parser says of each goes to standard output, empty where it accepts it.
"""

import contextlib
import io
import json
import sys

from azure.cli.core import get_default_cli
from knack.events import EVENT_INVOKER_POST_PARSE_ARGS


class Parsed(BaseException):
    """Ends an invocation once its arguments are accepted, before anything is done with them."""


def stop(*_: object, **__: object) -> None:
    raise Parsed


def verdict(arguments: list[str], errors: io.StringIO) -> str:
    """What the parser says of one command; the Azure CLI writes it to `errors`."""
    cli = get_default_cli()
    cli.register_event(EVENT_INVOKER_POST_PARSE_ARGS, stop)
    before = errors.tell()
    try:
        cli.invoke(arguments, out_file=io.StringIO())
    except Parsed:
        return ""
    except SystemExit:
        pass
    return errors.getvalue()[before:].strip() or "refused without a word"


if __name__ == "__main__":
    errors = io.StringIO()  # one for all: its log keeps the first that it finds
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        verdicts = [verdict(arguments, errors) for arguments in json.load(sys.stdin)]
    json.dump(verdicts, sys.stdout)
