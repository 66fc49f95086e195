"""What the templates deploy against the code, both ways: what the code uses is deployed, what is deployed is used."""

import ast
import json
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import azure.keyvault.secrets
import pytest
from azure.keyvault.secrets.aio import SecretClient

import shared
from dev import templates
from shared.call_records.missing import NOTES_KEPT
from shared.settings import load
from shared.values.consumers import Consumers, parse_consumers
from shared.values.resources import EVENT_QUEUES, RAW_QUEUES
from tests.unit.deployed import SETS, deployed, last, without_references

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
RECORD = json.loads(templates.RECORD.read_text())
PARAMETERS = dict(re.findall(r"^param (\w+) (.*?)(?: = .*)?$", (INFRA / "main.bicep").read_text(), re.MULTILINE))
GIVEN = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]

GUID = "11111111-1111-1111-1111-111111111111"
STORAGE = "Microsoft.Storage/storageAccounts"
VAULT = "Microsoft.KeyVault/vaults"
SITE = "Microsoft.Web/sites"


class TestSnapshots:
    def test_were_written_after_the_last_change_of_what_they_follow_from(self) -> None:
        assert RECORD["sources"] == templates.sources_digest(), "run: python -m dev.templates --write"

    def test_of_every_option_gives_every_parameter(self) -> None:
        text = (templates.SNAPSHOTS / "every.bicepparam").read_text()
        given = set(re.findall(r"^param (\w+) = ", text, re.MULTILINE))

        assert given == set(PARAMETERS)

    def test_do_not_stand_where_azd_would_take_them_for_its_own(self) -> None:
        assert list(INFRA.rglob("*.bicepparam")) == []

    def test_show_the_name_of_everything_before_it_is_made_but_of_role_assignments(self) -> None:
        """`azd provision --preview` shows a resource only if its name can be computed before the deployment."""
        resources = [found for name in SETS for found in deployed(name).resources]
        unknown = {found["type"] for found in resources if "reference(" in found["name"]}

        assert unknown == {"Microsoft.Authorization/roleAssignments"}


class TestWhatExists:
    """A deployment that is already there is changed in place: whatever has another name is made anew, beside it."""

    @pytest.mark.parametrize("parameters", ["default", "private", "tenants"])
    def test_keeps_its_type_scope_and_name(self, parameters: str) -> None:
        """The list says what the template of the first release made; its names stay for ever."""
        content = json.loads((templates.SNAPSHOTS / "resources.json").read_text())
        listed = {tuple(found) for found in [*content["default"], *content[parameters]]}

        assert listed - deployed(parameters).identities() == set()

    # What each module of the first release waited for, most of it because it used an output of the other.
    WAITS = {  # noqa: RUF012
        "vault": {"monitoring"},
        "endpoints": {"network", "storage", "vault"},
        "access": {"identity", "monitoring", "storage", "vault"},
        "app": {"access", "endpoints", "identity", "monitoring", "network", "storage", "vault"},
        "workbook": {"monitoring", "storage"},
        "alerts": {"monitoring"},
    }

    @pytest.mark.parametrize("module", WAITS)
    def test_is_made_in_the_order_of_before(self, module: str) -> None:
        assert self.WAITS[module] - waits(module) == set()


class TestParameters:
    def test_can_all_be_set_by_azd(self) -> None:
        assert set(GIVEN) == set(PARAMETERS)

    def test_have_their_defaults_in_one_place(self) -> None:
        """azd leaves out what is given by a variable that is not set, so the template's default holds."""
        values = {name: given["value"] for name, given in GIVEN.items()}

        assert {name: value for name, value in values.items() if not re.fullmatch(r"\$\{[A-Z_]+\}", value)} == {}

    def test_are_named_after_their_variables(self) -> None:
        azd = {"environmentName": "AZURE_ENV_NAME", "location": "AZURE_LOCATION"}
        azd |= {"principalId": "AZURE_PRINCIPAL_ID", "principalType": "AZURE_PRINCIPAL_TYPE"}
        wanted = {name: azd.get(name, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()) for name in PARAMETERS}

        assert {name: given["value"][2:-1] for name, given in GIVEN.items()} == wanted


