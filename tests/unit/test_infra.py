"""The Bicep templates against the code, both ways: what the code uses is deployed, what is deployed is used."""

import ast
import json
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import azure.keyvault.secrets
import azure.storage.blob
import azure.storage.queue
import pytest
from azure.keyvault.secrets.aio import SecretClient
from azure.storage.blob.aio import ContainerClient
from azure.storage.queue.aio import QueueClient

import shared
from shared.domain.resources import EVENT_QUEUES, RAW_QUEUES
from shared.settings import load
from tests.unit.bicep import Declaration, Expression, Template, read

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
TEMPLATES = {path.relative_to(INFRA).as_posix(): read(path) for path in sorted(INFRA.rglob("*.bicep"))}
MAIN = TEMPLATES["main.bicep"]

GUID = "11111111-1111-1111-1111-111111111111"


def only(template: Template, kind: str) -> Declaration:
    (found,) = template.of_type(kind)
    return found


def looped(template: Template, kind: str) -> list[str]:
    """The names of the resources of a kind that are declared in a loop."""
    (found,) = (one for one in template.of_type(kind) if one.loop is not None)
    names = template.variables[found.loop]
    assert all(isinstance(name, str) for name in names)
    return list(names)


class TestTemplates:
    @pytest.mark.parametrize("name", TEMPLATES)
    def test_parse_without_an_error(self, name: str) -> None:
        assert TEMPLATES[name].syntax_errors == []

    @pytest.mark.parametrize("name", TEMPLATES)
    def test_use_only_what_they_declare(self, name: str) -> None:
        template = TEMPLATES[name]

        assert template.used - template.declared - template.loop_names == set()

    @pytest.mark.parametrize("name", TEMPLATES)
    def test_declare_nothing_in_vain(self, name: str) -> None:
        template = TEMPLATES[name]

        assert {*template.parameters, *template.variables} - template.used == set()

    @pytest.mark.parametrize("module", MAIN.modules.values(), ids=lambda module: module.symbol)
    def test_modules_are_given_exactly_what_they_ask_for(self, module: Declaration) -> None:
        asked = TEMPLATES[module.kind.removeprefix("./")].parameters
        given = set(module.body["params"])

        assert given - set(asked) == set()
        assert {name for name, has_default in asked.items() if not has_default} - given == set()

    def test_outputs_of_modules_are_used_and_exist(self) -> None:
        exist = {
            (symbol, output)
            for symbol, module in MAIN.modules.items()
            for output in TEMPLATES[module.kind.removeprefix("./")].outputs
        }

        assert exist == MAIN.members

    def test_each_file_is_a_module_of_main(self) -> None:
        used = {module.kind.removeprefix("./") for module in MAIN.modules.values()}

        assert used == set(TEMPLATES) - {"main.bicep"}

    def test_the_parameter_file_gives_parameters_that_exist(self) -> None:
        given = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]

        assert set(given) - set(MAIN.parameters) == set()
        assert {name for name, has_default in MAIN.parameters.items() if not has_default} - set(given) == set()


class TestStorage:
    def test_queues_are_those_of_the_code(self) -> None:
        wanted = [*RAW_QUEUES, *(f"{queue}-poison" for queue in RAW_QUEUES), *EVENT_QUEUES]

        queues = looped(TEMPLATES["app/storage.bicep"], "Microsoft.Storage/storageAccounts/queueServices/queues")

        assert sorted(queues) == sorted(wanted)

    def test_every_trigger_has_its_queue(self) -> None:
        triggers = {binding["queueName"] for binding in bindings() if binding["type"] == "queueTrigger"}

        queues = looped(TEMPLATES["app/storage.bicep"], "Microsoft.Storage/storageAccounts/queueServices/queues")

        assert triggers - set(queues) == set()

    def test_containers_are_those_of_the_code(self) -> None:
        location = app_settings()["SUBSCRIPTIONS"]
        desired_state = location.removeprefix("blob:").partition("/")[0]

        containers = looped(TEMPLATES["app/storage.bicep"], "Microsoft.Storage/storageAccounts/blobServices/containers")

        assert sorted(containers) == sorted({*containers_of_the_code(), desired_state})

    def test_blobs_are_forgotten_only_where_the_code_can_do_without_them(self) -> None:
        storage = TEMPLATES["app/storage.bicep"]
        policy = only(storage, "Microsoft.Storage/storageAccounts/managementPolicies").body["properties"]["policy"]

        forgotten = {prefix for rule in policy["rules"] for prefix in rule["definition"]["filters"]["prefixMatch"]}

        assert forgotten == {"raw-claims/", "handled-claims/", "event-data/"}

    def test_account_keys_and_public_blobs_are_off(self) -> None:
        properties = only(TEMPLATES["app/storage.bicep"], "Microsoft.Storage/storageAccounts").body["properties"]

        assert properties["allowSharedKeyAccess"] is False
        assert properties["allowBlobPublicAccess"] is False
        assert properties["supportsHttpsTrafficOnly"] is True
        assert properties["minimumTlsVersion"] == "TLS1_2"


