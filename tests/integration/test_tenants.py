"""Several tenants: whose token goes where."""

from pathlib import Path

import jwt
import pytest
from azure.core.exceptions import ClientAuthenticationError

from dev.simulator import Fault, Simulator
from shared import triggers
from shared.graph.identity import GraphCredentials
from shared.graph.sign_in import SignIns
from tests.integration.app import App
from tests.integration.conftest import OTHER_TENANT

TENANT = "f69f5191-20ae-4093-8dae-3ec09edeb253"
APPLICATION = "3e0c1d9a-8f60-4d0b-a1f1-0c5d2c6b7a01"
DESIRED = f"""\
[[callRecords]]
tenant = "{TENANT}"

[[callRecords]]
tenant = "{OTHER_TENANT}"
"""


def credentials(sim: Simulator, federated_app_id: str | None) -> GraphCredentials:
    sign_ins = SignIns(
        vault_url=sim.vault_url, login_endpoint=sim.login_url, graph_endpoint=sim.graph_url, app_id=sim.app_id
    )
    return GraphCredentials(sign_ins, federated_app_id=federated_app_id, login_endpoint=sim.login_url)


def callers(found: GraphCredentials, sim: Simulator) -> list[tuple[str, str]]:
    claims = [
        jwt.decode(
            found(tenant_id, delegated=False).get_token(f"{sim.graph_url}/.default").token,
            options={"verify_signature": False},
        )
        for tenant_id in (TENANT, OTHER_TENANT)
    ]
    return [(one["tid"], one["appid"]) for one in claims]


@pytest.fixture
def sim(app: App, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    monkeypatch.setattr(app.sim.entra, "federated", {APPLICATION: app.sim.app_id})
    return app.sim


def test_an_application_that_trusts_the_identity_speaks_in_every_tenant(sim: Simulator) -> None:
    found = credentials(sim, APPLICATION)
    assert callers(found, sim) == [(TENANT, APPLICATION), (OTHER_TENANT, APPLICATION)]
    assert found(TENANT, delegated=False) is found(TENANT, delegated=False)
    found.close()


def test_tokens_are_kept_for_the_next_call(sim: Simulator) -> None:
    found = credentials(sim, APPLICATION)
    callers(found, sim)
    sim.faults.forget_requests()
    callers(found, sim)
    assert [record.service for record in sim.faults.requests] == []
    found.close()


def test_the_identity_by_itself_stays_in_its_own_tenant(sim: Simulator) -> None:
    found = credentials(sim, None)
    assert callers(found, sim) == [(TENANT, sim.app_id)] * 2
    found.close()


@pytest.mark.parametrize(
    ("login_endpoint", "audience"),
    [
        ("https://login.microsoftonline.com", "api://AzureADTokenExchange/.default"),
        ("https://login.microsoftonline.us", "api://AzureADTokenExchangeUSGov/.default"),
        ("https://login.partner.microsoftonline.cn", "api://AzureADTokenExchangeChina/.default"),
    ],
)
def test_each_cloud_has_its_own_audience(sim: Simulator, login_endpoint: str, audience: str) -> None:
    sign_ins = SignIns(
        vault_url=sim.vault_url, login_endpoint=login_endpoint, graph_endpoint=sim.graph_url, app_id=sim.app_id
    )
    found = GraphCredentials(sign_ins, federated_app_id=APPLICATION, login_endpoint=login_endpoint)
    asked: list[str] = []

    class Identity:
        def get_token(self, scope: str) -> None:
            asked.append(scope)
            raise InterruptedError

        def close(self) -> None:
            pass

    found._identity = Identity()  # type: ignore[assignment]
    with pytest.raises(InterruptedError):
        found(TENANT, delegated=False).get_token("https://graph.microsoft.com/.default")
    assert asked == [audience]
    found.close()


@pytest.fixture
def unsubscribed(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """The app with something desired in both tenants, and nothing subscribed to yet."""
    path = tmp_path / "subscriptions.toml"
    path.write_text(DESIRED)
    monkeypatch.setenv("SUBSCRIPTIONS", str(path))
    monkeypatch.setattr(app.sim.graph.settings, "handshake", False)
    for subscription in app.sim.graph.subscriptions:
        app.sim.graph.remove(subscription.id)
    return app


async def test_subscriptions_are_made_in_each_tenant(unsubscribed: App) -> None:
    app = unsubscribed
    await triggers.renew(app.parts)
    made = [(found.tenant_id, found.app_id) for found in app.sim.graph.subscriptions]
    assert sorted(made) == sorted([(TENANT, app.sim.app_id), (OTHER_TENANT, app.sim.app_id)])


async def test_a_tenant_without_consent_does_not_hold_up_the_other(unsubscribed: App) -> None:
    app = unsubscribed
    app.sim.faults.add(Fault("login", path=f"{OTHER_TENANT}/oauth2", status=401), times=None)
    await triggers.renew(app.parts)
    assert [found.tenant_id for found in app.sim.graph.subscriptions] == [TENANT]
    state = (await app.parts.renewal_states.latest()).last
    assert state is not None
    assert "list: credential x 1" in state.failures


def test_an_application_that_does_not_trust_the_identity_gets_no_token(sim: Simulator) -> None:
    sim.entra.federated = {APPLICATION: "another-identity"}
    found = credentials(sim, APPLICATION)
    with pytest.raises(ClientAuthenticationError, match="AADSTS700213"):
        callers(found, sim)
    found.close()