class TestStorage:
    def test_queues_are_those_of_the_code(self) -> None:
        used = [*RAW_QUEUES, *EVENT_QUEUES]

        assert sorted(queues()) == sorted([*used, *(f"{queue}-poison" for queue in used)])

    def test_every_trigger_has_its_queue(self) -> None:
        triggers = {binding["queueName"] for binding in bindings() if binding["type"] == "queueTrigger"}

        assert triggers - set(queues()) == set()

    def test_containers_are_those_of_the_code(self) -> None:
        location = deployed().settings()["SUBSCRIPTIONS"]
        desired_state = location.removeprefix("blob:").partition("/")[0]

        assert sorted(containers()) == sorted({*containers_of_the_code(), desired_state, "app-package"})

    def test_the_package_lies_where_the_app_looks_for_it(self) -> None:
        location = function_app()["functionAppConfig"]["deployment"]["storage"]["value"]

        assert [name for name in containers() if name in location] == ["app-package"]

    def test_blobs_are_forgotten_only_where_the_code_can_do_without_them(self) -> None:
        assert {prefix for rule in rules() if "baseBlob" in actions(rule) for prefix in prefixes(rule)} == {
            "raw-claims/",
            "handled-claims/",
            "event-data/",
            "deliveries/",
        }

    def test_deliveries_are_kept_for_as_long_as_an_audit_looks_back(self) -> None:
        (rule,) = (rule for rule in rules() if "baseBlob" in actions(rule) and "deliveries/" in prefixes(rule))

        assert actions(rule)["baseBlob"]["delete"]["daysAfterModificationGreaterThan"] == NOTES_KEPT.days

    def test_what_is_appended_to_is_forgotten_like_the_rest(self) -> None:
        """A rule is for the types of blobs that it names."""
        types = [rule["definition"]["filters"]["blobTypes"] for rule in rules() if "deliveries/" in prefixes(rule)]

        assert [("appendBlob" in found) for found in types] == [True, True]

    def test_no_old_version_stays_for_ever(self) -> None:
        forgotten = {prefix for rule in rules() if "version" in actions(rule) for prefix in prefixes(rule)}
        hosts = {"azure-webjobs-hosts/", "azure-webjobs-secrets/"}  # made by the Functions host

        assert forgotten == {f"{name}/" for name in containers()} | hosts

    def test_old_versions_of_what_graph_sent_are_forgotten_within_days(self) -> None:
        days = {
            prefix: actions(rule)["version"]["delete"]["daysAfterCreationGreaterThan"]
            for rule in rules()
            if "version" in actions(rule)
            for prefix in prefixes(rule)
        }

        assert {
            days[f"{name}/"]
            for name in ("raw-claims", "handled-claims", "event-data", "deliveries", "quarantine", "state")
        } == {3}
        assert days["config/"] >= 30


# What a site on Flex Consumption is given here. Others are refused, by region ("The following list of … site
# configuration properties for Flex Consumption sites is invalid", code 51021), as ftpsState is.
SITE_CONFIG = {
    "minTlsVersion",
    "scmMinTlsVersion",
    "http20Enabled",
    "remoteDebuggingEnabled",
    "ipSecurityRestrictions",
    "ipSecurityRestrictionsDefaultAction",
    "scmIpSecurityRestrictions",
    "scmIpSecurityRestrictionsDefaultAction",
    "scmIpSecurityRestrictionsUseMain",
}


class TestFunctionApp:
    def test_runs_the_python_that_the_code_is_written_for(self) -> None:
        config = function_app()["functionAppConfig"]
        wanted = re.search(r'requires-python = ">=(.*?)"', (ROOT / "pyproject.toml").read_text())

        assert wanted is not None
        assert config["runtime"] == {"name": "python", "version": wanted[1]}

    def test_keeps_instances_for_functions_that_exist(self) -> None:
        ready = function_app("every")["functionAppConfig"]["scaleAndConcurrency"]["alwaysReady"]
        functions = set(re.findall(r'function_name\("(\w+)"\)', (ROOT / "function_app.py").read_text()))

        assert {found["name"] for found in ready} == {"http", "function:decrypt_emergency"}
        assert "decrypt_emergency" in functions

    @pytest.mark.parametrize("parameters", SETS)
    def test_has_only_properties_that_its_plan_takes(self, parameters: str) -> None:
        assert set(function_app(parameters)["siteConfig"]) - SITE_CONFIG == set()
        assert "siteUpdateStrategy" not in function_app(parameters)["functionAppConfig"]  # RollingUpdate: in preview

    def test_can_be_closed_to_all_but_named_senders_and_deployers(self) -> None:
        config = function_app("every")["siteConfig"]

        assert [rule["ipAddress"] for rule in config["ipSecurityRestrictions"]] == [
            "ApplicationInsightsAvailability",  # the availability test asks from there
            "198.51.100.0/24",
            "203.0.113.8/32",
        ]
        assert [rule["ipAddress"] for rule in config["scmIpSecurityRestrictions"]] == ["203.0.113.7/32"]

    def test_azd_finds_it(self) -> None:
        service = re.search(r"services:\n  (\w+):", (ROOT / "azure.yaml").read_text())

        assert service is not None
        assert deployed().only(SITE)["tags"]["azd-service-name"] == service[1]


