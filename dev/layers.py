"""Whether each room of the app imports only what stands below it, by the contracts in pyproject.toml."""

import sys

from importlinter.cli import lint_imports

if __name__ == "__main__":
    sys.exit(lint_imports(no_cache=True))
