"""What all commands share in speaking to whoever runs them."""

import typer


def group(about: str) -> typer.Typer:
    """An empty group of commands that shows its help when called without one."""
    return typer.Typer(help=about, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