BLOBS = f"{STORAGE}/blobServices"
KEPT = {"enabled": True, "days": 7}  # what was deleted or overwritten can be had back for a while
CAPPING = "Microsoft.OperationalInsights/workspaces"


@pytest.mark.parametrize(
    ("parameters", "kind", "path", "value"),
    [
        ("default", BLOBS, "isVersioningEnabled", True),
        ("default", BLOBS, "deleteRetentionPolicy", KEPT),
        ("default", BLOBS, "containerDeleteRetentionPolicy", KEPT),
        ("default", STORAGE, "allowSharedKeyAccess", False),
        ("default", STORAGE, "allowBlobPublicAccess", False),
        ("default", STORAGE, "supportsHttpsTrafficOnly", True),
        ("default", STORAGE, "minimumTlsVersion", "TLS1_2"),
        ("default", SITE, "functionAppConfig.scaleAndConcurrency.triggers.http.perInstanceConcurrency", 100),
        ("default", SITE, "httpsOnly", True),
        ("default", SITE, "siteConfig.minTlsVersion", "1.2"),
        # It is open to everybody unless senders are named.
        ("default", SITE, "siteConfig.ipSecurityRestrictions", []),
        ("default", SITE, "siteConfig.ipSecurityRestrictionsDefaultAction", "Allow"),
        ("default", SITE, "siteConfig.scmIpSecurityRestrictions", []),
        ("default", SITE, "siteConfig.scmIpSecurityRestrictionsDefaultAction", "Allow"),
        ("every", SITE, "siteConfig.ipSecurityRestrictionsDefaultAction", "Deny"),
        ("every", SITE, "siteConfig.scmIpSecurityRestrictionsDefaultAction", "Deny"),
        # A private network closes both; it is joined before.
        *(("private", kind, "publicNetworkAccess", "Disabled") for kind in (STORAGE, VAULT)),
        *(("private", kind, "networkAcls.defaultAction", "Deny") for kind in (STORAGE, VAULT)),
        *(("every", kind, "networkAcls.defaultAction", "Allow") for kind in (STORAGE, VAULT)),
        ("default", VAULT, "enableRbacAuthorization", True),
        ("default", VAULT, "enableSoftDelete", True),
        ("default", VAULT, "enablePurgeProtection", None),  # it cannot be taken back, and Key Vault refuses `false`
        ("every", VAULT, "enablePurgeProtection", True),
        ("default", "Microsoft.Insights/components", "DisableLocalAuth", True),  # telemetry of identities alone
        # A workspace takes everything unless a cap is asked for.
        ("default", CAPPING, "workspaceCapping.dailyQuotaGb", -1),
        ("every", CAPPING, "workspaceCapping.dailyQuotaGb", 2),
    ],
)
def test_what_is_set_for_safety_and_cost(parameters: str, kind: str, path: str, value: object) -> None:
    found: Any = deployed(parameters).properties(kind)
    for name in path.split("."):
        found = found[name]
    assert found == value


