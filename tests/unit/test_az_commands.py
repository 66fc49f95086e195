"""Which `az` commands are found in documents and scripts; what the Azure CLI says of them is for `run.py lint --az`."""

from pathlib import Path

from dev.az_commands import ROOT, commands, in_page, in_script


def found(text: str) -> list[tuple[str, ...]]:
    return [command.arguments for command in in_page(text, "page.md")]


class TestInPage:
    def test_only_code_blocks_count(self) -> None:
        assert found("az is a tool: `az login`\n\n```\naz group list\n```\n") == [("group", "list")]

    def test_lines_that_go_on_are_one_command(self) -> None:
        assert found("```\naz group create \\\n    --name x\n```\n") == [("group", "create", "--name", "x")]

    def test_what_is_known_only_when_it_runs_is_anything(self) -> None:
        text = '```\naz a --b "$(azd env get-value C)" --d "$e" --f \'[?g==`h`]\' | sort\n```\n'

        assert found(text) == [("a", "--b", "x", "--d", "x", "--f", "[?g==`h`]")]

    def test_commands_inside_others_are_found(self) -> None:
        assert found('```\nkey=$(az keys list --query "a (b)")\n```\n') == [("keys", "list", "--query", "a (b)")]

    def test_each_has_its_line(self) -> None:
        (command,) = in_page("# A\n\n```sh\nazd up\naz login\n```\n", "page.md")

        assert command.place == "page.md:5"


class TestInScript:
    def test_arguments_that_are_computed_are_anything(self) -> None:
        (command,) = in_script("def f(name):\n    azure('group', 'show', '--name', name)\n", "a.py")

        assert command.arguments == ("group", "show", "--name", "x", "--output", "json")
        assert command.place == "a.py:2"

    def test_what_the_hook_adds_belongs_to_the_command(self) -> None:
        (command,) = in_script("place = ('--name', name)\ncli.patiently('group', 'show', *place)\n", "a.py")

        assert command.arguments == ("group", "show", "--name", "x", "--subscription", "x", "--output", "json")


def test_those_of_this_checkout_are_found() -> None:
    pages = {Path(command.place.partition(":")[0]).name for command in commands(ROOT)}

    assert {"deploy.md", "operations.md", "operator_settings.py", "provision.py"} <= pages
