"""What is printed for people."""

import pytest

from commands.terminal import console, table


@pytest.mark.parametrize("name", ["Site [north]", "Site [/red]", "[bold]Site[/bold]"])
def test_names_are_shown_to_the_letter(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy may be called so, and an operator is asked about it before it is deleted."""
    shown = table("resource")
    shown.add_row(name)
    console().print(shown)
    console(stderr=True).print(name)
    captured = capsys.readouterr()
    assert (captured.out.split("\n")[1].rstrip(), captured.err) == (name, f"{name}\n")