class TestPrivateNetwork:
    def test_can_be_joined_before_they_are_closed(self) -> None:
        """A live app whose storage answers 403 stops: it has to have joined, and to find the endpoints, before."""
        joined = deployed("every")

        assert len(joined.of_type("Microsoft.Network/privateEndpoints")) == 3
        assert joined.only(SITE)["properties"]["virtualNetworkSubnetId"]

    def test_is_made_with_its_own_names(self) -> None:
        private = deployed("private")
        (network,) = private.of_type("Microsoft.Network/virtualNetworks")

        assert len(private.of_type("Microsoft.Network/privateDnsZones")) == 3
        assert [subnet["properties"]["addressPrefix"] for subnet in network["properties"]["subnets"]] == [
            "10.0.0.0/24",
            "10.0.1.0/27",
        ]
        assert private.only(SITE)["properties"]["virtualNetworkSubnetId"] == f"{network['id']}/subnets/app"

    def test_can_be_one_that_exists(self) -> None:
        existing = deployed("every")
        groups = existing.of_type("Microsoft.Network/privateEndpoints/privateDnsZoneGroups")

        assert existing.of_type("Microsoft.Network/virtualNetworks") == []
        assert existing.of_type("Microsoft.Network/privateDnsZones") == []
        assert existing.only(SITE)["properties"]["virtualNetworkSubnetId"].endswith("/vnet-hub/subnets/switchboard")
        assert "rg-dns" in json.dumps(groups)
        assert "rg-production', 'Microsoft.Network/privateDnsZones" not in json.dumps(groups)


# What the platform or a library reads, and our code does not: the page that says so.
PLATFORM_SETTINGS = {
    "AzureWebJobsStorage__credential": "Connecting to host storage with an identity",
    "APPLICATIONINSIGHTS_CONNECTION_STRING": "App settings reference for Azure Functions",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING": "App settings reference for Azure Functions",
    "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY": "Use OpenTelemetry with Azure Functions",
    "PYTHON_APPLICATIONINSIGHTS_LOGGER_NAME": "Azure Monitor OpenTelemetry Distro for Python",
    "OTEL_METRIC_EXPORT_INTERVAL": "Environment Variable Specification of OpenTelemetry",
    "OTEL_TRACES_SAMPLER": "Sampling in Azure Monitor Application Insights with OpenTelemetry",
    "OTEL_TRACES_SAMPLER_ARG": "Sampling in Azure Monitor Application Insights with OpenTelemetry",
    "AZURE_TOKEN_CREDENTIALS": "DefaultAzureCredential",
    "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "HttpRequestBodySizeMiddleware of the Functions host",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "Azure Monitor OpenTelemetry Distro for Python",
    "LOG_WORKSPACE_ID": "Switchboard's own `manage.py doctor`, by way of the operator's copy of the settings",
}
# What the code reads, and a deployment has no use for.
LOCAL_SETTINGS = {
    "AzureWebJobsStorage": "a connection string, which would win over the identity",
    "AzureWebJobsStorage__accountName": "the service URIs say it",
    "GRAPH_ENDPOINT": "the public cloud's by default",
    "LOGIN_ENDPOINT": "the public cloud's by default",
    "IDENTITY_ENDPOINT": "the platform's own",
    "IDENTITY_HEADER": "the platform's own",
}