class TestFunctionApp:
    def test_runs_the_python_that_the_code_is_written_for(self) -> None:
        config = function_app()["functionAppConfig"]
        wanted = re.search(r'requires-python = ">=(.*?)"', (ROOT / "pyproject.toml").read_text())

        assert wanted is not None
        assert config["runtime"] == {"name": "python", "version": wanted[1]}

    def test_takes_more_than_one_request_at_a_time(self) -> None:
        http = function_app()["functionAppConfig"]["scaleAndConcurrency"]["triggers"]["http"]

        assert http["perInstanceConcurrency"] == Expression("httpConcurrency", frozenset({"httpConcurrency"}))

    def test_keeps_instances_for_a_function_that_exists(self) -> None:
        names = set(re.findall(r"function:(\w+)", (INFRA / "app" / "function.bicep").read_text()))
        functions = set(re.findall(r'function_name\("(\w+)"\)', (ROOT / "function_app.py").read_text()))

        assert names
        assert names - functions == set()

    def test_speaks_https_alone(self) -> None:
        properties = function_app()

        assert properties["httpsOnly"] is True
        assert properties["siteConfig"]["minTlsVersion"] == "1.2"
        assert properties["siteConfig"]["ftpsState"] == "Disabled"

    def test_azd_finds_it(self) -> None:
        site = only(TEMPLATES["app/function.bicep"], "Microsoft.Web/sites")
        service = re.search(r"services:\n  (\w+):", (ROOT / "azure.yaml").read_text())

        assert service is not None
        assert f"'azd-service-name': '{service[1]}'" in site.body["tags"].text


# What the platform or a library reads, and our code does not: the page that says so.
PLATFORM_SETTINGS = {
    "AZURE_CLIENT_ID": "DefaultAzureCredential",
    "AzureWebJobsStorage__credential": "Connecting to host storage with an identity",
    "APPLICATIONINSIGHTS_CONNECTION_STRING": "App settings reference for Azure Functions",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING": "App settings reference for Azure Functions",
    "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY": "Use OpenTelemetry with Azure Functions",
    "PYTHON_APPLICATIONINSIGHTS_LOGGER_NAME": "Azure Monitor OpenTelemetry Distro for Python",
    "OTEL_TRACES_SAMPLER": "Sampling in Azure Monitor Application Insights with OpenTelemetry",
    "OTEL_TRACES_SAMPLER_ARG": "Sampling in Azure Monitor Application Insights with OpenTelemetry",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "Azure Monitor OpenTelemetry Distro for Python",
}
# What the code reads, and a deployment has no use for.
LOCAL_SETTINGS = {
    "AzureWebJobsStorage": "a connection string, which would win over the identity",
    "AzureWebJobsStorage__accountName": "the service URIs say it",
    "GRAPH_ENDPOINT": "the public cloud's by default",
    "LOGIN_ENDPOINT": "the public cloud's by default",
}


