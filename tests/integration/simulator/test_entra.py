from datetime import timedelta

import jwt
import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import (
    ClientAssertionCredential,
    ClientSecretCredential,
    CredentialUnavailableError,
    DeviceCodeCredential,
    ManagedIdentityCredential,
)

from dev.simulator import Fault, Simulator
from dev.simulator.entra import User

SCOPE = "https://graph.microsoft.com/.default"


def claims_of(token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


class TestDiscovery:
    @pytest.mark.parametrize(
        ("path", "issuer"),
        [
            ("/common/.well-known/openid-configuration", "https://sts.windows.net/{tenantid}/"),
            ("/common/v2.0/.well-known/openid-configuration", "https://login.microsoftonline.com/{tenantid}/v2.0"),
        ],
    )
    def test_the_key_set_is_found_from_the_configuration(self, path: str, issuer: str, sim: Simulator) -> None:
        with requests.Session() as session:
            session.verify = str(sim.ca_bundle)
            session.trust_env = False
            configuration = session.get(sim.login_url + path, timeout=90).json()
            keys = session.get(configuration["jwks_uri"], timeout=90).json()["keys"]
        assert configuration["issuer"] == issuer
        assert len(keys) > 1
        assert {key["kid"] for key in keys} == {key.kid for key in (*sim.entra.signing_keys, sim.entra.personal_key)}
        issuers = [key["issuer"] for key in keys]
        assert set(issuers[:-1]) == {"https://login.microsoftonline.com/{tenantid}/v2.0"}
        assert issuers[-1] == "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"
        assert all(set(key) >= {"kty", "use", "kid", "n", "e"} for key in keys)

    def test_a_new_key_replaces_the_oldest(self, sim: Simulator) -> None:
        before = sim.entra.signing_keys
        added = sim.entra.rotate_keys()
        assert sim.entra.signing_keys == (before[-1], added)
        token = sim.entra.validation_token(sim.app_id, sim.tenants[0])
        assert jwt.get_unverified_header(token)["kid"] == added.kid

    def test_the_key_set_can_be_out_of_reach(self, sim: Simulator) -> None:
        sim.faults.add(Fault("login", path="discovery", status=503))
        url = f"{sim.login_url}/common/discovery/v2.0/keys"
        statuses = [requests.get(url, verify=str(sim.ca_bundle), timeout=90).status_code for _ in range(2)]
        assert statuses == [503, 200]


class TestManagedIdentity:
    def test_the_system_assigned_identity_gets_a_token(self, sim: Simulator, environment: dict[str, str]) -> None:
        token = ManagedIdentityCredential().get_token(environment["GRAPH_ENDPOINT"] + "/.default")
        claims = claims_of(token.token)
        assert (claims["tid"], claims["appid"]) == (sim.tenants[0], sim.app_id)
        assert "CallEvents.Read.All" in claims["roles"]  # type: ignore[operator]

    @pytest.mark.usefixtures("environment")
    def test_a_user_assigned_identity_has_its_own(self, sim: Simulator) -> None:
        client_id = "11c8ad2e-7c22-4b63-8ad2-4f4f0a2c4c55"
        with pytest.raises((ClientAuthenticationError, CredentialUnavailableError)):
            ManagedIdentityCredential(client_id=client_id).get_token(SCOPE)
        sim.identity.user_assigned = frozenset({client_id})
        assert claims_of(ManagedIdentityCredential(client_id=client_id).get_token(SCOPE).token)["appid"] == client_id

    @pytest.mark.parametrize(
        ("header", "query", "status"),
        [
            ("wrong", {"api-version": "2019-08-01", "resource": "r"}, 401),
            (None, {"api-version": "2017-09-01", "resource": "r"}, 400),
            (None, {"api-version": "2019-08-01"}, 400),
            (None, {"api-version": "2019-08-01", "resource": "r"}, 200),
        ],
    )
    def test_the_protocol_is_checked(
        self, header: str | None, query: dict[str, str], status: int, sim: Simulator, environment: dict[str, str]
    ) -> None:
        headers = {"X-IDENTITY-HEADER": header or sim.identity.header}
        answer = requests.get(environment["IDENTITY_ENDPOINT"], params=query, headers=headers, timeout=90)
        assert answer.status_code == status


@pytest.mark.usefixtures("environment")
class TestClientCredentials:
    def credential(self, sim: Simulator, secret: str) -> ClientSecretCredential:
        return ClientSecretCredential(
            sim.tenants[0], "client", secret, authority=sim.login_url, disable_instance_discovery=True
        )

    def test_the_right_secret_gets_a_token(self, sim: Simulator) -> None:
        token = self.credential(sim, sim.entra.client_secret).get_token(SCOPE)
        claims = claims_of(token.token)
        assert (claims["aud"], claims["appid"]) == ("https://graph.microsoft.com", "client")

    def test_the_wrong_one_does_not(self, sim: Simulator) -> None:
        with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
            self.credential(sim, "wrong").get_token(SCOPE)

    @pytest.mark.parametrize(
        ("audience", "trusted", "accepted"),
        [
            ("api://AzureADTokenExchange", True, True),
            ("api://other", True, False),
            ("api://AzureADTokenExchange", False, False),
        ],
    )
    def test_a_managed_identity_can_stand_in_for_a_secret(
        self, audience: str, trusted: bool, accepted: bool, sim: Simulator
    ) -> None:
        sim.entra.federated = {"client": sim.app_id} if trusted else {}
        identity = ManagedIdentityCredential()
        credential = ClientAssertionCredential(
            sim.tenants[0], "client", lambda: identity.get_token(f"{audience}/.default").token, authority=sim.login_url
        )
        if accepted:
            assert claims_of(credential.get_token(SCOPE).token)["appid"] == "client"
        else:
            with pytest.raises(ClientAuthenticationError, match="AADSTS7002"):
                credential.get_token(SCOPE)

    def test_an_unknown_tenant_does_not(self, sim: Simulator) -> None:
        answer = requests.post(
            f"{sim.login_url}/00000000-0000-0000-0000-000000000001/oauth2/v2.0/token",
            data={"grant_type": "client_credentials"},
            timeout=90,
        )
        assert answer.status_code == 400
        assert answer.json()["error_codes"] == [90002]


@pytest.mark.usefixtures("environment")
class TestDeviceCode:
    def credential(self, sim: Simulator, shown: list[str], *, approve: bool) -> DeviceCodeCredential:
        def prompt(_uri: str, user_code: str, _expires: object) -> None:
            shown.append(user_code)
            (sim.entra.approve if approve else sim.entra.deny)(user_code)

        return DeviceCodeCredential(
            "client",
            tenant_id=sim.tenants[0],
            authority=sim.login_url,
            disable_instance_discovery=True,
            prompt_callback=prompt,
        )

    def test_signing_in_gets_a_delegated_token_and_later_a_fresh_one(self, sim: Simulator) -> None:
        sim.entra.delegated_token_lifetime = timedelta(seconds=200)  # shorter than the margin at which it is renewed
        shown: list[str] = []
        credential = self.credential(sim, shown, approve=True)
        scope = "https://graph.microsoft.com/Presence.Read.All"
        first, second = (credential.get_token(scope).token for _ in range(2))
        claims = claims_of(first)
        assert "Presence.Read.All" in str(claims["scp"])
        assert claims["oid"] == User().object_id
        assert first != second
        assert len(shown) == 1

    def test_a_revoked_refresh_token_asks_again(self, sim: Simulator) -> None:
        sim.entra.delegated_token_lifetime = timedelta(seconds=200)
        shown: list[str] = []
        credential = self.credential(sim, shown, approve=True)
        credential.get_token(SCOPE)
        sim.entra.revoke_refresh_tokens()
        credential.get_token(SCOPE)
        assert len(shown) == 2

    def test_whoever_declines_gets_nothing(self, sim: Simulator) -> None:
        with pytest.raises(ClientAuthenticationError, match="AADSTS70018"):
            self.credential(sim, [], approve=False).get_token(SCOPE)

    @pytest.mark.parametrize(("expired", "error"), [(False, "authorization_pending"), (True, "expired_token")])
    def test_waiting_has_its_own_errors(self, expired: bool, error: str, sim: Simulator) -> None:
        base = f"{sim.login_url}/{sim.tenants[0]}/oauth2/v2.0"
        flow = requests.post(f"{base}/devicecode", data={"client_id": "c", "scope": SCOPE}, timeout=90).json()
        if expired:
            sim.entra.expire_device_codes()
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
            "client_id": "c",
            "device_code": flow["device_code"],
        }
        answer = requests.post(f"{base}/token", data=form, timeout=90)
        assert (answer.status_code, answer.json()["error"]) == (400, error)