class TestSettings:
    def test_what_the_code_reads_is_set(self) -> None:
        assert settings_of_the_code() - set(deployed().settings()) == set(LOCAL_SETTINGS)

    def test_what_is_set_is_read(self) -> None:
        assert set(deployed().settings()) - settings_of_the_code() == set(PLATFORM_SETTINGS)

    @pytest.mark.parametrize("parameters", SETS)
    def test_are_accepted_by_the_code(self, parameters: str) -> None:
        found = deployed(parameters).settings()
        apps = [GUID, *filter(None, (found["SIGN_IN_APP_ID"], found["FEDERATED_APP_ID"]))]
        known = {"CLIENT_STATE": "secret", "CLIENT_STATE_PREVIOUS": "secret", "GRAPH_APP_IDS": ",".join(apps)}
        known |= {"AzureWebJobsStorage__clientId": GUID}
        consumers = found.pop("CONSUMERS")  # JSON, and no expression of Azure's
        addresses = {name: "https://example.net/" for name, value in found.items() if value.startswith("[")}

        settings = load({**found, **addresses, **known, "CONSUMERS": consumers})

        assert settings.storage.client_id == GUID
        assert settings.subscriptions == "blob:config/subscriptions.toml"

    def test_urls_lead_to_the_functions(self) -> None:
        routes = {f"/api/{binding['route']}" for binding in bindings() if binding["type"] == "httpTrigger"}
        urls = [deployed().settings()[name] for name in ("NOTIFICATION_URL", "LIFECYCLE_NOTIFICATION_URL")]

        paths = {re.findall(r"https://\{0\}(/[\w/]+)", url)[0] for url in urls}

        assert paths - routes == set()

    def test_hold_no_secret_but_a_reference_to_the_vault(self) -> None:
        for name, secret in {"CLIENT_STATE": "client-state", "CLIENT_STATE_PREVIOUS": "client-state-previous"}.items():
            assert f"'@Microsoft.KeyVault(SecretUri={{0}}secrets/{secret})'" in deployed().settings()[name]

    def test_stand_in_the_readme(self) -> None:
        table = (ROOT / "README.md").read_text().partition("## Settings")[2].partition("\n## ")[0]

        missing = [name for name in settings_of_the_code() if not name.startswith("AzureWebJobs") and name not in table]

        assert missing == []

    def test_defaults_are_those_of_the_code(self) -> None:
        from function_app import RENEWAL_SCHEDULE

        assert deployed().settings()["RENEWAL_SCHEDULE"] == RENEWAL_SCHEDULE
        assert int(deployed().settings()["MAX_BODY_BYTES"]) == 4 * 1024 * 1024

    @pytest.mark.parametrize("parameters", SETS)
    def test_what_is_a_little_too_large_reaches_our_own_answer(self, parameters: str) -> None:
        """The host's answer to a body over its limit is 500, ours is 413; the host's bounds what is held in memory."""
        settings = deployed(parameters).settings()

        assert int(settings["FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"]) == 2 * int(settings["MAX_BODY_BYTES"])

    def test_look_for_no_identity_but_the_managed_one(self) -> None:
        assert deployed().settings()["AZURE_TOKEN_CREDENTIALS"] == "ManagedIdentityCredential"