class TestSettings:
    def test_what_the_code_reads_is_set(self) -> None:
        assert settings_of_the_code() - set(app_settings()) == set(LOCAL_SETTINGS)

    def test_what_is_set_is_read(self) -> None:
        assert set(app_settings()) - settings_of_the_code() == set(PLATFORM_SETTINGS)

    def test_are_accepted_by_the_code(self) -> None:
        settings = load(
            {
                **app_settings(),
                **{name: "https://example.net" for name, value in app_settings().items() if "${" in value},
                "CLIENT_STATE": "secret",
                "CLIENT_STATE_PREVIOUS": "secret",
                "GRAPH_TENANT_IDS": GUID,
                "GRAPH_APP_IDS": GUID,
                "SIGN_IN_APP_ID": "",
                "FEDERATED_APP_ID": "",
                "AzureWebJobsStorage__clientId": GUID,
                "CERTIFICATE_NAME": default_of("certificateName"),
                "EVENT_ENCODING": default_of("eventEncoding"),
                "EVENT_FORMAT": default_of("eventFormat"),
                "CALL_RECORDS": default_of("callRecords"),
                "EMERGENCY_EXPRESS": default_of("emergencyExpress"),
                "MAX_BODY_BYTES": default_of("maxBodyBytes"),
                "AzureWebJobsStorage__blobServiceUri": "https://example.blob.core.windows.net/",
                "AzureWebJobsStorage__queueServiceUri": "https://example.queue.core.windows.net/",
                "KEY_VAULT_URL": "https://example.vault.azure.net/",
            }
        )

        assert settings.storage.client_id == GUID
        assert settings.subscriptions == "blob:config/subscriptions.toml"

    def test_urls_lead_to_the_functions(self) -> None:
        routes = {f"/api/{binding['route']}" for binding in bindings() if binding["type"] == "httpTrigger"}
        urls = [app_settings()["NOTIFICATION_URL"], app_settings()["LIFECYCLE_NOTIFICATION_URL"]]

        paths = {url.partition("}")[2] for url in urls}

        assert paths - routes == set()

    def test_hold_no_secret_but_a_reference_to_the_vault(self) -> None:
        for name, secret in {"CLIENT_STATE": "client-state", "CLIENT_STATE_PREVIOUS": "client-state-previous"}.items():
            assert app_settings()[name] == f"@Microsoft.KeyVault(SecretUri=${{vaultUri}}secrets/{secret})"

    def test_stand_in_the_readme(self) -> None:
        table = (ROOT / "README.md").read_text().partition("## Settings")[2].partition("\n## ")[0]

        missing = [name for name in settings_of_the_code() if not name.startswith("AzureWebJobs") and name not in table]

        assert missing == []

    def test_defaults_are_those_of_the_code(self) -> None:
        from shared.settings import DEFAULT_RENEWAL_SCHEDULE

        assert default_of("renewalSchedule") == DEFAULT_RENEWAL_SCHEDULE
        assert int(default_of("maxBodyBytes")) == 4 * 1024 * 1024


# "Azure built-in roles", and the data actions that each permits; Owner of blobs is what the Functions host asks for.
ROLES = {
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "b86a8fe4-44ce-4948-aee5-eccb2c155cd7": "Key Vault Secrets Officer",
    "a4417e6f-fecd-4de8-b567-7b0420556985": "Key Vault Certificates Officer",
}
# What each call of an SDK needs: (scope, role).
_BLOBS = ("storage", "Storage Blob Data Owner")
_QUEUES = ("storage", "Storage Queue Data Contributor")
CALLS: dict[type, dict[str, tuple[str, str]]] = {
    QueueClient: {
        "create_queue": _QUEUES,
        "get_queue_properties": _QUEUES,
        "delete_message": _QUEUES,
        "peek_messages": _QUEUES,
        "receive_messages": _QUEUES,
        "send_message": _QUEUES,
        "update_message": _QUEUES,
    },
    ContainerClient: {
        "create_container": _BLOBS,
        "upload_blob": _BLOBS,
        "list_blobs": _BLOBS,
        "get_blob_client": _BLOBS,
        "download_blob": _BLOBS,
        "delete_blob": _BLOBS,
    },
    SecretClient: {
        "get_secret": ("vault", "Key Vault Secrets User"),
        "set_secret": ("signIns[i]", "Key Vault Secrets Officer"),
    },
}
SYNC: dict[type, type] = {
    QueueClient: azure.storage.queue.QueueClient,
    ContainerClient: azure.storage.blob.ContainerClient,
    SecretClient: azure.keyvault.secrets.SecretClient,
}
# What runs the app needs, whatever our code does ("Connecting to host storage with an identity", "Microsoft Entra
# authentication for Application Insights", "Use Key Vault references").
HOST_ROLES = {
    ("storage", "Storage Blob Data Owner"),
    ("storage", "Storage Queue Data Contributor"),
    ("insights", "Monitoring Metrics Publisher"),
    ("vault", "Key Vault Secrets User"),
}


class TestRoles:
    def test_the_app_has_exactly_those_that_its_calls_need(self) -> None:
        needed = {CALLS[client][call] for client, call in calls_of_the_code()}

        assert grants("identityPrincipalId") == HOST_ROLES | needed

    def test_every_call_of_the_code_is_known(self) -> None:
        """A call that is new here needs a decision: which role permits it?"""
        assert [(client.__name__, call) for client, call in calls_of_the_code() if call not in CALLS[client]] == []

    def test_the_deployer_has_what_the_hook_uses(self) -> None:
        assert grants("deployerPrincipalId") == {
            ("vault", "Key Vault Certificates Officer"),
            ("vault", "Key Vault Secrets Officer"),
            ("configContainer", "Storage Blob Data Contributor"),
        }

    def test_nobody_else_has_any(self) -> None:
        assignments = TEMPLATES["app/access.bicep"].of_type("Microsoft.Authorization/roleAssignments")
        elsewhere = [
            name
            for name, template in TEMPLATES.items()
            if name != "app/access.bicep" and template.of_type("Microsoft.Authorization/roleAssignments")
        ]

        assert elsewhere == []
        assert len(assignments) == len(grants("identityPrincipalId")) + len(grants("deployerPrincipalId"))


