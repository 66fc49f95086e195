import base64
from collections.abc import Iterator
from dataclasses import replace

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError, ServiceResponseError
from azure.core.pipeline.policies import RetryPolicy
from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12

from dev.simulator import Fault, Simulator

NAME = "switchboard"


@pytest.fixture
def vault(environment: dict[str, str]) -> Iterator[SecretClient]:
    credential = ManagedIdentityCredential()
    # One retry at most, so that what is wrong is seen; the waits that the vault asks for are kept.
    policy = RetryPolicy(retry_total=1, retry_backoff_factor=0)
    with SecretClient(
        environment["KEY_VAULT_URL"], credential, verify_challenge_resource=False, retry_policy=policy
    ) as client:
        yield client


def test_the_certificate_is_the_secret_of_the_same_name(sim: Simulator, vault: SecretClient) -> None:
    secret = vault.get_secret(NAME)
    version = secret.properties.version
    assert version is not None
    assert len(version) == 32
    assert int(version, 16)
    assert secret.properties.content_type == "application/x-pkcs12"
    assert secret.properties.enabled
    assert secret.properties.expires_on is not None
    key, _, _ = pkcs12.load_key_and_certificates(base64.b64decode(secret.value or ""), None)
    assert key is not None
    pair = sim.vault.certificate(version).certificate
    assert pair is not None
    assert key.public_key() == pair.private_key.public_key()


def test_rotation_makes_a_version_and_keeps_the_old_one(sim: Simulator, vault: SecretClient) -> None:
    old = vault.get_secret(NAME)
    sim.vault.rotate_certificate(form="pem")
    new = vault.get_secret(NAME)
    assert new.properties.content_type == "application/x-pem-file"
    assert load_pem_private_key((new.value or "").encode(), None)
    assert vault.get_secret(NAME, old.properties.version).value == old.value != new.value


def test_versions_are_listed_page_by_page(sim: Simulator, vault: SecretClient) -> None:
    sim.vault.page_size = 2
    for number in range(5):
        sim.vault.set_secret("cache", f"value {number}")
    sim.faults.forget_requests()
    listed = [entry.version for entry in vault.list_properties_of_secret_versions("cache")]
    assert listed == [entry.version for entry in sim.vault.versions("cache")]
    assert sum("/versions" in entry.path and entry.status == 200 for entry in sim.faults.requests) == 3


def test_a_secret_can_be_set_and_read_back(vault: SecretClient) -> None:
    written = vault.set_secret("token-cache", "a value", content_type="text/plain", tags={"for": "login"})
    read = vault.get_secret("token-cache")
    assert read.value == "a value"
    assert read.properties.version == written.properties.version
    assert read.properties.tags == {"for": "login"}


def test_the_secret_of_a_certificate_cannot_be_set(vault: SecretClient) -> None:
    with pytest.raises(HttpResponseError) as caught:
        vault.set_secret(NAME, "a value")
    assert caught.value.status_code == 409


def test_what_is_not_there_is_not_found(vault: SecretClient) -> None:
    with pytest.raises(ResourceNotFoundError):
        vault.get_secret("nothing")
    with pytest.raises(ResourceNotFoundError):
        vault.get_secret(NAME, "0" * 32)


def test_a_disabled_version_is_forbidden(sim: Simulator, vault: SecretClient) -> None:
    entry = sim.vault.certificate()
    sim.vault.update(NAME, entry.version, replace(entry, enabled=False))
    with pytest.raises(HttpResponseError) as caught:
        vault.get_secret(NAME)
    assert caught.value.status_code == 403


def test_without_a_token_there_is_a_challenge(sim: Simulator) -> None:
    url = f"{sim.vault_url}/secrets/{NAME}?api-version=7.5"
    for headers in ({}, {"Authorization": "Bearer abc"}):
        answer = requests.get(url, headers=headers, verify=str(sim.ca_bundle), timeout=90)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == (
            f'Bearer authorization="{sim.login_url}/{sim.tenants[0]}", resource="https://vault.azure.net"'
        )


def test_a_token_for_graph_opens_no_vault(sim: Simulator) -> None:
    token, _ = sim.entra.app_token(audience=sim.graph_url, client_id=sim.app_id, tenant_id=sim.tenants[0])
    answer = requests.get(
        f"{sim.vault_url}/secrets/{NAME}?api-version=7.5",
        headers={"Authorization": f"Bearer {token}"},
        verify=str(sim.ca_bundle),
        timeout=90,
    )
    assert answer.status_code == 401


def test_the_api_version_is_demanded(sim: Simulator) -> None:
    token, _ = sim.entra.app_token(audience="https://vault.azure.net", client_id=sim.app_id, tenant_id=sim.tenants[0])
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{sim.vault_url}/certificates/{NAME}"
    refused = requests.get(url, headers=headers, verify=str(sim.ca_bundle), timeout=90)
    assert refused.status_code == 400
    bundle = requests.get(f"{url}/?api-version=7.5", headers=headers, verify=str(sim.ca_bundle), timeout=90).json()
    pair = sim.vault.certificate().certificate
    assert pair is not None
    assert bundle["cer"] == pair.der_base64
    assert bundle["sid"].endswith(sim.vault.certificate().version)


@pytest.mark.parametrize("status", [403, 500, 503])
def test_faults_are_seen_by_the_client(status: int, sim: Simulator, vault: SecretClient) -> None:
    vault.get_secret(NAME)
    sim.faults.add(Fault("vault", path=f"/secrets/{NAME}", status=status), times=None)
    with pytest.raises(HttpResponseError) as caught:
        vault.get_secret(NAME)
    assert caught.value.status_code == status
    sim.faults.clear()
    assert vault.get_secret(NAME).value


def test_a_throttled_client_comes_back_after_the_time_asked_for(sim: Simulator, vault: SecretClient) -> None:
    vault.get_secret(NAME)
    sim.faults.add(Fault("vault", status=429, retry_after=0))
    sim.faults.forget_requests()
    assert vault.get_secret(NAME).value
    assert [entry.status for entry in sim.faults.requests] == [429, 200]


def test_a_cut_connection_is_an_error_of_transport(sim: Simulator, vault: SecretClient) -> None:
    vault.get_secret(NAME)
    sim.faults.add(Fault("vault", hang_up="before"), times=None)
    with pytest.raises(ServiceResponseError):
        vault.get_secret(NAME)