# "Azure built-in roles", and the data actions that each permits; Owner of blobs is what the Functions host asks for.
ROLES = {
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "b86a8fe4-44ce-4948-aee5-eccb2c155cd7": "Key Vault Secrets Officer",
    "a4417e6f-fecd-4de8-b567-7b0420556985": "Key Vault Certificates Officer",
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "Storage Blob Data Reader",
    "19e7f393-937e-4f77-808e-94535e297925": "Storage Queue Data Reader",
}
# What each call of an SDK needs: (scope, role). For storage, where we call none, the host needs more than we do.
CALLS: dict[type, dict[str, tuple[str, str]]] = {
    SecretClient: {
        "get_secret": ("vault", "Key Vault Secrets User"),
        "list_properties_of_secret_versions": ("vault", "Key Vault Secrets User"),  # its secrets/readMetadata/action
        "set_secret": ("a sign-in", "Key Vault Secrets Officer"),
    },
}
SYNC: dict[type, type] = {
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

        assert grants("PRINCIPAL", "tenants") == HOST_ROLES | needed

    def test_every_call_of_the_code_is_known(self) -> None:
        """A call that is new here needs a decision: which role permits it?"""
        assert [(client.__name__, call) for client, call in calls_of_the_code() if call not in CALLS[client]] == []

    def test_the_deployer_has_what_the_hook_uses(self) -> None:
        assert grants("22222222-2222-2222-2222-222222222222", "default") == {
            ("vault", "Key Vault Certificates Officer"),
            ("vault", "Key Vault Secrets Officer"),
            ("container config", "Storage Blob Data Contributor"),
        }

    @pytest.mark.parametrize("parameters", SETS)
    def test_say_what_each_principal_is(self, parameters: str) -> None:
        """Without it, Azure looks a new principal up in a directory that may not have it yet."""
        kinds = {
            found["properties"].get("principalType")
            for found in deployed(parameters).of_type("Microsoft.Authorization/roleAssignments")
            if "reference(" not in found["properties"]["principalId"]
        }

        assert kinds == ({"ServicePrincipal", "Group", "User"} if parameters == "every" else {"User"})

    @pytest.mark.parametrize("parameters", SETS)
    def test_nobody_else_has_any(self, parameters: str) -> None:
        assignments = deployed(parameters).of_type("Microsoft.Authorization/roleAssignments")

        principals = {without_references(found["properties"]["principalId"]) for found in assignments}

        readers = {BILLING, WALL_BOARD, *OPERATORS} if parameters == "every" else set()
        assert principals == {"[PRINCIPAL]", "22222222-2222-2222-2222-222222222222", *readers}

    def test_operators_may_look_and_change_nothing(self) -> None:
        """The roles that docs/operations.md names for looking."""
        for operator in OPERATORS:
            assert grants(operator, "every") == {
                ("storage", "Storage Queue Data Reader"),
                ("storage", "Storage Blob Data Reader"),
                ("vault", "Key Vault Secrets User"),
            }


OPERATORS = ("77777777-7777-7777-7777-777777777777", "88888888-8888-8888-8888-888888888888")
BILLING = "55555555-5555-5555-5555-555555555555"
"""Reads all of the consumer billing, and presence of the consumer default."""
WALL_BOARD = "66666666-6666-6666-6666-666666666666"
"""Reads two kinds of the consumer wall-board."""


class TestConsumers:
    def test_each_has_its_queues_and_their_poison_queues(self) -> None:
        setting = parse_consumers(deployed("every").settings()["CONSUMERS"])

        assert [consumer.name for consumer in setting.named] == ["billing", "wall-board"]
        assert set(setting.queues) - set(EVENT_QUEUES)
        wanted = {*RAW_QUEUES, *EVENT_QUEUES, *setting.queues}
        assert set(queues("every")) == {*wanted, *(f"{queue}-poison" for queue in wanted)}

    def test_there_are_none_unless_somebody_says_so(self) -> None:
        assert parse_consumers(deployed().settings()["CONSUMERS"]) == Consumers()

    def test_whoever_reads_may_write_to_its_own_queues_alone(self) -> None:
        """To renew a lease and to park a message are writes."""
        assert self.granted(BILLING, "queueServices/default/queues") == {
            (f"{queue}{poison}", "Storage Queue Data Contributor")
            for queue in ("call-record-events-billing", "unrecognized-events-billing", "presence-events")
            for poison in ("", "-poison")
        }
        assert self.granted(WALL_BOARD, "queueServices/default/queues") == {
            (f"{queue}{poison}", "Storage Queue Data Contributor")
            for queue in ("call-events-wall-board", "meeting-events-wall-board")
            for poison in ("", "-poison")
        }

    @pytest.mark.parametrize(
        ("principal", "kinds"),
        [
            (BILLING, {"call-record-events/", "unrecognized-events/", "presence-events/"}),
            (WALL_BOARD, {"call-events/", "meeting-events/"}),
        ],
    )
    def test_whoever_reads_sees_the_large_data_of_its_kinds_alone(self, principal: str, kinds: set[str]) -> None:
        assert self.granted(principal, "blobServices/default/containers") == {
            ("event-data", "Storage Blob Data Reader")
        }
        (assignment,) = self.assignments(principal, "blobServices/default/containers")
        read, listed = assignment["properties"]["condition"].split(" AND ((")
        attribute = (
            r"\[Microsoft\.Storage/storageAccounts/blobServices/containers/blobs:(\w+)\] StringStartsWith '([^']+)'"
        )
        assert "AND NOT SubOperationMatches{'Blob.List'}" in read
        assert set(re.findall(f"@Resource{attribute}", read)) == {("path", kind) for kind in kinds}
        assert "AND SubOperationMatches{'Blob.List'}" in listed
        assert set(re.findall(f"@Request{attribute}", listed)) == {("prefix", kind) for kind in kinds}
        assert assignment["properties"]["conditionVersion"] == "2.0"

    @staticmethod
    def assignments(principal: str, scope: str) -> list[dict[str, Any]]:
        return [
            found
            for found in deployed("every").of_type("Microsoft.Authorization/roleAssignments")
            if found["properties"]["principalId"] == principal and f"/{scope}/" in found["id"]
        ]

    def granted(self, principal: str, scope: str) -> set[tuple[str, str]]:
        return {
            (
                found["id"].partition(f"/{scope}/")[2].partition("/")[0],
                ROLES[last(found["properties"]["roleDefinitionId"])],
            )
            for found in self.assignments(principal, scope)
        }


class TestVaultAndMonitoring:
    def test_an_alert_comes_before_the_cap(self) -> None:
        alerts = {
            name: next(
                rule["properties"]
                for rule in deployed(name).of_type("Microsoft.Insights/scheduledQueryRules")
                if rule["name"] == "switchboard-daily-cap-near"
            )
            for name in ("default", "every")
        }

        assert alerts["default"]["enabled"] is False
        assert alerts["every"]["enabled"] is True
        assert alerts["every"]["criteria"]["allOf"][0]["threshold"] == 0.8 * 2 * 1000  # MB of the 2 GB a day

    def test_reads_of_queues_are_logged_where_asked_for(self) -> None:
        scopes = {
            name: [
                found["id"].partition("/providers/Microsoft.Insights")[0].rpartition("/providers/")[2]
                for found in deployed(name).of_type("Microsoft.Insights/diagnosticSettings")
            ]
            for name in ("default", "every")
        }

        assert not any("queueServices" in scope for scope in scopes["default"])
        assert any(scope.endswith("/queueServices/default") for scope in scopes["every"])


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


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for one in pkgutil.walk_packages(shared.__path__, "shared."):
        module = import_module(one.name)
        assert module.__file__ is not None
        found[one.name] = ast.parse(Path(module.__file__).read_text())
    return found


def containers_of_the_code() -> set[str]:
    return {
        value
        for name in modules()
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


@cache
def settings_of_the_code() -> set[str]:
    """What `settings.load` asks the environment for, and what is asked for elsewhere."""
    from shared.values.errors import SettingsError

    recorder, by_identity = Recorder(), Recorder()
    by_identity.update({"AzureWebJobsStorage__queueServiceUri": "x", "AzureWebJobsStorage__blobServiceUri": "x"})
    for environment in (recorder, by_identity):
        with pytest.raises(SettingsError):
            load(environment)
    trees = [*modules().values(), ast.parse((ROOT / "function_app.py").read_text())]
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


@cache
def calls_of_the_code() -> set[tuple[type, str]]:
    """The SDK's methods that adapters call, by the clients that they import."""
    found = set()
    for tree in modules().values():
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        called = {
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        for client in CALLS:
            if client.__name__ in imported:
                methods = {method for kind in (client, SYNC[client]) for method in vars(kind)} - {"close"}
                found |= {(client, method) for method in called & methods}
    return found


# --- what the templates deploy --------------------------------------------------------------------------------------


def waits(module: str) -> set[str]:
    """The modules that are made before a module, those included that others wait for."""
    found = set(RECORD["dependsOn"][module])
    return found.union(*(waits(other) for other in found))


def function_app(parameters: str = "default") -> dict[str, Any]:
    return deployed(parameters).properties(SITE)


def queues(parameters: str = "default") -> list[str]:
    return [last(found["name"]) for found in deployed(parameters).of_type(f"{STORAGE}/queueServices/queues")]


def containers() -> list[str]:
    return [last(found["name"]) for found in deployed().of_type(f"{STORAGE}/blobServices/containers")]


def rules() -> list[dict[str, Any]]:
    return list(deployed().properties(f"{STORAGE}/managementPolicies")["policy"]["rules"])


def actions(rule: dict[str, Any]) -> dict[str, Any]:
    return dict(rule["definition"]["actions"])


def prefixes(rule: dict[str, Any]) -> list[str]:
    return list(rule["definition"]["filters"]["prefixMatch"])


def grants(principal: str, parameters: str) -> set[tuple[str, str]]:
    """(scope, role) of each assignment to a principal."""
    scopes = {
        STORAGE: "storage",
        VAULT: "vault",
        f"{VAULT}/secrets": "a sign-in",
        f"{STORAGE}/blobServices/containers": "container config",
        "Microsoft.Insights/components": "insights",
    }
    found = set()
    for assignment in deployed(parameters).of_type("Microsoft.Authorization/roleAssignments"):
        if without_references(assignment["properties"]["principalId"]).strip("[]") != principal:
            continue
        scope = re.findall(r"/providers/(Microsoft\.[^/]+)/([^']+)", without_references(assignment["id"]))[0]
        parts = scope[1].partition("/providers/")[0].split("/")
        kind = "/".join([scope[0], *parts[::2]])
        found.add((scopes[kind], ROLES[last(assignment["properties"]["roleDefinitionId"])]))
    return found
