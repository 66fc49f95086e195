"""Workflow, templates, dev container and pages: what they name exists."""

import json
import re
from pathlib import Path

import pytest
import yaml

import run

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
WEEKLY = ROOT / ".github" / "workflows" / "weekly.yml"
PAGES = [ROOT / "docs" / name for name in ("deploy.md", "operations.md", "scaling.md")]


class TestWorkflow:
    def test_tests_on_every_system_that_people_develop_on(self) -> None:
        matrix = yaml.safe_load(WORKFLOW.read_text())["jobs"]["test"]["strategy"]["matrix"]["os"]

        assert {name.partition("-")[0] for name in matrix} == {"ubuntu", "windows", "macos"}

    def test_runs_commands_that_exist(self) -> None:
        commands = set(re.findall(r"run\.py (\w+)", WORKFLOW.read_text()))

        assert {"lint", "test", "demo"} <= commands

    @pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
    def test_knows_only_commands_that_exist_and_may_only_read(self, workflow: Path) -> None:
        text = workflow.read_text()
        assert set(re.findall(r"run\.py (\w+)", text)) - set(run.COMMANDS) == set()
        assert yaml.safe_load(text)["permissions"] == {"contents": "read"}

    def test_compares_the_schemas_with_graphs_metadata_every_week(self) -> None:
        weekly = yaml.safe_load(WEEKLY.read_text())
        assert weekly[True]["schedule"]  # YAML 1.1 reads the key "on" as a boolean
        assert {"run": "python run.py drift"} in weekly["jobs"]["drift"]["steps"]

    def test_lints_the_templates_where_there_is_a_compiler(self) -> None:
        steps = [step.get("run") for step in yaml.safe_load(WORKFLOW.read_text())["jobs"]["infra"]["steps"]]

        assert steps[-2:] == ["az bicep install", "python run.py lint --az"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_issue_templates_have_fields_of_known_types_and_unique_ids(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": False}
        return
    ids = [field["id"] for field in form["body"] if "id" in field]

    assert {"name", "description", "body"} <= set(form)
    assert {field["type"] for field in form["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert len(ids) == len(set(ids))


def test_the_dev_container_has_the_python_that_is_deployed() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    deployed = re.search(r"name: 'python'\s+version: '(.*?)'", (ROOT / "infra" / "app" / "function.bicep").read_text())

    assert deployed is not None
    assert f"-{deployed[1]}-" in container["image"]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "events.md"], ids=lambda page: page.name)
def test_pages_link_to_what_exists(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)

    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
class TestPages:
    def test_run_modules_and_scripts_that_exist(self, page: Path) -> None:
        text = page.read_text()
        modules = [ROOT.joinpath(*name.split(".")) for name in re.findall(r"python -m ([\w.]+)", text)]
        scripts = [ROOT / name for name in re.findall(r"python3? (\w+\.py)", text)]

        assert [path for path in modules if not (path.with_suffix(".py").exists() or path.is_dir())] == []
        assert [path for path in scripts if not path.exists()] == []

    def test_set_variables_that_the_parameters_read(self, page: Path) -> None:
        read = set(re.findall(r"\$\{(\w+)", (ROOT / "infra" / "main.parameters.json").read_text()))

        assert set(re.findall(r"azd env set (\w+)", page.read_text())) - read == set()

    def test_ask_for_outputs_that_the_template_has(self, page: Path) -> None:
        outputs = set(re.findall(r"^output (\w+) ", (ROOT / "infra" / "main.bicep").read_text(), re.MULTILINE))

        azd = {"AZURE_SUBSCRIPTION_ID"}  # of every environment

        assert set(re.findall(r"azd env get-value (\w+)", page.read_text())) - outputs - azd == set()

    def test_name_parameters_that_exist(self, page: Path) -> None:
        """Words in code that look like a parameter of the template: camelCase with a known ending."""
        parameters = set(re.findall(r"^param (\w+) ", (ROOT / "infra" / "main.bicep").read_text(), re.MULTILINE))
        named = set(re.findall(r"`([a-z]+(?:[A-Z]\w+)?(?:Count|Days|Concurrency|MB|GB|Minutes))`", page.read_text()))

        assert named - parameters == set()


def test_deploy_md_says_of_every_parameter_how_to_set_it() -> None:
    azd = {"AZURE_ENV_NAME", "AZURE_LOCATION", "AZURE_PRINCIPAL_ID", "AZURE_PRINCIPAL_TYPE"}  # set by azd
    read = set(re.findall(r"\$\{(\w+)", (ROOT / "infra" / "main.parameters.json").read_text()))
    text = (ROOT / "docs" / "deploy.md").read_text()

    assert [name for name in sorted(read - azd) if f"`{name}`" not in text] == []