class TestVaultAndMonitoring:
    def test_access_is_by_role(self) -> None:
        properties = only(TEMPLATES["app/vault.bicep"], "Microsoft.KeyVault/vaults").body["properties"]

        assert properties["enableRbacAuthorization"] is True
        assert properties["enableSoftDelete"] is True

    def test_telemetry_is_taken_from_identities_alone(self) -> None:
        insights = only(TEMPLATES["app/monitoring.bicep"], "Microsoft.Insights/components")

        assert insights.body["properties"]["DisableLocalAuth"] is True


# --- what the code uses ---------------------------------------------------------------------------------------------


def bindings() -> list[dict[str, Any]]:
    """The trigger of each function."""
    spec = spec_from_file_location("functions_of_the_template", ROOT / "function_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)  # of its own: an app lists its functions once
    spec.loader.exec_module(module)
    return [
        binding.get_dict_repr()
        for function in module.app.get_functions()
        for binding in function.get_bindings()
        if binding.get_dict_repr()["type"].endswith("Trigger")
    ]


def modules() -> Iterator[tuple[str, ast.Module]]:
    for found in pkgutil.walk_packages(shared.__path__, "shared."):
        module = import_module(found.name)
        assert module.__file__ is not None
        yield found.name, ast.parse(Path(module.__file__).read_text())


def containers_of_the_code() -> set[str]:
    return {
        value
        for name, _ in modules()
        for constant, value in vars(import_module(name)).items()
        if constant.endswith("_CONTAINER")
    }


class Recorder(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def settings_of_the_code() -> set[str]:
    """What `settings.load` asks the environment for, and what is asked for elsewhere."""
    from shared.domain.errors import SettingsError

    recorder, by_identity = Recorder(), Recorder()
    by_identity.update({"AzureWebJobsStorage__queueServiceUri": "x", "AzureWebJobsStorage__blobServiceUri": "x"})
    for environment in (recorder, by_identity):
        with pytest.raises(SettingsError):
            load(environment)
    trees = [tree for _, tree in modules()] + [ast.parse((ROOT / "function_app.py").read_text())]
    return recorder.asked | by_identity.asked | {name for tree in trees for name in environment_names(tree)}


def environment_names(tree: ast.Module) -> Iterator[str]:
    """The names in `os.environ["…"]`, `os.environ.get("…")` and `os.getenv("…")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            name: ast.AST = node.slice
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"os.environ.get", "os.getenv"}:
            name = node.args[0]
        else:
            continue
        assert isinstance(name, ast.Constant), f"a setting is read by a computed name: {ast.unparse(node)}"
        yield str(name.value)


def calls_of_the_code() -> set[tuple[type, str]]:
    """The SDK's methods that adapters call, by the clients that they import."""
    found = set()
    for name, tree in modules():
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        called = {
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        for client in CALLS:
            if name.startswith("shared.adapters") and client.__name__ in imported:
                methods = {method for kind in (client, SYNC[client]) for method in vars(kind)} - {"close"}
                found |= {(client, method) for method in called & methods}
    return found


# --- what the templates say -----------------------------------------------------------------------------------------


def function_app() -> dict[str, Any]:
    return dict(only(TEMPLATES["app/function.bicep"], "Microsoft.Web/sites").body["properties"])


def app_settings() -> dict[str, str]:
    """The app settings; an expression as its source."""
    properties = only(TEMPLATES["app/function.bicep"], "Microsoft.Web/sites/config").body["properties"]
    return {name: value.text if isinstance(value, Expression) else str(value) for name, value in properties.items()}


def default_of(parameter: str) -> str:
    found = re.search(rf"^param {parameter} \w+ = (.*)$", (INFRA / "main.bicep").read_text(), re.MULTILINE)
    assert found is not None
    return found[1].strip("'")


def grants(principal: str) -> set[tuple[str, str]]:
    """(scope, role) of each assignment to a principal."""
    template = TEMPLATES["app/access.bicep"]
    found = set()
    for assignment in template.of_type("Microsoft.Authorization/roleAssignments"):
        properties = assignment.body["properties"]
        if properties["principalId"].text != principal:
            continue
        (symbol,) = properties["roleDefinitionId"].names
        name = assignment.body["name"]
        assert {symbol, principal} <= name.names, "the name tells assignments apart"
        found.add((assignment.body["scope"].text, ROLES[template.variables[symbol]]))
    return found
