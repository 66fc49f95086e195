"""App settings: all problems at once, and none that is not there."""

import pytest

from shared.settings import IdentityEndpoint, load, storage_settings
from shared.values.errors import SettingsError

GOOD = {
    "AzureWebJobsStorage": "UseDevelopmentStorage=true",
    "CLIENT_STATE": "secret",
    "GRAPH_TENANT_IDS": "F69F5191-20AE-4093-8DAE-3EC09EDEB253, 909c6581-5130-43e9-88f3-fcb3582cde37",
    "GRAPH_APP_IDS": "7c5f5b4e-0a4f-4c3e-9a4d-0d8c5d6f7a01",
    "KEY_VAULT_URL": "https://vault.vault.azure.net/",
    "CERTIFICATE_NAME": "graph-notifications",
    "NOTIFICATION_URL": "https://app.azurewebsites.net/api/notifications",
}


def concerns(**changes: str) -> dict[str, str]:
    """Of settings in which nothing else is one."""
    return dict(load(GOOD | {"CLIENT_STATE": "x" * 32} | changes).concerns)


def problems(**changes: str | None) -> list[str]:
    env = {name: value for name, value in (GOOD | changes).items() if value is not None}
    with pytest.raises(SettingsError) as caught:
        load(env)
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return [problem.partition(":")[0] for problem in caught.value.problems]


def test_the_defaults() -> None:
    found = load(GOOD)
    assert found.client_states == ("secret",)
    assert found.tenant_ids == {"f69f5191-20ae-4093-8dae-3ec09edeb253", "909c6581-5130-43e9-88f3-fcb3582cde37"}
    assert (found.graph_endpoint, found.login_endpoint) == (
        "https://graph.microsoft.com",
        "https://login.microsoftonline.com",
    )
    assert found.lifecycle_notification_url == found.notification_url
    assert (found.subscriptions, found.event_encoding, found.event_format) == ("subscriptions.toml", "base64", "single")
    assert found.max_body_bytes == 4 * 1024 * 1024


def test_what_is_fine_is_no_concern() -> None:
    assert not concerns(NOTIFICATION_URL=f"{GOOD['NOTIFICATION_URL']}?code=a%2Bb==")


@pytest.mark.parametrize(
    "url",
    [
        "https://app.example/api/notifications#here",
        "https://user:password@app.example/api/notifications",
        "https://app.example/api/my notifications",
        "https://app.example/api/notifications?code=a b",
        "https://app.example/api/notifi\tcations",
        "https://app.example/b\u00fcro",
        "https://app.example/api/{notifications}",
    ],
)
def test_a_url_that_graph_would_give_back_otherwise_is_a_concern_and_no_error(url: str) -> None:
    assert list(concerns(LIFECYCLE_NOTIFICATION_URL=url)) == ["LIFECYCLE_NOTIFICATION_URL"]
    assert list(concerns(NOTIFICATION_URL=url)) == ["NOTIFICATION_URL", "LIFECYCLE_NOTIFICATION_URL"]


def test_a_short_client_state_is_a_concern_and_no_error() -> None:
    """A mark is a digest of it that anybody sees who can list subscriptions: short ones can be found offline."""
    found = concerns(CLIENT_STATE="Teams2026" * 3)
    assert list(found) == ["CLIENT_STATE"]
    assert "Teams" not in found["CLIENT_STATE"]


def test_consumers_are_read_and_a_mistake_in_them_is_named() -> None:
    assert load(GOOD).consumers.named == ()
    assert load(GOOD | {"CONSUMERS": "[]"}).consumers.default
    (billing,) = load(GOOD | {"CONSUMERS": '[{"name": "billing", "kinds": ["presence"]}]'}).consumers.named
    assert billing.queues == ("presence-events-billing",)
    assert problems(CONSUMERS='[{"name": "Billing", "kinds": ["presence"]}]', KEY_VAULT_URL=None) == [
        "KEY_VAULT_URL",
        "CONSUMERS",
    ]


def test_every_missing_setting_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load({})
    assert {problem.partition(":")[0] for problem in caught.value.problems} == set(GOOD)


def test_every_wrong_setting_is_named_at_once() -> None:
    wrong: dict[str, str | None] = {
        "CLIENT_STATE": "x" * 129,
        "CLIENT_STATE_PREVIOUS": "x" * 129,
        "NOTIFICATION_URL": "http://app.azurewebsites.net/",
        "GRAPH_TENANT_IDS": "contoso.com",
        "GRAPH_APP_IDS": " , ",
        "KEY_VAULT_URL": "vault",
        "CERTIFICATE_NAME": "a/b",
        "EVENT_ENCODING": "utf-8",
        "EVENT_FORMAT": "many",
        "CALL_RECORDS": "all",
        "EMERGENCY_EXPRESS": "perhaps",
        "MAX_BODY_BYTES": "0",
        "UNSUBSCRIBE": "always",
    }
    assert problems(**wrong) == list(wrong)


def test_a_key_vault_reference_that_was_not_resolved_is_no_secret() -> None:
    assert problems(CLIENT_STATE="@Microsoft.KeyVault(SecretUri=https://v.vault.azure.net/secrets/x)") == [
        "CLIENT_STATE"
    ]


ONE_TENANT = {"GRAPH_TENANT_IDS": "f69f5191-20ae-4093-8dae-3ec09edeb253"}
APP, OTHER_APP = GOOD["GRAPH_APP_IDS"], "11111111-2222-4333-8444-555555555555"


@pytest.mark.parametrize(
    ("changes", "app_id"),
    [
        ({}, APP),
        (ONE_TENANT, None),
        ({**ONE_TENANT, "FEDERATED_APP_ID": APP.upper()}, APP),
        ({"GRAPH_APP_IDS": f"{APP},{OTHER_APP}", "FEDERATED_APP_ID": OTHER_APP}, OTHER_APP),
    ],
)
def test_several_tenants_need_an_application(changes: dict[str, str], app_id: str | None) -> None:
    assert load(GOOD | changes).federated_app_id == app_id


@pytest.mark.parametrize(
    "changes", [{"GRAPH_APP_IDS": f"{APP},{OTHER_APP}"}, {"FEDERATED_APP_ID": OTHER_APP}, {"FEDERATED_APP_ID": "x"}]
)
def test_which_application_must_be_said_where_it_is_not_clear(changes: dict[str, str]) -> None:
    assert problems(**changes) == ["FEDERATED_APP_ID"]


@pytest.mark.parametrize("value", ["-1", "4 MiB", "1.5", "٤", ""])
def test_sizes(value: str) -> None:
    if value:
        assert problems(MAX_BODY_BYTES=value) == ["MAX_BODY_BYTES"]
    else:
        assert load({**GOOD, "MAX_BODY_BYTES": value}).max_body_bytes == 4 * 1024 * 1024


def test_both_client_states_while_they_are_rotated() -> None:
    assert load({**GOOD, "CLIENT_STATE_PREVIOUS": "old"}).client_states == ("secret", "old")


def test_plain_http_is_for_this_machine_alone() -> None:
    assert load({**GOOD, "NOTIFICATION_URL": "http://127.0.0.1:7071/api/notifications"})
    assert problems(GRAPH_ENDPOINT="http://graph.microsoft.com") == ["GRAPH_ENDPOINT"]


def test_storage_by_identity() -> None:
    by_account = storage_settings({"AzureWebJobsStorage__accountName": "acc"})
    assert by_account is not None
    assert by_account.queue_service_uri == "https://acc.queue.core.windows.net"
    assert by_account.blob_service_uri == "https://acc.blob.core.windows.net"
    by_uri = storage_settings(
        {
            "AzureWebJobsStorage__queueServiceUri": "https://q/",
            "AzureWebJobsStorage__blobServiceUri": "https://b",
            "AzureWebJobsStorage__clientId": "id",
        }
    )
    assert by_uri is not None
    assert (by_uri.queue_service_uri, by_uri.blob_service_uri, by_uri.client_id) == ("https://q", "https://b", "id")


def test_a_connection_string_wins_as_it_does_in_the_host() -> None:
    found = storage_settings({"AzureWebJobsStorage": "x=y", "AzureWebJobsStorage__accountName": "acc"})
    assert found is not None
    assert (found.connection_string, found.queue_service_uri) == ("x=y", None)


@pytest.mark.parametrize("name", ["queueServiceUri", "blobServiceUri"])
def test_half_a_storage_account_is_none(name: str) -> None:
    assert problems(**{"AzureWebJobsStorage": None, f"AzureWebJobsStorage__{name}": "https://x"}) == [
        "AzureWebJobsStorage"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "GRAPH_TENANT_IDS",
        "GRAPH_APP_IDS",
        "SIGN_IN_APP_ID",
        "FEDERATED_APP_ID",
        "KEY_VAULT_URL",
        "CERTIFICATE_NAME",
        "NOTIFICATION_URL",
        "LIFECYCLE_NOTIFICATION_URL",
        "GRAPH_ENDPOINT",
        "LOGIN_ENDPOINT",
        "EVENT_ENCODING",
        "EVENT_FORMAT",
        "CALL_RECORDS",
        "MAX_BODY_BYTES",
    ],
)
def test_no_problem_shows_what_was_set(name: str) -> None:
    """A secret may have been pasted into the wrong place, and the problems are logged."""
    secret = "Q~8Q~topsecret.value_Xyz"
    with pytest.raises(SettingsError) as caught:
        load(GOOD | {"CLIENT_STATE": "hush" * 40} | {name: secret})
    for hidden in (secret.lower(), "hush"):
        assert hidden not in str(caught.value).lower()
    assert name in str(caught.value)


PLATFORM = {"IDENTITY_ENDPOINT": "http://127.0.0.1:8081/msi/token", "IDENTITY_HEADER": "secret"}
BY_IDENTITY = PLATFORM | {"AzureWebJobsStorage__accountName": "st1"}


def test_the_platform_says_where_its_identity_is_asked_for_tokens() -> None:
    found = storage_settings(BY_IDENTITY | {"AZURE_CLIENT_ID": "a"})
    assert found is not None
    assert found.identity == IdentityEndpoint("http://127.0.0.1:8081/msi/token", "secret")
    assert found.client_id == "a"
    assert "secret" not in repr(found)
    named = storage_settings(BY_IDENTITY | {"AZURE_CLIENT_ID": "a", "AzureWebJobsStorage__clientId": "b"})
    assert named is not None
    assert named.client_id == "b"


@pytest.mark.parametrize(
    "other", [{"AZURE_CLIENT_SECRET": "s"}, {"AZURE_FEDERATED_TOKEN_FILE": "f"}, {"IDENTITY_ENDPOINT": ""}]
)
def test_who_is_to_be_somebody_else_is_not_the_platforms_identity(other: dict[str, str]) -> None:
    found = storage_settings(BY_IDENTITY | other)
    assert found is not None
    assert found.identity is None
